"""NoGAN in three functions: the generator alone, the discriminator alone, both together for a short time.

Start here. Each stage takes the result of the one before it, trains, and leaves a SavedModel with a manifest under
`<run>/saved_models/<stage>/1`, the last one under `gan/1`; a stage whose SavedModel is there is finished and is not run
again. What a stage needs to go on after a kill lies under `<run>/checkpoints/<stage>`, its curves under
`<run>/tensorboard/<stage>`. Of several workers only the chief does more than take the steps.
"""

from pathlib import Path

import keras
import tensorflow as tf
from rich.text import Text

from artifact_remover import saved_model
from artifact_remover.checkpoint_files import DamagedCheckpointError, read_checkpoint
from artifact_remover.config import MAX_COLOR_SHIFT, STAGES
from artifact_remover.discriminator import build_discriminator
from artifact_remover.generator import build_generator
from artifact_remover.model_folder import name_export
from artifact_remover.training.checkpoints import Checkpoints
from artifact_remover.training.gan import GATE, ArtifactRemovalGAN, DiscriminatorPretraining, GeneratorPretraining
from artifact_remover.training.loop import Batches, follow, make_optimizer, train
from artifact_remover.training.monitoring import Monitor
from artifact_remover.training.run import (
    Run,
    StageResult,
    begin_stage,
    checkpoint_folder,
    describe_stage,
    name_result,
    read_result,
)
from artifact_remover.training.validation import CHANNELS, Validation
from data_prep.errors import InputError
from data_prep.pipeline import training_batches, validation_batches

_NO_STEP = (
    "the generator took no step, as the discriminator's loss never got under "
    f"{GATE}, and stage 1 is exported unchanged; more --pretrain-discriminator.steps in another --workdir may help"
)


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
    if finished := begin_stage(run, stage, parents):
        return finished
    keras.utils.set_random_seed(run.config.seed)
    with run.strategy.scope():
        generator = build_generator(run.config.generator, run.dtype)
        trainer = GeneratorPretraining(generator, run.config.generator_loss, run.perceptual_distance)
        trainer.compile(optimizer=make_optimizer(schedule))
        trainer.optimizer.build(generator.trainable_variables)
    if not run.is_chief:
        return _follow(run, stage, "generator", trainer)
    if init:
        saved_model.load_weights(generator, init)
    validation = _open_validation(run, "generator", run.perceptual_distance)

    def validate(step, monitor):
        scores, pictures = validation.score(generator)
        monitor.validation(step, scores, validation.jpeg, pictures)
        return scores

    state = {"generator": generator, "optimizer": trainer.optimizer}
    history = _train(run, stage, "generator", trainer, state, validate)
    _warn_of_harm(run, stage, history)
    manifest = describe_stage(run, stage, parents, history, history[-1], validation.jpeg)
    saved_model.export_generator(generator, run.config.generator, name_export(run.folder, stage), manifest)
    return read_result(run.folder, stage)


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
    if finished := begin_stage(run, stage, parents):
        return finished
    keras.utils.set_random_seed(run.config.seed + 1)
    with run.strategy.scope():
        generator = build_generator(run.config.generator, run.dtype)
        discriminator = build_discriminator(run.config.discriminator, run.dtype)
        trainer = DiscriminatorPretraining(discriminator, generator)
        trainer.compile(optimizer=make_optimizer(schedule))
        trainer.optimizer.build(discriminator.trainable_variables)
    if not run.is_chief:
        return _follow(run, stage, "discriminator", trainer)
    saved_model.load_weights(generator, generator_export)
    validation = _open_validation(run, "discriminator", run.perceptual_distance)
    generator_scores, pictures = validation.score(generator)

    def validate(step, monitor):
        scores = {**generator_scores, **validation.accuracy(discriminator, generator)}
        monitor.validation(step, scores, validation.jpeg, pictures)
        return scores

    state = {"discriminator": discriminator, "optimizer": trainer.optimizer}
    history = _train(run, stage, "discriminator", trainer, state, validate)
    manifest = describe_stage(run, stage, parents, history, history[-1], validation.jpeg)
    saved_model.export_discriminator(discriminator, run.config.discriminator, name_export(run.folder, stage), manifest)
    return read_result(run.folder, stage)


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
    if finished := begin_stage(run, stage, parents):
        return finished
    keras.utils.set_random_seed(run.config.seed + 2)
    with run.strategy.scope():
        generator = build_generator(run.config.generator, run.dtype)
        averaged_generator = build_generator(run.config.generator)
        discriminator = build_discriminator(run.config.discriminator, run.dtype)
        loss = run.config.gan_loss
        trainer = ArtifactRemovalGAN(generator, averaged_generator, discriminator, loss, run.perceptual_distance)
        trainer.compile(
            generator_optimizer=make_optimizer(schedule),
            discriminator_optimizer=make_optimizer(schedule.of_discriminator),
        )
    if not run.is_chief:
        return _follow(run, stage, "generator", trainer)
    saved_model.load_weights(generator, generator_export)
    averaged_generator.set_weights(generator.get_weights())
    saved_model.load_weights(discriminator, discriminator_export)
    validation = _open_validation(run, "generator", trainer.objective.distance)
    candidates = checkpoint_folder(run, stage) / "candidates"
    candidates.mkdir(exist_ok=True)
    candidate = tf.train.Checkpoint(generator=averaged_generator)

    def validate(step, monitor):
        scores, pictures = validation.score(averaged_generator)
        scores |= validation.accuracy(discriminator, averaged_generator)
        monitor.validation(step, scores, validation.jpeg, pictures)
        candidate.write(str(_candidate(candidates, step)))
        return scores

    state = {
        "generator": generator,
        "averaged_generator": averaged_generator,
        "discriminator": discriminator,
        "optimizer": trainer.optimizer,
        "discriminator_optimizer": trainer.discriminator_optimizer,
    }
    history = _train(run, stage, "generator", trainer, state, validate)
    has_stepped = int(trainer.optimizer.iterations.numpy()) > 0
    picked = pick_candidate(history if has_stepped else history[:1], schedule.max_psnr_loss, MAX_COLOR_SHIFT)
    _read_candidate(_candidate(candidates, picked["step"]), averaged_generator)
    explained = _explain(picked, history[0], schedule) if has_stepped else _NO_STEP
    run.console.print(f"{stage}: {explained}", highlight=False, soft_wrap=True)
    manifest = describe_stage(run, stage, parents, history, picked, validation.jpeg)
    saved_model.export_generator(averaged_generator, run.config.generator, name_export(run.folder, stage), manifest)
    return read_result(run.folder, stage)


def pick_candidate(history: list[dict], max_psnr_loss: float, max_color_shift: float) -> dict:
    """Picks where the GAN stage should have been stopped.

    DeOldify's authors look for the "inflection point" just before glitches by eye; here it is the best perceptual score
    among the candidates that stayed faithful.

    Args:
        history: Validations in order, the first of them of stage 1's weights, with `psnr` (dB), `red_shift`,
            `green_shift`, `blue_shift` (8-bit levels) and `perceptual` (smaller is better).
        max_psnr_loss: How far below the first a candidate's PSNR may lie, in dB.
        max_color_shift: How far from the first the mean of any of its channels may lie, in 8-bit levels.

    Returns:
        The picked validation: the first, stage 1 itself, only where no candidate stayed faithful.
    """
    before, *candidates = history
    shifts = [f"{channel}_shift" for channel in CHANNELS]
    faithful = [
        each
        for each in candidates
        if each["psnr"] >= before["psnr"] - max_psnr_loss
        and all(abs(each[shift] - before[shift]) <= max_color_shift for shift in shifts)
    ]
    return min(faithful, key=lambda each: each["perceptual"], default=before)


def _explain(picked, before, schedule):
    if picked is before:
        return (
            f"no checkpoint stayed within {schedule.max_psnr_loss} dB and {MAX_COLOR_SHIFT} levels of "
            "stage 1, which is exported unchanged"
        )
    return (
        f"step {picked['step']} of {schedule.steps} is exported, perceptual score {picked['perceptual']:.4f} "
        f"(stage 1 {before['perceptual']:.4f}, smaller is better)"
    )


def _warn_of_harm(run, stage, history):
    first, last = history[0]["psnr"], history[-1]["psnr"]
    if last < first:
        run.console.print(
            Text("WORSE THAN AT ITS START:", "bold"),
            f"{stage} ends at a PSNR of {last:.2f} dB, and began at {first:.2f} dB; take a lower "
            "--pretrain-generator.learning-rate or more photographs, in another --workdir.",
            highlight=False,
            soft_wrap=True,
        )


def _open_validation(run, role, distance) -> Validation:
    return Validation(validation_batches(run.photographs, role, run.config.data, run.config.seed), distance)


def _train(run, stage, role, trainer, state, validate) -> list[dict]:
    schedule = getattr(run.config, stage)
    return train(
        trainer,
        batches=_batches(run, stage, role),
        schedule=schedule,
        checkpoints=Checkpoints(state, checkpoint_folder(run, stage)),
        open_monitor=lambda step: Monitor(stage, run.folder / "tensorboard", schedule.steps, step, run.console),
        validate=validate,
    )


def _follow(run, stage, role, trainer) -> StageResult:
    follow(trainer, _batches(run, stage, role), getattr(run.config, stage))
    return name_result(run.folder, stage)


def _batches(run, stage, role) -> Batches:
    # Each stage has batches of its own: the GAN is not to see the very patches that the generator was pretrained on.
    seed = run.config.seed + STAGES.index(stage)
    return lambda step, context: training_batches(run.photographs, role, run.config.data, seed, step, context)


def _candidate(folder, step):
    return folder / f"step-{step:06d}"


def _read_candidate(file, generator):
    try:
        read_checkpoint(file, generator=generator)
    except DamagedCheckpointError as error:
        raise InputError(f"the candidate {error}: remove {file.parents[1]}, to train the stage anew") from error
