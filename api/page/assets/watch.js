// Following jobs: two by server-sent events, the others by polling, as a browser opens six connections to a host.
import { ApiError, events, get, pause } from "./api.js";

const STREAMS = 2;
const POLL_MS = 1000;
const RETRY_MS = 2000;
let streams = 0;

/** Return true if a job is neither waiting nor rendered. */
export const hasEnded = (job) => job.status === "completed" || job.status === "failed";

/**
 * Call `show` with a job each time it changes, and `preview` with previews of its images, until it ends or `signal`
 * aborts. Throw ApiError if it is gone.
 */
export async function watch(id, show, preview, signal) {
  const path = `farm/v1/jobs/${id}`;
  while (!signal.aborted) {
    try {
      const job = await get(path);
      show(job);
      if (hasEnded(job)) return;
      await (streams < STREAMS ? streamed(path, show, preview, signal) : pause(POLL_MS));
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status === 404) throw error;
      show(null, error);
      await pause(RETRY_MS);
    }
  }
}

async function streamed(path, show, preview, signal) {
  streams += 1;
  try {
    for await (const { event, data } of events(`${path}/events?previews=true`, signal)) {
      if (event === "error") return;
      if (event === "preview") {
        preview(data);
        continue;
      }
      show(data);
      if (hasEnded(data)) return;
    }
  } finally {
    streams -= 1;
  }
}
