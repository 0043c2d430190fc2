import dataclasses

import numpy as np
import pytest

from artifact_remover.pictures.picture import decode_picture
from artifact_remover.restore_picture import restore_parts
from tests.sample_pictures import to_jpeg

PICTURE = decode_picture(to_jpeg(np.full([16, 24, 3], 100, np.uint8)))


def brighter(pixels):
    return pixels + np.uint8(1)


def fail(_):
    raise AssertionError


def test_colors_are_restored():
    restored = restore_parts(PICTURE, brighter, fail)
    np.testing.assert_array_equal(restored.pixels, PICTURE.pixels + 1)
    assert restored.alpha is None and restored.metadata == PICTURE.metadata


def test_only_partial_transparency_is_restored():
    alpha = np.tile(np.array([0, 7, 255], np.uint8), (16, 8))
    restored = restore_parts(dataclasses.replace(PICTURE, alpha=alpha), brighter, brighter)
    np.testing.assert_array_equal(restored.alpha, np.where(alpha == 7, 8, alpha))
    opaque = restore_parts(dataclasses.replace(PICTURE, alpha=np.full_like(alpha, 255)), brighter, fail)
    assert (opaque.alpha == 255).all()


@pytest.mark.parametrize("force", [False, True])
def test_practically_uncompressed_is_left_alone_unless_forced(force):
    picture = decode_picture(to_jpeg(np.full([16, 24, 3], 100, np.uint8), 97))
    restored = restore_parts(picture, brighter, fail, force)
    assert (restored.pixels == picture.pixels + (1 if force else 0)).all()
    assert any("left alone" in note for note in restored.notes) != force
