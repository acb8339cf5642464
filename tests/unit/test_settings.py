"""Settings from the environment: their values, and one line for each error."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.domain.errors import ConfigurationError
from farm.settings import Settings, load, masked, page
from tests.docs_snippets import DOCS

#: The contract, section 3.
DEFAULTS: dict[str, object] = {
    "redis_url": None,
    "redis_unsafe": False,
    "redis_fsync": "everysec",
    "storage_url": None,
    "files": "proxy",
    "s3_checksums": "when_required",
    "s3_addressing": "auto",
    "s3_public_endpoint": None,
    "public_url": None,
    "auth": None,
    "pipeline": "flux",
    "simulated_step_ms": 20,
    "flux_dir": None,
    "srpo_file": None,
    "kontext_dir": None,
    "lora": (),
    "accept_licenses": frozenset(),
    "safety": None,
    "safety_dir": None,
    "safety_labels": frozenset(),
    "enhancer_dir": None,
    "device": None,
    "serves": frozenset(),
    "attention": "native",
    "compile": "auto",
    "step_masks": None,
    "forward": "exact",
    "previews": True,
    "quantize": "auto",
    "offload": "auto",
    "lease_seconds": 15,
    "grace_seconds": 90,
    "load_seconds": 600,
    "max_attempts": 3,
    "render_seconds": 900,
    "queue_limit": 100_000,
    "rate_limit": None,
    "images_per_day": None,
    "price_per_image": 0.0,
    "usage_ttl": 400 * 24 * 3600,
    "result_ttl": 7 * 24 * 3600,
    "upload_ttl": 24 * 3600,
    "upload_gigabytes": 20.0,
    "hold_seconds": 240,
    "webhook_allow": frozenset(),
    "webhook_schedule": (5, 30, 120, 600, 1800, 7200, 18000, 36000),
    "webhook_schedule_fal": None,
    "webhook_schedule_wavespeed": None,
    "signing_key": None,
    "unknown_fields": "refuse",
    "model_aliases": {},
    "openai_response_format": "both",
    "jwks_padding": False,
    "cors": frozenset(),
    "proxy_hops": 0,
    "metadata_prompt": True,
    "metrics_port": None,
    "metrics_host": "127.0.0.1",
    "metrics_callers": False,
    "log": None,
    "url": "http://127.0.0.1:8000",
    "api_key": None,
}

TAKEN = [
    ("REDIS_URL", "rediss://u:p@host:6380/1", "rediss://u:p@host:6380/1"),
    ("REDIS_UNSAFE", "1", True),
    ("REDIS_FSYNC", "always", "always"),
    ("STORAGE_URL", "s3://images/of/the-farm", "s3://images/of/the-farm"),
    ("FILES", "proxy", "proxy"),
    ("S3_CHECKSUMS", "when_supported", "when_supported"),
    ("S3_ADDRESSING", "path", "path"),
    ("S3_PUBLIC_ENDPOINT", "https://images.example", "https://images.example"),
    ("PUBLIC_URL", "https://farm.example", "https://farm.example"),
    ("JWKS_PADDING", "on", True),
    ("AUTH", "keys", "keys"),
    ("PIPELINE", "simulated", "simulated"),
    ("SIMULATED_STEP_MS", "0", 0),
    ("FLUX_DIR", "/models/flux", Path("/models/flux")),
    ("SRPO_FILE", "/models/srpo.safetensors", Path("/models/srpo.safetensors")),
    ("KONTEXT_DIR", "/models/FLUX.1-Kontext-dev", Path("/models/FLUX.1-Kontext-dev")),
    (
        "LORA",
        "/a:b/x.safetensors:0.8, y.safetensors:-1,",
        ((Path("/a:b/x.safetensors"), 0.8), (Path("y.safetensors"), -1.0)),
    ),
    ("ACCEPT_LICENSES", " one, two ,,", frozenset({"one", "two"})),
    ("SAFETY", "off", "off"),
    ("SAFETY_DIR", "/models/nsfw", Path("/models/nsfw")),
    ("SAFETY_LABELS", "porn, Hentai", frozenset({"porn", "Hentai"})),
    ("ENHANCER_DIR", "/models/writer", Path("/models/writer")),
    ("DEVICE", "cuda:1", "cuda:1"),
    ("SERVES", "srpo, fal-ai/flux-pro/kontext", frozenset({"srpo", "kontext"})),
    ("ATTENTION", "cudnn", "cudnn"),
    ("COMPILE", "off", "off"),
    ("STEP_MASKS", "/models/masks.json", Path("/models/masks.json")),
    ("FORWARD", "shared", "shared"),
    ("PREVIEWS", "0", False),
    ("QUANTIZE", "fp8", "fp8"),
    ("OFFLOAD", "text", "text"),
    ("LEASE_SECONDS", "2.5", 2.5),
    ("GRACE_SECONDS", "5m", 300),
    ("MAX_ATTEMPTS", "1", 1),
    ("LOAD_SECONDS", "20m", 1200),
    ("RENDER_SECONDS", "1h", 3600),
    ("QUEUE_LIMIT", "1", 1),
    ("RATE_LIMIT", "60", 60),
    ("IMAGES_PER_DAY", "1", 1),
    ("PRICE_PER_IMAGE", "0.015", 0.015),
    ("USAGE_TTL", "90d", 90 * 86400),
    ("RESULT_TTL", "24h", 86400),
    ("UPLOAD_TTL", "2h", 7200),
    ("UPLOAD_GIGABYTES", "0.5", 0.5),
    ("HOLD_SECONDS", "30s", 30),
    ("WEBHOOK_ALLOW", "10.0.0.0/8,hook.lan", frozenset({"10.0.0.0/8", "hook.lan"})),
    ("WEBHOOK_SCHEDULE", "1s, 2m", (1, 120)),
    ("WEBHOOK_SCHEDULE_FAL", "15s", (15,)),
    ("WEBHOOK_SCHEDULE_WAVESPEED", "0.5", (0.5,)),
    ("SIGNING_KEY", "AAAA", "AAAA"),
    ("UNKNOWN_FIELDS", "warn", "warn"),
    ("MODEL_ALIASES", "dall-e-3=srpo, a/b = flux/srpo,", {"dall-e-3": "srpo", "a/b": "flux/srpo"}),
    ("OPENAI_RESPONSE_FORMAT", "b64_json", "b64_json"),
    (
        "CORS",
        "https://app.example, http://localhost:3000,http://[::1]:80",
        frozenset({"https://app.example", "http://localhost:3000", "http://[::1]:80"}),
    ),
    ("PROXY_HOPS", "2", 2),
    ("METADATA_PROMPT", "off", False),
    ("METRICS_PORT", "9100", 9100),
    ("METRICS_HOST", "0.0.0.0", "0.0.0.0"),
    ("METRICS_CALLERS", "on", True),
    ("LOG", "json", "json"),
    ("URL", "http://farm:8000", "http://farm:8000"),
    ("API_KEY", "farm_1", "farm_1"),
]

#: Values that cannot be used, with a word of what is allowed instead.
REFUSED = [
    ("REDIS_UNSAFE", "maybe", "0 or 1"),
    ("REDIS_FSYNC", "no", "everysec or always"),
    ("STORAGE_URL", "images", "s3://bucket"),
    ("STORAGE_URL", "s3:/images", "s3://bucket"),
    ("STORAGE_URL", "s3://", "s3://bucket"),
    ("STORAGE_URL", "s3://images//of", "s3://bucket/prefix"),
    ("STORAGE_URL", "s3://images/../of", "s3://bucket/prefix"),
    ("STORAGE_URL", "https://s3.example/images", "s3://bucket"),
    ("FILES", "signed", "proxy or presigned"),
    ("S3_CHECKSUMS", "never", "when_required or when_supported"),
    ("S3_ADDRESSING", "subdomain", "auto, path or virtual"),
    ("PUBLIC_URL", "farm.example", "http"),
    *(
        (name, f"https://{address}", "http(s)://host")
        for name in ("PUBLIC_URL", "S3_PUBLIC_ENDPOINT")
        for address in (
            "farm.example ",
            "farm.example/a b",
            "farm.example/?a=b",
            "farm.example/#a",
            "ada:pw@farm.example",
        )
    ),
    ("URL", "https://farm.example/ ", "http"),
    ("AUTH", "on", "keys or off"),
    ("PIPELINE", "sdxl", "flux or simulated"),
    ("OPENAI_RESPONSE_FORMAT", "data", "both, url or b64_json"),
    ("UNKNOWN_FIELDS", "ignore", "refuse or warn"),
    ("MODEL_ALIASES", "dall-e-3", "alias=model id"),
    ("MODEL_ALIASES", "=srpo", "alias=model id"),
    ("MODEL_ALIASES", "a b=srpo", "alias=model id"),
    ("MODEL_ALIASES", "a=srpo,a=kontext", "alias=model id"),
    ("MODEL_ALIASES", "a=sdxl", "srpo, srpo-image-to-image"),
    ("MODEL_ALIASES", "flux/srpo=kontext", "any other name"),
    *(
        ("LORA", value, "file:strength, comma-separated")
        for value in ("x.safetensors", "x.safetensors:", "x.safetensors:abc", ":0.8", "x:nan", "x:inf", "x:1,y")
    ),
    ("SIMULATED_STEP_MS", "-1", "0 or more"),
    ("SIMULATED_STEP_MS", "quick", "a number"),
    ("SIMULATED_STEP_MS", "inf", "a number"),
    ("SERVES", "sdxl", "names of models, comma-separated: srpo, "),
    ("FORWARD", "fast", "exact, shared or auto"),
    ("SAFETY", "maybe", "bundled, clip, vit or off"),
    ("LEASE_SECONDS", "0", "above 0"),
    ("LEASE_SECONDS", "-1", "seconds"),
    ("LEASE_SECONDS", "soon", "seconds"),
    ("GRACE_SECONDS", "1w", "seconds"),
    ("MAX_ATTEMPTS", "0", "1 or more"),
    ("LOAD_SECONDS", "0", "seconds"),
    ("RENDER_SECONDS", "0", "seconds"),
    ("MAX_ATTEMPTS", "2.5", "whole number"),
    ("QUEUE_LIMIT", "0", "1 or more"),
    ("PRICE_PER_IMAGE", "-1", "0 or more"),
    ("PRICE_PER_IMAGE", "inf", "0 or more"),
    ("RESULT_TTL", "7 weeks", "s, m, h or d"),
    ("UPLOAD_TTL", "a day", "s, m, h or d"),
    ("UPLOAD_GIGABYTES", "0", "above 0"),
    ("UPLOAD_GIGABYTES", "inf", "above 0"),
    ("HOLD_SECONDS", "0", "seconds"),
    ("WEBHOOK_SCHEDULE", "1s,soon", "durations"),
    ("WEBHOOK_SCHEDULE_FAL", "0", "durations"),
    ("WEBHOOK_SCHEDULE_WAVESPEED", "-1", "durations"),
    *(
        (name, value, "up to")
        for name, value in (
            *(("LEASE_SECONDS", "36501d"), ("RESULT_TTL", "9" * 400 + "d"), ("WEBHOOK_SCHEDULE", "5s,36501d")),
            *(("UPLOAD_GIGABYTES", "1e300"), ("PRICE_PER_IMAGE", "1e300"), ("SIMULATED_STEP_MS", "1e300")),
        )
    ),
    ("RATE_LIMIT", "0", "from 1 to"),
    ("IMAGES_PER_DAY", "many", "1 or more"),
    ("CORS", "app.example", "https://app.example"),
    ("CORS", "https://app.example/", "https://app.example"),
    ("CORS", "https://App.example", "https://app.example"),
    ("CORS", "https://*.example", "or *"),
    ("PROXY_HOPS", "-1", "from 0 to 10"),
    ("METADATA_PROMPT", "2", "on or off"),
    ("METRICS_PORT", "0", "from 1 to 65535"),
    ("METRICS_CALLERS", "some", "on or off"),
    ("LOG", "xml", "console or json"),
    ("URL", "127.0.0.1:8000", "http"),
]


def test_without_any_setting_the_defaults_of_the_contract_hold() -> None:
    assert load().model_dump() == DEFAULTS


@pytest.mark.parametrize(("name", "value", "meant"), TAKEN)
def test_a_setting_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, value: str, meant: object) -> None:
    monkeypatch.setenv(f"FARM_{name}", value)

    assert load().model_dump() == DEFAULTS | {name.lower(): meant}


def test_every_setting_is_tried_here() -> None:
    assert {name.lower() for name, _, _ in TAKEN} == set(Settings.model_fields)


@pytest.mark.parametrize(("name", "value", "allowed"), REFUSED)
def test_a_bad_value_is_named_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(f"FARM_{name}", value)

    with pytest.raises(ConfigurationError) as caught:
        load()

    text = str(caught.value)
    assert f"FARM_{name}" in text
    assert masked(value) in text
    assert allowed in text.partition("allowed")[2]
    assert "\n" not in text


def test_a_password_in_a_bad_value_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_STORAGE_URL", "s3://key:secret@images")

    with pytest.raises(ConfigurationError, match="FARM_STORAGE_URL=s3://…@images is not valid"):
        load()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("valkey://user:secret@host/0", "valkey://…@host/0"),
        ("valkey://user:sec/ret@host/0", "valkey://…@host/0"),
        ("user:secret@host:6379", "…@host:6379"),
        ("http://user:s#ecret@host?password=secret", "http://…@host?password=…"),
    ],
)
def test_a_password_is_not_shown_in_any_form_of_a_bad_url(
    monkeypatch: pytest.MonkeyPatch, value: str, shown: str
) -> None:
    monkeypatch.setenv("FARM_REDIS_URL", value)

    with pytest.raises(ConfigurationError) as caught:
        load()

    assert str(caught.value).startswith(f"FARM_REDIS_URL={shown} is not valid")


def test_only_a_bucket_can_sign_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_FILES", "presigned")
    with pytest.raises(ConfigurationError, match=r"FARM_FILES=presigned needs an S3 bucket; set FARM_STORAGE_URL"):
        load()

    monkeypatch.setenv("FARM_STORAGE_URL", "s3://images")

    assert load().files == "presigned"


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("FARM_LEASE_SECOND", "FARM_LEASE_SECONDS"),
        ("FARM_REDISURL", "FARM_REDIS_URL"),
        ("FARM_MAXATTEMPTS", "FARM_MAX_ATTEMPTS"),
        ("farm_redis_url", "FARM_REDIS_URL"),
        ("FARM_", "FARM_"),
        ("FARM_QQQQQ", "FARM_"),
    ],
)
def test_an_unknown_name_is_named_with_the_nearest(monkeypatch: pytest.MonkeyPatch, wrong: str, nearest: str) -> None:
    monkeypatch.setenv(wrong, "1")

    with pytest.raises(ConfigurationError, match=f"^{wrong} is not a setting; did you mean {nearest}"):
        load()


def service_variables(service: str, port_name: str) -> dict[str, str]:
    """Return the variables that Kubernetes sets in every pod for a Service."""
    prefix = service.upper().replace("-", "_")
    return {
        f"{prefix}_SERVICE_HOST": "10.96.0.17",
        f"{prefix}_SERVICE_PORT": "8000",
        f"{prefix}_SERVICE_PORT_{port_name}": "8000",
        f"{prefix}_PORT": "tcp://10.96.0.17:8000",
        f"{prefix}_PORT_8000_TCP": "tcp://10.96.0.17:8000",
        f"{prefix}_PORT_8000_TCP_PROTO": "tcp",
        f"{prefix}_PORT_8000_TCP_PORT": "8000",
        f"{prefix}_PORT_8000_TCP_ADDR": "10.96.0.17",
    }


@pytest.mark.parametrize("service", ["farm", "farm-api", "farm-redis", "farm-metrics", "farm-lease-seconds"])
def test_the_variables_of_a_kubernetes_service_are_ignored(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    for name, value in service_variables(service, "HTTP").items():
        monkeypatch.setenv(name, value)

    assert load().model_dump() == DEFAULTS


def test_a_service_over_ipv6_is_ignored_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_SERVICE_HOST", "fd00:10:96::11")
    monkeypatch.setenv("FARM_PORT", "tcp://[fd00:10:96::11]:8000")
    monkeypatch.setenv("FARM_PORT_53_UDP", "udp://[fd00:10:96::11]:53")

    assert load().model_dump() == DEFAULTS


@pytest.mark.parametrize("name", ["FARM", "FARM_REDIS"])
def test_the_variables_of_a_linked_container_are_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As Docker sets them for `--link farm` and `--link farm-redis`, of a range of ports, too."""
    linked = {
        "NAME": "/shop/farm",
        "PORT": "tcp://172.17.0.5:8000",
        "PORT_8000_TCP": "tcp://172.17.0.5:8000",
        "PORT_8000_TCP_START": "tcp://172.17.0.5:8000",
        "PORT_8000_TCP_PORT_START": "8000",
        "PORT_8002_TCP_END": "tcp://172.17.0.5:8002",
        "PORT_8002_TCP_PORT_END": "8002",
        "ENV_FARM_AUTH": "keys",
        "ENV_http_proxy": "",
        "ENV_MOTTO": "two\nlines",
    }
    for suffix, value in linked.items():
        monkeypatch.setenv(f"{name}_{suffix}", value)

    assert load().model_dump() == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FARM_NAME", "shop"),
        ("FARM_ENV", "prod"),
        ("FARM_PORT", "8000"),
        ("FARM_SERVICE_HOST", "farm.example"),
        ("FARM_REDIS_PORT", "6379"),
        ("FARM_PORTS", "1"),
    ],
)
def test_a_mistyped_setting_is_not_taken_for_a_services(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=f"^{name} is not a setting"):
        load()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("15m", 900), ("24h", 86400), ("7d", 604800)]
)
def test_a_duration_may_have_a_unit(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    monkeypatch.setenv("FARM_RESULT_TTL", text)

    assert load().result_ttl == seconds


def test_an_empty_value_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_LEASE_SECONDS", "")

    assert load().lease_seconds == 15


def test_variables_of_other_programs_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARMER_NAME", "x")
    monkeypatch.setenv("LEASE_SECONDS", "x")

    assert load().model_dump() == DEFAULTS


def test_the_page_of_settings_is_up_to_date() -> None:
    """`make docs` writes it."""
    written = (DOCS / "settings.md").read_text()

    assert written == page()
    assert [name for name in Settings.model_fields if f"| `FARM_{name.upper()}` |" not in written] == []
