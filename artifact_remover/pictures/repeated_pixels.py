"""Pictures whose pixels were repeated before they were saved as a JPEG, as by nearest-neighbor enlarging.

Pixel art, codes, screenshots of dense displays, and video whose lines were doubled are such pictures. Where the clean
picture is known to be flat in each cell, the mean of the cell is closer to it than its pixels are, whatever compression
did to them: it is the orthogonal projection onto all pictures of such cells.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from artifact_remover.pictures.compression import Compression, power_beyond_quantization, to_luma
from artifact_remover.pictures.writers import band_height

_BLOCK = 8
_SMALLEST_SIDE, _LARGEST_SIDE = 1.2, 8.4
_WHOLE_SIDES = range(2, 9)
_ELSEWHERE = 1.5
"""Pixels by which the last cell of a broken side must lie elsewhere than that of the nearest whole one."""
_BAND, _BANDS = 72, 8
_STEEP = 32.0
"""Levels from which a difference of neighbors counts no more, so that many count, not the few of high edges."""
_PEAKS = 8
_INSIDE, _LEAST_INSIDE = 0.5, 12
"""Mean difference of neighbors within cells, as a share of that across their borders, to fall below, and how many rows
or columns must begin within cells, as few may differ little by chance.

With 0.6 three of 2,200 JPEGs of other pictures would lose, up to 5.6 dB, as enlarged noise; with 0.5 none does.
"""
_ACTIVE, _LEAST_ACTIVE = 0.2, 2
"""Mean difference of neighbors, in levels, from which an area has detail, and how many areas must, both ways."""
_AREA, _MOST_BEYOND_OF_SQUARES, _MOST_BEYOND, _BEYOND_ANYWAY = 64, 0.3, 0.1, 0.075
"""Pixels in height and width of areas in each of which quantization must explain how pixels differ from their cell's
mean: a smaller share of the power of that lies beyond, or less than this many squared levels.

Of about 10,000 JPEGs of quality 50 to 94, of pictures to train and to validate with and of drawn ones, as they are,
processed, and enlarged by interpolation, 195 have squares of whole sides, and none of their averages is worse than the
JPEG. Of 210 that have other cells 36 would be worse with the same limit, by up to 14 dB; with the lower one five are,
by up to 1.0 dB, and it costs one in twenty of 2,300 whose pixels were repeated.
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
    """Rectangles of pixels that were equal before compression.

    Attributes:
        height: Of a cell in pixels, 1 to 8.4, in the mean: where pixels were enlarged to 2.5, some cells are 2 and some
            3 pixels high.
        width: Likewise.
        top: Row of one border between cells, 0 to `height`; it is rounded as others are.
        left: Column of one, likewise.
    """

    height: float
    width: float
    top: float = 0
    left: float = 0

    def rows(self, number: int) -> np.ndarray:
        """Computes the first row of each cell, int [N], in a picture of a number of rows; its edges cut cells."""
        return _starts(number, self.height, self.top)

    def columns(self, number: int) -> np.ndarray:
        """Computes the first column of each cell, likewise."""
        return _starts(number, self.width, self.left)


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
    if not compressions or compressions[0].quality < _COARSEST or min(pixels.shape[:2]) < _BAND:
        return None
    grid = compressions[-1].offset
    down, across = _Differences(pixels.swapaxes(0, 1), grid[0]), _Differences(pixels, grid[1])
    coarsest = min(compressions, key=lambda each: each.quality)
    if down.steps_at_blocks(coarsest) and across.steps_at_blocks(coarsest):
        likely: Iterable[Cells] = [Cells(_BLOCK, _BLOCK, *grid)]
    elif min(down.active_areas(), across.active_areas()) >= _LEAST_ACTIVE:
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
    height, width = pixels.shape[:2]
    rows, columns = cells.rows(height), cells.columns(width)
    tops = [*rows[:: max(1, int(band_height(width) / cells.height))], height]
    for top, bottom in itertools.pairwise(tops):
        band = pixels[top:bottom].astype(np.float32)
        kept = left * before[top:bottom] if left else np.float32(0)
        inside = rows[(rows >= top) & (rows < bottom)] - top
        result[top:bottom] = np.clip(np.rint(_means(band - kept, inside, columns) + kept), 0, white)
    return result


class _Differences:
    """Mean differences of neighbors in a row across each border between columns, in bands of rows."""

    def __init__(self, pixels, grid):
        height, self._width = pixels.shape[:2]
        tops = np.unique(np.linspace(0, height - _BAND, min(_BANDS, height // _BAND)).astype(int))
        bands = (to_luma(pixels[top : top + _BAND]) for top in tops)
        self._profiles = np.stack([np.minimum(np.abs(np.diff(band, axis=1)), _STEEP).mean(axis=0) for band in bands])
        self._profile = self._profiles.mean(axis=0)
        self._counted = (np.arange(1, self._width) - grid) % _BLOCK != 0

    def find_side(self) -> tuple[float, float]:
        """Finds the side and the offset of cells whose borders differ most from what is within them; 1 if none do."""
        near = [
            (side, offset + shift)
            for side, offset in self._strongest_periods()
            if _SMALLEST_SIDE < side < _LARGEST_SIDE
            for shift in (-0.5, 0, 0.5)
        ]
        if not near:
            return 1, 0
        best = self._best(near)
        for fineness in (1, 5, 25):
            best = self._best(self._near(*best[1:], fineness))
        whole = round(best[1])
        if abs(best[1] - whole) * self._width / best[1] < _ELSEWHERE:
            best = self.place(whole)
        share, side, offset = best
        return (side, offset) if share < _INSIDE else (1, 0)

    def place(self, side: int) -> tuple[float, float, float]:
        """Finds where cells of a whole side lie: the share of differences within them, the side, and the offset."""
        return self._best((side, offset) for offset in range(side))

    def _best(self, places) -> tuple[float, float, float]:
        return min((self._share_inside(*each), *each) for each in places)

    def _near(self, side, offset, fineness):
        """Yields sides and offsets around these, in steps of 1/8 pixel of the first and last border, or finer ones."""
        middle = self._width / side / 2  # in cells
        for turn in range(-4, 5):
            more = turn / (8 * fineness * middle)
            for shift in range(-5, 6):
                yield side + more, (offset - more * middle + shift / (8 * fineness)) % (side + more)

    def _strongest_periods(self):
        """Yields sides, of 1 and more, and offsets of cells that the differences' strongest periods fit."""
        number = 8 * self._width
        counted = self._counted.astype(np.float32)
        window = np.ones(4 * _BLOCK + 1, np.float32)
        local = np.convolve(self._profile * counted, window, "same") / np.convolve(counted, window, "same")
        spectrum = np.fft.rfft((self._profile / (local + 1e-3) - 1) * counted, number)
        power = np.abs(spectrum)
        peaks = 1 + np.flatnonzero((power[1:-1] >= power[:-2]) & (power[1:-1] > power[2:]))
        for peak in (*peaks[np.argsort(power[peaks])[-_PEAKS:]], len(power) - 1):
            # Of periods of less than 2 pixels the samples show the difference to 1.
            for frequency, sign in ((peak, -1), (number - peak, 1)):
                side = float(number / frequency)
                yield side, 1 + sign * float(np.angle(spectrum[peak])) / (2 * np.pi) * side

    def _share_inside(self, side, offset) -> float:
        border = np.zeros(self._width, bool)
        border[_borders(self._width, side, offset)] = True
        inside, across = self._counted & ~border[1:], self._counted & border[1:]
        if inside.sum() < _LEAST_INSIDE or not across.any():
            return np.inf
        return float(self._profile[inside].mean() / (self._profile[across].mean() + 1e-3))

    def steps_at_blocks(self, compression) -> bool:
        """Tells whether blocks are flat, with steps between them that are too high to be left over of a slope."""
        at_blocks, within = self._profiles[:, ~self._counted], self._profiles[:, self._counted].mean()
        least = _STEP * compression.steps[1]
        return bool(at_blocks.max() > least and within < _FLAT * at_blocks.mean())

    def active_areas(self) -> int:
        """Counts the areas with detail."""
        starts = np.arange(0, self._width - _AREA, _AREA)
        sums = np.add.reduceat(self._profiles * self._counted, starts, axis=1)
        return int((sums / np.add.reduceat(self._counted.astype(int), starts) > _ACTIVE).sum())


def _likely_cells(down, across) -> Iterator[Cells]:
    """Yields likely cells: squares first, and broken sides only of both ways, as one alone fits many a drawing."""
    squares = []
    for side in _WHOLE_SIDES:
        (vertical, _, top), (horizontal, _, left) = down.place(side), across.place(side)
        squares.append((max(vertical, horizontal), Cells(side, side, top, left)))
    yield from (cells for share, cells in sorted(squares, key=lambda each: each[0]) if share < _INSIDE)
    (height, top), (width, left) = down.find_side(), across.find_side()
    if min(height, width) > 1:
        yield Cells(height, width, top, left)
    if height in _WHOLE_SIDES:
        yield Cells(height, 1, top, 0)
    if width in _WHOLE_SIDES:
        yield Cells(1, width, 0, left)


def _starts(number, side, offset) -> np.ndarray:
    """Computes where cells begin along an axis, int [N]; the first one at 0."""
    return np.unique(np.append(_borders(number, side, offset), 0))


def _borders(number, side, offset) -> np.ndarray:
    borders = np.floor(np.arange(int(number / side) + 3) * side + (offset % side - side + 0.5)).astype(int)
    return borders[(borders > 0) & (borders < number)]


def _explains(pixels, cells, compression) -> bool:
    """Tells whether quantization explains how pixels differ from their cells' mean, everywhere in the picture."""
    height, width = pixels.shape[:2]
    rows, columns = cells.rows(height), cells.columns(width)
    ends = np.append(rows[1:], height)
    most = _MOST_BEYOND_OF_SQUARES if cells.height == cells.width in _WHOLE_SIDES else _MOST_BEYOND
    step = max(1, band_height(width) // _AREA) * _AREA
    for top in range(0, height, step):
        bottom = min(top + step, height)
        touched = (ends > top) & (rows < bottom)
        first, last = rows[touched][0], ends[touched][-1]
        luma = to_luma(pixels[first:last])[..., np.newaxis]
        errors = (luma - _means(luma, rows[touched] - first, columns))[top - first : bottom - first, :, 0]
        errors = np.pad(errors, [(0, -length % _AREA) for length in errors.shape])
        areas = errors.reshape(len(errors) // _AREA, _AREA, -1, _AREA).transpose(0, 2, 1, 3).reshape(-1, _AREA, _AREA)
        beyond, power = power_beyond_quantization(areas, compression)
        if (beyond >= np.maximum(most * power, _BEYOND_ANYWAY * _AREA**2)).any():
            return False
    return True


def _means(values, rows, columns) -> np.ndarray:
    """Puts each cell's mean in the place of its values, float32 [H, W, C], of cells that begin in these."""
    for axis, starts in ((0, rows), (1, columns)):
        numbers = np.diff(starts, append=values.shape[axis])
        shape = [-1 if each == axis else 1 for each in range(3)]
        means = np.add.reduceat(values, starts, axis=axis) / numbers.reshape(shape).astype(np.float32)
        values = np.repeat(means, numbers, axis=axis)
    return values
