"""Files and licences of real weights. Does not import torch, so that the doctor and the API can check them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from farm.domain.errors import ConfigurationError
from farm.weights.fp8 import is_scaled_fp8

#: Names of real weights (`Pipeline.weights`), and the repositories of FLUX.1-dev's parts and of Kontext.
SRPO_WEIGHTS = "flux-1-dev + srpo"
KONTEXT_WEIGHTS = "flux-1-kontext-dev"
FLUX_REPOSITORY = "black-forest-labs/FLUX.1-dev"
KONTEXT_REPOSITORY = "black-forest-labs/FLUX.1-Kontext-dev"

#: SRPO's only file: a transformer in fp32, 47.6 GB, without a configuration.
SRPO_FILE = "diffusion_pytorch_model.safetensors of tencent/SRPO"
SRPO_SHA256 = "06e73a79fb21e6d78bb1ba1b303878155600367fba252385d1d824ff1e435b9c"
#: Where SRPO's file comes from.
SRPO_REMEDY = f"FARM_SRPO_FILE is the {SRPO_FILE}, sha256 {SRPO_SHA256}"
#: Licences of real weights, by their names in FARM_ACCEPT_LICENSES.
LICENCES = {
    "flux-1-dev-non-commercial": "FLUX.1 [dev] Non-Commercial License",
    "tencent-srpo": "SRPO's licence: academic use only",
}
#: Licences of SRPO, which needs parts of FLUX.1-dev, and of Kontext, which has FLUX.1-dev's.
_SRPO_LICENCES = ("flux-1-dev-non-commercial", "tencent-srpo")
_KONTEXT_LICENCES = ("flux-1-dev-non-commercial",)

#: Parts of FLUX.1-dev's folder and of Kontext's: configuration file and stem of the weight files.
PARTS = {
    "scheduler": ("scheduler_config.json", None),
    "text_encoder": ("config.json", "model"),
    "text_encoder_2": ("config.json", "model"),
    "tokenizer": ("tokenizer_config.json", None),
    "tokenizer_2": ("tokenizer_config.json", None),
    "transformer": ("config.json", "diffusion_pytorch_model"),
    "vae": ("config.json", "diffusion_pytorch_model"),
}

#: Number formats of a transformer's tensors that a worker converts to its own, as safetensors names them.
FLOATS = ("F32", "BF16", "F16")
#: Tensors of every FLUX transformer outside its blocks, by diffusers' names; other programs have other names.
_OUTER_TENSORS = ("x_embedder.weight", "context_embedder.weight", "proj_out.weight")

#: Files of a language model, except its weights.
_LANGUAGE_MODEL_FILES = ("config.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Paths of real weights from the settings. Without any, the miniature is loaded."""

    flux_dir: Path | None = None
    srpo_file: Path | None = None
    kontext_dir: Path | None = None

    @property
    def are_set(self) -> bool:
        """True if any real weights are set."""
        return self.has_srpo or self.kontext_dir is not None

    @property
    def has_srpo(self) -> bool:
        """True if SRPO is set; `missing` says if it is complete."""
        return self.flux_dir is not None or self.srpo_file is not None

    @property
    def missing(self) -> str | None:
        """The setting that is missing beside the one that is set, or None."""
        if not self.has_srpo:
            return None
        return "FARM_FLUX_DIR" if self.flux_dir is None else "FARM_SRPO_FILE" if self.srpo_file is None else None

    @property
    def name(self) -> str:
        """The names of the weights, comma-separated."""
        names = [SRPO_WEIGHTS] * self.has_srpo + [KONTEXT_WEIGHTS] * (self.kontext_dir is not None)
        return ", ".join(names)

    def not_accepted(self, accepted: frozenset[str]) -> list[str]:
        """Return the names of the licences that are not accepted yet."""
        of_srpo = _SRPO_LICENCES if self.has_srpo else ()
        of_kontext = _KONTEXT_LICENCES if self.kontext_dir is not None else ()
        return [name for name in dict.fromkeys((*of_srpo, *of_kontext)) if name not in accepted]


def one_without_the_other(missing: str) -> str:
    """Return the error about a missing setting (`Checkpoints.missing`)."""
    there = "FARM_SRPO_FILE" if missing == "FARM_FLUX_DIR" else "FARM_FLUX_DIR"
    return f"{there} needs {missing}: SRPO's transformer works with the other parts of FLUX.1-dev."


def check_licences(checkpoints: Checkpoints, accepted: frozenset[str]) -> None:
    """Raise ConfigurationError unless every licence of the weights is accepted."""
    missing = checkpoints.not_accepted(accepted)
    if missing:
        terms = "; ".join(LICENCES[name] for name in missing)
        raise ConfigurationError(
            f"The licences of these weights are not accepted ({terms}). Read them, then add {','.join(missing)} to"
            " FARM_ACCEPT_LICENSES."
        )


def check_enhancer(folder: Path) -> None:
    """Raise ConfigurationError unless the folder has the files of a language model in transformers' format."""
    missing = [name for name in _LANGUAGE_MODEL_FILES if not (folder / name).is_file()]
    if not any(path.suffix in (".safetensors", ".bin") for path in folder.glob("*")):
        missing.append("model.safetensors")
    if missing:
        raise ConfigurationError(
            f"FARM_ENHANCER_DIR={folder} lacks {', '.join(missing)}; set it to the folder of a causal language "
            "model in transformers' format"
        )


def transformer_problems(tensors: Mapping[str, str], blocks: tuple[int, int]) -> list[str]:
    """Return how a transformer's file differs from what a worker loads.

    `tensors`: the number format of each, from the file's header. `blocks`: the model's double and single blocks.
    """
    double, single = blocks
    wanted = [
        *_OUTER_TENSORS,
        *(f"transformer_blocks.{number}.attn.to_q.weight" for number in range(double)),
        *(f"single_transformer_blocks.{number}.attn.to_q.weight" for number in range(single)),
    ]
    missing = [f"{name} is missing" for name in wanted if name not in tensors]
    return missing + [
        f"{name} holds {found} instead of {', '.join(FLOATS)}"
        for name, found in sorted(tensors.items())
        if found not in FLOATS and not is_scaled_fp8(name, tensors)
    ]


def misfit(path: Path, differences: list[str], remedy: str) -> str:
    """Return the error about a file that does not hold the transformer that it should."""
    return f"{path} does not fit FLUX.1-dev's transformer: {some(differences)}; {remedy}"


def some(things: list[str]) -> str:
    """Return the first three, and the number of the rest."""
    shown = ", ".join(things[:3])
    return shown if len(things) <= 3 else f"{shown} and {len(things) - 3} more"


def transformer_blocks(folder: Path) -> tuple[int, int]:
    """Return the number of double and single blocks of a FLUX.1-dev folder's transformer; 1 each if it does not say."""
    try:
        described = json.loads((folder / "transformer" / PARTS["transformer"][0]).read_text("utf-8"))
        return int(described["num_layers"]), int(described["num_single_layers"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1, 1  # a missing or broken configuration is an error of its own


def lacking(folder: Path, *, without_weights: tuple[str, ...] = ()) -> list[str]:
    """Return the missing files of a FLUX.1-dev or Kontext folder, relative to it."""
    index = [] if (folder / "model_index.json").is_file() else ["model_index.json"]
    of_parts = (lacking_in_part(folder, part, with_weights=part not in without_weights) for part in PARTS)
    return [*index, *chain.from_iterable(of_parts)]


def lacking_in_part(folder: Path, part: str, *, with_weights: bool = True) -> list[str]:
    """Return the missing files of one part, relative to the folder."""
    wanted = [f"{part}/{PARTS[part][0]}", *(weight_files(folder, part) if with_weights else ())]
    return [name for name in wanted if not (folder / name).is_file()]


def weight_files(folder: Path, part: str) -> list[str]:
    """Return a part's weight files: those that its index lists, or the only one; none if it has no weights."""
    stem = PARTS[part][1]
    if stem is None:
        return []
    index = index_of(folder, part)
    return sorted({f"{part}/{name}" for name in index.values()}) if index else [f"{part}/{stem}.safetensors"]


def index_of(folder: Path, part: str) -> dict[str, str]:
    """Return the file of each tensor of a part; empty if the part has only one file."""
    path = folder / part / f"{PARTS[part][1]}.safetensors.index.json"
    if not path.is_file():
        return {}
    try:
        return {str(tensor): str(name) for tensor, name in json.loads(path.read_text("utf-8"))["weight_map"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be loaded: {error}; download it again") from error
