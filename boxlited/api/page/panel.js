// The detail of one box: what is open, its tabs, crash reports and facts. Logs and timeline are beside it.

const TABS = [["logs", "Logs"], ["timeline", "Timeline"], ["crash", "Crash report"], ["facts", "Facts"]];
const FACTS = [
  ["Name", (box) => box.name], ["Box id", (box) => box.box_id], ["Status", (box) => box.status], ["Wanted", (box) => box.desired],
  ["Engine", (box) => box.engine], ["Image", (box) => box.image], ["Pid of the shim", (box) => box.pid],
  ["Identity", (box) => box.identity], ["Run id", (box) => box.run_id], ["Created", (box) => moment(box.created_at)],
  ["Started", (box) => moment(box.started_at)], ["Ended", (box) => moment(box.ended_at)], ["Restarts", (box) => box.restart_count],
  ["Exit code", (box) => box.exit_code], ["Signal", (box) => box.exit_signal], ["Stop cause", (box) => box.stop_cause],
  ["Error kind", (box) => box.error_kind], ["Reason", (box) => box.failure_reason], ["Warning", (box) => box.warning],
  ["CPUs", (box) => box.cpus], ["Memory", (box) => `${box.memory_mib.toLocaleString("en")} MiB`],
  ["Not applied", (box) => box.not_applied.join(", ")],
  ["Labels", (box) => Object.entries(box.labels).map(([key, value]) => `${key}=${value}`).join("\n")],
];

let opened = null; // { id, tab, seen }: seen is what the crash reports were fetched for

function moment(iso) {
  return iso && new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });
}

function buildPanel() {
  for (const [key, title] of TABS) {
    const tab = make("button", "", title);
    tab.type = "button";
    tab.id = `tab-${key}`;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", `page-${key}`);
    tab.addEventListener("click", () => { showTab(key); remember(false); });
    $("tabs").append(tab);
  }
  $("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const next = TABS[(TABS.findIndex(([key]) => key === opened.tab) + step + TABS.length) % TABS.length][0];
    $(`tab-${next}`).click();
    $(`tab-${next}`).focus();
  });
  $("panel-close").addEventListener("click", () => closeBox(true));
}

// `focus` moves to the detail; the keyboard asked for it then.
function openBox(id, focus, tab) {
  if (!boxes.has(id)) return;
  const isNew = opened === null;
  if (opened?.id !== id) {
    leaveBox();
    opened = { id, tab: null, seen: null };
    moveTo(id, false);
  }
  $("panel").hidden = false;
  document.querySelector(".split").classList.add("open");
  showTab(tab ?? opened.tab ?? (boxes.get(id).status === "failed" ? "crash" : "logs"));
  panelPut(boxes.get(id));
  markOpened();
  remember(isNew);
  if (focus || getComputedStyle($("list")).display === "none") $("panel-name").focus();
}

function leaveBox() {
  stopLogs();
  stopTimeline();
  opened = null;
  write($("panel-error"), "");
  $("page-crash").replaceChildren();
}

function closeBox(focus) {
  if (!opened) return;
  const { id } = opened;
  leaveBox();
  $("panel").hidden = true;
  document.querySelector(".split").classList.remove("open");
  markOpened();
  remember(true);
  if (focus) moveTo(rows.get(id)?.element.isConnected ? id : current, true);
}

function markOpened() {
  for (const [id, row] of rows) {
    if (id === opened?.id) row.element.setAttribute("aria-selected", "true");
    else row.element.removeAttribute("aria-selected");
  }
}

function remember(isStep) {
  const path = opened ? `#/box/${opened.id}/${opened.tab}` : "#/";
  if (location.hash === path || (!location.hash && path === "#/")) return;
  history[isStep ? "pushState" : "replaceState"](null, "", path);
}

// Opens what the address says: at the start, and on Back and Forward.
function followAddress() {
  const found = /^#\/box\/([a-z2-7]{16})\/(\w+)$/.exec(location.hash);
  const tab = found && TABS.some(([key]) => key === found[2]) ? found[2] : undefined;
  if (found && boxes.has(found[1])) openBox(found[1], false, tab);
  else closeBox(true);
}

function showTab(key) {
  opened.tab = key;
  for (const [one] of TABS) {
    const chosen = one === key;
    $(`tab-${one}`).setAttribute("aria-selected", chosen);
    $(`tab-${one}`).tabIndex = chosen ? 0 : -1;
    $(`page-${one}`).hidden = !chosen;
  }
  if (key === "logs") startLogs(boxes.get(opened.id));
  else stopLogs();
  if (key === "timeline") startTimeline(opened.id);
  else stopTimeline();
  if (key === "crash") fetchCrash(boxes.get(opened.id));
}

function panelPut(box) {
  if (opened?.id !== box.box_id) return;
  rows.get(box.box_id)?.element.setAttribute("aria-selected", "true");
  write($("panel-name"), box.name);
  write($("panel-status"), box.status);
  $("panel-status").dataset.status = box.status;
  const reason = shortWhy(box);
  write($("panel-why"), reason && reason[0].toUpperCase() + reason.slice(1));
  $("panel-why").dataset.status = box.status;
  $("panel-why").hidden = !reason;
  showActions(box);
  showFacts(box);
  if (opened.tab === "crash") fetchCrash(box);
  if (opened.tab === "logs") startLogs(box);
}

function panelDrop(id) {
  if (opened?.id === id) closeBox($("panel").contains(document.activeElement));
}

function showFacts(box) {
  const parts = [];
  for (const [title, read] of FACTS) {
    const value = read(box);
    if (value === null || value === undefined || value === "") continue;
    parts.push(make("dt", "", title), make("dd", "", String(value).split("\n").map(harmless).join("\n")));
  }
  $("facts").replaceChildren(...parts);
}

async function fetchCrash(box) {
  const mine = opened;
  const key = `${box.status} ${box.ended_at} ${box.run_id}`;
  if (mine.seen === key) return;
  mine.seen = key;
  try {
    const [last, before] = await Promise.all([crashOf(box, "crash"), crashOf(box, "crash/previous")]);
    if (opened !== mine || mine.seen !== key) return;
    const parts = [report("The last run", last), report("The life before", before)].filter(Boolean);
    const none = box.status === "running" ? "No crash is recorded: the box is running." : "No crash is recorded for this box.";
    $("page-crash").replaceChildren(...(parts.length ? parts : [make("p", "note", none)]));
  } catch (error) {
    mine.seen = null;
    if (opened === mine) $("page-crash").replaceChildren(make("p", "note", `The report cannot be fetched now: ${error.message}`));
  }
}

async function crashOf(box, path) {
  try {
    return await json(`/v1/boxes/${box.box_id}/${path}`);
  } catch (error) {
    if (error.status === 404 || error.status === 409) return null;
    throw error;
  }
}

function report(title, crash) {
  if (!crash) return null;
  const part = make("section", "report");
  part.append(make("h3", "", crash.error_kind ? `${title} (${harmless(crash.error_kind)})` : title));
  part.append(make("p", "", harmless(crash.user_message)));
  part.append(make("pre", "", crash.debug_info.split("\n").map(harmless).join("\n")));
  return part;
}
