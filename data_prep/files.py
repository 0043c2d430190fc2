"""Writing files whole or not at all."""

import os
from pathlib import Path


def write_whole(file: Path, content: bytes) -> None:
    """Writes a file under another name and renames it, so that under its own it is never seen half-written.

    Args:
        file: Where; what was there is replaced.
        content: All of it.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
