"""The decision whether a picture is restored, and on which block grid; every front door asks here.

Its pixels count, not its name: a JPEG of high quality that was saved before at a low one is restored, and so is a PNG
that was a JPEG; a picture without a trace of compression comes back as it is.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from artifact_remover.pictures.compression import Compression, find_compressions, is_noisy
from artifact_remover.pictures.jpeg_header import step_scale
from artifact_remover.pictures.picture import Picture, Summary, decode_picture
from artifact_remover.pictures.readers import TooLargeError
from artifact_remover.pictures.repeated_pixels import Cells, find_cells
from artifact_remover.trial import SOMEWHAT_BEYOND, Trial
from data_prep.errors import Message, Option

NEARLY_UNCOMPRESSED = 95
"""Pictures compressed at or above this quality are left alone by default, unless chroma was subsampled.

At 4:4:4 the published models make two of 32 graphics worse there, by up to 0.13 dB; in the mean they gain 0.4.
"""

NEARLY_UNCOMPRESSED_SUBSAMPLED = 97
"""The same for JPEGs of subsampled chroma: at quality 96 photographs still gain more than 1 dB."""

SMALLEST = 24
"""Pixels in height and width of the smallest pictures that are restored by default.

Smaller ones are nearly all edge, beyond which the model sees nothing: of 592 JPEGs of 8 to 16 pixels, of quality 30 to
90, it makes 132 worse, by up to 6.6 dB; the mean of all gains 0.7 dB.
"""

CELLS_ALONE = 85
"""Quality from which luma is not given to the model where each pixel was repeated.

The mean of the equal ones is closer to the clean picture then than the mean of what the model makes of them. Of 137
cuts of validation pictures and drawn ones, repeated 2 to 8 times and saved at quality 90, 4:4:4, the first gains 1.6 dB
or more, 8.9 in the mean, the second 8.1, and one of them loses 3.8.
"""

CELLS_BOTH_WAYS = 2
"""Pixels in height and width from which cells are decided by; smaller ones get their mean beside what else is done."""

SHARES = ((96, 0.5), (92, 0.75))
"""Quality from which a share of the model's changes is taken: of luma alone where chroma was subsampled, else of all.

The finer a JPEG, the more of what is changed is fine texture. Of 60 graphics and 38 photographs to train and to
validate with, at quality 94 to 96 with subsampled chroma, 21 of 877 were worse than the JPEG, by up to 0.67 dB; with
these shares 10 are, the graphics by 0.05 at most, at the same mean gain of 2.2. At 4:4:4 and 92 to 94 one of 279 is, by
0.03 dB, where four were, by up to 0.18; photographs gain 0.83 dB where it was 0.87.
"""

SHARES_OF_OTHER_TABLES = ((96, 0.5), (88, 0.75))
"""The same for JPEGs whose tables are not libjpeg's.

Of 47 such graphics and 25 photographs, by Photoshop's tables that are like quality 89, one graphic is worse, by 0.16
dB, where two were, by up to 0.88. The mean gain is the same within 0.08 dB; at 87 it would be up to 0.1 less.
"""

CAREFUL_SHARES = ((94, 0.25), (90, 0.5), (80, 0.75))
"""The same for JPEGs of programs that do not round, which are progressive and whose tables are not libjpeg's, for small
and for noisy ones.

The models were trained on JPEGs of libjpeg, which rounds coefficients to the nearest step. mozjpeg and jpegli do not,
and what they left of fine texture is taken for artifacts. Of 36 training photographs, saved by these in ten ways at
quality 75 to 95, 8 of 360 were worse than the JPEG with 0.75 alone, where 21 were, at the same mean gain; of 24
validation graphics 4 of 240, where 6 were, which gained 0.07 dB less.

Thumbnails are sharper than what the models were trained on. Of 134 graphics and 38 photographs to train and to validate
with, reduced to 24 to 64 pixels, 4:4:4, 9 of 688 are worse at quality 90, where 56 were, by up to 1.0 dB where it was
4.8, at the same mean gain of 0.7; at 94 9 are, where 80 were, by up to 1.1 dB where it was 7.1, and gain 0.24 dB where
it was 0.34.

Noise, and the dots of halftones and dithers, are taken for artifacts. Of 46 graphics and 19 photographs to train and to
validate with, given such and saved at 4:4:4, the 83 that are noisy at quality 90 gain 0.19 dB, where it was 0.18, and
two are worse, where nine were, by up to 1.0 dB where it was 3.5; of 95 at quality 94 it is 0.07 where it was 0.10, and
three where eleven were, by up to 0.2 dB where it was 4.1.
"""

SHARE_OF_SHARPENED = 0.5
"""Share of the changes that is taken where the model sharpens an enlarged picture by more than `SOMEWHAT_BEYOND`."""

SMALL = 128
"""Pixels in height or width up to which a picture is small in this."""

_MUCH_COARSER = 10
"""Factor between quantization steps from which an earlier compression decides where the blocks lie.

Measured with 40 pictures cut and saved again: at quality 20 and then 95 its grid brings 0.1 dB more, at 75 and then 95
0.1 dB less.
"""


@dataclasses.dataclass(frozen=True)
class Decision:
    """The choice between restoring a picture and leaving it alone.

    Attributes:
        restore: Whether it is restored. A picture that is left alone keeps its pixels. Its file is handed back byte
            for byte where it has the wanted format and no quality is given.
        why: The reason why it is not restored; empty where it is.
        found: What the pixels tell of its compression, such as "Q20, saved again at Q95".
        offset: Row and column, each 0..7, of the first pixel at the corner of a block.
        luma: What is taken of the model's changes of luma, 0 to 1.
        chroma: The same of chroma.
        cells: Rectangles of pixels that were equal before compression, and are given their mean; None where there
            are none.
        cells_only: Whether nothing else is done.
    """

    restore: bool
    why: str = ""
    found: str = ""
    offset: tuple[int, int] = (0, 0)
    luma: float = 1.0
    chroma: float = 1.0
    cells: Cells | None = None
    cells_only: bool = False

    @property
    def colors_only(self) -> bool:
        """Tells whether its luma is kept, as only the subsampling of its chroma is to be mended."""
        return self.restore and self.luma == 0

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes to the user."""
        if self.colors_only:
            means = "and equal pixels got their mean, " if self.cells else ""
            return (Message(f"only its colors were restored, {means}", Option("force"), " restores all"),)
        if self.cells_only:
            return (Message("each pixel was repeated, only their mean was taken, ", Option("force"), " restores all"),)
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
    if min(picture.pixels.shape[:2]) < SMALLEST and not force:
        return leave_alone(f"it is less than {SMALLEST} pixels high or wide", found)
    cells = find_cells(picture.pixels, compressions)
    if not cells:
        return _decide_by_traces(picture, compressions, force, restore, found)
    found = f"{found}, each pixel {cells.height:.3g} x {cells.width:.3g} times"
    if min(cells.height, cells.width) >= CELLS_BOTH_WAYS:
        return _restore_cells(cells, compressions, picture, force, found)
    # Steps of equal pixels look like artifacts, which are not to be looked for in a picture that has hardly any.
    restore = restore if _is_coarse(compressions, picture) else None
    decision = _decide_by_traces(picture, compressions, force, restore, found)
    return dataclasses.replace(decision, restore=True, why="", cells=cells, cells_only=not decision.restore)


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


def leave_alone(why: str, found: str) -> Decision:
    """Decides to leave a picture alone.

    Args:
        why: The reason, which ends a sentence.
        found: As in `Decision`.
    """
    return Decision(restore=False, why=Message(f"{why}, ", Option("force"), " restores it"), found=found)


def _decide_by_traces(picture, compressions, force, restore, found) -> Decision:
    """Decides by the traces of compression, and where there are few by what the model makes of samples."""
    grid = _choose_grid(compressions)
    trial = Trial(picture.pixels, restore, grid) if restore and not force else None
    if force or _is_coarse(compressions, picture):
        if trial and len(compressions) == 1:
            if trial.would_smear(compressions[0]):
                return leave_alone("it was dithered and would be smeared", found)
            if trial.would_sharpen(compressions[0]):
                if _is_subsampled(picture.header) and trial.changes_alike():
                    return _restore_colors(found)
                return leave_alone("it was enlarged and would only be sharpened", found)
        luma, chroma = (1.0, 1.0) if force else _choose_shares(compressions, picture, trial)
        return Decision(restore=True, found=found, offset=grid, luma=luma, chroma=chroma)
    if trial and trial.finds_artifacts(bool(compressions)):
        return Decision(restore=True, found=f"{found}, artifacts", offset=grid)
    if _is_reduced_in_color(picture, trial):
        return _restore_colors(found)
    if compressions:
        return leave_alone(f"practically uncompressed: quality {compressions[-1].quality}", found)
    return leave_alone("no trace of JPEG compression was found", found)


def _restore_colors(found) -> Decision:
    return Decision(restore=True, found=f"{found}, chroma subsampled", luma=0.0)


def _restore_cells(cells, compressions, picture, force, found) -> Decision:
    are_blocks = cells == Cells(8, 8, *compressions[-1].offset)
    fine = (compressions[0].quality >= CELLS_ALONE or are_blocks) and not force
    subsampled = _is_subsampled(picture.header)
    if are_blocks and fine and picture.header and not subsampled:
        return leave_alone("its equal pixels are whole blocks, which the model would smooth", found)
    if not picture.header:  # chroma may have been subsampled
        subsampled = picture.pixels.shape[2] == 3 and compressions[0].quality < NEARLY_UNCOMPRESSED
    colors = subsampled and not are_blocks
    return Decision(
        restore=True,
        found=found,
        offset=_choose_grid(compressions),
        luma=0.0 if fine and colors else 1.0,
        cells=cells,
        cells_only=fine and not colors,
    )


def _is_coarse(compressions, picture) -> bool:
    if len(compressions) != 1:
        return len(compressions) > 1
    limit = NEARLY_UNCOMPRESSED_SUBSAMPLED if _is_subsampled(picture.header) else NEARLY_UNCOMPRESSED
    return _quality_of_luma(compressions[0], picture.header) < limit


def _choose_shares(compressions, picture, trial) -> tuple[float, float]:
    """Chooses what is taken of the changes of luma and of chroma."""
    if len(compressions) > 1:
        return 1.0, 1.0
    header, luma = picture.header, 1.0
    quality = _quality_of_luma(compressions[0], header)
    if quality >= CAREFUL_SHARES[-1][0]:  # below it noise need not be looked for
        luma = next((share for least, share in _shares_of(picture) if quality >= least), 1.0)
    if trial and not _is_subsampled(header) and trial.would_sharpen(compressions[0], SOMEWHAT_BEYOND):
        luma = min(luma, SHARE_OF_SHARPENED)
    return luma, luma if header and not _is_subsampled(header) else 1.0


def _shares_of(picture) -> tuple[tuple[int, float], ...]:
    """Chooses the qualities and shares for the kind of picture that it is."""
    header = picture.header
    has_other_tables = header is not None and not header.standard_tables
    may_not_be_rounded = has_other_tables and header.process == "progressive"
    if may_not_be_rounded or min(picture.pixels.shape[:2]) <= SMALL or is_noisy(picture.pixels):
        return CAREFUL_SHARES
    return SHARES_OF_OTHER_TABLES if has_other_tables else SHARES


def _quality_of_luma(compression, header) -> float:
    """Tells the quality of a picture's only compression, or where there is no luma one of the same error.

    Red, green and blue all have luma's steps, as inks have, and luma is a sum of them, so that errors cancel out;
    chroma has far larger steps otherwise. Of 52 graphics 21 were worse than the RGB JPEG at quality 94, 10 at 92, of 75
    photographs 10 and one; of 34 graphics in inks 13 were at 94. With half of the distance to 100 such are left alone
    from 90.
    """
    return (compression.quality + 100) / 2 if header and header.without_luma else compression.quality


def _is_reduced_in_color(picture, trial) -> bool:
    if picture.header:
        return bool(trial) and _is_subsampled(picture.header) and trial.finds_colors_to_mend(compressed=True)
    return picture.chroma_subsampled and (not trial or trial.finds_colors_to_mend(compressed=False))


def _is_subsampled(header) -> bool:
    return header is not None and header.chroma_subsampling not in ("4:4:4", "gray")


def _choose_grid(compressions) -> tuple[int, int]:
    if not compressions:
        return 0, 0
    first, last = compressions[0], compressions[-1]
    return (first if step_scale(first.quality) >= _MUCH_COARSER * step_scale(last.quality) else last).offset
