// Words and numbers for people. Pure, but for the clock. Whatever a box wrote passes `harmless`.

const LINE_LIMIT = 4000;
const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_][^\x1b]*\x1b\\|[ -/]*[0-~])|\x9b[0-?]*[ -/]*[@-~]/g;
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f]/g;
const DIRECTION = /[\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]/g;
const CAUSES = {
  user: "stopped by the user", exited: "", oom: "out of memory", shim_killed: "its shim left no record",
  lost: "gone without a trace", host_rebooted: "the host rebooted", start_failed: "could not start",
  directory_missing: "its directory is missing", auto_stop: "stopped after its idle time", drained: "the daemon was drained",
};
const UNITS = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];

let clockSkew = 0; // milliseconds that the daemon's clock is ahead of ours

function now() { return Date.now() + clockSkew; }

function harmless(text) {
  return text.replace(ESCAPES, "").replace(CONTROLS, shown).replace(DIRECTION, "\ufffd");
}

function shown(control) {
  const code = control.charCodeAt(0);
  return code < 0x20 ? String.fromCharCode(0x2400 + code) : code === 0x7f ? "\u2421" : "\ufffd";
}

// One line of a log as a terminal would leave it: what came after the last carriage return.
function logLine(text) {
  const bare = text.replace(/\r+$/, "");
  const line = harmless(bare.slice(bare.lastIndexOf("\r") + 1));
  return line.length <= LINE_LIMIT ? line : `${line.slice(0, LINE_LIMIT)} … ${line.length - LINE_LIMIT} more characters`;
}

// Two units at most: 42s, 3m 12s, 2h 5m, 4d 3h.
function duration(seconds) {
  let rest = Math.max(0, Math.floor(seconds));
  const parts = [];
  for (const [unit, size] of UNITS) {
    if (rest >= size || (unit === "s" && !parts.length)) parts.push(`${Math.floor(rest / size)}${unit}`);
    else if (parts.length) break;
    rest %= size;
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

function sinceThen(iso) { return (now() - Date.parse(iso)) / 1000; }

function clock(iso) {
  const at = new Date(iso);
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const today = new Date(now()).toDateString() === at.toDateString();
  return today ? time : `${at.toLocaleDateString([], { day: "2-digit", month: "short" })} ${time}`;
}

function uptime(box) {
  if ((box.status === "running" || box.status === "stopping") && box.started_at) return duration(sinceThen(box.started_at));
  return box.ended_at ? `ended ${duration(sinceThen(box.ended_at)).split(" ")[0]} ago` : "";
}

// Why a box is not running, or what is odd about one that is.
function why(box) {
  const lives = ["running", "configured", "stopping"].includes(box.status);
  const said = lives ? box.warning : box.failure_reason || box.warning || box.stop_cause;
  return harmless(CAUSES[said] ?? said ?? "");
}

// The same in one sentence, without the name that stands beside it.
function shortWhy(box) {
  if (box.status === "stopped" && box.stop_cause === "exited" && !box.failure_reason) return box.exit_code ? `ended with exit code ${box.exit_code}` : "";
  return withoutName(why(box)).split(/\. (?=[A-Z])/)[0].replace(/\.$/, "");
}

function withoutName(reason) { return reason.replace(/^box \S+ /, ""); }

function exit(box) {
  return box.exit_signal ? harmless(box.exit_signal) : box.exit_code ?? "";
}
