"""The farm's settings, from environment variables that begin with FARM_. The one module that reads the environment."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from farm.domain.errors import ConfigurationError
from farm.domain.limits import MOST_RATE

PREFIX = "FARM_"

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(value: object) -> object:
    """`90`, `90s`, `15m`, `24h`, `7d` as seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value).strip())
    if not match:
        raise ValueError("not a duration")
    return float(match[1]) * _UNITS[match[2]]


def _names(value: object) -> object:
    """Comma-separated names as a set."""
    return frozenset(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _durations(value: object) -> object:
    """Comma-separated durations."""
    return tuple(_seconds(part) for part in value.split(",")) if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
Schedule = Annotated[tuple[Annotated[float, Field(gt=0)], ...], NoDecode, BeforeValidator(_durations)]
WebUrl = Annotated[str, Field(pattern=r"^https?://[^/\s]+")]
BucketUrl = Annotated[str, Field(pattern=r"^s3://[A-Za-z0-9][A-Za-z0-9._-]{1,62}(/[A-Za-z0-9_][A-Za-z0-9._=-]*)*/?$")]
Fsync = Literal["everysec", "always"]
RedisUrl = Annotated[str, Field(pattern=r"^(redis|rediss|unix)://")]
Names = Annotated[frozenset[str], NoDecode, BeforeValidator(_names)]
Origin = Annotated[
    str, Field(pattern=r"^(\*|https?://[a-z0-9._-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?)$")
]
Origins = Annotated[frozenset[Origin], NoDecode, BeforeValidator(_names)]


def _setting(default: Any, shown: str, meaning: str, allowed: str) -> Any:
    """A field with what the table of settings and an error about it say."""
    return Field(default=default, description=meaning, json_schema_extra={"shown": shown, "allowed": allowed})


class Settings(BaseSettings):
    """Everything that can be set, with its default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    redis_url: RedisUrl | None = _setting(
        None,
        "unset: an embedded server in the data folder",
        "Your own Redis ≥ 7.0 or Valkey ≥ 7.2, with an append-only file and `noeviction`",
        "redis://…, rediss://… or unix://…",
    )
    redis_unsafe: bool = _setting(
        False, "0", "Start although that Redis keeps no append-only file, or evicts keys", "0 or 1"
    )
    redis_fsync: Fsync = _setting(
        "everysec",
        "`everysec`",
        "When the embedded server's changes are on the disk for good: `always` before it answers, so that no power cut "
        "costs an accepted job; `everysec` within two seconds, which takes less of a slow disk",
        "everysec or always",
    )
    storage_url: BucketUrl | None = _setting(
        None,
        "unset: a folder in the data folder",
        "Bucket and prefix for pictures in S3, `s3://bucket/prefix`, of this farm alone: it marks it with an object "
        "`farm-id-…`, and removes what it does not know there while no other farm has left a mark. Credentials, region "
        "and endpoint by boto3's own variables (`AWS_ENDPOINT_URL`, …)",
        "s3://bucket or s3://bucket/prefix",
    )
    files: Literal["proxy", "presigned"] = _setting(
        "proxy",
        "`proxy`",
        "`presigned` hands out the bucket's own signed URLs instead of the API's, valid as long as the job is kept "
        "but for 7 days at most",
        "proxy or presigned",
    )
    s3_checksums: Literal["when_required", "when_supported"] = _setting(
        "when_required",
        "`when_required`",
        "When boto3 adds checksums of its own, which many stores refuse",
        "when_required or when_supported",
    )
    s3_addressing: Literal["auto", "path", "virtual"] = _setting(
        "auto",
        "`auto`",
        "Where the bucket's name stands in its URLs; self-hosted stores mostly want `path`",
        "auto, path or virtual",
    )
    public_url: WebUrl | None = _setting(
        None, "the API's own address", "How callers reach the farm: the base of every URL it hands out", "http(s)://…"
    )
    auth: Literal["keys", "off"] | None = _setting(
        None,
        "`keys`; `off` while the API listens on loopback only",
        "Whether callers must show an API key. `off` is refused on any other address",
        "keys or off",
    )
    pipeline: Literal["flux", "simulated"] = _setting(
        "flux", "`flux`", "`simulated` renders plain pictures without torch, at a set pace", "flux or simulated"
    )
    simulated_step_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = _setting(
        20.0, "20", "Milliseconds of one denoising step of the simulated pipeline", "a number, 0 or more"
    )
    flux_dir: Path | None = _setting(
        None, "unset: the miniature", "Folder of FLUX.1-dev as its makers publish it", "a folder"
    )
    srpo_file: Path | None = _setting(
        None, "unset: the miniature", "SRPO's `diffusion_pytorch_model.safetensors`", "a file"
    )
    kontext_dir: Path | None = _setting(
        None, "unset: the miniature", "Folder of FLUX.1-Kontext-dev as its makers publish it", "a folder"
    )
    accept_licenses: Names = _setting(
        frozenset(), "unset", "The weights' licences that you accept, by name, comma-separated", "names"
    )
    safety: Literal["bundled", "off", "clip", "vit"] | None = _setting(
        None,
        "`bundled` with the miniature, else it must be set",
        "The picture checker. `off`: requests that ask for checking are refused",
        "bundled or off",
    )
    enhancer_dir: Path | None = _setting(
        None,
        "unset: a template",
        "Folder of a small causal language model as transformers saves one, which `enhance_prompt` is done with, on "
        "the CPU beside the webhook worker",
        "a folder",
    )
    device: str | None = _setting(None, "the best that is there", "Where to render", "cpu, cuda or cuda:N")
    lease_seconds: Seconds = _setting(
        15.0, "15", "After how long without a sign of life a worker's jobs are taken back", "seconds, above 0"
    )
    grace_seconds: Seconds = _setting(90.0, "90", "How long a drain may take", "seconds, above 0")
    load_seconds: Seconds = _setting(
        600.0,
        "600",
        "How long a worker may take to load and warm up before it counts as hung, and is started again",
        "seconds, or a number with s, m, h or d",
    )
    max_attempts: Annotated[int, Field(ge=1)] = _setting(
        3, "3", "Counted starts of a job before it fails", "a whole number, 1 or more"
    )
    render_seconds: Seconds = _setting(
        900.0,
        "15m",
        "How long one start of a job may last, encoding and storing included; then it ends as `render_timeout`",
        "seconds, or a number with s, m, h or d",
    )
    queue_limit: Annotated[int, Field(ge=1)] = _setting(
        100_000, "100000", "Waiting jobs a caller may have before 429", "a whole number, 1 or more"
    )
    rate_limit: Annotated[int, Field(ge=1, le=MOST_RATE)] | None = _setting(
        None,
        "unset: any number",
        "Submits a caller may make a minute before 429; as many may come at once",
        f"a whole number from 1 to {MOST_RATE}",
    )
    images_per_day: Annotated[int, Field(ge=1)] | None = _setting(
        None,
        "unset: any number",
        "Images a caller may ask for in a day (UTC) before 429, whatever becomes of them",
        "a whole number, 1 or more",
    )
    result_ttl: Seconds = _setting(
        7 * 86400.0, "7d", "How long a finished job and its pictures are kept", "seconds, or a number with s, m, h or d"
    )
    upload_ttl: Seconds = _setting(
        86400.0, "1d", "How long a file that a caller uploads is kept", "seconds, or a number with s, m, h or d"
    )
    upload_gigabytes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = _setting(
        20.0, "20", "Gigabytes that a caller may upload within that time before 429", "a number above 0"
    )
    hold_seconds: Seconds = _setting(
        240.0,
        "240",
        "How long a call that waits for its picture is held before it is told to come back",
        "seconds, or a number with s, m, h or d",
    )
    webhook_allow: Names = _setting(
        frozenset(),
        "empty",
        "Private hosts or networks that webhooks and image inputs may reach, comma-separated",
        "host names, addresses and networks",
    )
    webhook_schedule: Schedule = _setting(
        (5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0, 18000.0, 36000.0),
        "5s,30s,2m,10m,30m,2h,5h,10h",
        "Pauses between the tries of a webhook; the first try is at once",
        "durations, comma-separated",
    )
    webhook_schedule_fal: Annotated[Schedule | None, NoDecode] = _setting(
        None, "the same", "The same for webhooks in fal's dialect", "durations, comma-separated"
    )
    webhook_schedule_wavespeed: Annotated[Schedule | None, NoDecode] = _setting(
        None, "the same", "The same for webhooks in WaveSpeed's dialect", "durations, comma-separated"
    )
    signing_key: str | None = _setting(
        None,
        "made once, kept in Redis",
        "The ED25519 key that signs fal's webhooks: 32 bytes in base64",
        "32 bytes in base64",
    )
    cors: Origins = _setting(
        frozenset(),
        "none",
        "Origins whose pages may call the API, comma-separated, as `https://app.example`; `*`: all, while callers must "
        "show keys",
        "origins such as https://app.example, comma-separated, or *",
    )
    proxy_hops: Annotated[int, Field(ge=0, le=10)] = _setting(
        0,
        "0",
        "How many proxies stand in front, whose `X-Forwarded-For`, `-Proto` and `-Host` are believed",
        "a whole number from 0 to 10",
    )
    metadata_prompt: bool = _setting(True, "on", "Whether the prompt stands in the picture's metadata", "on or off")
    log: Literal["console", "json"] | None = _setting(
        None, "`console` on a terminal, else `json`", "The form of the log", "console or json"
    )
    url: WebUrl = _setting(
        "http://127.0.0.1:8000", "`http://127.0.0.1:8000`", "The farm that the client commands talk to", "http(s)://…"
    )
    api_key: str | None = _setting(None, "unset", "The key that the client commands show", "a key")


def load() -> Settings:
    """The settings of this process. Raises ConfigurationError with one line for a name or value that is no good."""
    settings, problems = read()
    if problems:
        raise ConfigurationError(problems[0])
    return settings


def read() -> tuple[Settings, list[str]]:
    """The settings as far as they can be used, the others left at their defaults, with a line about each of those."""
    problems = [_unknown(name) for name in os.environ if name.upper().startswith(PREFIX) and name not in _known()]
    try:
        settings = Settings()
    except ValidationError as error:
        unusable: dict[str, object] = {}
        for problem in error.errors():  # several for one name, where there are several ways to be right
            unusable.setdefault(_name_in(problem), problem["input"])
        problems += [_unusable(name, value) for name, value in unusable.items()]
        settings = Settings(**{name: Settings.model_fields[name].default for name in unusable})
    if settings.files == "presigned" and settings.storage_url is None:
        problems.append("FARM_FILES=presigned needs a bucket, which alone can sign; set FARM_STORAGE_URL")
        settings = settings.model_copy(update={"files": "proxy"})
    return settings, problems


def masked(text: str) -> str:
    """`text` without the passwords of the addresses in it, for a screen or a log."""
    return re.sub(r"(password=)[^&\s]*", r"\1…", re.sub(r"//[^/@]*@", "//…@", text))


def _known() -> list[str]:
    return sorted(PREFIX + name.upper() for name in Settings.model_fields)


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name.upper(), _known(), n=1, cutoff=0)
    return f"{name} is no setting of the farm; the nearest is {nearest[0]}"


def _name_in(problem: Mapping[str, Any]) -> str:
    return str(problem["loc"][0]).lower().removeprefix(PREFIX.lower())


def _unusable(name: str, value: object) -> str:
    return f"{PREFIX}{name.upper()}={masked(str(value))} cannot be used; allowed: {_extra(name)['allowed']}"


def _extra(name: str) -> dict[str, str]:
    return cast(dict[str, str], Settings.model_fields[name].json_schema_extra)


def table() -> str:
    """The README's table of settings, in Markdown."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_extra(name)['shown']} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


#: What stands around the table in the README.
TABLE_MARKS = ("<!-- settings: generated by `make docs` -->\n", "\n<!-- end of settings -->")


def with_table(text: str) -> str:
    """`text` with the table between its marks brought up to date."""
    begin, end = TABLE_MARKS
    head, rest = text.split(begin)
    return head + begin + table() + end + rest.split(end)[1]


if __name__ == "__main__":
    readme = Path(sys.argv[1])
    readme.write_text(with_table(readme.read_text()))
