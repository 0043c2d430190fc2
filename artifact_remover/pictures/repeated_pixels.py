"""Pictures whose pixels were repeated before they were saved as a JPEG, as by nearest-neighbor enlarging.

Pixel art, codes, and screenshots of dense displays are such pictures. Where the clean picture is known to be flat in
each cell, the mean of the cell is closer to it than its pixels are, whatever compression did to them: it is the
orthogonal projection onto all pictures of such cells.
"""

import dataclasses
import itertools

import numpy as np

from artifact_remover.pictures.compression import (
    Compression,
    busiest_corners,
    power_beyond_quantization,
    to_luma,
)
from artifact_remover.pictures.writers import band_height

_BLOCK = 8
_SIDES = range(2, 9)
_TILE, _TILES = 72, 24
_STEEP = 32.0
"""Levels from which a difference of neighbors counts no more, so that many count, not the few of high edges."""
_INSIDE = 0.5
"""Mean difference of neighbors within cells, as a share of that across their borders, to fall below.

With 0.6 three of 2,200 JPEGs of other pictures would lose, up to 5.6 dB, as enlarged noise; with 0.5 none does.
"""
_ACTIVE, _LEAST_ACTIVE = 0.2, 2
"""Mean difference of neighbors, in levels, from which a tile has detail, and how many tiles must, both ways."""
_AREA, _MOST_BEYOND, _LEAST_POWER = 64, 0.3, 0.25
"""Pixels in height and width of areas in each of which quantization must explain how pixels differ from their cell's
mean: of the power of that, or of this many squared levels where it is less, a smaller share lies beyond.

Of 979 JPEGs of quality 50 to 94 that cells were found in without it, the averages of 129 were worse than the JPEG, as
of pixel art enlarged by interpolation, or of which a half alone was repeated. Their largest share is 0.54 or more; of
97 in 100 of those that gain it is 0.34 or less, at quality 90 and better 0.13 at most.
"""
_FLAT, _STEP = 0.15, 0.5
"""Mean difference of neighbors within blocks, as a share of that between blocks, below which blocks are flat, and what
the highest step between them must exceed then, in luma steps of the lowest frequency.

A slope loses all its frequencies in quantization where it rises by less than 0.22 of that step from block to block.
"""
_COARSEST = 40
"""Quality of a JPEG below which cells are not looked for: anything flat is explained by its quantization."""


@dataclasses.dataclass(frozen=True)
class Cells:
    """Squares of pixels that were equal before compression.

    Attributes:
        side: Of a square, in pixels, 2..8.
        offset: Row and column, each 0..side - 1, of the first pixel of a square.
    """

    side: int
    offset: tuple[int, int]


def find_cells(pixels: np.ndarray, compressions: tuple[Compression, ...]) -> Cells | None:
    """Finds out whether each pixel of a picture was repeated before it was compressed.

    Neighbors differ across the borders of the cells then, and within them only by what compression did. Borders of
    JPEG blocks do not count, where neighbors differ in any picture, unless all blocks are flat and their steps high.

    Args:
        pixels: uint8 [H, W, C] in 0..255 or uint16 [H, W, C] in 0..65535, C 3 (RGB) or 1 (gray).
        compressions: From `find_compressions`.

    Returns:
        The cells; None if there are none, or nothing was compressed, or too coarsely to tell.
    """
    if not compressions or compressions[0].quality < _COARSEST:
        return None
    corners = busiest_corners(pixels, _TILE, _TILES)
    if not corners:
        return None
    tiles = [to_luma(pixels[row : row + _TILE, column : column + _TILE]) for row, column in corners]
    grid = compressions[-1].offset
    down = _Differences([tile.T for tile in tiles], [row for row, _ in corners], grid[0])
    across = _Differences(tiles, [column for _, column in corners], grid[1])
    coarsest = min(compressions, key=lambda each: each.quality)
    if down.steps_at_blocks(coarsest) and across.steps_at_blocks(coarsest):
        likely = [Cells(_BLOCK, grid)]
    elif min(down.active_tiles(), across.active_tiles()) >= _LEAST_ACTIVE:
        likely = _likely_cells(down, across)
    else:
        return None
    return next((cells for cells in likely if _explains(pixels, cells, coarsest)), None)


def average_cells(
    pixels: np.ndarray, cells: Cells, before: np.ndarray | None = None, strength: float = 1.0
) -> np.ndarray:
    """Gives all pixels of a cell their mean.

    Args:
        pixels: As of `find_cells`.
        cells: From `find_cells`. Those that the picture's edges cut are smaller.
        before: The picture before it was restored, like `pixels`; these where None.
        strength: 0 to 1. What it leaves of the difference between the picture before and its means is kept.

    Returns:
        A new array like `pixels`.
    """
    before = pixels if before is None else before
    result = np.empty_like(pixels)
    white, left = np.iinfo(pixels.dtype).max, np.float32(1 - strength)
    step = _whole_cells(pixels, cells)
    tops = [0, *range(cells.offset[0] + step, len(pixels), step), len(pixels)]
    for top, bottom in itertools.pairwise(tops):
        band = pixels[top:bottom].astype(np.float32)
        kept = left * before[top:bottom] if left else np.float32(0)
        result[top:bottom] = np.clip(np.rint(_means(band - kept, cells, top) + kept), 0, white)
    return result


class _Differences:
    """Mean differences of neighbors in a row across each border between columns, in tiles of a picture."""

    def __init__(self, tiles, starts, grid):
        profiles = [np.minimum(np.abs(np.diff(tile, axis=1)), _STEEP).mean(axis=0) for tile in tiles]
        self._profiles = np.stack(profiles)
        self._borders = np.array(starts)[:, np.newaxis] + np.arange(1, self._profiles.shape[1] + 1)
        self._counted = (self._borders - grid) % _BLOCK != 0

    def best_offset(self, side) -> tuple[int, float]:
        """Finds the offset of cells whose borders differ most, and the share of that by which others do."""
        place = (self._borders % side)[self._counted]
        sums = np.bincount(place, self._profiles[self._counted], minlength=side)
        numbers = np.bincount(place, minlength=side)
        shares = (sums.sum() - sums) / np.maximum(numbers.sum() - numbers, 1) / (sums / np.maximum(numbers, 1) + 1e-3)
        shares[numbers == 0] = np.inf
        return int(shares.argmin()), float(shares.min())

    def steps_at_blocks(self, compression) -> bool:
        """Tells whether blocks are flat, with steps between them that are too high to be left over of a slope."""
        at_blocks, within = self._profiles[~self._counted], self._profiles[self._counted].mean()
        least = _STEP * compression.steps[1]
        return bool(at_blocks.max() > least and within < _FLAT * at_blocks.mean())

    def active_tiles(self) -> int:
        """Counts the tiles with detail."""
        differences = (self._profiles * self._counted).sum(axis=1) / self._counted.sum(axis=1)
        return int((differences > _ACTIVE).sum())


def _likely_cells(down, across) -> list[Cells]:
    """Lists cells within which neighbors differ little, the least first."""
    shares = {}
    for side in _SIDES:
        (top, vertical), (left, horizontal) = down.best_offset(side), across.best_offset(side)
        shares[Cells(side, (top, left))] = max(vertical, horizontal)
    return sorted((cells for cells in shares if shares[cells] < _INSIDE), key=lambda cells: shares[cells])


def _explains(pixels, cells, compression) -> bool:
    """Tells whether quantization explains how pixels differ from their cells' mean, everywhere in the picture."""
    step = _whole_cells(pixels, cells)
    for top in range(0, len(pixels), step):
        luma = to_luma(pixels[top : top + step])[..., np.newaxis]
        errors = (luma - _means(luma, cells, top))[..., 0]
        errors = np.pad(errors, [(0, -length % _AREA) for length in errors.shape])
        areas = errors.reshape(len(errors) // _AREA, _AREA, -1, _AREA).transpose(0, 2, 1, 3).reshape(-1, _AREA, _AREA)
        beyond, power = power_beyond_quantization(areas, compression)
        if (beyond >= _MOST_BEYOND * np.maximum(power, _LEAST_POWER * _AREA**2)).any():
            return False
    return True


def _whole_cells(pixels, cells) -> int:
    """Computes the height of a band of the picture that is a multiple of the cells' and of an area's."""
    height = cells.side * _AREA
    return max(band_height(pixels.shape[1]) // height, 1) * height


def _means(values, cells, top) -> np.ndarray:
    """Puts each cell's mean in the place of its values, float32 [H, W, C], whose first row is the picture's `top`."""
    for axis, offset in ((0, cells.offset[0] - top), (1, cells.offset[1])):
        length = values.shape[axis]
        first = offset % cells.side
        starts = np.arange(first, length, cells.side)
        if first:
            starts = np.concatenate([[0], starts])
        numbers = np.diff(starts, append=length)
        shape = [-1 if each == axis else 1 for each in range(3)]
        means = np.add.reduceat(values, starts, axis=axis) / numbers.reshape(shape).astype(np.float32)
        values = np.repeat(means, numbers, axis=axis)
    return values
