"""Trains all three stages on photographs and proves on others that the result beats the JPEG.

python -m artifact_remover.fit [quick|blind|div2k] [OPTIONS]

`quick`, the default, needs no download and ten minutes of two cores. `blind` is the preset of the published models, for
every quality; give it photographs of your own, `--data DIR`. `div2k` is the training for one quality, at full size.
"""

import contextlib
import functools
import os
import re
import shutil
import sys
from pathlib import Path

from artifact_remover.config import PRESETS, STAGES, FitConfig
from data_prep.command_line import complain, parse_options, run_command
from data_prep.errors import InputError, Option
from data_prep.files import HeldError, hold
from data_prep.quiet import quiet_keras
from data_prep.splits import ROLES, Role

_WIDTH_OF_LOGS = 100
_LOCK = ".lock"
_LARGEST_SIDE = 768  # pixels of what is judged of a photograph, from its middle, so that a run ends soon
_ROLES: dict[str, tuple[Role, ...]] = {
    "all": ROLES,
    "pretrain_generator": ("generator",),
    "pretrain_discriminator": ("discriminator",),
    "train_gan": ("generator",),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Instead of the process's own.

    Returns:
        Exit code: 0 if all is well, 2 for a mistake of the user's, 130 if the user stopped the run.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    preset = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "quick"
    if preset not in PRESETS:
        complain(f"no such preset, give {' or '.join(PRESETS)}: {preset}")
        return 2
    settings = {"default": PRESETS[preset], "prog": "python -m artifact_remover.fit", "description": __doc__}
    config = parse_options(FitConfig, [*map(_rename_old_option, arguments)], **settings)
    folder = config.workdir or Path("runs") / _name_run(config, preset)
    return run_command(lambda: _fit_or_explain(config, folder), stopped="stopped; the same command goes on")


def _rename_old_option(argument):
    return re.sub(r"^--colour([-_]augmentation)(?=$|=)", r"--color\1", argument)  # old spelling


def _fit_or_explain(config, folder):
    """Fits, and explains what the system refuses; returns an exit code if another worker is lost."""
    with quiet_keras():
        import tensorflow as tf

        from artifact_remover.training.devices import LOST_ERRORS
        from artifact_remover.training.loop import Interrupted
    try:
        fit(config, folder)
    except LOST_ERRORS:
        complain("another worker has ended, or cannot be reached; the same commands go on from the last checkpoint")
        return 1
    except Interrupted as interruption:
        raise KeyboardInterrupt(str(interruption)) from interruption
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise InputError(
            f"{reason}: {error.filename or folder}; make room or choose another --workdir, nothing finished is lost"
        ) from error
    except (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
        # TensorFlow names its own operation around what the system said.
        reason = re.sub(r"\{\{.*\}\} | \[Op:.*\]", "", error.message.partition("\n")[0])
        advice = "choose a smaller --batch-size" if "OOM" in reason else "make room or choose another --workdir"
        raise InputError(f"{reason}; {advice}, nothing finished is lost") from error


def fit(config: FitConfig, folder: Path) -> None:
    """Runs the stages that are asked for, then compares what they restore with the JPEG itself.

    Args:
        config: Every number.
        folder: Where the run is kept; a run that is there already is gone on with.

    Raises:
        InputError: For a mistake of the user's, or if another process is at work in the folder.
        Interrupted: If the user stopped it.
    """
    from artifact_remover.training.devices import is_chief, open_devices

    strategy = open_devices(config.devices)
    if not is_chief(strategy):
        _fit(config, folder, strategy)
        return
    try:
        with _holding(folder):
            _fit(config, folder, strategy)
    except HeldError as holder:
        raise InputError(
            f"{holder} is at work in {folder}: let it end, or choose another ", Option("workdir")
        ) from holder


@contextlib.contextmanager
def _holding(folder):
    """Keeps other processes out of a run's folder; one that is made for a run of which nothing comes is removed."""
    from artifact_remover.training.run import SETTINGS

    made = [each for each in (folder, *folder.parents) if not os.path.exists(each)]
    with hold(folder / _LOCK):
        try:
            yield
        finally:  # while it is held, or another process could begin there
            written = {file.name for file in folder.rglob("*") if not file.is_dir()}
            if made and written <= {_LOCK, SETTINGS}:
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # another run is beside it
                    for parent in made[1:]:
                        parent.rmdir()


def _fit(config, folder, strategy):
    # Imported here and below, not at the top, so that `--help` answers at once.
    import tensorflow as tf
    from rich.console import Console

    from artifact_remover.precision import choose_dtype
    from artifact_remover.training.run import Run, require_one_run
    from data_prep.pipeline import require_batches
    from data_prep.sources import open_photographs, require_readable

    # Without markup, as names of files may hold square brackets.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_LOGS, markup=False, emoji=False)
    photographs = open_photographs(config.data)
    for role in _ROLES[config.stage]:  # of all stages, before the first of them has trained for hours
        require_batches(photographs, role, config.data)
    dtype = choose_dtype(config.precision)
    perceptual = _load_perceptual_loss(config, folder, dtype, console, strategy)
    run = Run(config, folder, photographs, perceptual, dtype, console, strategy)
    require_one_run(run)
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "processor"
    count = strategy.num_replicas_in_sync
    console.print(
        f"{photographs.count('generator', 'train')} photographs of {photographs.name} to train on, "
        f"computing in {dtype} on {'the' if count == 1 else f'{count} devices, each a'} {kind}",
        highlight=False,
    )
    if run.is_chief:
        console.print(f"watch it: tensorboard --logdir {folder / 'tensorboard'}", highlight=False, soft_wrap=True)
    try:
        _run_stages(run)
        if run.is_chief:
            _judge(run)
    except tf.errors.DataLossError:
        require_readable(photographs)  # tells which folder is damaged, which TensorFlow does not
        raise


def _judge(run):
    from artifact_remover.judging import scoring
    from artifact_remover.restoration import Restorer
    from artifact_remover.training.run import find_result

    config, folder, photographs, console = run.config, run.folder, run.photographs, run.console
    results = {
        name: result
        for name, stage in (("stage 1", "pretrain_generator"), ("stage 3", "train_gan"))
        if (result := find_result(folder, stage))
    }
    # In float32, so that the figures are those of any machine.
    restorers = {
        name: Restorer.load(each.export, engine="tensorflow", precision="float32").restore
        for name, each in results.items()
    }
    qualities, chroma_subsampling = scoring.jpeg_settings(config.data.degradation)
    rows = _judge_held_out(photographs, restorers, qualities, chroma_subsampling)
    scoring.print_table(rows, chroma_subsampling, console)
    scoring.draw_comparison(rows[qualities[0]], folder / "comparison.png")
    manifests = {name: result.manifest for name, result in results.items()}
    summaries = {str(quality): scoring.summarize(each) for quality, each in rows.items()}
    report = {"chroma_subsampling": chroma_subsampling, "qualities": summaries, "stages": manifests}
    scoring.write_report(report, folder / "report.json")
    for what, where in (("pictures", "comparison.png"), ("report", "report.json"), ("models", "saved_models")):
        console.print(f"{what}: {folder / where}", highlight=False, soft_wrap=True)
    _say_what_was_missing(manifests, console)


def _judge_held_out(photographs, restorers, qualities, chroma_subsampling):
    from artifact_remover.judging import scoring

    methods: dict[str, scoring.Method] = {
        name: functools.partial(_restore_pixels, restore) for name, restore in restorers.items()
    }
    rows: dict[int, list[dict]] = {quality: [] for quality in qualities}
    for name, photo in photographs.decoded("generator", "test"):
        clean = scoring.cut_middle(photo, _LARGEST_SIDE, _LARGEST_SIDE)
        for quality, judged in rows.items():
            row = scoring.judge(name, clean, quality, chroma_subsampling, methods, {})
            del row["seconds"]  # of models that run for the first time
            judged.append(row)
    return rows


def _restore_pixels(restore, jpeg):
    return restore(jpeg.pixels)


def _run_stages(run):
    from artifact_remover.training.stages import pretrain_discriminator, pretrain_generator, train_gan

    stage, init = run.config.stage, run.config.init
    if stage in ("all", "pretrain_generator"):
        generator = pretrain_generator(run, init).export
    else:
        generator = init or _finished(run, "pretrain_generator")
    if stage in ("all", "pretrain_discriminator"):
        discriminator = pretrain_discriminator(run, generator).export
    if stage == "train_gan":
        discriminator = _finished(run, "pretrain_discriminator")
    if stage in ("all", "train_gan"):
        train_gan(run, generator, discriminator)


def _finished(run, stage):
    from artifact_remover.training.run import find_result, name_result

    result = find_result(run.folder, stage) if run.is_chief else name_result(run.folder, stage)
    if not result:
        raise InputError(
            f"{run.config.stage} needs {stage}, which {run.folder} does not hold: run --stage {stage} first"
        )
    return result.export


def _load_perceptual_loss(config, folder, dtype, console, strategy):
    """Loads the perceptual loss on each worker, if the chief has it, or tells why there is none."""
    import tensorflow as tf

    from artifact_remover.training.devices import is_chief, name_worker, tell_all
    from artifact_remover.training.perceptual import load_perceptual_loss
    from artifact_remover.training.vgg import PretrainedFeaturesUnavailable

    loss = _try_perceptual_loss(config, folder, dtype, console) if is_chief(strategy) else "the first worker has none"
    [has_one] = tell_all(strategy, [tf.constant(int(not isinstance(loss, str)))])
    if is_chief(strategy) or not has_one:
        return loss
    try:
        return load_perceptual_loss(config, dtype)
    except PretrainedFeaturesUnavailable as error:
        raise InputError(
            f"{name_worker(strategy)} has no perceptual loss, but the first worker has: {error}"
        ) from error


def _try_perceptual_loss(config, folder, dtype, console):
    """Loads the perceptual loss, or tells why there is none; loudly, because the result is another."""
    from rich.text import Text

    from artifact_remover.training.perceptual import load_perceptual_loss
    from artifact_remover.training.run import began_without_features, find_result
    from artifact_remover.training.vgg import PretrainedFeaturesUnavailable

    wanting = {"pretrain_generator": config.generator_loss.perceptual, "train_gan": config.gan_loss.perceptual}
    if not any(wanting.values()):
        return "its weights are 0"
    if all(find_result(folder, stage) for stage in STAGES):
        return "every stage is finished"
    given = config.vgg_weights if config.perceptual_features == "vgg19" else config.perceptual_weights
    # Not because the network is back: a run has one objective from its start to its end.
    if not given and began_without_features(folder):
        return "the run was begun without it, another --workdir starts one with it"
    try:
        return load_perceptual_loss(config, dtype)
    except PretrainedFeaturesUnavailable as error:
        if any(weight for stage, weight in wanting.items() if config.stage in ("all", stage)):
            option = "--vgg-weights FILE" if config.perceptual_features == "vgg19" else "--perceptual-weights DIR"
            console.print(
                Text("NO PERCEPTUAL LOSS:", "bold"),
                f"{error}. Training goes on with the pixel loss alone; {option} brings it back.",
                soft_wrap=True,
            )
        return str(error)


def _say_what_was_missing(manifests, console):
    from rich.text import Text

    from artifact_remover.training.run import wants_features

    for name, manifest in manifests.items():
        features = manifest["perceptual_features"]
        if isinstance(features, str) and wants_features(manifest["settings"]):
            console.print(Text("NO PERCEPTUAL LOSS", "bold"), f"in {name}: {features}", soft_wrap=True)


def _name_run(config, preset):
    """A run's folder under `runs`: the preset's name, and that of the photographs where they are others."""
    if config.data.data == PRESETS[preset].data.data:
        return preset
    return f"{preset}-{Path(config.data.data).expanduser().resolve().name}"


if __name__ == "__main__":
    sys.exit(main())
