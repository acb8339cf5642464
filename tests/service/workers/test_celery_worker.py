"""A wake-up in the hands of Celery, whose connection to Redis is lost meanwhile."""

from __future__ import annotations

from typing import Any

from farm.celery import application
from workers.celery_worker import wake_up_task


def work() -> None:
    """Find nothing to do."""


def received(redis_url: str) -> Any:
    """Return a wake-up as Celery receives it, over a connection that is closed by now."""
    app = application(redis_url)
    task = wake_up_task(app, work)
    task.delay()
    came: list[Any] = []
    with app.connection_for_read() as connection, app.amqp.TaskConsumer(connection, no_ack=True) as consumer:
        consumer.on_message = came.append
        connection.drain_events(timeout=10)
    (message,) = came
    return task.Request(
        message,
        on_ack=message.ack_log_error,
        on_reject=message.reject_log_error,
        app=app,
        task=task,
        connection_errors=connection.connection_errors,
    )


def test_a_wake_up_needs_no_connection_once_it_was_received(redis_url: str) -> None:
    """Celery would acknowledge it over the lost one, and for that error end the process with its weights."""
    request = received(redis_url)

    request.on_accepted(1, 0.0)

    assert request.acknowledged
