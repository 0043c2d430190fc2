import numpy as np
import pytest
from skimage import data as skimage_data

from artifact_remover.judging.metrics import psnr
from artifact_remover.pictures.picture import decode_picture
from artifact_remover.restoration import Restorer
from artifact_remover.self_ensemble import ORIENTATIONS, restore_in_orientations, restore_turned
from tests.sample_pictures import to_jpeg, to_png, to_turned_jpeg


def darken_at_the_top(pictures):
    return pictures * np.linspace(0, 1, pictures.shape[1], dtype=np.float32)[:, np.newaxis, np.newaxis] ** 2


def test_eight_orientations_are_restored_and_turned_back():
    pictures = np.random.default_rng(0).random((2, 3, 5, 3), np.float32)
    seen = []

    def restore(turned):
        seen.append(turned)
        return turned

    for orientation in ORIENTATIONS:
        np.testing.assert_array_equal(restore_turned(restore, pictures, orientation), pictures)
    assert sorted(ORIENTATIONS) == list(range(8)) and len({each[0].tobytes() for each in seen}) == 8
    assert [each.shape == pictures.shape for each in seen] == 4 * [True] + 4 * [False]
    np.testing.assert_array_equal(seen[0], pictures)


@pytest.mark.parametrize("shape", [(1, 16, 8), (2, 8, 24), (1, 13, 22), (1, 1, 1)])
def test_the_mean_of_all_orientations_is_taken(shape):
    pictures = np.random.default_rng(0).random((*shape, 3), np.float32)
    seen = []

    def restore(given):
        seen.append(given.shape)
        assert given.flags.c_contiguous and not (given.shape[1] % 16 or given.shape[2] % 16)
        return darken_at_the_top(given)

    restored = restore_in_orientations(restore, pictures)
    rows, columns = (np.linspace(0, 1, size + -size % 16, dtype=np.float32) ** 2 for size in shape[1:])
    mean = (rows + rows[::-1])[:, np.newaxis] + columns + columns[::-1]
    np.testing.assert_allclose(restored, pictures * mean[: shape[1], : shape[2], np.newaxis] / 4, rtol=1e-4, atol=1e-6)
    assert len(seen) == 8 and len(set(seen[:4])) == len(set(seen[4:])) == 1


def test_pictures_are_restored_in_all_orientations_but_tried_in_one():
    """Chance would change turned samples alike, if these were restored in all orientations."""
    calls = []

    def add_noise(pictures):
        calls.append(pictures.shape)
        noise = np.random.default_rng(0).normal(0, 0.05, pictures.shape[1:3]).astype(np.float32)
        return np.clip(pictures + noise[..., np.newaxis], 0, 1)

    restorer = Restorer(add_noise, 16, self_ensemble=True)
    clean = skimage_data.coffee()[:200, :208]
    assert restorer.restore_picture(decode_picture(to_jpeg(clean, 50))).decision.restore and len(calls) == 8
    calls.clear()
    assert not restorer.restore_picture(decode_picture(to_png(clean))).decision.restore and calls


@pytest.mark.parametrize(("subsampling", "times"), [("4:4:4", 8), ("4:2:0", 8), ("4:2:2", 4), ("4:4:0", 4)])
def test_chroma_that_was_subsampled_across_stays_across(subsampling, times):
    shapes = []

    def note(pictures):
        shapes.append(pictures.shape)
        return pictures

    photo = skimage_data.coffee()[:80, :112]
    content = (to_turned_jpeg if subsampling == "4:4:0" else to_jpeg)(photo, 50, subsampling=subsampling)
    Restorer(note, 16, self_ensemble=True).restore_picture(decode_picture(content))
    assert len(shapes) == times and len(set(shapes)) == (1 if times == 4 else 2)


def test_restoring_may_be_stopped_between_orientations():
    calls = []

    def stop(pixels):
        assert pixels == 0 and len(calls) == 1
        raise KeyboardInterrupt

    restorer = Restorer(lambda pictures: (calls.append(1), pictures)[1], 16, self_ensemble=True)
    with pytest.raises(KeyboardInterrupt):
        restorer.restore(np.zeros([40, 40, 3], np.uint8), progress=stop)


def test_gray_and_tiles_are_restored_in_all_orientations_too():
    gray = np.random.default_rng(0).integers(50, 200, (150, 140, 1), np.uint8)
    tiled = Restorer(lambda pictures: np.clip(pictures * 0.9, 0, 1), 16, self_ensemble=True, tile=64).restore(gray)
    assert np.abs(tiled - 0.9 * gray.astype(float)).max() <= 0.5 + 1e-3


def test_the_published_model_gains_by_it():
    clean = skimage_data.coffee()[:128, :192]
    jpeg = decode_picture(to_jpeg(clean, 80)).pixels
    alone, together = (
        Restorer.load(engine="openvino", precision="float32", self_ensemble=each).restore(jpeg)
        for each in (False, True)
    )
    scores = [
        float(psnr(*(each[np.newaxis] / np.float32(255) for each in (clean, other)))[0])
        for other in (jpeg, alone, together)
    ]
    assert scores[2] > scores[1] + 0.02 > scores[0] + 1
