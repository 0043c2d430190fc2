"""Restoring many pictures: finding them, naming the results, and reading, restoring and writing at the same time."""

import contextlib
import dataclasses
import hashlib
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from artifact_remover.options import RestoreConfig
from artifact_remover.pictures.before_after import draw_before_after
from artifact_remover.pictures.picture import (
    FORMATS,
    INPUT_SUFFIXES,
    Picture,
    check_format,
    decode_picture,
    format_of,
    inspect_picture,
)
from artifact_remover.restore_picture import write_restored
from data_prep.errors import InputError, Message, Option
from data_prep.files import open_whole

_RESTORED, _COMPARE = "_restored", "_compare"
_LONGEST_NAME = 255  # bytes, the limit of all common file systems
_PIXELS_IN_FLIGHT = 64_000_000
_PICTURES_IN_FLIGHT = 16  # small ones may have large metadata


@dataclasses.dataclass(frozen=True)
class Output:
    """The place of restored pictures: one file, below a folder, or beside the originals when neither is given.

    Attributes:
        format: One of `artifact_remover.pictures.picture.FORMATS`.
        file: Name of the only result.
        folder: Folder of all results.
    """

    format: str
    file: Path | None = None
    folder: Path | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """A picture that was found.

    Attributes:
        file: Its path.
        place: Its path below the folder that was searched; its name if it was given itself.
    """

    file: Path
    place: Path


@dataclasses.dataclass(frozen=True)
class Job:
    """A picture to restore.

    Attributes:
        source: Its path.
        target: What is written.
        compare: The path of the drawing of before and after, if one is wanted.
        pixels: How many pixels it has; 0 before `measure`.
    """

    source: Path
    target: Path
    compare: Path | None = None
    pixels: int = 0

    @property
    def results(self) -> tuple[Path, ...]:
        """Every file that is written."""
        return (self.target, self.compare) if self.compare else (self.target,)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The work of one run of the command.

    Attributes:
        jobs: The pictures to restore, in their order.
        skipped: How many pictures are passed over because their results exist.
        errors: Why other pictures cannot be restored, one line each.
    """

    jobs: list[Job]
    skipped: int
    errors: list[str]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a job.

    Attributes:
        job: The job.
        notes: What the user should be told, each a short clause.
        left_alone: Whether the picture was passed on as it is.
        error: Why there is no result.
    """

    job: Job
    notes: tuple[str, ...] = ()
    left_alone: bool = False
    error: str | None = None


def choose_output(config: RestoreConfig) -> Output:
    """Chooses from the options where the results are written, and in which format.

    Raises:
        InputError: If the options contradict each other.
    """
    given = config.output
    if given and re.fullmatch(r"\.[a-zA-Z]\w*", given.suffix) and not os.path.isdir(given):
        if len(config.inputs) > 1 or os.path.isdir(config.inputs[0]):
            raise InputError(f"{given} is called like a file, but there may be several pictures: name a folder")
        output = Output(format_of(given), file=given)
        if config.format not in (None, output.format):
            raise InputError(Option("format"), f" {config.format} contradicts the name of the output: {given}")
    else:
        # Results among the originals get names of their own, or the next run would restore them again.
        among = given and os.path.realpath(given) in map(os.path.realpath, config.inputs)
        if among and len(config.inputs) > 1:
            raise InputError(
                f"{given} is one of the folders to restore: choose another ", Option("output"), ", or leave it out"
            )
        output = Output(config.format or "png", folder=None if among else given)
    check_format(output.format, config.quality)
    return output


def plan(config: RestoreConfig, output: Output) -> Plan:
    """Finds what is to be restored and names the results; nothing is decoded, nothing is written."""
    sources, not_found = find_sources(config.inputs, output.folder)
    jobs, not_named = name_results(sources, output, config.compare)
    left, not_free = pass_over_finished(jobs, config)
    measured, not_measured = measure(left, config.allow_truncated)
    skipped = len(jobs) - len(left) - len(not_free)
    return Plan(measured, skipped, [*not_found, *not_named, *not_free, *not_measured])


def make_folder(output: Output) -> None:
    """Makes the output folder before time is spent on what could not be written.

    Raises:
        InputError: If it cannot be made, or written to.
    """
    folder = output.folder or (output.file.parent if output.file else None)
    if not folder:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the output folder, choose another: {folder} ({error.strerror})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to the output folder, choose another or mend its permissions: {folder}")


def find_sources(inputs: Iterable[Path], output: Path | None) -> tuple[list[Source], list[str]]:
    """Finds the pictures in folders, by extension, in the order of their paths; a single file is taken as it is.

    Hidden files and folders are passed over, as are the output folder and, where none is given, what earlier runs have
    written beside the pictures. A picture that is found twice is taken once. Of several folders, each keeps its name.

    Args:
        inputs: Files and folders.
        output: Folder of the results, if there is one.

    Returns:
        The pictures, and what is wrong with other inputs.
    """
    found: dict[str, Source] = {}
    errors: list[str] = []
    several = sum(map(os.path.isdir, inputs)) > 1
    for given in inputs:
        sources = []
        if os.path.isdir(given):
            before = len(errors)
            kept = Path(given.resolve().name) if several else Path()
            sources = [Source(file, kept / file.relative_to(given)) for file in _search(given, output, errors)]
            if not sources and len(errors) == before:
                errors.append(f"no pictures in the folder: {given}")
        elif os.path.isfile(given):
            sources = [Source(given, Path(given.name))]
        elif os.path.lexists(given):
            errors.append(f"cannot be read, or is neither file nor folder: {given}")
        else:
            errors.append(f"no such file or folder: {given}")
        for source in sources:
            found.setdefault(_identify(source.file), source)
    return list(found.values()), errors


def name_results(sources: list[Source], output: Output, compare: bool = False) -> tuple[list[Job], list[str]]:
    """Names what is to be written, so that no two pictures share a name and none is written over another.

    Args:
        sources: From `find_sources`.
        output: From `choose_output`.
        compare: Whether pictures of before and after are wanted.

    Returns:
        The jobs, and why there is none for other pictures.
    """
    jobs = [_name(source, output, compare) for source in sources]
    extended: set[int] = set()
    while sharing := _find_sharing(jobs) - extended:
        for number in sharing:
            jobs[number] = _name(sources[number], output, compare, keep_extension=True)
        extended |= sharing
    owners = {_identify(source.file): source.file for source in sources}
    named: list[Job] = []
    errors: list[str] = []
    for job in jobs:
        taken = [file for file in job.results if owners.get(_identify(file), job.source) != job.source]
        if taken:
            owner = owners[_identify(taken[0])]
            said = f"{job.source}: {taken[0]} is taken by {owner}, restore it apart to another "
            errors.append(Message(said, Option("output")))
        else:
            owners.update((_identify(file), job.source) for file in job.results)
            named.append(job)
    return named, errors


def pass_over_finished(jobs: list[Job], config: RestoreConfig) -> tuple[list[Job], list[str]]:
    """Drops the jobs whose results exist: as done with `resume`, else as errors; `overwrite` drops none.

    Returns:
        What is left to do, and why other jobs cannot be done.
    """
    if config.overwrite:
        return jobs, []
    if config.resume:
        return [job for job in jobs if not all(map(os.path.lexists, job.results))], []
    there = {job: [file for file in job.results if os.path.lexists(file)] for job in jobs}
    errors = [_explain_taken(job, files[0]) for job, files in there.items() if files]
    return [job for job, files in there.items() if not files], errors


def _explain_taken(job, file):
    if _identify(file) == _identify(job.source):
        return Message(f"{file} is the picture itself: choose another ", Option("output"))
    said = f"{job.source}: {file} exists, "
    return Message(said, Option("overwrite"), " replaces it, ", Option("resume"), " skips it")


def measure(jobs: list[Job], allow_truncated: bool = False) -> tuple[list[Job], list[str]]:
    """Reads from the headers how many pixels there are to restore.

    Args:
        jobs: From `pass_over_finished`.
        allow_truncated: Whether damaged headers are read as far as they go.

    Returns:
        The jobs with their pixels, and why other jobs cannot be done.
    """
    measured, errors = [], []
    for job in jobs:
        try:
            summary = inspect_picture(job.source, allow_truncated=allow_truncated)
            measured.append(dataclasses.replace(job, pixels=summary.width * summary.height))
        except Exception as error:
            errors.append(_explain(job, error))
    return measured, errors


def restore_all(
    jobs: list[Job],
    load: Callable,
    config: RestoreConfig,
    format: str,
    progress: Callable[[int], None],
    report: Callable[[Outcome], None],
) -> None:
    """Restores pictures, while the next is read and the one before is written.

    A picture that fails does not stop the others. When interrupted, the pictures that are restored are still written.

    Args:
        jobs: From `measure`.
        load: Returns the `Restorer` or `RemoteRestorer`; called after reading of the first picture has begun.
        config: All options.
        format: What is written.
        progress: Called with the number of pixels that are restored since the last call.
        report: Called with the outcome of each picture as soon as it is known.
    """
    waiting, in_flight, restorer = deque(jobs), 0, None
    reading: deque[tuple[Job, Future[Picture]]] = deque()
    writing: deque[tuple[Job, Future[Outcome]]] = deque()

    def report_written():
        nonlocal in_flight
        while writing and writing[0][1].done():
            job, written = writing.popleft()
            in_flight -= job.pixels
            report(_conclude(job, written))

    def advance(pixels):
        progress(pixels)
        report_written()

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        try:
            while waiting or reading or writing:
                # A picture that is too large for the limit goes alone.
                while (
                    waiting
                    and len(reading) + len(writing) < _PICTURES_IN_FLIGHT
                    and (not in_flight or in_flight + waiting[0].pixels <= _PIXELS_IN_FLIGHT)
                ):
                    job = waiting.popleft()
                    in_flight += job.pixels
                    reading.append((job, reader.submit(_read, job, config)))
                restorer = restorer or load()
                if reading:
                    writing.append(_restore(*reading.popleft(), restorer, config, format, advance, writer))
                else:
                    wait([writing[0][1]])
                report_written()
        except KeyboardInterrupt:
            for job, written in writing:
                report(_conclude(job, written))
            raise
        finally:
            reader.shutdown(cancel_futures=True)


def _search(top: Path, output: Path | None, errors: list[str]) -> Iterator[Path]:
    def complain(error):
        errors.append(f"cannot read the folder, check its permissions: {error.filename} ({error.strerror})")

    for folder, folders, names in os.walk(top, onerror=complain):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not (output and os.path.realpath(output) == _identify(Path(folder, name)))
        )
        names = sorted(
            name for name in names if not name.startswith(".") and Path(name).suffix.lower() in INPUT_SUFFIXES
        )
        made = set() if output else _made_beside(names)
        yield from (file for name in names if name not in made and os.path.isfile(file := Path(folder, name)))


def _made_beside(names):
    """Names the results of these pictures in every format, so that they are not taken for pictures to restore."""
    bases = {base for name in names for base in (Path(name).stem, _keep_extension(Path(name)))}
    return {
        _shorten(base, ending + suffix)
        for base in bases
        for ending in (_RESTORED, _COMPARE)
        for suffix in FORMATS.values()
    }


def _name(source, output, compare, keep_extension=False):
    place = output.folder / source.place if output.folder else output.file or source.file
    base = _keep_extension(place) if keep_extension else place.stem
    ending = "" if output.folder else _RESTORED
    target = output.file or place.with_name(_shorten(base, ending + FORMATS[output.format]))
    return Job(source.file, target, place.with_name(_shorten(base, f"{_COMPARE}.png")) if compare else None)


def _keep_extension(file):
    return f"{file.stem}_{file.suffix[1:]}" if file.suffix else file.stem


def _shorten(base, ending):
    if len(os.fsencode(base + ending)) <= _LONGEST_NAME:
        return base + ending
    ending = f"~{hashlib.sha256(os.fsencode(base)).hexdigest()[:8]}{ending}"
    while len(os.fsencode(base + ending)) > _LONGEST_NAME:
        base = base[:-1]
    return base + ending


def _identify(file):
    """Gives all paths to a file one name. A link is a file of its own, as writing would replace the link."""
    return os.path.join(os.path.realpath(file.parent), file.name)


def _find_sharing(jobs):
    """Finds the numbers of the jobs that share the name of a result with another job."""
    names = [[_identify(file) for file in job.results] for job in jobs]
    counts = Counter(name for each in names for name in each)
    return {number for number, each in enumerate(names) if any(counts[name] > 1 for name in each)}


def _read(job, config):
    return decode_picture(job.source, max_megapixels=config.max_megapixels, allow_truncated=config.allow_truncated)


def _restore(job, read, restorer, config, format, progress, writer) -> tuple[Job, Future[Outcome]]:
    """Restores one picture and hands it to the writer.

    The picture's memory is freed when this function returns, as no variable of the loop over all pictures holds it.
    """
    left = job.pixels

    def advance(pixels):
        nonlocal left
        left -= pixels
        progress(pixels)

    written: Future[Outcome] = Future()
    try:
        before = read.result()
        after = _restore_picture(before, job, restorer, config, advance)
        written = writer.submit(_write, job, after, before if job.compare else None, format, config)
    except Exception as error:
        written.set_exception(error)
    progress(left)
    return job, written


def _restore_picture(picture, job, restorer, config, advance):
    try:
        return restorer.restore_picture(picture, config.strength, config.force, advance)
    except InputError as error:  # about the memory or the model, so that it names no file
        raise InputError(f"{job.source}: ", error.message) from error


def _write(job, after, before, format, config):
    with _open(job.target, config) as file:
        notes = write_restored(after, job.source, file, format, config.quality)
    if before:
        with _open(job.compare, config) as file:
            draw_before_after(before, after, file)
    return Outcome(job, notes, left_alone=not after.decision.restore)


@contextlib.contextmanager
def _open(file, config):
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Also with `resume`: where one of a job's two files is missing, both are written.
        with open_whole(file, replace=config.overwrite or config.resume) as opened:
            yield opened
    except (InputError, OSError) as error:
        reason = error.message if isinstance(error, InputError) else error.strerror or str(error)
        raise InputError(f"cannot write {file}: ", reason) from error


def _conclude(job, written):
    try:
        return written.result()
    except Exception as error:
        return Outcome(job, error=_explain(job, error))


def _explain(job, error):
    if isinstance(error, InputError):
        return error.message
    if isinstance(error, MemoryError):
        return f"{job.source}: not enough memory, close other programs"
    return f"{job.source}: {type(error).__name__}: {error}".partition("\n")[0]
