"""The callers: each submits, repeats without an answer, polls, cancels, downloads, and records its answers."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import urllib3

from tests.chaos.callers import WAYS, Call, JobView, Way, content_of, native_view, source_of
from tests.chaos.input_host import InputHost
from tests.chaos.pixels import is_right
from tests.chaos.receivers import Receivers
from tests.chaos.records import (
    UNTOLD,
    Acceptance,
    CallAgain,
    Cancel,
    Deletion,
    Fetch,
    Given,
    Observations,
    Oddity,
    Overheard,
    Sight,
)
from tests.chaos.requests import CALLERS, Ask
from tests.farms import Answer

#: How long an answer may take, in seconds; one that is held takes longer.
_ANSWER_SECONDS = 10.0
_HELD_SECONDS = 60.0
#: Pauses between two looks at a job grow from the first to the last.
_LOOK_PAUSES = (0.1, 0.8)
#: Pauses before a call is sent again.
_AGAIN_PAUSES = (0.1, 1.5)
#: How often another caller's job is asked for.
_NOSY = 0.02


class NoAnswer(Exception):
    """The connection was refused or broke, or there was no answer in time."""


class SharedState:
    """The state that all callers share: the farm's addresses and keys, the clock of the run, and the log."""

    def __init__(
        self,
        urls: Sequence[str],
        keys: Mapping[str, str],
        observations: Observations,
        receivers: Receivers,
        inputs: InputHost,
        *,
        seconds: float,
    ) -> None:
        self.observations = observations
        self.receivers = receivers
        self.inputs = inputs
        #: How long one caller goes on with one ask, in seconds.
        self.seconds = seconds
        self._urls = urls
        self._keys = keys
        self._http = urllib3.PoolManager(retries=False, maxsize=64)

    def send(self, dice: random.Random, caller: str, call: Call, *, seconds: float = _ANSWER_SECONDS) -> Answer:
        """Return the answer of any of the farm's APIs. Raises NoAnswer."""
        headers = {"Authorization": f"Bearer {self._keys[caller]}", **call.headers}
        url = dice.choice(self._urls) + call.path
        try:
            timeout = urllib3.Timeout(connect=2.0, read=seconds)
            return Answer(self._http.request(call.method, url, body=call.content, headers=headers, timeout=timeout))
        except urllib3.exceptions.HTTPError as error:
            raise NoAnswer from error

    def stream(self, dice: random.Random, caller: str, path: str) -> urllib3.BaseHTTPResponse:
        """Return a streamed answer. Raises NoAnswer."""
        headers = {"Authorization": f"Bearer {self._keys[caller]}"}
        try:
            url, timeout = dice.choice(self._urls) + path, urllib3.Timeout(connect=2.0, read=_ANSWER_SECONDS)
            return self._http.request("GET", url, headers=headers, timeout=timeout, preload_content=False)
        except urllib3.exceptions.HTTPError as error:
            raise NoAnswer from error


class Client:
    """One caller with one request."""

    def __init__(self, shared: SharedState, ask: Ask) -> None:
        self._shared = shared
        self._log = shared.observations
        self._ask = ask
        self._way: Way = WAYS[ask.way]
        self._dice = random.Random(f"client {ask.prompt}")
        self._until = time.monotonic() + shared.seconds
        #: How often the last submit was sent.
        self._sent = 0

    def work(self) -> None:
        """Run from the submit to the end, or to the time limit: the judge then has the record."""
        with suppress(TimeoutError):
            self._work()

    def _work(self) -> None:
        ask = self._ask
        call = self._way.submit(ask, image=self._image(), hook=self._hook())
        if ask.hang_up_after is None:
            result = self._submit(call)
        elif again := self._hang_up(call, ask.hang_up_after):
            result = again
        else:
            return
        if ask.resends:
            self._submit(call)
            self._refuse_another(call)
        result = self._follow(result)
        if ask.hang_up_after is None and ask.call_again_after is not None:
            time.sleep(ask.call_again_after)
            self._follow(self._submit(_marked(call)))
        if result.state == "completed":
            self._fetch_all(result)
        if ask.deletes and result.has_ended:
            self._delete(result.job)

    def _hook(self) -> str:
        return self._shared.receivers.address(self._ask.caller, self._ask.number) if self._ask.webhook else ""

    # Asking

    def _image(self) -> str:
        """Return the URL of the request's input image; empty: none."""
        if self._ask.hosted:
            return self._shared.inputs.address(self._ask.number, self._ask.image)
        if not self._ask.uploads:
            return source_of(self._ask, "")
        wish = {"content_type": "image/png", "file_name": "fox.png"}
        ticket = self._answer(Call("POST", "/fal/rest/storage/upload/initiate", wish), good=(200,)).json
        upload = Call("PUT", _path(ticket["upload_url"]), self._ask.image, {"Content-Type": "image/png"})
        self._answer(upload, good=(200, 201, 204))
        return str(ticket["file_url"])

    def _submit(self, call: Call) -> JobView:
        """Submit until the job is accepted, as the providers' libraries do."""
        self._sent = 0
        for pause in self._pauses(_AGAIN_PAUSES):
            self._sent += 1
            try:
                answer = self._send(call, seconds=_HELD_SECONDS if self._ask.is_direct else _ANSWER_SECONDS)
            except NoAnswer:
                time.sleep(pause)
                continue
            result = self._way.submitted(self._ask, answer)
            if result is not None:
                self._accept(result)
                return result
            self._complain_unless_passing(call, answer)
            time.sleep(pause)
        raise self._given_up(call)

    def _refuse_another(self, call: Call) -> None:
        """Check that the same Idempotency-Key with another body is refused."""
        assert isinstance(call.body, Mapping)
        other = replace(call, body={**call.body, "seed": 1})
        answer = self._answer(other, good=(200, 201, 202, 409, 422))
        if answer.status < 300:
            self._odd("key taken for another", f"answered {answer.status} to the same key with another body")

    def _accept(self, result: JobView) -> None:
        self._log.accepted.append(Acceptance(self._ask.number, result.job, time.time()))
        if self._ask.is_direct and result.state == "completed":
            self._log.given.append(Given(self._ask.number, result.job))
        self._see(result)

    def _hang_up(self, call: Call, seconds: float) -> JobView | None:
        """Make a call and hang up on it; return the result of an equal one where the request has one made."""
        began = time.time()
        try:
            answer = self._send(call, seconds=seconds)
        except NoAnswer:
            return self._call_again(call, began, time.time())
        if result := self._way.submitted(self._ask, answer):
            self._accept(result)
        return None

    def _call_again(self, call: Call, began: float, hung_up: float) -> JobView | None:
        if self._ask.call_again_after is None:
            return None
        time.sleep(self._ask.call_again_after)
        again = time.time()
        result = self._submit(_marked(call))
        self._log.calls_again.append(CallAgain(self._ask.number, began, hung_up, again, time.time(), self._sent))
        return result

    # Watching

    def _follow(self, result: JobView) -> JobView:
        """Return the job's end. On the way it is cancelled, if the request says so."""
        cancel_at = None if self._ask.cancel_after is None else time.monotonic() + self._ask.cancel_after
        if self._ask.way == "native events" and cancel_at is None:
            self._watch(result.job)
        for pause in self._pauses(_LOOK_PAUSES):
            if result.has_ended:
                return result
            if cancel_at is not None and time.monotonic() >= cancel_at:
                self._cancel(result.job)
                cancel_at = None
            result = self._look(result.job) or result
            if not result.has_ended:
                time.sleep(pause)
        raise TimeoutError

    def _look(self, job: str) -> JobView | None:
        """Return the job's state as the farm shows it now; None: no answer."""
        call = self._way.look(self._ask, job)
        for _ in range(2):
            try:
                answer = self._send(call)
            except NoAnswer:
                return None
            result = self._way.seen(self._ask, job, answer)
            if not isinstance(result, Call):
                break
            call = result
        if result is None:
            self._complain_unless_passing(call, answer)
        if not isinstance(result, JobView):
            return None
        self._see(result)
        if self._dice.random() < _NOSY:
            self._pry(job)
        return result

    def _watch(self, job: str) -> None:
        """Follow the job's stream of events until it breaks, and record its states."""
        with suppress(NoAnswer, urllib3.exceptions.HTTPError, json.JSONDecodeError):
            stream = self._shared.stream(self._dice, self._ask.caller, f"/farm/v1/jobs/{job}/events")
            with closing(stream):
                for line in _lines(stream):
                    if line.startswith("data: ") and '"id"' in line:
                        self._see(native_view(json.loads(line.removeprefix("data: "))))

    def _see(self, result: JobView) -> None:
        if result.state == UNTOLD:
            return
        names = tuple(url.rpartition("/")[2] for url in result.images if url.startswith("http"))
        self._log.sights.append(Sight(result.job, time.time(), result.state, result.code, names, result.started))

    def _pry(self, job: str) -> None:
        """Check that another caller does not find the job."""
        other = self._dice.choice([name for name in CALLERS if name != self._ask.caller])
        with suppress(NoAnswer):
            answer = self._shared.send(self._dice, other, self._way.look(self._ask, job))
            if answer.status == 200:
                self._odd("shown to another", f"{other} was shown {self._ask.caller}'s job {job}")

    # What comes after

    def _cancel(self, job: str) -> None:
        self._log.cancelling.add(job)
        for pause in self._pauses(_AGAIN_PAUSES):
            with suppress(NoAnswer):
                answer = self._send(self._way.cancel(job))
                if outcome := self._way.cancelled(answer):
                    self._log.cancels.append(Cancel(job, time.time(), outcome))
                    return
                self._complain_unless_passing(self._way.cancel(job), answer)
            time.sleep(pause)
        raise TimeoutError

    def _fetch_all(self, result: JobView) -> None:
        for number, image in enumerate(result.images):
            content = content_of(image)
            if content is None:
                answer = self._answer(Call("GET", _path(image)), good=(200, 404))
                status, content = answer.status, answer.body
            else:
                status = 200
            right = status == 200 and is_right(self._ask, number, result.prompt, content)
            self._log.fetches.append(Fetch(result.job, number, time.time(), status, right))
        if not result.prompt.startswith(self._ask.prompt) or (result.prompt != self._ask.prompt) != self._ask.enhance:
            self._odd("wrong prompt", f"{result.job} rendered {result.prompt!r}")

    def _delete(self, job: str) -> None:
        answer = self._answer(Call("DELETE", f"/farm/v1/jobs/{job}"), good=(204, 404))
        self._log.deletions.append(Deletion(job, time.time()))
        answer = self._answer(Call("GET", f"/farm/v1/jobs/{job}"), good=(200, 404))
        if answer.status == 200:
            self._odd("deleted, yet there", f"job {job}")

    # Sending

    def _send(self, call: Call, *, seconds: float = _ANSWER_SECONDS) -> Answer:
        return self._shared.send(self._dice, self._ask.caller, call, seconds=seconds)

    def _answer(self, call: Call, *, good: Sequence[int]) -> Answer:
        """Return the answer to a call, which is repeated until the status is one of these."""
        for pause in self._pauses(_AGAIN_PAUSES):
            with suppress(NoAnswer):
                answer = self._send(call)
                if answer.status in good:
                    return answer
                self._complain_unless_passing(call, answer)
            time.sleep(pause)
        raise self._given_up(call)

    def _given_up(self, call: Call) -> TimeoutError:
        """Record that a call was refused, or not answered, until the time was up: faults are over sooner."""
        self._odd("never served", f"{call.method} {call.path}")
        return TimeoutError(call.path)

    def _pauses(self, bounds: tuple[float, float]) -> Iterator[float]:
        """Yield growing pauses in seconds, until the time is up."""
        pause, longest = bounds
        while time.monotonic() < self._until:
            yield self._dice.uniform(0.5, 1.0) * pause
            pause = min(1.5 * pause, longest)

    def _complain_unless_passing(self, call: Call, answer: Answer) -> None:
        """Record an answer other than 503, 504, or 429 with Retry-After: a farm in trouble gives no other."""
        if answer.status in (429, 503, 504) and (answer.status != 429 or "retry-after" in answer.headers):
            return
        self._odd("odd answer", f"{call.method} {call.path} was answered {answer.status}: {answer.body[:300]!r}")

    def _odd(self, rule: str, what: str) -> None:
        self._log.oddities.append(Oddity(rule, f"ask {self._ask.number} ({self._ask.way})", what))


def serve_all(shared: SharedState, asks: Iterator[Ask], *, clients: int, progress: Any) -> None:
    """Make all requests, with so many clients at a time."""
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                ask = next(asks, None)
                if ask is None:
                    return
                shared.observations.asks[ask.number] = ask
            Client(shared, ask).work()
            progress()

    threads = [threading.Thread(target=work, name=f"client {number}", daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def listening(shared: SharedState) -> Iterator[None]:
    """Have each caller follow the event stream of all its jobs, inside the block."""
    over = threading.Event()
    threads = [threading.Thread(target=_listen, args=(shared, caller, over), daemon=True) for caller in CALLERS]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _listen(shared: SharedState, caller: str, over: threading.Event) -> None:
    dice = random.Random(f"listener {caller}")
    while not over.wait(_AGAIN_PAUSES[0]):
        stopped = suppress(NoAnswer, urllib3.exceptions.HTTPError, json.JSONDecodeError)
        with stopped, closing(shared.stream(dice, caller, "/farm/v1/events")) as stream:
            for line in _lines(stream):
                if over.is_set():
                    return
                if line.startswith("data: ") and '"id"' in line:
                    event = json.loads(line.removeprefix("data: "))
                    shared.observations.overheard.append(Overheard(caller, event["id"], event["status"]))


def _lines(stream: urllib3.BaseHTTPResponse) -> Iterator[str]:
    """Yield the lines of a stream as they come."""
    rest = b""
    for piece in stream.stream(4096):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in whole)


def _marked(call: Call) -> Call:
    """Return the call as the providers' libraries send it again."""
    return replace(call, headers={**call.headers, "X-Stainless-Retry-Count": "1"})


def _path(url: str) -> str:
    """Return a URL of the farm's as a path, which each of its APIs serves."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path
