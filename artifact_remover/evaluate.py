"""Measures JPEG itself, models and other restorers against clean pictures.

python -m artifact_remover.evaluate --data DIR [--model DIR]... [OPTIONS]

Prints a table and writes it as JSON, CSV and an HTML page with pictures, the worst cases first.
"""

import functools
import platform
import re
import sys
import tempfile
from pathlib import Path

from artifact_remover.model_folder import KINDS, PUBLISHED, find_exports, read_manifest
from artifact_remover.options import EvaluateConfig
from data_prep import __version__
from data_prep.command_line import complain, parse_options, run_command, word_for_terminal
from data_prep.errors import InputError, to_one_line
from data_prep.quiet import quiet_keras

_WIDTH_OF_LOGS = 120
_JPEG = "JPEG itself"  # as `scoring.JPEG`, which takes loading TensorFlow
_SMALLEST_SIDE = 32  # pixels: PSNR-B needs two blocks, the network of LPIPS 31


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Instead of the process's own.

    Returns:
        Exit code: 0 if all is well, 1 if an external restorer was left out, 2 for a mistake of the user's, 130 if the
        user stopped it.
    """
    config = parse_options(EvaluateConfig, arguments, prog="python -m artifact_remover.evaluate", description=__doc__)
    return run_command(lambda: evaluate(config), stopped="stopped, nothing is written")


def evaluate(config: EvaluateConfig) -> int:
    """Measures everything that the options name, prints the table and writes the report.

    Returns:
        Exit code, as of `main`.

    Raises:
        InputError: For a mistake of the user's, told before the long work where it can be.
    """
    # Imported here and below, not at the top, so that `--help` answers at once.
    from artifact_remover.judging.external import External

    pictures = find_pictures(config.data, _SMALLEST_SIDE + max(config.offset))
    exports = name_models(config.model, can_do_without=bool(config.external))
    commands = _name_commands(config.external, exports)
    externals = {name: External(name, command) for name, command in commands.items()}
    _prepare(config.output)

    with quiet_keras():
        from rich.console import Console

        from artifact_remover.judging import report
        from artifact_remover.judging.perceptual_distances import find_distances
        from artifact_remover.restoration import Restorer
    distances, notes = ({}, []) if config.pixels_only else find_distances(config.perceptual_weights)
    notes = [word_for_terminal(note) for note in notes]
    distances = {name.lower(): distance for name, distance in distances.items()}
    restorers = {
        name: Restorer.load(
            export, engine=config.engine, precision=config.precision, self_ensemble=config.self_ensemble
        )
        for name, export in exports.items()
    }
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_LOGS)
    for line in notes:
        report.say(line, console)
    rows, cut, failed = _judge_all(config, pictures, restorers, externals, distances)
    if cut:
        notes = [*notes, f"the measures take 1 GB a megapixel, so only the middle is judged of {', '.join(cut)}"]
        report.say(notes[-1], console)
    notes = [*notes, *(f"left out, as it failed: {said}" for said in failed)]
    described = _describe(config) | {
        "machine": _describe_machine([*restorers.values()]),
        "models": {name: str(export) for name, export in exports.items()},
        "externals": commands,
        "notes": notes,
    }
    try:
        files = report.write_all(described, rows, config.output)
    except OSError as error:
        raise InputError(f"cannot write the report, make room: {config.output} ({error.strerror})") from error
    report.print_all(described, rows, console)
    for file in files:
        report.say(f"written: {file}", console)
    return 1 if failed else 0


def _name_commands(external, exports) -> dict[str, str]:
    """Splits `NAME=COMMAND`s; each name is one line, and is no other restorer's."""
    commands: dict[str, str] = {}
    for given in external:
        name, _, command = given.partition("=")
        name = to_one_line(name.strip())
        if name in {_JPEG, *exports, *commands}:
            raise InputError(f"--external {name}: the name is taken, give another")
        commands[name] = command
    return commands


def _describe(config) -> dict:
    return {
        "made_by": f"artifact-remover {__version__}",
        "data": str(config.data),
        "protocol": config.protocol,
        "chroma_subsampling": config.subsampling if config.protocol == "color" and not config.clean else None,
        "clean": config.clean,
        "resave": config.resave,
        "offset": list(config.offset),
        "self_ensemble": config.self_ensemble,
    }


def find_pictures(folder: Path, smallest: int = _SMALLEST_SIDE) -> dict[str, Path]:
    """Finds the clean pictures, and makes sure that each can be judged.

    Args:
        folder: Searched with all below it.
        smallest: Pixels that a picture must have in height and width.

    Returns:
        Files by their names below the folder.

    Raises:
        InputError: If there is none, or one is unreadable, too small, or there twice.
    """
    from data_prep.photographs import find_photographs, hash_pixels, read_photograph

    files: dict[str, Path] = {}
    known: dict[str, Path] = {}
    for file in find_photographs(folder):
        photo = read_photograph(file)
        if min(photo.shape[:2]) < smallest:
            raise InputError(
                f"too small to be judged, remove it or give one of {smallest} pixels a side or more: {file} "
                f"({photo.shape[1]}x{photo.shape[0]})"
            )
        twin = known.setdefault(hash_pixels(photo), file)
        if twin != file:
            raise InputError(f"the same picture twice would count twice, remove one: {twin} and {file}")
        files[to_one_line(file.relative_to(folder).as_posix())] = file
    if not files:
        raise InputError(f"no pictures there, give a folder of clean PNG, JPEG, WebP, AVIF or TIFF files: {folder}")
    return files


def name_models(folders: tuple[Path, ...], can_do_without: bool = False) -> dict[str, Path]:
    """Finds the models, and names each shortly after its run and its kind, such as `quick faithful`.

    Args:
        folders: Run, `saved_models`, stage or export folders; when empty, the published models.
        can_do_without: True where it is no error that no model is published.

    Returns:
        Export folders by name.

    Raises:
        InputError: If a folder holds no model, or two hold the same.
    """
    found = []
    for folder in folders or (PUBLISHED,):
        try:
            found += [(folder, model, export) for model, export in find_exports(folder).items()]
        except InputError:
            if can_do_without and not folders:
                continue
            raise
        except OSError as error:
            raise InputError(f"cannot read the model folder, check its permissions: {error.filename}") from error
    exports: dict[str, Path] = {}
    short = [f"{_name_run(folder)} {KINDS[model]}" for folder, model, _ in found]
    for name, (folder, model, export) in zip(short, found, strict=True):
        read_manifest(export)
        if export.resolve() in [other.resolve() for other in exports.values()]:
            raise InputError(f"--model names the same model twice, leave one out: {export}")
        # The whole path where the name of the folder does not tell two apart.
        name = name if short.count(name) == 1 else f"{folder} {KINDS[model]}"
        exports[to_one_line(name)] = export
    return exports


def _name_run(folder):
    if folder.resolve().is_relative_to(PUBLISHED.resolve()):
        return "published"
    parts = folder.resolve().parts
    within = {*KINDS, "saved_models"}
    return next((part for part in reversed(parts) if part not in within and not part.isdecimal()), str(folder))


def _prepare(output):
    """Makes the folder, and makes sure that it can be written to before the long work, not after it."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise InputError(f"cannot write there, choose another --output: {output} ({error.strerror})") from error


def _judge_all(config, pictures, restorers, externals, distances):
    """Judges every picture at every quality.

    Returns:
        The rows for `summarize` by quality, which pictures were cut, and what was said of restorers that are left out.
    """
    from rich.console import Console
    from rich.progress import track

    from artifact_remover.judging import scoring
    from data_prep.photographs import read_photograph

    methods: dict[str, scoring.Method] = {
        **{name: functools.partial(_restore_file, each, config.force) for name, each in restorers.items()},
        **{name: functools.partial(_run_external, each) for name, each in externals.items()},
    }
    rows: dict[int | str, list[dict]] = {quality: [] for quality in (("clean",) if config.clean else config.quality)}
    cut, failed = [], []
    console = Console(stderr=True)
    for name, file in track(pictures.items(), "measuring", console=console, disable=not console.is_terminal):
        photo = read_photograph(file)
        clean = scoring.cut_middle(photo, *scoring.limit_size(*photo.shape[:2]))
        if clean.shape != photo.shape:
            cut.append(f"{name} ({clean.shape[1]}x{clean.shape[0]} of {photo.shape[1]}x{photo.shape[0]})")
        if config.protocol == "gray":
            clean = scoring.to_gray(clean)
        for quality, judged in rows.items():
            how = (quality if isinstance(quality, int) else None, config.subsampling)
            if not any(rows.values()):
                _, given = scoring.make_untouched(clean, *how, config.resave, config.offset)
                for restorer in restorers.values():
                    _restore_file(restorer, config.force, given)  # the first time takes longer, and is not counted
            judge = functools.partial(scoring.judge, name, clean, *how, resave=config.resave, offset=config.offset)
            while True:
                try:
                    judged.append(judge(methods=methods, distances=distances))
                    break
                except scoring.MethodError as error:
                    # A command that fails at once is a mistake in it, and nothing is lost yet.
                    if error.who not in externals or len(methods) == 1 or not any(rows.values()):
                        raise
                    complain(error)
                    failed.append(word_for_terminal(error))
                    _leave_out(error.who, methods, rows)
            for best in sorted(judged, key=lambda row: scoring.merit(row, next(iter(methods))))[scoring.SHOWN :]:
                for crops in ("crops", "clean_crop"):
                    best.pop(crops, None)  # only the worst are shown, and a large set has thousands
    return rows, cut, failed


def _leave_out(who, methods, rows):
    del methods[who]
    for row in (row for judged in rows.values() for row in judged):
        for results in (row["scores"], row["seconds"], row.get("crops", {})):
            results.pop(who, None)
        row["unchanged"] = [other for other in row["unchanged"] if other != who]


def _restore_file(restorer, force, given):
    """Restores a file as `restore` does, which may leave it alone unless forced; uint8 [H, W, 3] in 0..255, RGB."""
    import numpy as np

    from artifact_remover.pictures.picture import decode_picture

    pixels = restorer.restore_picture(decode_picture(given.content), force=force).pixels
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _run_external(external, given):
    return external.restore(given.content)


def _describe_machine(restorers):
    import psutil
    import tensorflow as tf

    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return {
        "processor": model[1] if model else platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "gpus": [details.get("device_name", "unknown") for details in gpus],
        # None where only other people's are judged; not all models have been quantized.
        "engine": restorers[0].engine if restorers else None,
        "precision": ", ".join(dict.fromkeys(each.precision for each in restorers)) or None,
    }


if __name__ == "__main__":
    sys.exit(main())
