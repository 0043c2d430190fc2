import doctest
import io
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from artifact_remover.judging import metrics
from artifact_remover.judging.metrics import MAX_DECIBELS, color_shift, discriminator_accuracy, psnr, psnr_b, ssim

PICTURES = Path(__file__).resolve().parents[2] / "shared" / "data" / "test"
MEASURES = [psnr, ssim, psnr_b]
everywhere = pytest.mark.parametrize("measure", MEASURES)


def pair(height=40, width=48, pictures=2, noise=0.05, seed=0):
    """Smooth random pictures, and the same with noise; float32 in [0, 1]."""
    random = np.random.default_rng(seed)
    clean = random.random((pictures, height, width, 3), np.float32).cumsum(1).cumsum(2)
    clean /= clean.max()
    return clean, np.clip(clean + noise * random.standard_normal(clean.shape, np.float32), 0, 1)


def jpeg(picture, quality):
    """Codes a uint8 [H, W, 3] or [H, W] picture as a 4:2:0 JPEG and decodes it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=2)
    return np.asarray(Image.open(file))


def as_batch(picture):
    """uint8 [H, W, 3] or [H, W] as float32 [1, H, W, C] in [0, 1]."""
    return np.float32(np.atleast_3d(picture)[np.newaxis]) / 255


def psnr_b_by_loops(clean, restored):
    """PSNR-B of one float [H, W, C] pair in [0, 1] from the paper's definitions, step by step."""
    height, width, channels = restored.shape
    if channels == 3:
        luma = (restored.astype(float) @ [65.481, 128.553, 24.966] + 16) / 255
    else:
        luma = restored[..., 0].astype(float)
    on_edge, elsewhere = [], []
    for y in range(height):
        for x in range(width):
            if x + 1 < width:
                (on_edge if (x + 1) % 8 == 0 else elsewhere).append((luma[y, x] - luma[y, x + 1]) ** 2)
            if y + 1 < height:
                (on_edge if (y + 1) % 8 == 0 else elsewhere).append((luma[y, x] - luma[y + 1, x]) ** 2)
    edges = height * (width / 8 - 1) + width * (height / 8 - 1)
    others = height * (width - 1) + width * (height - 1) - edges
    at_edges, inside = sum(on_edge) / edges, sum(elsewhere) / others
    blocking = math.log2(8) / math.log2(min(height, width)) * max(0, at_edges - inside)
    error = np.mean((clean.astype(float) - restored.astype(float)) ** 2)
    return 10 * math.log10(1 / (error + blocking))


def test_psnr_equals_scikit_image():
    clean, restored = pair()
    expected = [peak_signal_noise_ratio(*each, data_range=1) for each in zip(clean, restored, strict=True)]
    np.testing.assert_allclose(psnr(clean, restored), expected, rtol=1e-5)


def test_ssim_equals_scikit_image():
    clean, restored = pair()
    expected = [ssim_of_scikit_image(*each) for each in zip(clean, restored, strict=True)]
    np.testing.assert_allclose(ssim(clean, restored), expected, atol=1e-4)


def test_ssim_of_a_good_jpeg_is_right_to_five_digits():
    """`tf.image.ssim` is off by 0.00007 on this one, and by up to 0.001 on LIVE1."""
    clean, restored = as_batch(data.coffee()), as_batch(jpeg(data.coffee(), 95))
    np.testing.assert_allclose(ssim(clean, restored), [ssim_of_scikit_image(clean[0], restored[0])], atol=2e-5)


def ssim_of_scikit_image(clean, restored):
    return structural_similarity(
        np.float64(clean),
        np.float64(restored),
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=-1,
    )


@pytest.mark.parametrize("size", [(16, 16), (40, 48), (37, 51), (17, 90)])
@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_b_equals_a_loop_over_the_pixels(size, channels):
    clean, _ = pair(*size)
    restored = np.stack([as_batch(jpeg(np.uint8(255 * each), 10))[0] for each in clean])
    clean, restored = clean[..., :channels], restored[..., :channels]
    expected = [psnr_b_by_loops(*each) for each in zip(clean, restored, strict=True)]
    np.testing.assert_allclose(psnr_b(clean, restored), expected, rtol=1e-5)
    assert np.all(psnr_b(clean, restored) < psnr(clean, restored)), "a JPEG of quality 10 shows its blocks"


def test_psnr_b_is_psnr_where_no_step_lies_on_the_grid():
    clean, _ = pair(32, 32)
    shifted = np.pad(clean[:, 4:, 4:], [(0, 0), (0, 4), (0, 4), (0, 0)])
    for restored in (np.full_like(clean, 0.5), shifted):
        np.testing.assert_allclose(psnr_b(clean, restored), psnr(clean, restored), rtol=1e-6)


def test_psnr_b_looks_for_blocks_in_the_restored_picture_only():
    flat = np.full((1, 16, 16, 3), 0.5, np.float32)
    blocks = flat.copy()
    blocks[:, :, 8:] += 0.1
    assert psnr_b(blocks, flat)[0] == psnr(blocks, flat)[0]
    assert psnr_b(flat, blocks)[0] < psnr(flat, blocks)[0] - 1


@everywhere
def test_equal_pictures_have_the_best_value(measure):
    clean, _ = pair()
    flat = np.full_like(clean, 0.3)
    best = 1.0 if measure is ssim else MAX_DECIBELS
    assert np.all(np.abs(measure(flat, flat) - best) < 1e-4)
    if measure is not psnr_b:  # which may see blocks in the original itself
        assert np.all(np.abs(measure(clean, clean) - best) < 1e-4)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_the_order_of_the_pictures_does_not_matter(measure):
    clean, restored = pair()
    np.testing.assert_allclose(measure(clean, restored), measure(restored, clean), rtol=1e-6)


@everywhere
def test_more_noise_is_worse(measure):
    values = np.array([measure(*pair(noise=noise)) for noise in (0.01, 0.05, 0.2)])
    assert np.all(np.diff(values, axis=0) < 0)
    assert np.all(np.abs(values) < (1 if measure is ssim else MAX_DECIBELS))


@everywhere
def test_a_picture_is_judged_alone(measure):
    clean, restored = pair(pictures=3)
    alone = [measure(clean[i : i + 1], restored[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(measure(clean, restored), alone, rtol=1e-5)


@pytest.mark.parametrize("measure", [*MEASURES, color_shift])
def test_a_graph_of_unknown_size_gives_the_eager_value(measure):
    unknown = tf.TensorSpec([None, None, None, 3])
    clean, restored = pair(37, 51)
    in_graph = tf.function(measure, input_signature=[unknown, unknown])(clean, restored)
    np.testing.assert_allclose(in_graph, measure(clean, restored), rtol=1e-5)


@everywhere
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
def test_any_precision_is_computed_in_float32(measure, dtype):
    clean, restored = (tf.cast(image, dtype) for image in pair())
    value = measure(clean, restored)
    assert value.dtype == tf.float32 and value.shape == [2]
    expected = measure(tf.cast(clean, tf.float32), tf.cast(restored, tf.float32))
    np.testing.assert_array_equal(value, expected)


@everywhere
def test_gradients_reach_the_restored_picture(measure):
    clean, restored = map(tf.constant, pair())
    with tf.GradientTape() as tape:
        tape.watch(restored)
        value = measure(clean, restored)
    gradient = tape.gradient(value, restored).numpy()
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize("measure", [*MEASURES, color_shift])
def test_what_is_not_two_pictures_in_0_1_is_refused(measure):
    clean, restored = pair()
    with pytest.raises(ValueError, match=r"in \[0, 1\].* from 0 to 255"):
        measure(clean, 255 * restored / restored.max())
    with pytest.raises(ValueError, match=r"in \[0, 1\].*-1 to"):
        measure(2 * (clean - clean.min()) - 1, restored)
    with pytest.raises(ValueError, match="uint8"):
        measure(np.uint8(255 * clean), np.uint8(255 * restored))
    with pytest.raises(ValueError, match="one shape"):
        measure(clean, restored[:, :-1])
    with pytest.raises(ValueError, match="one shape"):
        measure(clean, restored[..., :1])
    with pytest.raises(ValueError, match="one shape"):
        measure(clean[0], restored[0])


@pytest.mark.parametrize(("measure", "smallest"), [(ssim, 11), (psnr_b, 16)])
def test_too_small_a_picture_is_refused(measure, smallest):
    assert np.isfinite(measure(*pair(smallest, smallest))).all()
    for size in [(smallest - 1, 40), (40, smallest - 1)]:
        with pytest.raises(ValueError, match=f"at least {smallest} pixels"):
            measure(*pair(*size))


def test_psnr_b_refuses_two_channels():
    clean, restored = pair()
    with pytest.raises(ValueError, match="one or three channels: 2"):
        psnr_b(clean[..., :2], restored[..., :2])


def test_a_slight_overshoot_is_counted_not_refused():
    clean = np.ones((1, 16, 16, 3), np.float32)
    np.testing.assert_allclose(psnr(clean, clean + 0.1), [20], rtol=1e-5)


@pytest.mark.parametrize("measure", [*MEASURES, color_shift])
def test_a_broken_picture_scores_nan_not_a_number_that_looks_right(measure):
    clean, restored = pair()
    restored[1, 20, 20] = np.nan
    value = np.reshape(measure(clean, restored), [2, -1])
    assert np.isfinite(value[0]).all() and np.isnan(value[1]).all()


def test_psnr_and_color_shift_take_a_single_pixel():
    black, gray = np.zeros((1, 1, 1, 3), np.float32), np.full((1, 1, 1, 3), 0.1, np.float32)
    np.testing.assert_allclose(psnr(black, gray), [20], rtol=1e-5)
    np.testing.assert_allclose(color_shift(black, gray), [[25.5, 25.5, 25.5]], rtol=1e-5)


def test_color_shift_is_signed_per_picture_and_channel():
    clean = np.full((2, 20, 30, 3), 0.5, np.float32)
    levels = np.float32([[17, 0, -3], [-0.5, 1, 0]])
    shift = color_shift(clean, clean + levels[:, None, None] / 255)
    assert shift.dtype == tf.float32
    np.testing.assert_allclose(shift, levels, atol=1e-3)
    np.testing.assert_allclose(color_shift(clean + levels[:, None, None] / 255, clean), -levels, atol=1e-3)


def test_color_shift_sees_the_mean_only():
    clean, _ = pair()
    np.testing.assert_allclose(color_shift(clean, clean[:, ::-1, ::-1]), np.zeros((2, 3)), atol=1e-3)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_discriminator_accuracy_is_the_share_on_the_right_side_of_zero(dtype):
    logits = tf.constant([[[[3.0], [-1.0]], [[0.1], [0.0]]], [[[-2.0], [-1.0]], [[-5.0], [-0.1]]]], dtype)
    assert discriminator_accuracy(logits, clean=True).numpy().tolist() == [0.5, 0]
    assert discriminator_accuracy(logits, clean=False).numpy().tolist() == [0.25, 1]
    assert discriminator_accuracy(logits[:, 0, 0, 0], clean=True).numpy().tolist() == [1, 0]


@pytest.mark.skipif(not (PICTURES / "live1").is_dir(), reason=f"no LIVE1 pictures in {PICTURES}")
@pytest.mark.parametrize(
    ("quality", "published"),
    [
        (10, (25.69, 24.20, 0.7433)),
        pytest.param(20, (28.06, 26.49, 0.8256), marks=pytest.mark.slow),
        pytest.param(30, (29.37, 27.84, 0.8615), marks=pytest.mark.slow),
        (40, (30.28, 28.83, 0.8821)),
    ],
)
def test_jpeg_scores_on_live1_as_published(quality, published):
    check_baseline("live1", quality, published)


@pytest.mark.skipif(not (PICTURES / "classic5").is_dir(), reason=f"no Classic5 pictures in {PICTURES}")
@pytest.mark.parametrize(
    ("quality", "published"),
    [
        (10, (27.82, 25.21, 0.7595)),
        (20, (30.12, 27.50, 0.8344)),
        (30, (31.48, 28.94, 0.8666)),
        (40, (32.43, 29.92, 0.8849)),
    ],
)
def test_gray_jpeg_scores_on_classic5_as_published(quality, published):
    check_baseline("classic5", quality, published)


def check_baseline(folder, quality, published):
    """Compare PSNR, PSNR-B and SSIM of the JPEG itself, means over a test set, with the published ones."""
    pictures = [np.asarray(Image.open(path)) for path in sorted((PICTURES / folder).glob("*.png"))]
    scores = [
        [float(measure(as_batch(each), as_batch(jpeg(each, quality)))[0]) for measure in (psnr, psnr_b, ssim)]
        for each in pictures
    ]
    assert len(scores) == {"live1": 29, "classic5": 5}[folder]
    np.testing.assert_array_less(np.abs(np.mean(scores, axis=0) - published), [0.02, 0.02, 0.0005])


def test_gmsd_is_the_published_formula():
    rng = np.random.default_rng(0)
    clean = rng.random((20, 24), np.float32)
    restored = np.clip(clean + rng.normal(0, 0.1, clean.shape), 0, 1).astype(np.float32)

    def gradient(image):
        half = image.reshape(10, 2, 12, 2).mean(axis=(1, 3))
        across = np.array([[half[y : y + 3, x] - half[y : y + 3, x + 2] for x in range(10)] for y in range(8)])
        down = np.array([[half[y, x : x + 3] - half[y + 2, x : x + 3] for x in range(10)] for y in range(8)])
        return np.hypot(across.sum(axis=-1) / 3, down.sum(axis=-1) / 3)

    first, second = gradient(clean), gradient(restored)
    similarity = (2 * first * second + 170 / 255**2) / (first**2 + second**2 + 170 / 255**2)
    measured = metrics.gmsd(clean[np.newaxis, ..., np.newaxis], restored[np.newaxis, ..., np.newaxis])
    assert float(measured[0]) == pytest.approx(similarity.std(), rel=1e-4)


def test_gmsd_grows_with_the_damage_and_refuses_tiny_pictures():
    clean = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    noise = np.random.default_rng(1).normal(0, 1, clean.shape).astype(np.float32)
    little, much = (float(metrics.gmsd(clean, np.clip(clean + each * noise, 0, 1))[0]) for each in (0.05, 0.2))
    assert 0 < little < much
    with pytest.raises(ValueError, match="at least 6"):
        metrics.gmsd(clean[:, :5], clean[:, :5])


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(metrics).failed == 0
