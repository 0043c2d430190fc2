"""The generator: a double Residual-in-Residual Dense Block, then convolutions, that predicts a JPEG's correction.

Residual dense blocks are ESRGAN's (Wang et al., "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks",
ECCV Workshops 2018). What is ours: it works on 2x2-folded pictures, and predicts what must be added to the JPEG instead
of the picture, so that it can leave alone what is right and cannot shift colors by accident. Where `finer` names
levels, the dense blocks work below them, on a half, a quarter, ... of the folded resolution. Positions are fewer there,
and each sees further. Plain residual blocks on the way down and up keep the detail, as in a U-Net (Zhang et al.,
"Plug-and-Play Image Restoration with Deep Denoiser Prior", PAMI 2021).
"""

import math
import re
from collections.abc import Mapping

import keras
from keras import layers

from artifact_remover.config import GeneratorConfig
from artifact_remover.layers import DepthToSpace, SpaceToDepth

RESIDUAL_SCALING = 0.2  # ESRGAN's beta: keeps the sum of many residual branches stable without normalization
_LAST = "channels_last"  # whatever keras.json says


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
    features, blocks = [*config.finer, config.features], config.residual_blocks_of_levels
    degraded = keras.Input([None, None, 3], name="degraded", dtype="float32")
    # Mirrored once, here, to what every level can halve.
    folded = SpaceToDepth(config.scale, config.coarsest_scale, name="fold")(degraded)
    x = _conv(features[0], "shallow", dtype)(folded)
    fine = []
    for level, coarser in enumerate(features[1:], start=1):
        x = _residual_blocks(x, f"down{level}", blocks[level - 1], dtype)
        fine.append(x)
        x = layers.Conv2D(coarser, 2, 2, data_format=_LAST, dtype=dtype, name=f"down{level}_halve")(x)
    x = _dense_trunk(x, config, dtype)
    for level, above in reversed(list(enumerate(fine, start=1))):
        x = layers.Conv2D(4 * above.shape[-1], 1, data_format=_LAST, dtype=dtype, name=f"up{level}_double")(x)
        x = DepthToSpace(2, dtype=dtype, name=f"up{level}_unfold")([x, above])
        x = layers.Add(dtype=dtype, name=f"up{level}")([above, x])
        x = _residual_blocks(x, f"up{level}", blocks[level - 1], dtype)
    x = _conv(features[0], "reconstruction", dtype, activation="leaky_relu")(x)
    # From here on float32: a correction is to be right to a fraction of a gray level, which bfloat16 is not.
    # Without a bias, the shortest way to tint the whole picture.
    x = _conv(3 * config.scale**2, "correction", "float32", kernel_initializer="zeros", use_bias=False)(x)
    correction = DepthToSpace(config.scale, dtype="float32", name="unfold")([x, degraded])
    restored = layers.Add(dtype="float32", name="restored")([degraded, correction])
    return keras.Model(degraded, restored, name="generator")


def receptive_field(config: GeneratorConfig) -> int:
    """Computes how far a generator sees, in pixels: no restored pixel depends on anything further from it."""
    pixels = config.coarsest_scale * (15 * config.blocks + 1)
    for level, blocks in enumerate(config.residual_blocks_of_levels):
        pixels += config.scale * 2**level * 2 * 2 * blocks  # two convolutions each, down and up
    pixels += config.scale * 3  # shallow, reconstruction, correction
    return pixels + config.coarsest_scale  # the pixels that are folded together


def memory_per_pixel(config: GeneratorConfig) -> int:
    """Estimates the bytes of memory that restoring in float32 takes for each pixel of a picture.

    These are five times the bytes of the widest layer's output. The factor was measured, with generators of one level
    and of three.
    """
    widths = [config.features + 4 * config.growth, *reversed(config.finer)]  # of the dense blocks, then finer and finer
    sides = [config.coarsest_scale // 2**level for level in range(len(widths))]
    return round(5 * 4 * max(width / side**2 for width, side in zip(widths, sides, strict=True)))


def read_size(shapes: Mapping[str, tuple[int, ...]]) -> GeneratorConfig:
    """Reads a generator's size off its weights, as not every manifest tells it.

    Args:
        shapes: Of its weights, by path, such as `shallow/kernel`.

    Raises:
        LookupError: If a weight that every generator has is missing.
        InputError: If the size is none that a generator has.
    """

    def count(pattern):
        return sum(bool(re.fullmatch(f"{pattern}/kernel", path)) for path in shapes)

    levels = range(1, count(r"down\d+_halve") + 1)
    *finer, features = [
        shapes["shallow/kernel"][-1],
        *(shapes[f"down{level}_halve/kernel"][-1] for level in levels),
    ]
    return GeneratorConfig(
        features,
        growth=shapes["rrdb1_dense1_conv1/kernel"][-1],
        blocks=count(r"rrdb\d+_dense1_conv1"),
        scale=math.isqrt(shapes["shallow/kernel"][2] // 3),
        finer=tuple(finer),
        residual_blocks=tuple(count(rf"down{level}_block\d+_first") for level in levels) or (2,),
    )


def is_of_residual_block(path: str) -> bool:
    """Tells whether the weight of this path, such as `up1_block3_first/kernel`, belongs to a residual block.

    Until it is trained such a block returns what it is given, so that a trained generator can be given more of them
    (Chen et al., "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR 2016).
    """
    return "_block" in path


def _residual_blocks(x, name, blocks, dtype):
    """Plain residual blocks of two convolutions, which keep the number of channels."""
    for number in range(1, blocks + 1):
        y = _conv(x.shape[-1], f"{name}_block{number}_first", dtype, activation="leaky_relu")(x)
        y = _conv(x.shape[-1], f"{name}_block{number}_second", dtype, kernel_initializer="zeros")(y)
        x = layers.Add(dtype=dtype, name=f"{name}_block{number}_add")([x, y])
    return x


def _dense_trunk(x, config, dtype):
    """The double RRDB, a convolution, and a residual around them."""
    y = x
    for number in range(1, config.blocks + 1):
        y = _rrdb(y, f"rrdb{number}", config, dtype)
    return layers.Add(dtype=dtype, name="deep")([x, _conv(config.features, "trunk", dtype)(y)])


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
        data_format=_LAST,
        activation=activation,  # "leaky_relu" is Keras's, of slope 0.2
        kernel_initializer=kernel_initializer,
        use_bias=use_bias,
        dtype=dtype,
        name=name,
    )
