"""Restoring very many pictures on a Ray cluster: the same decisions and the same code, in many workers.

Only paths travel: a task lists the pictures, workers with a model each read, restore and write them, and rows of facts
come back. Every result's name follows from its picture's, and it appears whole or not at all. So whatever is done twice
after a worker or the command itself has died is the same again, and harmless.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import logging
import os
import re
import signal
import socket
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from artifact_remover.batch import load_restorer, restore_all
from artifact_remover.batch_plan import Job, Outcome, is_wanted, measure
from artifact_remover.batch_report import row_of
from artifact_remover.engines import choose_engine
from artifact_remover.model_folder import choose_exports
from artifact_remover.options import RestoreConfig
from artifact_remover.pictures.picture import FORMATS, INPUT_SUFFIXES, check_format
from artifact_remover.result_names import name_apart, name_result
from artifact_remover.storage import Listing, Location, deliver, fetch, kind_of, list_folder, locate, locate_listed
from data_prep.command_line import word_for_terminal
from data_prep.errors import InputError, Option
from data_prep.quiet import quiet_stderr

MANIFEST_FOLDER = "manifest"
"""The folder in the output with a row for each picture, in Parquet files."""

ROWS = pa.schema(
    [(name, pa.string()) for name in ("path", "target", "decision")]
    + [(name, pa.int64()) for name in ("width", "height", "quality")]
    + [(name, pa.string()) for name in ("format", "subsampling", "found", "why", "notes")]
    + [("seconds", pa.float64()), ("bytes", pa.int64()), ("error", pa.string())]
)
"""The columns of the manifest, as in `artifact_remover.batch_report`; `bytes` is the size of what was written."""

# Pictures that a worker gets at once, and does again where it dies over them. After many they are more, a thousandth of
# what was listed up to then: Ray keeps some kB of each task, and so few still keep all workers busy to the end.
_TOGETHER, _MOST_TOGETHER = 16, 128
_TILE = 2048  # the same for all workers, as results may differ by a level with the tiles
_TRIES = 3  # again, after a worker's or machine's death
_AT_ONCE = 8  # copies between a worker and a store
_PART_ROWS, _PART_SECONDS = 10_000, 30  # after which a part of the manifest is written
_PART_NAME = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}-\d{5,}\.parquet")
_ANSWER_SECONDS = 5  # for a connection to a cluster's address
_OBJECT_STORE = 200_000_000  # bytes, of a Ray of our own: only paths and rows go through it
_LISTED = pa.schema([("entry", pa.string()), ("target", pa.string()), ("known", pa.bool_()), ("error", pa.string())])
_END = [("listed", pa.int64()), ("others", pa.string())]
# One row each, so that Ray hands out as many pictures at once as were put together.
_PACKS = pa.schema([("pictures", pa.list_(pa.struct(list(_LISTED)))), *_END])
_RESULTS = pa.schema([("rows", pa.list_(pa.struct(list(ROWS)))), *_END])


def restore_on_cluster(config: RestoreConfig, others: Counter[str]) -> Generator[Outcome, None, None]:
    """Restores the pictures of a folder or list on a Ray cluster.

    Args:
        config: All options, with `cluster`.
        others: Is told how many files are no pictures that are read, by suffix.

    Yields:
        The outcome of each picture, whose job names source and target as the manifest does.

    Raises:
        InputError: For a mistake of the user's that concerns all pictures.
    """
    config = fix_results(config)
    check_format(config.format or "png", config.quality)
    choose_exports(config.model, config.blend)
    source, target = _find_source(config), _find_target(config)
    _check_places(source, target)
    with connected(config):
        _check_target(target, config)
        manifest = Manifest(target, replace=config.overwrite)
        try:
            for together in (_TOGETHER, 1):  # where a worker died again and again, only over the picture that kills it
                received, listed = 0, None
                for rows, count, kinds in _stream(config, manifest.run, together):
                    received += len(rows)
                    for row in rows:
                        manifest.add(row)
                        yield _to_outcome(row)
                    if count is not None:
                        listed = count
                        others.update(kinds if together == _TOGETHER else {})
                manifest.write()
                if received == listed:
                    return
            for row in _list_lost(config, manifest.run):
                manifest.add(row)
                yield _to_outcome(row)
        finally:
            manifest.write()


def fix_results(config: RestoreConfig) -> RestoreConfig:
    """Sets what each worker would otherwise choose by its own machine, so that all write the same."""
    places = [each if "://" in each else os.path.abspath(each) for each in (str(config.inputs[0]), str(config.output))]
    return dataclasses.replace(
        config,
        inputs=(places[0],),
        output=places[1],
        model=Path(os.path.abspath(config.model)) if config.model else None,
        engine=choose_engine(config.engine, has_gpu=config.gpus_per_worker > 0),
        precision="float32" if config.precision == "auto" else config.precision,
        tile=config.tile or _TILE,
    )


class Manifest:
    """The rows of the pictures that are done, in the output's folder `manifest`.

    Attributes:
        run: What the names of this run's files begin with.
    """

    def __init__(self, target: Location, replace: bool):
        """Begins a run, and so finds out whether the output can be written.

        Args:
            target: The output.
            replace: Whether the rows of earlier runs are dropped.

        Raises:
            InputError: If it cannot be written.
        """
        self.run = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"
        self._folder = target / MANIFEST_FOLDER
        self._rows: list[dict[str, Any]] = []
        self._part, self._written = 0, time.monotonic()
        if replace:
            for name in _list_parts(self._folder):
                self._folder.files.delete_file((self._folder / name).path)
        self._write_part()

    def add(self, row: dict[str, Any]) -> None:
        """Adds a picture's row, unless an earlier run has it."""
        if row["decision"] != "skipped":
            self._rows.append(row)
        if len(self._rows) >= _PART_ROWS or time.monotonic() - self._written > _PART_SECONDS:
            self.write()

    def write(self) -> None:
        """Writes the rows that were added since the last time."""
        if self._rows:
            self._write_part()

    def _write_part(self):
        content = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self._rows, schema=ROWS), content)
        content.seek(0)
        deliver(content, self._folder / f"{self.run}-{self._part:05}.parquet")
        self._part += 1
        self._rows, self._written = [], time.monotonic()


def _list_parts(folder) -> list[str]:
    """Lists the files of rows, beside which others may lie, such as what a killed command has half written."""
    names = list_folder(folder).files if kind_of(folder) == fs.FileType.Directory else []
    return [name for name in names if _PART_NAME.fullmatch(name)]


def _read_names(target, run=None) -> set[str]:
    """Reads from the manifest which results were written, and, of a run, also which failed.

    What cannot have a result, such as a folder that is not read, goes by its own name.
    """
    folder, names = target / MANIFEST_FOLDER, set()
    columns = ["path", "target", "decision"]
    for name in _list_parts(folder):
        rows = _read_table(folder / name, columns, "delete it, what its rows told is restored again")
        if not (run and name.startswith(run)):
            rows = rows.filter(pc.is_in(rows["decision"], pa.array(["restored", "left alone"])))
        names.update(pc.coalesce(rows["target"], rows["path"]).to_pylist())
    return names


def _read_table(file, columns, what_to_do):
    try:
        return pq.read_table(file.path, columns=columns, filesystem=file.files)
    except (OSError, ValueError) as error:
        raise InputError(f"{file.name} is damaged: {what_to_do}") from error


def _find_source(config):
    return locate(config.inputs[0])


def _find_target(config):
    return locate(config.output)


def is_list(source: Location) -> bool:
    """Tells whether a source is a list of pictures, and no folder."""
    return source.name.lower().endswith((".parquet", ".txt"))


def _check_places(source, target):
    kind = kind_of(source)
    if kind == fs.FileType.NotFound:
        raise InputError(f"no such file or folder: {source.name}")
    if is_list(source) != (kind == fs.FileType.File):
        raise InputError(f"{source.name} is neither a folder nor a list, .parquet or .txt")
    if source.name.lower().endswith(".parquet"):
        try:
            schema = pq.read_schema(source.path, filesystem=source.files)
        except (OSError, ValueError) as error:
            raise InputError(f"{source.name} is no Parquet file") from error
        if not any(column.name == "path" and _is_text(column.type) for column in schema):
            raise InputError(f"{source.name} has no column path of text: {', '.join(schema.names)}")
    if _are_same(source, target):
        raise InputError(f"{target.name} is itself to be restored: choose another ", Option("output"))
    if kind_of(target) == fs.FileType.File:
        raise InputError(f"{target.name} is a file, there may be several pictures: choose another ", Option("output"))


def _is_text(kind):
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _are_same(one, other):
    return one.path == other.path and one.files == other.files


def _check_target(target, config):
    """Refuses an output that holds something, as a worker's second try could not tell it from its first one's."""
    import ray

    if config.overwrite or config.resume:
        return
    # Not in this process, whose memory stays small however many names there are.
    if ray.get(ray.remote(_holds_something).options(num_cpus=0).remote(config.output)):
        said = f"{target.name} holds something already, "
        raise InputError(said, Option("overwrite"), " replaces it, ", Option("resume"), " goes on")


def _holds_something(uri):
    target = locate(uri)
    if kind_of(target) != fs.FileType.Directory:
        return False
    listing = list_folder(target)
    return bool(listing.files or listing.folders)


def list_pictures(config: RestoreConfig, others: Counter[str]) -> Iterator[dict[str, Any]]:
    """Lists the pictures of a folder or list, folder by folder, and names their results.

    Args:
        config: All options, from `fix_results`.
        others: Is told how many files are no pictures that are read, by suffix.

    Yields:
        `entry`, the picture's path below the folder, or as the list has it; `target`, its result's path below the
        output; or `error`, what is wrong with it.
    """
    source = _find_source(config)
    groups = _read_list(source) if is_list(source) else _walk(source, _find_target(config), config, others)
    ending, count = FORMATS[config.format or "png"], 0
    for folder, names, entries, errors in groups:
        if not is_list(source):
            chosen = [number for number, name in enumerate(names) if _is_picture(_join(folder, name), config, others)]
            names, entries = [names[number] for number in chosen], [entries[number] for number in chosen]
        results = name_apart(names, lambda name, keep: name_result(name, ending, keep), lambda result: [("", result)])
        owners: dict[str, str] = {}
        for entry, result in zip(entries, results, strict=True):
            owner = owners.setdefault(result, entry)
            # What is not asked for is named too, so that a result has the same name whatever is.
            if not (is_list(source) or is_wanted(entry, config.include, config.exclude)):
                continue
            count += 1
            said = None
            if owner != entry:
                said = f"{entry}: {_join(folder, result)} is taken by {owner}, restore it apart"
            elif folder.split("/")[0] == MANIFEST_FOLDER:
                said = f"{entry}: the output's folder {MANIFEST_FOLDER} is for rows alone, restore it apart"
            yield {"entry": entry, "target": _join(folder, result), "error": said}
        yield from ({"entry": folder, "target": None, "error": error} for error in errors)
        count += len(errors)
    if not count:
        yield {"entry": "", "target": None, "error": f"no pictures in {source.name}"}


def _is_picture(place, config, others):
    name = place.rpartition("/")[2]
    if name.startswith("."):
        return False
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in INPUT_SUFFIXES and is_wanted(place, config.include, config.exclude):
        others[suffix or "no suffix"] += 1
    return suffix in INPUT_SUFFIXES


def _join(folder, name):
    return f"{folder}/{name}" if folder else name


def _walk(top, apart, config, others, place=""):
    """Yields each folder's place, names of files, their paths below the top, and errors; counts links."""
    folder = top / place
    try:
        listing = list_folder(folder)
    except InputError as error:
        listing = Listing(errors=[error.message])
    if links := len(_not_hidden(listing.links)):
        others["links to folders"] += links
    for name in _not_hidden(listing.broken):
        if is_wanted(_join(place, name), config.include, config.exclude):
            others["links to nothing"] += 1
    yield place, listing.files, [_join(place, name) for name in listing.files], listing.errors
    for name in _not_hidden(listing.folders):
        if not _are_same(folder / name, apart):
            yield from _walk(top, apart, config, others, _join(place, name))


def _not_hidden(names):
    return [name for name in names if not name.startswith(".")]


def _read_list(source):
    """Yields what `_walk` yields of a folder, of a list: each place is the path without what stands before its root."""
    if source.name.lower().endswith(".parquet"):
        entries = _read_table(source, ["path"], "write the list again")["path"].to_pylist()
    else:
        with source.files.open_input_stream(source.path) as stream:
            entries = stream.read().decode("utf-8-sig", errors="replace").splitlines()
    split = lambda entry: entry.partition("://")[2 if "://" in entry else 0].strip("/").rpartition("/")[::2]  # noqa: E731
    stripped = (entry.removeprefix("./") for entry in entries if entry)  # as `find .` begins each line
    entries = sorted({entry for entry in stripped if entry}, key=lambda entry: (split(entry), entry))
    for folder, group in itertools.groupby(entries, key=lambda entry: split(entry)[0]):
        listed = list(group)
        if {".", ".."} & set(folder.split("/")):
            yield folder, [], [], [f"{entry}: the list may hold no path with . or .. in it" for entry in listed]
        else:
            yield folder, [split(entry)[1] for entry in listed], listed, []


def count_together(least: int, listed: int) -> int:
    """Tells how many pictures a worker gets at once after so many, `least` where they are few."""
    return min(max(least, listed // 1000), _MOST_TOGETHER)


def _list_packs(_, config, run, together):
    """Yields tables of one row: pictures that go to a worker together, and at the end how many there are.

    Of the second time, when they go one by one, only those that have no row yet.
    """
    target, others, count = _find_target(config), Counter[str](), 0
    known = _read_names(target, None if together > 1 else run) if config.resume or together == 1 else set()

    def list_all():
        for picture in list_pictures(config, others):
            to = picture["target"]
            is_known = bool(known) and (target / to if to else _find_picture(config, picture)[0]).name in known
            if together > 1 or not is_known:
                yield {**picture, "known": is_known}

    pictures = list_all()
    while pack := list(itertools.islice(pictures, together if together == 1 else count_together(together, count))):
        count += len(pack)
        yield pa.Table.from_pylist([{"pictures": pack}], schema=_PACKS)
    end = {"pictures": [], "listed": count, "others": json.dumps(others)}
    yield pa.Table.from_pylist([end], schema=_PACKS)


def _list_lost(config, run):
    """Lists the pictures that no worker has survived, as failed ones."""
    import ray

    packs = ray.remote(_list_all).options(num_cpus=0).remote(config, run)
    for picture in ray.get(packs):
        (source, error), to = _find_picture(config, picture), picture["target"]
        said = error or f"{source.name}: each worker that tried it has died, maybe for want of memory"
        row = dict.fromkeys(ROWS.names) | {"path": source.name, "decision": "failed", "error": said}
        yield row | {"target": (_find_target(config) / to).name if to else None}


def _list_all(config, run):
    packs = [table.to_pylist()[0]["pictures"] for table in _list_packs(None, config, run, 1)]
    return list(itertools.chain.from_iterable(packs))


def _find_picture(config, picture) -> tuple[Location, str | None]:
    """Finds where a listed picture lies, or what is wrong with it."""
    try:
        return _find_entry(config, picture["entry"]), picture["error"]
    except InputError as error:
        return dataclasses.replace(_find_source(config), name=picture["entry"]), error.message


def _find_entry(config, entry):
    source = _find_source(config)
    if not is_list(source):
        return source / entry
    if "://" in entry or entry.startswith("/"):
        return locate_listed(entry)
    parent = dataclasses.replace(source, path=source.path.rpartition("/")[0], name=source.name.rpartition("/")[0])
    return parent / entry


class Worker:
    """A process with a model, which restores the pictures that it is handed."""

    def __init__(self, config: RestoreConfig):
        """Prepares the process; the model is loaded for the first picture.

        Args:
            config: From `fix_results`.
        """
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
            os.environ[name] = str(config.cpus_per_worker)
        # A second try finds what the first one has written.
        self._config = dataclasses.replace(config, overwrite=True, resume=False)
        self._restorer = None

    def __call__(self, packs: pa.Table) -> pa.Table:
        """Restores pictures.

        Args:
            packs: From the listing.

        Returns:
            The rows of the pictures, of the schema `ROWS`, a list of them for each pack.
        """
        results = [{**pack, "rows": self._restore(pack["pictures"])} for pack in packs.to_pylist()]
        return pa.Table.from_pylist(results, schema=_RESULTS)

    def _restore(self, pictures):
        with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(_AT_ONCE) as pool:
            tasks = [_Task(self._config, each, Path(scratch, str(number))) for number, each in enumerate(pictures)]
            for task, outcome in zip(tasks, pool.map(_Task.prepare, tasks), strict=True):
                task.outcome = outcome
            waiting = {task.job.target: task for task in tasks if not task.outcome}

            def report(outcome):
                waiting[outcome.job.target].outcome = outcome

            try:
                jobs, others = measure([task.job for task in waiting.values()], self._config)
                for outcome in others:
                    report(outcome)
                restore_all(jobs, self._load, self._config, lambda _: None, report)
            except InputError as error:  # of the model: each picture says so
                for task in waiting.values():
                    task.outcome = task.outcome or Outcome(task.job, "failed", error=error.message)
            return list(pool.map(_Task.conclude, tasks))

    def _load(self):
        self._restorer = self._restorer or load_restorer(self._config)
        return self._restorer


class _Task:
    """A picture that a worker is handed, which is on the worker's own machine while it is restored."""

    def __init__(self, config, picture, scratch):
        self.outcome: Outcome | None = None
        self._picture = picture
        self._source, self._error = _find_picture(config, picture)
        self._target = _find_target(config)
        if picture["target"]:
            self._target /= picture["target"]
        copy = scratch.with_suffix(PurePosixPath(picture["entry"]).suffix)
        self.job = Job(
            self._source.local or copy,
            self._target.local or scratch.with_suffix(".result"),
            format=config.format or "png",
        )

    def prepare(self) -> Outcome | None:
        """Brings the picture here; returns the outcome where there is nothing to restore."""
        try:
            if self._error:
                raise InputError(self._error)
            if self._picture["known"] and kind_of(self._target) == fs.FileType.File:
                return Outcome(self.job, "skipped")
            if not self._source.local:
                fetch(self._source, self.job.source)
        except InputError as error:
            return Outcome(self.job, "failed", error=error.message)
        return None

    def conclude(self) -> dict[str, Any]:
        """Takes the result to its place, and returns the picture's row."""
        outcome, size = self.outcome, None
        assert outcome
        if outcome.state in ("restored", "left alone"):
            size = os.path.getsize(self.job.target)
            if not self._target.local:
                try:
                    with self.job.target.open("rb") as content:
                        deliver(content, self._target)
                except InputError as error:
                    outcome, size = Outcome(self.job, "failed", error=error.message), None
        row: dict[str, Any] = row_of(outcome) | {
            "bytes": size,
            "notes": "; ".join(map(word_for_terminal, outcome.notes)) or None,
        }
        for column in ("why", "notes", "error"):  # which name the files as they were here
            for here, there in ((self.job.source, self._source.name), (self.job.target, self._target.name)):
                row[column] = row[column] and row[column].replace(str(here), there)
        row |= {"path": self._source.name, "target": self._target.name if self._picture["target"] else None}
        return {name: row[name] for name in ROWS.names}


@dataclasses.dataclass(frozen=True)
class _DoneJob(Job):
    """A job that was done elsewhere, of which the size alone is known."""

    size: int = 0

    @property
    def pixels(self) -> int:
        """The number of the picture's pixels."""
        return self.size


def _to_outcome(row) -> Outcome:
    job = _DoneJob(row["path"], row["target"], size=(row["width"] or 0) * (row["height"] or 0))
    notes = (row["notes"],) if row["notes"] else ()
    found, why = row["found"] or "", row["why"] or ""
    return Outcome(job, row["decision"], notes, found, why, row["error"], row["seconds"])


@contextlib.contextmanager
def connected(config: RestoreConfig) -> Generator[None, None, None]:
    """Connects to Ray, or starts one, and leaves it at the end; SIGTERM ends the process as before."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    address = config.ray_address or os.environ.get("RAY_ADDRESS") or "local"
    own = {"object_store_memory": _OBJECT_STORE, "include_dashboard": False} if address == "local" else {}
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"no Ray answers at {address}: give another ", Option("ray_address")) from error
    except SystemExit as leaving:  # what Ray makes of SIGTERM while it starts
        raise KeyboardInterrupt from leaving
    try:
        signal.signal(signal.SIGTERM, terminate)
        _hush(ray)
        yield
    finally:
        ray.shutdown()


def _knock(address):
    """Opens a connection where an address names host and port, as Ray itself would try for minutes."""
    if named := re.fullmatch(r"(?:ray://)?\[?(.*?)\]?:(\d{1,5})", address):
        socket.create_connection((named[1], int(named[2])), timeout=_ANSWER_SECONDS).close()


def _hush(ray):
    """Takes from Ray a warning that a process prints once: of actors as Ray Data itself starts them for the workers.

    It may be restarted, and is handed an object, as theirs are (https://github.com/ray-project/ray/issues/57733).
    """

    class Nothing:
        def __init__(self, _):
            pass

    handed = ray.put(None)
    with quiet_stderr():
        actor = ray.remote(num_cpus=0, max_restarts=1)(Nothing).remote(handed)
    ray.kill(actor)


def stream_packs(config: RestoreConfig, run: str = "", together: int = _TOGETHER) -> Any:
    """Makes the data set of what workers are handed, which is listed by a task while it is read.

    Args:
        config: All options, from `fix_results`.
        run: Name of the run, as of `Manifest`.
        together: Pictures in a row; with 1 only those that have no row in the manifest.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # byte: each row goes on as soon as it is there
    context.max_errored_blocks = -1  # what is lost with a worker is found by counting
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return ray.data.from_items([0], override_num_blocks=1).map_batches(
        _list_packs,
        fn_kwargs={"config": config, "run": run, "together": together},
        batch_format="pyarrow",
        num_cpus=0,
    )


def _stream(config, run, together) -> Iterator[tuple[list[dict[str, Any]], int | None, dict[str, int]]]:
    """Yields rows as they are done, and at some time how many pictures were listed, and what else was found."""
    import ray

    least, most = config.workers or (1, None)
    warnings.filterwarnings("ignore", "The minimum number of concurrent actors")  # where the listing failed
    with warnings.catch_warnings(action="ignore"):  # until Ray 2.64 there is no other way to bound the tries
        results = stream_packs(config, run, together).map_batches(
            Worker,
            fn_constructor_args=(config,),
            compute=ray.data.ActorPoolStrategy(
                min_size=least,
                max_size=most,
                # The second time none waits at a worker, where it would die with the one before it.
                max_tasks_in_flight_per_actor=None if together > 1 else 1,
            ),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=config.cpus_per_worker,
            num_gpus=config.gpus_per_worker or None,
            max_task_retries=_TRIES,
        )
    for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in table.to_pylist():
            yield row["rows"], row["listed"], json.loads(row["others"] or "{}")
