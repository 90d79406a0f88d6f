// Puts the page together: token, connection, keys.

let tokenPromise = null;
let tokenArrived = null;
let hasAddress = true; // the address is followed when the first list is there

function newToken(wasWrong) {
  tokenPromise ??= new Promise((resolve) => { tokenArrived = resolve; });
  keepToken(null);
  closeBox(false);
  $("ask").hidden = false;
  $("app").hidden = true;
  $("forget").hidden = true;
  showConnection("token");
  write($("ask-error"), wasWrong ? "The token that this tab had is not accepted any more." : "");
  $("ask-token").focus();
  return tokenPromise;
}

// Tried before it is kept, so that a wrong one never leaves the form.
async function tryToken() {
  const given = $("ask-token").value.trim();
  if (!TOKEN_SHAPE.test(given)) return "A token is one line of visible ASCII characters.";
  try {
    const reply = await send("GET", "/v1/me", given);
    await reply.body?.cancel();
    if (reply.status === 401) return "That token is not accepted. Compare it with the token file.";
  } catch {
    return "The daemon does not answer. Try again.";
  }
  keepToken(given);
  return null;
}

async function submitToken(event) {
  event.preventDefault();
  $("ask-submit").disabled = true;
  const complaint = await tryToken();
  $("ask-submit").disabled = false;
  $("ask-token").value = "";
  write($("ask-error"), complaint ?? "");
  if (complaint) {
    $("ask-token").focus();
    return;
  }
  $("ask").hidden = true;
  tokenPromise = null;
  tokenArrived();
}

function showConnection(state) {
  if (tokenPromise && state !== "token") return;
  const words = { live: "live", reconnecting: "reconnecting", token: "waiting for the token", connecting: "connecting" };
  const shown = $("connection");
  if (state === "live") showApp();
  if (shown.dataset.state === state) return;
  if (state === "reconnecting" || (state === "live" && shown.dataset.state === "reconnecting")) {
    announce(state === "live" ? "Connected again" : "The daemon does not answer: reconnecting");
  }
  shown.dataset.state = state;
  const stale = state === "reconnecting" && boxes.size ? ` · as of ${clock(now())}` : "";
  write($("connection-text"), words[state] + stale);
}

function showApp() {
  $("ask").hidden = true;
  $("app").hidden = false;
  $("forget").hidden = token === null;
  $("read-only").hidden = scopes.includes("box:write");
  refreshPanel();
  if (hasAddress) {
    hasAddress = false;
    followAddress();
  }
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || $("confirm").open || $("app").hidden) return;
  const inField = event.target.tagName === "INPUT";
  const inTable = event.target.closest?.("#rows");
  const isPressable = event.target.tagName === "BUTTON";
  const keys = {
    Escape: () => escape(inField),
    "/": !inField && (() => { if (getComputedStyle($("list")).display === "none") closeBox(false); $("filter").focus(); $("filter").select(); }),
    j: !inField && (() => moveBy(1)),
    k: !inField && (() => moveBy(-1)),
    ArrowDown: (inTable || event.target === $("filter") || event.target === document.body) && (() => moveBy(1)),
    ArrowUp: (inTable || event.target === document.body) && (() => moveBy(-1)),
    PageDown: inTable && (() => moveBy(15)),
    PageUp: inTable && (() => moveBy(-15)),
    Home: inTable && (() => moveBy(-1e9)),
    End: inTable && (() => moveBy(1e9)),
    Enter: !isPressable && (inTable || event.target === $("filter") || event.target === document.body) && (() => { if (current && rows.get(current).element.isConnected) openBox(current, true); }),
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
}

function escape(inField) {
  if (inField && $("filter").value) clearFilter();
  else if (opened) closeBox(true);
  else {
    clearFilter();
    moveBy(0);
  }
}

function run() {
  buildTable();
  buildPanel();
  buildLogs();
  buildActions();
  $("ask-form").addEventListener("submit", submitToken);
  $("forget").addEventListener("click", () => { keepToken(null); location.reload(); });
  $("skip").addEventListener("click", (event) => { event.preventDefault(); if (current) moveTo(current, true); else $("filter").focus(); });
  document.addEventListener("keydown", onKey);
  addEventListener("popstate", followAddress);
  watchVisibility();
  setInterval(tick, 1000);
  feed();
}

run();
