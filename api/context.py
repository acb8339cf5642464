"""The parts of the API that the routes of every dialect use."""

from __future__ import annotations

from dataclasses import dataclass

from api.admission.held_calls import HeldCalls
from api.admission.sse import EventStreams
from api.auth import Authenticator
from farm.bootstrap import Farm
from farm.dialects.links import Links
from farm.service import Service


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The parts of the farm and of this API process."""

    farm: Farm
    authenticator: Authenticator
    held_calls: HeldCalls
    streams: EventStreams
    links: Links

    @property
    def service(self) -> Service:
        return self.farm.service
