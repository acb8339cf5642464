// Calls to the farm's own API. The key is kept in the session storage: it is gone when the tab is closed.
import { byId } from "./dom.js";

const KEY = "srpo-farm.key";
/** A clock that differs by less is taken for right: answers are on their way for a while. */
const CLOCK_TOLERANCE_MS = 30_000;

/** An unsuccessful answer: `status` (0: no answer), `code` and the `errors` of single fields. */
export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || problem.error?.message || `HTTP ${status}`);
    this.status = status;
    this.code = problem.code || "";
    this.errors = problem.errors || [];
  }
}

let unstored = null;

/** Return the key that the user entered, or null. */
export function currentKey() {
  try {
    return sessionStorage.getItem(KEY) ?? unstored;
  } catch {
    return unstored;
  }
}

function keepKey(key) {
  try {
    sessionStorage.setItem(KEY, key);
    unstored = null;
  } catch {
    unstored = key; // full or forbidden: it is kept until the page is left
  }
}

function headers() {
  const key = currentKey();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

let asked = null;
let isDeclined = false;

/** Ask the user for a key, unless they declined to give one; return true if one was given. Only one dialog is open at a time. */
async function askForKey(message = "") {
  if (isDeclined) return false;
  asked ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    byId("key-button").hidden = false;
    byId("key-error").textContent = message;
    byId("key").value = "";
    const close = () => {
      asked = null;
      const key = byId("key").value.trim();
      const given = dialog.returnValue === "save" && key !== "";
      isDeclined = !given;
      if (given) keepKey(key);
      resolve(given);
    };
    dialog.addEventListener("close", close, { once: true });
    dialog.returnValue = "";
    dialog.showModal();
  });
  return asked;
}

/** Return the JSON of an answer. Throw ApiError if it was cut off: its connection may be lost after its beginning. */
async function contentOf(answer) {
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { detail: "The farm's answer was cut off. Is the network up?" });
  }
}

let aheadMs = 0;

/** Return the time by the farm's clock, in milliseconds: the browser's may be wrong. */
export const now = () => Date.now() + aheadMs;

async function answered(path, options) {
  try {
    const answer = await fetch(path, { ...options, headers: { ...options.headers, ...headers() }, cache: "no-store" });
    const farms = Date.parse(answer.headers.get("Date"));
    if (Math.abs(farms - Date.now()) > CLOCK_TOLERANCE_MS) aheadMs = farms - Date.now();
    return answer;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { detail: "The farm does not answer. Is it running, and is the network up?" });
  }
}

/** Send a request and return the answer's JSON. Ask for a key where the farm wants one. Throw ApiError. */
export async function call(method, path, body, options = {}) {
  const content = body === undefined ? {} : { body: JSON.stringify(body) };
  const type = body === undefined ? {} : { "Content-Type": "application/json" };
  for (;;) {
    const sent = currentKey();
    const answer = await answered(path, { method, ...content, ...options, headers: { ...type, ...options.headers } });
    const isNewer = currentKey() !== sent;
    if (answer.status === 401 && (isNewer || (await askForKey(sent ? "This key is not valid here." : "")))) continue;
    const isJson = (answer.headers.get("Content-Type") ?? "").includes("json");
    if (answer.status === 401) throw new ApiError(401, { detail: "This farm asks for an API key: choose “API key” at the top." });
    const read = isJson ? await contentOf(answer) : {};
    if (!answer.ok) throw new ApiError(answer.status, read);
    return read;
  }
}

export const get = (path) => call("GET", path);
export const post = (path, body, options) => call("POST", path, body, options);

/** Yield the server-sent events of a path as {event, id, data}, until the stream ends. Throw ApiError. */
export async function* events(path, signal, lastId = "") {
  const resumed = lastId ? { "Last-Event-ID": lastId } : {};
  const answer = await answered(path, { signal, headers: resumed });
  if (!answer.ok) throw new ApiError(answer.status, await answer.json().catch(() => ({})));
  if (answer.status === 204) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const found = parsed(block);
      if (found.data !== undefined) yield found;
    }
  }
}

function parsed(block) {
  const found = { event: "message", id: "" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(": ");
    if (colon < 1) continue;
    const [name, value] = [line.slice(0, colon), line.slice(colon + 2)];
    if (name === "data") found.data = JSON.parse(value);
    else found[name] = value;
  }
  return found;
}

/** Return a URL of an image as this page may load it: the farm's own files by their path. */
export function local(url) {
  if (!url.startsWith("http")) return url;
  const { pathname } = new URL(url);
  const at = pathname.indexOf("/files/");
  return at < 0 ? url : pathname.slice(at + 1);
}

/** Wait so many milliseconds. */
export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

byId("key-button").addEventListener("click", async () => {
  isDeclined = false;
  if (await askForKey()) location.reload();
});
if (currentKey()) byId("key-button").hidden = false;
