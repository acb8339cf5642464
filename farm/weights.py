"""What real weights consist of: their files and their licences. No torch here: whoever only looks needs none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from farm.domain.errors import ConfigurationError

#: Names of real weights (`Pipeline.weights`), and the repositories that publish FLUX.1-dev's parts and Kontext.
SRPO_WEIGHTS = "flux-1-dev + srpo"
KONTEXT_WEIGHTS = "flux-1-kontext-dev"
FLUX_REPOSITORY = "black-forest-labs/FLUX.1-dev"
KONTEXT_REPOSITORY = "black-forest-labs/FLUX.1-Kontext-dev"

#: What SRPO publishes: the transformer alone, 47.6 GB in fp32, no configuration beside it.
SRPO_FILE = "diffusion_pytorch_model.safetensors of tencent/SRPO"
SRPO_SHA256 = "06e73a79fb21e6d78bb1ba1b303878155600367fba252385d1d824ff1e435b9c"
#: The licences of real weights, by the names that FARM_ACCEPT_LICENSES takes.
LICENCES = {
    "flux-1-dev-non-commercial": "FLUX.1 [dev] Non-Commercial License",
    "tencent-srpo": "SRPO's licence: academic use only",
}
#: What SRPO's weights stand under, which need those of FLUX.1-dev; and Kontext's, published under the latter's licence.
_SRPO_LICENCES = ("flux-1-dev-non-commercial", "tencent-srpo")
_KONTEXT_LICENCES = ("flux-1-dev-non-commercial",)

#: The parts of FLUX.1-dev's folder, and of Kontext's: the file that describes each, and the stem of its weights.
PARTS = {
    "scheduler": ("scheduler_config.json", None),
    "text_encoder": ("config.json", "model"),
    "text_encoder_2": ("config.json", "model"),
    "tokenizer": ("tokenizer_config.json", None),
    "tokenizer_2": ("tokenizer_config.json", None),
    "transformer": ("config.json", "diffusion_pytorch_model"),
    "vae": ("config.json", "diffusion_pytorch_model"),
}

#: What a language model has beside its weights.
_OF_A_LANGUAGE_MODEL = ("config.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where real weights lie, as far as the settings say so. If none do, the miniature is meant."""

    flux_dir: Path | None = None
    srpo_file: Path | None = None
    kontext_dir: Path | None = None

    @property
    def are_set(self) -> bool:
        return self.has_srpo or self.kontext_dir is not None

    @property
    def has_srpo(self) -> bool:
        """Whether SRPO is asked for; `missing` says whether it is whole."""
        return self.flux_dir is not None or self.srpo_file is not None

    @property
    def missing(self) -> str | None:
        """The setting that another one needs and that is not there."""
        if not self.has_srpo:
            return None
        return "FARM_FLUX_DIR" if self.flux_dir is None else "FARM_SRPO_FILE" if self.srpo_file is None else None

    @property
    def name(self) -> str:
        """The weights by their names."""
        names = [SRPO_WEIGHTS] * self.has_srpo + [KONTEXT_WEIGHTS] * (self.kontext_dir is not None)
        return ", ".join(names)

    def not_accepted(self, accepted: frozenset[str]) -> list[str]:
        """The licences of these weights that are still to be accepted, by name."""
        of_srpo = _SRPO_LICENCES if self.has_srpo else ()
        of_kontext = _KONTEXT_LICENCES if self.kontext_dir is not None else ()
        return [name for name in dict.fromkeys((*of_srpo, *of_kontext)) if name not in accepted]


def one_without_the_other(missing: str) -> str:
    """What is wrong where this setting is missing (`Checkpoints.missing`)."""
    there = "FARM_SRPO_FILE" if missing == "FARM_FLUX_DIR" else "FARM_FLUX_DIR"
    return f"{there} needs {missing}: SRPO is a transformer for the other parts of FLUX.1-dev."


def check_licences(checkpoints: Checkpoints, accepted: frozenset[str]) -> None:
    """Raises ConfigurationError unless every licence of the weights is accepted."""
    open_ones = checkpoints.not_accepted(accepted)
    if open_ones:
        terms = "; ".join(LICENCES[name] for name in open_ones)
        raise ConfigurationError(
            f"These weights do not load before their licences are accepted ({terms}):"
            f" add {','.join(open_ones)} to FARM_ACCEPT_LICENSES."
        )


def check_enhancer(folder: Path) -> None:
    """Raises ConfigurationError unless the folder has what a language model of transformers consists of."""
    missing = [name for name in _OF_A_LANGUAGE_MODEL if not (folder / name).is_file()]
    if not any(path.suffix in (".safetensors", ".bin") for path in folder.glob("*")):
        missing.append("model.safetensors")
    if missing:
        raise ConfigurationError(
            f"FARM_ENHANCER_DIR={folder} lacks {', '.join(missing)}; it is the folder of a causal language model, as "
            "transformers saves one"
        )


def lacking(folder: Path, *, without_weights: tuple[str, ...] = ()) -> list[str]:
    """What a folder of the layout should hold and does not, by names relative to it."""
    index = [] if (folder / "model_index.json").is_file() else ["model_index.json"]
    of_parts = (lacking_in_part(folder, part, with_weights=part not in without_weights) for part in PARTS)
    return [*index, *chain.from_iterable(of_parts)]


def lacking_in_part(folder: Path, part: str, *, with_weights: bool = True) -> list[str]:
    """The same for one part of it."""
    wanted = [f"{part}/{PARTS[part][0]}", *(weight_files(folder, part) if with_weights else ())]
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
