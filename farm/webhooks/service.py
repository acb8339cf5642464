"""Webhook operations of callers: list deliveries, redeliver one, test a receiver, read the signing secret."""

from __future__ import annotations

import uuid

from farm.auth.api_keys import Caller
from farm.domain.delivery import Delivery
from farm.domain.errors import NotFound
from farm.domain.job import Webhook
from farm.ssrf_safe_http import SsrfSafeClient
from farm.webhooks.secrets import Secrets
from farm.webhooks.store import DeliveryStore
from farm.webhooks.url_check import check


class WebhookService:
    """Lets a caller see its own deliveries only, and an admin all. Any other delivery is answered as not found."""

    def __init__(self, deliveries: DeliveryStore, *, secrets: Secrets, outbound: SsrfSafeClient) -> None:
        self._deliveries = deliveries
        self._secrets = secrets
        self._outbound = outbound

    def page(self, caller: Caller, *, before_us: int | None, count: int) -> list[Delivery]:
        """Return a page of the caller's deliveries, newest first."""
        return self._deliveries.page(None if caller.is_admin else caller.id, before_us=before_us, count=count)

    def get(self, caller: Caller, delivery_id: str) -> Delivery:
        """Return one of the caller's deliveries. Raises NotFound."""
        delivery = self._deliveries.get(delivery_id)
        if delivery is None or not (caller.is_admin or delivery.caller == caller.id):
            raise NotFound(f"No delivery has the id '{delivery_id}'.")
        return delivery

    def redeliver(self, caller: Caller, delivery_id: str) -> Delivery:
        """Attempt a delivery again now, from the beginning of its schedule. The event keeps its id."""
        self._deliveries.redeliver(self.get(caller, delivery_id).id, limits=caller.limits)
        return self.get(caller, delivery_id)

    def test(self, caller: Caller, url: str) -> Delivery:
        """Send a `test` event to `url`, once. Raises InvalidRequest."""
        check(self._outbound, "url", url)
        receiver = Webhook(url).receiver
        name = self._deliveries.enqueue_test(
            str(uuid.uuid4()), caller=caller.id, url=url, receiver=receiver, limits=caller.limits
        )
        return self.get(caller, name)

    def secret(self, caller: Caller) -> str:
        """Return the secret that signs the caller's webhooks."""
        return self._secrets.of(caller.id)
