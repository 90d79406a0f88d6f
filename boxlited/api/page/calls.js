// Calls of the API: the token, errors as exceptions, text streams. Knows nothing of what is shown.

const TOKEN_KEY = "boxlited.token";
const TOKEN_SHAPE = /^[\x21-\x7e]{1,4096}$/;

let token = sessionStorage.getItem(TOKEN_KEY);

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

function send(method, path, given, options = {}) {
  const headers = { ...options.headers };
  if (given) headers.Authorization = `Bearer ${given}`;
  if (options.body) headers["Content-Type"] = "application/json";
  const body = options.body && JSON.stringify(options.body);
  return fetch(path, { method, headers, body, signal: options.signal, cache: "no-store", credentials: "omit", redirect: "error" });
}

// A reply that is not an error. Asks the user for the token where one is wanted, and goes on then.
async function call(method, path, options = {}) {
  for (;;) {
    const used = token;
    const reply = await send(method, path, used, options);
    const date = Date.parse(reply.headers.get("date") ?? "");
    if (date) clockSkew = Math.abs(date - Date.now()) > 2000 ? date - Date.now() : 0;
    if (reply.ok) return reply;
    if (reply.status !== 401) throw await refusal(reply);
    await reply.body?.cancel();
    if (token === used) await newToken(used !== null);
  }
}

async function json(path, options) {
  return (await call("GET", path, options)).json();
}

async function refusal(reply) {
  const text = await reply.text();
  try {
    return new Refused(reply.status, harmless(JSON.parse(text).error.message));
  } catch {
    return new Refused(reply.status, `the daemon answered ${reply.status}`);
  }
}

function keepToken(value) {
  token = value;
  if (value === null) sessionStorage.removeItem(TOKEN_KEY);
  else sessionStorage.setItem(TOKEN_KEY, value);
}

// The text of a reply as it comes. With `silence`, that many milliseconds without a byte end it.
async function* textOf(reply, silence) {
  const reader = reply.body.getReader();
  const decoder = new TextDecoder();
  let timer;
  try {
    for (;;) {
      if (silence) timer = setTimeout(() => reader.cancel(), silence);
      const { value, done } = await reader.read();
      clearTimeout(timer);
      if (done) return;
      yield decoder.decode(value, { stream: true });
    }
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => {});
  }
}

// The data of each Server-Sent Event, as text: one line of JSON.
async function* messagesOf(reply, silence) {
  let rest = "";
  for await (const text of textOf(reply, silence)) {
    const blocks = (rest + text).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const line = block.split("\n").find((one) => one.startsWith("data: "));
      if (line) yield line.slice(6);
    }
  }
}

function pause(milliseconds) {
  return new Promise((resolve) => { setTimeout(resolve, milliseconds); });
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function write(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

function $(id) { return document.getElementById(id); }
