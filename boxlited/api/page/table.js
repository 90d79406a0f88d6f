// The table of boxes: rows, order, filter, and the one row that the keyboard is on.

const COLUMNS = [
  ["status", "Status", (box) => box.status],
  ["name", "Name", (box) => box.name],
  ["engine", "Engine", (box) => box.engine],
  ["pid", "Pid", (box) => box.pid ?? ""],
  ["uptime", "Uptime", uptime],
  ["restarts", "Restarts", (box) => box.restart_count || ""],
  ["exit", "Exit", exit],
  ["why", "Why it died", shortWhy],
];
const STATUSES = ["running", "failed", "stopped", "configured", "stopping", "paused", "unknown"];
const ATTENTION = ["failed", "unknown", "stopping", "paused", "running", "configured", "stopped"];
const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
const KEYS = {
  status: (box) => ATTENTION.indexOf(box.status), pid: (box) => box.pid ?? Infinity, restarts: (box) => -box.restart_count,
  uptime: (box) => -Date.parse(box.started_at ?? 0), exit: (box) => box.exit_code ?? -1,
};

const rows = new Map(); // box id -> row, with its cells by column
const wanted = new Set(); // statuses to show; empty: all
let order = ["name", 1];
let current = null; // box id
let arranging = false;

function buildTable() {
  for (const [key, title] of COLUMNS) {
    const head = make("th", `c-${key}`);
    head.setAttribute("role", "columnheader");
    head.scope = "col";
    const button = make("button", "", title);
    button.type = "button";
    button.addEventListener("click", () => sortBy(key));
    head.append(button);
    $("columns").append(head);
  }
  for (const status of STATUSES) {
    const chip = make("button", "", status);
    chip.type = "button";
    chip.dataset.status = status;
    chip.append(make("b"));
    chip.addEventListener("click", () => {
      if (!wanted.delete(status)) wanted.add(status);
      tableChanged();
    });
    $("chips").append(chip);
  }
  $("filter").addEventListener("input", tableChanged);
  $("rows").addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && !String(getSelection())) openBox(row.dataset.id, false);
  });
  $("rows").addEventListener("focusin", (event) => moveTo(event.target.closest("tr").dataset.id, false));
}

function sortBy(key) {
  order = [key, order[0] === key ? -order[1] : 1];
  tableChanged();
}

function tablePut(box) {
  const row = rows.get(box.box_id) ?? newRow(box.box_id);
  row.element.dataset.status = box.status;
  row.status.dataset.status = box.status;
  for (const [key, , show] of COLUMNS) write(row[key], show(box));
  row.why.parentNode.title = why(box);
  row.name.parentNode.title = `${box.name} (${box.box_id})`;
}

function newRow(id) {
  const row = { element: make("tr") };
  row.element.dataset.id = id;
  row.element.tabIndex = -1;
  row.element.setAttribute("role", "row");
  for (const [key] of COLUMNS) {
    const cell = make("td", `c-${key}`);
    cell.setAttribute("role", "gridcell");
    row[key] = make("span", key === "status" ? "status" : "");
    cell.append(row[key]);
    row.element.append(cell);
  }
  rows.set(id, row);
  return row;
}

function tableDrop(id) {
  const row = rows.get(id);
  rows.delete(id);
  if (current === id) {
    const next = row.element.nextElementSibling ?? row.element.previousElementSibling;
    if (next) moveTo(next.dataset.id, row.element === document.activeElement);
    else current = null;
  }
  row.element.remove();
}

function tableChanged() {
  if (arranging) return;
  arranging = true;
  setTimeout(arrange, 30); // not an animation frame: a tab in the background has none
}

function arrange() {
  arranging = false;
  const shownBoxes = chosenBoxes();
  const body = $("rows");
  const focused = body.contains(document.activeElement) ? document.activeElement : null;
  let place = body.firstElementChild;
  for (const box of shownBoxes) {
    const row = rows.get(box.box_id).element;
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
  }
  while (place) {
    const next = place.nextElementSibling;
    place.remove();
    place = next;
  }
  if (!current || !rows.get(current)?.element.isConnected) moveTo(shownBoxes[0]?.box_id ?? null, false);
  if (focused && document.activeElement !== focused) rows.get(current)?.element.focus({ preventScroll: true });
  showCounts(shownBoxes.length);
}

function chosenBoxes() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [...boxes.values()].filter((box) => {
    if (wanted.size && !wanted.has(box.status)) return false;
    const text = words.length && `${box.name} ${box.box_id} ${box.status} ${box.engine} ${box.pid} ${why(box)}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const [key, sign] = order;
  const value = KEYS[key] ?? COLUMNS.find((column) => column[0] === key)[2];
  const keyed = found.map((box) => [value(box), box]);
  keyed.sort(([a, boxA], [b, boxB]) => {
    const first = typeof a === "number" && typeof b === "number" ? (a === b ? 0 : a - b) : collator.compare(a, b);
    return sign * first || collator.compare(boxA.name, boxB.name);
  });
  return keyed.map(([, box]) => box);
}

function showCounts(visible) {
  const counts = {};
  for (const box of boxes.values()) counts[box.status] = (counts[box.status] ?? 0) + 1;
  for (const chip of $("chips").children) {
    const count = counts[chip.dataset.status] ?? 0;
    chip.hidden = !count && !wanted.has(chip.dataset.status);
    chip.setAttribute("aria-pressed", wanted.has(chip.dataset.status));
    chip.classList.toggle("alarm", chip.dataset.status === "failed" && count > 0);
    write(chip.lastChild, count.toLocaleString("en"));
  }
  for (const [index, head] of [...$("columns").children].entries()) {
    const sorted = COLUMNS[index][0] === order[0];
    if (sorted) head.setAttribute("aria-sort", order[1] > 0 ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
  const total = boxes.size;
  const noun = total === 1 ? "box" : "boxes";
  write($("count"), visible === total ? `${total.toLocaleString("en")} ${noun}` : `${visible.toLocaleString("en")} of ${total.toLocaleString("en")} ${noun}`);
  $("boxes").setAttribute("aria-rowcount", visible + 1);
  $("empty").hidden = visible > 0;
  write($("empty"), total ? "No box matches. Esc clears the filter." : "No boxes yet. `boxctl run -d --name web -- sleep 1000` makes one.");
  document.title = counts.failed ? `${counts.failed} failed · boxlited` : "boxlited";
}

// Makes one row the one that the keyboard is on.
function moveTo(id, focus) {
  const before = rows.get(current);
  if (before) before.element.tabIndex = -1;
  current = id;
  const row = rows.get(id);
  if (!row) return;
  row.element.tabIndex = 0;
  if (focus) {
    row.element.focus();
    row.element.scrollIntoView({ block: "nearest" });
  }
}

function moveBy(steps) {
  const list = [...$("rows").children];
  if (!list.length) return;
  const at = list.findIndex((row) => row.dataset.id === current);
  const isThere = list[at] === document.activeElement;
  const next = isThere || Math.abs(steps) > 1 ? Math.min(list.length - 1, Math.max(0, at + steps)) : Math.max(0, at);
  moveTo(list[next].dataset.id, true);
}

function clearFilter() {
  $("filter").value = "";
  wanted.clear();
  tableChanged();
}

// Once a second: only what reads differently is written, and nothing while it may be untrue.
function tick() {
  if ($("connection").dataset.state !== "live") return;
  for (const [id, row] of rows) if (row.element.isConnected) write(row.uptime, uptime(boxes.get(id)));
}
