"""Refusals of boto3's own variables that no call can work with: at the start, before a store is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.domain.errors import ConfigurationError
from farm.storage.s3 import Bucket, S3Storage, client_for

USABLE = {
    "AWS_ENDPOINT_URL": "https://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "a/b+c=",
    "AWS_SESSION_TOKEN": "a/b+c==",
    "AWS_DEFAULT_REGION": "eu-west-1",
}
#: Each variable with a value that no call can work with, and what the error says of it.
UNUSABLE = [
    ("AWS_ENDPOINT_URL", "https://127.0.0.1:9 ", "not a valid URI"),
    ("AWS_ENDPOINT_URL", "https://127.0.0.1:99999", "not a valid URI"),
    ("AWS_ENDPOINT_URL", "https://127.0.0.1:9/?a=b", "not a valid URI"),
    ("AWS_ENDPOINT_URL", "127.0.0.1:9", "Invalid endpoint"),
    ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE\n", "the access key id"),
    ("AWS_SECRET_ACCESS_KEY", "abc\n", "the secret access key"),
    ("AWS_SECRET_ACCESS_KEY", "“abc”", "the secret access key"),
    ("AWS_SESSION_TOKEN", "abc ", "the session token"),
    ("AWS_DEFAULT_REGION", "eu-west-1\n", "the region"),
    ("AWS_CA_BUNDLE", "/nowhere/ca.pem", r"AWS_CA_BUNDLE=/nowhere/ca\.pem: No such file"),
    ("AWS_CA_BUNDLE", __file__, "AWS_CA_BUNDLE=.*NO_CERTIFICATE"),
    ("AWS_CONFIG_FILE", __file__, "parse config file"),
    ("AWS_PROFILE", "nobody", "profile"),
]


@pytest.fixture(autouse=True)
def usable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (
        USABLE | {"AWS_CONFIG_FILE": str(tmp_path), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path)}
    ).items():
        monkeypatch.setenv(name, value)


def test_usable_settings_need_no_store() -> None:
    assert S3Storage(Bucket.at("s3://bucket/prefix")).place == "https://127.0.0.1:9/bucket/prefix/"


@pytest.mark.parametrize(("name", "value", "message"), UNUSABLE)
def test_an_unusable_s3_setting_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=f"^FARM_STORAGE_URL: .*{message}") as raised:
        S3Storage(Bucket.at("s3://bucket/prefix"))

    assert "\n" not in str(raised.value)
    with pytest.raises(ConfigurationError, match=message):
        client_for(Bucket.at("s3://bucket"), "--into")


def test_an_invalid_public_endpoint_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigurationError, match=r"^FARM_S3_PUBLIC_ENDPOINT: .*not a valid URI"):
        S3Storage(Bucket.at("s3://bucket"), url_seconds=60, public_endpoint="https://images.example:99999")
