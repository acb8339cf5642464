"""`farm webhooks`: list, show, repeat and test webhook deliveries."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from farm import clock
from farm.cli.client import Client, escaped
from farm.cli.terminal import show_table
from farm.printable import say
from farm.settings import load

app = typer.Typer(help="List, show, repeat and test webhook deliveries.")

DeliveryId = Annotated[str, typer.Argument(metavar="ID", help="Id of the delivery.")]

#: How long `test` waits for the outcome, in seconds. One attempt takes less.
_TEST_SECONDS = 30.0


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_deliveries()


@app.command("list")
def list_deliveries(
    count: Annotated[int, typer.Option("-n", help="Number of deliveries.", min=1, max=100)] = 20,
) -> None:
    """List the newest deliveries."""
    found = Client(load()).get("/deliveries", limit=count)["deliveries"]
    show_table(
        ("id", "event", "receiver", "status", "attempts", "last", "next attempt"), [_row(item) for item in found]
    )


@app.command()
def show(delivery_id: DeliveryId) -> None:
    """Show a delivery with every attempt."""
    _show(Client(load()).get(f"/deliveries/{escaped(delivery_id)}"))


@app.command()
def redeliver(delivery_id: DeliveryId) -> None:
    """Repeat a delivery now, with the same event id."""
    Client(load()).post(f"/deliveries/{escaped(delivery_id)}/redeliver")
    say(f"{delivery_id} is queued again")


@app.command()
def test(url: Annotated[str, typer.Argument(metavar="URL", help="Address of the receiver.")]) -> None:
    """Send one signed test event to URL and show the answer."""
    client = Client(load())
    delivery = client.post("/deliveries", {"url": url})
    until = clock.monotonic() + _TEST_SECONDS
    while delivery["status"] == "waiting" and clock.monotonic() < until:
        clock.pause(0.1)
        delivery = client.get(f"/deliveries/{delivery['id']}")
    _show(delivery)
    if delivery["status"] != "delivered":
        raise typer.Exit(1)


@app.command()
def secret() -> None:
    """Print the secret that signs your webhooks."""
    say(Client(load()).get("/webhook_secret")["secret"])


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    attempts = item["attempts"]
    last = _outcome(attempts[-1]) if attempts else ""
    return item["id"], item["event"], item["receiver"], item["status"], len(attempts), last, item["next_try_at"]


def _show(delivery: dict[str, Any]) -> None:
    for name in ("id", "job", "event", "receiver", "status", "created_at", "next_try_at"):
        if delivery[name] is not None:
            say(f"{name:<12} {delivery[name]}")
    rows = [
        (number, attempt["at"], f"{attempt['seconds']:.3f} s", _outcome(attempt), attempt["answer"])
        for number, attempt in enumerate(delivery["attempts"], start=1)
    ]
    if rows:
        show_table(("attempt", "at", "took", "outcome", "answer"), rows)


def _outcome(attempt: dict[str, Any]) -> str:
    return f"HTTP {attempt['status']}" if attempt["status"] else str(attempt["error"])
