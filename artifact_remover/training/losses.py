"""The losses of both networks.

Pure functions: tensors in, one `float32` number out, computed in float32 whatever the inputs' precision, because a mean
over many small squares drowns in half precision. They know nothing of networks, of the weights of the terms, or of
steps. The VGG19 features of the perceptual loss come from `vgg.py`, the logits from the discriminator.
"""

import tensorflow as tf


def pixel_loss(clean: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    """Mean squared error of the pixel values: `mean((clean - restored)^2)`.

    On its own it maximizes PSNR, and blurs. 1e-2 is 20 dB, 1e-3 is 30 dB.

    >>> round(float(pixel_loss(tf.zeros([1, 8, 8, 3]), tf.fill([1, 8, 8, 3], 0.1))), 4)
    0.01

    Args:
        clean: The originals, float `[N, H, W, 3]` in [0, 1].
        restored: The generator's output, likewise.

    Returns:
        The loss, `float32 []`.

    Raises:
        ValueError: If the shapes differ.
    """
    return _mean_square(_difference(clean, restored))


def l1_loss(clean: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    """Mean absolute error of the pixel values: `mean(|clean - restored|)`.

    It minds large errors less than `pixel_loss` does, and leaves more room to a perceptual loss (Zhao et al., "Loss
    Functions for Image Restoration with Neural Networks", IEEE Transactions on Computational Imaging, 2017).

    >>> round(float(l1_loss(tf.zeros([1, 8, 8, 3]), tf.fill([1, 8, 8, 3], 0.1))), 4)
    0.1

    Args:
        clean: The originals, float `[N, H, W, 3]` in [0, 1].
        restored: The generator's output, likewise.

    Returns:
        The loss, `float32 []`.

    Raises:
        ValueError: If the shapes differ.
    """
    return tf.reduce_mean(tf.abs(_difference(clean, restored)))


def log_mse_loss(clean: tf.Tensor, restored: tf.Tensor, floor: float = 1e-4) -> tf.Tensor:
    """Mean logarithm of each patch's mean squared error: `0.001 * mean(log(1 + MSE / floor))`.

    A decibel counts the same on every patch, and so for every quality; in the mean square those of low quality drown
    the others. Below the floor, where there is little left to gain, the logarithm fades into a mean square. Near 1e-3
    it weighs as much as `pixel_loss` (without the floor: Chen et al., "HINet: Half Instance Normalization Network for
    Image Restoration", CVPR Workshops 2021).

    >>> round(float(log_mse_loss(tf.zeros([1, 8, 8, 3]), tf.fill([1, 8, 8, 3], 0.01))), 6)  # MSE 1e-4
    0.000693

    Args:
        clean: The originals, float `[N, H, W, 3]` in [0, 1].
        restored: The generator's output, likewise.
        floor: Mean squared error below which a patch counts less; 1e-4 is a PSNR of 40 dB.

    Returns:
        The loss, `float32 []`.

    Raises:
        ValueError: If the shapes differ.
    """
    return 1e-3 * tf.reduce_mean(tf.math.log1p(_mse_of_each_patch(clean, restored) / floor))


def rmse_loss(clean: tf.Tensor, restored: tf.Tensor, floor: float = 1e-4) -> tf.Tensor:
    """Mean of each patch's root mean squared error: `mean(sqrt(MSE + floor) - sqrt(floor))`.

    It lies between `pixel_loss`, where patches of low quality and rich texture drown the others, and `log_mse_loss`,
    where the smooth and clean ones drown these. Below the floor it fades into a mean square. Near an MSE of 1e-3, 0.06
    of it weighs as much as `pixel_loss`.

    >>> round(float(rmse_loss(tf.zeros([1, 8, 8, 3]), tf.fill([1, 8, 8, 3], 0.1))), 4)
    0.0905

    Args:
        clean: The originals, float `[N, H, W, 3]` in [0, 1].
        restored: The generator's output, likewise.
        floor: Mean squared error below which a patch counts less; 1e-4 is a PSNR of 40 dB.

    Returns:
        The loss, `float32 []`.

    Raises:
        ValueError: If the shapes differ.
    """
    return tf.reduce_mean(tf.sqrt(_mse_of_each_patch(clean, restored) + floor) - floor**0.5)


def drift_loss(clean: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    """Mean square of each patch's average error block: a tint, a checkerboard, the block grid.

    The error `restored - clean` is averaged over all 8 x 8 blocks of a patch. Wrong guesses about content cancel; what
    repeats in every block remains, one number for each position in a block and each channel. The pixel loss hardly
    minds it: one level of tint is 1 % of what a JPEG of quality 10 costs. The discriminator may even ask for it, as a
    regular grid is the cheapest way to look sharp. The eye sees it at once. Patches are not averaged: a tint of low
    qualities would hide behind the opposite one of high qualities.

    >>> round(float(drift_loss(tf.zeros([2, 16, 16, 3]), tf.fill([2, 16, 16, 3], 0.1))), 4)
    0.01

    Args:
        clean: The originals, float `[N, H, W, 3]` in [0, 1], H and W multiples of 8, on the block grid.
        restored: The generator's output, likewise.

    Returns:
        The loss, `float32 []`.

    Raises:
        ValueError: If the shapes differ.
    """
    _, height, width, channels = tf.unstack(tf.shape(clean))
    error = tf.reshape(_difference(clean, restored), [-1, height // 8, 8, width // 8, 8, channels])
    return _mean_square(tf.reduce_mean(error, axis=[1, 3]))


def grid_loss(clean: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    """Mean square of checkerboards: what tells the four pixels of 2 x 2 apart in the errors of 32 x 32 windows.

    A fine regular pattern is the texture that a generator on folded pictures makes most easily, and VGG19 takes it for
    texture wherever there is too little. Unlike `drift_loss` this finds patterns that differ from place to place.

    >>> checkerboard = tf.tile(tf.constant([[0.1, -0.1], [-0.1, 0.1]])[tf.newaxis, :, :, tf.newaxis], [1, 16, 16, 3])
    >>> round(float(grid_loss(tf.zeros([1, 32, 32, 3]), checkerboard)), 4)
    0.01

    Args:
        clean: The originals, float `[N, H, W, 3]` in [0, 1], H and W at least 2.
        restored: The generator's output, likewise.

    Returns:
        The loss, `float32 []`.

    Raises:
        ValueError: If the shapes differ.
    """
    error = _difference(clean, restored)
    _, height, width, channels = tf.unstack(tf.shape(error))
    rows, columns = (tf.maximum(side // 32, 1) for side in (height, width))
    high, wide = height // rows // 2, width // columns // 2  # of a window, in blocks of 2 x 2
    error = error[:, : rows * high * 2, : columns * wide * 2]
    windows = tf.reshape(error, [-1, rows, high, 2, columns, wide, 2, channels])
    means = tf.reduce_mean(windows, axis=[2, 5])
    return _mean_square(means - tf.reduce_mean(means, axis=[2, 4], keepdims=True))


def blocking_loss(clean: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    """Mean square of the steps that the errors make across the borders of the 8 x 8 blocks.

    A step is the difference of the error `restored - clean` on the two sides of a border, averaged along the border's 8
    pixels, so that texture cancels. What remains are the edges of faint blocks, which the eye finds in smooth and dark
    places. To VGG19 a block that was left is hardly worse than one that was smoothed away. Edges of the picture itself
    are in both pictures and cost nothing (after the blocking effect factor of PSNR-B: Yim and Bovik, "Quality
    Assessment of Deblocked Images", IEEE Transactions on Image Processing, 2011).

    >>> blocks = tf.tile(tf.repeat(tf.constant([[0.0, 0.1]]), 8, axis=1)[:, tf.newaxis, :, tf.newaxis], [1, 16, 1, 3])
    >>> round(float(blocking_loss(tf.zeros([1, 16, 16, 3]), blocks)), 4)  # all borders between columns, none of rows
    0.005

    Args:
        clean: The originals, float `[N, H, W, 3]` in [0, 1], H and W multiples of 8 from 16 up, on the block grid.
        restored: The generator's output, likewise.

    Returns:
        The loss, `float32 []`.

    Raises:
        ValueError: If the shapes differ.
    """
    error = _difference(clean, restored)
    return (_steps_between_columns(error) + _steps_between_columns(tf.transpose(error, [0, 2, 1, 3]))) / 2


def perceptual_loss(
    clean_features: tf.Tensor, restored_features: tf.Tensor, counts: tf.Tensor | float = 1.0
) -> tf.Tensor:
    """Error of VGG19 features, relative to the clean picture's: `mean((c - r)^2) / mean(c^2)`.

    A plain squared error of features (Johnson et al., "Perceptual Losses for Real-Time Style Transfer and
    Super-Resolution", 2016; Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative
    Adversarial Network", 2017) is about 150 at `block1_conv1` and 170,000 at `block3_conv4` for a JPEG of
    quality 10, and drowns the pixel loss unless a weight is found for each. The quotient has no unit: 0 is
    equal, 1 is as wrong as features that are all zero, at any layer. No gradient passes through the
    denominator; where that is zero, so is the loss.

    Where several devices share a batch, numerator and denominator are the whole batch's. The mean of what the devices
    return is the loss.

    >>> float(perceptual_loss(tf.fill([1, 4, 4, 8], 300.0), tf.fill([1, 4, 4, 8], 150.0)))
    0.25

    Args:
        clean_features: Features of the originals, float `[N, h, w, C]`, of any scale.
        restored_features: Features of the generator's output from the same layer, likewise.
        counts: 0 on a device that has no picture of its own, and is shown some for nothing.

    Returns:
        The loss, `float32 []`.

    Raises:
        ValueError: If the shapes differ.
    """
    context = tf.distribute.get_replica_context()
    size = counts * tf.stop_gradient(tf.reduce_sum(tf.square(tf.cast(clean_features, tf.float32))))
    error = counts * tf.reduce_sum(tf.square(_difference(clean_features, restored_features)))
    return context.num_replicas_in_sync * tf.math.divide_no_nan(error, context.all_reduce("SUM", size))


def discriminator_loss(clean_logits: tf.Tensor, restored_logits: tf.Tensor) -> tf.Tensor:
    """Binary cross-entropy of telling clean pictures (label 1) from restored ones (label 0).

    `(mean(-log s(clean)) + mean(-log(1 - s(restored)))) / 2` with the sigmoid `s`, over all patches
    (Goodfellow et al., "Generative Adversarial Networks", 2014). Guessing scores `log 2`, about 0.693.

    >>> round(float(discriminator_loss(tf.zeros([1, 6, 6, 1]), tf.zeros([1, 6, 6, 1]))), 3)
    0.693

    Args:
        clean_logits: The discriminator's output for the originals, float `[N, h, w, 1]` or any other shape.
        restored_logits: Its output for the generator's pictures; each half counts the same whatever its size.

    Returns:
        The loss, `float32 []`.
    """
    return (_cross_entropy(clean_logits, label=1.0) + _cross_entropy(restored_logits, label=0.0)) / 2


def adversarial_loss(restored_logits: tf.Tensor) -> tf.Tensor:
    """The generator's side of the game, restored pictures "classified as real": `mean(-log s(restored))`.

    The non-saturating form: its gradient is strongest where the discriminator is sure of the forgery
    (Goodfellow et al., 2014).

    >>> round(float(adversarial_loss(tf.zeros([1, 6, 6, 1]))), 3)
    0.693

    Args:
        restored_logits: The discriminator's output for the generator's pictures, float `[N, h, w, 1]` or any
            other shape.

    Returns:
        The loss, `float32 []`.
    """
    return _cross_entropy(restored_logits, label=1.0)


def _difference(clean: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    clean, restored = tf.cast(clean, tf.float32), tf.cast(restored, tf.float32)
    clean.shape.assert_is_compatible_with(restored.shape)  # broadcasting would hide a lost axis
    return clean - restored


def _steps_between_columns(error: tf.Tensor) -> tf.Tensor:
    """Mean square of the steps across the borders between columns of 8 x 8 blocks, each averaged along its rows."""
    batch, height, width, channels = tf.unstack(tf.shape(error))
    rows_of_blocks = tf.reduce_mean(tf.reshape(error, [batch, height // 8, 8, width, channels]), axis=2)
    return _mean_square(rows_of_blocks[:, :, 8::8] - rows_of_blocks[:, :, 7:-1:8])


def _mse_of_each_patch(clean: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.square(_difference(clean, restored)), axis=[1, 2, 3])


def _mean_square(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.square(values))


def _cross_entropy(logits: tf.Tensor, label: float) -> tf.Tensor:
    logits = tf.cast(logits, tf.float32)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), label), logits))
