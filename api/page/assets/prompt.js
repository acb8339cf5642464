// The prompt's text area. With a vocabulary, words that the model does not know are underlined.
import { element } from "./dom.js";

let vocabulary = null;

/** Underline, from now on, words that are not among these; null: none. */
export function useVocabulary(words) {
  vocabulary = words && new Set(words);
  for (const input of document.querySelectorAll("textarea.prompt")) input.dispatchEvent(new Event("input"));
}

export class PromptInput {
  constructor(id, schema) {
    this.input = element("textarea", { id, className: "prompt", rows: 4, maxLength: schema.maxLength, required: true, dir: "auto" });
    this.input.spellcheck = false;
    this.shadow = element("div", { className: "shadow", dir: "auto", "aria-hidden": "true" });
    this.node = element("div", { className: "prompt-box" }, this.shadow, this.input);
    this.unknown = element("p", { className: "hint", role: "status" });
    this.tools = element("div", { className: "row tools" });
    this.node.append(this.unknown, this.tools);
    this.input.addEventListener("input", () => this.underline());
    this.input.addEventListener("scroll", () => (this.shadow.scrollTop = this.input.scrollTop));
  }

  get value() {
    return this.input.value;
  }

  set value(value) {
    this.input.value = value ?? "";
    this.underline();
  }

  underline() {
    const parts = vocabulary ? this.input.value.split(/([A-Za-z]+)/) : [];
    const isUnknown = (part) => /^[A-Za-z]+$/.test(part) && !vocabulary.has(part.toLowerCase());
    this.shadow.replaceChildren(...parts.map((part) => (isUnknown(part) ? element("u", { textContent: part }) : part)));
    const unknown = [...new Set(parts.filter(isUnknown))];
    this.unknown.textContent = unknown.length ? `Unknown to this model: ${unknown.join(", ")}` : "";
  }
}
