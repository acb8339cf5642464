// The playground: a form for the chosen model, and what this browser rendered with it.
import { ApiError, currentKey, get, pause, post } from "./api.js";
import { Card } from "./card.js";
import { compare } from "./compare.js";
import { button, byId, copy, element, say } from "./dom.js";
import { ModelForm } from "./form.js";
import * as history from "./history.js";
import { sidesOf } from "./images.js";
import { useVocabulary } from "./prompt.js";
import { watch } from "./watch.js";

const PAGE = 24;
/** How often it looks why jobs wait. */
const LOOK_MS = 3000;
const catalogue = await get("page/models.json");
const models = new Map(catalogue.models.map((model) => [model.name, model]));
let form;
let served = new Map();

function choose(name, body = {}) {
  const kept = form ? { prompt: form.body.prompt } : {};
  byId("model").value = name;
  form = new ModelForm(models.get(name));
  if (served.get(name)?.safety === "off") form.fix("enable_safety_checker", false, "This farm has no safety checker.");
  form.body = { ...kept, ...body };
  byId("fields").replaceChildren(form.node);
  form.inputs.get("prompt").tools.append(button("Enhance prompt", enhance));
  byId("levels").hidden = !form.inputs.has("acceleration");
}

async function showModels() {
  const answer = await get("farm/v1/models");
  served = new Map(answer.models.filter((model) => model.served).map((model) => [model.name, model]));
  await showLoading();
  listModels(served.size ? " (not served here)" : "");
  const isMiniature = [...served.values()].some((model) => model.weights === "miniature");
  if (isMiniature) await showLanguage();
  return served.size > 0;
}

/** Say what the page waits for, while the farm has not had a worker yet. */
async function showLoading() {
  byId("loading").hidden = served.size > 0;
  if (served.size) return;
  const { workers } = await get("farm/v1/queue");
  const text = workers.loading ? "The models are loading." : "No worker is running. As soon as one is ready, this page goes on by itself.";
  byId("loading").textContent = `${text} Write your prompt meanwhile.`;
}

function listModels(unserved) {
  const option = ({ name, title }) => {
    const isServed = served.has(name);
    return element("option", { value: name, textContent: title + (isServed ? "" : unserved), disabled: !isServed });
  };
  byId("model").replaceChildren(...catalogue.models.map(option));
  if (form) byId("model").value = form.model.name;
}

async function showLanguage() {
  const { words, examples } = await get("page/miniature.json");
  const example = (prompt) => element("button", { type: "button", className: "chip", textContent: prompt, onclick: () => (form.body = { ...form.body, prompt }) });
  byId("language").replaceChildren("The bundled miniature knows shapes, colours and places only. Try: ", ...examples.map(example));
  byId("language").hidden = false;
  useVocabulary(words);
}

/** Replace the prompt by an enhanced one, which the user may edit or undo before it runs. */
async function enhance() {
  const { inputs, model } = form;
  const prompt = inputs.get("prompt");
  form.showErrors([]);
  byId("form-error").textContent = "";
  try {
    const enhanced = await post("farm/v1/enhance", { model: model.name, prompt: prompt.value });
    offerUndo(prompt, enhanced.original_prompt);
    prompt.value = enhanced.prompt;
    inputs.get("enhance_prompt").value = false; // once is enough
    say(enhanced.warnings.join(" ") || "Enhanced: edit it as you like, then render.");
    prompt.input.focus();
  } catch (error) {
    showError(error);
  }
}

function offerUndo(prompt, original) {
  prompt.tools.querySelector(".undo")?.remove();
  const undo = button("Undo", () => {
    prompt.value = original;
    undo.remove();
    prompt.input.focus();
  }, { className: "undo" });
  prompt.tools.append(undo);
}

// Submitting

async function submit(body) {
  const key = crypto.randomUUID?.() ?? String(Math.random());
  const accepted = await retried(() => post("farm/v1/jobs", body, { headers: { "Idempotency-Key": key } }));
  history.add(accepted.id, body);
  place(accepted.id, body, { isNew: true });
}

/** Try again where no answer came: with its Idempotency-Key, a repeated submit makes no second job. */
async function retried(action) {
  try {
    return await action();
  } catch (error) {
    if (error.status !== 0) throw error;
    return action();
  }
}

async function run(bodies) {
  byId("form-error").textContent = "";
  form.showErrors([]);
  byId("run").disabled = true;
  try {
    for (const body of bodies) await submit(body);
  } catch (error) {
    showError(error);
  } finally {
    byId("run").disabled = false;
  }
}

function showError(error) {
  if (!(error instanceof ApiError)) throw error;
  const others = form.showErrors(error.errors);
  const texts = others.map(({ field, message }) => [field, message].filter(Boolean).join(": "));
  byId("form-error").textContent = error.errors.length ? texts.join("; ") : error.message;
}

const randomSeed = () => 1 + Math.floor(Math.random() * (2 ** 31 - 5));

function levels() {
  const body = form.body;
  const seed = body.seed ?? randomSeed();
  const names = models.get(body.model).schema.properties.acceleration.enum;
  return run(names.map((acceleration) => ({ ...body, seed, acceleration })));
}

/** Return true if a request has lost its input image: the history keeps no files. */
function lacksImage(body) {
  const field = models.get(body.model).image_field;
  return Boolean(field) && body[field] === undefined;
}

// Cards

const cards = new Map();
let selected = [];
const aborts = new Map();

const actions = {
  rerun(body) {
    choose(body.model, body);
    byId("field-prompt").focus();
    if (lacksImage(body)) form.showErrors([{ field: form.model.image_field, message: "The history keeps no files: choose the image again." }]);
  },
  vary(body) {
    const varied = { ...body, seed: randomSeed() };
    return lacksImage(body) ? actions.rerun(varied) : run([varied]);
  },
  useAsInput(url) {
    const takes = (model) => model.image_field && served.has(model.name);
    const target = takes(form.model) ? form.model : catalogue.models.find(takes);
    if (!target) return say("No served model takes an input image.");
    choose(target.name, { ...form.body, model: target.name });
    form.inputs.get(target.image_field).put([url]);
    byId("field-prompt").focus();
  },
  async cancel(card) {
    try {
      const { outcome } = await post(`farm/v1/jobs/${card.id}/cancel`);
      say({ cancelled: "Cancelled before it started.", stopping: "It stops after this step.", ended: "It had already ended." }[outcome]);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      say(error.message);
    }
  },
  async forget(card) {
    history.remove(card.id);
    aborts.get(card.id)?.abort();
    aborts.delete(card.id);
    cards.delete(card.id);
    card.node.remove();
    showSelected(selected.filter(({ box }) => box.isConnected));
    showEmpty();
  },
  select(box, image) {
    const others = selected.filter((one) => one.box !== box);
    showSelected(box.checked ? [...others, { box, image }] : others);
  },
};

/** Select two images at most, the last ones. */
function showSelected(images) {
  for (const { box } of images.slice(0, -2)) box.checked = false;
  selected = images.slice(-2);
  byId("compare").disabled = selected.length < 2;
}

function place(id, body, { isNew }) {
  const card = new Card(id, body, actions);
  cards.set(id, card);
  if (isNew) byId("jobs").prepend(card.node);
  else byId("jobs").append(card.node);
  if (isNew) card.node.scrollIntoView({ block: "nearest" });
  const abort = new AbortController();
  aborts.set(id, abort);
  watch(id, (job, error) => card.show(job, error), (preview) => card.preview(preview), abort.signal).catch((error) => {
    if (error.status === 404) actions.forget(card);
    else card.show(null, error);
  });
  showEmpty();
}

function showEmpty() {
  byId("empty").hidden = cards.size > 0;
  byId("compare").hidden = byId("clear").hidden = cards.size === 0;
  byId("more").hidden = history.entries().every(({ id }) => cards.has(id));
}

function showMore() {
  const rest = history.entries().filter(({ id }) => !cards.has(id));
  for (const { id, body } of rest.slice(0, PAGE)) place(id, body, { isNew: false });
  showEmpty();
}

// Links: the settings are in the fragment, which is not sent to the server.

function link() {
  const isFile = (value) => String(value).startsWith("data:");
  const short = Object.entries(form.body).filter(([, value]) => ![value].flat().some(isFile));
  const settings = new URLSearchParams(short.map(([name, value]) => [name, JSON.stringify(value)]));
  return `${location.href.split("#")[0]}#${settings}`;
}

function linked() {
  const body = {};
  for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
    try {
      body[name] = JSON.parse(text);
    } catch {
      // Not one of this page's links.
    }
  }
  return models.has(body.model) ? body : null;
}

function takeFiles(files) {
  if (!files.length) return false;
  if (!form.model.image_field) {
    const target = catalogue.models.find((model) => model.image_field && served.has(model.name));
    if (!target) return false;
    choose(target.name, form.body);
  }
  form.inputs.get(form.model.image_field).add([...files]);
  return true;
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run([form.body]);
});
byId("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit();
});
byId("model").addEventListener("change", () => {
  const { images } = form;
  choose(byId("model").value);
  form.inputs.get(form.model.image_field)?.put(images);
});
byId("levels").addEventListener("click", levels);
byId("more").addEventListener("click", showMore);
byId("compare").addEventListener("click", () => compare(...selected.map(({ image }) => image)));
byId("link").addEventListener("click", async () => {
  await copy(link());
  say("Link copied.");
});
byId("code").addEventListener("click", async () => {
  const { body, full, images, model } = form;
  const inputs = { takesImages: Boolean(model.image_field), images, inputSides: await sidesOf(images[0]) };
  const { showCode } = await import("./code.js"); // few readers want it
  showCode({ body, full, ...inputs, ids: model.ids_of, presets: catalogue.sizes, terms: catalogue.terms, key: currentKey() });
});
byId("clear").addEventListener("click", () => {
  history.clear();
  for (const card of [...cards.values()]) actions.forget(card);
});
addEventListener("paste", (event) => {
  if (takeFiles(event.clipboardData.files)) event.preventDefault();
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  takeFiles(event.dataTransfer.files);
});
addEventListener("hashchange", () => {
  const body = linked();
  if (body) choose(body.model, body);
});
addEventListener("offline", () => (byId("state").textContent = "Offline. Running jobs go on; this page looks again by itself."));
addEventListener("online", () => say("Online again."));

/** Say why jobs wait, or would wait, where nothing is about to render them. */
async function showWhyJobsWait() {
  const text = reason(await get("farm/v1/queue"));
  byId("waiting").hidden = !text;
  if (byId("waiting").textContent !== text) byId("waiting").textContent = text;
}

function reason({ paused, workers }) {
  if (paused) return "The farm is paused: jobs wait until an operator resumes it.";
  if (workers.warm) return "";
  return workers.loading ? "The workers are loading: jobs wait until one is ready." : "No worker is running: jobs wait until one is.";
}

/** Look once as the page opens, and from then on while a job waits or a reason is shown. */
async function lookWhyJobsWait() {
  for (let isFirst = true; ; isFirst = false, await pause(LOOK_MS)) {
    const isWaiting = [...cards.values()].some(({ job }) => job?.status === "created");
    try {
      if (!document.hidden && (isFirst || isWaiting || !byId("waiting").hidden)) await showWhyJobsWait();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error; // without an answer, the cards say so
    }
  }
}

/** Show the models once there are any; workers may still be loading. */
async function start() {
  const opened = linked();
  listModels("");
  choose(opened?.model ?? catalogue.models[0].name, opened ?? {});
  showMore();
  for (;;) {
    try {
      if (await showModels()) break;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      byId("form-error").textContent = error.message;
    }
    await pause(2000);
  }
  byId("form-error").textContent = "";
  const wanted = opened?.model ?? form.model.name;
  choose(served.has(wanted) || opened ? wanted : served.keys().next().value, opened ?? form.body);
}

await start();
await lookWhyJobsWait();
