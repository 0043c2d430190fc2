"""Traces of JPEG compression in the pixels of a picture, whatever file they come from.

A JPEG's DCT coefficients are whole multiples of its quantization steps (ITU-T T.81, A.3.4), and decoding moves them by
a fraction of a level only. So they stay near those multiples, in blocks of the right place, through lossless files,
through cropping, and through being saved again at a better quality (Fan and de Queiroz, "Identification of Bitmap
Compression History", IEEE Transactions on Image Processing 2003). In blocks of any other place, and in pictures that
were never compressed, they lie anywhere.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from artifact_remover.pictures.jpeg_header import IJG_TABLES, JpegHeader, step_scale
from data_prep.config import LUMA

_BLOCK = 8
_SIDE = 72  # of a tile: 64 pixels of blocks at each of the 8x8 places
_TILES, _CANDIDATES = 24, 96
_WIDTH, _BINS = 0.5, 322  # of the histograms of coefficients; the last bin is for all that are larger
_LARGEST_STEP = 128
_LEAST = 10.0
"""Standard deviations above chance from which a trace counts. Of 450 clean pictures the strongest reaches 9.5."""
_LEAST_ANY_TABLE = 45.0
"""The same for tables of any kind: what the frequencies' best steps have above 3.5, in sum. Clean pictures reach 39."""
_LEAST_SHARED, _LEAST_OWN = 24.0, 80.0
"""One of two that a trace must reach too, unless a header tells of it: patterns that were enlarged repeat few blocks.

Their few values fit the steps of some frequencies by chance. The first is the strength, times the number of frequencies
that share it, times the root of their mean cosine; the second, what frequencies' best steps have above 2.5, in sum. 54
traces in pixel art, codes, letters and dots, enlarged by 2 to 8, reach 23.3 and 75.8. It costs the grids of 5 of 20
JPEGs of Photoshop's lowest tables, and of none of 60 of qualities 5, 10 and 75.
"""
_LEAST_BESIDE = 0.3  # the same for a second trace, of the strongest: a weaker one may be its echo
_CLEAR, _AHEAD = 30.0, 1.8
"""A trace weaker than the first must be stronger, by the second, than the strongest like it at any other offset. So
must one of tables of any kind, however strong.

Codes, pixel art and letters of few pixels that were enlarged have traces of chance at many offsets, nearly alike. Of 16
clean ones, and 92 that were saved as a JPEG once and seemed to have been one before, the strongest is ahead by 1.76.
JPEGs are ahead by 3.3 or more; of 767 earlier compressions it costs nine, all found at a wrong offset. Where there are
two, each on a grid of its own, the stronger is ahead by 2.05 or more, of 60. Traces of tables of any kind in noisy
pixel art and notes were ahead by 1.08 to 1.26, of 149 JPEGs of Photoshop's tables by 2.8 or more.
"""
_COARSER = 2.5  # an earlier compression counts if its steps are larger by at least this factor
_WORTH_TELLING = 12  # and have at least this scale, that of quality 94
_EMPTY = -19.0  # decibels
_NOISE, _ALIKE = 1.4, 0.9
"""Noise in levels that the quietest tenth of the blocks exceed in a noisy picture, and how alike it is in them: the
quietest twentieth exceed this share of it.

In 27 of 220 clean pictures with noise, pages and codes mostly, the model found artifacts in it, and they came back at
24 to 50 dB; now in four. JPEGs have lost the noise of quiet blocks: of 140 of validation pictures, scaled to 0.5, 0.7
or 1.4, in which it finds artifacts, one is taken for noisy. Of 32 that were noisy themselves 11 are, which would gain
1.5 dB in the mean; of 93 of drawn patterns, pages and codes 17, which would lose 6.7 dB in the mean.
"""


@dataclasses.dataclass(frozen=True)
class Compression:
    """A JPEG compression that has left its traces in a picture.

    Attributes:
        quality: IJG quality factor whose luma steps fit best, 1..100.
        offset: Row and column, each 0..7, of the first pixel at the corner of one of its blocks.
        strength: How far the coefficients' order is above chance, in standard deviations.
        table: Luma's 64 quantization steps, row by row of the 8x8 block, as the file's header states them; None where
            libjpeg's of this quality are taken for them.
    """

    quality: int
    offset: tuple[int, int]
    strength: float
    table: tuple[int, ...] | None = None

    @property
    def steps(self) -> np.ndarray:
        """Luma's quantization steps, int [64]."""
        return np.array(self.table) if self.table else IJG_TABLES[self.quality - 1, 0]


def to_luma(pixels: np.ndarray) -> np.ndarray:
    """Computes luma (ITU-T T.871), or takes the gray.

    Args:
        pixels: uint8 [H, W, C] in 0..255 or uint16 [H, W, C] in 0..65535, C 3 (RGB) or 1 (gray).

    Returns:
        float32 [H, W], -128 to 127 as JPEGs transform it.
    """
    levels = pixels.astype(np.float32) * np.float32(255 / np.iinfo(pixels.dtype).max)
    return (levels @ np.array(LUMA, np.float32) if pixels.shape[2] == 3 else levels[..., 0]) - np.float32(128)


def find_compressions(pixels: np.ndarray, header: JpegHeader | None = None) -> tuple[Compression, ...]:
    """Finds the JPEG compressions that a picture has been through, as far as they can be told.

    Args:
        pixels: uint8 [H, W, C] in 0..255 or uint16 [H, W, C] in 0..65535, C 3 (RGB) or 1 (gray).
        header: Of the JPEG whose pixels these are; None if they come from another file.

    Returns:
        At most two. The last is the one that the header tells of or, without a header, the one of the strongest trace.
        Before it stands an earlier one of at least 2.5 times its steps, on the same block grid or another.
    """
    own = Compression(header.quality, (0, 0), np.inf, header.quantization[0]) if header else None
    tiles = _choose_tiles(pixels)
    if tiles is None:
        return (own,) if own else ()
    histograms = _count_coefficients(tiles)
    fit, counted = _weigh(histograms, _FIT), _weigh(histograms, _COUNTED)
    strengths = _fit_qualities(fit, counted)
    if own is None:
        own = _find_strongest(fit, counted, strengths)
        if own is None or not _is_shared(*(each[own.offset] for each in (histograms, fit, counted))):
            return ()
    least_scale = max(_COARSER * step_scale(own.quality), _WORTH_TELLING)
    echo = _LEAST_BESIDE * strengths[own.offset].max()
    if header and not header.standard_tables:
        # Tables of other programs are as coarse as those of a much lower quality in some frequencies.
        strengths[own.offset] = _fit_qualities(fit, counted, 2 * own.steps[1:] <= _STEPS)[own.offset]
    coarser = strengths * [step_scale(quality) >= least_scale for quality in range(1, 101)]
    earlier = _peak(coarser)
    is_earlier = earlier.strength >= max(_LEAST, echo) and _stands_out(earlier, coarser)
    return (earlier, own) if is_earlier else (own,)


def power_beyond_quantization(changes: np.ndarray, compression: Compression) -> tuple[np.ndarray, np.ndarray]:
    """Computes how much of changes of luma goes beyond what quantization left open.

    A coefficient was rounded by half a step at most (ITU-T T.81, A.3.4), so that no picture that was compressed once
    lay further away.

    Args:
        changes: float32 [N, H, W] in levels of 255, of N parts of a picture that begin at multiples of 8.
        compression: Its only one.

    Returns:
        Sums of squares beyond that and of all, float32 [N] each, over whole blocks.
    """
    [(_, coefficients)] = _transform(changes, [compression.offset])
    steps = compression.steps.reshape(_BLOCK, 1, 1, _BLOCK)
    beyond = np.maximum(np.abs(coefficients) - steps / 2, 0)
    sums = (np.square(each).sum(axis=(0, 1, 3, 4)) for each in (beyond, coefficients))
    return tuple(sums)


def is_enlarged(pixels: np.ndarray) -> bool:
    """Tells whether a picture's finest detail is missing, as in one that was enlarged by interpolation.

    Args:
        pixels: As of `find_compressions`.

    Returns:
        Whether its finest frequencies hold less than 1/80 of the power of coarse ones.
    """
    tiles = _choose_tiles(pixels)
    if tiles is None:
        return False
    frequency = np.maximum(*np.indices((_BLOCK, _BLOCK))).ravel()
    power = np.zeros(_BLOCK**2)
    for offset in ((0, 0), (3, 3)):  # one of them is off any block grid, whose edges are fine detail too
        for _, coefficients in _transform(tiles, [offset]):
            power += np.square(coefficients).mean(axis=(0, 2, 3)).ravel()
    fine, coarse = power[frequency >= 6].mean(), power[(frequency == 2) | (frequency == 3)].mean()
    return bool(10 * np.log10((fine + 1e-3) / (coarse + 1e-3)) < _EMPTY)


def is_noisy(pixels: np.ndarray) -> bool:
    """Tells whether there is noise in the quietest blocks of a picture too, where a JPEG has none.

    Args:
        pixels: As of `find_compressions`.
    """
    noise = []
    for row, column in _spread_corners(pixels, _SIDE):
        luma = to_luma(pixels[row : row + _SIDE, column : column + _SIDE])
        finest = (luma[1:, 1:] - luma[1:, :-1] - luma[:-1, 1:] + luma[:-1, :-1]) / 2  # of white noise as strong as it
        side = len(finest) // _BLOCK
        blocks = finest[: side * _BLOCK, : side * _BLOCK].reshape(side, _BLOCK, side, _BLOCK)
        noise.append(blocks.std(axis=(1, 3)).ravel())
    if not noise:
        return False
    least, little = np.percentile(noise, (5, 10))
    return bool(little > _NOISE and least > _ALIKE * little)


def busiest_corners(pixels: np.ndarray, side: int, most: int) -> list[tuple[int, int]]:
    """Chooses the squares of a picture in which most is to be seen.

    Args:
        pixels: As of `find_compressions`.
        side: Of a square, in pixels.
        most: How many squares at most; of up to 96, spread over the picture.

    Returns:
        Row and column of each one's first pixel, multiples of 8; squares do not overlap. Empty where the picture is
        smaller than one square.
    """
    white = np.iinfo(pixels.dtype).max

    def activity(corner):
        row, column = corner
        green = pixels[row : row + side, column : column + side, pixels.shape[2] // 2].astype(np.float32) * (
            255 / white
        )
        # Clipped, so that detail counts more than few high edges.
        return np.minimum(np.abs(np.diff(green, axis=1)), 16).mean()

    return sorted(_spread_corners(pixels, side), key=activity, reverse=True)[:most]


def _spread_corners(pixels, side) -> list[tuple[int, int]]:
    """Spreads up to 96 squares over a picture that do not overlap."""
    step = -(-side // _BLOCK) * _BLOCK
    height, width = pixels.shape[:2]
    corners = [
        (row, column) for row in range(0, height - side + 1, step) for column in range(0, width - side + 1, step)
    ]
    if len(corners) > _CANDIDATES:
        corners = [corners[each] for each in np.linspace(0, len(corners) - 1, _CANDIDATES).astype(int)]
    return corners


def _choose_tiles(pixels) -> np.ndarray | None:
    """Takes a sample of luma, float32 [N, H, W] in -128..127; a small picture whole, a tiny one not at all."""
    height, width = pixels.shape[:2]
    if min(height, width) < 2 * _BLOCK:
        return None
    corners, side = busiest_corners(pixels, _SIDE, _TILES), _SIDE
    if not corners:  # of a narrow picture its middle
        rows, columns = min(height, 4 * _SIDE) // _BLOCK * _BLOCK, min(width, 4 * _SIDE) // _BLOCK * _BLOCK
        top, left = ((most - part) // 2 // _BLOCK * _BLOCK for most, part in ((height, rows), (width, columns)))
        return to_luma(pixels[top : top + rows, left : left + columns])[np.newaxis]
    return np.stack([to_luma(pixels[row : row + side, column : column + side]) for row, column in corners])


def _transform(tiles, offsets) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Yields the DCT of all blocks that begin at each offset, [rows, 8, tiles, columns, 8], frequencies 2nd and last.

    Offsets of one row share half of the work.
    """
    number, height, width = tiles.shape
    tiles = np.ascontiguousarray(tiles.transpose(1, 0, 2))
    done = None
    for row, column in offsets:
        rows, columns = (height - row) // _BLOCK, (width - column) // _BLOCK
        if row != done:
            half = _DCT @ tiles[row : row + _BLOCK * rows].reshape(rows, _BLOCK, number * width)
            half = half.reshape(rows, _BLOCK, number, width)
            done = row
        blocks = half[..., column : column + _BLOCK * columns]
        coefficients = blocks.reshape(rows, -1, _BLOCK) @ _DCT.T
        yield (row, column), coefficients.reshape(rows, _BLOCK, number, columns, _BLOCK)


def _count_coefficients(tiles) -> np.ndarray:
    """Counts the sizes of coefficients for each offset: float32 [8, 8, 64, bins].

    A count's logarithm stands for it. Otherwise one pattern that is repeated, as in pixel art, would look like order.
    """
    counts = np.empty([_BLOCK, _BLOCK, _BLOCK**2, _BINS], np.float32)
    cells = (
        np.arange(_BLOCK, dtype=np.int32)[:, None, None, None] * _BLOCK + np.arange(_BLOCK, dtype=np.int32)
    ) * _BINS
    offsets = [(row, column) for row in range(_BLOCK) for column in range(_BLOCK)]
    for offset, coefficients in _transform(tiles, offsets):
        sizes = np.minimum(np.abs(coefficients) * np.float32(1 / _WIDTH), _BINS - 1).astype(np.int32)
        counts[offset] = np.bincount((sizes + cells).ravel(), minlength=counts[offset].size).reshape(-1, _BINS)
    counts[..., -1] = 0
    return np.log2(1 + counts)


def _dct_matrix() -> np.ndarray:
    """Computes the matrix of the orthonormal DCT of a block's rows or columns, float32 [8, 8]."""
    positions = np.arange(_BLOCK)
    waves = np.cos(np.pi / (2 * _BLOCK) * np.outer(positions, 2 * positions + 1))
    return (waves * np.where(positions, 2 / _BLOCK, 1 / _BLOCK)[:, np.newaxis] ** 0.5).astype(np.float32)


def _waves() -> tuple[np.ndarray, np.ndarray]:
    """Computes how well a coefficient of each bin fits each step, cosines [bins, steps], and which bins count at all.

    Only coefficients of more than half a step count: whatever is quantized to 0 fits every step.
    """
    sizes, steps = (np.arange(_BINS) + 0.5)[:, np.newaxis] * _WIDTH, np.arange(1, _LARGEST_STEP + 1)
    counted = (sizes > steps / 2) & (steps > 1)  # decoding moves coefficients by too much to tell a step of 1
    return (np.cos(2 * np.pi * sizes / steps) * counted).astype(np.float32), counted.astype(np.float32)


_DCT = _dct_matrix()
_FIT, _COUNTED = _waves()
_STEPS = IJG_TABLES[:, 0, 1:]  # luma's, without that of the mean
_USABLE = (_STEPS > 1) & (_STEPS <= _LARGEST_STEP)
_COLUMNS = np.minimum(_STEPS, _LARGEST_STEP) - 1


def _weigh(histograms, weights) -> np.ndarray:
    """Multiplies [8, 8, 64, bins] by [bins, steps], in pieces so small that OpenBLAS computes each in one thread.

    Several threads wait for each other, for seconds, where other programs use the cores.
    """
    return (histograms.reshape(-1, 4, _BINS) @ weights).reshape(*histograms.shape[:-1], -1)


def _fit_qualities(fit, counted, usable=True) -> np.ndarray:
    """Computes how well each quality's usable luma steps fit, in standard deviations above chance: [8, 8, 100].

    By chance cosines are 0 in the mean, and of variance 1/2. Glyphs and other patterns that are repeated fit some
    steps at all offsets, compression at its own: so what is seen at half of the offsets is taken off.
    """
    frequencies = np.arange(1, _BLOCK**2)
    fit, counted = (each[..., frequencies, _COLUMNS] * (_USABLE & usable) for each in (fit, counted))
    return _above_other_offsets(fit.sum(axis=3) / np.sqrt(np.maximum(counted.sum(axis=3), 16) / 2))


def _is_shared(histograms, fit, counted) -> bool:
    """Tells whether many frequencies share the trace at an offset, from [64, bins] and twice [64, steps].

    A value that repeats is one chance, not many: squares of weights make the variance.
    """
    squares = np.square(histograms) @ _COUNTED
    own = (fit[1:] / np.sqrt(np.maximum(squares[1:], 16) / 2)).max(axis=1)
    frequencies = np.arange(1, _BLOCK**2)
    fit, counted, squares = (each[frequencies, _COLUMNS] * _USABLE for each in (fit, counted, squares))
    total = fit.sum(axis=1)
    strengths = total / np.sqrt(np.maximum(squares.sum(axis=1), 16) / 2)
    best = strengths.argmax()
    number = total[best] ** 2 / max(np.square(fit[best]).sum(), 1)
    cosine = max(total[best], 0) / max(counted[best].sum(), 1)
    return strengths[best] * number * cosine**0.5 >= _LEAST_SHARED or np.maximum(own - 2.5, 0).sum() >= _LEAST_OWN


def _above_other_offsets(strengths):
    return strengths - np.maximum(np.median(strengths, axis=(0, 1)), 0)


def _peak(strengths) -> Compression:
    row, column, best = (int(each) for each in np.unravel_index(strengths.argmax(), strengths.shape))
    return Compression(best + 1, (row, column), float(strengths[row, column, best]))


def _stands_out(trace, strengths) -> bool:
    return trace.strength >= _CLEAR or _is_ahead(trace.offset, strengths.max(axis=2))


def _is_ahead(offset, strengths) -> bool:
    """Tells whether the strength at an offset is above those at all others, of [8, 8]."""
    others = strengths.copy()
    others[offset] = 0
    return strengths[offset] >= _AHEAD * others.max()


def _find_strongest(fit, counted, strengths) -> Compression | None:
    """Finds the compression of the strongest trace, also one whose tables are not libjpeg's.

    Then each frequency has a step of its own, the one that fits best.
    """
    found = _peak(strengths)
    if found.strength >= _LEAST and not _stands_out(found, strengths):
        return None
    scores = (fit / np.sqrt(np.maximum(counted, 16) / 2))[:, :, 1:]
    if found.strength < _LEAST:
        any_table = _above_other_offsets(np.maximum(scores.max(axis=3) - 3.5, 0).sum(axis=2))
        row, column = (int(each) for each in np.unravel_index(any_table.argmax(), any_table.shape))
        if any_table[row, column] < _LEAST_ANY_TABLE or not _is_ahead((row, column), any_table):
            return None
        found = Compression(found.quality, (row, column), _LEAST)
    scores = scores[found.offset]
    clear = scores.max(axis=1) > 5
    if clear.sum() < 4:
        return found
    steps = scores[clear].argmax(axis=1) + 1
    nearest = np.abs(np.log(steps / _STEPS[:, clear])).sum(axis=1).argmin()
    return dataclasses.replace(found, quality=int(nearest) + 1)
