// Keeps `boxes` true: one stream of events for the page, the list after every (re)connect, single
// boxes as events name them. Every cut is followed by another try, from the last event seen.

// A browser has six connections for one daemon, whatever the number of tabs: who is not seen asks now and
// then, and holds none.

const HIDDEN_MS = 15000;
const SILENCE_MS = 40000; // the daemon sends a heartbeat every 15 s
const PAGE_SIZE = 500;
const MANY = 20; // so many changed boxes are fetched as a list
const CALM_MS = 400; // between two lists in a storm

const boxes = new Map();
let lastSeq = null;
let askedSeq = null; // how far the event log was when a hidden tab asked last
let stream = null; // AbortController of the events that are being read
let wakeUp = null;
let isLeaving = false;
let scopes = [];
let listWanted = false;
let settling = false;
const touched = new Set();

async function feed() {
  let wait = 200;
  while (!isLeaving) {
    try {
      const last = await connect();
      if (document.hidden) {
        await ask(last);
        wait = 200;
        continue;
      }
      stream = new AbortController();
      const reply = await call("GET", "/v1/events", { headers: { "Last-Event-ID": String(lastSeq) }, signal: stream.signal });
      listWanted = true;
      settle();
      wait = 200;
      for await (const text of messagesOf(reply, SILENCE_MS)) take(JSON.parse(text));
    } catch (error) {
      if (error.name === "AbortError") continue;
    }
    showConnection("reconnecting");
    await pause(wait * (0.75 + Math.random() / 2));
    wait = Math.min(wait * 2, 3000);
  }
}

// Who we are, and where the event log stands: a smaller number than ours is that of another database.
async function connect() {
  scopes = (await json("/v1/me")).scopes;
  const last = (await json("/v1/metrics")).events_last_seq;
  if (lastSeq === null || last < lastSeq) lastSeq = last;
  return last;
}

async function ask(last) {
  if (last !== askedSeq) {
    askedSeq = last;
    listWanted = true;
    settle();
  }
  await new Promise((resolve) => {
    wakeUp = resolve;
    setTimeout(resolve, HIDDEN_MS);
  });
}

// A page that the browser keeps for "Back" would keep its connections, too.
function watchVisibility() {
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      stream?.abort();
      stopLogs();
    } else {
      wakeUp?.();
      if (opened?.tab === "logs") startLogs(boxes.get(opened.id));
    }
  });
  addEventListener("pagehide", () => {
    isLeaving = true;
    stream?.abort();
    stopLogs();
    stopTimeline();
  });
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
}

function take(event) {
  lastSeq = event.seq;
  if (event.box_id) touched.add(event.box_id);
  if (event.kind === "database_rebuilt") listWanted = true;
  timelineTake(event);
  settle();
}

// One at a time, so that an older answer never replaces a newer one.
async function settle() {
  if (settling) return;
  settling = true;
  try {
    while (listWanted || touched.size) {
      if (listWanted || touched.size > MANY) await fetchAll();
      else await fetchTouched();
    }
  } catch (error) {
    listWanted = true; // tried again when the stream is back, or in a while where it is not cut
    setTimeout(settle, 2000);
  } finally {
    settling = false;
  }
}

async function fetchAll() {
  listWanted = false;
  touched.clear();
  const found = new Map();
  let page = "";
  do {
    const reply = await json(`/v1/boxes?pageSize=${PAGE_SIZE}${page}`);
    for (const box of reply.boxes) found.set(box.box_id, box);
    page = reply.next_page_token ? `&pageToken=${encodeURIComponent(reply.next_page_token)}` : null;
  } while (page);
  for (const id of [...boxes.keys()]) if (!found.has(id)) drop(id);
  for (const box of found.values()) put(box);
  showConnection("live");
  tableChanged();
  await pause(CALM_MS);
}

async function fetchTouched() {
  const ids = [...touched];
  touched.clear();
  await Promise.all(ids.map(fetchOne));
  tableChanged();
}

async function fetchOne(id) {
  try {
    put(await json(`/v1/boxes/${id}`));
  } catch (error) {
    if (error.status !== 404) throw error;
    drop(id);
  }
}

function put(box) {
  const before = boxes.get(box.box_id);
  boxes.set(box.box_id, box);
  if (before && before.status !== box.status) announce(`${box.name} is ${box.status}`);
  tablePut(box);
  panelPut(box);
}

function drop(id) {
  const box = boxes.get(id);
  if (!box) return;
  boxes.delete(id);
  announce(`${box.name} was removed`);
  tableDrop(id);
  panelDrop(id);
}

// For screen readers: what changed, not more than one message in 1.5 seconds.
const news = [];
function announce(text) {
  if (news.push(text) > 1) return;
  setTimeout(() => {
    $("live").textContent = news.length > 3 ? `${news.length} changes of boxes` : news.join("; ");
    news.length = 0;
  }, 1500);
}
