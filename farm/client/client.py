"""The synchronous client: submits jobs, follows them, and returns their images."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

from PIL import Image
from typing_extensions import TypedDict, Unpack

from farm import clock
from farm.client.http import CallFailed, HttpClient, escaped
from farm.client.input_image import InputImage, url_of
from farm.client.safety_check import check_fields
from farm.domain.catalogue import Acceleration, OutputFormat, find, for_images
from farm.domain.errors import FarmError

#: Pause before a broken stream is followed again, in seconds.
_PAUSE_SECONDS = 1.0

Status = Literal["created", "processing", "completed", "failed"]


class Size(TypedDict):
    """A size in pixels."""

    width: int
    height: int


class Parameters(TypedDict, total=False):
    """The parameters of a request besides prompt, model and input images; without one, the model's default applies.

    What each does and allows is in the API's documentation, at `/docs` of the farm.
    """

    num_images: int
    image_size: str | Size
    aspect_ratio: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    strength: float
    acceleration: Acceleration
    output_format: OutputFormat
    enhance_prompt: bool
    enable_safety_checker: bool
    safety_tolerance: int
    priority: Literal["normal", "low"]
    webhook_url: str


class JobFailed(FarmError):
    """The job failed; `code` says why, for programs."""

    def __init__(self, state: JobState) -> None:
        super().__init__(f"The job failed ({state.code}): {state.error}")
        self.code = state.code
        self.job_id = state.id


@dataclass(frozen=True, slots=True)
class JobState:
    """A job at one moment. `step` of `steps` denoising steps are done, of all its images together.

    `timings` are in seconds. `data` is the whole answer of the API.
    """

    id: str
    status: Status
    step: int
    steps: int
    seed: int
    code: str
    error: str
    warnings: tuple[str, ...]
    timings: dict[str, float]
    data: dict[str, Any]

    @classmethod
    def of(cls, data: dict[str, Any]) -> Self:
        """Return the state in an answer of the API."""
        progress = data["progress"]
        return cls(
            id=data["id"],
            status=data["status"],
            step=progress["step"],
            steps=progress["steps"],
            seed=data["seed"],
            code=data["code"] or "",
            error=data["error"] or "",
            warnings=tuple(data["warnings"]),
            timings=data["timings"],
            data=data,
        )

    @property
    def has_ended(self) -> bool:
        return self.status in ("completed", "failed")

    def __str__(self) -> str:
        if self.status == "processing":
            return f"job {self.id}: step {self.step} of {self.steps}"
        if self.status == "failed":
            return f"job {self.id}: failed ({self.code}): {self.error}"
        return f"job {self.id}: {self.status}, seed {self.seed}"


class Job:
    """A job of a farm."""

    def __init__(self, http: HttpClient, job_id: str) -> None:
        self.id = job_id
        self._http = http
        self._path = f"/jobs/{escaped(job_id)}"

    def state(self) -> JobState:
        """Return the job as it is now. Raises CallFailed."""
        return JobState.of(self._http.poll(self._path))

    def watch(self) -> Iterator[JobState]:
        """Yield the job's state now and at each change, until it has ended. Raises CallFailed."""
        while True:
            state = self.state()
            yield state
            if state.has_ended:
                return
            try:
                for data in self._http.events(f"{self._path}/events"):
                    if "status" not in data:
                        break
                    state = JobState.of(data)
                    yield state
                    if state.has_ended:
                        return
            except CallFailed:
                # A stream may break, or there may be too many: the state tells whether the farm is still there.
                clock.pause(_PAUSE_SECONDS)

    def wait(self, on_progress: Callable[[JobState], object] | None = None) -> JobState:
        """Wait until the job has ended, and return its last state. Raises JobFailed and CallFailed."""
        for state in self.watch():
            if on_progress:
                on_progress(state)
        if state.status == "failed":
            raise JobFailed(state)
        return state

    def images(self) -> list[Image.Image]:
        """Wait until the job has ended, and return its images. Raises JobFailed and CallFailed."""
        return [self._image(image["url"]) for image in self.wait().data["images"]]

    def cancel(self) -> Literal["cancelled", "stopping", "ended"]:
        """Cancel the job, and return what that did: see `CancelOutcome` in the API's documentation."""
        outcome: Literal["cancelled", "stopping", "ended"] = self._http.post(f"{self._path}/cancel")["outcome"]
        return outcome

    def _image(self, url: str) -> Image.Image:
        image = Image.open(io.BytesIO(self._http.download(url)))
        image.load()
        return image

    def _ipython_display_(self) -> None:
        """Show the job in a notebook: its progress while it runs, then its images."""
        from IPython import display as ipython  # only a notebook has it, and calls this

        display: Any = ipython.display
        shown = display({"text/plain": repr(self)}, raw=True, display_id=True)
        for state in self.watch():
            shown.update({"text/plain": str(state)}, raw=True)
        if state.status == "completed":
            for image in self.images():
                display(image)

    def __repr__(self) -> str:
        return f"Job({self.id!r})"


class Client:
    """A farm at `url`. Without keys on the farm, no `api_key` is needed. Thread-safe."""

    def __init__(self, url: str = "http://127.0.0.1:8000", api_key: str | None = None) -> None:
        self._http = HttpClient(url, api_key)

    def render(
        self,
        prompt: str,
        *images: InputImage,
        model: str = "srpo",
        on_progress: Callable[[JobState], object] | None = None,
        **parameters: Unpack[Parameters],
    ) -> list[Image.Image]:
        """Render a prompt, with input images for a model that takes some, and return the images.

        `model` is `srpo`, `kontext` or any id of the farm. `on_progress` is called with each state of the job. Raises
        CallFailed where the farm refuses the request or does not answer, and JobFailed.
        """
        job = self.submit(prompt, *images, model=model, **parameters)
        job.wait(on_progress)
        return job.images()

    def submit(self, prompt: str, *images: InputImage, model: str = "srpo", **parameters: Unpack[Parameters]) -> Job:
        """Submit a prompt, and return its job at once. Raises CallFailed.

        Images are checked for safety by default, if the farm can.
        """
        chosen = for_images(model, len(images))
        name = chosen.name if chosen else model
        check = {} if "enable_safety_checker" in parameters else check_fields(self._http, name)
        body = {"model": name, "prompt": prompt, **_inputs(name, images), **check, **parameters}
        return self.job(self._http.post("/jobs", body)["id"])

    def job(self, job_id: str) -> Job:
        """Return a job that was submitted before, by its id."""
        return Job(self._http, job_id)

    def models(self) -> list[str]:
        """Return the names of the models that the farm serves now. Raises CallFailed."""
        return [model["name"] for model in self._http.get("/models")["models"] if model["served"]]


def _inputs(name: str, images: tuple[InputImage, ...]) -> dict[str, Any]:
    urls = [url_of(image) for image in images]
    model = find(name)
    if len(urls) > 1 or (urls and model and model.max_inputs > 1):
        return {"image_urls": urls}
    return {"image_url": urls[0]} if urls else {}
