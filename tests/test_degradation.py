import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from data_prep import degradation
from data_prep.config import DegradationConfig
from data_prep.jpeg_programs import encode_with_jpegli, encode_with_mozjpeg

SUBSAMPLINGS = ("4:2:0", "4:2:2", "4:4:4")


@pytest.fixture(scope="module")
def patches():
    photo = data.chelsea()
    return np.stack([photo[top : top + 64, left : left + 64] for top in (0, 100, 200) for left in (0, 150, 300)])


def degrade(patches, seed, config):
    """Degrades patches that are not scaled: the clean ones come back as they were."""
    degraded, clean = degradation.degrade(patches, seed, config)
    np.testing.assert_array_equal(clean, patches)
    return degraded


def pillow_jpeg(photo, quality, chroma_subsampling):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=quality, subsampling=chroma_subsampling)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("chroma_subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [5, 10, 50, 95, 100])
def test_pixels_equal_pillows(patches, quality, chroma_subsampling):
    config = DegradationConfig(str(quality), chroma_subsampling)
    expected = [pillow_jpeg(patch, quality, chroma_subsampling) for patch in patches]
    np.testing.assert_array_equal(degrade(patches, 1, config), expected)


def test_lower_quality_is_further_from_the_photograph(patches):
    psnr = [
        peak_signal_noise_ratio(patches, degrade(patches, 1, DegradationConfig(q)).numpy())
        for q in ("10", "30", "50", "90")
    ]
    assert psnr == sorted(psnr)
    assert psnr[0] < psnr[-1] - 5


@pytest.mark.parametrize("level", [0, 77, 255])
def test_flat_patch_survives(level):
    flat = np.full((1, 32, 32, 3), level, np.uint8)
    degraded = degrade(flat, 1, DegradationConfig("10")).numpy().astype(int)
    assert abs(degraded - flat).max() <= 2


def test_block_edges_lie_at_multiples_of_8(patches):
    gray = degrade(patches, 1, DegradationConfig("10")).numpy().mean(axis=-1)
    steps = abs(np.diff(gray, axis=2)).mean(axis=(0, 1))
    strength = [steps[phase::8].mean() for phase in range(8)]
    assert np.argmax(strength) == 7  # between the pixels 7 and 8
    assert strength[7] > 1.5 * np.median(strength)


@pytest.mark.parametrize(
    "config",
    [
        DegradationConfig(),
        DegradationConfig("5-95", "both"),
        DegradationConfig("20-40", "both", clean_share=0.3, double_share=0.5),
        DegradationConfig("20-40,30", "4:2:0,4:2:0,4:2:2,4:4:4", 0.2, 0.3, "5-30", 0.3, 0.3, "libjpeg,mozjpeg,jpegli"),
    ],
    ids=["single", "range", "as before", "everything"],
)
def test_eager_and_mapped_are_bit_equal(patches, config):
    eager = degradation.degrade(patches, 42, config)
    mapped = tf.data.Dataset.from_tensors(patches).map(lambda batch: degradation.degrade(batch, 42, config))
    np.testing.assert_array_equal(eager, mapped.get_single_element())


def test_quality_is_drawn_per_patch_within_the_range(patches):
    same = np.repeat(patches[4:5], 60, axis=0)
    degraded = {patch.tobytes() for patch in degrade(same, 3, DegradationConfig("20-22")).numpy()}
    assert degraded == {pillow_jpeg(patches[4], quality, "4:2:0").tobytes() for quality in (20, 21, 22)}


def test_every_range_is_drawn_from_as_often(patches):
    same = np.repeat(patches[4:5], 200, axis=0)
    degraded = degrade(same, 3, DegradationConfig("90,5-6", "both")).numpy()
    share = {}
    for quality in (5, 6, 90):
        wanted = [pillow_jpeg(patches[4], quality, kind) for kind in ("4:2:0", "4:4:4")]
        share[quality] = np.mean([any((patch == each).all() for each in wanted) for patch in degraded])
    assert sum(share.values()) == 1
    assert 0.4 < share[90] < 0.6
    assert abs(share[5] - share[6]) < 0.15


def test_both_subsamplings_are_drawn(patches):
    same = np.repeat(patches[4:5], 20, axis=0)
    degraded = {patch.tobytes() for patch in degrade(same, 3, DegradationConfig("30", "both")).numpy()}
    assert degraded == {pillow_jpeg(patches[4], 30, kind).tobytes() for kind in ("4:2:0", "4:4:4")}


def test_subsamplings_are_drawn_as_often_as_they_are_listed(patches):
    same = np.repeat(patches[4:5], 200, axis=0)
    degraded = degrade(same, 3, DegradationConfig("30", "4:2:0,4:2:0,4:4:4,4:2:2")).numpy()
    share = {kind: (degraded == pillow_jpeg(patches[4], 30, kind)).all((1, 2, 3)).mean() for kind in SUBSAMPLINGS}
    assert sum(share.values()) == 1
    assert 0.4 < share["4:2:0"] < 0.6
    assert min(share.values()) > 0.15


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_programs_are_drawn_and_libjpeg_stands_in_for_what_they_cannot_code(patches, subsampling):
    same = np.repeat(patches[4:5], 60, axis=0)
    config = DegradationConfig("30-31", subsampling, programs="libjpeg,mozjpeg,jpegli")
    degraded = {patch.tobytes() for patch in degrade(same, 3, config).numpy()}

    def decode(content):
        return np.asarray(Image.open(io.BytesIO(content))).tobytes()

    expected = set()
    for quality in (30, 31):
        expected.add(pillow_jpeg(patches[4], quality, subsampling).tobytes())
        if subsampling != "4:2:2":
            expected.add(decode(encode_with_mozjpeg(patches[4], quality, subsampling == "4:2:0")))
        if subsampling == "4:2:0":
            expected.add(decode(encode_with_jpegli(patches[4], quality)))
    assert degraded == expected


def test_another_seed_draws_other_qualities(patches):
    config = DegradationConfig("5-95")
    assert (degrade(patches, 1, config).numpy() != degrade(patches, 2, config).numpy()).any()


def test_clean_share_is_left_as_it_is(patches):
    same = np.repeat(patches[4:5], 200, axis=0)
    degraded = degrade(same, 5, DegradationConfig(clean_share=0.25)).numpy()
    assert 0.15 < (degraded == same).all(axis=(1, 2, 3)).mean() < 0.35
    np.testing.assert_array_equal(degrade(patches, 5, DegradationConfig(clean_share=1.0)), patches)


def test_second_compression_adds_a_shifted_grid(patches):
    same = np.repeat(patches[4:5], 20, axis=0)
    once = degrade(same, 5, DegradationConfig("10")).numpy()
    twice = degrade(same, 5, DegradationConfig("10", double_share=1.0)).numpy()
    assert (twice != once).any(axis=(1, 2, 3)).all()
    assert len({patch.tobytes() for patch in twice}) > 15  # nearly every shift is another one
    assert peak_signal_noise_ratio(same, twice) < peak_signal_noise_ratio(same, once)


def test_shifted_grid_does_not_wrap_around():
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, None, :, None], (8, 64, 64, 3))
    degraded = degrade(ramp, 5, DegradationConfig("50", double_share=1.0)).numpy().astype(int)
    assert abs(degraded - ramp).max() < 25  # a pattern that wraps around would be 255 off


def grid_starts(patches, quality):
    """The columns, 0..7, at which blocks begin that `quality` has coded: it codes them again with least change."""
    changes = []
    for offset in range(16):
        moved = np.pad(patches, ((0, 0), (0, 0), (16 - offset, offset), (0, 0)), "symmetric")
        again = [pillow_jpeg(patch, quality, "4:4:4") for patch in moved]
        changes.append(abs(np.subtract(again, moved, dtype=int))[:, 16:-16, 32:-32].mean(axis=(1, 2, 3)))
    return np.argmin(changes, axis=0) % 8


def test_shifted_patch_is_compressed_once_on_a_grid_that_starts_elsewhere(patches):
    same = np.repeat(patches[4:5], 40, axis=0)
    degraded = degrade(same, 5, DegradationConfig("10", "4:4:4", shifted_share=1.0)).numpy()
    starts = grid_starts(degraded, 10)
    assert len(set(starts)) == 8
    # No further from the photograph than on its own grid: once, not twice.
    on_grid = peak_signal_noise_ratio(patches[4], pillow_jpeg(patches[4], 10, "4:4:4"))
    assert abs(np.mean([peak_signal_noise_ratio(patches[4], each) for each in degraded]) - on_grid) < 0.5


def test_shifted_share_leaves_the_others_as_they_were(patches):
    same = np.repeat(patches[4:5], 200, axis=0)
    degraded = degrade(same, 5, DegradationConfig("10", shifted_share=0.3)).numpy()
    assert 0.6 < (degraded == pillow_jpeg(patches[4], 10, "4:2:0")).all(axis=(1, 2, 3)).mean() < 0.8


@pytest.mark.parametrize("size", [16, 64])
def test_patches_are_scaled_by_one_half_to_two_with_their_clean_ones(size):
    """A ramp's slope tells the factor, and as nothing is lost at quality 100, the JPEG's is the clean one's."""
    ramp = np.broadcast_to(np.linspace(0, 255, size)[:, None, None], (300, size, size, 3)).astype(np.uint8)
    config = DegradationConfig("100", "4:4:4", scaled_share=1.0)
    degraded, clean = (patches.numpy().astype(float) for patches in degradation.degrade(ramp, 5, config))
    assert abs(degraded - clean).max() <= 3
    middle = clean[:, size // 2 - 3 : size // 2 + 3].mean(axis=(2, 3))
    factor = (255 / (size - 1)) / ((middle[:, -1] - middle[:, 0]) / 5)
    assert 0.45 < factor.min() < 0.6 and 1.7 < factor.max() < 2.2
    assert 0.9 < np.median(factor) < 1.1


def test_half_of_the_scaled_patches_are_compressed_again(patches):
    same = np.repeat(patches[4:5], 100, axis=0)
    config = DegradationConfig("10", "4:4:4", scaled_share=1.0)
    degraded, clean = (patches.numpy() for patches in degradation.degrade(same, 5, config))
    again = [pillow_jpeg(patch, 10, "4:4:4") for patch in degraded]
    change = abs(np.subtract(again, degraded, dtype=int)).mean(axis=(1, 2, 3))
    assert 0.4 < (change < 1).mean() < 0.6  # coded the same once more, little changes
    assert np.median(change[change >= 1]) > 3
    assert all(peak_signal_noise_ratio(each, patch) < 35 for each, patch in zip(clean, degraded, strict=True))


def test_scaled_share_leaves_the_others_as_they_were(patches):
    same = np.repeat(patches[4:5], 200, axis=0)
    config = DegradationConfig("10", scaled_share=0.3)
    scaled = degradation._draw(200, 5, config).scaled.numpy()
    degraded, clean = (patches.numpy() for patches in degradation.degrade(same, 5, config))
    assert 0.2 < scaled.mean() < 0.4
    assert (clean[~scaled] == same[~scaled]).all()
    assert (degraded[~scaled] == pillow_jpeg(patches[4], 10, "4:2:0")).all()


def test_some_scaled_patches_are_left_clean(patches):
    same = np.repeat(patches[4:5], 100, axis=0)
    config = DegradationConfig("10", clean_share=0.4, scaled_share=1.0)
    degraded, clean = (patches.numpy() for patches in degradation.degrade(same, 5, config))
    left = (degraded == clean).all(axis=(1, 2, 3))
    assert 0.3 < left.mean() < 0.5
    assert (clean[left] != same[left]).any(axis=(1, 2, 3)).mean() > 0.9  # the factor may be 1


def test_first_quality_puts_half_of_the_second_compressions_on_the_same_grid(patches):
    same = np.repeat(patches[4:5], 100, axis=0)
    # The second quality changes next to nothing, so that the first one's grid shows.
    config = DegradationConfig("100", "4:4:4", double_share=1.0, first_quality="10")
    starts = grid_starts(degrade(same, 5, config).numpy(), 10)
    assert 0.45 < np.mean(starts == 0) < 0.75  # an eighth of the other half starts there too


def test_second_quality_is_mostly_no_lower_than_the_first(patches):
    config = DegradationConfig("5-100", double_share=1.0, first_quality="60")
    drawn = degradation._draw(4000, 1, config)
    assert set(drawn.first_coding.numpy()) == {55}
    # Three of four, and of the others, which are drawn from all, 41 of 96.
    assert abs(np.mean(drawn.coding.numpy() >= 55) - (0.75 + 0.25 * 41 / 96)) < 0.03
    assert drawn.coding.numpy().max() == 95


def test_first_quality_may_lie_above_the_second(patches):
    config = DegradationConfig("10", double_share=1.0, first_quality="90")
    drawn = degradation._draw(50, 1, config)
    assert (drawn.coding.numpy() == 0).all() and (drawn.first_coding.numpy() == 80).all()
    assert degrade(patches, 1, config).shape == patches.shape


def test_single_quality_builds_a_single_branch():
    def count_encoders(quality):
        traced = tf.function(lambda batch: degradation.degrade(batch, 1, DegradationConfig(quality)))
        graph = traced.get_concrete_function(tf.TensorSpec([2, 16, 16, 3], tf.uint8)).graph.as_graph_def()
        nodes = [node.op for function in graph.library.function for node in function.node_def]
        return nodes.count("EncodeJpeg")

    assert count_encoders("10") == 1
    assert count_encoders("5-95") == 91
