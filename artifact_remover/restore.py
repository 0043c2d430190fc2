"""Restores JPEGs: photo.jpg becomes photo_restored.png.

python -m artifact_remover.restore [OPTIONS] PICTURE_OR_FOLDER ...

Profiles, EXIF and transparency are kept, and a file that is there is never replaced unasked.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator

from artifact_remover import __version__
from artifact_remover.options import RestoreConfig
from data_prep.command_line import complain, parse_options, run_command, say, word_for_terminal
from data_prep.errors import InputError, Message
from data_prep.quiet import quiet_tensorflow


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Instead of the process's own.

    Returns:
        Exit code: 0 if all is well, 1 if some pictures failed, 2 for a mistake of the user's or if all pictures failed,
        130 if the user stopped it.
    """
    config = parse_options(
        RestoreConfig, arguments, __version__, prog="python -m artifact_remover.restore", description=__doc__
    )
    return run_command(lambda: inspect(config) if config.info else restore(config))


def inspect(config: RestoreConfig) -> int:
    """Prints the facts about pictures and their compression.

    Returns:
        Exit code, as of `main`.
    """
    # Imported here and below, not at the top, so that `--help` answers at once.
    from artifact_remover.batch import find_sources
    from artifact_remover.pictures.picture import inspect_picture

    sources, errors = find_sources(config.inputs, output=None)
    total = len(sources) + len(errors)
    for source in sources:
        try:
            summary = inspect_picture(source.file, allow_truncated=config.allow_truncated)
        except InputError as error:
            errors.append(error.message)
            continue
        say(str(source.file))
        for name, value in _describe(summary, config.force):
            say(f"  {name:<13} {value}")
    for message in errors:
        complain(message)
    return _choose_code(len(errors), total)


def restore(config: RestoreConfig) -> int:
    """Restores pictures.

    Returns:
        Exit code, as of `main`.

    Raises:
        InputError: For a mistake of the user's that concerns all pictures.
    """
    from artifact_remover import batch
    from artifact_remover.model_folder import choose_exports

    output = batch.choose_output(config)
    plan = batch.plan(config, output)
    for error in plan.errors:
        complain(error)
    remote = None
    if plan.jobs:  # a wrong folder or server is told before anything is written
        if config.server:
            remote = _connect(config.server)
        else:
            choose_exports(config.model, config.blend)
        batch.make_folder(output)
    counts = Counter({"restored": 0, "left alone": 0, "skipped": plan.skipped, "failed": len(plan.errors)})
    display = _Display(plan.jobs)

    def load():
        restorer = remote or _load(config)
        say(f"model: {restorer.description}")
        display.start()
        return restorer

    def report(outcome):
        counts[_report(outcome)] += 1
        display.finish(outcome)

    try:
        with display:
            batch.restore_all(plan.jobs, load, config, output.format, display.advance, report)
    except KeyboardInterrupt:
        done = counts["restored"] + counts["left alone"]
        complain(f"stopped, {done} of {len(plan.jobs)} pictures are done; --resume goes on")
        return 130
    speed = f" ({display.describe_speed()})" if counts["restored"] else ""
    say(", ".join(f"{name} {count}" for name, count in counts.items() if count) + speed)
    return _choose_code(counts["failed"], counts.total())


class _Display:
    """Progress, on a terminal only, and the speed."""

    def __init__(self, jobs):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        console.quiet = not console.is_terminal
        self._progress = Progress(
            TextColumn("{task.fields[files]}/{task.fields[of]} files"),
            BarColumn(),
            TextColumn("{task.fields[speed]:.2f} MP/s"),
            TimeRemainingColumn(),
            console=console,
            disable=console.quiet,
            redirect_stdout=sys.stdout.isatty(),  # lines still belong into a file
        )
        pixels = sum(job.pixels for job in jobs)
        self._task = self._progress.add_task("", start=False, total=pixels, files=0, of=len(jobs), speed=0)
        self._files = self._pixels = self._restored = 0
        self._began = time.perf_counter()

    def start(self):
        self._began = time.perf_counter()
        self._progress.start_task(self._task)
        self._progress.start()

    def advance(self, pixels):
        self._pixels += pixels
        self._progress.update(
            self._task, completed=self._pixels, speed=self._pixels / 1e6 / (time.perf_counter() - self._began)
        )

    def finish(self, outcome):
        self._files += 1
        self._restored += 0 if outcome.error or outcome.left_alone else outcome.job.pixels
        self._progress.update(self._task, files=self._files)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._progress.stop()

    def describe_speed(self):
        megapixels = self._restored / 1e6
        return f"{megapixels:.1f} MP, {megapixels / (time.perf_counter() - self._began):.2f} MP/s"


def _load(config):
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with quiet_tensorflow():
        from artifact_remover.restoration import Restorer

        return Restorer.load(config.model, blend=config.blend, precision=config.precision, tile=config.tile)


def _connect(server):
    from artifact_remover.tf_serving_client import RemoteRestorer

    return RemoteRestorer.connect(server)


def _report(outcome):
    """Prints the outcome of a picture, and a line for each note; returns the name under which it is counted."""
    job = outcome.job
    if outcome.error:
        complain(outcome.error)
        return "failed"
    say(f"{job.source} -> {job.target}")
    for note in outcome.notes:
        say(Message(f"{job.source}: ", note))
    return "left alone" if outcome.left_alone else "restored"


def _describe(summary, force) -> Iterator[tuple[str, str]]:
    """Yields what `--info` prints of a picture, as names and values."""
    from artifact_remover.decision import decide

    yield "format", summary.format
    megapixels = summary.width * summary.height / 1e6
    yield "size", f"{summary.width}x{summary.height}, {megapixels:.2f} megapixels"
    yield "color", f"{summary.color}, {summary.bits} bits"
    yield "orientation", f"{summary.orientation}{'' if summary.orientation == 1 else ', is applied'}"
    yield "metadata", ", ".join(summary.metadata) or "none"
    if summary.pictures > 1:
        yield "pictures", f"{summary.pictures}, the first is taken"
    header = summary.header
    if header:
        yield "process", f"{header.process}, {header.entropy_coding}"
        tables = "standard tables" if header.standard_tables else "estimated, the tables are its own"
        yield "quality", f"{header.quality}, {tables}"
        yield "chroma", header.chroma_subsampling
        for table in header.quantization:
            for row in range(8):
                steps = table[8 * row : 8 * row + 8]
                yield ("quantization" if row == 0 else ""), " ".join(f"{step:3}" for step in steps)
    decision = decide(summary, force)
    yield "left alone", "no" if decision.restore else f"yes, {word_for_terminal(decision.why)}"


def _choose_code(failed, total):
    if not failed:
        return 0
    return 2 if failed == total else 1


if __name__ == "__main__":
    sys.exit(main())
