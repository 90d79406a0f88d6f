// The console log of the open box: followed, bounded in memory and in the page, and only text.

const LINES_KEPT = 2000;
const PART_LIMIT = 16384; // of a line without an end

let log = null; // { run, abort, rest, lines, skipped, planned, part, following }

// Goes on when it is followed already. A box that was started again is followed anew.
function startLogs(box) {
  if (document.hidden || isLeaving) return;
  const run = box.started_at;
  if (log && (!log.ended || log.run === run)) return;
  stopLogs();
  log = { run, abort: new AbortController(), rest: "", lines: [], skipped: 0, planned: false, ended: false, following: true };
  followLogs(log, box.box_id);
}

function stopLogs() {
  log?.abort.abort();
  log = null;
}

async function followLogs(mine, id) {
  let wait = 250;
  while (log === mine && !mine.ended) {
    try {
      const reply = await call("GET", `/v1/boxes/${id}/logs?tail=500&follow=true`, { signal: mine.abort.signal });
      if (log !== mine) return;
      beginLog(mine);
      for await (const text of textOf(reply)) logText(mine, text);
      mine.ended = true;
      if (log === mine) endLog(mine, id);
    } catch (error) {
      if (log !== mine) return;
      if (error instanceof Refused && error.status < 500) {
        mine.ended = true;
        write($("log-state"), error.message);
      } else {
        write($("log-state"), "Cut off. Trying again.");
        await pause((wait = Math.min(wait * 2, 3000)));
      }
    }
  }
}

function beginLog(mine) {
  Object.assign(mine, { rest: "", lines: [], skipped: 0, part: make("div"), following: true });
  $("log").replaceChildren(mine.part);
  $("log-newest").hidden = true;
  write($("log-state"), "Following");
}

function endLog(mine, id) {
  flushLog(mine);
  const isEmpty = !$("log").textContent;
  const lives = boxes.get(id)?.status === "running";
  write($("log-state"), isEmpty ? "The box has written nothing." : lives ? "The log ended." : "The box does not run: the log ends here.");
}

function logText(mine, text) {
  const parts = (mine.rest + text).split("\n");
  mine.rest = parts.pop();
  if (mine.rest.length > PART_LIMIT) {
    parts.push(mine.rest);
    mine.rest = "";
  }
  mine.lines.push(...parts);
  if (mine.lines.length > LINES_KEPT) mine.skipped += mine.lines.splice(0, mine.lines.length - LINES_KEPT).length;
  if (mine.planned) return;
  mine.planned = true;
  setTimeout(() => flushLog(mine), 50);
}

function flushLog(mine) {
  mine.planned = false;
  if (log !== mine) return;
  const fragment = document.createDocumentFragment();
  if (mine.skipped) fragment.append(make("div", "gap", `… ${mine.skipped.toLocaleString("en")} lines came too fast to be shown`));
  for (const line of mine.lines) fragment.append(make("div", "", logLine(line)));
  mine.lines = [];
  mine.skipped = 0;
  const view = $("log");
  view.insertBefore(fragment, mine.part);
  write(mine.part, logLine(mine.rest));
  while (view.childElementCount > LINES_KEPT) view.firstElementChild.remove();
  if (mine.following) view.scrollTop = view.scrollHeight;
}

function buildLogs() {
  const view = $("log");
  view.addEventListener("scroll", () => {
    if (!log) return;
    log.following = view.scrollHeight - view.scrollTop - view.clientHeight < 24;
    $("log-newest").hidden = log.following;
  });
  $("log-newest").addEventListener("click", () => {
    view.scrollTop = view.scrollHeight;
    view.focus();
  });
}
