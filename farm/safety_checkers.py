"""Files and labels of safety checkers with weights of their own. Does not import torch: the doctor checks them, too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from farm.domain.catalogue import UNSAFE_LABELS
from farm.domain.errors import ConfigurationError

#: Checkers with weights of their own (FARM_SAFETY), and what FARM_SAFETY_DIR is the folder of.
FOLDERS = {
    "vit": "an image classifier in transformers' format",
    "clip": "CompVis/stable-diffusion-safety-checker",
}
#: The architecture that the configuration of CompVis's checker names.
_CLIP_ARCHITECTURE = "StableDiffusionSafetyChecker"
#: The type of model that transformers runs with the package timm.
_TIMM = "timm_wrapper"
_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class CheckerFolder:
    """The folder of a checker: its configuration, the description of its input, and its weights as safetensors.

    `named`: the labels that count as unsafe (FARM_SAFETY_LABELS); the usual ones if empty.
    """

    kind: str
    path: Path
    named: frozenset[str] = frozenset()

    def check(self) -> None:
        """Raise ConfigurationError unless the files are those of a checker of this kind, with unsafe labels."""
        files = [self.path / _CONFIG, *self.weight_files]
        if not self._is_timm:
            files.append(self.path / _PROCESSOR)
        if missing := [path.name for path in files if not path.is_file()]:
            raise ConfigurationError(f"{self} lacks {', '.join(missing)}; {self._remedy(missing)}")
        is_clip = _CLIP_ARCHITECTURE in (self._config.get("architectures") or ())
        if is_clip != (self.kind == "clip"):
            other = "clip" if is_clip else "vit"
            raise ConfigurationError(f"{self} is not the folder of {FOLDERS[self.kind]}; try FARM_SAFETY={other}")
        if self._is_timm and find_spec("timm") is None:
            raise ConfigurationError(f"{self} needs the package timm; run: .venv/bin/pip install -e '.[timm]'")
        if self.kind == "vit":
            self.unsafe_labels()

    def __str__(self) -> str:
        return f"FARM_SAFETY_DIR={self.path}"

    def _remedy(self, missing: list[str]) -> str:
        if _WEIGHTS in missing and any(self.path.glob("*.bin")):
            return "weights as .bin are not loaded, because such files can run code: get them as safetensors"
        return f"set it to the folder of {FOLDERS[self.kind]}"

    @property
    def weight_files(self) -> list[Path]:
        """The weight files: those that an index lists, or the only one."""
        index = self.path / _INDEX
        names = set(_read(index).get("weight_map", {}).values()) if index.is_file() else {_WEIGHTS}
        return [self.path / str(name) for name in sorted(names)]

    def unsafe_labels(self) -> dict[str, int]:
        """Return the classifier's labels that count as unsafe, with their numbers.

        Raises ConfigurationError if there is none, if one that is named does not exist, or if none is left for safe
        images.
        """
        labels = self._labels
        named = {label.lower() for label in self.named}
        found = (named or set(UNSAFE_LABELS)) & labels.keys()
        there = _listed(labels)
        if unknown := named - found:
            raise ConfigurationError(f"FARM_SAFETY_LABELS names {_listed(unknown)}; the labels of {self} are {there}")
        if not found:
            usual = ", ".join(UNSAFE_LABELS)
            raise ConfigurationError(f"{self} has none of the labels {usual}; set FARM_SAFETY_LABELS, of: {there}")
        if len(found) == len(labels):
            raise ConfigurationError(f"Every label of {self} counts as unsafe; set FARM_SAFETY_LABELS, of: {there}")
        return {label: labels[label] for label in sorted(found)}

    @property
    def _labels(self) -> dict[str, int]:
        """Every label of the classifier, in lower case, with its number."""
        names = self._config.get("label_names") if self._is_timm else self._config.get("id2label")
        numbered = names.items() if isinstance(names, dict) else enumerate(names or ())
        return {str(label).lower(): int(number) for number, label in numbered}

    @property
    def _is_timm(self) -> bool:
        """True for a classifier of timm: its configuration describes the input, too, and names labels otherwise."""
        config = self.path / _CONFIG
        return config.is_file() and _read(config).get("model_type") == _TIMM

    @property
    def _config(self) -> Mapping[str, Any]:
        return _read(self.path / _CONFIG)


def checker_folder(kind: str, path: Path | None, labels: frozenset[str]) -> CheckerFolder:
    """Return the folder of FARM_SAFETY_DIR. Raises ConfigurationError if no checker can be loaded from it."""
    if path is None:
        raise ConfigurationError(f"FARM_SAFETY={kind} needs FARM_SAFETY_DIR; set it to the folder of {FOLDERS[kind]}")
    folder = CheckerFolder(kind, path, labels)
    folder.check()
    return folder


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}; download it again") from error
