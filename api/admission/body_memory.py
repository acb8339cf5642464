"""Process-wide memory budget for buffered request bodies."""

from __future__ import annotations

import flask

from api.admission.caller import current_caller_id
from farm.concurrency.slots import Slots
from farm.domain.errors import ConcurrencyLimitReached

#: Bytes of large bodies in memory at a time, those of held calls included. While a body is parsed, its bytes are there
#: about four times.
MAX_BYTES = 512 * 1024 * 1024


class BodyMemoryBudget(Slots):
    """A budget in bytes: a request whose body does not fit is refused."""

    def reserve(self, size: int) -> None:
        """Take `size` bytes until the current request is answered. Raises ConcurrencyLimitReached."""
        caller = current_caller_id()
        if not self.acquire(caller, size):
            raise ConcurrencyLimitReached(
                "Too many large request bodies are being processed; name images by URL, or try again later."
            )

        @flask.after_this_request
        def release(response: flask.Response) -> flask.Response:
            self.release(caller, size)
            return response
