import dataclasses

import numpy as np
import pytest
from skimage import data as skimage_data

from artifact_remover.pictures.picture import decode_picture
from artifact_remover.restore_picture import restore_parts
from tests.sample_pictures import to_jpeg, to_png

PICTURE = decode_picture(to_jpeg(np.full([16, 24, 3], 100, np.uint8)))


def brighter(pixels):
    return pixels + np.uint8(1)


def fail(_):
    raise AssertionError


def test_colors_are_restored():
    restored = restore_parts(PICTURE, brighter, fail, fail)
    np.testing.assert_array_equal(restored.pixels, PICTURE.pixels + 1)
    assert restored.alpha is None and restored.metadata == PICTURE.metadata


def test_only_partial_transparency_is_restored():
    alpha = np.tile(np.array([0, 7, 255], np.uint8), (16, 8))
    restored = restore_parts(dataclasses.replace(PICTURE, alpha=alpha), brighter, brighter, fail)
    np.testing.assert_array_equal(restored.alpha, np.where(alpha == 7, 8, alpha))
    opaque = restore_parts(dataclasses.replace(PICTURE, alpha=np.full_like(alpha, 255)), brighter, fail, fail)
    assert (opaque.alpha == 255).all()


@pytest.mark.parametrize("cut", [(0, 0), (2, 2), (7, 0), (0, 5)])
def test_the_model_sees_a_picture_from_the_corner_of_a_block(cut):
    """Whose corner is filled up by reflection, and cut off again."""
    seen = []

    def look(pixels):
        seen.append(pixels)
        return pixels + np.uint8(1)

    whole = decode_picture(to_jpeg(skimage_data.astronaut()[:200, :208], 20)).pixels
    part = decode_picture(to_png(whole[cut[0] :, cut[1] :]))
    restored = restore_parts(part, look, fail, fail)
    np.testing.assert_array_equal(restored.pixels, np.where(part.pixels < 255, part.pixels + 1, 0))
    assert restored.decision.offset == tuple(-each % 8 for each in cut)
    [pixels] = seen
    top, left = cut
    assert pixels.shape == whole.shape
    np.testing.assert_array_equal(pixels[top:, left:], part.pixels)
    np.testing.assert_array_equal(pixels[:top], pixels[top + 1 : 2 * top + 1][::-1])
    np.testing.assert_array_equal(pixels[:, :left], pixels[:, left + 1 : 2 * left + 1][:, ::-1])


@pytest.mark.parametrize("force", [False, True])
def test_practically_uncompressed_is_left_alone_unless_forced(force):
    picture = decode_picture(to_jpeg(np.full([16, 24, 3], 100, np.uint8), 97))
    restored = restore_parts(picture, brighter, fail, lambda sample: sample, force)
    assert (restored.pixels == picture.pixels + (1 if force else 0)).all()
    assert any("left alone" in note for note in restored.notes) != force
