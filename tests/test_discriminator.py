import keras
import numpy as np
import pytest
import tensorflow as tf

from artifact_remover.config import DiscriminatorConfig
from artifact_remover.discriminator import build_discriminator, crop_and_add_grain, recover_spectral_vectors

TINY = DiscriminatorConfig(features=4)
dtypes = pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


def patches(height=32, width=32, seed=0):
    return np.random.default_rng(seed).random((2, height, width, 3), np.float32)


def normalized(discriminator):
    return [layer for layer in discriminator.layers if isinstance(layer, keras.layers.SpectralNormalization)]


def settle(discriminator):
    """Lets the power iteration of the spectral normalization converge, as training does."""
    step = tf.function(lambda patches: discriminator(patches, training=True))
    for _ in range(100):
        step(patches(8, 8))


def norms(discriminator):
    kernels = [layer.layer.kernel.numpy() for layer in normalized(discriminator)]
    return np.array([np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), ord=2) for kernel in kernels])


def test_keras_defaults_of_other_programs_do_not_matter(other_keras_defaults):
    discriminator = build_discriminator(TINY)
    assert discriminator(patches(32, 40)).shape == (2, 4, 5, 1)
    assert discriminator.input.dtype == discriminator.output.dtype == "float32"


def test_six_convolutions_each_normalized():
    discriminator = build_discriminator(DiscriminatorConfig())
    convolutions = [layer.layer for layer in normalized(discriminator)]
    assert [layer.filters for layer in convolutions] == [64, 64, 128, 256, 256, 1]
    assert [layer.strides[0] for layer in convolutions] == [1, 2, 2, 2, 1, 1]
    assert not any(type(layer) is keras.layers.Conv2D for layer in discriminator.layers)


def test_every_convolution_but_the_last_is_followed_by_leaky_relu():
    layers = build_discriminator(TINY).layers[2:]
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["SpectralNormalization", "LeakyReLU"] * 5 + ["SpectralNormalization"]
    assert [layer.negative_slope for layer in layers[1::2]] == pytest.approx([0.2] * 5)


@dtypes
@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (15, 17), (33, 7)])
def test_float32_logit_for_each_block_of_eight(dtype, height, width):
    logits = build_discriminator(TINY, dtype)(patches(height, width))
    assert logits.shape == (2, -(-height // 8), -(-width // 8), 1)
    assert logits.dtype == tf.float32


@dtypes
def test_training_brings_the_norm_of_each_kernel_to_one(dtype):
    discriminator = build_discriminator(TINY, dtype)
    settle(discriminator)
    np.testing.assert_allclose(norms(discriminator), 1, atol=0.03)


def test_judging_changes_no_weight():
    discriminator = build_discriminator(TINY)
    before = discriminator.get_weights()
    discriminator(patches(), training=False)
    for weight, kept in zip(discriminator.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)


def test_bfloat16_keeps_weights_in_float32():
    discriminator = build_discriminator(TINY, "mixed_bfloat16")
    discriminator(patches(), training=True)
    assert discriminator.get_layer("leaky3").compute_dtype == "bfloat16"
    for layer in normalized(discriminator):
        kernel = layer.layer.kernel.value
        rounded = tf.cast(tf.cast(kernel, tf.bfloat16), tf.float32)
        assert np.any(kernel != rounded), layer.name


def test_bfloat16_judges_nearly_as_float32():
    exact, fast = build_discriminator(TINY), build_discriminator(TINY, "mixed_bfloat16")
    fast.set_weights(exact.get_weights())
    expected = exact(patches()).numpy()
    np.testing.assert_allclose(fast(patches()), expected, atol=0.05 * np.abs(expected).max())


def test_recovered_vectors_leave_a_trained_discriminator_as_it_is():
    trained, loaded = build_discriminator(TINY), build_discriminator(TINY)
    settle(trained)
    for theirs, ours in zip(normalized(loaded), normalized(trained), strict=True):
        theirs.layer.set_weights(ours.layer.get_weights())
    recover_spectral_vectors(loaded)
    np.testing.assert_allclose(loaded(patches(), training=True), trained(patches()), rtol=1e-3)
    np.testing.assert_allclose(norms(loaded), 1, atol=1e-4)


@dtypes
def test_keras_file_holds_the_same_discriminator(dtype, tmp_path):
    discriminator = build_discriminator(TINY, dtype)
    discriminator(patches(), training=True)
    discriminator.save(tmp_path / "discriminator.keras")
    loaded = keras.models.load_model(tmp_path / "discriminator.keras")
    np.testing.assert_array_equal(loaded(patches()), discriminator(patches()))
    np.testing.assert_array_equal(loaded(patches(), training=True), discriminator(patches(), training=True))


def test_a_logit_sees_its_block_and_what_surrounds_it():
    discriminator, changed = build_discriminator(TINY), patches(128, 16)
    before = discriminator(changed).numpy()
    changed[:, 64:72] = 0  # block 8
    different = np.abs(discriminator(changed) - before).max(axis=(0, 2, 3)) > 0
    assert list(np.flatnonzero(different)) == list(range(8 - 3, 8 + 4))


def test_patches_are_shown_from_every_place_of_the_grid():
    rows, columns = np.meshgrid(np.arange(24.0, dtype=np.float32), np.arange(24.0, dtype=np.float32), indexing="ij")
    places = tf.constant(np.stack([rows, columns, rows], axis=-1)[np.newaxis])
    shown = [crop_and_add_grain(places, seed).numpy() for seed in range(1000)]
    assert all(each.shape == (1, 16, 16, 3) for each in shown)
    corners = {tuple(np.round(each[0, 0, 0, :2]) % 8) for each in shown}
    assert corners == {(top, left) for top in range(8) for left in range(8)}
    np.testing.assert_array_equal(crop_and_add_grain(places, 7), shown[7])


def test_patches_are_shown_under_grain_of_two_levels_of_their_own():
    gray = tf.fill([2, 72, 72, 3], 0.5)
    grain = (crop_and_add_grain(gray, 0) - 0.5).numpy() * 255
    assert np.std(grain) == pytest.approx(2, rel=0.03) and abs(np.mean(grain)) < 0.1
    assert abs(np.corrcoef(grain[0].ravel(), grain[1].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(grain.ravel(), ((crop_and_add_grain(gray, 1) - 0.5).numpy() * 255).ravel())[0, 1]) < 0.05
