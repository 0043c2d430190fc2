"""Waiting for pictures that appear in folders, until they are whole."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from data_prep.errors import InputError

_LOOK_ANYWAY = 60  # seconds, as nobody tells of what other machines write to a network drive


State = tuple[int, int, int]


def watch(
    folders: Iterable[Path],
    find: Callable[[], Iterable[Path]],
    replaced: dict[Path, State | None],
    settle: float = 1.0,
) -> Iterator[set[Path]]:
    """Yields what is in folders first, then what appears there or changes, forever.

    A file is yielded once its size and date have stayed the same for a while, so that none is taken half-written. One
    that its reader found broken is yielded again when it has changed.

    Args:
        folders: What is watched, with all below.
        find: Returns the files that are wanted, those of before too.
        replaced: Where the caller puts the states of the files that it replaced itself, which do not come again; it is
            emptied here.
        settle: Seconds that a file must stay the same.

    Yields:
        Files that are new and whole; what becomes of them in the meantime is the caller's doing.

    Raises:
        InputError: If a folder cannot be watched.
    """
    woken = _Woken()
    observer = Observer()
    try:
        for folder in folders:
            observer.schedule(woken, str(folder), recursive=True)
        observer.start()
    except OSError as error:
        raise InputError(f"the folders cannot be watched: {error.strerror or error}") from error
    done: dict[Path, State | None] = {}
    since: dict[Path, tuple[State, float]] = {}
    try:
        while True:
            woken.event.clear()
            states = {file: state for file in find() if (state := look(file)) and done.get(file) != state}
            now = time.monotonic()
            since = {
                file: since[file] if file in since and since[file][0] == state else (state, now)
                for file, state in states.items()
            }
            whole = {file for file, (_, first) in since.items() if now - first >= settle}
            if whole:
                yield whole
                # Whatever else became of a file meanwhile is to be looked at again.
                done |= {file: replaced.pop(file, states[file]) for file in whole}
            elif not since:
                woken.event.wait(_LOOK_ANYWAY)
            time.sleep(settle / 4)  # as something may be written all the time
    finally:
        observer.stop()
        observer.join()


class _Woken(FileSystemEventHandler):
    def __init__(self):
        self.event = threading.Event()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in ("opened", "closed_no_write"):  # looking for pictures opens files
            self.event.set()


def look(file: Path) -> State | None:
    """Tells a file's state by its number, size in bytes and date; None where there is none."""
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
