"""Measures of a restored picture against the clean one, in the conventions of the published tables.

Every function takes pictures as the whole project holds them, `float32 [N, H, W, 3]`, RGB in [0, 1], and
returns one number per picture, eagerly or inside a `tf.function`. The caller takes the mean over pictures
(`keras.metrics.Mean`) and measures the JPEG itself to set beside it. Nothing here rescales, clips or rounds: to
measure the pixels that a file would hold, clip and round first.

The conventions are those of FBCNN's evaluation (Jiang et al., ICCV 2021), which SwinIR and GRL share for
color. `tests/test_metrics.py` compares the untouched JPEG's scores with the published ones.
"""

import math

import numpy as np
import tensorflow as tf

MAX_DECIBELS = 100.0
"""The highest value of `psnr` and `psnr_b`, in dB: a root mean square error of 0.0026 levels of 255."""

_SSIM_WINDOW = 11
_SSIM_WEIGHTS = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))  # Gaussian, sigma 1.5
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2  # K1 and K2, squared
_BLOCK = 8
_GMSD_C = 170 / 255**2
LUMA_OF_RGB = (65.481 / 255, 128.553 / 255, 24.966 / 255)
"""MATLAB's `rgb2ycbcr`, less its 16, on which the published gray figures are measured."""


def psnr(clean: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    """Peak signal-to-noise ratio over the R, G and B values together; higher is better.

    `psnr = 10 log10(1 / MSE)`, never above `MAX_DECIBELS`. JPEG does not change a flat patch at all: without the
    cap its infinite PSNR would make the mean over all patches infinite.

    >>> clean = tf.zeros([1, 16, 16, 3])
    >>> round(float(psnr(clean, clean + 0.1)[0]), 3)
    20.0

    Args:
        clean: The original, float `[N, H, W, C]` in [0, 1], computed in float32.
        restored: The picture to judge, likewise; a network's values outside [0, 1] count as errors.

    Returns:
        Decibels, `float32 [N]`.

    Raises:
        ValueError: If the shapes differ or are not `[N, H, W, C]`, or the values are integers; eagerly also if they
            lie so far outside [0, 1] that they must be of another range.
    """
    clean, restored = _checked(clean, restored)
    return _decibels(_mean_square_error(clean, restored))


def ssim(clean: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    """Structural similarity, per color channel, then their mean; 1 is equal.

    Gaussian window of 11 x 11, sigma 1.5, K1 = 0.01, K2 = 0.03, windows inside the picture only (Wang et al.,
    "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004). A uniform window of 8 x 8, as
    in the papers on QGAC and JDEC, gives .012 to .016 more at quality 10: do not compare the two.

    >>> clean = tf.random.stateless_uniform([1, 16, 16, 3], seed=[1, 2])
    >>> round(float(ssim(clean, clean)[0]), 5)
    1.0

    Args:
        clean: The original, float `[N, H, W, C]` in [0, 1], at least 11 pixels high and wide, computed in
            float32.
        restored: The picture to judge, likewise.

    Returns:
        Similarity in [-1, 1], `float32 [N]`.

    Raises:
        ValueError: As `psnr`, and if a picture is smaller than the window.
    """
    clean, restored = _checked(clean, restored, smallest=_SSIM_WINDOW)
    # Along rows, then columns: `tf.image.ssim`, with its window of 121 weights, takes four times as long, and took half
    # of an evaluation.
    pairs = tf.stack([clean, restored, clean**2 + restored**2, clean * restored])
    means = tf.reshape(pairs, tf.concat([[-1], tf.shape(clean)[1:]], axis=0))
    for side in ([_SSIM_WINDOW, 1, 1, 1], [1, _SSIM_WINDOW, 1, 1]):
        window = tf.constant((_SSIM_WEIGHTS / _SSIM_WEIGHTS.sum()).reshape(side), tf.float32)
        window = tf.tile(window, [1, 1, tf.shape(clean)[3], 1])
        means = tf.nn.depthwise_conv2d(means, window, [1, 1, 1, 1], "VALID")
    of_clean, of_restored, squares, products = tf.split(means, 4)
    both, either = of_clean * of_restored, of_clean**2 + of_restored**2
    similarity = (2 * both + _SSIM_C1) * (2 * (products - both) + _SSIM_C2)
    return tf.reduce_mean(similarity / ((either + _SSIM_C1) * (squares - either + _SSIM_C2)), axis=[1, 2, 3])


def psnr_b(clean: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    """PSNR that also counts steps on JPEG's 8 x 8 grid in the restored picture as errors; higher is better.

    `psnr_b = 10 log10(1 / (MSE + BEF))`, never above `MAX_DECIBELS` nor above `psnr`, with the blocking
    effect factor

        BEF = log2(8) / log2(min(H, W)) * max(0, D_B - D_BC)

    where D_B is the mean squared step between neighboring pixels across a block edge and D_BC that between
    all other neighbors, both of the restored picture's luma: `(65.481 R + 128.553 G + 24.966 B + 16) / 255`,
    MATLAB's `rgb2ycbcr`; a one-channel picture is its own luma (Yim and Bovik, "Quality Assessment of
    Deblocked Images", 2011). As in the published tables, the pairs across an edge are counted as
    `H (W / 8 - 1) + W (H / 8 - 1)` even where a side is no multiple of 8.

    >>> clean = tf.zeros([1, 16, 16, 3])
    >>> blocks = tf.pad(clean[:, :, :8] + 0.1, [[0, 0], [0, 0], [0, 8], [0, 0]])  # one step, on the grid
    >>> bool(psnr_b(clean, blocks)[0] < psnr(clean, blocks)[0])
    True

    Args:
        clean: The original, float `[N, H, W, 3]` or `[N, H, W, 1]` in [0, 1], at least 16 pixels (two blocks)
            high and wide, computed in float32.
        restored: The picture to judge, likewise; its upper left pixel is the corner of a JPEG block.

    Returns:
        Decibels, `float32 [N]`.

    Raises:
        ValueError: As `psnr`, and if a picture has fewer than two blocks a side or neither one nor three
            channels.
    """
    clean, restored = _checked(clean, restored, smallest=2 * _BLOCK)
    return _decibels(_mean_square_error(clean, restored) + _blocking_effect_factor(_luma(restored)))


def gmsd(clean: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    """Gradient magnitude similarity deviation, the unevenness of the damage to edges; 0 is equal, smaller is better.

    The luma is averaged over 2 x 2 pixels; m1 and m2 are the magnitudes of the Prewitt gradients of the two pictures.
    The similarity at a pixel is `(2 m1 m2 + c) / (m1^2 + m2^2 + c)` with c = 170 / 255^2, and the result is its
    standard deviation over the picture (Xue et al., "Gradient Magnitude Similarity Deviation: A Highly Efficient
    Perceptual Image Quality Index", 2014). It needs no trained network, and so judges where VGG19's weights cannot be
    had.

    >>> clean = tf.random.stateless_uniform([1, 16, 16, 3], seed=[1, 2])
    >>> round(float(gmsd(clean, clean)[0]), 6)
    0.0

    Args:
        clean: The original, float `[N, H, W, 3]` or `[N, H, W, 1]` in [0, 1], at least 6 pixels high and wide,
            computed in float32.
        restored: The picture to judge, likewise.

    Returns:
        Deviation, 0 or more, seldom above 0.35, `float32 [N]`.

    Raises:
        ValueError: As `psnr`, and if a picture is smaller than that or has neither one nor three channels.
    """
    clean, restored = _checked(clean, restored, smallest=6)
    first, second = _gradient_magnitude(_luma(clean)), _gradient_magnitude(_luma(restored))
    similarity = (2 * first * second + _GMSD_C) / (first**2 + second**2 + _GMSD_C)
    return tf.math.reduce_std(similarity, axis=[1, 2])


def color_shift(clean: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    """Shift of the mean of each color channel: `255 (mean(restored) - mean(clean))`; 0 is right.

    The JPEG itself, at quality 10 on LIVE1, is half a level off, 2.6 at most. A network trained on few photographs,
    or by its discriminator for too long, tints or brightens the whole picture. PSNR falls with that, too, but does
    not tell why. The sign tells the direction: `[+5, +5, +5]` is brighter, `[+5, 0, -5]` is warmer.

    >>> clean = tf.zeros([1, 16, 16, 3])
    >>> color_shift(clean, clean + [0.5, 0.0, 0.25]).numpy().tolist()
    [[127.5, 0.0, 63.75]]

    Args:
        clean: The original, float `[N, H, W, 3]` in [0, 1], computed in float32.
        restored: The picture to judge, likewise.

    Returns:
        Signed shift of R, G and B in levels of 255, `float32 [N, 3]`.

    Raises:
        ValueError: As `psnr`.
    """
    clean, restored = _checked(clean, restored)
    return 255.0 * tf.reduce_mean(restored - clean, axis=[1, 2])


def discriminator_accuracy(logits: tf.Tensor, clean: bool) -> tf.Tensor:
    """Share of a picture's patches that the discriminator judges rightly; 0.5 is guessing.

    A logit above 0 says "clean", one below 0 "restored", and 0 itself is right for neither. Measure clean and
    restored pictures apart: the mean over both hides a discriminator that calls everything clean.

    >>> discriminator_accuracy(tf.constant([[2.0, -1.0, 3.0, 4.0]]), clean=True).numpy().tolist()
    [0.75]

    Args:
        logits: From the discriminator, float `[N, ...]`, any number, one logit per patch.
        clean: True if the pictures really were clean, False if they were restored.

    Returns:
        Share in [0, 1], `float32 [N]`.
    """
    logits = tf.convert_to_tensor(logits)
    right = logits > 0 if clean else logits < 0
    return tf.reduce_mean(tf.cast(right, tf.float32), axis=list(range(1, logits.shape.rank)))


def _checked(clean: tf.Tensor, restored: tf.Tensor, smallest: int = 1) -> tuple[tf.Tensor, tf.Tensor]:
    """Casts two pictures `[N, H, W, C]` in [0, 1] to float32; raises ValueError, for a wrong range only eagerly."""
    clean, restored = tf.convert_to_tensor(clean), tf.convert_to_tensor(restored)
    if not clean.shape.is_compatible_with(restored.shape) or clean.shape.rank != 4:
        raise ValueError(f"two pictures must have one shape [N, H, W, C]: {clean.shape} and {restored.shape}")
    height, width = clean.shape[1:3]
    if any(side is not None and side < smallest for side in (height, width)):
        raise ValueError(f"pictures must be at least {smallest} pixels high and wide: {height} x {width}")
    for image in (clean, restored):
        if not image.dtype.is_floating:
            raise ValueError(f"pictures must be float in [0, 1], not {image.dtype.name}: divide by 255")
        # Half a unit of overshoot is a poor network; more is another range, such as [0, 255] or [-1, 1].
        if tf.executing_eagerly() and (tf.reduce_min(image) < -0.5 or tf.reduce_max(image) > 1.5):
            low, high = float(tf.reduce_min(image)), float(tf.reduce_max(image))
            raise ValueError(f"pictures must lie in [0, 1]: these range from {low:g} to {high:g}")
    return tf.cast(clean, tf.float32), tf.cast(restored, tf.float32)


def _mean_square_error(clean: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.math.squared_difference(clean, restored), axis=[1, 2, 3])


def _decibels(error: tf.Tensor) -> tf.Tensor:
    return -10.0 / math.log(10.0) * tf.math.log(tf.maximum(error, 10.0 ** (-MAX_DECIBELS / 10)))


def _luma(image: tf.Tensor) -> tf.Tensor:
    """MATLAB's Y of float32 `[N, H, W, 3]` in [0, 1], without its offset, which no difference needs; `[N, H, W]`."""
    if image.shape[-1] == 1:
        return image[..., 0]
    if image.shape[-1] != 3:
        raise ValueError(f"luma is defined for one or three channels: {image.shape[-1]}")
    return tf.tensordot(image, LUMA_OF_RGB, axes=1)


def _gradient_magnitude(luma: tf.Tensor) -> tf.Tensor:
    """Magnitude of the Prewitt gradients of float32 `[N, H, W]`, halved in size and then without the outer pixels."""
    halved = tf.nn.avg_pool2d(luma[..., tf.newaxis], 2, 2, "VALID")
    across = tf.constant([[1.0, 0.0, -1.0]] * 3) / 3
    kernels = tf.stack([across, tf.transpose(across)], axis=-1)[:, :, tf.newaxis]
    return tf.norm(tf.nn.conv2d(halved, kernels, 1, "VALID"), axis=-1)


def _blocking_effect_factor(luma: tf.Tensor) -> tf.Tensor:
    across = tf.math.squared_difference(luma[:, :, 1:], luma[:, :, :-1])
    down = tf.math.squared_difference(luma[:, 1:, :], luma[:, :-1, :])
    steps = tf.reduce_sum(across, axis=[1, 2]) + tf.reduce_sum(down, axis=[1, 2])
    edge_steps = tf.reduce_sum(across[:, :, _BLOCK - 1 :: _BLOCK], axis=[1, 2]) + tf.reduce_sum(
        down[:, _BLOCK - 1 :: _BLOCK, :], axis=[1, 2]
    )
    height, width = tf.unstack(tf.cast(tf.shape(luma)[1:], tf.float32))
    pairs = height * (width - 1) + width * (height - 1)
    edge_pairs = height * (width / _BLOCK - 1) + width * (height / _BLOCK - 1)
    excess = edge_steps / edge_pairs - (steps - edge_steps) / (pairs - edge_pairs)
    return math.log(_BLOCK) / tf.math.log(tf.minimum(height, width)) * tf.nn.relu(excess)
