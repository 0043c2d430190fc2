"""The discriminator: six convolutions that tell clean patches from restored ones, patch by patch.

A PatchGAN (Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017) with spectral
normalization (Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018), which keeps it
from becoming so sure of itself that the generator has nothing left to follow.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from artifact_remover.config import DiscriminatorConfig

_GRAIN = 2 / 255
"""Standard deviation of the grain that `crop_and_add_grain` lays over patches."""


def build_discriminator(config: DiscriminatorConfig, dtype: str = "float32") -> keras.Model:
    """Builds an untrained discriminator.

    Args:
        config: Its size.
        dtype: Keras dtype policy of its convolutions, `float32` or `mixed_bfloat16`; weights are float32 in both.

    Returns:
        A functional model from float32 [N, H, W, 3] in [0, 1] to float32 logits [N, ceil(H / 8), ceil(W / 8), 1], one
        for each 8x8 block of pixels and what surrounds it; above zero means clean.
    """
    patches = keras.Input([None, None, 3], name="patches", dtype="float32")
    # Centered on zero, as a network without normalization layers wants its input.
    x = layers.Rescaling(2.0, -1.0, dtype=dtype, name="centered")(patches)
    f = config.features
    convolutions = [(f, 3, 1), (f, 4, 2), (2 * f, 4, 2), (4 * f, 4, 2), (4 * f, 3, 1)]
    for number, (filters, kernel, stride) in enumerate(convolutions, 1):
        x = _conv(filters, kernel, stride, f"conv{number}", dtype)(x)
        x = layers.LeakyReLU(0.2, dtype=dtype, name=f"leaky{number}")(x)
    logits = _conv(1, 3, 1, "conv6", "float32")(x)
    return keras.Model(patches, logits, name="discriminator")


def _conv(filters, kernel, stride, name, dtype):
    convolution = layers.Conv2D(
        filters, kernel, stride, padding="same", data_format="channels_last", dtype=dtype, name=name
    )
    # In float32: it writes the normalized kernel back at every training step, and in bfloat16 would round away all but
    # the largest steps of the optimizer. Without `autocast` what passes through keeps the convolution's precision.
    return layers.SpectralNormalization(
        convolution, dtype="float32", autocast=dtype == "float32", name=f"{name}_spectral"
    )


def crop_and_add_grain(patches: tf.Tensor, seed: tf.Tensor | int) -> tf.Tensor:
    """Crops patches at a random place and adds grain, before a discriminator judges them.

    8 pixels of height and width are cut off, at random sides. A convolution with a stride looks harder at some pixels
    than at others; were these always the same, the generator would learn to draw a grid.

    The grain is as strong as a photograph's own. It hides two things that a discriminator learns first and that no JPEG
    keeps: clean values are multiples of 1/255, and smooth places have grain. The generator would imitate both with a
    pattern of dots (instance noise: Soenderby et al., "Amortised MAP Inference for Image Super-resolution", ICLR 2017).

    Where several devices share a batch, a patch gets the grain that it would get on one.

    Args:
        patches: float32 [N, H, W, 3], about [0, 1], H and W above 8; of `n` devices the `k`-th has every `n`-th patch
            of the batch, from the `k`-th on.
        seed: int [], from which sides and grain are drawn.

    Returns:
        float32 [N, H - 8, W - 8, 3].
    """
    context = tf.distribute.get_replica_context()
    devices, device = context.num_replicas_in_sync, context.replica_id_in_sync_group
    count, height, width, channels = tf.unstack(tf.shape(patches))
    top, left = tf.unstack(tf.random.stateless_uniform([2], [seed, 1], 0, 9, tf.int32))
    size = [count * devices, height - 8, width - 8, channels]
    grain = tf.random.stateless_normal(size, [seed, 0], stddev=_GRAIN)[device::devices]
    return patches[:, top : top + height - 8, left : left + width - 8] + grain


def normalize_kernels(discriminator: keras.Model) -> None:
    """Brings the norms of the kernels one step of spectral normalization nearer to one.

    A training step begins with it. It is what calling the discriminator with `training=True` does too, but where
    several devices train, weights can be changed by all together alone, outside of what each runs for itself.

    Args:
        discriminator: From `build_discriminator`; changed in place.
    """
    discriminator(tf.zeros([1, 8, 8, 3]), training=True)


def recover_spectral_vectors(discriminator: keras.Model) -> None:
    """Sets the vectors from which spectral normalization estimates the kernels' norms to what training converges to.

    An export lacks them, as only training needs them. From random ones the norms come out too small, and the first
    training steps would blow the logits of a pretrained discriminator up by a factor.

    Args:
        discriminator: From `build_discriminator`, with weights from elsewhere; changed in place.
    """
    for layer in discriminator.layers:
        if isinstance(layer, layers.SpectralNormalization):
            kernel = layer.kernel.numpy().reshape(-1, layer.kernel.shape[-1])
            layer.vector_u.assign(np.linalg.svd(kernel, full_matrices=False).Vh[:1])
