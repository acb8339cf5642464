"""Ray Serve: `python -m tests.bench.peers.ray_serve PORT WORKERS`."""

from __future__ import annotations

import sys
import threading
from typing import Any

import ray
from ray import serve
from starlette.requests import Request as HttpRequest

from tests.bench.peers.model import BATCH_SECONDS, MAX_BATCH, Answer, Request, load, render


@serve.deployment(num_replicas=int(sys.argv[2]), max_ongoing_requests=2 * MAX_BATCH)
class Flux:
    def __init__(self) -> None:
        self.pipeline: Any = load()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_SECONDS)
    async def render(self, requests: list[Request]) -> list[Answer]:
        return render(self.pipeline, requests)

    async def __call__(self, request: HttpRequest) -> Any:
        return await self.render(await request.json())


if __name__ == "__main__":
    ray.init(include_dashboard=False, num_cpus=int(sys.argv[2]), log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Flux.bind(), route_prefix="/predict")  # type: ignore[attr-defined]
    threading.Event().wait()
