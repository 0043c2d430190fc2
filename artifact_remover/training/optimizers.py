"""Adam, and Muon: steps of equal size in every direction of a convolution's kernel, which get further than Adam's.

Both are given gradients that are those of the whole batch already, where several devices share it. Keras's optimizers
would clip each device's own, and add them up then.

Keras's own `Muon` takes matrices alone and leaves kernels of convolutions, all that our networks have, to Adam.
"""

import math

import keras
import tensorflow as tf

_FROM_OR_TO_PIXELS = ("shallow", "correction")
_MOMENTUM = 0.95
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


@keras.saving.register_keras_serializable("artifact_remover")
class Adam(keras.optimizers.Adam):
    """Adam, for gradients that are the same on all devices. Arguments are Keras's."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


@keras.saving.register_keras_serializable("artifact_remover")
class Muon(Adam):
    """Muon for kernels of convolutions, Adam for the generator's first and last, and for all biases.

    A kernel [h, w, in, out] is a matrix [h * w * in, out]. Its averaged gradient is replaced by the nearest
    semi-orthogonal matrix, found by Newton-Schulz iterations (Jordan et al., "Muon: An optimizer for hidden layers in
    neural networks", 2024), scaled to the size of Adam's steps so that both share a learning rate (Liu et al., "Muon is
    Scalable for LLM Training", 2025). Arguments are Adam's.
    """

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable; called by `apply`."""
        index = self._get_variable_index(variable)
        path = self._trainable_variables[index].path  # what is handed over is TensorFlow's variable, which has none
        if len(variable.shape) != 4 or any(name in path for name in _FROM_OR_TO_PIXELS):
            super().update_step(gradient, variable, learning_rate)
            return
        momentum = self._momentums[index]
        self.assign(momentum, _MOMENTUM * momentum + gradient)
        step = orthogonalize(tf.reshape(gradient + _MOMENTUM * momentum, [-1, variable.shape[-1]]))
        size = 0.2 * math.sqrt(max(step.shape))
        self.assign_sub(variable, tf.cast(learning_rate, tf.float32) * size * tf.reshape(step, variable.shape))


def orthogonalize(matrix: tf.Tensor) -> tf.Tensor:
    """Approximates the nearest semi-orthogonal matrix: singular vectors are kept, singular values come near 1.

    Args:
        matrix: float32 [m, n]; cheap where n is small.

    Returns:
        float32 [m, n], with singular values of about 0.7 to 1.2 where those of `matrix` were not nearly zero.
    """
    a, b, c = _NEWTON_SCHULZ
    matrix = matrix / (tf.norm(matrix) + 1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = tf.matmul(matrix, matrix, transpose_a=True)
        matrix = a * matrix + tf.matmul(matrix, b * gram + c * tf.matmul(gram, gram))
    return matrix
