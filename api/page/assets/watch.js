// Following jobs: all by one stream of server-sent events, as a browser opens six connections to a host.
import { ApiError, events, get, pause } from "./api.js";

/** Jobs that the stream follows, at most as many as the farm allows; others are polled. */
const MOST_FOLLOWED = 32;
const POLL_MS = 1000;
const RETRY_MS = 2000;
/** Jobs that are added within this time are added at once. */
const GATHER_MS = 50;

/** Return true if a job is neither waiting nor rendered. */
export const hasEnded = (job) => job.status === "completed" || job.status === "failed";

/**
 * Call `show` with a job each time it changes, and `preview` with previews of its images, until it ends or `signal`
 * aborts. Throw ApiError if it is gone.
 */
export async function watch(id, show, preview, signal) {
  while (!signal.aborted) {
    try {
      const job = await get(`farm/v1/jobs/${id}`);
      show(job);
      if (hasEnded(job)) return;
      const canFollow = followers.size < MOST_FOLLOWED;
      if (canFollow && hasEnded(await followed(id, show, preview, signal))) return;
      await pause(POLL_MS);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status === 404) throw error;
      show(null, error);
      await pause(RETRY_MS);
    }
  }
}

// The stream

const followers = new Map();
let stream = new AbortController();
let timer;

/** Follow a job by the stream. Return it once it has ended; its last known state if the stream has ended before. */
function followed(id, show, preview, signal) {
  return new Promise((resolve) => {
    followers.set(id, { show, preview, resolve, last: {} });
    signal.addEventListener("abort", () => leave(id), { once: true });
    clearTimeout(timer);
    timer = setTimeout(open, GATHER_MS);
  });
}

function leave(id) {
  const follower = followers.get(id);
  followers.delete(id);
  follower?.resolve(follower.last);
  if (!followers.size) stream.abort();
}

/** Open the stream of all followed jobs, in place of the present one. */
async function open() {
  stream.abort();
  const mine = (stream = new AbortController());
  const ids = [...followers.keys()];
  try {
    for await (const { event, data } of events(`farm/v1/jobs/events?ids=${ids}&previews=true`, mine.signal)) tell(event, data);
  } catch (error) {
    if (!mine.signal.aborted && !(error instanceof ApiError) && error.name !== "TypeError") throw error;
  } finally {
    // Those that have not ended look at their job themselves.
    if (mine === stream) ids.forEach(leave);
  }
}

function tell(event, data) {
  const follower = followers.get(data.id);
  if (!follower) return;
  if (event === "preview") return follower.preview(data);
  follower.last = data;
  follower.show(data);
  if (hasEnded(data)) leave(data.id);
}
