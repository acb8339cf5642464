"""The parts of the API that the routes of every dialect use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from api.admission.held_calls import HeldCalls
from api.admission.sse import EventStreams
from api.auth import Authenticator
from farm.bootstrap import Farm
from farm.dialects.links import Links
from farm.dialects.unknown_fields import UnknownFields
from farm.image_calls import ImageCalls
from farm.service import Service


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The parts of the farm and of this API process."""

    farm: Farm
    authenticator: Authenticator
    held_calls: HeldCalls
    streams: EventStreams
    #: The base of URLs for the current request, and the links below a base.
    base: Callable[[], str]
    links_at: Callable[[str], Links]
    unknown_fields: UnknownFields

    @property
    def links(self) -> Links:
        """The links for the caller of the current request."""
        return self.links_at(self.base())

    @property
    def service(self) -> Service:
        return self.farm.service

    @property
    def image_calls(self) -> ImageCalls:
        return self.farm.image_calls
