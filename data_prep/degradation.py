"""From a clean patch to a JPEG of it: the only door to JPEG coding in this package.

Coding and decoding are libjpeg's (ITU-T T.81), with the integer-accurate inverse DCT and smooth chroma
upsampling. This gives pixels equal to Pillow's and to what browsers show; TensorFlow's default, INTEGER_FAST,
is up to 3 levels off. Other programs code where they are asked for, as data_prep/jpeg_programs.py lets them.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import tensorflow as tf

from data_prep.config import GRID, DegradationConfig
from data_prep.jpeg_programs import encode_with_jpegli, encode_with_mozjpeg

Coding = tuple[int, str, str]
"""Quality factor, chroma subsampling, and program."""

# Of patches compressed twice, where the first quality has a range of its own.
_RISING = 0.75
_SAME_GRID = 0.5

# Of patches that are scaled after they were compressed.
_SAVED_AGAIN = 0.5
_LEAST_SCALED, _MOST_SCALED = 0.5, 2.0
_SCALINGS = (tf.image.ResizeMethod.BILINEAR, tf.image.ResizeMethod.BICUBIC, tf.image.ResizeMethod.LANCZOS3)


def degrade(patches: tf.Tensor, seed: tf.Tensor | int, config: DegradationConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Compresses patches as JPEG and decodes them again; the block grid starts at the patch's corner.

    Where shares ask for it, a patch is compressed twice, or on a grid that starts elsewhere, or scaled after it was
    compressed, or left clean. The result depends on nothing but the arguments, eagerly and inside `Dataset.map`.

    Args:
        patches: Clean patches, `uint8 [N, p, p, 3]`, RGB, 0..255, p a multiple of 16 known while tracing.
        seed: One number, `int32 []`, from which quality, subsampling, program and the rest are drawn for each patch.
        config: Ranges of the quality factor, chroma subsampling, programs, and the shares.

    Returns:
        (degraded, clean), each `uint8 [N, p, p, 3]`, RGB, 0..255. The clean patches are the given ones, but for those
        that were scaled, which are the given ones scaled likewise.
    """
    codings = _list_codings(config)
    drawn = _draw(tf.shape(patches)[0], seed, config)

    def degrade_one(arguments: tuple[tf.Tensor, _Drawn]) -> tuple[tf.Tensor, tf.Tensor]:
        clean, of_patch = arguments
        jpeg = clean
        if config.double_share or config.shifted_share:
            jpeg = tf.cond(
                of_patch.twice | of_patch.shifted,
                lambda: _compress_shifted(clean, of_patch.first_coding, of_patch.shift, codings),
                lambda: clean,
            )
        if config.scaled_share:
            jpeg, clean = tf.cond(
                of_patch.scaled, lambda: _compress_and_scale(clean, of_patch, codings), lambda: (jpeg, clean)
            )
        if config.shifted_share or config.scaled_share:
            jpeg = tf.cond(of_patch.done, lambda: jpeg, lambda: _compress(jpeg, of_patch.coding, codings))
        else:
            jpeg = _compress(jpeg, of_patch.coding, codings)
        return tf.where(of_patch.clean, clean, jpeg) if config.clean_share else jpeg, clean

    each = tf.TensorSpec(patches.shape[1:], tf.uint8)
    return tf.map_fn(degrade_one, (patches, drawn), fn_output_signature=(each, each))


class _Drawn(NamedTuple):
    """The draws for each of N patches.

    Attributes:
        coding: Index of the last compression's coding, `int32 [N]`.
        first_coding: Index of the coding on the other grid; of a patch compressed once, the same as `coding`.
        shift: Where that grid starts, pixels down and right, 0..15, `int32 [N, 2]`.
        twice: Whether both are done, `bool [N]`.
        shifted: Whether the one on the other grid alone is done, `bool [N]`.
        scaled: Whether the patch is scaled after the one on the other grid, `bool [N]`.
        factor: By how much, `float32 [N]`.
        method: By which interpolation, an index of `_SCALINGS`, `int32 [N]`.
        done: Whether nothing is compressed at the patch's corner, as the last step was another, `bool [N]`.
        clean: Whether nothing is compressed at all, `bool [N]`.
    """

    coding: tf.Tensor
    first_coding: tf.Tensor
    shift: tf.Tensor
    twice: tf.Tensor
    shifted: tf.Tensor
    scaled: tf.Tensor
    factor: tf.Tensor
    method: tf.Tensor
    done: tf.Tensor
    clean: tf.Tensor


def _draw(count: tf.Tensor, seed: tf.Tensor | int, config: DegradationConfig) -> _Drawn:
    lowest, _ = config.lowest_and_highest
    each = len(config.subsamplings) * len(config.drawn_programs)

    def draw_share(purpose: int) -> tf.Tensor:
        return tf.random.stateless_uniform([count], [seed, purpose])

    # Every range is drawn from as often, however many codings it has.
    def draw_coding(purpose: int, ranges: list[tuple[int, int]]) -> tf.Tensor:
        chosen = tf.random.stateless_uniform([count], [seed, purpose + 10], 0, len(ranges), tf.int32)
        starts = tf.gather([(low - lowest) * each for low, _ in ranges], chosen)
        counts = tf.gather([(high - low + 1) * each for low, high in ranges], chosen)
        return starts + tf.cast(draw_share(purpose) * tf.cast(counts, tf.float32), tf.int32)

    coding = draw_coding(0, config.quality_ranges)
    first_coding = draw_coding(1, config.first_quality_ranges)
    shift = tf.random.stateless_uniform([count, 2], [seed, 2], 0, GRID, tf.int32)
    kind = draw_share(3)
    twice = kind < config.double_share
    not_scaled = config.double_share + config.shifted_share
    shifted = ~twice & (kind < not_scaled)
    scaled = (kind >= not_scaled) & (kind < not_scaled + config.scaled_share)
    saved_again = scaled & (draw_share(8) < _SAVED_AGAIN)
    factor = tf.exp(draw_share(9) * math.log(_MOST_SCALED / _LEAST_SCALED)) * _LEAST_SCALED
    method = tf.random.stateless_uniform([count], [seed, 20], 0, len(_SCALINGS), tf.int32)
    clean = draw_share(4) < config.clean_share
    if config.first_quality is not None:
        start = first_coding // each * each  # of the first quality
        room = tf.maximum((config.quality_range[1] - lowest + 1) * each - start, 0)
        rising = (twice | saved_again) & (draw_share(5) < _RISING) & (room > 0)
        risen = start + tf.cast(draw_share(6) * tf.cast(room, tf.float32), tf.int32)
        coding = tf.where(rising, risen, coding)
        shift = tf.where((twice & (draw_share(7) < _SAME_GRID))[:, None], 0, shift)
    first_coding = tf.where(twice | saved_again, first_coding, coding)
    done = shifted | (scaled & ~saved_again)
    return _Drawn(coding, first_coding, shift, twice, shifted, scaled, factor, method, done, clean)


def _code(image: tf.Tensor, quality: int | tf.Tensor, chroma_subsampling: str, program: str) -> tf.Tensor:
    if encode := _find_encoder(chroma_subsampling, program):
        jpeg = tf.numpy_function(encode, [image, quality], tf.string, stateful=False)
    else:
        halved = chroma_subsampling == "4:2:0"
        jpeg = tf.io.encode_jpeg(image, format="rgb", quality=quality, chroma_downsampling=halved)
    return tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")


def _find_encoder(chroma_subsampling: str, program: str) -> Callable[[np.ndarray, int], bytes] | None:
    """Finds what codes at any quality, which `tf.io.encode_jpeg` cannot; None where that codes."""
    # Not by `match`, which AutoGraph does not know, and says so.
    if chroma_subsampling == "4:2:2":
        return _encode_422
    if program == "mozjpeg":
        return functools.partial(encode_with_mozjpeg, halved=chroma_subsampling == "4:2:0")
    if program == "jpegli" and chroma_subsampling == "4:2:0":
        return encode_with_jpegli
    return None


def _encode_422(image: np.ndarray, quality: int) -> bytes:
    """Codes an image, `uint8 [H, W, 3]`, RGB, with chroma halved in rows alone."""
    settings = {
        cv2.IMWRITE_JPEG_QUALITY: int(quality),
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    }
    _, jpeg = cv2.imencode(".jpg", image[..., ::-1], [number for setting in settings.items() for number in setting])
    return jpeg.tobytes()


def _list_codings(config: DegradationConfig) -> tuple[Coding, ...]:
    """Lists every quality factor with every chroma subsampling and program that may be drawn, as often as it may."""
    low, high = config.lowest_and_highest
    return tuple(itertools.product(range(low, high + 1), config.subsamplings, config.drawn_programs))


@functools.cache
def _build_coder(codings: tuple[Coding, ...]) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Builds the function that codes an image, `uint8 [H, W, 3]`, by the `coding`-th of the codings.

    The quality of `tf.io.encode_jpeg` must be known while tracing, hence one branch per coding, of which only the drawn
    one runs. Tracing 190 branches takes seconds, so all callers with the same codings share them. Other encoders take
    any quality in one branch. A single branch needs no switch.
    """
    keys = [
        (None, subsampling, program) if _find_encoder(subsampling, program) else (quality, subsampling, "libjpeg")
        for quality, subsampling, program in codings
    ]
    branches = list(dict.fromkeys(keys))

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.int32)])
    def code(image: tf.Tensor, coding: tf.Tensor) -> tf.Tensor:
        drawn_quality = tf.gather([quality for quality, *_ in codings], coding)
        run = [
            functools.partial(_code, image, quality or drawn_quality, subsampling, program)
            for quality, subsampling, program in branches
        ]
        if len(run) == 1:
            return run[0]()
        return tf.switch_case(tf.gather([branches.index(key) for key in keys], coding), run)

    return code


def _compress(image: tf.Tensor, coding: tf.Tensor, codings: tuple[Coding, ...]) -> tf.Tensor:
    return tf.ensure_shape(_build_coder(codings)(image, coding), image.shape)


def _compress_shifted(patch: tf.Tensor, coding: tf.Tensor, shift: tf.Tensor, codings: tuple[Coding, ...]) -> tf.Tensor:
    """Codes a patch on a block grid that starts `shift` pixels (0..15) further down and right."""
    size = patch.shape[0]
    window = _cut_window(patch, size + GRID, GRID - shift)
    coded = _compress(window, coding, codings)
    return tf.ensure_shape(tf.slice(coded, tf.concat([GRID - shift, [0]], 0), [size, size, 3]), patch.shape)


def _compress_and_scale(patch: tf.Tensor, of_patch: _Drawn, codings: tuple[Coding, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    """Codes what becomes a patch when it is scaled, on a block grid that starts anywhere, and scales it.

    That is the patch's middle where it is enlarged, and more than the patch, mirrored, where it is reduced.

    Returns:
        The coded and the clean patch, both scaled.
    """
    size = patch.shape[0]
    side = tf.cast(tf.round(size / of_patch.factor), tf.int32)
    before = tf.concat([of_patch.shift, [0]], 0)
    window = _cut_window(patch, side + GRID, (side - size) // 2 + of_patch.shift)
    coded = tf.slice(_compress(window, of_patch.first_coding, codings), before, [side, side, 3])
    clean = tf.slice(window, before, [side, side, 3])

    def scale(method: str) -> tf.Tensor:
        scaled = tf.image.resize(tf.stack([coded, clean]), [size, size], method, antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(scaled), 0, 255), tf.uint8)

    both = tf.switch_case(of_patch.method, [functools.partial(scale, method) for method in _SCALINGS])
    return both[0], both[1]


def _cut_window(patch: tf.Tensor, side: int | tf.Tensor, before: tf.Tensor) -> tf.Tensor:
    """Cuts a window of `side` pixels a side, which starts `before` (`int32 [2]`) pixels above and left of the patch.

    The patch is continued by mirroring, as nothing else is known of its surroundings: unlike a rolled patch
    this puts no false edge into it.
    """
    size = patch.shape[0]
    window = patch
    for axis in range(2):  # tf.pad, which mirrors too, takes ten times as long as the rest of a compression
        place = tf.math.floormod(tf.range(side) - before[axis], 2 * size)
        window = tf.gather(window, tf.minimum(place, 2 * size - 1 - place), axis=axis)
    return window
