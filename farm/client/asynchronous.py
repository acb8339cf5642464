"""The client for asyncio: each call runs in a thread, so that it never blocks the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Literal

from PIL import Image
from typing_extensions import Unpack

from farm.client.client import Client, Job, JobFailed, JobState, Parameters
from farm.client.input_image import InputImage


class AsyncJob:
    """A job of a farm."""

    def __init__(self, job: Job) -> None:
        self.id = job.id
        self._job = job

    async def state(self) -> JobState:
        """Return the job as it is now. Raises CallFailed."""
        return await asyncio.to_thread(self._job.state)

    async def watch(self) -> AsyncIterator[JobState]:
        """Yield the job's state now and at each change, until it has ended. Raises CallFailed."""
        states = self._job.watch()
        while (state := await asyncio.to_thread(next, states, None)) is not None:
            yield state

    async def wait(self, on_progress: Callable[[JobState], object] | None = None) -> JobState:
        """Wait until the job has ended, and return its last state. Raises JobFailed and CallFailed.

        `on_progress` is called by the event loop, so it may use what belongs to that.
        """
        async for state in self.watch():
            if on_progress:
                on_progress(state)
        if state.status == "failed":
            raise JobFailed(state)
        return state

    async def images(self) -> list[Image.Image]:
        """Wait until the job has ended, and return its images. Raises JobFailed and CallFailed."""
        return await asyncio.to_thread(self._job.images)

    async def cancel(self) -> Literal["cancelled", "stopping", "ended"]:
        """Cancel the job, and return what that did: see `CancelOutcome` in the API's documentation."""
        return await asyncio.to_thread(self._job.cancel)


class AsyncClient:
    """A farm at `url`. Without keys on the farm, no `api_key` is needed."""

    def __init__(self, url: str = "http://127.0.0.1:8000", api_key: str | None = None) -> None:
        self._client = Client(url, api_key)

    async def render(
        self,
        prompt: str,
        *images: InputImage,
        model: str = "srpo",
        on_progress: Callable[[JobState], object] | None = None,
        **parameters: Unpack[Parameters],
    ) -> list[Image.Image]:
        """Render a prompt, with input images for a model that takes some; see `Client.render`."""
        job = await self.submit(prompt, *images, model=model, **parameters)
        await job.wait(on_progress)
        return await job.images()

    async def submit(
        self, prompt: str, *images: InputImage, model: str = "srpo", **parameters: Unpack[Parameters]
    ) -> AsyncJob:
        """Submit a prompt, and return its job at once. Raises CallFailed."""
        return AsyncJob(await asyncio.to_thread(self._client.submit, prompt, *images, model=model, **parameters))

    def job(self, job_id: str) -> AsyncJob:
        """Return a job that was submitted before, by its id."""
        return AsyncJob(self._client.job(job_id))

    async def models(self) -> list[str]:
        """Return the names of the models that the farm serves now. Raises CallFailed."""
        return await asyncio.to_thread(self._client.models)
