"""The names of results: after their pictures, apart from each other, and no longer than file systems take."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

RESTORED, COMPARE = "_restored", "_compare"
"""Endings of the names of results beside their pictures, before the suffix."""

_LONGEST_NAME = 255  # bytes, the limit of all common file systems

Named = TypeVar("Named")


def name_result(name: str, ending: str, keep_extension: bool = False) -> str:
    """Names a result after its picture.

    Args:
        name: The picture's, without folders.
        ending: What the result's name ends with, in place of the picture's suffix.
        keep_extension: Whether that suffix becomes part of the name, as where `a.jpg` and `a.png` are in one folder.

    Returns:
        The name, shortened where file systems would refuse it.
    """
    file = Path(name)
    base = f"{file.stem}_{file.suffix[1:]}" if keep_extension and file.suffix else file.stem
    if len(os.fsencode(base + ending)) <= _LONGEST_NAME:
        return base + ending
    ending = f"~{hashlib.sha256(os.fsencode(base)).hexdigest()[:8]}{ending}"
    while len(os.fsencode(base + ending)) > _LONGEST_NAME:
        base = base[:-1]
    return base + ending


def name_apart(
    sources: Sequence, name: Callable[..., Named], list_places: Callable[[Named], Iterable[tuple[str, str]]]
) -> list[Named]:
    """Names the results of pictures, those that would share a name with the extensions of their pictures.

    Args:
        sources: The pictures.
        name: From a picture and whether its extension is kept, to what it is named.
        list_places: From what it is named to the folder and the name of every file that no other picture may have;
            names that differ in case alone are one, as on macOS and Windows.
    """
    named = [name(source, False) for source in sources]
    extended: set[int] = set()
    while sharing := _find_sharing([_ignore_case(list_places(each)) for each in named]) - extended:
        for number in sharing:
            named[number] = name(sources[number], True)
        extended |= sharing
    return named


def identify(file: Path) -> str:
    """Gives all paths to a file one name.

    Args:
        file: May be missing. A link is a file of its own, as writing would replace the link.
    """
    return os.path.join(os.path.realpath(file.parent), file.name)


def _ignore_case(places):
    return {(folder, name.casefold()) for folder, name in places}


def _find_sharing(names):
    """Finds the numbers of the pictures that share one of their names with another."""
    counts = Counter(name for each in names for name in each)
    return {number for number, each in enumerate(names) if any(counts[name] > 1 for name in each)}
