"""A drawing that shows a picture before and after restoring."""

from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from artifact_remover.pictures.picture import Picture, orient
from data_prep.config import GRID

_LARGEST_WIDTH, _LARGEST_HEIGHT = 800, 1600
_CROP = 256
_ENLARGED = 3
_MARGIN = 8
_HEADING = 28


def draw_before_after(before: Picture, after: Picture, file: BinaryIO) -> None:
    """Draws a picture before and after side by side, whole, and below it an enlarged crop from where it changed most.

    Args:
        before: The decoded picture.
        after: The restored picture, of the same size.
        file: Where the PNG is written; the picture's ICC profile is embedded.
    """
    crop = _find_most_changed(before.pixels, after.pixels)
    columns = [(_shrink(picture), _enlarge(picture, crop)) for picture in (before, after)]
    whole, enlarged = columns[0]
    # Not narrower than the labels.
    width = max(whole.width, enlarged.width, 320)
    below = _HEADING + whole.height
    size = (_MARGIN + 2 * (width + _MARGIN), below + _HEADING + enlarged.height + _MARGIN)
    canvas = Image.new(whole.mode, size, "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(16)
    for number, (label, (whole, enlarged)) in enumerate(zip((_label(before), "after"), columns, strict=True)):
        left = _MARGIN + number * (width + _MARGIN)
        draw.text((left, 4), label, fill="black", font=font)
        canvas.paste(whole, (left, _HEADING))
        draw.text((left, below + 4), f"{_ENLARGED}x, where it changed most", fill="black", font=font)
        canvas.paste(enlarged, (left, below + _HEADING))
    canvas.save(file, "PNG", icc_profile=before.metadata.icc_profile)


def _label(picture):
    quality = f" of quality {picture.header.quality}" if picture.header else ""
    return f"before: {picture.format}{quality}"


def _find_most_changed(before, after):
    """Finds where two pictures differ most; returns the slices of a square on the block grid."""
    height, width = before.shape[:2]
    # One row of blocks at a time: the differences of a large picture would take more memory than the picture.
    changes = np.array(
        [
            np.add.reduceat(_difference(before[top : top + GRID], after[top : top + GRID]), range(0, width, GRID))
            for top in range(0, height, GRID)
        ]
    )
    for axis in (0, 1):
        changes = _sum_windows(changes, min(_CROP // GRID, changes.shape[axis]), axis)
    row, column = np.unravel_index(np.argmax(changes), changes.shape)
    top, left = (min(index * GRID, max(0, side - _CROP)) for index, side in ((row, height), (column, width)))
    return slice(top, top + _CROP), slice(left, left + _CROP)


def _difference(before, after):
    """Sums the differences in a row of blocks, column by column."""
    return np.abs(before.astype(np.float32) - after).sum(axis=(0, 2))


def _sum_windows(values, length, axis):
    sums = np.cumsum(values, axis=axis)
    sums = np.insert(sums, 0, 0, axis=axis)
    return np.take(sums, range(length, sums.shape[axis]), axis) - np.take(sums, range(sums.shape[axis] - length), axis)


def _shrink(picture):
    """Reduces a whole picture to the size of a column of the drawing."""
    height, width = picture.pixels.shape[:2]
    turned = picture.orientation > 4
    limits = (_LARGEST_WIDTH, _LARGEST_HEIGHT) if turned else (_LARGEST_HEIGHT, _LARGEST_WIDTH)
    scale = max(1, height / limits[0], width / limits[1])
    # First strip by strip to about that size, as a copy of a large picture would take too much memory.
    step = int(scale)
    rows = [_average(_to_eight_bits(picture, slice(top, top + step)), step) for top in range(0, height, step)]
    image = _to_image(np.stack(rows), picture.orientation)
    size = [max(1, round(side / scale)) for side in ((height, width) if turned else (width, height))]
    return image.resize(size, Image.Resampling.LANCZOS)


def _average(strip, step):
    """Averages a strip of rows over squares of `step` pixels."""
    starts = range(0, strip.shape[1], step)
    sums = np.add.reduceat(strip.mean(axis=0), starts)
    return np.rint(sums / np.diff([*starts, strip.shape[1]])[:, np.newaxis]).astype(np.uint8)


def _enlarge(picture, crop):
    """Cuts out a crop and enlarges each pixel to a square."""
    rows, columns = crop
    image = _to_image(_to_eight_bits(picture, rows)[:, columns], picture.orientation)
    return image.resize((image.width * _ENLARGED, image.height * _ENLARGED), Image.Resampling.NEAREST)


def _to_eight_bits(picture, rows):
    """Converts some rows of a picture to 8 bits, over white where it is transparent."""
    white = np.iinfo(picture.pixels.dtype).max
    pixels = picture.pixels[rows]
    if picture.alpha is not None:
        opacity = picture.alpha[rows, :, np.newaxis] / np.float32(white)
        pixels = white - opacity * (np.float32(white) - pixels)
    if white == 255 and pixels.dtype == np.uint8:
        return pixels
    return np.rint(pixels * np.float32(255 / white)).astype(np.uint8)


def _to_image(pixels, orientation):
    pixels = np.ascontiguousarray(orient(pixels, orientation))
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
