"""NoGAN in three functions: the generator alone, the discriminator alone, both together for a short time.

Start here. Each stage takes the result of the one before it, trains, and leaves a SavedModel with a manifest under
`<run>/saved_models/<stage>/1`, the last one under `gan/1`; a stage whose SavedModel is there is finished and is not run
again. What a stage needs to go on after a kill lies under `<run>/checkpoints/<stage>`, its curves under
`<run>/tensorboard/<stage>`.
"""

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
from artifact_remover import saved_model
from artifact_remover.config import STAGES, FitConfig
from artifact_remover.discriminator import build_discriminator
from artifact_remover.generator import build_generator
from artifact_remover.model_folder import name_export, read_manifest
from artifact_remover.training.checkpoints import Checkpoints
from artifact_remover.training.gan import ArtifactRemovalGAN, DiscriminatorPretraining, GeneratorPretraining
from artifact_remover.training.loop import make_optimizer, train
from artifact_remover.training.monitoring import Monitor
from artifact_remover.training.validation import CHANNELS, Validation
from artifact_remover.training.vgg import PerceptualNetwork
from data_prep.errors import InputError
from data_prep.files import write_whole
from data_prep.pipeline import training_batches, validation_batches
from data_prep.sources import Photographs
from data_prep.splits import PARTS


@dataclasses.dataclass(frozen=True)
class Run:
    """What all stages of a run share.

    Attributes:
        config: Every number.
        folder: Where the run is kept.
        photographs: What it is trained on.
        perceptual: VGG19's features, or, where no pretrained weights could be had, why not: then the perceptual term is
            left out.
        dtype: Keras dtype policy of the networks, `float32` or `mixed_bfloat16`.
        console: Where progress goes.
    """

    config: FitConfig
    folder: Path
    photographs: Photographs
    perceptual: PerceptualNetwork | str
    dtype: str
    console: Console

    @property
    def features(self) -> keras.Model | None:
        """VGG19 up to the layer of the perceptual loss, if there are pretrained weights."""
        return self.perceptual.model if isinstance(self.perceptual, PerceptualNetwork) else None


@dataclasses.dataclass(frozen=True)
class StageResult:
    """A finished stage.

    Attributes:
        stage: Its name.
        export: Folder of its SavedModel.
        manifest: How it came about, as in `manifest.json`.
    """

    stage: str
    export: Path
    manifest: dict


def pretrain_generator(run: Run, init: Path | None = None) -> StageResult:
    """Stage 1: the generator alone, on pixel and perceptual loss.

    Args:
        run: The run.
        init: Export or checkpoint folder whose weights to start from instead of an untrained generator.

    Returns:
        The stage, whose export is a faithful restorer on its own.

    Raises:
        InputError: If `init` does not fit, the run's folder holds this stage of another run, or the training diverged.
        Interrupted: If the user stopped it.
    """
    stage, schedule = "pretrain_generator", run.config.pretrain_generator
    parents = {"generator": init} if init else {}
    if finished := _begin(run, stage, parents):
        return finished
    keras.utils.set_random_seed(run.config.seed)
    generator = build_generator(run.config.generator, run.dtype)
    if init:
        saved_model.load_weights(generator, init)
    trainer = GeneratorPretraining(generator, run.config.generator_loss, run.features)
    trainer.compile(optimizer=make_optimizer(schedule))
    trainer.optimizer.build(generator.trainable_variables)
    validation = _open_validation(run, "generator")

    def validate(step, monitor):
        scores, pictures = validation.score(generator)
        monitor.validation(step, scores, validation.jpeg, pictures)
        return scores

    state = {"generator": generator, "optimizer": trainer.optimizer}
    history = _train(run, stage, "generator", trainer, state, validate)
    manifest = _manifest(run, stage, parents, history, history[-1], validation.jpeg)
    saved_model.export_generator(generator, run.config.generator, name_export(run.folder, stage), manifest)
    return find_result(run.folder, stage)


def pretrain_discriminator(run: Run, generator_export: Path) -> StageResult:
    """Stage 2: the discriminator alone, clean photographs against what stage 1 restores from their JPEGs.

    Args:
        run: The run.
        generator_export: Of stage 1.

    Returns:
        The stage, whose export is the discriminator.

    Raises:
        InputError: As `pretrain_generator`.
        Interrupted: If the user stopped it.
    """
    stage, schedule = "pretrain_discriminator", run.config.pretrain_discriminator
    parents = {"generator": generator_export}
    if finished := _begin(run, stage, parents):
        return finished
    keras.utils.set_random_seed(run.config.seed + 1)
    generator = build_generator(run.config.generator, run.dtype)
    saved_model.load_weights(generator, generator_export)
    discriminator = build_discriminator(run.config.discriminator, run.dtype)
    trainer = DiscriminatorPretraining(discriminator, generator)
    trainer.compile(optimizer=make_optimizer(schedule))
    trainer.optimizer.build(discriminator.trainable_variables)
    validation = _open_validation(run, "discriminator")
    generator_scores, pictures = validation.score(generator)

    def validate(step, monitor):
        scores = {**generator_scores, **validation.accuracy(discriminator, generator)}
        monitor.validation(step, scores, validation.jpeg, pictures)
        return scores

    state = {"discriminator": discriminator, "optimizer": trainer.optimizer}
    history = _train(run, stage, "discriminator", trainer, state, validate)
    manifest = _manifest(run, stage, parents, history, history[-1], validation.jpeg)
    saved_model.export_discriminator(discriminator, run.config.discriminator, name_export(run.folder, stage), manifest)
    return find_result(run.folder, stage)


def train_gan(run: Run, generator_export: Path, discriminator_export: Path) -> StageResult:
    """Stage 3: both together for a short time, and the best of what came by.

    Every validation leaves a candidate, and `pick_candidate` chooses which of them is exported.

    Args:
        run: The run.
        generator_export: Of stage 1.
        discriminator_export: Of stage 2.

    Returns:
        The stage, whose export is the perceptual restorer.

    Raises:
        InputError: As `pretrain_generator`.
        Interrupted: If the user stopped it.
    """
    stage, schedule = "train_gan", run.config.train_gan
    parents = {"generator": generator_export, "discriminator": discriminator_export}
    if finished := _begin(run, stage, parents):
        return finished
    keras.utils.set_random_seed(run.config.seed + 2)
    generator = build_generator(run.config.generator, run.dtype)
    averaged_generator = build_generator(run.config.generator)
    discriminator = build_discriminator(run.config.discriminator, run.dtype)
    saved_model.load_weights(generator, generator_export)
    averaged_generator.set_weights(generator.get_weights())
    saved_model.load_weights(discriminator, discriminator_export)
    loss = run.config.gan_loss
    trainer = ArtifactRemovalGAN(generator, averaged_generator, discriminator, loss, run.features, schedule)
    trainer.compile(
        generator_optimizer=make_optimizer(schedule.of_generator),
        discriminator_optimizer=make_optimizer(schedule.of_discriminator),
    )
    validation = _open_validation(run, "generator")
    candidates = _checkpoint_folder(run, stage) / "candidates"
    candidates.mkdir(exist_ok=True)
    candidate = tf.train.Checkpoint(generator=averaged_generator)

    def validate(step, monitor):
        scores, pictures = validation.score(averaged_generator)
        scores |= validation.accuracy(discriminator, averaged_generator)
        monitor.validation(step, scores, validation.jpeg, pictures)
        candidate.write(_candidate(candidates, step))
        return scores

    state = {
        "generator": generator,
        "averaged_generator": averaged_generator,
        "discriminator": discriminator,
        "optimizer": trainer.optimizer,
        "discriminator_optimizer": trainer.discriminator_optimizer,
    }
    history = _train(run, stage, "generator", trainer, state, validate)
    picked = pick_candidate(history, schedule.max_psnr_loss, schedule.max_colour_shift)
    candidate.read(_candidate(candidates, picked["step"])).assert_existing_objects_matched()
    run.console.print(f"{stage}: {_explain(picked, history[0], schedule)}", highlight=False)
    manifest = _manifest(run, stage, parents, history, picked, validation.jpeg)
    saved_model.export_generator(averaged_generator, run.config.generator, name_export(run.folder, stage), manifest)
    return find_result(run.folder, stage)


def pick_candidate(history: list[dict], max_psnr_loss: float, max_colour_shift: float) -> dict:
    """Picks where the GAN stage should have been stopped.

    DeOldify's authors look for the "inflection point" just before glitches by eye; here it is the best perceptual score
    among the candidates that stayed faithful.

    Args:
        history: Validations in order, the first of them of stage 1's weights, with `psnr` (dB), `red_shift`,
            `green_shift`, `blue_shift` (8-bit levels) and `perceptual` (smaller is better).
        max_psnr_loss: How far below the first a candidate's PSNR may lie, in dB.
        max_colour_shift: How far from the first the mean of any of its channels may lie, in 8-bit levels.

    Returns:
        The picked validation: the first, stage 1 itself, only where no candidate stayed faithful.
    """
    before, *candidates = history
    shifts = [f"{channel}_shift" for channel in CHANNELS]
    faithful = [
        each
        for each in candidates
        if each["psnr"] >= before["psnr"] - max_psnr_loss
        and all(abs(each[shift] - before[shift]) <= max_colour_shift for shift in shifts)
    ]
    return min(faithful, key=lambda each: each["perceptual"], default=before)


def _explain(picked, before, schedule):
    if picked is before:
        return (
            f"no checkpoint stayed within {schedule.max_psnr_loss} dB and {schedule.max_colour_shift} levels of "
            "stage 1, which is exported unchanged"
        )
    return (
        f"step {picked['step']} of {schedule.steps} is exported, perceptual score {picked['perceptual']:.4f} "
        f"(stage 1 {before['perceptual']:.4f}, smaller is better)"
    )


def find_result(folder: Path, stage: str) -> StageResult | None:
    """Finds a finished stage of a run, `None` where it is not finished."""
    exported = name_export(folder, stage)
    return StageResult(stage, exported, read_manifest(exported)) if exported.is_dir() else None


def began_without_features(folder: Path) -> bool:
    """Whether any stage of a run was begun without pretrained VGG19 features."""
    return any(
        not json.loads(file.read_text())["perceptual_features"]
        for file in folder.glob("checkpoints/*/settings.json")
        if find_result(folder, file.parent.name) or tf.train.latest_checkpoint(str(file.parent))
    )


def _begin(run, stage, parents) -> StageResult | None:
    """Makes a stage's folders, or returns its result if it is finished; refuses to mix two runs in one folder."""
    folder = _checkpoint_folder(run, stage)
    excluded = "".join(sorted(run.photographs.excluded)).encode()
    settings = _settings(run, stage) | {
        "parents": {role: _seen_from(run.folder, path) for role, path in parents.items()},
        "perceptual_features": bool(run.features),
        # Another state of the folder splits otherwise: what was held out would be trained on.
        "photographs": run.photographs.full_name,
        "excluded": hashlib.sha256(excluded).hexdigest()[:16],
    }
    settings_file = folder / "settings.json"
    finished = find_result(run.folder, stage)
    # A run that failed before its first checkpoint holds nothing, and must not stand in the way of a mended command.
    if settings_file.exists() and (finished or tf.train.latest_checkpoint(str(folder))):
        before = json.loads(settings_file.read_text())
        if finished:  # then it does not matter any more whether VGG19 can still be had
            settings["perceptual_features"] = before["perceptual_features"]
        _refuse_other_settings(before, settings, run.folder, stage)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(settings_file, (json.dumps(settings, indent=2) + "\n").encode())
    name_export(run.folder, stage).parent.mkdir(parents=True, exist_ok=True)
    return finished


def _seen_from(folder, path):
    """A path relative to the run's folder, so that it may be moved; on Windows another drive has none."""
    try:
        return os.path.relpath(path.resolve(), folder.resolve())
    except ValueError:
        return str(path.resolve())


def _settings(run, stage) -> dict:
    """What a stage's outcome depends on, as plain JSON values."""
    config = dataclasses.asdict(run.config)
    # Where files lie does not matter, and may change while a run rests.
    del config["data"]["data_dir"], config["data"]["exclude"]
    of_stage = {
        "pretrain_generator": ["generator_loss"],
        "pretrain_discriminator": ["discriminator"],
        "train_gan": ["discriminator", "gan_loss"],
    }
    wanted = ["seed", "data", "generator", "perceptual_layer", *of_stage[stage], stage]
    return json.loads(json.dumps({name: config[name] for name in wanted}, default=str))


def _refuse_other_settings(before, now, folder, stage):
    before, now = _flatten(before), _flatten(now)
    changed = [f"{name} {before.get(name)}, now {now.get(name)}" for name in now if before.get(name) != now[name]]
    if changed:
        raise InputError(
            f"{folder} holds {stage} with other settings ({'; '.join(changed)}): choose another --workdir, or give the "
            "settings of before"
        )


def _flatten(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    return {name: leaf for key, value in tree.items() for name, leaf in _flatten(value, f"{prefix}{key}.").items()}


def _open_validation(run, role) -> Validation:
    return Validation(validation_batches(run.photographs, role, run.config.data, run.config.seed), run.features)


def _train(run, stage, role, trainer, state, validate) -> list[dict]:
    schedule = getattr(run.config, stage)
    # Each stage has batches of its own: the GAN is not to see the very patches that the generator was pretrained on.
    seed = run.config.seed + STAGES.index(stage)
    return train(
        trainer,
        batches=lambda step: training_batches(run.photographs, role, run.config.data, seed, step),
        schedule=schedule,
        checkpoints=Checkpoints(state, _checkpoint_folder(run, stage)),
        open_monitor=lambda step: Monitor(stage, run.folder / "tensorboard", schedule.steps, step, run.console),
        validate=validate,
    )


def _manifest(run, stage, parents, history, chosen, jpeg) -> dict:
    role = "discriminator" if stage == "pretrain_discriminator" else "generator"
    return {
        "stage": stage,
        "parents": {role: _seen_from(run.folder, path) for role, path in parents.items()},
        "steps": chosen["step"],
        "training_seconds": round(history[-1]["seconds"], 1),
        "settings": _settings(run, stage),
        "data": {
            "name": run.photographs.name,
            "photographs": {part: run.photographs.count(role, part) for part in PARTS},
            "builder": run.photographs.full_name,
        },
        "perceptual_features": {"layer": run.perceptual.layer, "source": run.perceptual.source}
        if run.features
        else f"none, trained without the perceptual term: {run.perceptual}",
        "compute_dtype": run.dtype,
        "validation": chosen,
        "validation_of_the_jpeg_itself": jpeg,
        "curve": history,
        "versions": {
            "python": platform.python_version(),
            "artifact_remover": artifact_remover.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _checkpoint_folder(run, stage):
    return run.folder / "checkpoints" / stage


def _candidate(folder, step):
    return str(folder / f"step-{step:06d}")
