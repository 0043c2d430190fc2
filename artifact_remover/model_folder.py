"""The models in a folder; plain Python, so that a wrong folder is told before TensorFlow is loaded."""

import hashlib
import json
from pathlib import Path
from typing import Any

from data_prep.config import GRID, DegradationConfig
from data_prep.errors import InputError, Option

MANIFEST = "manifest.json"
SUMS = "sha256"
"""The manifest's key for the checksums of the files with weights, by their names in the folder."""

MEMORY_PER_PIXEL = 960
"""Bytes that a pixel of a tile takes in float32 where nobody says; no preset takes more."""

FAITHFUL, PERCEPTUAL = "pretrain_generator", "gan"
"""The models that restore pictures, named after the stages that train them: `pretrain_generator`, `train_gan`."""

KINDS = {FAITHFUL: "faithful", PERCEPTUAL: "perceptual"}
"""The names that readers know these models by."""

_FALLBACK_OVERLAP = 160  # more than was measured for any preset

_INSTALLED = Path(__file__).parent / "saved_models"
PUBLISHED = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "saved_models"
"""The published models: inside the installed package, or beside the packages in a checkout."""


def read_manifest(folder: Path) -> dict:
    """Reads an export's manifest.

    Raises:
        InputError: If the folder is not an export of this project.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if not isinstance(manifest, dict):
            raise ValueError("no JSON object")
        return rename_old_keys(manifest)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} is not an export of this project, its {MANIFEST} is missing or damaged: give a folder such as "
            "runs/quick/saved_models/pretrain_generator/1"
        ) from error


def sum_up(file: Path) -> str:
    """Computes a file's SHA-256, in hexadecimal digits.

    Raises:
        OSError: If it cannot be read.
    """
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def rename_old_keys(tree: Any) -> Any:
    """Spells the keys of what an earlier version wrote as they are spelled now, such as `color_augmentation`.

    Args:
        tree: JSON value: a manifest, the settings of a stage, or its validations.

    Returns:
        The same with the new keys.
    """
    if isinstance(tree, list):
        return [rename_old_keys(each) for each in tree]
    if isinstance(tree, dict):
        return {key.replace("colour", "color"): rename_old_keys(value) for key, value in tree.items()}  # old spelling
    return tree


def read_overlap(manifest: dict) -> int:
    """Tells by how many pixels tiles must overlap for a model; enough for any preset where the manifest does not say.

    Raises:
        InputError: If the manifest says something else than a multiple of 16.
    """
    overlap = manifest.get("overlap", _FALLBACK_OVERLAP)
    if not isinstance(overlap, int) or overlap <= 0 or overlap % GRID:
        raise InputError(f"the model's {MANIFEST} is damaged, overlap must be a multiple of {GRID}: {overlap}")
    return overlap


def read_memory_per_pixel(manifest: dict) -> float:
    """Tells how many bytes a pixel of a tile takes in float32; enough for any preset where the manifest does not say.

    Raises:
        InputError: If the manifest says something else than a number above zero.
    """
    memory = manifest.get("memory_per_pixel", MEMORY_PER_PIXEL)
    if isinstance(memory, bool) or not isinstance(memory, int | float) or not memory > 0:
        raise InputError(f"the model's {MANIFEST} is damaged, memory_per_pixel must be above zero: {memory}")
    return memory


def read_trained_quality(manifest: dict) -> tuple[int, int] | None:
    """Tells the lowest and highest quality factor that a model was trained on, where the manifest says."""
    try:
        degradation = manifest["settings"]["data"]["degradation"]
        return DegradationConfig(quality=degradation["quality"]).quality_range
    except (LookupError, TypeError, ValueError, AttributeError, InputError):
        return None


def choose_exports(model: Path | None, blend: float | None) -> tuple[Path, Path | None]:
    """Chooses the export that restores, and the one that is blended with it.

    Args:
        model: Run, `saved_models`, stage or export folder; the published models when not given.
        blend: Whether, and by how much, the perceptual model is blended with the faithful one.

    Returns:
        The faithful model's export, or the perceptual one's where there is no other; and the perceptual one's if the
        two are to be blended.

    Raises:
        InputError: If there is no model, or `blend` needs one that is missing.
    """
    try:
        exports = find_exports(model or PUBLISHED)
    except OSError as error:
        raise InputError(f"cannot read the model folder, check its permissions: {error.filename}") from error
    for export in exports.values():
        read_manifest(export)
    if blend is None:
        return exports.get(FAITHFUL) or exports[PERCEPTUAL], None
    for wanted in (FAITHFUL, PERCEPTUAL):
        if wanted not in exports:
            raise InputError(
                f"{model or PUBLISHED} holds no {wanted}, and ",
                Option("blend"),
                " mixes both: give the folder of a run that has finished all stages, or leave ",
                Option("blend"),
                " out",
            )
    return exports[FAITHFUL], exports[PERCEPTUAL]


def find_exports(folder: Path) -> dict[str, Path]:
    """Finds the generators' exports in a model folder.

    Args:
        folder: Run, `saved_models`, stage or export folder.

    Returns:
        Export folders, the highest version of each model, by model: `FAITHFUL`, `PERCEPTUAL` or both.

    Raises:
        InputError: If there is none.
    """
    for root in (folder, folder / "saved_models"):
        found = {model: export for model in (FAITHFUL, PERCEPTUAL) if (export := _newest(root / model))}
        if found:
            return found
    export = folder if (folder / "saved_model.pb").exists() else _newest(folder)
    if not export:
        if folder == PUBLISHED:
            raise InputError(
                "no model is published with this version: train one with python -m artifact_remover.fit and give its "
                "folder, such as runs/quick"
            )
        raise InputError(
            f"{folder} holds no model: give the folder of a finished run such as runs/quick, or an export such as "
            "runs/quick/saved_models/pretrain_generator/1"
        )
    return {read_model(read_manifest(export)): export}


def read_model(manifest: dict) -> str:
    """Tells which of the two models an export is, `FAITHFUL` or `PERCEPTUAL`."""
    return PERCEPTUAL if manifest.get("stage") == "train_gan" else FAITHFUL


def name_export(folder: Path, stage: str) -> Path:
    """Names the folder in which a stage of a run leaves its model; the first version, as TF Serving counts."""
    return folder / "saved_models" / (PERCEPTUAL if stage == "train_gan" else stage) / "1"


def _newest(stage_folder):
    """The export of the highest version, which is what TF Serving takes too."""
    versions = [path.parent for path in stage_folder.glob("*/saved_model.pb") if path.parent.name.isdecimal()]
    return max(versions, key=lambda version: int(version.name), default=None)
