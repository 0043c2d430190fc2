"""The generator: a double Residual-in-Residual Dense Block, then convolutions, that predicts a JPEG's correction.

Residual dense blocks are ESRGAN's (Wang et al., "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks",
ECCV Workshops 2018). What is ours: it works on 2x2-folded pictures, and predicts what must be added to the JPEG
instead of the picture, so that it can leave alone what is right and cannot shift colours by accident.
"""

import functools

import keras
from keras import layers

from artifact_remover.config import GeneratorConfig
from artifact_remover.layers import DepthToSpace, SpaceToDepth

RESIDUAL_SCALING = 0.2  # ESRGAN's beta: keeps the sum of many residual branches stable without normalisation


def build_generator(config: GeneratorConfig, dtype: str = "float32") -> keras.Model:
    """Builds an untrained generator, which returns its input exactly.

    Args:
        config: Its size.
        dtype: Keras dtype policy of its convolutions, `float32` or `mixed_bfloat16`; weights are float32 in both.

    Returns:
        A functional model from float32 [N, H, W, 3] in [0, 1] to float32 [N, H, W, 3] (about [0, 1], not clipped), for
        any H and W from 1 up. Pictures fed from a block grid that starts at a multiple of 16 look like those of
        training.
    """
    block = functools.partial(_rrdb, config=config, dtype=dtype)
    degraded = keras.Input([None, None, 3], name="degraded")
    folded = SpaceToDepth(config.scale, name="fold")(degraded)
    shallow = x = _conv(config.features, "shallow", dtype)(folded)
    for number in range(1, config.blocks + 1):
        x = block(x, name=f"rrdb{number}")
    x = layers.Add(dtype=dtype, name="deep")([shallow, _conv(config.features, "trunk", dtype)(x)])
    x = _conv(config.features, "reconstruction", dtype, activation="leaky_relu")(x)
    # From here on float32: a correction is to be right to a fraction of a grey level, which bfloat16 is not.
    # Without a bias, the shortest way to tint the whole picture.
    x = _conv(3 * config.scale**2, "correction", "float32", kernel_initializer="zeros", use_bias=False)(x)
    correction = DepthToSpace(config.scale, dtype="float32", name="unfold")([x, degraded])
    restored = layers.Add(dtype="float32", name="restored")([degraded, correction])
    return keras.Model(degraded, restored, name="generator")


def receptive_field(config: GeneratorConfig) -> int:
    """How far a generator sees, in pixels: no restored pixel depends on anything further from it."""
    convolutions = 15 * config.blocks + 4
    return config.scale * (convolutions + 1)  # and one for the pixels that are folded together


def _rrdb(x, name, config, dtype):
    """Residual-in-residual dense block: three dense blocks, and a residual around them."""
    y = x
    for number in range(1, 4):
        y = _dense_block(y, f"{name}_dense{number}", config, dtype)
    return _add_scaled(x, y, name, dtype)


def _dense_block(x, name, config, dtype):
    """Residual dense block: five convolutions, each of which sees the block's input and all outputs before it."""
    seen = [x]
    for number in range(1, 5):
        grown = _conv(config.growth, f"{name}_conv{number}", dtype, activation="leaky_relu")(_concatenate(seen, dtype))
        seen.append(grown)
    return _add_scaled(x, _conv(config.features, f"{name}_conv5", dtype)(_concatenate(seen, dtype)), name, dtype)


def _concatenate(features, dtype):
    return layers.Concatenate(dtype=dtype)(features) if len(features) > 1 else features[0]


def _add_scaled(x, branch, name, dtype):
    scaled = layers.Rescaling(RESIDUAL_SCALING, dtype=dtype, name=f"{name}_scaled")(branch)
    return layers.Add(dtype=dtype, name=f"{name}_add")([x, scaled])


def _conv(filters, name, dtype, activation=None, kernel_initializer="he_normal", use_bias=True):
    return layers.Conv2D(
        filters,
        3,
        padding="same",
        activation=activation,  # "leaky_relu" is Keras's, of slope 0.2
        kernel_initializer=kernel_initializer,
        use_bias=use_bias,
        dtype=dtype,
        name=name,
    )
