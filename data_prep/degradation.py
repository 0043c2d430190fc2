"""From a clean patch to a JPEG of it: the only door to JPEG coding in this package.

Coding and decoding are libjpeg's (ITU-T T.81), with the integer-accurate inverse DCT and smooth chroma
upsampling. This gives pixels equal to Pillow's and to what browsers show; TensorFlow's default, INTEGER_FAST,
is up to 3 levels off.
"""

import tensorflow as tf

from data_prep.config import DegradationConfig

# Side in pixels of the smallest unit of a 4:2:0 JPEG: 8x8 blocks of chroma cover 16x16 pixels.
_UNIT = 16

_SUBSAMPLINGS = {"4:2:0": ("4:2:0",), "4:4:4": ("4:4:4",), "both": ("4:2:0", "4:4:4")}


def degrade(patches: tf.Tensor, seed: tf.Tensor | int, config: DegradationConfig) -> tf.Tensor:
    """Compress patches as JPEG and decode them again; the block grid starts at the patch's corner.

    The result depends on nothing but the arguments, eagerly and inside `Dataset.map`.

    Args:
        patches: Clean patches, `uint8 [N, p, p, 3]`, RGB, 0..255, p a multiple of 16 known while tracing.
        seed: One number, `int32 []`, from which quality, subsampling and the rest are drawn for each patch.
        config: Range of the quality factor, chroma subsampling, and the shares of patches that are left clean
            or are compressed twice.

    Returns:
        Degraded patches, `uint8 [N, p, p, 3]`, RGB, 0..255.
    """
    count = tf.shape(patches)[0]
    codings = _list_codings(config)
    starts, counts = _find_ranges(config)

    def draw(purpose: int, shape: list, high: int) -> tf.Tensor:
        return tf.random.stateless_uniform(shape, [seed, purpose], 0, high, tf.int32)

    def draw_share(purpose: int, share: float) -> tf.Tensor:
        return tf.random.stateless_uniform([count], [seed, purpose]) < share

    def degrade_one(drawn: tuple[tf.Tensor, ...]) -> tf.Tensor:
        patch, coding, first_coding, shift, twice, clean = drawn
        jpeg = patch
        if config.double_share:
            jpeg = tf.cond(twice, lambda: _compress_shifted(patch, first_coding, shift, codings), lambda: patch)
        jpeg = _compress(jpeg, coding, codings)
        return tf.where(clean, patch, jpeg) if config.clean_share else jpeg

    # Every range is drawn from as often, however many codings it has.
    def draw_coding(purpose: int) -> tf.Tensor:
        chosen = draw(purpose + 10, [count], len(counts))
        within = tf.random.stateless_uniform([count], [seed, purpose]) * tf.cast(tf.gather(counts, chosen), tf.float32)
        return tf.gather(starts, chosen) + tf.cast(within, tf.int32)

    drawn = (
        patches,
        draw_coding(0),
        draw_coding(1),
        draw(2, [count, 2], _UNIT),
        draw_share(3, config.double_share),
        draw_share(4, config.clean_share),
    )
    return tf.map_fn(degrade_one, drawn, fn_output_signature=tf.TensorSpec(patches.shape[1:], tf.uint8))


def _code(image: tf.Tensor, quality: int, chroma_subsampling: str) -> tf.Tensor:
    jpeg = tf.io.encode_jpeg(image, format="rgb", quality=quality, chroma_downsampling=chroma_subsampling == "4:2:0")
    return tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")


def _list_codings(config: DegradationConfig) -> list[tuple[int, str]]:
    """List every pair of quality factor and chroma subsampling that may be drawn."""
    low, high = config.quality_range
    subsamplings = _SUBSAMPLINGS[config.chroma_subsampling]
    return [(quality, subsampling) for quality in range(low, high + 1) for subsampling in subsamplings]


def _find_ranges(config: DegradationConfig) -> tuple[list[int], list[int]]:
    """Tell where in the list of codings each range of qualities starts, and how many codings it has."""
    lowest, each = config.quality_range[0], len(_SUBSAMPLINGS[config.chroma_subsampling])
    ranges = [((low - lowest) * each, (high - low + 1) * each) for low, high in config.quality_ranges]
    starts, counts = zip(*ranges, strict=True)
    return list(starts), list(counts)


def _compress(image: tf.Tensor, coding: tf.Tensor, codings: list[tuple[int, str]]) -> tf.Tensor:
    """Code an image, `uint8 [H, W, 3]`, by the `coding`-th of the codings.

    The quality of `tf.io.encode_jpeg` must be known while tracing, hence one branch per coding (190 take 0.7
    s to trace, only one runs); a single coding needs none.
    """
    if len(codings) == 1:
        coded = _code(image, *codings[0])
    else:
        coded = tf.switch_case(coding, [lambda pair=pair: _code(image, *pair) for pair in codings])
    return tf.ensure_shape(coded, image.shape)


def _compress_shifted(
    patch: tf.Tensor, coding: tf.Tensor, shift: tf.Tensor, codings: list[tuple[int, str]]
) -> tf.Tensor:
    """Code a patch on a block grid that starts `shift` pixels (0..15) further down and right.

    The patch is continued by mirroring, as nothing else is known of its surroundings: unlike a rolled patch
    this puts no false edge into it.
    """
    size = patch.shape[0]
    wide = tf.pad(patch, [[_UNIT, _UNIT], [_UNIT, _UNIT], [0, 0]], "SYMMETRIC")
    window = tf.slice(wide, tf.concat([shift, [0]], 0), [size + _UNIT, size + _UNIT, 3])
    coded = _compress(window, coding, codings)
    return tf.slice(coded, tf.concat([_UNIT - shift, [0]], 0), [size, size, 3])
