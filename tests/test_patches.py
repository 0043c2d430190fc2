from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from skimage import data

from data_prep.config import DataConfig
from data_prep.patches import ComplementaryColors, cut_graphic_patches, cut_patches, cut_validation_patches

PLAIN = DataConfig(patch_size=32, patches_per_photo=4, color_augmentation=0)
COLORFUL = DataConfig(patch_size=32, patches_per_photo=4)


@pytest.fixture(scope="module")
def photo():
    return data.chelsea()


def is_in(patch, photo):
    windows = np.lib.stride_tricks.sliding_window_view(photo, patch.shape)
    corners = np.argwhere((windows[:, :, 0, 0, 0] == patch[0, 0]).all(-1))
    return any((windows[top, left, 0] == patch).all() for top, left in corners)


@pytest.mark.parametrize("config", [PLAIN, COLORFUL], ids=["plain", "colorful"])
def test_patches_have_the_stated_shape_and_type(photo, config):
    patches = cut_patches(photo, 1, config)
    assert patches.shape == (4, 32, 32, 3)
    assert patches.dtype == np.uint8


def test_same_seed_gives_equal_patches_and_another_gives_others(photo):
    np.random.seed(0)
    first = cut_patches(photo, 7, COLORFUL)
    np.random.seed(1)
    np.testing.assert_array_equal(first, cut_patches(photo, 7, COLORFUL))
    assert (first != cut_patches(photo, 8, COLORFUL)).any()


def test_threads_do_not_disturb_each_other(photo):
    alone = [cut_patches(photo, seed, COLORFUL) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: cut_patches(photo, seed, COLORFUL), range(40)))
    np.testing.assert_array_equal(alone, together)


def test_patches_of_one_photograph_differ(photo):
    patches = cut_patches(photo, 1, PLAIN)
    assert len({patch.tobytes() for patch in patches}) == 4


def test_without_color_augmentation_a_patch_is_a_turned_piece_of_the_photograph(photo):
    for patch in cut_patches(photo, 3, PLAIN):
        turned = [np.rot90(mirrored, turns) for mirrored in (patch, patch[:, ::-1]) for turns in range(4)]
        assert any(is_in(candidate, photo) for candidate in turned)


def test_a_photograph_of_the_size_of_a_patch_is_enough(photo):
    assert cut_patches(photo[:32, :32], 1, COLORFUL).shape == (4, 32, 32, 3)


@pytest.mark.parametrize("cut", [lambda p: cut_patches(p, 1, PLAIN), lambda p: cut_validation_patches(p, 2, PLAIN)])
def test_smaller_photograph_is_refused(photo, cut):
    with pytest.raises(ValueError, match="smaller than a patch of 32 pixels"):
        cut(photo[:31])


def test_colors_change_the_mean_color_but_are_not_clipped(photo):
    config = DataConfig(patch_size=64, patches_per_photo=64)
    patches = cut_patches(photo, 1, config).astype(float)
    means = patches.mean(axis=(1, 2))
    assert means.std(axis=0).min() > 15
    assert ((patches == 0) | (patches == 255)).mean() < 0.01


def test_colors_change_more_with_strength(photo):
    def spread(strength):
        config = DataConfig(patch_size=64, patches_per_photo=64, color_augmentation=strength)
        return cut_patches(photo, 1, config).mean(axis=(1, 2)).std(axis=0).mean()

    assert spread(0.0) < spread(0.3) < spread(1.0)


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_validation_patches_are_distinct_pieces_of_the_photograph(photo, count):
    patches = cut_validation_patches(photo, count, PLAIN)
    assert len({patch.tobytes() for patch in patches}) == count
    assert all(is_in(patch, photo) for patch in patches)


def test_single_validation_patch_is_the_middle(photo):
    np.testing.assert_array_equal(cut_validation_patches(photo, 1, PLAIN)[0], photo[134:166, 209:241])


def test_complementary_colors_keep_luma_and_turn_chroma_around():
    gentle = np.random.default_rng(0).integers(90, 160, (32, 32, 3)).astype(np.uint8)
    turned = ComplementaryColors(p=1)(image=gentle)["image"]
    to_ycbcr = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]).T
    before, after = gentle @ to_ycbcr, turned @ to_ycbcr
    np.testing.assert_allclose(after, before * [1, -1, -1], atol=1)


def test_complementary_colors_leave_gray_alone_and_clip_nothing(photo):
    gray = np.repeat(photo[..., :1], 3, axis=-1)
    turn = ComplementaryColors(p=1)
    np.testing.assert_array_equal(turn(image=gray)["image"], gray)
    vivid = np.zeros((4, 4, 3), np.uint8)
    vivid[:2, :, 0], vivid[2:, :, 0] = 255, 200
    turned = turn(image=vivid)["image"]
    assert np.all(turned[:2] != turned[2:], axis=(0, 1)).any()


def test_gray_and_complementary_shares_are_kept():
    vivid = np.zeros((64, 64, 3), np.uint8)
    vivid[..., 0], vivid[..., 2] = 200, 90
    config = DataConfig(
        patch_size=16, patches_per_photo=600, color_augmentation=1e-6, complementary_share=0.3, gray_share=0.2
    )
    patches = cut_patches(vivid, 1, config)[:, 0, 0].astype(int)
    gray = (patches.max(axis=1) - patches.min(axis=1)) <= 1
    kept = abs(patches - [200, 0, 90]).max(axis=1) <= 1
    assert 0.15 < gray.mean() < 0.25
    assert 0.8 * 0.7 - 0.06 < kept.mean() < 0.8 * 0.7 + 0.06


def test_without_color_augmentation_nothing_is_gray():
    config = DataConfig(patch_size=16, patches_per_photo=50, color_augmentation=0, gray_share=1.0)
    vivid = np.full((32, 32, 3), (200, 0, 90), np.uint8)
    assert (cut_patches(vivid, 1, config) == vivid[:16, :16]).all()


@pytest.mark.parametrize("cut", [cut_patches, cut_graphic_patches])
def test_the_wanted_share_of_patches_is_enlarged(cut):
    """Interpolation makes neighbors alike, which noise has not got."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    config = DataConfig(patch_size=32, patches_per_photo=400, enlarged_share=0.3, color_augmentation=0)
    patches = cut(noise, 1, config).astype(float)
    assert patches.shape == (400, 32, 32, 3)
    differences = abs(np.diff(patches, axis=1)).mean(axis=(1, 2, 3))
    assert 0.22 < (differences < 80).mean() < 0.38  # of noise 85 a pixel
    assert differences.min() < 25


@pytest.mark.parametrize("cut", [cut_patches, cut_graphic_patches])
def test_the_wanted_share_of_patches_is_processed(cut):
    flat = np.full((64, 64, 3), (60, 120, 180), np.uint8)
    config = DataConfig(patch_size=32, patches_per_photo=400, processed_share=0.3, color_augmentation=0)
    patches = cut(flat, 1, config)
    kept = (patches == flat[:32, :32]).all(axis=(1, 2, 3))
    assert 0.68 < kept.mean() < 0.86  # two of seven processes leave a flat patch as it is
    np.testing.assert_array_equal(patches, cut(flat, 1, config))
    assert (patches != cut(flat, 2, config)).any()


def test_half_of_graphic_patches_start_at_multiples_of_16():
    rows, columns = np.mgrid[:200, :220]
    picture = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)
    config = DataConfig(patch_size=32, patches_per_photo=400)
    corners = cut_graphic_patches(picture, 1, config)[..., :2].min(axis=(1, 2))
    assert 0.42 < (corners % 16 == 0).all(axis=1).mean() < 0.58
    assert corners[:, 0].max() > 150 and corners[:, 1].max() > 170


def test_graphic_patches_are_turned_pieces_whose_colors_stay(photo):
    patches = cut_graphic_patches(photo, 3, COLORFUL)
    assert (patches.shape, patches.dtype) == ((4, 32, 32, 3), np.uint8)
    for patch in patches:
        turned = [np.rot90(mirrored, turns) for mirrored in (patch, patch[:, ::-1]) for turns in range(4)]
        assert any(is_in(candidate, photo) for candidate in turned)
    np.testing.assert_array_equal(patches, cut_graphic_patches(photo, 3, COLORFUL))
    assert (patches != cut_graphic_patches(photo, 4, COLORFUL)).any()
    with pytest.raises(ValueError, match="smaller than a patch of 32 pixels"):
        cut_graphic_patches(photo[:31], 1, COLORFUL)
