"""The two layers that Keras lacks: an image folded into its 2x2 (or 4x4) blocks, and back.

Most of a network's cost is its number of positions. Folding quarters it, and lines the positions up with the 2x2
blocks over which a 4:2:0 JPEG shares its chroma (Shi et al., "Real-Time Single Image and Video Super-Resolution Using
an Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016). Written in `keras.ops` alone, so that they run on any
backend.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable("artifact_remover")
class SpaceToDepth(keras.layers.Layer):
    """Folds every `scale` x `scale` block of pixels into the channels, mirroring the picture's lower and right edge.

    Args:
        scale: Side of a block in pixels, 1 or more.
        multiple: Number that height and width are made divisible by, through mirroring; a multiple of `scale`, and
            `scale` itself when not given.

    Input: float [N, H, W, C], any H, W from 1 up.
    Output: float [N, H' / scale, W' / scale, C * scale**2], H' and W' being H and W rounded up to `multiple`.
    """

    def __init__(self, scale: int, multiple: int | None = None, **kwargs):
        """Takes the arguments that the class documents."""
        super().__init__(**kwargs)
        self.scale = scale
        self.multiple = multiple or scale

    def call(self, image):
        """Folds float [N, H, W, C]."""
        image = _mirror(_mirror(image, 1, self.multiple), 2, self.multiple)
        _, height, width, channels = ops.shape(image)
        s = self.scale
        blocks = ops.reshape(image, [-1, height // s, s, width // s, s, channels])
        return ops.reshape(ops.transpose(blocks, [0, 1, 3, 2, 4, 5]), [-1, height // s, width // s, s * s * channels])

    def compute_output_shape(self, input_shape):
        """Computes the output's shape, `None` where the input's is."""
        batch, height, width, channels = input_shape
        s, m = self.scale, self.multiple
        return batch, height and -(-height // m) * m // s, width and -(-width // m) * m // s, channels * s * s

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "scale": self.scale, "multiple": self.multiple}


@keras.saving.register_keras_serializable("artifact_remover")
class DepthToSpace(keras.layers.Layer):
    """Unfolds what `SpaceToDepth` folded, cut to the size of the picture that it was folded from.

    Args:
        scale: Side of a block in pixels, 1 or more.

    Input: a pair: float [N, H' / scale, W' / scale, C * scale**2] of at least the picture's size, and the picture
    [N, H, W, ...].
    Output: float [N, H, W, C].
    """

    def __init__(self, scale: int, **kwargs):
        """Takes the arguments that the class documents."""
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, folded_and_picture):
        """Unfolds the first of the pair to the height and width of the second."""
        folded, picture = folded_and_picture
        _, height, width, depth = ops.shape(folded)
        s = self.scale
        blocks = ops.reshape(folded, [-1, height, width, s, s, depth // (s * s)])
        image = ops.reshape(ops.transpose(blocks, [0, 1, 3, 2, 4, 5]), [-1, height * s, width * s, depth // (s * s)])
        return image[:, : ops.shape(picture)[1], : ops.shape(picture)[2]]

    def compute_output_shape(self, input_shapes):
        """Computes the output's shape, `None` where the picture's is."""
        folded, picture = input_shapes
        return (*picture[:3], folded[-1] // self.scale**2)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "scale": self.scale}


def _mirror(image, axis, multiple):
    """Mirrors the far end of an axis up to the next multiple; unlike `ops.pad`, by more than the axis's own length."""
    if image.shape[axis] is not None and image.shape[axis] % multiple == 0:
        return image
    length = ops.shape(image)[axis]
    # Not -(-length // multiple), which tf2onnx translates to a division that rounds toward zero.
    index = ops.arange((length + multiple - 1) // multiple * multiple) % (2 * length)
    return ops.take(image, ops.minimum(index, 2 * length - 1 - index), axis=axis)
