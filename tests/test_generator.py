import dataclasses
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from artifact_remover.config import PRESETS, GeneratorConfig
from artifact_remover.generator import build_generator, memory_per_pixel, read_size, receptive_field

TINY = GeneratorConfig(features=8, growth=4, blocks=1)
LEVELS = GeneratorConfig(features=8, growth=4, blocks=1, finer=(4, 6))


def pictures(height, width, seed=0):
    return np.random.default_rng(seed).random((1, height, width, 3), np.float32)


def trained(config=TINY, dtype="float32"):
    """A generator that corrects, by about a tenth of the range: its last layer is not zero."""
    keras.utils.set_random_seed(0)
    generator = build_generator(config, dtype)
    [kernel] = generator.get_layer("correction").weights  # a bias could tint the whole picture
    size = 0.002 if config.finer else 0.01  # plain residual blocks add up
    kernel.assign(size * np.random.default_rng(0).standard_normal(kernel.shape))
    return generator


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("finer", [(), (4, 6)], ids=["one level", "three levels"])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_untrained_generator_returns_its_input_exactly(scale, finer, dtype):
    generator = build_generator(GeneratorConfig(8, 4, 1, scale, finer), dtype)
    for height, width in [(1, 1), (15, 17), (16, 32)]:
        picture = pictures(height, width)
        np.testing.assert_array_equal(generator(picture), picture)


@pytest.mark.parametrize("config", [TINY, LEVELS], ids=["one level", "three levels"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (15, 17), (1000, 3), (2, 500)])
def test_any_size_keeps_its_shape(config, height, width):
    picture = pictures(height, width)
    np.testing.assert_array_equal(build_generator(config)(picture), picture)
    restored = trained(config)(picture)
    assert restored.shape == picture.shape and restored.dtype == tf.float32
    assert 1e-3 < np.abs(restored - picture).mean() < 0.5


def test_keras_defaults_of_other_programs_do_not_matter(other_keras_defaults):
    generator, picture = trained(LEVELS), pictures(15, 17)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    np.testing.assert_array_equal(generator(picture), trained(LEVELS)(picture))
    assert generator.input.dtype == generator.output.dtype == "float32"


@pytest.mark.parametrize(
    "config",
    [TINY, LEVELS, GeneratorConfig(8, 4, 3, 4), GeneratorConfig(8, 6, 1, 2, (4, 6, 4), (1, 3, 2))],
    ids=str,
)
def test_a_size_is_read_off_the_weights(config):
    size = read_size({weight.path: tuple(weight.shape) for weight in build_generator(config).weights})
    assert size.residual_blocks_of_levels == config.residual_blocks_of_levels
    assert dataclasses.replace(size, residual_blocks=config.residual_blocks) == config


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (GeneratorConfig(), 1_526_592),
        (PRESETS["quick"].generator, 385_440),
        (PRESETS["blind"].generator, 3_712_512),
        (GeneratorConfig(features=96, finer=(48, 96)), 3_214_080),
    ],
)
def test_number_of_parameters(config, parameters):
    assert build_generator(config).count_params() == parameters


def test_double_rrdb_of_three_dense_blocks_of_five_convolutions():
    generator = build_generator(GeneratorConfig(features=8, growth=4))
    inputs = {layer.name: layer.input.shape[-1] for layer in generator.layers if "_conv" in layer.name}
    expected = {
        f"rrdb{rrdb}_dense{dense}_conv{conv}": 8 + 4 * (conv - 1)
        for rrdb in (1, 2)
        for dense in (1, 2, 3)
        for conv in (1, 2, 3, 4, 5)
    }
    assert inputs == expected
    convolutions = [layer.name for layer in generator.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [name for name in convolutions if name not in expected] == [
        "shallow",
        "trunk",
        "reconstruction",
        "correction",
    ]
    assert generator.get_layer("rrdb1_dense1_conv1").activation.__name__ == "leaky_relu"


def test_finer_levels_surround_the_dense_blocks():
    generator = build_generator(LEVELS)
    channels = {layer.name: layer.output.shape[-1] for layer in generator.layers if "_block" in layer.name}
    blocks = {name.rpartition("_")[0] for name in channels}
    assert blocks == {f"{way}{level}_block{number}" for way in ("down", "up") for level in (1, 2) for number in (1, 2)}
    assert {size for name, size in channels.items() if "1_block" in name} == {4}
    assert {size for name, size in channels.items() if "2_block" in name} == {6}
    kernels = {layer.name: layer.kernel.shape for layer in generator.layers if hasattr(layer, "kernel")}
    assert kernels["down1_halve"] == (2, 2, 4, 6) and kernels["down2_halve"] == (2, 2, 6, 8)
    assert kernels["up2_double"] == (1, 1, 8, 24) and kernels["up1_double"] == (1, 1, 6, 16)


def test_levels_may_have_different_numbers_of_residual_blocks():
    generator = build_generator(dataclasses.replace(LEVELS, residual_blocks=(3, 1)))
    blocks = {layer.name.rpartition("_")[0] for layer in generator.layers if "_block" in layer.name}
    expected = {(1, 1), (1, 2), (1, 3), (2, 1)}
    assert blocks == {f"{way}{level}_block{number}" for way in ("down", "up") for level, number in expected}


@pytest.mark.parametrize(
    "config",
    [TINY, LEVELS, dataclasses.replace(LEVELS, residual_blocks=(3, 1))],
    ids=["one level", "three levels", "more blocks at the finest"],
)
def test_nothing_beyond_the_receptive_field_counts(config):
    generator, reach = trained(config), receptive_field(config)
    picture = pictures(8, 2 * reach + 64)
    changed = picture.copy()
    changed[:, :, :8] = 1 - changed[:, :, :8]
    difference = np.abs(generator(changed) - generator(picture)).max(axis=(0, 1, 3))
    assert difference[: reach // 4].min() > 0
    assert difference[8 + reach :].max() == 0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (GeneratorConfig(48, 24), 720),  # 672 were measured, by the memory that the process took at most
        (GeneratorConfig(96, 32, finer=(48, 96), residual_blocks=(3,)), 240),  # 232
        (GeneratorConfig(96, 32, finer=(8,)), 280),  # of the dense blocks again
    ],
)
def test_memory_is_that_of_the_widest_level(config, expected):
    assert memory_per_pixel(config) == expected


def test_residual_branches_are_scaled_by_a_fifth():
    generator = build_generator(GeneratorConfig(features=8, growth=4))
    scaled = [layer for layer in generator.layers if isinstance(layer, keras.layers.Rescaling)]
    assert len(scaled) == 2 * (3 + 1) and {layer.scale for layer in scaled} == {0.2}


def test_gradients_reach_every_layer_once_the_last_is_not_zero():
    generator = trained()  # of one level: a residual block's first convolution waits for its second
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(generator(pictures(16, 16), training=True)))
    gradients = tape.gradient(loss, generator.trainable_variables)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)


def test_untrained_generator_learns_from_its_last_layer_on():
    generator = build_generator(TINY)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(generator(pictures(16, 16), training=True)))
    gradients = tape.gradient(loss, generator.trainable_variables)
    assert np.abs(gradients[-1]).max() > 0 and np.abs(gradients[0]).max() == 0


def test_bfloat16_has_float32_weights_and_nearly_the_same_output():
    exact, fast = trained(), trained(dtype="mixed_bfloat16")
    assert {weight.dtype for weight in fast.weights} == {"float32"}
    assert fast.get_layer("rrdb1_dense1_conv1").compute_dtype == "bfloat16"
    picture = pictures(32, 32)
    expected, restored = exact(picture), fast(picture)
    assert restored.dtype == tf.float32
    error, correction = np.abs(restored - expected).max(), np.abs(expected - picture).max()
    assert 0 < error < 0.02 * correction


def test_no_lambda_layer():
    kinds = {type(layer).__name__ for layer in build_generator(TINY).layers}
    assert "Lambda" not in kinds and {"SpaceToDepth", "DepthToSpace"} <= kinds


@pytest.mark.parametrize("config", [TINY, LEVELS], ids=["one level", "three levels"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_keras_file_holds_the_same_generator(dtype, config, tmp_path):
    generator, picture = trained(config, dtype), pictures(15, 17)
    generator.save(tmp_path / "generator.keras")
    loaded = keras.models.load_model(tmp_path / "generator.keras")
    np.testing.assert_array_equal(loaded(picture), generator(picture))
    assert [layer.compute_dtype for layer in loaded.layers] == [layer.compute_dtype for layer in generator.layers]


def test_importing_the_package_alone_loads_nothing_heavy():
    code = "import sys, artifact_remover; assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("config", [TINY, LEVELS], ids=["one level", "three levels"])
@pytest.mark.parametrize("axis", [1, 2])
def test_shifting_the_picture_by_a_block_shifts_what_is_restored(config, axis):
    generator, block = trained(config), config.coarsest_scale
    reach = receptive_field(config) - block  # of the convolutions, which mistake an edge for the picture's
    picture = np.moveaxis(pictures(2 * reach + 32, 8), 1, axis)
    rows = np.moveaxis(generator(picture), axis, 1)[:, block:]
    shifted = np.moveaxis(generator(np.moveaxis(np.moveaxis(picture, axis, 1)[:, block:], 1, axis)), axis, 1)
    beyond_edges = slice(reach, -reach)
    np.testing.assert_allclose(shifted[:, beyond_edges], rows[:, beyond_edges], atol=1e-5)
    assert np.abs(shifted[:, :10] - rows[:, :10]).max() > 1e-3
