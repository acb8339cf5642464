"""`farm webhooks`: list, show, repeat and test webhook deliveries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from farm import clock
from farm.cli.client import Client, escaped
from farm.cli.search import Item, Since, confirm, newest, say_if_none, search
from farm.cli.terminal import show_table
from farm.printable import say
from farm.settings import load

app = typer.Typer(help="List, show, repeat and test webhook deliveries.")

DeliveryId = Annotated[str, typer.Argument(metavar="ID", help="Id of the delivery.")]

Receiver = Annotated[
    str | None, typer.Option(help="Only those to this receiver: the beginning of its URL.", metavar="URL")
]

#: How long `test` waits for the outcome, in seconds. One attempt takes less.
_TEST_SECONDS = 30.0


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_deliveries()


@app.command("list")
def list_deliveries(
    count: Annotated[int, typer.Option("-n", "--limit", help="Number of deliveries.", min=1, max=100_000)] = 20,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that were given up.")] = False,
    receiver: Receiver = None,
    since: Since = None,
) -> None:
    """List deliveries, the newest first."""
    found = newest(_found(Client(load()), failed=failed, receiver=receiver, since=since), count)
    say_if_none(found)
    if found:
        columns = ("id", "event", "receiver", "status", "attempts", "last", "next attempt")
        show_table(columns, [_row(item) for item in found])


@app.command()
def show(delivery_id: DeliveryId) -> None:
    """Show a delivery with every attempt."""
    _show(Client(load()).get(f"/deliveries/{escaped(delivery_id)}"))


@app.command()
def redeliver(
    delivery_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Id of the delivery.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All deliveries that were given up.")] = False,
    receiver: Receiver = None,
    since: Since = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Repeat deliveries now, with the same event ids.

    Give one id, or --all with filters.
    """
    if everything == (delivery_id is not None):
        raise typer.BadParameter("give the id of a delivery, or --all")
    client = Client(load())
    found = [] if delivery_id else [item["id"] for item in _found(client, failed=True, receiver=receiver, since=since)]
    if everything:
        confirm(f"Repeat {len(found)} deliveries?", found, is_sure=yes)
    for each in [delivery_id] if delivery_id else reversed(found):
        client.post(f"/deliveries/{escaped(each)}/redeliver")
        say(f"{each} is queued again")


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


def _found(client: Client, *, failed: bool, receiver: str | None, since: str | None) -> Iterator[Item]:
    """Yield the deliveries that the options select, newest first."""

    def is_wanted(item: Item) -> bool:
        return (not failed or item["status"] == "failed") and str(item["receiver"]).startswith(receiver or "")

    return search(client, "/deliveries", is_wanted, since=since)


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    attempts = item["attempts"]
    last = outcome_text(attempts[-1]) if attempts else ""
    return item["id"], item["event"], item["receiver"], item["status"], len(attempts), last, item["next_try_at"]


def _show(delivery: dict[str, Any]) -> None:
    for name in ("id", "job", "event", "receiver", "status", "created_at", "next_try_at"):
        if delivery[name] is not None:
            say(f"{name:<12} {delivery[name]}")
    rows = [
        (number, attempt["at"], f"{attempt['seconds']:.3f} s", outcome_text(attempt), attempt["answer"])
        for number, attempt in enumerate(delivery["attempts"], start=1)
    ]
    if rows:
        show_table(("attempt", "at", "took", "outcome", "answer"), rows)


def outcome_text(attempt: dict[str, Any]) -> str:
    """Return what an attempt came to: the receiver's status, or the error."""
    return f"HTTP {attempt['status']}" if attempt["status"] else str(attempt["error"])
