"""Writing files whole or not at all, and by one process at a time."""

import errno
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class HeldError(Exception):
    """A lock that another process holds; the message names that process, such as `process 1234 on host`."""


def write_whole(file: Path, content: bytes) -> None:
    """Writes a file under another name and renames it, so that under its own it is never seen half-written.

    Args:
        file: Where; what was there is replaced.
        content: All of it.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    with open_whole(file) as partial:
        partial.write(content)


@contextmanager
def open_whole(file: Path, replace: bool = True, dates: os.stat_result | None = None) -> Iterator[BinaryIO]:
    """Opens a file for writing under another name and renames it at the end, as `write_whole` does.

    Args:
        file: Where; nothing happens to what is there when the block raises.
        replace: Whether what is there when the block ends is replaced.
        dates: Of another file, whose dates of access and modification this one gets.

    Yields:
        The file to write, which can seek.

    Raises:
        FileExistsError: If there is something that is not to be replaced.
        OSError: If it cannot be written; nothing is left behind.
    """
    # Named by a number, as the file's own name may already be as long as the file system allows.
    partial = file.with_name(f".{os.getpid()}-{os.urandom(4).hex()}.partial")
    try:
        with partial.open("xb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())  # or a power cut could leave an empty file under the final name
        if dates:
            os.utime(partial, ns=(dates.st_atime_ns, dates.st_mtime_ns))
        if not replace and os.path.lexists(file):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(file))
        os.replace(partial, file)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(partial):
            error.filename = str(file)  # which is what the user knows
        raise


@contextmanager
def hold(file: Path, tell: Callable[[str], object] | None = None) -> Iterator[None]:
    """Keeps other processes out of what a file stands for; the lock ends with its process, however that ends.

    Where the file system, or Windows, has no such locks, nothing is kept out.

    Args:
        file: Made where it is missing, with its folder, and left there; holds the name of the process. Whoever has the
            lock may remove it.
        tell: Called with the name of the process that holds it, before that is waited for.

    Raises:
        HeldError: If another process holds it, and `tell` is not given.
        OSError: If the file cannot be written.
    """
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+", encoding="utf-8") as opened:
            _lock(opened, tell)
            if _was_removed(file, opened):
                continue
            opened.truncate(0)
            opened.write(f"process {os.getpid()} on {platform.node()}")
            opened.flush()
            yield
            return


def _lock(opened: TextIO, tell: Callable[[str], object] | None) -> None:
    try:
        if fcntl:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _read_holder(opened) or "another process"
        if not tell:
            raise HeldError(holder) from None
        tell(holder)
        fcntl.flock(opened, fcntl.LOCK_EX)
    except OSError:  # such as a network's file system without locks
        pass


def _was_removed(file: Path, opened: TextIO) -> bool:
    """Tells whether who had the lock has removed its file, so that another process may lock a new one."""
    if not fcntl:  # Windows removes no file that is open
        return False
    try:
        return not os.path.samestat(file.stat(), os.fstat(opened.fileno()))
    except FileNotFoundError:
        return True


def _read_holder(opened: TextIO) -> str:
    """Reads the name of the process that holds a lock, which it writes a moment after it took it."""
    for _ in range(20):
        opened.seek(0)
        if holder := opened.read():
            return holder
        time.sleep(0.05)
    return ""
