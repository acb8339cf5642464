"""What real weights consist of: their files and their licences. No torch here: whoever only looks needs none."""

from __future__ import annotations

import json
from pathlib import Path

from farm.errors import ConfigurationError

#: What SRPO publishes: the transformer alone, 47.6 GB in fp32, no configuration beside it.
SRPO_FILE = "diffusion_pytorch_model.safetensors of tencent/SRPO"
SRPO_SHA256 = "06e73a79fb21e6d78bb1ba1b303878155600367fba252385d1d824ff1e435b9c"
#: Licences that SRPO's weights stand under, by the names that FARM_ACCEPT_LICENSES takes.
LICENCES = {
    "flux-1-dev-non-commercial": "FLUX.1 [dev] Non-Commercial License",
    "tencent-srpo": "SRPO's licence: academic use only",
}

#: The parts of FLUX.1-dev's folder: the file that describes each, and the stem of its weights.
PARTS = {
    "scheduler": ("scheduler_config.json", None),
    "text_encoder": ("config.json", "model"),
    "text_encoder_2": ("config.json", "model"),
    "tokenizer": ("tokenizer_config.json", None),
    "tokenizer_2": ("tokenizer_config.json", None),
    "transformer": ("config.json", "diffusion_pytorch_model"),
    "vae": ("config.json", "diffusion_pytorch_model"),
}


def one_without_the_other(flux_dir: Path | None) -> str:
    """What is wrong where only one of the two settings is there."""
    there, missing = ("FARM_SRPO_FILE", "FARM_FLUX_DIR") if flux_dir is None else ("FARM_FLUX_DIR", "FARM_SRPO_FILE")
    return f"{there} needs {missing}: SRPO is a transformer for the other parts of FLUX.1-dev."


def not_accepted(accepted: frozenset[str]) -> list[str]:
    """The licences of SRPO's weights that are still to be accepted, by name."""
    return [name for name in LICENCES if name not in accepted]


def check_licences(accepted: frozenset[str]) -> None:
    """Raises ConfigurationError unless every licence of SRPO's weights is accepted."""
    open_ones = not_accepted(accepted)
    if open_ones:
        terms = "; ".join(LICENCES[name] for name in open_ones)
        raise ConfigurationError(
            f"These weights do not load before their licences are accepted ({terms}):"
            f" add {','.join(open_ones)} to FARM_ACCEPT_LICENSES."
        )


def lacking(folder: Path, *, without_weights: tuple[str, ...] = ()) -> list[str]:
    """What FLUX.1-dev's folder should hold and does not, by names relative to it."""
    wanted = ["model_index.json"]
    for part, (description, _) in PARTS.items():
        wanted.append(f"{part}/{description}")
        if part not in without_weights:
            wanted += weight_files(folder, part)
    return [name for name in wanted if not (folder / name).is_file()]


def weight_files(folder: Path, part: str) -> list[str]:
    """A part's weights: the files that its index lists, or one file; none for a part that has no weights."""
    stem = PARTS[part][1]
    if stem is None:
        return []
    index = index_of(folder, part)
    return sorted({f"{part}/{name}" for name in index.values()}) if index else [f"{part}/{stem}.safetensors"]


def index_of(folder: Path, part: str) -> dict[str, str]:
    """In which file of a part each of its tensors lies; empty where there is but one file."""
    path = folder / part / f"{PARTS[part][1]}.safetensors.index.json"
    if not path.is_file():
        return {}
    try:
        return {str(tensor): str(name) for tensor, name in json.loads(path.read_text())["weight_map"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be loaded: {error}; download it again") from error
