// The jobs that this browser submitted, newest first. Only ids and settings are kept, never images.
const NAME = "srpo-farm.history";
const MOST = 200;
//: A setting that is longer (an image as a data URI) is not kept.
const LONGEST = 8192;

export function entries() {
  try {
    const list = JSON.parse(localStorage.getItem(NAME));
    return Array.isArray(list) ? list.filter((entry) => entry?.id && entry.body) : [];
  } catch {
    return [];
  }
}

function keep(list) {
  try {
    localStorage.setItem(NAME, JSON.stringify(list.slice(0, MOST)));
  } catch {
    // Full or forbidden: the page works without a history.
  }
}

export function add(id, body) {
  const short = Object.fromEntries(Object.entries(body).filter(([, value]) => JSON.stringify(value).length <= LONGEST));
  keep([{ id, body: short }, ...entries().filter((entry) => entry.id !== id)]);
}

export function remove(id) {
  keep(entries().filter((entry) => entry.id !== id));
}

export function clear() {
  keep([]);
}
