"""The benchmark's baseline: `python -m tests.bench.baseline`, a bare Flask application on the API's own server.

`POST /echo` reads JSON and answers with it. `POST /submit` is the least that a submit could be: the same validation as
the API's, one script call that writes one hash to the same Redis, the same line in the log, and the same answer.
`POST /submit-without-log` leaves out the line.
"""

from __future__ import annotations

import argparse
import uuid
from pathlib import Path
from typing import Any

import flask
import redis

from api.server import Server
from farm.dialects import fields, native
from farm.dialects.answers.native import AcceptedJob
from farm.domain.job import NewJob, Order
from farm.jobstore.connection import connect
from farm.jobstore.job_log import JobLog
from farm.process.embedded_redis import address
from farm.process.listen import ListenAddress
from farm.service import random_seed
from farm.settings import Settings
from farm.telemetry.log import set_up_log

_WRITE_ONE_HASH = "return redis.call('HSET', 'baseline:' .. ARGV[1], 'state', 'created', 'request', ARGV[2])"


def create_app(client: redis.Redis, base: str) -> flask.Flask:
    """Return the bare application; `base` begins the URLs in its answers."""
    app = flask.Flask("baseline")
    write, log = client.register_script(_WRITE_ONE_HASH), JobLog(client)

    @app.post("/echo")
    def echo() -> Any:
        return flask.request.get_json()

    @app.post("/submit")
    def submit() -> tuple[AcceptedJob, int]:
        job_id, order = written()
        log.accepted(job_id, NewJob(job_id, "local", order), repeated=False)
        return native.accepted(job_id, base), 202

    @app.post("/submit-without-log")
    def submit_without_log() -> tuple[AcceptedJob, int]:
        return native.accepted(written()[0], base), 202

    def written() -> tuple[str, Order]:
        body = fields.decode(flask.request.get_data())
        order = native.read(body, model="srpo", default_seed=random_seed())
        job_id = str(uuid.uuid4())
        write(args=[job_id, order.request.model_dump_json()])
        return job_id, order

    return app


class BaselineServer(Server):
    """The API's server with the API's options, and the bare application."""

    def load(self) -> flask.Flask:
        url = address(self._data_dir)
        assert url is not None, "the Redis of this data folder must run"
        return create_app(connect(url), self._address.url)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    options = parser.parse_args()
    set_up_log("json", service="baseline")
    BaselineServer(Settings(), ListenAddress("127.0.0.1", options.port), data_dir=options.data_dir).run()


if __name__ == "__main__":
    main()
