"""The book-keeping of a run: its folder, what each stage was begun with, and what came of it."""

import dataclasses
import datetime
import hashlib
import json
import os
import platform
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

import artifact_remover
from artifact_remover.checkpoint_files import find_checkpoints
from artifact_remover.config import (
    DISCRIMINATOR_CLIP_NORM,
    DISCRIMINATOR_LEARNING_RATE,
    MAX_COLOR_SHIFT,
    STAGES,
    FitConfig,
    LossConfig,
)
from artifact_remover.model_folder import name_export, read_manifest, rename_old_keys
from artifact_remover.training.devices import is_chief, require_the_chiefs, tell_all
from artifact_remover.training.gan import AVERAGE_DECAY, GATE
from artifact_remover.training.perceptual import MeanDistance, PerceptualLoss
from data_prep.command_line import list_options
from data_prep.errors import InputError, Message, Option
from data_prep.files import write_whole
from data_prep.sources import Photographs
from data_prep.splits import PARTS, Role

SETTINGS = "settings.json"
"""File of what a stage was begun with; by itself it means nothing."""

_RETIRED = {
    "perceptual_layer": "block3_conv4",
    "train_gan.discriminator_learning_rate": DISCRIMINATOR_LEARNING_RATE,
    "train_gan.discriminator_clip_norm": DISCRIMINATOR_CLIP_NORM,
    "train_gan.discriminator_steps": 1,
    "train_gan.gate": GATE,
    "train_gan.ema": AVERAGE_DECAY,
    "train_gan.max_color_shift": MAX_COLOR_SHIFT,
}
"""Settings that earlier versions let a run choose, with the values that are fixed now."""

_MOST_TOLD = 3
"""Settings that a refusal tells of."""

_NETWORKS_AND_LOSSES = {
    "pretrain_generator": ["generator_loss"],
    "pretrain_discriminator": ["discriminator"],
    "train_gan": ["discriminator", "gan_loss"],
}


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that the stages of a run share.

    Attributes:
        config: Every number.
        folder: Where the run is kept.
        photographs: What it is trained on.
        perceptual: The perceptual loss, or, where no pretrained weights could be had, why not: then that term is left
            out.
        dtype: Keras dtype policy of the networks, `float32` or `mixed_bfloat16`.
        console: Where progress goes.
        strategy: The devices that share each batch, from `open_devices`.
    """

    config: FitConfig
    folder: Path
    photographs: Photographs
    perceptual: PerceptualLoss | str
    dtype: str
    console: Console
    strategy: tf.distribute.Strategy = dataclasses.field(default_factory=tf.distribute.get_strategy)

    @property
    def is_chief(self) -> bool:
        """True in the process that reads and writes the folder."""
        return is_chief(self.strategy)

    @property
    def perceptual_distance(self) -> MeanDistance | None:
        """The perceptual loss of clean and restored patches, if there are pretrained weights."""
        return self.perceptual.distance if isinstance(self.perceptual, PerceptualLoss) else None


@dataclasses.dataclass(frozen=True)
class StageResult:
    """A finished stage.

    Attributes:
        stage: Its name.
        export: Folder of its SavedModel.
        manifest: How it came about, as in `manifest.json`; empty on a worker that is not the chief.
    """

    stage: str
    export: Path
    manifest: dict


def begin_stage(run: Run, stage: str, parents: dict[str, Path]) -> StageResult | None:
    """Makes a stage's folders, or finds its result if it is finished; the chief does, and tells the other workers.

    Args:
        run: The run.
        stage: One of `STAGES`.
        parents: By role, exports that the stage starts from.

    Returns:
        The result of a finished stage, else `None`.

    Raises:
        InputError: If the run's folder holds this stage with other settings.
    """
    finished = _begin_in_folder(run, stage, parents) if run.is_chief else None
    [is_finished] = tell_all(run.strategy, [tf.constant(int(finished is not None))])
    return finished or (name_result(run.folder, stage) if is_finished else None)


def _begin_in_folder(run, stage, parents):
    folder = checkpoint_folder(run, stage)
    excluded = "".join(sorted(run.photographs.excluded)).encode()
    settings = _settings(run.config, stage) | {
        "parents": {role: _seen_from(run.folder, path) for role, path in parents.items()},
        "perceptual_features": run.config.perceptual_features if run.perceptual_distance else False,
        # Another state of the folder splits otherwise: what was held out would be trained on.
        "photographs": run.photographs.full_name,
        "content": run.photographs.content,
        "excluded": hashlib.sha256(excluded).hexdigest()[:16],
    }
    settings_file = folder / SETTINGS
    finished = find_result(run.folder, stage)
    # A run that failed before its first checkpoint holds nothing, and must not stand in the way of a mended command.
    if settings_file.exists() and (finished or find_checkpoints(folder)):
        before = _read_settings(settings_file)
        if finished or not wants_features(settings):  # then it does not matter whether they can still be had
            settings["perceptual_features"] = before["perceptual_features"]
        _refuse_other_settings(before, settings, run.folder, stage)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(settings_file, (json.dumps(settings, indent=2) + "\n").encode())
    name_export(run.folder, stage).parent.mkdir(parents=True, exist_ok=True)
    return finished


def require_one_run(run: Run) -> None:
    """Makes sure that all workers train the same on the same photographs.

    Raises:
        InputError: On a worker that was started otherwise than the chief.
    """
    settings = [_settings(run.config, stage) for stage in STAGES]
    for each in settings:
        del each["data"]["data"], each["data"]["graphics"]  # folders may lie elsewhere
    facts = {
        "options": [settings, run.config.stage],
        "photographs": [run.photographs.content, sorted(run.photographs.excluded)],
        "precision": run.dtype,
        "versions": describe_making()["versions"],
    }
    require_the_chiefs(run.strategy, facts)


def checkpoint_folder(run: Run, stage: str) -> Path:
    """Names the folder that holds what a stage needs to go on after a kill."""
    return run.folder / "checkpoints" / stage


def find_result(folder: Path, stage: str) -> StageResult | None:
    """Finds a finished stage of a run, `None` where it is not finished."""
    return read_result(folder, stage) if name_export(folder, stage).is_dir() else None


def read_result(folder: Path, stage: str) -> StageResult:
    """Reads what a finished stage of a run has exported."""
    exported = name_export(folder, stage)
    return StageResult(stage, exported, read_manifest(exported))


def name_result(folder: Path, stage: str) -> StageResult:
    """Names a finished stage, for a worker that is not to read the folder."""
    return StageResult(stage, name_export(folder, stage), {})


def wants_features(settings: dict) -> bool:
    """Tells whether the loss of a stage weighs perceptual features.

    Args:
        settings: Of the stage, as in `settings.json` and in its manifest.
    """
    return any(settings.get(loss, {}).get("perceptual") for loss in ("generator_loss", "gan_loss"))


def began_without_features(folder: Path) -> bool:
    """Tells whether any stage of a run that wants perceptual features was begun without them."""
    begun = (
        _read_settings(file)
        for file in folder.glob(f"checkpoints/*/{SETTINGS}")
        if find_result(folder, file.parent.name) or find_checkpoints(file.parent)
    )
    return any(wants_features(settings) and not settings["perceptual_features"] for settings in begun)


def describe_stage(
    run: Run, stage: str, parents: dict[str, Path], history: list[dict], chosen: dict, jpeg: dict
) -> dict:
    """Describes how a stage's model came about, as plain JSON values for its manifest.

    Args:
        run: The run.
        stage: One of `STAGES`.
        parents: By role, exports that the stage started from.
        history: Its validations, from `train`.
        chosen: Which of these the exported model is of.
        jpeg: What the untouched JPEGs score.
    """
    settings = _settings(run.config, stage)
    for each in ("data", "graphics"):
        settings["data"][each] = _without_place(settings["data"][each])
    role: Role = "discriminator" if stage == "pretrain_discriminator" else "generator"
    return {
        "stage": stage,
        "parents": {role: _seen_from(run.folder, path) for role, path in parents.items()},
        "steps": chosen["step"],
        "training_seconds": round(history[-1]["seconds"], 1),
        "settings": settings,
        "data": {
            "name": _without_place(run.photographs.name),
            "photographs": {part: run.photographs.count(role, part) for part in PARTS},
            "builder": run.photographs.full_name,
        },
        "perceptual_features": f"none, trained without the perceptual term: {run.perceptual}"
        if isinstance(run.perceptual, str)
        else run.perceptual.description,
        "compute_dtype": run.dtype,
        "devices": run.strategy.num_replicas_in_sync,
        "validation": chosen,
        "validation_of_the_jpeg_itself": jpeg,
        "curve": history,
        **describe_making(),
    }


def describe_making() -> dict:
    """Names the versions that make a model, and the present time, as a manifest has them."""
    return {
        "versions": {
            "python": platform.python_version(),
            "artifact_remover": artifact_remover.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _settings(config, stage) -> dict:
    """Lists what a stage's outcome depends on, as plain JSON values."""
    settings = dataclasses.asdict(config)
    # Where files lie does not matter, and may change while a run rests.
    del settings["data"]["data_dir"], settings["data"]["exclude"]
    wanted = ["seed", "data", "generator", *_NETWORKS_AND_LOSSES[stage], stage]
    return json.loads(json.dumps({name: settings[name] for name in wanted}, default=str))


def _read_settings(file):
    try:
        settings = rename_old_keys(json.loads(file.read_text()))
    except ValueError as error:
        raise InputError(f"{file} is damaged: choose another ", Option("workdir")) from error
    if settings["perceptual_features"] is True:  # written before there was a choice
        settings["perceptual_features"] = "vgg19"
    for loss in ("generator_loss", "gan_loss"):
        weights = settings.get(loss, {})
        if weights.get("perceptual") and "perceptual_crop" not in weights:  # the whole patch was seen
            weights["perceptual_crop"] = max(LossConfig.perceptual_crop, settings["data"]["patch_size"])
    return settings


def _refuse_other_settings(before, now, folder, stage):
    # A setting that is newer than the run had no choice but its default.
    before, now = _flatten(_settings(FitConfig(), stage)) | _flatten(before), _flatten(now)
    if before.pop("content", None) == now.pop("content"):
        before["photographs"] = now["photographs"]  # only their dates differ
    now |= {name: value for name, value in _RETIRED.items() if name in before}
    now |= {name: None for name in before if name.startswith("parents.") and name not in now}  # without an `--init`
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise InputError(
            f"{folder} holds {stage} with other settings: choose another ",
            Option("workdir"),
            # What can no longer be chosen cannot be given.
            ", or give the settings of before: " if _RETIRED.keys().isdisjoint(changed) else ": ",
            *_describe_changes(changed, before, now),
        )


def _describe_changes(changed, before, now):
    """Tells a few of the settings that differ, as the pieces of a message."""
    if not {"data.data", "data.graphics"}.isdisjoint(changed):
        changed = [name for name in changed if name != "photographs"]  # which are others then
    for name in changed[:_MOST_TOLD]:
        yield "" if name == changed[0] else "; "
        yield _describe_change(name, before.get(name), now[name])
    if len(changed) > _MOST_TOLD:
        yield f"; and {len(changed) - _MOST_TOLD} more"


def _describe_change(name, before, now):
    if name == "photographs":
        return "other photographs or graphics"
    if name == "excluded":
        return Message("other pictures to ", Option("exclude"))
    option = "init" if name == "parents.generator" else _name_options().get(name, name)
    return Message(Option(option), f" {_show(before)}, now {_show(now)}")


def _name_options():
    """Maps the flattened names of settings to the options that choose them, as Python writes them."""
    options = list_options(FitConfig)
    return {".".join(option.path): option.name.removeprefix("--").replace("-", "_") for option in options}


def _show(value):
    """Shows a setting as it is given; what is left out is `none`."""
    if isinstance(value, list):
        value = " ".join(map(str, value))
    return "none" if value in (None, "") or value is False else value


def _flatten(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    return {name: leaf for key, value in tree.items() for name, leaf in _flatten(value, f"{prefix}{key}.").items()}


def _without_place(name):
    """Gives a folder's name, which means as much as its path on another machine; other names stay as they are."""
    return name and Path(name).expanduser().resolve().name


def _seen_from(folder, path):
    """Gives a path relative to the run's folder, so that it may be moved; on Windows another drive has none."""
    try:
        return os.path.relpath(path.resolve(), folder.resolve())
    except ValueError:
        return str(path.resolve())
