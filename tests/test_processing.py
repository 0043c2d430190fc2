import numpy as np
import pytest
from skimage import data

from data_prep import processing

FLAT = np.full((96, 96, 3), (150, 100, 60), np.float32)
PHOTO = data.astronaut()[:96, 150:246].astype(np.float32)
MANY = 30


def processed(process, patch):
    return [np.asarray(process(patch, np.random.default_rng(seed))) for seed in range(MANY)]


def edges(patch):
    return abs(np.diff(patch, axis=1)).mean()


@pytest.mark.parametrize("process", processing.PROCESSES)
def test_processed_patches_are_other_pictures_of_the_same_size(process):
    patches = processed(process, PHOTO)
    assert {patch.shape for patch in patches} == {PHOTO.shape}
    assert all(abs(np.clip(patch, 0, 255) - PHOTO).mean() > 0.5 for patch in patches)
    assert len({patch.tobytes() for patch in patches}) > MANY / 2
    np.testing.assert_array_equal(patches[3], process(PHOTO, np.random.default_rng(3)))


def test_processed_patches_are_rounded_and_repeatable():
    patch = PHOTO.astype(np.uint8)
    drawn = [processing.process(patch, np.random.default_rng(seed)) for seed in range(100)]
    assert {(each.shape, each.dtype) for each in drawn} == {(patch.shape, np.dtype(np.uint8))}
    np.testing.assert_array_equal(drawn[7], processing.process(patch, np.random.default_rng(7)))


def test_each_process_is_drawn_as_often(monkeypatch):
    levels = (-20.0, 100.4, 200.6, 300.0)
    monkeypatch.setattr(
        processing, "PROCESSES", [lambda patch, _, level=level: np.full_like(patch, level) for level in levels]
    )
    rng, patch = np.random.default_rng(0), PHOTO[:1, :1].astype(np.uint8)
    drawn = np.array([processing.process(patch, rng)[0, 0, 0] for _ in range(400)])
    assert all(0.18 < (drawn == level).mean() < 0.32 for level in (0, 100, 201, 255))


def test_noise_is_of_1_to_25_levels_and_in_some_patches_gray():
    noises = [patch - FLAT for patch in processed(processing.add_noise, FLAT)]
    assert all(0.9 < noise.std() < 27 for noise in noises)
    assert max(noise.std() for noise in noises) > 12
    gray = [(abs(noise - noise[..., :1]) < 0.01).all() for noise in noises]
    assert 0.2 < np.mean(gray) < 0.8


def test_grain_is_gray_and_wider_than_a_pixel():
    for grain in (patch - FLAT for patch in processed(processing.add_grain, FLAT)):
        assert 0.9 < grain.std() < 21
        assert (abs(grain - grain[..., :1]) < 0.01).all()
        assert np.corrcoef(grain[:, 1:].ravel(), grain[:, :-1].ravel())[0, 1] > 0.05  # of plain noise 0.00


@pytest.mark.parametrize(("process", "sign"), [(processing.blur, -1), (processing.sharpen, 1)])
def test_edges_become_softer_or_harder_and_the_mean_stays(process, sign):
    for patch in processed(process, PHOTO):
        assert (edges(patch) - edges(PHOTO)) * sign > 0
        assert abs(patch.mean() - PHOTO.mean()) < 3


def test_fading_keeps_what_is_seen():
    for patch in processed(processing.fade, PHOTO):
        assert patch.min() >= 0 and patch.max() <= 255
        assert np.corrcoef(patch.ravel(), PHOTO.ravel())[0, 1] > 0.999
        assert 0.07 < patch.std() / PHOTO.std() < 0.71


@pytest.mark.parametrize("process", [processing.halftone, processing.dither])
def test_dots_have_the_tone_of_the_patch(process):
    patches = processed(process, FLAT)
    luma = [(patch @ [0.299, 0.587, 0.114]).mean() for patch in patches]
    assert abs(np.median(luma) - FLAT[0, 0] @ [0.299, 0.587, 0.114]) < 12
    gray = [(patch == patch[..., :1]).all() for patch in patches]
    assert 0.2 < np.mean(gray) < 0.8


def test_a_dithered_patch_has_few_colors():
    for patch in processed(processing.dither, PHOTO):
        assert len(np.unique(np.rint(patch).reshape(-1, 3), axis=0)) <= 6**3
        assert edges(patch) > edges(PHOTO)


def test_half_of_the_sides_are_a_half_a_third_or_a_quarter():
    rng = np.random.default_rng(0)
    sides = np.array([processing.draw_side(96, rng) for _ in range(600)])
    assert sides.min() >= 24 and sides.max() < 96
    shares = [(sides == side).mean() for side in (48, 32, 24)]
    assert all(0.12 < share < 0.24 for share in shares)


def test_patches_are_enlarged_by_six_kernels():
    patch = PHOTO[:40, :40].astype(np.uint8)
    enlarged = [processing.enlarge(patch, 96, np.random.default_rng(seed)) for seed in range(40)]
    assert {(each.shape, each.dtype) for each in enlarged} == {((96, 96, 3), np.dtype(np.uint8))}
    assert len({each.tobytes() for each in enlarged}) == 6
    assert all(abs(each.mean(axis=(0, 1)) - patch.mean(axis=(0, 1))).max() < 1.5 for each in enlarged)
