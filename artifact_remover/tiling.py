"""Overlapping tiles, so that the memory that restoring takes does not grow with the picture.

Tiles start at multiples of `GRID`, so that each sees the blocks of JPEG, and of 4:2:0, as in training.

A network that is nothing but convolutions sees a bounded surrounding of each pixel. Where tiles overlap by that much,
their result equals that of the whole picture. The far parts of the surrounding count for little, so a smaller overlap
is measured for each network. With it the result differs by a fraction of an 8-bit level, nearly everywhere.
"""

import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from artifact_remover.options import SMALLEST_TILE
from data_prep.config import GRID

_LEVEL = 1 / 255
_SHARE = 0.001  # of the pixels, that may differ by more
_NEAR = 64  # pixels before a seam, where the two sides differ most
_QUALITIES = (10, 40, 80)


@dataclass(frozen=True)
class Tile:
    """A part of a picture, with the surroundings that its restoring looks at.

    Attributes:
        target: Rows and columns that the tile fills; the targets of a plan cover the picture once.
        source: Rows and columns that it is restored from, the target and its surroundings.
    """

    target: tuple[slice, slice]
    source: tuple[slice, slice]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the source."""
        rows, columns = self.source
        return rows.stop - rows.start, columns.stop - columns.start

    @property
    def inner(self) -> tuple[slice, slice]:
        """The target's rows and columns in the source."""
        rows, columns = (
            slice(target.start - source.start, target.stop - source.start)
            for target, source in zip(self.target, self.source, strict=True)
        )
        return rows, columns


def choose_side(memory: float, per_pixel: float) -> int:
    """Chooses the largest tile, at least the smallest that is allowed.

    Args:
        memory: Bytes that a tile may take.
        per_pixel: Bytes that each of its pixels takes.

    Returns:
        Pixels in height and width, a multiple of `GRID`.
    """
    return max(SMALLEST_TILE, int((memory / per_pixel) ** 0.5) // GRID * GRID)


def plan_tiles(
    shape: tuple[int, int], side: int, overlap: int, region: tuple[slice, slice] | None = None
) -> list[Tile]:
    """Plans the tiles of a picture, as few as may be, all of one shape.

    Args:
        shape: Height and width of the picture.
        side: Most pixels in height or width of a tile with its surroundings. It is exceeded where the overlap would
            leave less than `GRID` pixels for the tile itself.
        overlap: Pixels of surroundings on each side, a multiple of `GRID`.
        region: Part of the picture to tile, all of it when not given; starts at multiples of `GRID`.

    Returns:
        Tiles row by row.
    """
    region = region or (slice(0, shape[0]), slice(0, shape[1]))
    rows, columns = (list(_cut(length, part, side, overlap)) for length, part in zip(shape, region, strict=True))
    return [Tile((row[0], column[0]), (row[1], column[1])) for row in rows for column in columns]


def _cut(length, part, side, overlap):
    """Targets and sources along one axis; sources are of one length, so that a network sees one shape."""
    first, end = max(0, part.start - overlap), min(length, part.stop + overlap)
    if end - first <= side:
        yield part, slice(first, end)
        return
    beyond = (end - first) % GRID  # of a whole number of grid cells; each source gets it, as each starts on the grid
    cores = max(GRID, end - first - beyond - 2 * overlap)
    most = max(GRID, (side - beyond - 2 * overlap) // GRID * GRID)
    core = _round_up(-(-cores // -(-cores // most)))
    source = min(core + 2 * overlap + beyond, end - first)
    starts = [min(start, end - source) for start in range(first, first + cores, core)]
    cuts = [part.start, *(start + overlap for start in starts[1:]), part.stop]
    for start, target in zip(starts, itertools.pairwise(cuts), strict=True):
        yield slice(*target), slice(start, start + source)


def measure_overlap(restore: Callable[[np.ndarray], np.ndarray], largest: int) -> int:
    """Measures how far a network has to see beyond a tile's edge for the seam to be invisible.

    JPEGs of a photograph are restored once whole, and once cut off one overlap beyond their middle. The overlap is
    enough if of the pixels just before the middle one in a thousand at most differs by more than an 8-bit level.

    Args:
        restore: The network, float32 [1, H, W, 3] in [0, 1] to the same.
        largest: Receptive field in pixels: a pixel further away changes nothing, so that the search ends there.

    Returns:
        Pixels, a multiple of `GRID`.
    """
    middle = _round_up(largest)
    jpegs = [_make_jpeg(2 * middle, quality) for quality in _QUALITIES]
    near = slice(max(0, middle - _NEAR), middle)
    wholes = [restore(jpeg)[:, :, near] for jpeg in jpegs]
    for overlap in range(GRID, middle, GRID):
        if all(
            np.mean(np.abs(restore(jpeg[:, :, : middle + overlap])[:, :, near] - whole).max(axis=3) > _LEVEL) <= _SHARE
            for jpeg, whole in zip(jpegs, wholes, strict=True)
        ):
            return overlap
    return middle


def _make_jpeg(width, quality):
    """A photograph, mirrored to this width, as a JPEG; float32 [1, 400, width, 3] in [0, 1]."""
    from skimage.data import coffee  # here, as restoring does without

    photograph, file = coffee(), io.BytesIO()
    photograph = np.pad(photograph, ((0, 0), (0, max(0, width - photograph.shape[1])), (0, 0)), "reflect")[:, :width]
    Image.fromarray(photograph).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.float32)[np.newaxis] / 255


def _round_up(length):
    return -(-length // GRID) * GRID
