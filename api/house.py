"""What the routes of every dialect are given."""

from __future__ import annotations

from dataclasses import dataclass

from api.auth import Doorman
from api.held import Held
from api.streams import Streams
from farm.bootstrap import Farm
from farm.links import Links
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
