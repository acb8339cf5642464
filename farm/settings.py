"""Settings, read from environment variables with the prefix FARM_. No other module reads the environment."""

from __future__ import annotations

import difflib
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO, cast

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from farm.domain.catalogue import MODELS, UNSAFE_LABELS, find
from farm.domain.errors import ConfigurationError
from farm.domain.limits import MAX_RATE

PREFIX = "FARM_"

#: Names and values of the variables that Kubernetes sets in every pod for a Service such as `farm` or `farm-redis`.
#: Docker sets the ports, too, for a linked container of such a name, besides its name and its own variables.
_SERVICE_VARIABLES = (
    (r"(SERVICE_HOST|PORT_\d+_(TCP|UDP|SCTP)_ADDR)", r"[0-9a-fA-F.:]+"),
    (r"(SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)_PORT)", r"\d{1,5}"),
    (r"PORT(_\d+_(TCP|UDP|SCTP))?", r"(tcp|udp|sctp)://\S+"),
    (r"PORT_\d+_(TCP|UDP|SCTP)_PROTO", r"(tcp|udp|sctp)"),
    (r"PORT_\d+_(TCP|UDP|SCTP)_(PORT_)?(START|END)", r"(tcp|udp|sctp)://\S+|\d{1,5}"),
    (r"NAME", r"/[^/]+/[^/]+"),
    (r"ENV_.+", r"(?s:.*)"),
)

_ALIAS = re.compile(r"([A-Za-z0-9][A-Za-z0-9._:/-]{0,99})\s*=\s*(\S+)")
#: The longest duration: 100 years from now, in microseconds, is a whole number that Redis's scripts hold exactly.
_MAX_DAYS = 36500
_MAX_DURATION = f"{_MAX_DAYS}d"
_DURATION = f"seconds, or a number with s, m, h or d; above 0, up to {_MAX_DURATION}"
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(value: object) -> object:
    """Parse `90`, `90s`, `15m`, `24h` or `7d` as seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value).strip())
    if not match:
        raise ValueError("not a duration")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > _MAX_DAYS * _UNITS["d"]:
        raise ValueError("too long")
    return seconds


def _names(value: object) -> object:
    """Parse comma-separated names as a set."""
    return frozenset(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _model_name(model_id: str) -> str:
    """Return the name of the model with this id."""
    model = find(model_id)
    if model is None:
        raise ValueError("no model")
    return model.name


def _aliases(value: object) -> object:
    """Parse comma-separated pairs of an alias and a model id."""
    if not isinstance(value, str):
        return value
    pairs = [_ALIAS.fullmatch(part.strip()) for part in value.split(",") if part.strip()]
    aliases = {pair[1]: pair[2] for pair in pairs if pair}
    if len(aliases) < len(pairs):
        raise ValueError("not pairs, or an alias is there twice")
    return aliases


def _loras(value: object) -> object:
    """Parse comma-separated pairs of a LoRA file and its strength."""
    if not isinstance(value, str):
        return value
    pairs = [part.strip().rpartition(":") for part in value.split(",") if part.strip()]
    if not all(path and isfinite(float(strength)) for path, _, strength in pairs):
        raise ValueError("not pairs of a file and a number")
    return tuple((Path(path), float(strength)) for path, _, strength in pairs)


def _durations(value: object) -> object:
    """Parse comma-separated durations."""
    return tuple(_seconds(part) for part in value.split(",")) if isinstance(value, str) else value


#: The largest number with a fraction.
_MAX_NUMBER = 1e9
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
Schedule = Annotated[tuple[Annotated[float, Field(gt=0)], ...], NoDecode, BeforeValidator(_durations)]
WebUrl = Annotated[str, Field(pattern=r"^https?://[^/\s]+\S*$")]
#: The base of other URLs: paths are appended to it.
BaseUrl = Annotated[str, Field(pattern=r"^https?://[^/\s?#@]+(/[^\s?#]*)?$")]
BucketUrl = Annotated[str, Field(pattern=r"^s3://[A-Za-z0-9][A-Za-z0-9._-]{1,62}(/[A-Za-z0-9_][A-Za-z0-9._=-]*)*/?$")]
#: How attention is computed (`workers/pipelines/attention.py`).
AttentionName = Literal["native", "cudnn", "flash", "efficient", "math", "fa3"]
CompileChoice = Literal["auto", "on", "off"]
#: How many images a forward of the transformer computes (`workers/pipelines/sharing.py`).
ForwardMode = Literal["exact", "shared", "auto"]
Fsync = Literal["everysec", "always"]
#: A Sentinel's address passes here, so that it can be refused by name.
RedisUrl = Annotated[str, Field(pattern=r"^(redis|rediss|unix|[a-z+-]*sentinel)://")]
Names = Annotated[frozenset[str], NoDecode, BeforeValidator(_names)]
Origin = Annotated[
    str, Field(pattern=r"^(\*|https?://[a-z0-9._-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?)$")
]
ModelNames = Annotated[frozenset[Annotated[str, AfterValidator(_model_name)]], NoDecode, BeforeValidator(_names)]
Loras = Annotated[tuple[tuple[Path, float], ...], NoDecode, BeforeValidator(_loras)]
Aliases = Annotated[dict[str, str], NoDecode, BeforeValidator(_aliases)]
Origins = Annotated[frozenset[Origin], NoDecode, BeforeValidator(_names)]


def _setting(default: Any, shown: str, meaning: str, allowed: str) -> Any:
    """Return a field with the texts for docs/settings.md and for an error about its value."""
    return Field(default=default, description=meaning, json_schema_extra={"shown": shown, "allowed": allowed})


class Settings(BaseSettings):
    """Every setting with its default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    redis_url: RedisUrl | None = _setting(
        None,
        "unset: an embedded server in the data folder",
        "Your own Redis ≥ 7.0 or Valkey ≥ 7.2. It needs an append-only file and the policy `noeviction`.",
        "redis://…, rediss://… or unix://…",
    )
    redis_unsafe: bool = _setting(
        False, "0", "Start even if that Redis has no append-only file or evicts keys.", "0 or 1"
    )
    redis_fsync: Fsync = _setting(
        "everysec",
        "`everysec`",
        "When the embedded server syncs its append-only file to disk. `always`: before it answers, so a power cut "
        "loses no accepted job. `everysec`: a power cut may lose the last two seconds; faster on a slow disk.",
        "everysec or always",
    )
    storage_url: BucketUrl | None = _setting(
        None,
        "unset: a folder in the data folder",
        "S3 bucket and prefix for images. Give each farm a prefix of its own: the farm writes an object `farm-id-…` "
        "there, and deletes objects that belong to no job unless another farm's mark is there too: see `farm storage "
        "adopt --help`. All processes of a farm need the same one. boto3's variables set credentials, region and "
        "endpoint (`AWS_ENDPOINT_URL`, …).",
        "s3://bucket or s3://bucket/prefix",
    )
    files: Literal["proxy", "presigned"] = _setting(
        "proxy",
        "`proxy`",
        "`proxy`: image URLs lead to the API. `presigned`: they are signed URLs of the bucket, valid for as long as "
        "the job is kept, but at most 7 days.",
        "proxy or presigned",
    )
    s3_checksums: Literal["when_required", "when_supported"] = _setting(
        "when_required",
        "`when_required`",
        "When boto3 adds its own checksums. Many S3-compatible stores reject them.",
        "when_required or when_supported",
    )
    s3_addressing: Literal["auto", "path", "virtual"] = _setting(
        "auto",
        "`auto`",
        "How URLs name the bucket. Most self-hosted stores need `path`.",
        "auto, path or virtual",
    )
    s3_public_endpoint: BaseUrl | None = _setting(
        None,
        "the store's endpoint",
        "The address that presigned URLs name, for a store that callers reach at another address than the farm.",
        "http(s)://host, http(s)://host:port/path",
    )
    public_url: BaseUrl | None = _setting(
        None,
        "the address that the caller used; while keys are off, the address that the API listens on",
        "Base of every URL that the farm hands out. Set it in production: behind a proxy that ends TLS the farm cannot "
        "know that its callers use `https`, and workers fetch inputs below it from storage.",
        "http(s)://host, http(s)://host:port/path",
    )
    auth: Literal["keys", "off"] | None = _setting(
        None,
        "`keys`; `off` while the API listens on loopback only",
        "Whether callers need an API key. `off` is refused on any address but loopback.",
        "keys or off",
    )
    pipeline: Literal["flux", "simulated"] = _setting(
        "flux",
        "`flux`",
        "`simulated` renders plain test images at a fixed speed, without torch.",
        "flux or simulated",
    )
    simulated_step_ms: Annotated[float, Field(ge=0, le=_MAX_NUMBER, allow_inf_nan=False)] = _setting(
        20.0,
        "20",
        "Milliseconds per denoising step of the simulated pipeline.",
        f"a number, 0 or more, up to {_MAX_NUMBER:.0f}",
    )
    flux_dir: Path | None = _setting(
        None, "unset: the miniature", "Folder of `black-forest-labs/FLUX.1-dev` as published.", "a folder"
    )
    srpo_file: Path | None = _setting(
        None, "unset: the miniature", "`diffusion_pytorch_model.safetensors` of `tencent/SRPO`.", "a file"
    )
    kontext_dir: Path | None = _setting(
        None, "unset: the miniature", "Folder of `black-forest-labs/FLUX.1-Kontext-dev` as published.", "a folder"
    )
    lora: Loras = _setting(
        (),
        "unset",
        "LoRA files for SRPO's transformer, each with its strength. They are added to its weights, in this order, when "
        "a worker loads them. Part of the build. See [lora.md](lora.md).",
        "file:strength, comma-separated",
    )
    accept_licenses: Names = _setting(
        frozenset(),
        "unset",
        "Licences of the weights that you accept: `flux-1-dev-non-commercial`, `tencent-srpo`. Real weights do not "
        "load without.",
        "names, comma-separated",
    )
    safety: Literal["bundled", "clip", "vit", "off"] | None = _setting(
        None,
        "`bundled` with the miniature; required with real weights",
        "Safety checker (docs/safety.md). `bundled`: for the miniature only. `vit` and `clip` need `FARM_SAFETY_DIR`. "
        "`off`: requests that ask for a check are refused; Kontext and WaveSpeed's ids, which are always checked, are "
        "not served.",
        "bundled, clip, vit or off",
    )
    safety_dir: Path | None = _setting(
        None,
        "unset",
        "Weights of the checker `vit` (an image classifier in transformers' format) or `clip` "
        "(`CompVis/stable-diffusion-safety-checker`), as safetensors.",
        "a folder",
    )
    safety_labels: Names = _setting(
        frozenset(),
        ", ".join(f"`{label}`" for label in UNSAFE_LABELS) + ", as far as the classifier has them",
        "Labels of the checker `vit` that count as unsafe; their probabilities are added.",
        "labels of the classifier, comma-separated",
    )
    enhancer_dir: Path | None = _setting(
        None,
        "unset: a template",
        "Folder of a small causal language model in transformers' format. It rewrites prompts for `enhance_prompt`, on "
        "the CPU of the webhook worker.",
        "a folder",
    )
    device: str | None = _setting(
        None,
        "the best one there is",
        "Device to render on. The miniature uses the CPU unless this is set. `cuda`: with `farm up`, each card has a "
        "worker of its own; `cuda:N`: only this card, numbered as `nvidia-smi` numbers them.",
        "cpu, cuda or cuda:N",
    )
    attention: AttentionName = _setting(
        "native",
        "`native`",
        "How attention is computed. `native`: as torch chooses. `cudnn`, `flash`, `efficient`, `math`: one kernel of "
        "torch; `cudnn` is often the fastest on Hopper cards and later ones. `fa3`: FlashAttention 3, which you "
        "install yourself. Checked when a worker starts. Part of the build: images may differ in the last bits.",
        "native, cudnn, flash, efficient, math or fa3",
    )
    compile: CompileChoice = _setting(
        "auto",
        "`auto`: on with a card",
        "Whether models are compiled, which makes them faster on a card; see [performance.md](performance.md). Part of "
        "the build: images may differ in the last bits.",
        "auto, on or off",
    )
    step_masks: Path | None = _setting(
        None,
        "unset: the miniature's",
        "File with the steps that each level of `acceleration` skips, for your weights; `farm weights calibrate` "
        "writes it: see [acceleration.md](acceleration.md). Part of the build.",
        "a file",
    )
    forward: ForwardMode = _setting(
        "exact",
        "`exact`",
        "How images of one size that are rendered at the same time are computed. `exact`: one after the other, each as "
        "if alone. `shared`: together, step by step: more images a minute and a sooner start, but equal only within "
        "one of 256 levels. `auto`: `shared` at the sizes at which that is measured to be 10 % faster on this machine, "
        "when a worker first starts. Part of the build. See [performance.md](performance.md).",
        "exact, shared or auto",
    )
    previews: bool = _setting(
        True,
        "1",
        "Whether workers send small previews of the images that they render to those who watch the job, such as the "
        "playground: at most two a second, 192 pixels on the long side, 64 where the request asks for the safety "
        "checker, which sees the finished image only. Nothing keeps them.",
        "0 or 1",
    )
    serves: ModelNames = _setting(
        frozenset(),
        "empty",
        "Models that workers will bring: jobs for them are accepted before the first worker has started, as scaling "
        "from zero needs.",
        f"names of models, comma-separated: {', '.join(model.name for model in MODELS)}",
    )
    quantize: Literal["none", "fp8", "auto"] = _setting(
        "auto",
        "`auto`",
        "Number format of the transformers' blocks. `none`: that of the device (bf16 on a card). `fp8`: half of its "
        "memory. `auto`: `fp8` where the card's total memory is too small for the other. Files that have a format of "
        "their own (GGUF, an fp8 file of `farm weights convert`) keep it. See [cards.md](cards.md).",
        "none, fp8 or auto",
    )
    offload: Literal["none", "text", "all", "auto"] = _setting(
        "auto",
        "`auto`",
        "Weights that stay in the machine's memory and pass through the card block by block. `text`: the T5 encoder. "
        "`all`: the transformers, too, which makes every step much slower. `auto`: `text` where the card's total "
        "memory is too small for `none`. See [cards.md](cards.md).",
        "none, text, all or auto",
    )
    lease_seconds: Seconds = _setting(
        15.0,
        "15",
        "How long a worker may go without a heartbeat before its jobs return to the queue.",
        _DURATION,
    )
    grace_seconds: Seconds = _setting(
        90.0, "90", "Most seconds that a worker may take to drain at shutdown.", _DURATION
    )
    load_seconds: Seconds = _setting(
        600.0,
        "600",
        "How long a worker may take to load its model and warm up before it is restarted as hung.",
        _DURATION,
    )
    max_attempts: Annotated[int, Field(ge=1)] = _setting(
        3, "3", "Attempts at a job before it fails with `attempts_exhausted`.", "a whole number, 1 or more"
    )
    render_seconds: Seconds = _setting(
        900.0,
        "15m",
        "Time limit of one attempt, encoding and storing included. A job over it fails with `render_timeout`.",
        _DURATION,
    )
    queue_limit: Annotated[int, Field(ge=1)] = _setting(
        100_000, "100000", "Most waiting jobs per caller; further submits get 429.", "a whole number, 1 or more"
    )
    rate_limit: Annotated[int, Field(ge=1, le=MAX_RATE)] | None = _setting(
        None,
        "unset: no limit",
        "Most submits per minute and caller. A whole minute's worth may come at once.",
        f"a whole number from 1 to {MAX_RATE}",
    )
    images_per_day: Annotated[int, Field(ge=1)] | None = _setting(
        None,
        "unset: no limit",
        "Most images per day (UTC) and caller. Every image asked for counts, rendered or not.",
        "a whole number, 1 or more",
    )
    price_per_image: Annotated[float, Field(ge=0, le=_MAX_NUMBER, allow_inf_nan=False)] = _setting(
        0.0,
        "0",
        "Price of an image in the report of `GET /farm/v1/usage`, in a currency of your choice.",
        f"a number, 0 or more, up to {_MAX_NUMBER:.0f}",
    )
    usage_ttl: Seconds = _setting(
        400 * 86400.0,
        "400d",
        "How long the usage of a day is kept, counted from its last job.",
        _DURATION,
    )
    result_ttl: Seconds = _setting(7 * 86400.0, "7d", "How long a finished job and its images are kept.", _DURATION)
    upload_ttl: Seconds = _setting(86400.0, "1d", "How long an uploaded file is kept.", _DURATION)
    upload_gigabytes: Annotated[float, Field(gt=0, le=_MAX_NUMBER, allow_inf_nan=False)] = _setting(
        20.0,
        "20",
        "Most gigabytes of uploads per caller within `FARM_UPLOAD_TTL`; further uploads get 429.",
        f"a number above 0, up to {_MAX_NUMBER:.0f}",
    )
    hold_seconds: Seconds = _setting(
        240.0,
        "240",
        "How long a blocking call waits for its image before it is answered with the URL to poll.",
        _DURATION,
    )
    webhook_allow: Names = _setting(
        frozenset(),
        "empty",
        "Private hosts and networks that webhooks and image URLs may reach, comma-separated.",
        "host names, addresses and networks",
    )
    webhook_schedule: Schedule = _setting(
        (5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0, 18000.0, 36000.0),
        "5s,30s,2m,10m,30m,2h,5h,10h",
        "Delays between the attempts of a webhook delivery. The first attempt is immediate.",
        f"durations, comma-separated; each up to {_MAX_DURATION}",
    )
    webhook_schedule_fal: Annotated[Schedule | None, NoDecode] = _setting(
        None,
        "the same",
        "The same for webhooks in fal's dialect.",
        f"durations, comma-separated; each up to {_MAX_DURATION}",
    )
    webhook_schedule_wavespeed: Annotated[Schedule | None, NoDecode] = _setting(
        None,
        "the same",
        "The same for webhooks in WaveSpeed's dialect.",
        f"durations, comma-separated; each up to {_MAX_DURATION}",
    )
    signing_key: str | None = _setting(
        None,
        "generated once, kept in Redis",
        "ED25519 private key that signs fal-style webhooks: 32 bytes in base64.",
        "32 bytes in base64",
    )
    unknown_fields: Literal["refuse", "warn"] = _setting(
        "refuse",
        "`refuse`",
        "Fields of a request that its dialect does not know. `refuse`: an error names them. `warn`: they are ignored, "
        "and the warnings of the job name them.",
        "refuse or warn",
    )
    model_aliases: Aliases = _setting(
        {},
        "empty",
        "Further ids by which callers may name a model, comma-separated, for programs that know no others: "
        "`dall-e-3=srpo,gpt-image-1=srpo`.",
        "alias=model id, comma-separated",
    )
    openai_response_format: Literal["both", "url", "b64_json"] = _setting(
        "both",
        "`both`",
        "What OpenAI's dialect answers without `response_format`: the URL of each image, its bytes in base64, or both. "
        "An answer with base64 is a third larger than its image files.",
        "both, url or b64_json",
    )
    jwks_padding: bool = _setting(
        False,
        "off",
        "Whether `x` in `/.well-known/jwks.json` is padded with `=`. RFC 8037 forbids it; fal's Python "
        "sample of a receiver, unchanged, needs it.",
        "on or off",
    )
    cors: Origins = _setting(
        frozenset(),
        "none",
        "Origins whose web pages may call the API, comma-separated. `*` allows all, and needs `FARM_AUTH=keys`.",
        "origins such as https://app.example, comma-separated, or *",
    )
    proxy_hops: Annotated[int, Field(ge=0, le=10)] = _setting(
        0,
        "0",
        "Number of reverse proxies in front whose `X-Forwarded-For`, `-Proto` and `-Host` headers are trusted.",
        "a whole number from 0 to 10",
    )
    metadata_prompt: bool = _setting(True, "on", "Whether image files contain the prompt as metadata.", "on or off")
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = _setting(
        None,
        "unset",
        "Each process serves its own metrics at the first free port from this one on, beside the API's `/metrics`.",
        "a port from 1 to 65535",
    )
    metrics_host: str = _setting(
        "127.0.0.1", "`127.0.0.1`", "The address at which processes serve their own metrics.", "an address or host name"
    )
    metrics_callers: bool = _setting(
        False,
        "off",
        "Whether the API's own metrics port also has figures of callers, by name: the 50 with the most images, and all "
        "others together.",
        "on or off",
    )
    log: Literal["console", "json"] | None = _setting(
        None, "`console` on a terminal, else `json`", "Log format.", "console or json"
    )
    url: WebUrl = _setting(
        "http://127.0.0.1:8000", "`http://127.0.0.1:8000`", "Address of the farm for client commands.", "http(s)://…"
    )
    api_key: str | None = _setting(None, "unset", "API key for client commands.", "a key")

    @property
    def has_real_weights(self) -> bool:
        """True if any real weights are set; otherwise the miniature is loaded."""
        return any(path is not None for path in (self.flux_dir, self.srpo_file, self.kontext_dir))


def has_colours(stream: TextIO) -> bool:
    """Return True if what is written there may be coloured: it is a terminal, and NO_COLOR is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def is_iterm(stream: TextIO) -> bool:
    """Return True if what is written there is shown by iTerm2, also through ssh, which brings LC_TERMINAL along."""
    names = (os.environ.get("LC_TERMINAL"), os.environ.get("TERM_PROGRAM"))
    return stream.isatty() and not {"iTerm2", "iTerm.app"}.isdisjoint(names)


def environment(**changes: str) -> dict[str, str]:
    """Return the variables of this process with these changes, as a child process gets them."""
    return {**os.environ, **changes}


def forget_celery_variables() -> None:
    """Remove Celery's own variables, which it takes before what it is told: another broker, or another backend."""
    for name in [name for name in os.environ if name.startswith("CELERY_")]:
        del os.environ[name]


def traces_endpoint() -> str | None:
    """Return the address to which OpenTelemetry's own variables send traces, or None. Raises ConfigurationError.

    Its library reads them; this looks at those that decide whether and how anything is sent.
    """
    endpoint = _otel("EXPORTER_OTLP_TRACES_ENDPOINT") or _otel("EXPORTER_OTLP_ENDPOINT")
    if not endpoint or _otel("SDK_DISABLED").lower() == "true" or _otel("TRACES_EXPORTER") == "none":
        return None
    if not re.match(r"https?://[^/\s]", endpoint):
        raise ConfigurationError(f"OTEL_EXPORTER_OTLP_ENDPOINT={masked(endpoint)} is not valid; allowed: http(s)://…")
    protocol = _otel("EXPORTER_OTLP_TRACES_PROTOCOL") or _otel("EXPORTER_OTLP_PROTOCOL") or _OTLP
    if protocol != _OTLP:
        raise ConfigurationError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol} is not valid; allowed: {_OTLP}")
    return endpoint


#: The form in which traces are sent.
_OTLP = "http/protobuf"


def _otel(name: str) -> str:
    return os.environ.get(f"OTEL_{name}", "").strip()


def load() -> Settings:
    """Return the settings of this process. Raises ConfigurationError for the first bad name or value."""
    settings, problems = read()
    if problems:
        raise ConfigurationError(problems[0])
    return settings


def read() -> tuple[Settings, list[str]]:
    """Return the settings, bad ones left at their defaults, and one line about each problem."""
    problems = [_unknown(name) for name, value in os.environ.items() if _is_foreign(name, value)]
    try:
        settings = Settings()
    except ValidationError as error:
        unusable: dict[str, object] = {}
        for problem in error.errors():  # several for one name, where there are several ways to be right
            unusable.setdefault(_name_in(problem), problem["input"])
        problems += [_unusable(name, value) for name, value in unusable.items() if not _is_of_a_service(name, value)]
        settings = Settings(**{name: Settings.model_fields[name].default for name in unusable})
    if settings.files == "presigned" and settings.storage_url is None:
        problems.append("FARM_FILES=presigned needs an S3 bucket; set FARM_STORAGE_URL")
        settings = settings.model_copy(update={"files": "proxy"})
    if wrong := _wrong_aliases(settings.model_aliases):
        problems += wrong
        settings = settings.model_copy(update={"model_aliases": {}})
    return settings, problems


def _wrong_aliases(aliases: Mapping[str, str]) -> list[str]:
    """Return a line about each alias that is a model's own id, or that means no model."""
    return [f"FARM_MODEL_ALIASES={alias}={model_id}: {why}" for alias, model_id, why in _alias_problems(aliases)]


def _alias_problems(aliases: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for alias, model_id in aliases.items():
        if find(alias):
            yield alias, model_id, f"'{alias}' is a model's own id; allowed: any other name"
        if find(model_id) is None:
            known = ", ".join(model.name for model in MODELS)
            yield alias, model_id, f"'{model_id}' is not a model id; allowed: {known} and their ids in every dialect"


def masked(text: str) -> str:
    """Return `text` with the passwords of its URLs masked, for a screen or a log."""
    return re.sub(r"(password=)[^&\s]*", r"\1…", re.sub(r"((?<!\S)[a-z0-9+.-]+://|//|(?<!\S))\S*@", r"\1…@", text))


def _is_foreign(name: str, value: str) -> bool:
    """Return True for a variable with the farm's prefix that is neither a setting nor set by Kubernetes or Docker."""
    is_ours = name.upper().startswith(PREFIX)
    return is_ours and name not in _known() and not _is_of_a_service(name.removeprefix(PREFIX), value)


def _is_of_a_service(name: str, value: object) -> bool:
    """Return True if Kubernetes or Docker set a variable, named without the prefix: `FARM_PORT=tcp://…."""
    return any(
        re.fullmatch(rf"([A-Z0-9_]+_)?{names}", name.upper()) and re.fullmatch(values, str(value))
        for names, values in _SERVICE_VARIABLES
    )


def _known() -> list[str]:
    return sorted(PREFIX + name.upper() for name in Settings.model_fields)


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name.upper(), _known(), n=1, cutoff=0)
    return f"{name} is not a setting; did you mean {nearest[0]}?"


def _name_in(problem: Mapping[str, Any]) -> str:
    return str(problem["loc"][0]).lower().removeprefix(PREFIX.lower())


def _unusable(name: str, value: object) -> str:
    return f"{PREFIX}{name.upper()}={masked(str(value))} is not valid; allowed: {_extra(name)['allowed']}"


def _extra(name: str) -> dict[str, str]:
    return cast(dict[str, str], Settings.model_fields[name].json_schema_extra)


#: The first setting of each section of docs/settings.md, and the section's heading.
_SECTIONS = {
    "redis_url": "Redis and image storage",
    "public_url": "Address and access",
    "pipeline": "Models and rendering",
    "lease_seconds": "Workers and attempts",
    "queue_limit": "Limits and retention",
    "webhook_allow": "Webhooks",
    "unknown_fields": "Dialects",
    "cors": "HTTP and logging",
    "url": "Client commands",
}

_HEAD = """\
# Settings

Every setting of the farm, with its default and the allowed values. Settings are environment variables; there is no
configuration file. An unknown `FARM_…` name or an invalid value stops the start with one line that names it; the
variables that Kubernetes sets for a Service, and Docker for a linked container, named `farm` or `farm-…`
(`FARM_PORT=tcp://…`) are ignored.
Durations are seconds, or a number with a unit: `90`, `15m`, `24h`, `7d`.

`make docs` generates this page from `farm/settings.py`.
"""


def page() -> str:
    """Return docs/settings.md."""
    return _HEAD + "".join(map(_rows, Settings.model_fields))


def _rows(name: str) -> str:
    """Return the row of a setting, below the heading of a section that begins with it."""
    columns = "| variable | default | allowed | meaning |\n|---|---|---|---|\n"
    heading = f"\n## {_SECTIONS[name]}\n\n{columns}" if name in _SECTIONS else ""
    texts = (_extra(name)["shown"], _extra(name)["allowed"], Settings.model_fields[name].description)
    return f"{heading}| `{PREFIX}{name.upper()}` | {' | '.join(map(str, texts))} |\n"


def env_example() -> str:
    """Return deploy/env.example: every setting, commented out, and what compose.yaml asks for besides."""
    return _ENV_HEAD + "\n".join(_env_lines(name) for name in Settings.model_fields if name not in _OF_CLIENTS)


#: Settings of the client commands.
_OF_CLIENTS = ("url", "api_key")
_ENV_HEAD = """\
# Settings of a farm. `make docs` generates this file from farm/settings.py; copy it, and uncomment what you change.
# systemd reads it as /etc/srpo-farm.env, Docker Compose as deploy/.env.

# Only for Docker Compose: keys of the S3 server that it runs, and Grafana's password. Choose long random ones.
#S3_KEY=
#S3_SECRET=
#GRAFANA_PASSWORD=
# The address to listen on, the folder of the weights (seen as /models), and Redis's memory limit.
#BIND=127.0.0.1:8000
#WEIGHTS=./weights
#REDIS_MEMORY=2gb

# Where traces are sent (OTLP over HTTP); OpenTelemetry's other variables work, too. See docs/traces.md.
#OTEL_EXPORTER_OTLP_ENDPOINT=

"""


def _env_lines(name: str) -> str:
    meaning, allowed = Settings.model_fields[name].description, _extra(name)["allowed"]
    text = textwrap.fill(f"{meaning} Allowed: {allowed}.", 118, initial_indent="# ", subsequent_indent="# ")
    return f"{text}\n#{PREFIX}{name.upper()}=\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), "utf-8")
    Path(sys.argv[2]).write_text(env_example(), "utf-8")
