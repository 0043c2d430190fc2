import doctest
import math

import numpy as np
import pytest
import tensorflow as tf

from artifact_remover.training import losses
from artifact_remover.training.losses import (
    adversarial_loss,
    discriminator_loss,
    l1_loss,
    log_mse_loss,
    perceptual_loss,
    pixel_loss,
    rmse_loss,
)

REGRESSIONS = [pixel_loss, l1_loss, rmse_loss, log_mse_loss, perceptual_loss]
half_precisions = pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])


def random(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def gradient(loss, value):
    value = tf.constant(value)
    with tf.GradientTape() as tape:
        tape.watch(value)
        result = loss(value)
    return tape.gradient(result, value).numpy()


def log_sigmoid(logits):
    return -np.log1p(np.exp(-logits.astype(float)))


def test_pixel_loss_is_the_mean_squared_error():
    clean, restored = random(2, 9, 7, 3), random(2, 9, 7, 3, seed=1)
    loss = pixel_loss(clean, restored)
    assert loss.dtype == tf.float32 and loss.shape == []
    np.testing.assert_allclose(loss, np.mean((clean - restored) ** 2), rtol=1e-6)
    np.testing.assert_allclose(loss, pixel_loss(restored, clean), rtol=1e-6)


def test_log_mse_loss_gains_the_same_from_a_decibel_on_every_patch():
    error = np.float32([0.3, 0.03])[:, np.newaxis, np.newaxis, np.newaxis] * np.ones([2, 8, 8, 3], np.float32)
    zero, decibel = np.zeros_like(error), np.float32(10 ** (-1 / 20))  # in the error, so one in PSNR

    def gain(patch):
        better = error.copy()
        better[patch] *= decibel
        return float(log_mse_loss(zero, error) - log_mse_loss(zero, better))

    expected = 1e-3 * math.log(10) / 10 / 2
    assert gain(0) == pytest.approx(expected, rel=0.01)
    assert gain(1) == pytest.approx(expected, rel=0.12)  # the floor, 1e-4, is a ninth of its MSE


def test_rmse_loss_is_nearly_the_mean_of_each_patchs_root_mean_squared_error():
    clean, restored = random(2, 9, 7, 3), random(2, 9, 7, 3, seed=1)
    each = np.sqrt(np.mean((clean - restored) ** 2, axis=(1, 2, 3)))
    assert float(rmse_loss(clean, restored)) == pytest.approx(each.mean(), abs=0.01)


@pytest.mark.parametrize(("loss", "weight"), [(log_mse_loss, 1), (rmse_loss, 0.06)])
def test_a_loss_of_each_patch_weighs_as_much_as_the_mean_squared_error_where_that_is_a_thousandth(loss, weight):
    restored = np.full([2, 8, 8, 3], 10**-1.5, np.float32)
    slopes = [gradient(lambda value, loss=each: loss(0 * value, value), restored) for each in (loss, pixel_loss)]
    np.testing.assert_allclose(weight * slopes[0], slopes[1], rtol=0.1)


def test_l1_loss_is_the_mean_absolute_error():
    clean, restored = random(2, 9, 7, 3), random(2, 9, 7, 3, seed=1)
    assert float(l1_loss(clean, restored)) == pytest.approx(np.mean(abs(clean - restored)), rel=1e-5)


@pytest.mark.parametrize("loss", [log_mse_loss, rmse_loss])
def test_below_the_floor_an_error_counts_as_in_a_mean_square(loss):
    def slope(error, floor):
        restored = np.full([1, 8, 8, 3], error, np.float32)
        return gradient(lambda value: loss(0 * value, value, floor), restored)[0, 0, 0, 0]

    assert slope(2e-4, 1e-4) / slope(1e-4, 1e-4) == pytest.approx(2, rel=0.01)  # 74 and 80 dB: far below
    assert slope(1e-2, 1e-5) > 1.3 * slope(1e-2, 1e-4)  # 40 dB is below the one floor and above the other


def test_perceptual_loss_is_the_error_relative_to_the_clean_features():
    clean, restored = 300 * random(2, 5, 4, 8), 300 * random(2, 5, 4, 8, seed=1)
    loss = perceptual_loss(clean, restored)
    assert loss.dtype == tf.float32 and loss.shape == []
    np.testing.assert_allclose(loss, np.mean((clean - restored) ** 2) / np.mean(clean**2), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e4])
def test_perceptual_loss_has_no_unit(scale):
    clean, restored = random(2, 5, 4, 8), random(2, 5, 4, 8, seed=1)
    expected = perceptual_loss(clean, restored)
    np.testing.assert_allclose(perceptual_loss(scale * clean, scale * restored), expected, rtol=1e-5)


def test_perceptual_loss_of_a_zero_picture_is_one_and_of_zero_features_finite():
    clean, zero = random(1, 4, 4, 8), np.zeros((1, 4, 4, 8), np.float32)
    np.testing.assert_allclose(perceptual_loss(clean, zero), 1, rtol=1e-5)
    assert perceptual_loss(zero, zero) == 0
    assert perceptual_loss(zero, clean) == 0


def test_perceptual_loss_sends_no_gradient_through_its_denominator():
    clean, restored = random(1, 4, 4, 8), random(1, 4, 4, 8, seed=1)
    to_clean = gradient(lambda value: perceptual_loss(value, restored), clean)
    to_restored = gradient(lambda value: perceptual_loss(clean, value), restored)
    np.testing.assert_allclose(to_clean, -to_restored, rtol=1e-6)


@pytest.mark.parametrize("loss", REGRESSIONS)
def test_equal_inputs_cost_nothing(loss):
    clean = random(2, 6, 6, 3)
    assert loss(clean, clean) == 0
    assert not gradient(lambda value: loss(clean, value), clean).any()


@pytest.mark.parametrize("loss", REGRESSIONS)
def test_a_step_down_the_gradient_comes_closer(loss):
    clean, restored = random(1, 6, 6, 3), random(1, 6, 6, 3, seed=1)
    nearer = restored - 0.1 * gradient(lambda value: loss(clean, value), restored)
    assert loss(clean, nearer) < loss(clean, restored)


@pytest.mark.parametrize("loss", REGRESSIONS)
def test_different_shapes_are_refused_rather_than_broadcast(loss):
    with pytest.raises(ValueError, match="incompatible"):
        loss(random(2, 6, 6, 3), random(2, 6, 6, 1))
    with pytest.raises(ValueError, match="incompatible"):
        loss(random(2, 6, 6, 3), random(1, 6, 6, 3))


@half_precisions
@pytest.mark.parametrize("loss", REGRESSIONS)
def test_half_precision_pictures_and_features_are_computed_in_float32(loss, dtype):
    clean, restored = (
        tf.cast(200 * random(2, 32, 32, 3), dtype),
        tf.cast(200 * random(2, 32, 32, 3, seed=1), dtype),
    )
    expected = loss(tf.cast(clean, tf.float32), tf.cast(restored, tf.float32))
    assert loss(clean, restored).dtype == tf.float32
    assert loss(clean, restored) == expected


@pytest.mark.parametrize("shape", [(2, 1), (3, 1, 1, 1), (2, 6, 9, 1)])
def test_cross_entropies_are_means_over_patches_of_any_layout(shape):
    clean, restored = 4 * random(*shape) - 1, 4 * random(*shape, seed=1) - 3
    expected = -(log_sigmoid(clean).mean() + log_sigmoid(-restored).mean()) / 2
    np.testing.assert_allclose(discriminator_loss(clean, restored), expected, rtol=1e-5)
    np.testing.assert_allclose(adversarial_loss(restored), -log_sigmoid(restored).mean(), rtol=1e-5)


def test_the_two_halves_of_the_discriminator_loss_weigh_the_same():
    clean, restored = np.zeros((1, 2, 2, 1), np.float32), np.full((7, 5, 5, 1), 2, np.float32)
    expected = (math.log(2) + math.log(1 + math.e**2)) / 2
    np.testing.assert_allclose(discriminator_loss(clean, restored), expected, rtol=1e-5)


def test_the_discriminator_loss_is_symmetric_under_changing_sides():
    clean, restored = random(2, 3, 3, 1), random(2, 3, 3, 1, seed=1)
    np.testing.assert_allclose(discriminator_loss(clean, restored), discriminator_loss(-restored, -clean), rtol=1e-6)


def test_guessing_costs_log_2():
    logits = np.zeros((2, 4, 4, 1), np.float32)
    np.testing.assert_allclose(discriminator_loss(logits, logits), math.log(2), rtol=1e-6)
    np.testing.assert_allclose(adversarial_loss(logits), math.log(2), rtol=1e-6)


def test_the_discriminator_raises_clean_logits_and_lowers_restored_ones():
    logits = 6 * random(2, 4, 4, 1) - 3
    assert np.all(gradient(lambda value: discriminator_loss(value, logits), logits) < 0)
    assert np.all(gradient(lambda value: discriminator_loss(logits, value), logits) > 0)


def test_the_generator_raises_the_logits_most_where_its_forgery_is_known():
    step = -gradient(adversarial_loss, np.float32([-5, 0, 5]))
    assert np.all(step > 0) and np.all(np.diff(step) < 0)


def test_sure_logits_stay_finite():
    sure = np.full((1, 2, 2, 1), 1e4, np.float32)
    assert discriminator_loss(sure, -sure) == 0
    np.testing.assert_allclose(discriminator_loss(-sure, sure), 1e4)
    np.testing.assert_allclose(adversarial_loss(-sure), 1e4)
    assert np.isfinite(gradient(adversarial_loss, -sure)).all()


@half_precisions
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits = tf.cast(9 * random(64, 6, 6, 1) - 4, dtype)
    in_float32 = tf.cast(logits, tf.float32)
    for value, expected in [
        (adversarial_loss(logits), adversarial_loss(in_float32)),
        (discriminator_loss(logits, logits), discriminator_loss(in_float32, in_float32)),
    ]:
        assert value.dtype == tf.float32
        assert value == expected


def test_losses_run_in_a_graph_of_unknown_size():
    clean, restored = random(2, 6, 5, 3), random(2, 6, 5, 3, seed=1)
    for loss, arguments in [
        (pixel_loss, (clean, restored)),
        (perceptual_loss, (clean, restored)),
        (discriminator_loss, (clean, restored)),
        (adversarial_loss, (restored,)),
    ]:
        unknown = [tf.TensorSpec([None, None, None, 3])] * len(arguments)
        in_graph = tf.function(loss, input_signature=unknown)(*arguments)
        np.testing.assert_allclose(in_graph, loss(*arguments), rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 96, 96, 3), (1, 64, 33, 3), (3, 16, 16, 3), (1, 2, 2, 3)])
def test_a_checkerboard_is_charged_in_full_wherever_it_is(shape):
    clean = random(*shape)
    rows, columns = np.indices(shape[1:3])
    signs = np.where(columns < shape[2] // 2, 1, -1) if shape[2] == 96 else 1  # turns over in the middle
    checkerboard = (0.1 * signs * (-1.0) ** (rows + columns))[..., np.newaxis].astype(np.float32)
    share = 2 / 3 if shape[2] == 96 else 1  # in the middle one of three windows it cancels
    assert float(losses.grid_loss(clean, clean + checkerboard)) == pytest.approx(0.01 * share, rel=1e-3)


def test_tints_and_slow_errors_are_no_grid():
    clean = random(2, 64, 64, 3)
    slow = np.broadcast_to(np.linspace(-0.1, 0.1, 64, dtype=np.float32)[:, np.newaxis, np.newaxis], clean.shape)
    assert float(losses.grid_loss(clean, clean + 0.1)) == pytest.approx(0, abs=1e-9)
    assert float(losses.grid_loss(clean, clean + slow)) < 1e-5


def test_drift_is_what_the_errors_of_all_blocks_of_a_patch_have_in_common():
    clean = np.random.default_rng(0).random((2, 32, 16, 3), np.float32)
    error = np.random.default_rng(1).normal(0, 0.1, clean.shape).astype(np.float32)
    common = np.mean([error[:, y : y + 8, x : x + 8] for y in range(0, 32, 8) for x in (0, 8)], axis=0)
    assert float(losses.drift_loss(clean, clean + error)) == pytest.approx(np.mean(common**2), rel=1e-4)


@pytest.mark.parametrize("grid", [2, 8, 64], ids=["checkerboard", "block grid", "tint"])
def test_drift_charges_grids_and_tints_in_full_even_if_the_next_patch_has_the_opposite(grid):
    clean = np.full((2, 64, 64, 3), 0.5, np.float32)
    habit = np.where((np.arange(64) % grid < grid // 2) | (grid == 64), 0.1, -0.1).astype(np.float32)
    habit = np.broadcast_to(habit[:, np.newaxis], clean.shape[1:])
    assert float(losses.drift_loss(clean, clean + habit)) == pytest.approx(0.01, rel=1e-3)
    assert float(losses.drift_loss(clean, clean + np.stack([habit, -habit]))) == pytest.approx(0.01, rel=1e-3)


def test_errors_that_cancel_within_a_patch_are_no_drift():
    clean = np.full((2, 64, 64, 3), 0.5, np.float32)
    halves = np.where(np.arange(64) < 32, 0.1, -0.1).astype(np.float32)[:, np.newaxis]
    assert float(losses.drift_loss(clean, clean + halves)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("axis", [1, 2])
def test_blocking_is_charged_in_full_on_the_block_grid_alone(axis):
    clean = random(2, 32, 48, 3)
    blocks = np.where(np.arange(clean.shape[axis]) // 8 % 2, 0.1, 0).astype(np.float32)
    blocks = np.expand_dims(blocks, [0, 3 - axis, 3])
    assert float(losses.blocking_loss(clean, clean + blocks)) == pytest.approx(0.01 / 2, rel=1e-3)  # of both axes
    shifted = np.roll(blocks, 4, axis)
    assert float(losses.blocking_loss(clean, clean + shifted)) == pytest.approx(0, abs=1e-9)


def test_tints_and_what_cancels_along_a_border_are_no_blocking():
    clean = random(2, 32, 48, 3)
    texture = (0.1 * (-1.0) ** np.sum(np.indices((32, 48)), axis=0))[..., np.newaxis].astype(np.float32)
    for error in (0.1, texture):
        assert float(losses.blocking_loss(clean, clean + error)) == pytest.approx(0, abs=1e-9)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(losses).failed == 0
