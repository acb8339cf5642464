// Building elements. Text is always set as text, never as markup.

/** Return a new element with these properties, attributes and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && typeof made[name] !== "object" && !name.includes("-")) made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Return a button that is disabled while its action runs. */
export function button(text, action, properties = {}) {
  const run = async (event) => {
    event.currentTarget.disabled = true;
    const made = event.currentTarget;
    try {
      await action(event);
    } finally {
      made.disabled = false;
    }
  };
  return element("button", { type: "button", textContent: text, onclick: run, ...properties });
}

/** Copy text to the clipboard, also where the page is not served over HTTPS. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element("textarea", { value: text, className: "hidden" });
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Tell screen readers what happened, where the page shows it in its own place. */
export function announce(text) {
  byId("announcement").textContent = text;
}

/** Show a text in the page's status line for a moment. */
let lastSaid;
export function say(text) {
  byId("state").textContent = text;
  clearTimeout(lastSaid);
  lastSaid = setTimeout(() => (byId("state").textContent = ""), 4000);
}
