"""A JPEG's bytes in, the restored picture's bytes out, all as a TensorFlow graph: what servers run.

The same as `Restorer` does in Python, to one 8-bit level: accurate decoding, tiles on the block grid, gray that stays
gray. No Python runs in it, so that any TensorFlow can.
"""

from collections.abc import Callable

import tensorflow as tf

from artifact_remover.tiling import GRID
from data_prep.config import LUMA

MAX_MEGAPIXELS = 64
"""Larger pictures are refused before they are decoded: a few kilobytes may claim any size."""

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"


def restore_jpegs(
    network: Callable[[tf.Tensor], tf.Tensor], image_bytes: tf.Tensor, overlap: int, side: int
) -> dict[str, tf.Tensor]:
    """Decodes, restores and encodes pictures one after the other, so that memory does not grow with their number.

    Args:
        network: From float32 [N, H, W, 3] in [0, 1] to the same.
        image_bytes: String [B], each a JPEG (gray or colors, not CMYK) or a PNG of 8 bits, of which transparency is
            dropped; sizes may differ.
        overlap: Surroundings in pixels that a tile needs, a multiple of `GRID`.
        side: Most pixels a tile has in height or width.

    Returns:
        `restored_bytes` string [B], PNGs, RGB or gray as the picture is, as stored: EXIF's orientation is not applied;
        `height` and `width` int32 [B].

    Raises:
        tf.errors.InvalidArgumentError: When the graph runs, if one of them is no such picture, damaged, or of more than
            `MAX_MEGAPIXELS`.
    """

    def restore_one(content):
        pixels = _decode(content)
        gray = tf.reduce_all((pixels[:, :, 0] == pixels[:, :, 1]) & (pixels[:, :, 1] == pixels[:, :, 2]))
        restored = _restore_tiles(network, pixels, gray, overlap, side)
        png = tf.cond(gray, lambda: tf.io.encode_png(restored[:, :, :1]), lambda: tf.io.encode_png(restored))
        return png, tf.shape(pixels)[0], tf.shape(pixels)[1]

    kinds = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.int32)
    restored = tf.map_fn(restore_one, image_bytes, fn_output_signature=kinds, parallel_iterations=1)
    return dict(zip(("restored_bytes", "height", "width"), restored, strict=True))


def _decode(content):
    """Decodes to uint8 [H, W, 3]; what cannot or may not be decoded is refused before memory is taken for it."""
    is_png = tf.strings.substr(content, 0, len(_PNG)) == _PNG
    known = tf.debugging.Assert(
        is_png | (tf.strings.substr(content, 0, len(_JPEG)) == _JPEG),
        ["image_bytes holds neither a JPEG nor a PNG; bytes:", tf.strings.length(content)],
    )
    with tf.control_dependencies([known]):
        height, width = tf.unstack(tf.cond(is_png, lambda: _measure_png(content), lambda: _measure_jpeg(content)))
    megapixels = tf.cast(height, tf.float64) * tf.cast(width, tf.float64) / 1e6
    small_enough = tf.debugging.Assert(
        megapixels <= MAX_MEGAPIXELS,
        [f"image_bytes holds more than the limit of {MAX_MEGAPIXELS} megapixels; width, height:", width, height],
    )
    with tf.control_dependencies([small_enough]):
        # Its kernel decodes PNGs as well. The default of `dct_method` is up to three levels off.
        return tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE", fancy_upscaling=True)


def _measure_jpeg(content):
    height, width, channels = tf.unstack(tf.io.extract_jpeg_shape(content), num=3)
    refused = "image_bytes holds a CMYK JPEG, whose profile is not applied here: convert it to RGB; channels:"
    with tf.control_dependencies([tf.debugging.Assert(channels < 4, [refused, channels])]):
        return tf.stack([height, width])


def _measure_png(content):
    header = tf.strings.substr(content, 0, 33)  # the signature and IHDR, the first chunk
    whole = tf.debugging.Assert(tf.strings.length(header) == 33, ["image_bytes holds a PNG without a header"])
    with tf.control_dependencies([whole]):
        width, height = tf.unstack(
            tf.io.decode_raw(tf.strings.substr(header, 16, 8), tf.int32, little_endian=False), num=2
        )
        depth = tf.io.decode_raw(tf.strings.substr(header, 24, 1), tf.uint8)[0]
    refused = "image_bytes holds a PNG of more than 8 bits, which would lose them; bits:"
    with tf.control_dependencies([tf.debugging.Assert(depth <= 8, [refused, depth])]):
        return tf.stack([height, width])


def _restore_tiles(network, pixels, gray, overlap, side):
    """Restores uint8 [H, W, 3] tile by tile; as in `tiling`, they start on the grid and overlap."""
    height, width = tf.unstack(tf.shape(pixels)[:2])
    core_height, core_width = _choose_core(height, overlap, side), _choose_core(width, overlap, side)
    empty_row = pixels[:, :0]

    def restore_tile(top, left):
        bottom, right = tf.minimum(top + core_height, height), tf.minimum(left + core_width, width)
        first_row, first_column = tf.maximum(top - overlap, 0), tf.maximum(left - overlap, 0)
        source = pixels[first_row : bottom + overlap, first_column : right + overlap]
        restored = network(tf.cast(source, tf.float32)[tf.newaxis] / 255.0)[0]
        restored = tf.cond(
            gray, lambda: tf.repeat(restored @ tf.constant(LUMA)[:, tf.newaxis], 3, axis=2), lambda: restored
        )
        restored = restored[top - first_row : bottom - first_row, left - first_column : right - first_column]
        return tf.cast(tf.round(restored * 255.0), tf.uint8)

    def restore_row(top):
        row = empty_row[top : top + core_height]
        return _loop(width, core_width, row, lambda left: restore_tile(top, left), axis=1)

    return _loop(height, core_height, pixels[:0], restore_row, axis=0)


def _loop(length, step, start, restore, axis):
    """Joins what is restored at each multiple of a step, never two at once."""
    _, joined = tf.while_loop(
        lambda offset, _: offset < length,
        lambda offset, done: (offset + step, tf.concat([done, restore(offset)], axis)),
        (tf.constant(0), start),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None, 3])),
        parallel_iterations=1,
    )
    return joined


def _choose_core(length, overlap, side):
    """Pixels of an axis that a tile fills."""
    most = max(GRID, (side - 2 * overlap) // GRID * GRID)
    equal = _divide_up(length, _divide_up(length, most))
    return tf.where(length > side, _divide_up(equal, GRID) * GRID, length)


def _divide_up(dividend, divisor):
    return -(-dividend // divisor)
