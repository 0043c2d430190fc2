"""Restores JPEGs: photo.jpg becomes photo_restored.png.

python -m artifact_remover.restore [OPTIONS] PICTURE_OR_FOLDER ...

Profiles, EXIF and transparency are kept, and a file that is there is never replaced unasked.
"""

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec

from artifact_remover.options import RestoreConfig
from artifact_remover.pictures.jpeg_xl import can_decode
from data_prep.command_line import complain, parse_options, run_command, say
from data_prep.errors import InputError, Message, Option


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Instead of the process's own.

    Returns:
        Exit code: 0 if all is well, 1 if some pictures failed, 2 for a mistake of the user's or if all pictures failed,
        130 if the user stopped it.
    """
    config = parse_options(RestoreConfig, arguments, prog="python -m artifact_remover.restore", description=__doc__)
    return run_command(lambda: inspect(config) if config.info else restore(config))


def inspect(config: RestoreConfig) -> int:
    """Prints the facts about pictures and their compression, those of a folder as a table.

    Returns:
        Exit code, as of `main`.
    """
    # Imported here and below, not at the top, so that `--help` answers at once.
    from artifact_remover.batch_plan import Output, explain, explain_fine_enough, find_sources
    from artifact_remover.batch_report import check_report, lay_out, make_row, write_report
    from artifact_remover.decision import decide_from_file
    from artifact_remover.pictures.picture import inspect_picture

    if config.report:
        check_report(config.report)
    found = find_sources(config.inputs, Output("png"), config.include, config.exclude)
    errors, rows, untried = list(found.errors), [], 0

    def look():
        nonlocal untried
        for source in found.sources:
            try:
                summary = inspect_picture(
                    source.file, max_megapixels=config.max_megapixels, allow_truncated=config.allow_truncated
                )
                if why := explain_fine_enough(summary, config.only_below):
                    rows.append(make_row(source.file, summary, "passed over", why=why))
                    continue
                decision = decide_from_file(
                    source.file, summary, config.force, config.max_megapixels, config.allow_truncated
                )
            except Exception as error:
                errors.append(explain(source.file, error))
                rows.append(make_row(source.file, None, "failed", error=errors[-1]))
                continue
            state = "" if not decision else "restore" if decision.restore else "left alone"
            known = {"found": decision.found, "why": decision.why} if decision else {}
            untried += state == "left alone" and not summary.restored_by
            rows.append(make_row(source.file, summary, state, **known))
            yield summary, rows[-1]

    try:
        if any(map(os.path.isdir, config.inputs)):
            for line in lay_out(row for _, row in look()):
                say(line)
        else:
            for summary, row in look():
                say(f"{row['path']}")
                for name, value in _describe(summary, row):
                    say(f"  {name:<13} {value}")
    finally:
        if config.report and rows:
            write_report(config.report, rows)
    if untried:
        say(f"the model was not tried on {untried} left alone: it may find artifacts, as of a JPEG that was scaled")
    _tell_others(found.others)
    for message in errors:
        complain(message)
    return _choose_code(len(errors), len(found.sources) + len(found.errors))


def restore(config: RestoreConfig) -> int:
    """Restores pictures.

    Returns:
        Exit code, as of `main`.

    Raises:
        InputError: For a mistake of the user's that concerns all pictures.
        KeyboardInterrupt: When the user stops it; the message tells how far it is.
    """
    from artifact_remover import batch_plan, batch_report

    if config.cluster:
        return _restore_on_cluster(config)
    output = batch_plan.choose_output(config)
    if config.report:
        batch_report.check_report(config.report)
    run = _Run(config, output)
    try:
        if config.watch:
            with contextlib.closing(_watch(config, output, run.replaced)) as watched:
                for pictures in watched:
                    run.do(batch_plan.plan(config, output, pictures))
        else:
            run.do(batch_plan.plan(config, output))
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(run.describe_stop()) from stop
    finally:
        if config.report and run.rows:
            batch_report.write_report(config.report, run.rows)
    say(run.describe())
    return _choose_code(run.counts["failed"], run.counts.total())


def _restore_on_cluster(config):
    for package in ("ray", "pyarrow"):
        if not find_spec(package):
            raise InputError(Option("cluster"), " needs other packages: pip install 'artifact-remover[cluster]'")
    from artifact_remover.cluster import restore_on_cluster

    run, others = _Run(config, None), Counter[str]()
    try:
        with contextlib.closing(restore_on_cluster(config, others)) as outcomes:
            for outcome in outcomes:
                run.finish(outcome)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(run.describe_stop()) from stop
    _tell_others(others)
    say(run.describe())
    return _choose_code(run.counts["failed"], run.counts.total())


def _watch(config, output, replaced):
    from artifact_remover.batch_plan import find_sources
    from artifact_remover.watching import watch

    for given in config.inputs:
        if not os.path.isdir(given):
            raise InputError(f"{given} is no folder, and only folders are watched: leave out ", Option("watch"))

    def find():
        found = find_sources(config.inputs, output, config.include, config.exclude)
        return [source.file for source in found.sources]

    say("watching, Ctrl-C ends it")
    return watch(config.inputs, find, replaced)


class _Run:
    """One run of the command, of one batch or, while folders are watched, of many.

    Attributes:
        counts: How many pictures there are of each state, those that failed with all other errors.
        rows: The report's.
        replaced: While folders are watched, the states of the pictures in whose place their restorations are.
    """

    def __init__(self, config, output):
        self.counts = Counter(dict.fromkeys(("restored", "left alone", "skipped", "passed over", "failed"), 0))
        self.rows = []
        self.replaced = {}
        self._config, self._output = config, output
        self._restorer = self._remote = None
        self._display = _Display([])
        self._said, self._told = set(), False
        self._planned = 0
        self._appeared = False  # whether the pictures were not there when the command began

    def do(self, plan):
        """Does the work of a plan, with the model that was loaded for the one before."""
        from artifact_remover import batch, batch_plan
        from artifact_remover.model_folder import choose_exports

        config = self._config
        self._appeared = bool(self._planned)
        self._planned += len(plan.jobs) + len(plan.outcomes)
        if not self._told:
            _tell_others(plan.others)
        self._told = True
        for error in plan.errors:
            if error not in self._said:
                complain(error)
                self.counts["failed"] += 1
        self._said.update(plan.errors)
        for outcome in plan.outcomes:
            self._report(outcome)
        if plan.jobs and not self._restorer:  # a wrong folder or server is told before anything is written
            if config.server:
                self._remote = _connect(config.server)
            else:
                choose_exports(config.model, config.blend)
            batch_plan.make_folder(self._output)
        self._display = _Display(plan.jobs)
        with self._display:
            batch.restore_all(plan.jobs, self._load, config, self._display.advance, self.finish)

    def describe(self):
        """Tells the counts, and the speed."""
        speed = f" ({self._display.describe_speed()})" if self.counts["restored"] else ""
        return ", ".join(f"{name} {count}" for name, count in self.counts.items() if count) + speed

    def describe_stop(self):
        """Tells what is done when the user stops it."""
        done = self.counts.total() - self.counts["failed"]
        advice = "the same command" if self._config.in_place else "--resume"
        planned = f" of {self._planned}" if self._planned else ""  # a cluster lists while it restores
        return f"stopped, {done}{planned} pictures are done; {advice} goes on"

    def _load(self):
        if not self._restorer:
            self._restorer = self._remote or _load(self._config)
            say(f"model: {self._restorer.description}")
        self._display.start()
        return self._restorer

    def finish(self, outcome):
        """Tells of a picture that is done, and counts it."""
        self._display.finish(outcome)
        self._report(outcome)

    def _report(self, outcome):
        """Prints the outcome of a picture, and a line for each note; then counts it, so that what counts was told."""
        from artifact_remover.batch_report import row_of

        job = outcome.job
        if outcome.error:
            complain(outcome.error)
        elif outcome.state == "restored" and job.backup:
            if self._config.watch:
                from artifact_remover.watching import look

                self.replaced[job.source] = look(job.source)
            say(f"{job.source} restored, the original is {job.backup}")
        elif outcome.state in ("restored", "left alone") and not job.backup:
            say(f"{job.source} -> {job.missing[0]}")
        elif outcome.state == "skipped" and self._appeared:
            say(Message(f"{job.source}: {job.target} is there already, ", Option("overwrite"), " replaces it"))
        for note in outcome.notes:
            say(Message(f"{job.source}: ", note))
        self.counts[outcome.state] += 1
        if self._config.report:
            self.rows.append(row_of(outcome))


def _tell_others(others):
    if others:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(others.items()))
        say(f"passed over, as they are no pictures that can be read: {kinds}")
    if (others[".heic"] or others[".heif"]) and not find_spec("pillow_heif"):
        say("HEIC needs another package: pip install 'artifact-remover[heic]'")
    if others[".jxl"] and not can_decode():
        say("JPEG XL needs another package: pip install 'artifact-remover[jxl]'")


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
        self._restored += outcome.job.pixels if outcome.state == "restored" else 0
        self._progress.update(self._task, files=self._files)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._progress.stop()

    def describe_speed(self):
        megapixels = self._restored / 1e6
        return f"{megapixels:.1f} MP, {megapixels / (time.perf_counter() - self._began):.2f} MP/s"


def _load(config):
    from artifact_remover.batch import load_restorer

    return load_restorer(config)


def _connect(server):
    from artifact_remover.tf_serving_client import RemoteRestorer

    return RemoteRestorer.connect(server)


def _describe(summary, row) -> Iterator[tuple[str, str]]:
    """Yields what `--info` prints of a picture, as names and values."""
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
        yield "chroma", f"{header.chroma_subsampling}{', without luma' if header.without_luma else ''}"
        for table in header.quantization:
            for line in range(8):
                steps = table[8 * line : 8 * line + 8]
                yield ("quantization" if line == 0 else ""), " ".join(f"{step:3}" for step in steps)
    yield "found", row["found"] or "not looked for"
    yield "left alone", f"yes, {row['why']}" if row["why"] else "no"


def _choose_code(failed, total):
    if not failed:
        return 0
    return 2 if failed == total else 1


if __name__ == "__main__":
    sys.exit(main())
