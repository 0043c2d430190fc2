"""Replacing an original by its restoration, after the original has moved to a backup."""

import contextlib
import filecmp
import os
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

from data_prep.errors import InputError, Option
from data_prep.files import open_whole


def replace_original(source: Path, read: os.stat_result, backup: Path, restored: BinaryIO) -> None:
    """Backs an original up, so that the file with its restoration may be renamed over it.

    Until then the original has both names, and whatever ends the process loses nothing: the next run finds the backup
    to be the picture itself, and goes on.

    Args:
        source: The original.
        read: Of the original before it was read.
        backup: Where it goes; nothing that is there is replaced.
        restored: From `open_whole`, everything is written; it gets the original's permissions, dates and attributes.

    Raises:
        InputError: If the original has changed since, or the backup holds another file or cannot be written.
        OSError: If the restored file cannot be written.
    """
    restored.flush()
    os.fsync(restored.fileno())  # a full disk is found out before anything is moved
    _copy_attributes(source, restored.name)
    _refuse_changed(source, read)
    try:
        made = _back_up(source, backup)
    except OSError as error:
        raise InputError(f"its backup {backup} cannot be made ({error.strerror or error})") from error
    try:
        _refuse_changed(source, read)  # as copying may take long
    except InputError:
        if made:
            backup.unlink()
        raise


def _copy_attributes(source, file):
    shutil.copystat(source, file)
    with contextlib.suppress(OSError, AttributeError):  # only root may give files away, and Windows has none of it
        os.chown(file, (owner := os.stat(source)).st_uid, owner.st_gid)


def _refuse_changed(source, read):
    if _identity(os.stat(source)) != _identity(read):
        raise InputError("it changed while it was restored, restore it again")


def _identity(stat):
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _back_up(source, backup) -> bool:
    """Backs an original up, unless that is done already; returns whether it was not."""
    backup.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(backup):
        if os.path.islink(backup) or not filecmp.cmp(source, backup, shallow=False):
            said = f"its backup {backup} exists and is another file, move it away or choose another "
            raise InputError(said, Option("backup"))
        return False
    try:
        os.link(source, backup)  # the very file, with all that belongs to it; fails where something is
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without links
        with source.open("rb") as original, open_whole(backup, replace=False) as copy:
            shutil.copyfileobj(original, copy)
            copy.flush()
            _copy_attributes(source, copy.name)
    if sys.platform != "win32":  # or a power cut could take the backup's name back, but not the restored file's
        folder = os.open(backup.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return True
