"""A real S3 server for tests: OpenStack Swift with its S3 API, on loopback, its data in a folder.

It checks signatures and their expiry, as production stores do. One copy of everything; four processes.
"""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from farm.process import child
from tests.farms import free_port, wait_for

#: Who may use it: an account of Swift's `tempauth`, and its password.
USER, SECRET = "test:tester", "testing"
BUCKET = "images"

_SERVERS = ("account", "container", "object")

#: Builds a ring of one device for each kind of server. Run by a process of its own: Swift warns while it is imported.
_RINGS = """
import sys
from swift.common.ring import RingBuilder
folder, *ports = sys.argv[1:]
for name, port in zip(("account", "container", "object"), map(int, ports)):
    builder = RingBuilder(part_power=0, replicas=1, min_part_hours=0)
    address = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "device": "disk"} | address)
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{name}.ring.gz")
"""

_COMMON = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
user = {user}
workers = 0
log_level = WARNING
"""

_STORING = """
[pipeline:main]
pipeline = {name}-server

[app:{name}-server]
use = egg:swift#{name}
"""

_PROXY = f"""
[pipeline:main]
pipeline = catch_errors s3api tempauth slo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:s3api]
use = egg:swift#s3api

[filter:tempauth]
use = egg:swift#tempauth
user_{USER.replace(":", "_")} = {SECRET} .admin

[filter:slo]
use = egg:swift#slo
"""


class S3:
    """A running server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def environment(self, port: int | None = None) -> dict[str, str]:
        """Return boto3's variables for this server, or for a proxy of it that listens on `port`."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def place(self) -> Place:
        """Return a new prefix in a bucket, seen straight from the server."""
        return Place(self._client, BUCKET, f"tests/{uuid.uuid4().hex[:12]}")

    @cached_property
    def _client(self) -> Any:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=USER,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"}),
        )
        client.create_bucket(Bucket=BUCKET)
        return client


@dataclass(frozen=True, slots=True)
class Place:
    """The objects under a prefix, seen without the farm. Names are relative to the prefix."""

    client: Any
    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def names(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        found = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return [name.removeprefix(f"{self.prefix}/") for name in found]

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")
        return found | {"Body": found["Body"].read()}

    def put(self, name: str, content: bytes = b"content") -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=content)


@contextmanager
def running_s3(folder: Path) -> Iterator[S3]:
    """Yield a server; its processes die with this one."""
    _refuse_without_xattrs(folder)
    (folder / "devices" / "disk").mkdir(parents=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = tests\n")
    ports = {name: free_port() for name in (*_SERVERS, "proxy")}
    rings = [sys.executable, "-W", "ignore", "-c", _RINGS, str(folder), *(str(ports[name]) for name in _SERVERS)]
    subprocess.run(rings, check=True, capture_output=True)
    servers = [_start(folder, name, port) for name, port in ports.items()]
    try:
        for port in ports.values():
            wait_for(partial(_listens, port), seconds=30, what=f"the S3 server (its logs are in {folder})")
        yield S3(ports["proxy"])
    finally:
        for server in servers:
            server.kill()
        for server in servers:
            server.wait()


def _start(folder: Path, name: str, port: int) -> subprocess.Popen[bytes]:
    body = _PROXY if name == "proxy" else _STORING
    settings = folder / f"{name}.conf"
    settings.write_text((_COMMON + body).format(name=name, port=port, folder=folder, user=getpass.getuser()))
    program = str(Path(sys.executable).with_name(f"swift-{name}-server"))
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            child.command(sys.executable, "-W", "ignore", program, str(settings), "-v"), stdout=log, stderr=log
        )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _refuse_without_xattrs(folder: Path) -> None:
    """Fail on a file system without extended attributes, in which Swift keeps an object's metadata."""
    probe = folder / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.farm", b"1")
    except OSError as error:
        raise AssertionError(
            f"The S3 server of the tests needs a file system with user attributes, and {folder} has none "
            f"({error.strerror}); run pytest with --basetemp on another file system, such as ext4 or xfs"
        ) from error
    finally:
        probe.unlink()
