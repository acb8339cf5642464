// One job on the playground: its progress, its images and what can be done with them.
import { local } from "./api.js";
import { announce, button, element } from "./dom.js";
import { hasEnded } from "./watch.js";

const SECONDS = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const WORDS = { created: "waiting", processing: "rendering", completed: "completed", failed: "failed" };

/** A job's card. `actions` are {rerun, vary, useAsInput, cancel, forget, select}. */
export class Card {
  constructor(id, body, actions) {
    this.id = id;
    this.body = body;
    this.actions = actions;
    this.status = element("p", { className: "status" });
    this.progress = element("progress", { max: 1, value: 0, "aria-label": "Denoising steps" });
    this.images = element("div", { className: "grid" });
    this.previews = new Map();
    this.facts = element("p", { className: "hint" });
    this.prompt = element("p", { className: "prompt-text", dir: "auto", textContent: body.prompt ?? "" });
    this.buttons = element("div", { className: "row" });
    const parts = [this.images, this.status, this.progress, this.prompt, this.facts, this.buttons];
    this.node = element("li", { className: "card", "data-job": id }, parts);
    this.offer(null);
  }

  /** Show the job as it is; without one, why it cannot be had. */
  show(job, error) {
    if (!job) {
      this.status.textContent = error.message;
      return;
    }
    const { step, steps } = job.progress;
    this.node.dataset.status = job.status;
    this.status.textContent = statusOf(job);
    this.progress.hidden = hasEnded(job);
    this.progress.value = steps ? step / steps : 0;
    if (!this.body.prompt || job.original_prompt) this.prompt.textContent = job.prompt;
    this.facts.textContent = this.level + factsOf(job);
    if (this.job?.status !== job.status) {
      if (this.job && hasEnded(job)) announce(`${statusOf(job)}: ${this.prompt.textContent}`);
      this.job = job;
      this.offer(job);
      this.previews.clear();
      this.images.replaceChildren(...job.images.map((image, at) => this.figure(job, image, at)));
    }
    this.job = job;
  }

  /** Show how an image looks so far. */
  preview({ image, step, url }) {
    if (this.job?.status !== "processing") return;
    if (!this.previews.has(image)) {
      this.previews.set(image, element("img", { className: "preview" }));
      this.images.append(this.previews.get(image));
    }
    const shown = this.previews.get(image);
    shown.src = url;
    shown.alt = `Preview of image ${image + 1} after ${step} steps`;
  }

  figure(job, image, at) {
    const seed = (job.seed + at) % 2 ** 32;
    return job.has_nsfw_concepts[at] ? blockedFigure(image, seed) : this.imageFigure(job, image, seed);
  }

  imageFigure(job, image, seed) {
    const url = local(image.url);
    const alt = `${this.prompt.textContent}, seed ${seed}`;
    const shown = element("img", { src: url, alt, width: image.width, height: image.height, loading: "lazy" });
    const pick = element("input", { type: "checkbox", "aria-label": `Compare the image with seed ${seed}` });
    pick.addEventListener("change", () => this.actions.select(pick, { url, name: `${this.level}seed ${seed}` }));
    const name = `${job.id.slice(0, 8)}-${seed}.${image.content_type.split("/")[1]}`;
    const links = element(
      "div",
      { className: "row" },
      element("a", { href: url, download: name, textContent: "Download" }),
      button("Use as input", () => this.actions.useAsInput(url)),
      element("label", {}, pick, "compare"),
    );
    const open = element("a", { href: url, target: "_blank", rel: "noopener" }, shown);
    return element("figure", {}, open, element("figcaption", {}, `seed ${seed}`, links));
  }

  offer(job) {
    const isActive = !job || !hasEnded(job);
    const { rerun, vary, cancel, forget } = this.actions;
    const made = [button("Edit and run again", () => rerun(this.settings)), button("Vary", () => vary(this.settings))];
    made.push(isActive ? button("Cancel", () => cancel(this)) : button("Remove", () => forget(this)));
    this.buttons.replaceChildren(...made);
  }

  /** The level of acceleration, where the request named one. */
  get level() {
    return this.body.acceleration ? `acceleration ${this.body.acceleration}, ` : "";
  }

  /** The request's body with the seed that the farm drew, and with its prompt where the history did not keep that. */
  get settings() {
    if (!this.job) return this.body;
    const prompt = this.body.prompt ?? this.job.original_prompt ?? this.job.prompt;
    return { ...this.body, prompt, seed: this.job.seed };
  }
}

/** Return what stands in the place of an image that the safety checker blacked out. */
function blockedFigure({ width, height }, seed) {
  const place = element("p", { className: "blocked", textContent: "Blacked out by the safety checker." });
  place.style.aspectRatio = width / height;
  return element("figure", {}, place, element("figcaption", { textContent: `seed ${seed}` }));
}

function statusOf(job) {
  const { step, steps } = job.progress;
  if (job.status === "processing") return `rendering: step ${step} of ${steps}`;
  if (job.status === "failed") return `${job.code === "cancelled" ? "cancelled" : "failed"}: ${job.error}`;
  return WORDS[job.status];
}

function factsOf(job) {
  const { inference, denoise } = job.timings;
  const facts = [job.model, `seed ${job.seed}`];
  if (inference) facts.push(`${SECONDS.format(inference)} s`);
  if (denoise) facts.push(`denoising ${SECONDS.format(denoise)} s`);
  if (job.timings.full_steps !== undefined) facts.push(`${job.timings.full_steps} of ${job.progress.steps} steps in full`);
  return [facts.join(" · "), ...job.warnings].join(" — ");
}
