"""The decision whether a picture is restored, and on which block grid; every front door asks here.

Its pixels count, not its name: a JPEG of high quality that was saved before at a low one is restored, and so is a PNG
that was a JPEG; a picture without a trace of compression comes back as it is.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from artifact_remover.pictures.compression import (
    Compression,
    busiest_corners,
    find_compressions,
    is_enlarged,
    to_luma,
)
from artifact_remover.pictures.jpeg_header import step_scale
from artifact_remover.pictures.picture import Picture, Summary, decode_picture
from artifact_remover.pictures.readers import TooLargeError
from data_prep.errors import Message, Option

NEARLY_UNCOMPRESSED = 95
"""Pictures compressed at or above this quality are left alone by default, unless chroma was subsampled.

At 4:4:4 the published models make three of 32 graphics worse there, by up to 0.09 dB; in the mean they gain 0.3.
"""

NEARLY_UNCOMPRESSED_SUBSAMPLED = 97
"""The same for JPEGs of subsampled chroma: at quality 96 photographs still gain more than 1 dB."""

MUCH_TO_MEND = 50.0
"""PSNR in dB of luma between a sample and the restored sample, below which a picture without a trace is restored.

Of 128 clean pictures the least comes back at 52 dB, unless they were enlarged; JPEGs of quality 40 reduced to 0.7, at
36 to 50.
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

MUCH_TO_MEND_COMPRESSED = 44.0
"""The same for nearly uncompressed JPEGs, whose own rounding is mended too: at quality 97 to 45 dB or more."""

_MUCH_COARSER = 10
"""Factor between quantization steps from which an earlier compression decides where the blocks lie.

Measured with 40 pictures cut and saved again: at quality 20 and then 95 its grid brings 0.1 dB more, at 75 and then 95
0.1 dB less.
"""

_SAMPLE_SIDE, _SAMPLES = 192, 4
_LEAST_SAMPLE_SIDE = 128  # clean pictures of 64 pixels come back at 42 dB, of 128 at 55


@dataclasses.dataclass(frozen=True)
class Decision:
    """The choice between restoring a picture and leaving it alone.

    Attributes:
        restore: Whether it is restored. A picture that is left alone keeps its pixels. Its file is handed back byte
            for byte where it has the wanted format and no quality is given.
        why: The reason why it is not restored; empty where it is.
        found: What the pixels tell of its compression, such as "Q20, saved again at Q95".
        offset: Row and column, each 0..7, of the first pixel at the corner of a block.
    """

    restore: bool
    why: str = ""
    found: str = ""
    offset: tuple[int, int] = (0, 0)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes to the user."""
        return () if self.restore else (Message("left alone, as ", self.why),)


def decide_by_mark(picture: Picture | Summary, force: bool = False) -> Decision | None:
    """Decides by what the picture's file alone says of earlier restoring.

    Args:
        picture: From `decode_picture` or `inspect_picture`.
        force: As in `decide`.

    Returns:
        The decision to leave it alone; None if the pixels have to be looked at.
    """
    if force or not picture.restored_by:
        return None
    said = Message(f"already restored by {picture.restored_by}, ", Option("force"), " restores it again")
    return Decision(restore=False, why=said)


def decide(
    picture: Picture, force: bool = False, restore: Callable[[np.ndarray], np.ndarray] | None = None
) -> Decision:
    """Decides whether a picture is restored.

    Args:
        picture: From `decode_picture`.
        force: Whether it is to be restored in any case.
        restore: The model, from uint8 [H, W, C] in 0..255 or uint16 [H, W, C] in 0..65535, C 3 (RGB) or 1 (gray), to
            the same. It restores a sample of a picture that would be left alone, as a JPEG that was scaled has no grid
            any more. Without it such pictures are left alone.

    Returns:
        The decision, and the reason for it.
    """
    by_mark = decide_by_mark(picture, force)
    if by_mark:
        return by_mark
    compressions = find_compressions(picture.pixels, picture.header)
    found = describe(compressions)
    if force or _is_coarse(compressions, picture):
        return Decision(restore=True, found=found, offset=_choose_grid(compressions))
    if restore and _has_much_to_mend(picture.pixels, restore, bool(compressions)):
        return Decision(restore=True, found=f"{found}, artifacts")
    if compressions:
        why = f"practically uncompressed: quality {compressions[-1].quality}, "
    else:
        why = "no trace of JPEG compression was found, "
    return Decision(restore=False, why=Message(why, Option("force"), " restores it"), found=found)


def decide_from_file(
    file: Path | bytes, summary: Summary, force: bool, max_megapixels: float, allow_truncated: bool
) -> Decision | None:
    """Decides without a model, for those who only ask.

    Args:
        file: The picture's path or content.
        summary: From `inspect_picture`.
        force: As in `decide`.
        max_megapixels: As in `decode_picture`.
        allow_truncated: As in `decode_picture`.

    Returns:
        The decision; None where the picture is too large to be looked at.

    Raises:
        InputError: As `decode_picture`, but for its size.
    """
    by_mark = decide_by_mark(summary, force)
    try:
        return by_mark or decide(
            decode_picture(file, max_megapixels=max_megapixels, allow_truncated=allow_truncated), force
        )
    except TooLargeError:
        return None


def describe(compressions: tuple[Compression, ...]) -> str:
    """Words compressions for the user.

    Args:
        compressions: From `find_compressions`.

    Returns:
        Such as "Q20, grid at 3, 5, saved again at Q95".
    """

    def word(compression):
        at = "" if compression.offset == (0, 0) else f", grid at {compression.offset[0]}, {compression.offset[1]}"
        return f"Q{compression.quality}{at}"

    return ", saved again at ".join(map(word, compressions)) or "no trace of JPEG"


def _is_coarse(compressions, picture) -> bool:
    if len(compressions) != 1:
        return len(compressions) > 1
    header = picture.header
    full = header is None or header.chroma_subsampling in ("4:4:4", "gray")
    return compressions[0].quality < (NEARLY_UNCOMPRESSED if full else NEARLY_UNCOMPRESSED_SUBSAMPLED)


def _choose_grid(compressions) -> tuple[int, int]:
    if not compressions:
        return 0, 0
    first, last = compressions[0], compressions[-1]
    return (first if step_scale(first.quality) >= _MUCH_COARSER * step_scale(last.quality) else last).offset


def _has_much_to_mend(pixels, restore, compressed) -> bool:
    if is_enlarged(pixels):  # the model would sharpen it, whether it was compressed or not
        return False
    side = min(_SAMPLE_SIDE, *pixels.shape[:2])
    if side < _LEAST_SAMPLE_SIDE:
        return False
    corners = busiest_corners(pixels, side, _SAMPLES)
    samples = [np.ascontiguousarray(pixels[row : row + side, column : column + side]) for row, column in corners]
    if _is_drawn(samples):
        return False
    # Of luma, as subsampled chroma is mended at any quality.
    squared = [np.square(to_luma(restore(sample)) - to_luma(sample)).mean() for sample in samples]
    least = MUCH_TO_MEND_COMPRESSED if compressed else MUCH_TO_MEND
    return bool(np.mean(squared) > 255**2 / 10 ** (least / 10))


def _is_drawn(samples) -> bool:
    pixels = np.stack(samples)
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
    flat = _cut_blocks(as_right[:, :-1] & as_below[:, :, :-1], 8)
    blocks = _cut_blocks(pixels, 9)  # and the neighbors of their last pixels, as cells may be as large as blocks
    span = np.ptp(blocks.reshape(*blocks.shape[:4], -1), axis=4).max(axis=3)
    holds_edge = span > EDGE_LEVELS / 255 * np.iinfo(pixels.dtype).max
    return bool(holds_edge.any() and flat[holds_edge].mean() > FLAT_BESIDE_EDGES)


def _cut_blocks(pictures, side) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(pictures, (side, side), axis=(1, 2))[:, ::8, ::8]
