// A sparkline of the last hour: jobs that completed and failed in each minute.
import { now } from "./api.js";
import { element } from "./dom.js";
import { hasEnded } from "./watch.js";

const MINUTES = 60;
const HEIGHT = 48;
//: A single failure beside thousands of images is seen, too.
const LEAST_HEIGHT = 2;
const SVG = "http://www.w3.org/2000/svg";
const minuteOf = (text) => Math.floor(new Date(text).getTime() / 60_000);

export class LastHour {
  constructor() {
    this.minutes = new Map();
    this.chart = document.createElementNS(SVG, "svg");
    this.chart.setAttribute("viewBox", `0 0 ${MINUTES * 10} ${HEIGHT}`);
    this.chart.setAttribute("preserveAspectRatio", "none");
    this.chart.setAttribute("role", "img");
    this.text = element("p", { className: "hint" });
    const ends = element("p", { className: "hint ends", "aria-hidden": "true" }, element("span", {}, "60 min ago"), element("span", {}, "now"));
    this.node = element("div", { className: "last-hour" }, this.chart, ends, this.text);
    this.draw();
    setInterval(() => this.draw(), 30_000);
  }

  /** Count a change of a job, if it has ended by it. */
  count(change) {
    if (!hasEnded(change)) return;
    const minute = minuteOf(change.at);
    const counts = this.minutes.get(minute) ?? { completed: 0, failed: 0 };
    counts[change.status] += 1;
    this.minutes.set(minute, counts);
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = undefined;
    const latest = Math.floor(now() / 60_000);
    for (const minute of this.minutes.keys()) {
      if (minute <= latest - MINUTES) this.minutes.delete(minute);
    }
    const counts = Array.from({ length: MINUTES }, (_, at) => this.minutes.get(latest - MINUTES + 1 + at) ?? { completed: 0, failed: 0 });
    const highest = Math.max(1, ...counts.map(({ completed, failed }) => completed + failed));
    this.chart.replaceChildren(...counts.flatMap(({ completed, failed }, at) => bars(at, completed, failed, HEIGHT / highest)));
    const sum = (name) => counts.reduce((total, one) => total + one[name], 0);
    const isEmpty = sum("completed") + sum("failed") === 0;
    this.text.textContent = isEmpty ? "No job has ended in the last hour." : `${sum("completed")} completed and ${sum("failed")} failed, at most ${highest} a minute.`;
    this.chart.setAttribute("aria-label", this.text.textContent);
  }
}

function bars(at, completed, failed, unit) {
  const bar = (name, count, below) => {
    const made = document.createElementNS(SVG, "rect");
    const height = Math.max(count * unit, LEAST_HEIGHT);
    const y = Math.max(0, HEIGHT - below * unit - height);
    const shape = { x: at * 10 + 1, y, width: 8, height, class: name };
    for (const [key, value] of Object.entries(shape)) made.setAttribute(key, value);
    return made;
  };
  return [completed && bar("completed", completed, 0), failed && bar("failed", failed, completed)].filter(Boolean);
}
