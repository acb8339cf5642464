"""What the routes of every dialect are given."""

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
    """The farm's parts and this API's own."""

    farm: Farm
    authenticator: Authenticator
    held: HeldCalls
    streams: EventStreams
    links: Links

    @property
    def service(self) -> Service:
        return self.farm.service
