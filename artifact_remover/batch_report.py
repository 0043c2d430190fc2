"""A row of facts for each picture of a batch: the table of `--info` and the file of `--report`."""

import csv
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path

from artifact_remover.batch_plan import Outcome
from artifact_remover.pictures.picture import Summary
from data_prep.command_line import word_for_terminal
from data_prep.errors import InputError, Option
from data_prep.files import write_whole

_COLUMNS = "path width height format quality subsampling found decision why output seconds error".split()  # noqa: SIM905


def make_row(file: Path, summary: Summary | None, decision: str = "", **others: object) -> dict[str, object]:
    """Makes a row.

    Args:
        file: The picture.
        summary: What its file says of itself, if it could be read; width and height are in pixels, as stored.
        decision: What is or was done with it.
        **others: Other columns: `found`, `why`, `output`, `seconds`, `error`.

    Returns:
        Every column, None where there is nothing to say.
    """
    row: dict[str, object] = dict.fromkeys(_COLUMNS)
    row |= {"path": str(file), "decision": decision}
    if summary:
        row |= {"width": summary.width, "height": summary.height, "format": summary.format}
    if summary and summary.header:
        row |= {"quality": summary.header.quality, "subsampling": summary.header.chroma_subsampling}
    said = {name: word_for_terminal(value) if isinstance(value, str) else value for name, value in others.items()}
    return row | {name: None if value == "" else value for name, value in said.items()}


def row_of(outcome: Outcome) -> dict[str, object]:
    """Makes the row of a picture that a batch is done with."""
    job, written = outcome.job, outcome.state in ("restored", "left alone")
    return make_row(
        job.source,
        job.summary,
        outcome.state,
        found=outcome.found,
        why=outcome.why,
        output=str(job.target) if written and not (job.backup and outcome.state == "left alone") else None,
        seconds=None if outcome.seconds is None else round(outcome.seconds, 3),
        error=outcome.error,
    )


def check_report(file: Path) -> None:
    """Refuses, before time is spent, a report that could not be written.

    Raises:
        InputError: If its folder is missing, or may not be written to.
    """
    if os.path.isdir(file) or not os.access(file.parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {file}: give a file in a folder that may be written to as ", Option("report"))


def write_report(file: Path, rows: list[dict[str, object]]) -> None:
    """Writes a report whole.

    Args:
        file: Where; a suffix `.json` makes it a list of objects, any other CSV with a line of names (RFC 4180).
        rows: From `make_row`.

    Raises:
        InputError: If it cannot be written.
    """
    if file.suffix.lower() == ".json":
        content = json.dumps(rows, indent=1) + "\n"
    else:
        lines = io.StringIO(newline="")
        writer = csv.DictWriter(lines, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        content = lines.getvalue()
    try:
        write_whole(file, content.encode(errors="surrogateescape"))  # as names of files may be no Unicode
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from error


def lay_out(rows: Iterable[dict[str, object]]) -> Iterable[str]:
    """Yields the lines of a table for the terminal, a line for each row as soon as it is there."""
    yield f"{'format':<7}{'size':>12}{'MP':>8}  {'quality':<9}{'chroma':<8}{'left alone':<12}{'found':<38}path"
    for row in rows:
        width, height = row["width"], row["height"]
        assert isinstance(width, int) and isinstance(height, int)
        quality, chroma = (row[name] or "" for name in ("quality", "subsampling"))
        alone = "yes" if row["decision"] == "left alone" else "no"
        size, megapixels, found = f"{width}x{height}", width * height / 1e6, row["found"] or ""
        size = f"{size:>12}{megapixels:>8.2f}"
        yield f"{row['format']:<7}{size}  {quality:<9}{chroma:<8}{alone:<12}{found:<37} {row['path']}"
