"""Finding and reading TensorFlow's checkpoints, in folders of any name and whatever has happened to the files."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf


class DamagedCheckpointError(Exception):
    """A checkpoint that cannot be read."""


def find_checkpoints(folder: Path) -> list[Path]:
    """Finds the checkpoints in a folder by the names of their files.

    TensorFlow's own list of them, the file `checkpoint`, may be lost.

    Returns:
        The newest first: `ckpt-300` for `ckpt-300.index` and `ckpt-300.data-00000-of-00001`.
    """
    indices = [file.with_suffix("") for file in folder.glob("ckpt-*.index")]
    return sorted((each for each in indices if step_of(each) >= 0), key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """Reads the number in a checkpoint's name, -1 where there is none."""
    number = checkpoint.name.removeprefix("ckpt-")
    return int(number) if number.isdecimal() else -1


def read_checkpoint(checkpoint: Path, **state) -> None:
    """Reads a checkpoint, which may hold more than what is read.

    Args:
        checkpoint: As `find_checkpoints` names it.
        **state: By name, the networks, optimizers and variables to read; changed in place.

    Raises:
        DamagedCheckpointError: If it cannot be read; what was to be read may be changed in part.
        ValueError, AssertionError: If it holds no such state, or of another size.
    """
    try:
        with plainly_named(checkpoint.parent) as folder:
            read = tf.train.Checkpoint(**state).read(str(folder / checkpoint.name))
            read.expect_partial().assert_existing_objects_matched()
    except tf.errors.PermissionDeniedError:
        raise
    except (IndexError, tf.errors.OpError) as error:
        raise DamagedCheckpointError(f"{checkpoint} is damaged") from error


@contextlib.contextmanager
def plainly_named(folder: Path) -> Iterator[Path]:
    """Names a folder so that TensorFlow can read from it: it takes `run[1]` for a pattern, and finds nothing."""
    if not set("*?[]\\").intersection(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        link = Path(place) / "link"
        link.symlink_to(folder.resolve(), target_is_directory=True)
        yield link
