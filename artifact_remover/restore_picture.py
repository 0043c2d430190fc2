"""Restoring a decoded picture and writing the result, whoever restores the pixels: this process, or a server."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from artifact_remover.decision import Decision, decide, leave_alone
from artifact_remover.pictures.jpeg_xl import box_types
from artifact_remover.pictures.lost_parts import tell_lost
from artifact_remover.pictures.metadata import Metadata
from artifact_remover.pictures.picture import Picture, check_side, encode_picture, matching_format
from artifact_remover.pictures.repeated_pixels import average_cells
from artifact_remover.pictures.restored_mark import with_mark
from artifact_remover.pictures.writers import LONGEST_JPEG_XMP, band_height, write_with_pillow
from data_prep.config import LUMA, require_between
from data_prep.errors import InputError
from data_prep.photographs import to_8_bits

LOSSY_QUALITIES = {"jpeg": (95, 96, 97, 98, 99, 100), "avif": (90, 95, 98, 100)}
"""The qualities that a restored picture is written at in a lossy format, the first that keeps what was gained."""

LOST_SHARE, MOST_LOST_SHARE = 0.25, 0.5
"""Mean square of what such a format loses, as a share of what restoring changed: from which a better quality is taken,
and from which the file is handed back instead.

The best estimate of the clean picture is closer to it than the JPEG by the mean square of what it changed; what writing
loses comes on top. Of 484 restored cuts of validation pictures, written as JPEGs of quality 95, 79 were further from
the clean one than before, by up to 2.35 dB. By these shares it is one, by 0.15 dB; 39 are handed back, which would gain
0.03 dB in the mean and 0.57 at most. Written as AVIFs of quality 90, 98 were, by up to 3.05 dB; by these shares it is
one, by 0.03 dB, and 66 would lose too much.
"""

_LEAST_SIDE = 64
"""Pixels in height and width up to which a smaller picture is surrounded by its own blocks.

Beyond its edges the model sees nothing. Of 303 JPEGs of 24 to 48 pixels, of quality 90, cut out of validation pictures
or these reduced, 58 were worse without it, and 14 are with it. The mean gain is larger by 0.4 dB.
"""

_BLOCK = 8
_WHOLE_SIDE, _TILE_SIDE, _TILES = 1024, 256, 4  # of longer sides four parts are looked at


@dataclasses.dataclass(frozen=True)
class RestoredPicture(Picture):
    """A picture after restoring.

    Attributes:
        decision: Whether it was restored; its pixels are those of the file where it was not.
        quality: At which it is to be written, from `fit_to_format`; None for the format's default.
    """

    decision: Decision = dataclasses.field(kw_only=True)
    quality: int | None = dataclasses.field(default=None, kw_only=True)


def restore_parts(
    picture: Picture,
    restore_colors: Callable[[np.ndarray], np.ndarray],
    restore_sample: Callable[[np.ndarray], np.ndarray],
    force: bool = False,
    notes: tuple[str, ...] = (),
    strength: float = 1.0,
) -> RestoredPicture:
    """Restores a decoded picture's colors, unless it is left alone.

    Transparency is kept: no JPEG has any, so what was a JPEG was given it afterward. Lossy WebPs and AVIFs gain less
    than 0.05 dB when theirs is restored.

    Args:
        picture: From `decode_picture`.
        restore_colors: From uint8 [H, W, C] in 0..255 or uint16 [H, W, C] in 0..65535, C 3 (RGB) or 1 (gray), to the
            same.
        restore_sample: As `restore` of `decide`.
        force: As in `decide`.
        notes: What else the user should be told of a picture that is restored.
        strength: What `restore_colors` takes of the restoration, 0 to 1; as much is taken of what else is done.

    Returns:
        The restored picture; its notes say if it was left alone.

    Raises:
        InputError: If the strength is out of range.
    """
    require_between("strength", strength, 0, 1)
    if picture.header and picture.header.turned:
        restore_colors, restore_sample = _turn(restore_colors), _turn(restore_sample)
    decision = decide(picture, force, restore_sample)
    pixels = picture.pixels
    if decision.restore and not decision.cells_only:
        pixels = _restore_on_grid(pixels, decision.offset, restore_colors)
    if min(decision.luma, decision.chroma) < 1:
        pixels = _take_shares(picture.pixels, pixels, decision.luma, decision.chroma)
    if decision.cells:
        pixels = average_cells(pixels, decision.cells, picture.pixels, strength)
    notes = (*picture.notes, *(notes if decision.restore else ()), *decision.notes)
    return RestoredPicture(**vars(picture) | {"pixels": pixels, "notes": notes, "decision": decision})


def _turn(restore):
    """Makes a model restore the rows of a picture as its columns.

    The models know JPEGs as they are written: of libjpeg's tables, and chroma that was subsampled across.
    """

    def across(pixels):
        return np.ascontiguousarray(pixels.swapaxes(0, 1))

    return lambda pixels: across(restore(across(pixels)))


def _restore_on_grid(pixels, offset, restore):
    """Restores a picture whose first block begins at this row and column.

    The models know blocks that begin at multiples of 8. So what is missing of the first ones is filled up by
    reflection, and cut off again. Chroma's blocks of 16 need no more: the models' own grid is 8 pixels wide. A small
    picture is surrounded by its own blocks, mirrored, after its last ones are filled up as a JPEG's are.
    """
    height, width = pixels.shape[:2]
    top, left = (-each % _BLOCK for each in offset)
    rows, columns = _surroundings(top + height), _surroundings(left + width)
    if not (top or left or rows or columns):
        return restore(pixels)
    filled = np.pad(pixels, ((top, 0), (left, 0), (0, 0)), mode="reflect")
    if rows or columns:
        filled = np.pad(filled, [(0, -length % _BLOCK) for length in filled.shape[:2]] + [(0, 0)], mode="edge")
        filled = np.pad(filled, ((rows, rows), (columns, columns), (0, 0)), mode="symmetric")
    top, left = top + rows, left + columns
    return np.ascontiguousarray(restore(filled)[top : top + height, left : left + width])


def _surroundings(length) -> int:
    """Computes how many pixels, of whole blocks, a side needs before and behind it to be as long as `_LEAST_SIDE`."""
    return max(0, -(-(_LEAST_SIDE - length) // (2 * _BLOCK))) * _BLOCK


def _take_shares(before, restored, luma, chroma):
    """Takes shares of what was changed in a picture, uint8 or uint16 [H, W, C], as far as its range allows."""
    white = np.iinfo(restored.dtype).max
    result = np.empty_like(restored)
    height = band_height(restored.shape[1])
    for top in range(0, len(restored), height):
        band = slice(top, top + height)
        changes = restored[band].astype(np.float32) - before[band]
        of_luma = (changes @ np.array(LUMA, np.float32))[..., np.newaxis] if changes.shape[2] == 3 else changes
        changes *= np.float32(chroma)
        changes += np.float32(luma - chroma) * of_luma
        changes += before[band]
        result[band] = np.clip(np.rint(changes, out=changes), 0, white, out=changes)
    return result


def check_target(picture: Picture, format: str) -> None:
    """Refuses a format that cannot hold a picture, before it is restored in vain.

    Args:
        picture: From `decode_picture`.
        format: One of `FORMATS`. In its own format a picture that is left alone is copied, whatever its size.

    Raises:
        InputError: As `check_side`.
    """
    if format != _own_format(picture):
        check_side(picture, format)


def fit_to_format(
    before: Picture, restored: RestoredPicture, format: str, quality: int | None = None, force: bool = False
) -> RestoredPicture:
    """Sees to it that a lossy format does not lose what restoring gained, and little of what is only converted.

    Args:
        before: From `decode_picture`.
        restored: What `restore_parts` made of it.
        format: One of `FORMATS`, what it is to be written in.
        quality: 1..100, where the user wants one: then that is kept, and a note says so if it loses too much.
        force: Whether it is to be restored in any case.

    Returns:
        The picture with the least quality of `LOSSY_QUALITIES` that keeps what was gained; with the best one, and a
        note, where it is left alone and in another format. Left alone after all, where none does, or nothing was
        changed, and its file has that format.
    """
    wanted = (quality,) if quality else LOSSY_QUALITIES.get(format)
    if not wanted or _needs_no_writing(restored, format):
        return restored
    if not restored.decision.restore:
        note = f"{format} of quality {wanted[-1]} loses some of it, PNG keeps it"
        return dataclasses.replace(restored, quality=wanted[-1], notes=(*restored.notes, note))
    may_stay = not (quality or force or before.truncated) and format == _own_format(before)
    if np.array_equal(restored.pixels, before.pixels):  # as of the strength 0
        unchanged = Decision(restore=False, why="nothing of it is changed", found=restored.decision.found)
        return _hand_back(before, unchanged) if may_stay else dataclasses.replace(restored, quality=wanted[0])
    sample = _take_sample(restored.pixels)
    changed = _mean_square(sample, _take_sample(before.pixels))
    for chosen in wanted:
        lost = _mean_square(sample, _write_and_read(sample, format, chosen))
        if lost <= LOST_SHARE * changed:
            break
    fitted = dataclasses.replace(restored, quality=chosen)
    if lost <= MOST_LOST_SHARE * changed:
        return fitted
    if may_stay:
        lossy = leave_alone(f"it would lose as {format} what restoring gains", restored.decision.found)
        return _hand_back(before, lossy)
    note = f"as {format} of quality {chosen} it loses what restoring gained, PNG keeps it"
    return dataclasses.replace(fitted, notes=(*fitted.notes, note))


def _hand_back(before, decision) -> RestoredPicture:
    return RestoredPicture(**vars(before) | {"notes": (*before.notes, *decision.notes), "decision": decision})


def _take_sample(pixels) -> np.ndarray:
    """Takes parts that are spread over a large picture, uint8 [h, w, C]; of a small one, all."""
    rows, columns = map(_sample_side, pixels.shape[:2])
    sample = pixels[rows][:, columns]
    return to_8_bits(sample) if sample.dtype == np.uint16 else sample


def _sample_side(length) -> np.ndarray:
    if length <= _WHOLE_SIDE:
        return np.arange(length)
    starts = np.linspace(0, length - _TILE_SIDE, _TILES).astype(int) // 8 * 8  # blocks are those of the whole picture
    return (starts[:, np.newaxis] + np.arange(_TILE_SIDE)).ravel()


def _write_and_read(pixels, format, quality) -> np.ndarray:
    file = io.BytesIO()
    write_with_pillow(file, pixels, None, Metadata(), format, quality)
    image = Image.open(file).convert("L" if pixels.shape[2] == 1 else "RGB")
    return np.asarray(image).reshape(pixels.shape)


def _mean_square(one, other) -> float:
    return float(np.square(one.astype(np.float32) - other).mean())


def _needs_no_writing(picture, format) -> bool:
    """Tells whether a picture's file is its result: left alone, in the format that is wanted."""
    whole = not picture.truncated  # the pixels of a broken file are what was wanted
    return not picture.decision.restore and whole and format == _own_format(picture)


def _own_format(picture) -> str | None:
    """Tells in which of `FORMATS` the picture's file can be handed back."""
    return "jpeg" if _transcoded(picture) else matching_format(picture.format)


def _transcoded(picture) -> bytes | None:
    """Finds the JPEG that a JPEG XL was made of without loss."""
    return picture.jpeg if picture.format == "JXL" else None


def write_restored(
    picture: RestoredPicture, source: Path | bytes, file: BinaryIO, format: str, quality: int | None = None
) -> tuple[str, ...]:
    """Writes a restored picture, or copies the file of one that was left alone if it has the wanted format.

    Of a JPEG XL that holds a JPEG it is that JPEG.

    What was restored is marked so in its XMP, and `decide` leaves it alone from then on; only where a JPEG can hold the
    XMP but not the mark too, the mark is left out.

    Args:
        picture: From `restore_picture`, and from `fit_to_format` where the format is lossy.
        source: The path or the content of the file that the picture was decoded from.
        file: Where, at its start; must be able to seek.
        format: One of `FORMATS`.
        quality: As in `encode_picture`. Where one is given no file is copied, as a copy would keep its own.

    Returns:
        What the user should be told of the picture and its file, each a short clause.

    Raises:
        InputError: As in `encode_picture`, or if the source cannot be read any more.
        OSError: If the file cannot be written.
    """
    transcoded = _transcoded(picture)
    if quality is None and _needs_no_writing(picture, format):
        content = _read(source) if isinstance(source, Path) else source
        file.write(transcoded or content)
        lost = tell_lost(box_types(content)) if transcoded else ()  # what lay beside the JPEG
        return (*picture.decision.notes, *lost)  # the others tell of decoding
    if picture.decision.restore:
        xmp = with_mark(picture.metadata.xmp, LONGEST_JPEG_XMP if format == "jpeg" else None)
        marked = dataclasses.replace(picture.metadata, xmp=xmp)
        picture = dataclasses.replace(picture, metadata=marked)
    return picture.notes + encode_picture(picture, file, format, quality or picture.quality)


def _read(source) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from error
