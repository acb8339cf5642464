"""Flask and Celery: gunicorn serves `web`, `celery -A tests.bench.peers.flask_celery worker` renders."""

from __future__ import annotations

import os
from typing import Any

import flask
from celery import Celery, signals

from tests.bench.peers.model import Answer, Request, load, render

celery = Celery(broker=os.environ["PEER_REDIS"], backend=os.environ["PEER_REDIS"])
web = flask.Flask(__name__)
_loaded: dict[str, Any] = {}


@signals.worker_process_init.connect
def _load(**_: Any) -> None:
    _loaded["pipeline"] = load()


@celery.task
def image(request: Request) -> Answer:
    return render(_loaded["pipeline"], [request])[0]


@web.post("/predict")
def predict() -> Answer:
    answer: Answer = image.delay(flask.request.get_json()).get(timeout=60)
    return answer
