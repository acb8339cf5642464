"""The providers' own clients upload files here, redirected and otherwise as they are published; and raw bodies do."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fal_client
import fal_client.client as fc
import httpx
import pytest
import requests
import wavespeed
from PIL import Image

from farm.auth.api_keys import ApiKeyStore
from farm.domain.catalogue import MAX_UPLOAD
from tests import javascript
from tests.farms import RunningFarm, pids, running_farm, wait_for

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    with running_farm(tmp_path_factory.mktemp("uploads") / "data", FARM_AUTH="keys") as farm:
        yield farm


@pytest.fixture(scope="module")
def key(farm: RunningFarm) -> str:
    return ApiKeyStore(farm.redis).create("ada")


@pytest.fixture(autouse=True)
def redirected(farm: RunningFarm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct the client to a farm without TLS."""
    monkeypatch.setattr(fc, "REST_URL", f"{farm.url}/fal/rest")
    monkeypatch.setattr(fc, "CDN_URL", f"{farm.url}/fal/cdn")


@pytest.fixture
def client(key: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[fal_client.SyncClient]:
    """Yield a client, closed afterwards: each of its uploads leaves a connection to the CDN open."""
    opened = []
    open_one = fal_client.SyncClient._get_cdn_client

    def open_and_remember(client: fal_client.SyncClient) -> httpx.Client:
        opened.append(open_one(client))
        return opened[-1]

    monkeypatch.setattr(fal_client.SyncClient, "_get_cdn_client", open_and_remember)
    client = fal_client.SyncClient(key=key)
    yield client
    for connection in (client._client, *opened):
        connection.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a fox.png"
    Image.linear_gradient("L").save(path)
    return path


def fetched(farm: RunningFarm, url: str) -> tuple[str, bytes]:
    """Return the content at a URL of the farm's, fetched without a key."""
    assert url.startswith(f"{farm.url}/files/")
    answer = farm.call("GET", url.removeprefix(farm.url))
    assert answer.status == 200, answer.body
    return answer.headers["Content-Type"], answer.body


def stored(farm: RunningFarm) -> set[str]:
    """Return every file of the farm's storage, and of its folder for uploads in progress."""
    folders = (farm.data_dir / "images", farm.data_dir / "uploads")
    names = {path.name for folder in folders for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith("farm-id-")}


def ticket(farm: RunningFarm, key: str, kind: str = "initiate") -> tuple[str, str]:
    """Return the URL to send a file to, in fal's dialect, and the URL of the stored file."""
    answer = farm.call("POST", f"/fal/rest/storage/upload/{kind}", {}, Authorization=f"Key {key}").json
    return answer["upload_url"].removeprefix(farm.url), answer["file_url"]


# fal, Python


def test_fal_uploads_a_file(farm: RunningFarm, client: fal_client.SyncClient, file: Path) -> None:
    assert fetched(farm, client.upload_file(file)) == ("image/png", file.read_bytes())


def test_fal_uploads_an_image(farm: RunningFarm, client: fal_client.SyncClient) -> None:
    kind, content = fetched(farm, client.upload_image(Image.new("RGB", (300, 200), "teal")))

    with Image.open(io.BytesIO(content)) as image:
        assert (kind, image.format, image.size) == ("image/jpeg", "JPEG", (300, 200))


def test_fal_uploads_bytes_and_text(farm: RunningFarm, client: fal_client.SyncClient) -> None:
    assert fetched(farm, client.upload(b"\0\1", "application/octet-stream"))[1] == b"\0\1"
    assert fetched(farm, client.upload("héllo", "text/plain"))[1] == "héllo".encode()


def test_fal_uploads_by_its_second_choice(farm: RunningFarm, client: fal_client.SyncClient, file: Path) -> None:
    """It shows its key where the file goes."""
    url = client.upload(file.read_bytes(), "image/png", "a.png", repository="fal")

    assert fetched(farm, url) == ("image/png", file.read_bytes())


def test_fal_falls_back_on_its_second_choice(
    farm: RunningFarm, client: fal_client.SyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fc, "CDN_URL", f"{farm.url}/nowhere")

    assert fetched(farm, client.upload(b"x", "image/png"))[1] == b"x"


def test_fal_uploads_a_large_file_in_parts(
    farm: RunningFarm, client: fal_client.SyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten at once, in whatever order."""
    before = stored(farm)
    monkeypatch.setattr(fc, "MULTIPART_THRESHOLD", 1000)
    monkeypatch.setattr(fc, "MULTIPART_CHUNK_SIZE", 10_000)
    content = os.urandom(333_333)
    (tmp_path / "large.bin").write_bytes(content)

    urls = [
        client.upload_file(tmp_path / "large.bin"),
        client.upload(content, "image/png", "a.png"),
    ]

    assert [fetched(farm, url)[1] for url in urls] == [content] * 2
    assert not [name for name in stored(farm) - before if "-part-" in name]


def test_fals_asynchronous_client_uploads(
    farm: RunningFarm, key: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def upload() -> list[str]:
        client = fal_client.AsyncClient(key=key)
        whole = await client.upload_file(file)
        second = await client.upload(b"x", "image/png", repository="fal")
        monkeypatch.setattr(fc, "MULTIPART_THRESHOLD", 10)
        in_parts = await client.upload(file.read_bytes(), "image/png", "a.png")
        await (await client._client).aclose()
        return [whole, second, in_parts]

    urls = asyncio.run(upload())

    assert [fetched(farm, url)[1] for url in urls] == [file.read_bytes(), b"x", file.read_bytes()]


def test_fals_wish_for_how_long_is_heard(farm: RunningFarm, client: fal_client.SyncClient) -> None:
    for repository in ("fal_v3", "fal"):
        brief = fal_client.StorageSettings(expires_in="immediate")
        url = client.upload(b"x", "image/png", repository=repository, lifecycle=brief)
        answer = farm.call("HEAD", url.removeprefix(farm.url))
        assert 0 < int(answer.headers["Cache-Control"].rpartition("=")[2]) <= 60


def test_fals_wish_to_hide_a_file_is_refused(client: fal_client.SyncClient) -> None:
    hidden = fal_client.StorageSettings(initial_acl=fc.StorageACL(default="forbid"))

    with pytest.raises(fal_client.FalClientHTTPError, match="initial_acl") as caught:
        client.upload(b"x", "image/png", lifecycle=hidden)
    assert caught.value.status_code == 400


def test_an_upload_without_a_valid_key_is_refused(farm: RunningFarm) -> None:
    before = stored(farm)
    with pytest.raises(httpx.HTTPStatusError, match="401 UNAUTHORIZED"):
        fal_client.SyncClient(key="wrong").upload(b"x", "image/png")

    assert stored(farm) == before


@pytest.mark.full
def test_fal_uploads_as_much_as_it_may(farm: RunningFarm, client: fal_client.SyncClient, tmp_path: Path) -> None:
    """In parts of its own size, and one byte more is refused."""
    path = tmp_path / "large.bin"
    with path.open("wb") as large:
        for number in range(MAX_UPLOAD // MIB):
            large.write(bytes([number]) * MIB)
    url = client.upload_file(path)
    with path.open("rb") as large:
        assert hashlib.sha256(fetched(farm, url)[1]).digest() == hashlib.file_digest(large, "sha256").digest()

    with path.open("ab") as large:
        large.write(b"x")
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        client.upload_file(path)
    assert caught.value.status_code in (413, 422)  # whether the others had come before, or came meanwhile


# fal, JavaScript (its small files are in test_js_fal.py)


@pytest.mark.timeout(javascript.INSTALL_SECONDS + 60)
def test_fals_javascript_client_uploads_a_large_file_in_parts(farm: RunningFarm, key: str) -> None:
    """The client does so from 90 MiB on, in parts of 10 MiB, without any header."""
    size = 91 * MIB
    ran = javascript.run(f"""
        import {{ fal }} from "@fal-ai/client";
        fal.config({{ credentials: "{key}", requestMiddleware: async (r) =>
          ({{ ...r, url: r.url.replace(/https:\\/\\/rest\\.(alpha\\.)?fal\\.ai/, "{farm.url}/fal/rest") }}) }});
        const bytes = new Uint8Array({size});
        for (let at = 0; at < {size}; at += 1000) bytes[at] = at / 1000;
        report(await fal.storage.upload(new Blob([bytes], {{ type: "image/webp" }})));
        """)
    expected = bytearray(size)
    expected[::1000] = bytes(number % 256 for number in range(-(-size // 1000)))

    assert hashlib.sha256(fetched(farm, ran.report)[1]).digest() == hashlib.sha256(expected).digest()
    assert ran.report.endswith(".webp")


# WaveSpeed, Python


@pytest.fixture
def waves(farm: RunningFarm, key: str) -> Any:
    return wavespeed.Client(key, base_url=farm.url)


def test_wavespeed_uploads_a_file(farm: RunningFarm, waves: Any, file: Path) -> None:
    assert fetched(farm, waves.upload(str(file))) == ("image/png", file.read_bytes())


def test_wavespeed_uploads_a_stream(farm: RunningFarm, waves: Any) -> None:
    stream = io.BytesIO(b"skipped" + b"content" * 10_000)
    stream.seek(7)

    assert fetched(farm, waves.upload(stream)) == ("application/octet-stream", b"content" * 10_000)


def test_wavespeeds_older_clients_upload_a_form(farm: RunningFarm, key: str, file: Path) -> None:
    """Version 1.0.3 does so."""
    with file.open("rb") as opened:
        response = requests.post(
            f"{farm.url}/api/v3/media/upload/binary",
            headers={"Authorization": f"Bearer {key}"},
            files={"file": (file.name, opened)},
            timeout=60,
        )

    assert (response.status_code, response.json()["code"]) == (200, 200)
    data = response.json()["data"]
    assert (data["filename"], data["size"]) == (file.name, file.stat().st_size)
    assert fetched(farm, data["download_url"])[1] == file.read_bytes()


def test_wavespeed_uploads_a_form_in_chunks(farm: RunningFarm, key: str) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: image/png\r\n\r\n'
    content = os.urandom(3 * MIB)
    response = requests.post(
        f"{farm.url}/api/v3/media/upload/binary",
        headers={"Authorization": f"Bearer {key}", "Content-Type": "multipart/form-data; boundary=b"},
        data=iter([head, *(content[at : at + 70_000] for at in range(0, len(content), 70_000)), b"\r\n--b--\r\n"]),
        timeout=60,
    )

    assert fetched(farm, response.json()["data"]["download_url"]) == ("application/octet-stream", content)


# Bodies on the wire


def send(farm: RunningFarm, path: str, headers: bytes, body: bytes) -> bytes:
    """Return the status line that answers a PUT with no more bytes than these."""
    with socket.create_connection(("127.0.0.1", farm.port), timeout=30) as connection:
        connection.sendall(b"PUT %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n" % (path.encode(), headers))
        connection.sendall(body)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            return answer.readline()


CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (b"Content-Length: 100", b"half", b"400"),
        (CHUNKED, b"5\r\nwhole\r\n", b"400"),
        (CHUNKED, b"5\r\nwho", b"400"),
        (CHUNKED, b"ZZ\r\n", b"400"),
        (b"Content-Length: %d" % (MAX_UPLOAD + 1), b"", b"413"),
    ],
)
@pytest.mark.parametrize("path", ["{}", "{}/1"])
def test_a_body_that_is_no_whole_one_leaves_nothing(
    farm: RunningFarm, key: str, headers: bytes, body: bytes, status: bytes, path: str
) -> None:
    upload, _ = ticket(farm, key, "initiate" if path == "{}" else "initiate-multipart")
    before = stored(farm)

    assert send(farm, path.format(upload), headers, body).split()[1] == status

    assert stored(farm) == before


def test_a_body_in_chunks_is_whole_with_its_last(farm: RunningFarm, key: str) -> None:
    upload, url = ticket(farm, key)

    assert send(farm, upload, CHUNKED, b"5\r\nwhole\r\n0\r\n\r\n").split()[1] == b"200"

    assert fetched(farm, url)[1] == b"whole"


def memory(farm: RunningFarm) -> int:
    """Return the peak memory of any process of the API, in bytes."""
    found = [
        line.split()[1]
        for pid in pids(f"-m api --host 127.0.0.1 --port {farm.port}")
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return max(map(int, found)) * 1024


@pytest.mark.parametrize("how", ["ticket", "parts", "cdn", "form", pytest.param("batch", marks=pytest.mark.full)])
def test_a_large_file_is_never_in_memory_as_a_whole(farm: RunningFarm, key: str, how: str, tmp_path: Path) -> None:
    size = MAX_UPLOAD if how == "batch" else 120 * MIB
    upload, _ = ticket(farm, key, "initiate-multipart" if how == "parts" else "initiate")
    headers = {"Authorization": f"Bearer {key}"}
    zeros = io.BytesIO(bytes(size))
    ways: dict[str, Callable[[], Any]] = {
        "ticket": lambda: requests.put(farm.url + upload, data=zeros, timeout=60),
        "parts": lambda: requests.put(f"{farm.url}{upload}/1", data=zeros, timeout=60),
        "cdn": lambda: requests.post(f"{farm.url}/fal/cdn/files/upload", data=zeros, headers=headers, timeout=60),
        "form": lambda: requests.post(
            f"{farm.url}/api/v3/media/upload/binary", files={"file": zeros}, headers=headers, timeout=60
        ),
        "batch": lambda: requests.post(
            f"{farm.url}/v1/files", {"purpose": "batch"}, files={"file": zeros}, headers=headers, timeout=60
        ),
    }
    before = memory(farm)

    response = ways[how]()

    assert response.status_code == 200, response.text
    assert memory(farm) - before < size / 3


def test_an_upload_that_its_api_did_not_survive_leaves_nothing_and_can_be_made_again(
    farm: RunningFarm, key: str
) -> None:
    upload, url = ticket(farm, key)
    before = stored(farm)
    with socket.create_connection(("127.0.0.1", farm.port), timeout=30) as connection:
        connection.sendall(b"PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf" % upload.encode())
        for pid in pids(f"-m api --host 127.0.0.1 --port {farm.port}"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ConnectionResetError):  # where what came had not been read yet
            assert connection.recv(100) == b""

    def answers() -> bool:
        with suppress(Exception):
            return farm.call("GET", "/healthz").status == 200
        return False

    wait_for(answers, seconds=60, what="the API again")
    assert stored(farm) == before
    assert farm.call("PUT", upload, b"something").status == 200
    assert fetched(farm, url)[1] == b"something"
