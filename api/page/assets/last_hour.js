// A sparkline of the last hour: jobs that completed, failed and were cancelled in each minute.
import { now } from "./api.js";
import { element } from "./dom.js";
import { hasEnded } from "./watch.js";

const MINUTES = 60;
const HEIGHT = 48;
//: A single failure beside thousands of images is seen, too.
const LEAST_HEIGHT = 2;
const SVG = "http://www.w3.org/2000/svg";
const OUTCOMES = ["completed", "failed", "cancelled"];
const NONE = { completed: 0, failed: 0, cancelled: 0 };
const minuteOf = (text) => Math.floor(new Date(text).getTime() / 60_000);
const outcomeOf = ({ status, code }) => (code === "cancelled" ? code : status);

export class LastHour {
  constructor() {
    this.minutes = new Map();
    //: When the first known change was, if earlier ones are not known.
    this.since = "";
    this.isRestarted = false;
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

  /** Begin with the next change: those between it and the last one are not known. */
  restart() {
    this.minutes.clear();
    this.isRestarted = true;
  }

  /** Count a change of a job, if it has ended by it. */
  count(change) {
    if (this.isRestarted) this.since = change.at;
    this.isRestarted = false;
    if (!hasEnded(change)) return;
    const minute = minuteOf(change.at);
    const counts = this.minutes.get(minute) ?? { ...NONE };
    counts[outcomeOf(change)] += 1;
    this.minutes.set(minute, counts);
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = undefined;
    const latest = Math.floor(now() / 60_000);
    for (const minute of this.minutes.keys()) {
      if (minute <= latest - MINUTES) this.minutes.delete(minute);
    }
    const counts = Array.from({ length: MINUTES }, (_, at) => this.minutes.get(latest - MINUTES + 1 + at) ?? NONE);
    const highest = Math.max(...counts.map((one) => OUTCOMES.reduce((total, name) => total + one[name], 0)));
    this.chart.replaceChildren(...counts.flatMap((one, at) => bars(at, one, HEIGHT / highest)));
    const sum = (name) => counts.reduce((total, one) => total + one[name], 0);
    const sums = `${sum("completed")} completed, ${sum("failed")} failed and ${sum("cancelled")} cancelled`;
    const since = minuteOf(this.since) > latest - MINUTES ? `since ${new Date(this.since).toLocaleTimeString("en-GB")}` : "in the last hour";
    this.text.textContent = highest ? `${sums} ${since}, at most ${highest} a minute.` : `No job has ended ${since}.`;
    this.chart.setAttribute("aria-label", this.text.textContent);
  }
}

/** Return the bars of a minute, one on the other. */
function bars(at, counts, unit) {
  let below = 0;
  return OUTCOMES.filter((name) => counts[name]).map((name) => {
    const made = document.createElementNS(SVG, "rect");
    const height = Math.max(counts[name] * unit, LEAST_HEIGHT);
    const y = Math.max(0, HEIGHT - below * unit - height);
    below += counts[name];
    const shape = { x: at * 10 + 1, y, width: 8, height, class: name };
    for (const [key, value] of Object.entries(shape)) made.setAttribute(key, value);
    return made;
  });
}
