"""Check the safety checker: the setting, and the files and labels of a checker with weights of its own."""

from __future__ import annotations

from farm.doctor.finding import Finding, good, note, size, wrong
from farm.doctor.weights import WeightFile, are_real, flaw_in
from farm.safety_checkers import FOLDERS, checker_folder
from farm.settings import Settings

#: What follows from FARM_SAFETY=off.
_UNCHECKED = (
    "FARM_SAFETY=off: requests that ask for a check, which is the default of most dialects, are refused; "
    "Kontext and WaveSpeed's ids are always checked, so they are not served"
)
_CHOICE = "set FARM_SAFETY to vit or clip, and FARM_SAFETY_DIR to its weights; FARM_SAFETY=off renders without checks"


def is_set(settings: Settings) -> bool:
    """Return True if the checker depends on settings: the miniature and the simulated pipeline bring their own."""
    return are_real(settings) or bool(settings.safety or settings.safety_dir)


def safety(settings: Settings) -> Finding:
    """Check FARM_SAFETY and FARM_SAFETY_DIR beside the weights of the settings."""
    if settings.safety == "off":
        return note("safety", _UNCHECKED)
    if settings.safety in FOLDERS:
        return _with_weights(settings.safety, settings)
    if settings.safety is None:
        there = "FARM_SAFETY_DIR is set, but FARM_SAFETY is not" if settings.safety_dir else "FARM_SAFETY is not set"
        return wrong("safety", f"{there}, so no worker starts", _CHOICE)
    if are_real(settings):
        return wrong("safety", "FARM_SAFETY=bundled cannot check real weights, so no worker starts", _CHOICE)
    return good("safety", "bundled: it knows the miniature's images only")


def _with_weights(kind: str, settings: Settings) -> Finding:
    folder = checker_folder(kind, settings.safety_dir, settings.safety_labels)
    remedy = f"download it again into {folder.path}"
    for path in folder.weight_files:
        if flaw := flaw_in(WeightFile(path, remedy)):
            return wrong("safety", f"{path}: {flaw}", remedy)
    total = size(sum(path.stat().st_size for path in folder.weight_files))
    labels = f"; unsafe: {', '.join(folder.unsafe_labels())}" if kind == "vit" else ""
    return good("safety", f"{kind}: {folder.path}, {total}{labels}")
