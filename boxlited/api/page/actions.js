// What can be done to a box. Whatever ends its workload is confirmed first; nothing here guesses the outcome:
// the feed shows it.

const ENDED = ["configured", "stopped", "failed"];
const ACTIONS = [
  { key: "start", title: "Start", can: (box) => ENDED.includes(box.status), path: "/start" },
  { key: "stop", title: "Stop", can: (box) => !ENDED.includes(box.status), path: "/stop",
    text: "Its workload is asked to end, and is killed if it has not after 30 seconds." },
  { key: "restart", title: "Restart", can: (box) => box.status === "running", path: "/restart",
    text: "Its workload is asked to end, is killed if it has not after 30 seconds, and is started again." },
  { key: "kill", title: "Kill", can: (box) => box.status === "running" || box.status === "stopping", path: "/kill",
    body: { signal: "SIGKILL" }, text: "Its workload gets SIGKILL: it ends at once and can clean up nothing." },
  { key: "remove", title: "Remove", can: () => true, method: "DELETE", path: "",
    text: "The box, its files and its logs are deleted. This cannot be taken back." },
];

const underWay = new Map(); // box id -> action, until the daemon has answered

function buildActions() {
  for (const action of ACTIONS) {
    const button = make("button", action.key === "remove" ? "last" : "", action.title);
    button.type = "button";
    button.id = `do-${action.key}`;
    button.addEventListener("click", () => act(action, boxes.get(opened?.id)));
    $("actions").append(button);
  }
  $("confirm-no").addEventListener("click", () => $("confirm").close(""));
  $("confirm-yes").addEventListener("click", () => $("confirm").close("yes"));
}

function showActions(box) {
  $("actions").hidden = !scopes.includes("box:write");
  const busy = underWay.get(box.box_id);
  for (const action of ACTIONS) {
    const button = $(`do-${action.key}`);
    const isBusy = busy === action;
    if (busy || !action.can(box)) {
      if (button === document.activeElement) $("panel-name").focus(); // a disabled button would lose the keyboard
      button.disabled = true;
    } else button.disabled = false;
    button.setAttribute("aria-busy", isBusy);
    write(button, isBusy ? `${action.title} …` : action.title);
  }
}

async function act(action, box) {
  if (!box || (action.text && !(await confirmed(action, box)))) return;
  const lives = !ENDED.includes(box.status);
  const query = action.key === "remove" && lives ? "?force=true" : "";
  underWay.set(box.box_id, action);
  refreshPanel();
  write($("panel-error"), "");
  try {
    await call(action.method ?? "POST", `/v1/boxes/${box.box_id}${action.path}${query}`, { body: action.body });
  } catch (error) {
    const text = error instanceof Refused ? error.message : "the daemon does not answer";
    if (opened?.id === box.box_id) write($("panel-error"), `${action.title} was not done: ${text}`);
  } finally {
    underWay.delete(box.box_id);
    touched.add(box.box_id);
    refreshPanel();
    settle();
  }
}

function refreshPanel() {
  const box = boxes.get(opened?.id);
  if (box) showActions(box);
}

function confirmed(action, box) {
  const dialog = $("confirm");
  const lives = !ENDED.includes(box.status);
  write($("confirm-title"), `${action.title} ${box.name}?`);
  write($("confirm-text"), action.key === "remove" && lives ? `It is ${box.status} and is killed first. ${action.text}` : action.text);
  write($("confirm-yes"), action.title);
  dialog.returnValue = "";
  dialog.showModal();
  $("confirm-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
