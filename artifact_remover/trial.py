"""The trial: what the model changes in samples of a picture tells whether there is something to mend.

Where no trace of JPEG is left, as in a picture that was scaled, artifacts cannot be told from fine detail by looking.
The model can: what it takes for artifacts it changes much, and alike however the picture is turned.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from artifact_remover.pictures.compression import (
    Compression,
    busiest_corners,
    is_enlarged,
    is_noisy,
    power_beyond_quantization,
    to_luma,
)
from data_prep.config import LUMA

MUCH_TO_MEND = 52.0
"""PSNR in dB of luma between a sample and the restored sample, below which there is something to mend.

Of clean photographs and graphics most come back above 60 dB; JPEGs of quality 40 reduced to 0.7, at 36 to 50.
"""

MUCH_TO_MEND_COMPRESSED = 44.0
"""The same for nearly uncompressed JPEGs, whose own rounding is mended too: at quality 97 to 45 dB or more."""

COLORS_TO_MEND = 55.0
"""The same of chroma in all channels, for pictures where it was subsampled.

With only their colors restored, 366 cuts of lossy WebPs and AVIFs of graphics and of photographs gain 2.8 to 4.5 and
0.4 to 1.1 dB in the mean, and two lose up to 0.1 dB. Restored whole, five lose up to 1.6 dB.
"""

COLORS_TO_MEND_COMPRESSED = 45.0
"""The same for nearly uncompressed JPEGs, of which most photographs are to stay as they are.

Of 130 cuts of validation pictures, as they are, reduced, enlarged and as a camera's sensor sees them, saved at quality
97, 4:2:0, 62 are restored by it. They gain 0.3 to 8 dB, 3.4 in the mean.
"""

AGREEMENT = 0.6
"""Correlation of what the model changes in a sample and in the same sample turned by 180 degrees, to be exceeded.

Of clean validation pictures, as they are, scaled and sharpened, changes of the faithful model agree by 0.24 at most, or
by 0.54 where they were enlarged to 2, and of noisy graphics by up to 0.77; of scaled JPEGs mostly by 0.6 to 0.95.

The same is asked of the colors of enlarged JPEGs, 4:2:0, which the model would sharpen: of 24 validation graphics, and
of 70 that the models were trained on, 324 are such cases. In 289 luma and chroma agree by more. With only their colors
restored they gain 3.1 dB in the mean; two, pixel art that was enlarged by Lanczos interpolation, lose 0.5 and 0.8 dB.
Restored whole they would gain 3.7, and three would lose, by up to 4.4.
"""

EVERYWHERE, AGREEMENT_EVERYWHERE = 50.0, 0.5
"""PSNR in dB of luma that three quarters of the 8x8 blocks stay below where changes are everywhere; then less counts.

Artifacts of a coarse JPEG are everywhere, while an enlarged clean picture would be sharpened at its edges alone. What
the perceptual model draws depends on how the picture is turned: of JPEGs of quality 30 its changes agree by 0.54 to
0.77, of clean pictures by up to 0.22. With the models before, and 0.75 in place of 0.6, this restored 562 that gain of
106 training pictures in 3,174 states, seven that lose (at most 2.3 dB) and 10 clean ones; by the size of changes alone
it was 551, 12 (2.6 dB) and 25.
"""

BEYOND_QUANTIZATION = 0.05
"""Share of the change of an enlarged picture's luma beyond what its quantization left open, to be exceeded.

Of 476 cuts of validation pictures that were enlarged before they were saved as JPEGs of quality 75 to 94, 16 of 21 that
would lose are left alone by it, up to 14 dB, and 36 of 419 that would gain, all 4:2:0, by 3.5 dB in the mean. The limit
was chosen with models that were not trained on enlarged pictures: of 690 cuts 75 would have lost then.
"""

SOMEWHAT_BEYOND = 0.02
"""The same for those of which half of what is changed is taken, where chroma was not subsampled.

Of 67 drawn graphics that were enlarged to 2 or 3 and saved at quality 75 to 92, 4:4:4, whose changes lie beyond by 0.02
to 0.05 and are not even, 17 were worse, by up to 5.7 dB. With half of the changes 6 are, by up to 1.7 dB, and the mean
gain is 0.9 dB where it was 0.4. 19 graphics to train and to validate with, of which none was worse, gain 1.2 dB where
it was 1.7. Of 120 photographs none lies there.
"""

FINE = 70
"""Quality of a JPEG from which that counts: coarser ones lack the finest frequencies as enlarged pictures do."""

EVEN = 8.0
"""Power in dB that the least changed quarter of the 8x8 blocks may lie below the whole's, where changes are even.

Then that does not count: the artifacts of an earlier JPEG, which the quantization of the last one does not explain, are
everywhere, while sharpening is done at edges alone. Of 894 cuts of validation pictures, saved at quality 75 to 94, 660
that were enlarged before and 234 that were JPEGs scaled to 1.4 or 2, 206 were left alone without it. It restores 68 of
these, all scaled JPEGs, which gain 0.9 dB in the mean, 0.2 at least. Of the enlarged ones 29 would lose.
"""

DRAWN_SHARE, DRAWN_COLORS = 0.4, 512
"""A sample counts as drawn, so that no model is asked, where a larger share of pixels equals their right neighbor, and
there are no more colors.

Of a model before, clean text came back at 40 dB, dithered pictures at 23. Of these 0.46 or more are equal, of scaled
JPEGs of text 0.17; scaled JPEGs of photographs have flat places too, but more than 1000 colors.
"""

FLAT_BESIDE_EDGES, EDGE_LEVELS = 0.36, 16
"""So does one where a larger share of pixels equals the right and the lower neighbor, in 8x8 blocks of a wider range.

Pixel art that was enlarged is flat beside its edges: 0.38 or more at 2, but for one of 20. JPEGs have ringing there: of
1000 of graphics, scaled to 0.5, 0.7 and 1.4, it costs four, of two pictures of pixel art.
"""

DOUBLED_SHARE = 0.95
"""So does one where a larger share of the even or of the odd columns equals the next, as where each pixel is doubled.

Two of seven photographs came back at 44 and 46 dB. Of 150 JPEGs of graphics, scaled, one has more, and little to mend.
"""

TWO_VALUES, FINE_PATTERN = 0.03, 0.33
"""A picture counts as dithered to two values where samples spread around two levels of luma by less than the first,
of their distance, and where a larger share of neighbors than the second lies on both sides.

Such are old scans and faxes, and their dots are what the models know least. 70 JPEGs of quality 75 and 90 were made
from 14 validation photographs, dithered by error diffusion or by Bayer's matrix, a few enlarged to 2 before they were
saved. The perceptual model worsens 27 of them, by 19 dB in sum. Of these 26 are left alone, and nine that would gain 3
dB in sum. The faithful model worsens three, by up to 0.4 dB. They are left alone, and five that would gain. Of 168 such
pictures 154 are known as dithered, and none of 742 JPEGs of photographs and graphics, text and codes among them.
"""

_SAMPLE_SIDE, _SAMPLES = 192, 4
_LEAST_SAMPLE_SIDE = 128  # clean pictures of 64 pixels come back at 42 dB, of 128 at 55
_BLOCK = 8


class Trial:
    """A model that is tried on the busiest samples of a picture, once it is asked."""

    def __init__(
        self, pixels: np.ndarray, restore: Callable[[np.ndarray], np.ndarray], offset: tuple[int, int] = (0, 0)
    ):
        """Takes what is tried.

        Args:
            pixels: uint8 [H, W, C] in 0..255 or uint16 [H, W, C] in 0..65535, C 3 (RGB) or 1 (gray).
            restore: The model, from such pixels to the same.
            offset: Row and column, each 0..7, of the first pixel at the corner of a block. Samples begin at such
                corners, as the picture is restored on that grid.
        """
        self._pixels, self._restore = pixels[offset[0] :, offset[1] :], restore

    def finds_artifacts(self, compressed: bool) -> bool:
        """Tells whether the model finds artifacts, where there is no trace of a coarse compression.

        Args:
            compressed: Whether there are traces of a fine one.

        Returns:
            Whether it changes much, and the same in turned samples. No, where these are drawn or smaller than 128
            pixels, or where the picture is noisy: noise beside edges is taken for artifacts, turned or not.
        """
        if not self._samples or _is_drawn(np.stack(self._samples)) or is_noisy(self._pixels):
            return False
        changes = _to_luma(self._changes)  # as subsampled chroma is mended at any quality
        if _psnr(changes) >= (MUCH_TO_MEND_COMPRESSED if compressed else MUCH_TO_MEND):
            return False
        agreement = _correlate(changes, _to_luma(self._changes_when_turned))
        if _is_everywhere(changes):
            return agreement > AGREEMENT_EVERYWHERE
        return agreement > AGREEMENT and not self._enlarged

    def finds_colors_to_mend(self, compressed: bool) -> bool:
        """Tells whether the model changes the chroma, where this was subsampled.

        Args:
            compressed: Whether it is that of a fine JPEG.

        Returns:
            Whether it changes much of it. No, where the picture was enlarged, or samples are smaller than 128 pixels.
        """
        if not self._samples or self._enlarged:
            return False
        limit = COLORS_TO_MEND_COMPRESSED if compressed else COLORS_TO_MEND
        return _psnr(_to_chroma(self._changes)) < limit

    def would_sharpen(self, compression: Compression, limit: float = BEYOND_QUANTIZATION) -> bool:
        """Tells whether the model would sharpen an enlarged picture more than it mends it.

        Args:
            compression: The picture's only one.
            limit: Share of its changes beyond what quantization left open, to be exceeded.

        Returns:
            Whether it changes samples by more than their quantization left open. No, where that is coarse, the picture
            was not enlarged, samples are smaller than 128 pixels, or they are changed evenly.
        """
        if compression.quality < FINE or not self._samples or not self._enlarged:
            return False
        return not _is_even(_to_luma(self._changes)) and self._goes_beyond_quantization(compression, limit)

    def would_smear(self, compression: Compression) -> bool:
        """Tells whether the model would smear the dots of a picture that was dithered to two values.

        Args:
            compression: The picture's only one.

        Returns:
            Whether it changes samples by more than their quantization left open. No, where that is coarse, the picture
            was not dithered, or samples are smaller than 128 pixels.
        """
        if compression.quality < FINE or not self._samples or not self._is_dithered:
            return False
        return self._goes_beyond_quantization(compression)

    def changes_alike(self) -> bool:
        """Tells whether the model changes luma and chroma alike in samples and in the same samples turned."""
        pair = self._changes, self._changes_when_turned
        return all(_correlate(*map(part, pair)) > AGREEMENT for part in (_to_luma, _to_chroma))

    @functools.cached_property
    def _samples(self) -> list[np.ndarray]:
        side = min(_SAMPLE_SIDE, *self._pixels.shape[:2])
        if side < _LEAST_SAMPLE_SIDE:
            return []
        corners = busiest_corners(self._pixels, side, _SAMPLES)
        return [np.ascontiguousarray(self._pixels[row : row + side, column : column + side]) for row, column in corners]

    @functools.cached_property
    def _is_dithered(self) -> bool:
        luma = np.stack([to_luma(sample) for sample in self._samples])
        bright = luma > np.percentile(luma, (2, 98)).mean()
        if bright.all() or not bright.any():
            return False
        low, high = luma[~bright].mean(), luma[bright].mean()
        spread = np.sqrt(np.square(luma - np.where(bright, high, low)).mean())
        sides = [(bright[:, 1:] != bright[:, :-1]).mean(), (bright[:, :, 1:] != bright[:, :, :-1]).mean()]
        return bool(spread < TWO_VALUES * (high - low) and np.mean(sides) > FINE_PATTERN)

    @functools.cached_property
    def _enlarged(self) -> bool:
        return is_enlarged(self._pixels)

    @functools.cached_property
    def _changes(self) -> np.ndarray:
        return self._find_changes(self._samples)

    @functools.cached_property
    def _changes_when_turned(self) -> np.ndarray:
        turned = [np.ascontiguousarray(sample[::-1, ::-1]) for sample in self._samples]
        return self._find_changes(turned)[:, ::-1, ::-1]

    def _goes_beyond_quantization(self, compression, limit=BEYOND_QUANTIZATION) -> bool:
        of_samples = dataclasses.replace(compression, offset=(0, 0))
        beyond, whole = power_beyond_quantization(_to_luma(self._changes), of_samples)
        return bool(beyond.sum() > limit * whole.sum())

    def _find_changes(self, samples) -> np.ndarray:
        """Finds the changes in levels of 255, float32 [N, side, side, C]."""
        level = np.float32(255 / np.iinfo(self._pixels.dtype).max)
        return np.stack([(self._restore(sample).astype(np.float32) - sample) * level for sample in samples])


def _to_luma(changes) -> np.ndarray:
    return changes @ np.array(LUMA, np.float32) if changes.shape[-1] == 3 else changes[..., 0]


def _to_chroma(changes) -> np.ndarray:
    return changes - _to_luma(changes)[..., np.newaxis]


def _psnr(changes) -> float:
    return _to_psnr(np.square(changes).mean())


def _to_psnr(power) -> float:
    return float(10 * np.log10(255**2 / max(power, 1e-9)))


def _correlate(one, other) -> float:
    return float((one * other).sum() / np.sqrt(np.square(one).sum() * np.square(other).sum() + 1e-9))


def _is_everywhere(changes) -> bool:
    return _psnr_of_the_least_quarter(changes) < EVERYWHERE


def _is_even(changes) -> bool:
    return _psnr_of_the_least_quarter(changes) - _psnr(changes) < EVEN


def _psnr_of_the_least_quarter(changes) -> float:
    powers = np.square(_cut_blocks(changes, _BLOCK)).mean(axis=(3, 4))
    return _to_psnr(np.percentile(powers, 25))


def _is_drawn(pixels) -> bool:
    as_right = (pixels[:, :, 1:] == pixels[:, :, :-1]).all(axis=3)
    return _is_doubled(as_right) or _has_few_colors(pixels, as_right) or _is_flat_beside_edges(pixels, as_right)


def _is_doubled(as_right) -> bool:
    return max(as_right[:, :, 0::2].mean(), as_right[:, :, 1::2].mean()) > DOUBLED_SHARE


def _has_few_colors(pixels, as_right) -> bool:
    if as_right.mean() <= DRAWN_SHARE:
        return False
    return len(np.unique(pixels.reshape(-1, pixels.shape[3]), axis=0)) <= DRAWN_COLORS


def _is_flat_beside_edges(pixels, as_right) -> bool:
    as_below = (pixels[:, 1:] == pixels[:, :-1]).all(axis=3)
    flat = _cut_blocks(as_right[:, :-1] & as_below[:, :, :-1], _BLOCK)
    # Cells may be as large as blocks, so with the neighbors of the last pixels.
    blocks = _cut_blocks(pixels, _BLOCK + 1)
    span = np.ptp(blocks.reshape(*blocks.shape[:4], -1), axis=4).max(axis=3)
    holds_edge = span > EDGE_LEVELS / 255 * np.iinfo(pixels.dtype).max
    return bool(holds_edge.any() and flat[holds_edge].mean() > FLAT_BESIDE_EDGES)


def _cut_blocks(pictures, side) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(pictures, (side, side), axis=(1, 2))[:, ::_BLOCK, ::_BLOCK]
