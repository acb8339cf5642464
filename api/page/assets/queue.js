// The queue view: what waits, runs and ended, the workers, bulks and the webhooks' deliveries. Admins may act on them.
import { ApiError, events, get, now, pause, post } from "./api.js";
import { button, byId, element, say } from "./dom.js";
import { LastHour } from "./last_hour.js";
import { hasEnded } from "./watch.js";

const REFRESH_MS = 2000;
const HOUR_MS = 3_600_000;
//: A delivery that is tried so soon is looked at until it has been: no event tells of it.
const DUE_MS = 5000;
const RATE = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const PAGE = 50;
const MOST_PAGES = 10;
const lastHour = new LastHour();
let jobs = [];
let next = null;
let pages = 1;
let isAdmin = true;
let isDeliveryDue = false;

//: Roles are named, as a small screen shows tables as lists.
const row = (cells) => element("tr", { role: "row" }, cells);
const head = (value) => element("th", { role: "columnheader" }, value);
const cell = (value, name) => element("td", { role: "cell", "data-name": name }, value ? element("div", {}, value) : "");
//: The head of a column of buttons.
const actions = () => element("span", { className: "hidden", textContent: "Actions" });

function fill(id, heads, rows, none) {
  const names = heads.map((name) => (typeof name === "string" ? name : null));
  const body = rows.map((values) => row(values.map((value, at) => cell(value, names[at]))));
  if (!rows.length) body.push(row(element("td", { role: "cell", colSpan: heads.length, textContent: none })));
  const groups = [element("thead", { role: "rowgroup" }, row(heads.map(head))), element("tbody", { role: "rowgroup" }, body)];
  byId(id).replaceChildren(...groups);
}

function time(text) {
  if (!text) return "";
  const at = new Date(text);
  const day = at.toDateString() === new Date().toDateString() ? "" : `${at.toLocaleDateString("en-CA")} `;
  return day + at.toLocaleTimeString("en-GB");
}

function seconds(value) {
  if (value < 90) return `${Math.round(value)} s`;
  return value < 5400 ? `${Math.round(value / 60)} min` : `${Math.round(value / 360) / 10} h`;
}

async function showFigures() {
  const queue = await get("farm/v1/queue");
  const oldest = Math.max(0, ...queue.queues.filter((one) => one.jobs).map((one) => one.oldest_seconds));
  const figures = [
    ["Waiting", queue.waiting],
    ["In preparation", queue.unprepared],
    ["Rendering", queue.processing],
    ["Oldest waits for", queue.waiting ? seconds(oldest) : "–"],
    ...queue.queues.filter((one) => one.jobs).map((one) => [`${one.model}, ${one.priority}`, one.jobs]),
  ];
  byId("figures").replaceChildren(
    ...figures.map(([name, value]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }))),
  );
  const groups = queue.paused_groups.map((group) => `${group.kind} ${group.name}`).join(", ");
  byId("notice").hidden = !queue.paused && !groups;
  byId("notice").textContent = queue.paused ? "Paused: workers take no new jobs." : `Paused: ${groups}.`;
  byId("pause").hidden = !isAdmin;
  byId("pause").textContent = queue.paused ? "Resume" : "Pause";
  byId("pause").onclick = () => act(queue.paused ? "farm/v1/resume" : "farm/v1/pause");
}

async function showWorkers() {
  if (!isAdmin) return;
  try {
    const { workers } = await get("farm/v1/workers");
    const facts = (worker) => [
      worker.id,
      worker.state,
      worker.device,
      worker.models.join(", "),
      worker.running.map(({ id, step, steps }) => element("div", {}, code(id), ` step ${step} of ${steps}`)),
      seconds(worker.busy_seconds),
      seconds(worker.silent_seconds),
      button("Drain", () => act(`farm/v1/workers/${encodeURIComponent(worker.id)}/drain`)),
    ];
    fill("workers", ["Worker", "State", "Device", "Models", "Jobs", "Busy", "Last seen", actions()], workers.map(facts), "No worker is running.");
    byId("workers-section").hidden = false;
  } catch (error) {
    if (error.status !== 403) throw error;
    isAdmin = false;
  }
}

async function showBulks() {
  const { bulks } = await get("farm/v1/bulks");
  const facts = (bulk) => [
    code(bulk.id.replace("batch_", "")),
    bulk.status.replace("_", " "),
    [bar(bulk.completed + bulk.failed, bulk.total, "Ended requests"), ` ${bulk.completed} of ${bulk.total} completed, ${bulk.failed} failed`],
    bulk.requests_per_minute && `${RATE.format(bulk.requests_per_minute)} a minute`,
    bulk.seconds_left !== null && seconds(bulk.seconds_left),
    time(bulk.expires_at),
    button("Cancel", () => act(`v1/batches/${bulk.id}/cancel`)),
  ];
  fill("bulks", ["Bulk", "Status", "Requests", "Rate", "Time left", "Window ends", actions()], bulks.map(facts), "No bulk is running.");
}

/** Cut a text between two characters: an emoji has several units. */
function short(text) {
  const characters = [...text];
  return characters.length > 120 ? `${characters.slice(0, 119).join("")}…` : text;
}

const code = (id) => element("code", { textContent: id.slice(0, 8), title: id });
const bar = (value, max, label) => element("progress", { max: max || 1, value, "aria-label": label });

function jobRow(job) {
  const { step, steps } = job.progress;
  const state = job.status === "processing" ? ["processing ", bar(step, steps, "Denoising steps")] : job.status;
  const action = !hasEnded(job)
    ? button("Cancel", () => act(`farm/v1/jobs/${job.id}/cancel`))
    : job.status === "failed" && job.code !== "cancelled" && !job.retried_as
      ? button("Retry", () => act(`farm/v1/jobs/${job.id}/retry`))
      : "";
  const cause = job.error ? `${job.code}: ${job.error}` : "";
  return [time(job.created_at), code(job.id), job.model, state, element("span", { dir: "auto", textContent: short(job.prompt) }), cause, action];
}

function showJobs() {
  fill("jobs", ["Submitted", "Id", "Model", "Status", "Prompt", "Cause", actions()], jobs.map(jobRow), "No jobs.");
  byId("more").hidden = next === null || pages >= MOST_PAGES;
}

function jobsPath(before) {
  const query = new URLSearchParams({ limit: PAGE });
  if (byId("status").value) query.set("status", byId("status").value);
  if (before) query.set("before", before);
  return `farm/v1/jobs?${query}`;
}

/** Read the newest page again; older ones that were asked for stay. */
async function refreshJobs() {
  const page = await get(jobsPath());
  const known = new Set(page.jobs.map((job) => job.id));
  const last = page.jobs.at(-1)?.created_at ?? "";
  jobs = [...page.jobs, ...jobs.filter((job) => !known.has(job.id) && job.created_at < last)].slice(0, pages * PAGE);
  if (pages === 1) next = page.before;
  showJobs();
}

async function showOlder() {
  const page = await get(jobsPath(next));
  jobs = [...jobs, ...page.jobs];
  next = page.before;
  pages += 1;
  showJobs();
}

async function showDeliveries() {
  const { deliveries } = await get("farm/v1/deliveries");
  const facts = (delivery) => {
    const last = delivery.attempts.at(-1);
    const answer = last ? `${last.status ?? last.error} (attempt ${delivery.attempts.length})` : "not tried yet";
    const again = () => act(`farm/v1/deliveries/${delivery.id}/redeliver`);
    return [time(delivery.created_at), delivery.event, delivery.receiver, delivery.status, answer, time(delivery.next_try_at), button("Redeliver", again)];
  };
  isDeliveryDue = deliveries.some((one) => one.status === "waiting" && new Date(one.next_try_at) - now() < DUE_MS);
  fill("deliveries", ["Created", "Event", "Receiver", "Status", "Last answer", "Next", actions()], deliveries.map(facts), "No deliveries.");
}

const act = (path) =>
  attempt(async () => {
    await post(path);
    await refresh();
  });

/** Run an action; say why it failed. */
async function attempt(action) {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    say(error.message);
  }
}

async function refresh() {
  await showWorkers();
  await Promise.all([showFigures(), refreshJobs(), showBulks(), showDeliveries()]);
}

/** Count what ended in the last hour and ends from now on, and look again soon after each change. */
let isStale = true;
async function follow() {
  let lastId = `${now() - HOUR_MS}-0`; // ids begin with the time of the change
  for (;;) {
    try {
      for await (const { event, id, data } of events("farm/v1/events", undefined, lastId)) {
        lastId = id || lastId;
        if (event === "gap") lastHour.restart();
        if (!event.startsWith("job.")) continue;
        isStale = true;
        lastHour.count(data);
      }
    } catch (error) {
      if (!(error instanceof ApiError) && error.name !== "TypeError") throw error;
    }
    await pause(REFRESH_MS);
  }
}

byId("status").addEventListener("change", () => {
  jobs = [];
  pages = 1;
  attempt(refreshJobs);
});
byId("more").addEventListener("click", () => attempt(showOlder));
byId("last-hour").append(lastHour.node);

attempt(showFigures).then(follow); // an answer has the farm's time
for (let rounds = 0; ; rounds += 1, await pause(REFRESH_MS)) {
  if (document.hidden) continue;
  try {
    // Changes are told; now and then it looks all the same, for what changes without an event.
    if (isStale || isDeliveryDue || jobs.some((job) => job.status === "processing") || rounds % 5 === 0) {
      isStale = false;
      await refresh();
    }
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    say(error.message);
    isStale = true;
  }
}
