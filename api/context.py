"""What the routes of every dialect are given."""

from __future__ import annotations

from dataclasses import dataclass

from api.admission.held_calls import Held
from api.admission.sse import Streams
from api.auth import Doorman
from farm.bootstrap import Farm
from farm.dialects.links import Links
from farm.service import Service


@dataclass(frozen=True, slots=True)
class House:
    """The farm's parts and this API's own."""

    farm: Farm
    doorman: Doorman
    held: Held
    streams: Streams
    links: Links

    @property
    def service(self) -> Service:
        return self.farm.service
