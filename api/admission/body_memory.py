"""The memory that large bodies may take together: without a bound, as many of them as there are threads."""

from __future__ import annotations

import flask

from api.admission.slots import CallerSlots, caller_of_request
from farm.domain.errors import TooManyHeld

#: Bytes of large bodies that are being dealt with at a time, those of held calls among them. While a body is taken
#: apart, its bytes are there about four times.
MOST = 512 * 1024 * 1024


class BodyMemoryBudget(CallerSlots):
    """So many bytes. Who finds too few free is told to come back."""

    def reserve(self, size: int) -> None:
        """Take so many bytes, until the current request is answered. Raises TooManyHeld."""
        caller = caller_of_request()
        if not self.take(caller, size):
            raise TooManyHeld("Too many large bodies are being dealt with; name images by URL, or come back.")

        @flask.after_this_request
        def give_back(response: flask.Response) -> flask.Response:
            self.give_back(caller, size)
            return response
