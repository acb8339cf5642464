"""The requests of the callers of a chaos run, drawn from a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tests.images import sample_image

Form = Literal["png", "jpeg"]

CALLERS = ("ada", "bob", "eve")

#: Ways to ask, and how often each is taken, out of the sum of all.
WAYS: Mapping[str, int] = {
    "native": 22,
    "native events": 5,
    "fal queue": 18,
    "fal run": 9,
    "fal image": 6,
    "wavespeed": 14,
    "wavespeed sync": 5,
    "wavespeed image": 3,
    "aimlapi": 6,
    "siraya": 5,
    "openai": 7,
}
#: Ways whose answer is the end of the job: they know no id that could be asked about before.
DIRECT = ("fal run", "wavespeed sync", "aimlapi", "siraya", "openai")
#: Ways that take a webhook, and those that bring an image.
WITH_WEBHOOK = ("native", "fal queue", "wavespeed", "fal image", "wavespeed image")
WITH_IMAGE = ("fal image", "wavespeed image")
_ONE_IMAGE = ("wavespeed", "wavespeed sync", "wavespeed image")

_SIZES = ((256, 256), (256, 256), (320, 256), (256, 384))
#: AI/ML API has no smaller one.
_LARGE = (512, 512)
_COLOURS = ("orange", "teal", "purple", "olive")
_PROMPT = re.compile(r"fox (\d+) of run (\d+)")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of a caller for images, and what else the caller does. Sizes in pixels, times in seconds."""

    number: int
    caller: str
    way: str
    prompt: str
    width: int
    height: int
    steps: int
    seed: int
    images: int = 1
    form: Form = "png"
    enhance: bool = False
    #: The image that it brings, as a file, and how far to go from it.
    image: bytes = b""
    strength: float | None = None
    #: Whether that is uploaded first, or is at a URL of another host, rather than sent as a data URI.
    uploads: bool = False
    hosted: bool = False
    #: The Idempotency-Key; empty: none.
    key: str = ""
    #: Whether the submit is sent once more on purpose, its answer known.
    resends: bool = False
    webhook: bool = False
    start_within: float = 0.0
    #: fal's word for jobs that prefer one worker.
    runner_hint: str = ""
    #: After how long it is cancelled.
    cancel_after: float | None = None
    #: Whether it is deleted when it has ended.
    deletes: bool = False
    #: After how long a direct call is hung up.
    hang_up_after: float | None = None
    #: How long after its answer, or after it was hung up, an equal direct call is made. None: none is.
    call_again_after: float | None = None

    @property
    def is_direct(self) -> bool:
        return self.way in DIRECT


@dataclass(frozen=True, slots=True)
class Habits:
    """The chances, 0 to 1, of callers doing something special, and the images that they request."""

    ways: Mapping[str, int]
    steps: tuple[int, ...] = (2, 4, 8, 16)
    key: float = 0.4
    resend: float = 0.3
    webhook: float = 0.5
    enhance: float = 0.08
    start_within: float = 0.05
    cancel: float = 0.08
    delete: float = 0.05
    hang_up: float = 0.12
    call_again: float = 0.4


#: What a whole run does.
ALL_HABITS = Habits(WAYS)
#: One plain way, nothing special.
PLAIN = Habits({"native": 1}, key=0, webhook=0, enhance=0, start_within=0, cancel=0, delete=0, hang_up=0, call_again=0)


def asks(count: int, seed: int, habits: Habits) -> Iterator[Ask]:
    """Draw so many requests from the seed. None hangs up in the last third: the farm waits 30 s for such callers."""
    dice = random.Random(f"asks {seed}")
    for number in range(count):
        yield _ask(number, seed, dice, habits, may_hang_up=number < count * 2 // 3)


def number_in(prompt: str) -> int | None:
    """Return the number of the request that a prompt belongs to, also if the prompt was enhanced."""
    match = _PROMPT.search(prompt)
    return int(match[1]) if match else None


def _ask(number: int, seed: int, dice: random.Random, habits: Habits, *, may_hang_up: bool) -> Ask:
    (way,) = dice.choices(list(habits.ways), list(habits.ways.values()))
    is_direct, brings = way in DIRECT, way in WITH_IMAGE
    width, height = _LARGE if way == "aimlapi" else dice.choice(_SIZES)
    # Image to image at fal takes ten steps at least.
    steps = 10 if brings else dice.choice(habits.steps)
    key = f"key-{seed}-{number}" if dice.random() < habits.key else ""
    cancels = not is_direct and dice.random() < habits.cancel
    hangs_up = is_direct and may_hang_up and dice.random() < habits.hang_up
    calls_again = is_direct and not key and dice.random() < habits.call_again
    uploads, hosted = way == "fal image" and dice.random() < 0.4, brings and dice.random() < 0.4
    webhook = way in WITH_WEBHOOK and dice.random() < habits.webhook
    return Ask(
        number=number,
        caller=dice.choice(CALLERS),
        way=way,
        prompt=f"fox {number} of run {seed}",
        width=width,
        height=height,
        steps=steps,
        seed=dice.randrange(1, 2**31 - 1),
        images=1 if way in _ONE_IMAGE else dice.choice((1, 1, 1, 1, 1, 1, 2, 4)),
        form=dice.choice(("png", "png", "jpeg")),
        enhance=dice.random() < habits.enhance,
        image=sample_image(width, height, colour=dice.choice(_COLOURS)) if brings else b"",
        strength=dice.choice((0.5, 0.9)) if brings else None,
        uploads=uploads,
        hosted=hosted and not uploads,
        key=key,
        resends=bool(key) and dice.random() < habits.resend,
        webhook=webhook,
        start_within=dice.choice((1.0, 3.0)) if way == "fal queue" and dice.random() < habits.start_within else 0.0,
        runner_hint=dice.choice(("", "", "left", "right")) if way == "fal queue" else "",
        cancel_after=dice.uniform(0, 1.5) if cancels else None,
        deletes=not webhook and not is_direct and dice.random() < habits.delete,
        hang_up_after=dice.uniform(0.1, 1.0) if hangs_up else None,
        call_again_after=dice.uniform(1.5, 3.0) if calls_again else None,
    )
