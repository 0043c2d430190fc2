import keras
import numpy as np
import pytest
import tensorflow as tf

from artifact_remover.layers import DepthToSpace, SpaceToDepth

scales = pytest.mark.parametrize("scale", [1, 2, 4])
sizes = pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (8, 8), (15, 17), (40, 3)])


def pictures(height, width, channels=3):
    return np.random.default_rng(0).random((2, height, width, channels), np.float32)


@scales
@sizes
def test_unfolding_undoes_folding(scale, height, width):
    picture = pictures(height, width)
    folded = SpaceToDepth(scale)(picture)
    assert folded.shape == (2, -(-height // scale), -(-width // scale), 3 * scale**2)
    np.testing.assert_array_equal(DepthToSpace(scale)([folded, picture]), picture)


@scales
def test_multiples_fold_as_tensorflow_folds_them(scale):
    picture = pictures(8, 12)
    expected = tf.nn.space_to_depth(picture, scale) if scale > 1 else picture
    np.testing.assert_array_equal(SpaceToDepth(scale)(picture), expected)
    unfolded = DepthToSpace(scale)([expected, picture])
    np.testing.assert_array_equal(unfolded, tf.nn.depth_to_space(expected, scale) if scale > 1 else expected)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 7), (9, 4)])
def test_lower_and_right_edge_are_mirrored(height, width):
    picture = pictures(height, width)
    beyond = [(0, 0), (0, -height % 4), (0, -width % 4), (0, 0)]
    expected = tf.nn.space_to_depth(np.pad(picture, beyond, mode="symmetric"), 4)
    np.testing.assert_array_equal(SpaceToDepth(4)(picture), expected)


def test_sides_are_mirrored_up_to_a_larger_multiple():
    picture = pictures(5, 9)
    expected = tf.nn.space_to_depth(np.pad(picture, [(0, 0), (0, 3), (0, 7), (0, 0)], mode="symmetric"), 2)
    fold = SpaceToDepth(2, multiple=8)
    np.testing.assert_array_equal(fold(picture), expected)
    np.testing.assert_array_equal(DepthToSpace(2)([expected, picture]), picture)
    assert fold(keras.Input([5, None, 3])).shape == (None, 4, None, 12)
    assert fold.get_config()["multiple"] == 8


@scales
@pytest.mark.parametrize("size", [None, 1, 6, 7])
def test_symbolic_shape_is_that_of_the_result(scale, size):
    picture = keras.Input([size, size, 3])
    folded = SpaceToDepth(scale)(picture)
    unfolded = DepthToSpace(scale)([folded, picture])
    side = size and -(-size // scale)
    assert folded.shape == (None, side, side, 3 * scale**2)
    assert unfolded.shape == (None, size, size, 3)


@pytest.mark.parametrize("jit", [False, True])
def test_works_with_sizes_known_only_at_run_time(jit):
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])], jit_compile=jit)
    def there_and_back(picture):
        return DepthToSpace(4)([SpaceToDepth(4)(picture), picture])

    for height, width in [(1, 1), (15, 17)]:
        np.testing.assert_array_equal(there_and_back(pictures(height, width)), pictures(height, width))


@pytest.mark.parametrize("kind", [SpaceToDepth, DepthToSpace])
def test_configuration_round_trip(kind):
    layer = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(kind(4, name="fold")))
    assert (type(layer), layer.scale, layer.name) == (kind, 4, "fold")
    assert keras.saving.get_registered_name(kind) == f"artifact_remover>{kind.__name__}"


@scales
def test_gradient_of_a_mirrored_edge_reaches_the_pixels_that_were_mirrored(scale):
    picture = tf.constant(pictures(3, 5))
    with tf.GradientTape() as tape:
        tape.watch(picture)
        total = tf.reduce_sum(SpaceToDepth(scale)(picture))
    times_used = tape.gradient(total, picture).numpy()
    assert times_used.min() == 1 and times_used.sum() == SpaceToDepth(scale)(picture).numpy().size
