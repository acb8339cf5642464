// The form of a model, made from the JSON Schema of its request: nothing about a parameter is written here twice.
import { element } from "./dom.js";
import { ImageInput } from "./images.js";
import { PromptInput } from "./prompt.js";

const FOLDED = ["enhance_prompt", "output_format", "priority", "sync_mode", "webhook_url", "webhook_events"];
const WORDS = { url: "URL", urls: "URLs", num: "number of", hd: "HD" };

/** Return the label of a field: `num_inference_steps` is "Inference steps". */
export function label(name) {
  const words = name.replace(/^num_(?=\w+_)/, "").split("_").map((word) => WORDS[word] ?? word);
  const text = words.join(" ");
  return text[0].toUpperCase() + text.slice(1);
}

/** Return the name of a choice: `landscape_16_9` is "landscape 16:9". */
const named = (value) => value.replace(/_(\d+)_(\d+)$/, " $1:$2").replace(/_hd$/, " HD").replaceAll("_", " ");

function simple(schema) {
  const kinds = (schema.anyOf ?? [schema]).filter((kind) => kind.type !== "null");
  return { ...schema, ...kinds[0], isOptional: (schema.anyOf ?? []).some((kind) => kind.type === "null") };
}

/** Return true if a value is one that a field of this schema takes: anyone may write a link. */
function fits(value, schema) {
  if (schema.oneOf) return schema.oneOf[0].enum.includes(value) || (Number.isFinite(value?.width) && Number.isFinite(value.height));
  if (schema.enum) return schema.enum.map(String).includes(String(value));
  if (schema.type === "array") return Array.isArray(value) && value.every((one) => fits(one, schema.items));
  return typeof value === (schema.type === "integer" ? "number" : schema.type);
}

const least = (schema) => schema.minimum ?? schema.ge;
const most = (schema) => schema.maximum ?? schema.le ?? (schema.lt === undefined ? undefined : schema.lt - 1);

/** A number; bounded ones have a slider beside them. */
class NumberInput {
  constructor(id, schema) {
    const [min, max] = [least(schema), most(schema)];
    const step = schema.type === "integer" ? 1 : "any";
    const value = schema.default ?? "";
    this.input = element("input", { id, type: "number", min, max, step, value, inputMode: "decimal" });
    this.node = element("div", { className: "number" }, this.input);
    if (max - min <= 100) this.addSlider(id, { min, max, step: schema.type === "integer" ? 1 : (max - min) / 100 });
    else if (schema.isOptional) this.addDice();
  }

  addSlider(id, range) {
    this.slider = element("input", { type: "range", "aria-hidden": "true", tabIndex: -1, ...range });
    this.slider.value = this.input.value;
    this.slider.addEventListener("input", () => (this.input.value = Number(Number(this.slider.value).toFixed(2))));
    this.input.addEventListener("input", () => (this.slider.value = this.input.value));
    this.node.append(this.slider);
  }

  addDice() {
    this.input.placeholder = "random";
    const roll = () => (this.input.value = "");
    this.node.classList.add("dice");
    this.node.append(element("button", { type: "button", textContent: "Random", onclick: roll }));
  }

  get value() {
    if (this.input.value === "" && !this.input.validity.badInput) return undefined;
    return Number.isNaN(this.input.valueAsNumber) ? this.input.value : this.input.valueAsNumber;
  }

  set value(value) {
    this.input.value = value ?? "";
    if (this.slider) this.slider.value = this.input.value;
  }
}

class Choice {
  constructor(id, schema) {
    const values = [...new Set(schema.enum.map(String))];
    const options = values.map((value) => element("option", { value, textContent: named(value) }));
    if (schema.isOptional) options.unshift(element("option", { value: "", textContent: "automatic" }));
    this.node = this.input = element("select", { id }, options);
    this.input.value = schema.default ?? "";
  }

  get value() {
    return this.input.value || undefined;
  }

  set value(value) {
    this.input.value = value ?? "";
  }
}

class Flag {
  constructor(id, schema) {
    this.node = this.input = element("input", { id, type: "checkbox", checked: schema.default });
  }

  get value() {
    return this.input.checked;
  }

  set value(value) {
    this.input.checked = Boolean(value);
  }
}

class Text {
  constructor(id, schema) {
    this.node = this.input = element("input", { id, type: schema.format === "uri" ? "url" : "text", spellcheck: false });
  }

  get value() {
    return this.input.value.trim() || undefined;
  }

  set value(value) {
    this.input.value = value ?? "";
  }
}

/** Several of the schema's choices; none means all of them. */
class Choices {
  constructor(id, schema) {
    this.input = element("select", { id, multiple: true, size: schema.items.enum.length });
    this.input.append(...schema.items.enum.map((value) => element("option", { value, textContent: value })));
    this.node = this.input;
  }

  get value() {
    const chosen = [...this.input.selectedOptions].map((option) => option.value);
    return chosen.length ? chosen : undefined;
  }

  set value(value) {
    for (const option of this.input.options) option.selected = (value ?? []).includes(option.value);
  }
}

const CUSTOM = "custom";

/** A preset, or width and height. */
class SizeInput {
  constructor(id, schema, definitions) {
    const [presets, size] = schema.oneOf;
    const sides = definitions[size.$ref.split("/").pop()].properties;
    this.preset = new Choice(id, { enum: [...presets.enum, CUSTOM], default: schema.default });
    this.input = this.preset.input;
    this.width = new NumberInput(`${id}-width`, sides.width);
    this.height = new NumberInput(`${id}-height`, sides.height);
    const side = (name, made) => element("label", {}, name, made.node);
    this.sides = element("div", { className: "row" }, side("Width", this.width), side("Height", this.height));
    this.node = element("div", {}, this.preset.node, this.sides);
    this.input.addEventListener("change", () => this.show());
    this.show();
  }

  show() {
    this.sides.hidden = this.preset.value !== CUSTOM;
  }

  get value() {
    return this.preset.value === CUSTOM ? { width: this.width.value, height: this.height.value } : this.preset.value;
  }

  set value(value) {
    const isCustom = typeof value === "object";
    this.preset.value = isCustom ? CUSTOM : value;
    if (isCustom) [this.width.value, this.height.value] = [value.width, value.height];
    this.show();
  }
}

function inputFor(name, id, schema, definitions) {
  if (name === "prompt") return new PromptInput(id, schema);
  if (name === "image_url") return new ImageInput(id, 1);
  if (name === "image_urls") return new ImageInput(id, schema.maxItems);
  if (schema.oneOf) return new SizeInput(id, schema, definitions);
  if (schema.enum) return new Choice(id, schema);
  if (schema.type === "boolean") return new Flag(id, schema);
  if (schema.type === "array") return new Choices(id, schema);
  if (schema.type === "string") return new Text(id, schema);
  return new NumberInput(id, schema);
}

/** Return the messages of each field, those of a part of it with the part's name. */
function byField(errors) {
  const found = new Map();
  for (const { field, message } of errors) {
    const [name, ...parts] = field.split(".");
    const part = parts.map((one) => (/^\d+$/.test(one) ? `No. ${Number(one) + 1}` : label(one))).join(", ");
    found.set(name, [...(found.get(name) ?? []), part ? `${part}: ${message}` : message]);
  }
  return found;
}

/** The fields of one model. */
export class ModelForm {
  constructor(model) {
    this.model = model;
    this.inputs = new Map();
    const folded = element("details", {}, element("summary", { textContent: "More" }));
    this.node = element("div", {});
    for (const [name, property] of Object.entries(model.schema.properties)) {
      if (name === "model") continue;
      const field = this.field(name, simple(property));
      (FOLDED.includes(name) ? folded : this.node).append(field);
    }
    this.node.append(folded);
  }

  field(name, schema) {
    const id = `field-${name}`;
    const input = inputFor(name, id, schema, this.model.schema.$defs ?? {});
    this.inputs.set(name, input);
    input.input.setAttribute("aria-describedby", `${id}-help ${id}-error`);
    const text = element("label", { htmlFor: id, textContent: label(name) });
    const help = element("p", { className: "hint", id: `${id}-help`, textContent: this.help(schema) });
    const error = element("p", { className: "error", id: `${id}-error` });
    const isFlag = input instanceof Flag;
    const parts = isFlag ? [element("div", { className: "flag" }, input.node, text)] : [text, input.node];
    return element("div", { className: "field", "data-field": name }, parts, help, error);
  }

  help(schema) {
    const [min, max] = [least(schema), most(schema)];
    const range = max - min <= 100 ? ` ${min}–${max}.` : "";
    return (schema.description ?? "").replaceAll("`", "") + range;
  }

  /** Fix a field, if the model has it, to the only value that this farm takes, and say why. */
  fix(name, value, reason) {
    const input = this.inputs.get(name);
    if (!input) return;
    input.value = value;
    input.input.disabled = true;
    this.node.querySelector(`#field-${name}-help`).textContent = reason;
  }

  /** The request's body: what differs from the defaults, and what must be there. */
  get body() {
    const body = { model: this.model.name };
    for (const [name, input] of this.inputs) {
      const value = input.value;
      const property = this.model.schema.properties[name];
      const isUsual = JSON.stringify(value) === JSON.stringify(property.default ?? undefined);
      if (value !== undefined && !isUsual) body[name] = value;
    }
    return body;
  }

  /** The values of all fields. */
  get full() {
    return Object.fromEntries([...this.inputs].map(([name, input]) => [name, input.value]));
  }

  /** The input images, as URLs. */
  get images() {
    return [this.inputs.get(this.model.image_field)?.value ?? []].flat();
  }

  /** Show the values of a body, and the defaults of what it does not name, or names a value for that cannot be. */
  set body(body) {
    for (const [name, input] of this.inputs) {
      if (input.input.disabled) continue;
      const property = this.model.schema.properties[name];
      input.value = fits(body[name], simple(property)) ? body[name] : property.default;
    }
  }

  /** Show each error at its field; return those of no field. */
  showErrors(errors) {
    for (const node of this.node.querySelectorAll(".field")) this.mark(node.dataset.field, "");
    const others = errors.filter(({ field }) => !this.inputs.has(field.split(".")[0]));
    for (const [name, messages] of byField(errors)) this.mark(name, messages.join(" — "));
    this.node.querySelector("[aria-invalid]")?.focus();
    return others;
  }

  mark(name, message) {
    const input = this.inputs.get(name)?.input;
    if (!input) return;
    if (message) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
    if (message) input.closest("details")?.setAttribute("open", "");
    this.node.querySelector(`#field-${name}-error`).textContent = message;
  }
}
