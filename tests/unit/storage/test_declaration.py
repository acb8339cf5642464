"""The declarations of senders about their files, as they may stand in headers and in storage keys."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

import pytest

from farm.storage.declaration import DEFAULT_TYPE, Declaration, declared, decode
from farm.storage.local import LocalStorage
from farm.storage.storage import new_upload_key, parse_key, part_key

UNTIL = 9_999_999_999


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("text/plain", "text/plain"),
        (" TEXT/Plain ", "text/plain"),
        ('text/csv; header=present; charset="utf-8"', "text/csv; charset=utf-8"),
        ("application/pdf", "application/pdf"),
        ("image/gif", "image/gif"),
        (
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ),
        *[
            (active, DEFAULT_TYPE)
            for active in (
                "text/html",
                "TEXT/HTML; charset=utf-8",
                "text/html ;x",
                "application/xhtml+xml",
                "image/svg+xml",
                "text/xml",
                "application/xml",
                "text/javascript",
                "application/javascript",
                "application/x-javascript",
                "text/javascript1.5",
                "text/ecmascript",
                "text/jscript",
                "text/css",
                "multipart/x-mixed-replace; boundary=a",
                "message/rfc822",
            )
        ],
        *[
            (wrong, DEFAULT_TYPE)
            for wrong in (
                "",
                "text",
                "text/",
                "/plain",
                "text/plain, text/html",
                "text/pl\0ain",
                "text/plain\r\nX: y",
                "te xt/plain",
                "töxt/plain",
                f"text/{'a' * 100}",
            )
        ],
    ],
)
def test_a_type_is_kept_unless_a_browser_runs_it(sent: str, kept: str) -> None:
    assert declared(sent, "").content_type == kept


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("hello.txt", "hello.txt"),
        ("größe 1.txt", "größe 1.txt"),
        ("狐.txt", "狐.txt"),
        ("", ""),
        ("..", ""),
        ("a/", ""),
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a.txt", "a.txt"),
        (".htaccess", "htaccess"),
        ("a.txt. ", "a.txt"),
        ("a\r\nSet-Cookie: b.txt", "aSet-Cookie: b.txt"),
        ("a\0\x7f\x1b[1m.txt", "a[1m.txt"),
        ("a\u202etxt.exe", "atxt.exe"),
        ("a\u2028b.txt", "ab.txt"),
        ("a\ud800b.txt", "ab.txt"),
    ],
)
def test_a_name_is_one_visible_component(sent: str, kept: str) -> None:
    assert declared("text/plain", sent).name == kept


@pytest.mark.parametrize("character", ["a", "ü", "狐", "🦊"])
@pytest.mark.parametrize("content_type", ["text/plain", f"text/{'a' * 75}"])
def test_a_long_name_is_shortened_before_its_extension(tmp_path: Path, character: str, content_type: str) -> None:
    kept = declared(content_type, f"{character * 1000}.txt")
    key = new_upload_key("bin", until=UNTIL, declaration=kept)
    LocalStorage(tmp_path).put(key, b"content")

    assert kept.name.strip(character) == ".txt"
    assert len(kept.name) > len("a.txt")
    assert (name := parse_key(key)) is not None
    assert name.declaration == kept
    assert not any(declared(content_type, f"a.{character * 1000}").name.endswith(end) for end in (".", "�"))


def test_a_key_carries_what_was_declared(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    kept = Declaration("text/plain; charset=utf-8", "größe 1.txt")
    key = new_upload_key("bin", until=UNTIL, declaration=kept)
    storage.put(key, b"content")
    name, stored, listed = parse_key(key), storage.find(key), storage.page("").entries

    assert name is not None
    assert stored is not None
    assert (name.declaration, name.extension, name.until, name.job_id) == (kept, "bin", UNTIL, None)
    assert (stored.content_type, [entry.name for entry in listed]) == (kept.content_type, [key])
    assert part_key(key, 1, "0" * 64).startswith(f"{key[:32]}-part-{UNTIL}-1-")


def test_an_image_and_an_unknown_file_need_no_declaration() -> None:
    for key in (
        new_upload_key("png", until=UNTIL, declaration=declared("image/png", "a.png")),
        new_upload_key("bin", until=UNTIL, declaration=declared("", "")),
    ):
        assert key[32:-4] == f"-upload-{UNTIL}"


def encoded(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


@pytest.mark.parametrize("part", ["a", encoded(b"no line"), encoded(b"\xff\n\xff"), "a" * 185, "", "a.b", "a/b", "a=="])
def test_a_key_with_an_invalid_declaration_is_refused(part: str) -> None:
    assert parse_key(f"{secrets.token_hex(16)}-upload-{UNTIL}-{part}.bin") is None


def test_a_declaration_written_by_others_is_made_safe() -> None:
    assert decode(encoded(b"text/html\r\nX: y\n../a\r\nb")) == Declaration(DEFAULT_TYPE, "ab")
