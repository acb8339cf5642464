"""LitServe: `python -m tests.bench.peers.lit_serve PORT WORKERS`."""

from __future__ import annotations

import sys
from typing import Any

import litserve

from tests.bench.peers.model import BATCH_SECONDS, MAX_BATCH, Answer, Request, load, render


class Flux(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.pipeline: Any = load()

    def predict(self, x: list[Request]) -> list[Answer]:
        return render(self.pipeline, x)


if __name__ == "__main__":
    api = Flux(max_batch_size=MAX_BATCH, batch_timeout=BATCH_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(sys.argv[2]), timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
