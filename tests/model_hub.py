"""A model hub that serves folders by the routes that the downloader `hf` asks."""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.webhook_receiver import Server

_COMMIT = "0" * 40


@contextmanager
def running_hub(repositories: Mapping[str, Path]) -> Iterator[str]:
    """Yield the address of a hub with these folders as its repositories."""
    server = Server(_handler(repositories))
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def _handler(repositories: Mapping[str, Path]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, *_: object) -> None:
            print(self.command, self.path, flush=True)

        def _answer(self, *, with_body: bool) -> None:
            path = urllib.parse.unquote(self.path.partition("?")[0]).strip("/")
            body = _listing(repositories, path) if path.startswith("api/") else _file(repositories, path)
            self.send_response(404 if body is None else 200)
            self.send_header("X-Repo-Commit", _COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(body or b"").hexdigest()}"')
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if with_body:
                self.wfile.write(body or b"")

    return Handler


def _listing(repositories: Mapping[str, Path], path: str) -> bytes | None:
    """Return the description of a repository, or its files: api/models/OWNER/NAME/(revision|tree)/REVISION."""
    _, _, owner, name, kind, *_ = [*path.split("/"), *[""] * 5]
    folder = repositories.get(f"{owner}/{name}")
    if folder is None:
        return None
    files = [file for file in folder.rglob("*") if file.is_file()]
    names = [str(file.relative_to(folder)) for file in files]
    tree = [
        {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
        for name, file in zip(names, files, strict=True)
    ]
    described = {"id": f"{owner}/{name}", "sha": _COMMIT, "siblings": [{"rfilename": name} for name in names]}
    return json.dumps(tree if kind == "tree" else described).encode()


def _file(repositories: Mapping[str, Path], path: str) -> bytes | None:
    """Return a file: OWNER/NAME/resolve/REVISION/FILE."""
    owner, name, _, _, *parts = path.split("/")
    file = repositories[f"{owner}/{name}"].joinpath(*parts)
    return file.read_bytes() if file.is_file() else None
