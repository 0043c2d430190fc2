import numpy as np
import pytest
import tensorflow as tf

from artifact_remover.judging import metrics
from artifact_remover.training.losses import perceptual_loss
from artifact_remover.training.validation import CHANNELS, Validation

CLEAN = np.random.default_rng(0).random([6, 32, 32, 3], np.float32)
DEGRADED = np.round(CLEAN * 16) / 16


@pytest.fixture(scope="module")
def validation():
    return Validation(tf.data.Dataset.from_tensor_slices((DEGRADED, CLEAN)).batch(4))


def test_the_jpeg_itself_scores_what_the_identity_scores(validation):
    assert validation.score(tf.identity)[0] == validation.jpeg
    assert set(validation.jpeg) == {
        "psnr",
        "ssim",
        "psnr_b",
        "color_shift",
        "perceptual",
        *(f"{channel}_shift" for channel in CHANNELS),
    }


def test_measures_are_means_over_all_patches_however_they_are_batched(validation):
    for name in ("psnr", "ssim", "psnr_b"):
        each = getattr(metrics, name)(CLEAN, DEGRADED)
        assert validation.jpeg[name] == pytest.approx(float(np.mean(each)), rel=1e-5)


def test_clean_patches_do_not_drown_the_others(validation):
    degraded = np.concatenate([CLEAN[:3], DEGRADED[3:]])
    mixed = Validation(tf.data.Dataset.from_tensor_slices((degraded, CLEAN)).batch(4))
    assert mixed.jpeg["psnr"] == pytest.approx(float(np.mean(metrics.psnr(CLEAN[3:], DEGRADED[3:]))), rel=1e-5)
    assert mixed.jpeg["ssim"] > validation.jpeg["ssim"]


def test_a_perfect_generator_is_better_than_the_jpeg(validation):
    clean = iter([CLEAN[:4], CLEAN[4:]])
    scores, _ = validation.score(lambda degraded: next(clean))
    assert scores["psnr"] > validation.jpeg["psnr"] and scores["ssim"] == pytest.approx(1)
    assert scores["perceptual"] == scores["color_shift"] == pytest.approx(0, abs=1e-6)


def test_color_shift_is_that_of_all_patches_together():
    flat = np.full([4, 32, 32, 3], 0.5, np.float32)
    signs = np.array([1, -1, 1, -1], np.float32)[:, None, None, None]
    validation = Validation(tf.data.Dataset.from_tensor_slices((flat, flat)).batch(4))
    swaying, _ = validation.score(lambda degraded: degraded + signs * 8 / 255)
    drifting, _ = validation.score(lambda degraded: degraded - np.float32([0, 0, 8 / 255]))
    assert swaying["color_shift"] == pytest.approx(0, abs=1e-3)
    assert drifting["color_shift"] == pytest.approx(8, abs=1e-3)


def test_pictures_show_before_after_and_clean(validation):
    _, pictures = validation.score(lambda degraded: degraded * 2 - 0.5)  # leaves 0..1, so is clipped
    assert pictures.dtype == np.uint8 and pictures.shape == (4, 32, 3 * 32, 3)
    before, after, clean = np.split(pictures, 3, axis=2)
    np.testing.assert_array_equal(before, np.round(DEGRADED[:4] * 255))
    np.testing.assert_array_equal(after, np.round(np.clip(DEGRADED[:4] * 2 - 0.5, 0, 1) * 255))
    np.testing.assert_array_equal(clean, np.round(CLEAN[:4] * 255))


def test_accuracy_of_clean_and_of_restored_apart(validation):
    def judge(patches):  # takes whatever is brighter than clean patches for restored
        return 0.75 - tf.reduce_mean(patches, [1, 2, 3], keepdims=True)

    assert validation.accuracy(judge, lambda degraded: degraded + 1) == {
        "accuracy_clean": 1.0,
        "accuracy_restored": 1.0,
    }
    assert validation.accuracy(judge, tf.identity)["accuracy_restored"] == 0.0


def test_with_vgg_features_the_perceptual_score_is_theirs():
    def distance(clean, restored):
        return perceptual_loss(clean[:, ::2, ::2], restored[:, ::2, ::2])

    batches = tf.data.Dataset.from_tensor_slices((np.zeros_like(CLEAN), CLEAN)).batch(6)
    assert Validation(batches, distance).jpeg["perceptual"] == pytest.approx(1)  # as wrong as all zeros


def test_a_smaller_last_batch_counts_no_more_in_the_perceptual_score():
    def distance(clean, restored):
        return tf.reduce_mean(tf.abs(clean - restored))

    degraded = np.concatenate([DEGRADED[:4], CLEAN[4:]])
    batches = tf.data.Dataset.from_tensor_slices((degraded, CLEAN)).batch(4)
    expected = float(np.mean(np.abs(CLEAN - degraded)))
    assert Validation(batches, distance).jpeg["perceptual"] == pytest.approx(expected, rel=1e-5)
