"""The plan of a batch: finding the pictures and naming the results; nothing is decoded, nothing is written."""

import dataclasses
import functools
import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from artifact_remover.decision import decide_by_mark
from artifact_remover.options import RestoreConfig
from artifact_remover.pictures.jpeg_xl import can_decode, is_jpeg_xl
from artifact_remover.pictures.picture import (
    FORMATS,
    INPUT_SUFFIXES,
    Summary,
    check_format,
    format_of,
    inspect_picture,
    matching_format,
)
from artifact_remover.pictures.readers import open_image
from artifact_remover.result_names import COMPARE, RESTORED, identify, name_apart, name_result
from data_prep.errors import InputError, Message, Option

# The ends of the names of copies that exiftool and editors keep, of unfinished downloads, and of cameras' thumbnails.
_NO_PICTURES = ("_original", "~", ".bak", ".orig", ".part", ".crdownload", ".tmp", ".thm")


@dataclasses.dataclass(frozen=True)
class Output:
    """The place of restored pictures: one file, below a folder, or beside the originals when none is given.

    Attributes:
        format: One of `artifact_remover.pictures.picture.FORMATS`; None in place, where each picture keeps its own.
        file: Name of the only result.
        folder: Folder of all results.
        backup: Folder of the originals, in whose place the results come.
    """

    format: str | None
    file: Path | None = None
    folder: Path | None = None
    backup: Path | None = None


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
class Found:
    """The contents of the files and folders that were given.

    Attributes:
        sources: The pictures.
        errors: What is wrong with other inputs, one line each.
        others: How many files in the folders are no pictures that are read, by suffix.
        unwanted: Pictures in the folders that the patterns do not ask for.
    """

    sources: list[Source]
    errors: list[str]
    others: Counter[str]
    unwanted: list[Source] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Job:
    """A picture to restore.

    Attributes:
        source: Its path.
        target: What is written.
        compare: The path of the drawing of before and after, if one is wanted.
        backup: Where the original goes, if the target is its place.
        kept: Those of these files that are there already and stay as they are.
        format: What is written, one of `FORMATS`; in place None before `measure`.
        summary: What the file says of itself; None before `measure`.
        stat: The file's dates before it was read; None before `measure`.
    """

    source: Path
    target: Path
    compare: Path | None = None
    backup: Path | None = None
    kept: tuple[Path, ...] = ()
    format: str | None = None
    summary: Summary | None = None
    stat: os.stat_result | None = None

    @property
    def results(self) -> tuple[Path, ...]:
        """Every file that is written."""
        return tuple(file for file in (self.target, self.compare, self.backup) if file)

    @property
    def missing(self) -> tuple[Path, ...]:
        """Those of the files that are still to be written."""
        return tuple(file for file in self.results if file not in self.kept)

    @property
    def pixels(self) -> int:
        """The number of the picture's pixels; 0 before `measure`."""
        return self.summary.width * self.summary.height if self.summary else 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a job.

    Attributes:
        job: What was to be done.
        state: `left alone` is what the decision did not restore, `skipped` what has its results already, `passed over`
            what was not asked for.
        notes: What the user should be told, each a short clause.
        found: What the decision found in the pixels.
        why: The reason why it is not restored.
        error: Why there is no result.
        seconds: How long restoring took.
    """

    job: Job
    state: Literal["restored", "left alone", "skipped", "passed over", "failed"]
    notes: tuple[str, ...] = ()
    found: str = ""
    why: str = ""
    error: str | None = None
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The work of one run of the command.

    Attributes:
        jobs: The pictures to restore, in their order.
        outcomes: What is known already of other pictures.
        errors: What is wrong with the inputs, one line each.
        others: As in `Found`.
    """

    jobs: list[Job]
    outcomes: list[Outcome]
    errors: list[str]
    others: Counter[str]


def choose_output(config: RestoreConfig) -> Output:
    """Chooses from the options where the results are written, and in which format.

    Raises:
        InputError: If the options contradict each other.
    """
    given, backup = Path(config.output) if config.output else None, config.backup
    is_folder = given and (str(config.output).endswith(("/", os.sep)) or os.path.isdir(given))
    if backup:
        if os.path.realpath(backup) in map(os.path.realpath, config.inputs):
            raise InputError(f"{backup} is itself to be restored: choose another ", Option("backup"))
        return Output(None, backup=backup)
    if given and re.fullmatch(r"\.[a-zA-Z]\w*", given.suffix) and not is_folder:
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
    assert output.format
    check_format(output.format, config.quality)
    return output


def plan(config: RestoreConfig, output: Output, only: Container[Path] | None = None) -> Plan:
    """Finds what is to be restored and names the results; nothing is decoded, nothing is written.

    Args:
        config: All options.
        output: From `choose_output`.
        only: The files that are meant, where not all are.
    """
    found = find_sources(config.inputs, output, config.include, config.exclude)
    wanted = {source.file for source in found.sources if only is None or source.file in only}
    # The others are named too, so that a picture's result has the same name whatever is asked for.
    named, not_named = name_results([*found.sources, *found.unwanted], output, config.compare)
    named = [job for job in named if job.source in wanted]
    not_named = [outcome for outcome in not_named if outcome.job.source in wanted]
    left, finished = pass_over_finished(named, config)
    jobs, not_measured = measure(left, config)
    return Plan(jobs, [*not_named, *finished, *not_measured], found.errors, found.others)


def make_folder(output: Output) -> None:
    """Makes the folder of the results or originals before time is spent on what could not be written.

    Raises:
        InputError: If it cannot be made, or written to.
    """
    folder = output.backup or output.folder or (output.file.parent if output.file else None)
    if not folder:
        return
    name = "backup" if output.backup else "output"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the {name} folder, choose another: {folder} ({error.strerror})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to the {name} folder, choose another or mend its permissions: {folder}")


def find_sources(
    inputs: Iterable[Path | str], output: Output, include: Iterable[str] = (), exclude: Iterable[str] = ()
) -> Found:
    """Finds the pictures in folders, in the order of their paths; a single file is taken as it is.

    Pictures are known by their suffix, and those of another suffix by their content. Hidden files and folders are
    passed over, as are the folder of the results or originals and, where results go beside the pictures or in their
    place, what earlier runs have written beside them. A picture that is found twice is taken once. Of several folders,
    each keeps its name.

    Args:
        inputs: Files and folders.
        output: From `choose_output`.
        include: Patterns as of `fnmatch`, of which the path below the folder must match one, if there are any; case
            does not matter, and `*` also stands for slashes.
        exclude: Patterns of which it must match none.
    """
    paths = list(map(Path, inputs))
    found: dict[str, Source] = {}
    unwanted: dict[str, Source] = {}
    errors: list[str] = []
    others: Counter[str] = Counter()
    several = sum(map(os.path.isdir, paths)) > 1
    for given in paths:
        sources = []
        if os.path.isdir(given):
            before = len(errors)
            kept = Path(given.resolve().name) if several else Path()
            wanted = functools.partial(is_wanted, include=include, exclude=exclude)
            for file, is_meant in _search(given, output, wanted, errors, others):
                source = Source(file, kept / file.relative_to(given))
                if is_meant:
                    sources.append(source)
                else:
                    unwanted[identify(file)] = source
            if not sources and len(errors) == before:
                errors.append(f"no pictures in the folder: {given}")
        elif os.path.isfile(given):
            sources = [Source(given, Path(given.name))]
        elif os.path.lexists(given):
            errors.append(f"cannot be read, or is neither file nor folder: {given}")
        else:
            errors.append(f"no such file or folder: {given}")
        for source in sources:
            found.setdefault(identify(source.file), source)
    left = [source for identity, source in unwanted.items() if identity not in found]
    return Found(list(found.values()), errors, others, left)


def is_wanted(place: str, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> bool:
    """Tells whether the patterns ask for a picture.

    Args:
        place: Its path below the folder, with slashes.
        include: As in `find_sources`.
        exclude: As in `find_sources`.
    """
    places = place.lower(), f"/{place.lower()}"  # so that `*/thumbs/*` means those at the top too
    matches = [
        any(fnmatchcase(place, pattern.lower()) for pattern in each for place in places) for each in (include, exclude)
    ]
    return (matches[0] or not include) and not matches[1]


def name_results(sources: list[Source], output: Output, compare: bool = False) -> tuple[list[Job], list[Outcome]]:
    """Names what is to be written, so that no two pictures share a name and none is written over another.

    Args:
        sources: From `find_sources`.
        output: From `choose_output`.
        compare: Whether pictures of before and after are wanted.

    Returns:
        The jobs, and the pictures that cannot be restored.
    """
    jobs = name_apart(
        sources,
        lambda source, keep_extension: _name(source, output, compare, keep_extension),
        lambda job: (os.path.split(identify(file)) for file in job.results),
    )
    owners = {identify(source.file): source.file for source in sources}
    named: list[Job] = []
    failed: list[Outcome] = []
    for job in jobs:
        taken = [file for file in job.results if owners.get(identify(file), job.source) != job.source]
        if taken:
            owner, option = owners[identify(taken[0])], Option("backup" if job.backup else "output")
            said = Message(f"{job.source}: {taken[0]} is taken by {owner}, restore it apart to another ", option)
            failed.append(Outcome(job, "failed", error=said))
        elif job.backup and (said := _explain_not_in_place(job)):
            failed.append(Outcome(job, "failed", error=said))
        else:
            owners.update((identify(file), job.source) for file in job.results)
            named.append(job)
    return named, failed


def _explain_not_in_place(job):
    if identify(job.backup) == identify(job.source):
        return Message(f"{job.backup} is the picture itself: choose another ", Option("backup"))
    if os.path.islink(job.source):
        return Message(f"{job.source} is a link, which ", Option("in_place"), " does not follow: give the file itself")
    return None


def pass_over_finished(jobs: list[Job], config: RestoreConfig) -> tuple[list[Job], list[Outcome]]:
    """Drops the jobs whose results exist: as done with `resume`, else as errors; `overwrite` drops none.

    Returns:
        What is left to do, which with `resume` may be one of two files, and what became of the others.
    """
    if config.overwrite or config.in_place:
        return jobs, []
    left, finished = [], []
    for job in jobs:
        there = tuple(file for file in job.results if os.path.lexists(file))
        if not there or (config.resume and len(there) < len(job.results)):
            left.append(dataclasses.replace(job, kept=there))
        elif config.resume:
            finished.append(Outcome(job, "skipped"))
        else:
            finished.append(Outcome(job, "failed", error=_explain_taken(job, there[0])))
    return left, finished


def _explain_taken(job, file):
    if identify(file) == identify(job.source):
        return Message(f"{file} is the picture itself: choose another ", Option("output"))
    said = f"{job.source}: {file} exists, "
    return Message(said, Option("overwrite"), " replaces it, ", Option("resume"), " skips it")


def measure(jobs: list[Job], config: RestoreConfig) -> tuple[list[Job], list[Outcome]]:
    """Reads from the headers how many pixels there are to restore, and what need not be decoded at all.

    Returns:
        The jobs with their summaries, and what became of the others.
    """
    measured, others = [], []
    for job in jobs:
        try:
            stat = os.stat(job.source)  # before reading, which may change the date of access
            summary = inspect_picture(
                job.source, max_megapixels=config.max_megapixels, allow_truncated=config.allow_truncated
            )
            job = dataclasses.replace(job, summary=summary, stat=stat)
            if why := explain_fine_enough(summary, config.only_below):
                others.append(Outcome(job, "passed over", why=why))
            elif job.backup and (decision := decide_by_mark(summary, config.force)):
                # Nothing will be written, so that nothing need be decoded.
                others.append(Outcome(job, "left alone", decision.notes, why=decision.why))
            else:
                measured.append(_in_its_format(job) if job.backup else job)
        except Exception as error:
            others.append(Outcome(job, "failed", error=explain(job.source, error)))
    return measured, others


def explain_fine_enough(summary: Summary, only_below: int | None) -> str:
    """Tells why a picture is none of the JPEGs that `only_below` asks for; empty if it is one.

    Args:
        summary: The picture's.
        only_below: Quality, 1..100; None asks for all pictures.
    """
    if only_below is None or (summary.header and summary.header.quality < only_below):
        return ""
    return f"no JPEG of a quality below {only_below}"


def _in_its_format(job):
    format = matching_format(job.summary.format)
    reason = None
    if not format:
        reason = f"{job.summary.format} cannot be written"
    elif job.summary.lost:
        reason = f"of its {job.summary.pictures} pictures only the first would be left"
    if reason:
        raise InputError(f"{job.source}: {reason}, restore it without ", Option("in_place"))
    return dataclasses.replace(job, format=format)


def explain(source: Path, error: Exception) -> str:
    """Tells in one line why a picture cannot be restored, or looked at."""
    if isinstance(error, InputError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return f"{source} cannot be read: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"{source}: not enough memory, close other programs"
    return f"{source}: {type(error).__name__}: {error}".partition("\n")[0]


def _search(
    top: Path, output: Output, is_wanted, errors: list[str], others: Counter[str]
) -> Iterator[tuple[Path, bool]]:
    """Yields the pictures below a folder, each with whether it is wanted."""
    results = output.folder or output.backup
    apart = os.path.realpath(results) if results else None

    def complain(error):
        errors.append(f"cannot read the folder, check its permissions: {error.filename} ({error.strerror})")

    for folder, folders, names in os.walk(top, onerror=complain):
        # Whatever the patterns are: nobody looked what is behind them.
        if links := sum(not name.startswith(".") and os.path.islink(Path(folder, name)) for name in folders):
            others["links to folders"] += links
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and identify(Path(folder, name)) != apart
        )
        pictures = []
        for name in sorted(name for name in names if not name.startswith(".")):
            file = Path(folder, name)
            wanted = is_wanted(file.relative_to(top).as_posix())
            if os.path.isfile(file) and (file.suffix.lower() in INPUT_SUFFIXES or (wanted and _is_picture(file))):
                pictures.append((name, wanted))
            elif wanted:
                others[file.suffix.lower() or "no suffix" if os.path.exists(file) else "links to nothing"] += 1
        made = set() if output.folder else _made_beside([name for name, _ in pictures])
        yield from ((Path(folder, name), wanted) for name, wanted in pictures if name not in made)


def _is_picture(file):
    """Tells by its content whether a file of an unknown suffix is a picture that is read."""
    if file.name.lower().endswith(_NO_PICTURES):
        return False
    try:
        with file.open("rb") as opened:
            if is_jpeg_xl(opened.read(16)):
                return can_decode()  # as opening it would, which takes long
        with open_image(file) as (image, _):
            return image.format != "TIFF"  # which the raw files of many cameras are, too
    except (InputError, OSError):
        return False


def _made_beside(names):
    """Names the results of these pictures in every format, so that they are not taken for pictures to restore."""
    endings = [ending + suffix for ending in (RESTORED, COMPARE) for suffix in FORMATS.values()]
    return {name_result(name, ending, keep) for name in names for ending in endings for keep in (False, True)}


def _name(source, output, compare, keep_extension):
    if output.backup:
        return Job(source.file, source.file, backup=output.backup / source.place)
    place = output.folder / source.place if output.folder else output.file or source.file
    ending = "" if output.folder else RESTORED
    target = output.file or place.with_name(name_result(place.name, ending + FORMATS[output.format], keep_extension))
    drawing = place.with_name(name_result(place.name, f"{COMPARE}.png", keep_extension)) if compare else None
    return Job(source.file, target, drawing, format=output.format)
