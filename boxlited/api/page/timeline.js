// The timeline of the open box: the event log up to now, filtered, then what the feed brings.

const EVENTS_KEPT = 500;
const TITLES = {
  created: "Created", starting: "Starting", started: "Started", stopping: "Stopping", stopped: "Stopped", failed: "Failed",
  unknown: "Unknown", adopted: "Found again by the daemon", restarting: "Restarting", gave_up: "Gave up restarting", removed: "Removed",
  quarantined: "Quarantined", reset: "Failure forgotten", signalled: "Signalled", warning: "Warning",
};

let timeline = null; // { id, abort, seq, queue }: queue holds live events until the past is read

function startTimeline(id) {
  if (timeline?.id === id) return;
  stopTimeline();
  timeline = { id, abort: new AbortController(), seq: 0, queue: [] };
  $("timeline").replaceChildren();
  readPast(timeline);
}

function stopTimeline() {
  timeline?.abort.abort();
  timeline = null;
}

async function readPast(mine) {
  for (let wait = 250; timeline === mine; wait = Math.min(wait * 2, 3000)) {
    try {
      write($("timeline-note"), "Reading the event log.");
      const past = await pastEvents(mine);
      if (timeline !== mine) return;
      const older = past.length - EVENTS_KEPT;
      write($("timeline-note"), older > 0 ? `${older.toLocaleString("en")} older events are not shown.` : "");
      $("timeline").replaceChildren();
      const queue = mine.queue;
      mine.queue = null;
      for (const event of [...past.slice(-EVENTS_KEPT), ...queue]) timelineShow(event);
      return;
    } catch (error) {
      if (timeline !== mine) return;
      write($("timeline-note"), `The event log cannot be read now: ${error.message}. Trying again.`);
      await pause(wait);
    }
  }
}

// Everything about the box up to the event that is the newest now.
async function pastEvents(mine) {
  const { signal } = mine.abort;
  const last = (await json("/v1/metrics", { signal })).events_last_seq;
  if (!last) return [];
  const reply = await call("GET", "/v1/events?since=0", { signal });
  const found = [];
  for await (const text of messagesOf(reply, SILENCE_MS)) {
    const seq = Number(/^{"seq":(\d+)/.exec(text)?.[1] ?? JSON.parse(text).seq);
    if (seq <= last && text.includes(mine.id)) {
      const event = JSON.parse(text);
      if (event.box_id === mine.id) found.push(event);
    }
    if (seq >= last) return found;
  }
  throw new Error("the stream was cut");
}

function timelineTake(event) {
  if (timeline?.id !== event.box_id) return;
  if (timeline.queue) timeline.queue.push(event);
  else timelineShow(event);
}

function timelineShow(event) {
  if (event.seq <= timeline.seq) return;
  timeline.seq = event.seq;
  const item = make("li");
  item.dataset.kind = event.kind;
  const at = make("time", "", clock(event.at));
  at.dateTime = event.at;
  at.title = `${event.at} · event ${event.seq}`;
  const what = make("div");
  what.append(make("b", "", TITLES[event.kind] ?? harmless(event.kind)));
  const detail = describe(event.data);
  if (detail) what.append(make("p", "", detail));
  item.append(at, what);
  const page = $("page-timeline");
  const atEnd = page.scrollHeight - page.scrollTop - page.clientHeight < 48;
  $("timeline").append(item);
  if ($("timeline").childElementCount > EVENTS_KEPT) $("timeline").firstElementChild.remove();
  if (atEnd) page.scrollTop = page.scrollHeight;
}

function describe(data) {
  const { failure_reason: reason, in_seconds: delay, run_id: _, ...rest } = data;
  const parts = [];
  if (reason) parts.push(withoutName(String(reason)).replace(/ Look at .*$/, ""));
  if (delay !== undefined) parts.push(`in ${Number(delay).toFixed(1)} s`);
  for (const [key, value] of Object.entries(rest)) {
    if (value === null || value === "" || (reason && (key === "stop_cause" || key === "exit_code"))) continue;
    const text = typeof value === "object" ? JSON.stringify(value) : String(value);
    if (key === "stop_cause") parts.push(CAUSES[text] || text);
    else parts.push(`${key.replaceAll("_", " ")} ${text}`);
  }
  return harmless(parts.join(", ")).slice(0, 1000);
}
