import dataclasses
import io

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from skimage import data as skimage_data

from artifact_remover.pictures.before_after import draw_before_after
from artifact_remover.pictures.picture import Metadata, Picture, decode_picture

PHOTO = skimage_data.astronaut()
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(pixels, alpha=None, orientation=1):
    return Picture(pixels, alpha, orientation, Metadata(icc_profile=PROFILE), None, "PNG")


def draw(before, after):
    file = io.BytesIO()
    draw_before_after(before, after, file)
    return Image.open(file)


def changed(pixels, top, left, side=20):
    pixels = pixels.copy()
    pixels[top : top + side, left : left + side] ^= 0x40
    return pixels


def find(canvas, wanted):
    """True if an image lies somewhere on a canvas, pixel for pixel."""
    canvas, wanted = np.asarray(canvas), np.asarray(wanted)
    height, width = wanted.shape[:2]
    corners = np.argwhere((canvas == wanted[0, 0]).reshape(*canvas.shape[:2], -1).all(axis=-1))
    return any(np.array_equal(canvas[top : top + height, left : left + width], wanted) for top, left in corners)


def enlarge(pixels):
    return pixels.repeat(3, axis=0).repeat(3, axis=1)


def test_whole_and_enlarged_before_and_after_are_shown():
    after = changed(PHOTO, 330, 400)
    canvas = draw(picture(PHOTO), picture(after))
    assert canvas.format == "PNG" and canvas.mode == "RGB"
    for pixels in (PHOTO, after):
        assert find(canvas, pixels)
        # The largest window with the change in it, on the grid, is the first that holds all of it.
        assert find(canvas, enlarge(pixels[96 : 96 + 256, 176 : 176 + 256]))


def test_colors_are_those_of_the_profile():
    assert draw(picture(PHOTO), picture(PHOTO)).info["icc_profile"] == PROFILE


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_upright(orientation):
    small = PHOTO[:96, :160]
    upright = Image.fromarray(small)
    upright.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(upright)
    canvas = draw(picture(small, orientation=orientation), picture(small, orientation=orientation))
    assert find(canvas, upright) and find(canvas, enlarge(np.asarray(upright)))


def test_gray_stays_gray():
    gray = skimage_data.camera()[:100, :90, np.newaxis]
    canvas = draw(picture(gray), picture(changed(gray, 3, 5)))
    assert canvas.mode == "L" and find(canvas, gray[..., 0])


def test_sixteen_bits_are_shown_in_eight():
    small = PHOTO[:96, :160]
    wide = small.astype(np.uint16) * 257
    assert find(draw(picture(wide), picture(wide)), small)


def test_transparency_is_laid_over_white():
    small = PHOTO[:96, :160]
    alpha = np.full(small.shape[:2], 255, np.uint8)
    alpha[:, :80] = 0
    shown = np.where(alpha[..., np.newaxis], small, 255).astype(np.uint8)
    assert find(draw(picture(small, alpha), picture(small, alpha)), shown)


@pytest.mark.parametrize("size", [(3000, 1200), (1200, 5000), (1, 20_000), (20_000, 1), (1, 1), (17, 4), (801, 1601)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_any_size_fits(size, orientation):
    ramp = np.linspace(0, 255, size[1])[np.newaxis, :, np.newaxis]
    pixels = np.broadcast_to(ramp, (*size, 3)).astype(np.uint8)
    canvas = draw(picture(pixels, orientation=orientation), picture(255 - pixels, orientation=orientation))
    assert canvas.width <= 1700 and canvas.height <= 2500


def test_a_large_picture_is_averaged():
    noise = np.random.default_rng(0).integers(0, 2, (3200, 1600, 1), np.uint8) * 255
    canvas = draw(picture(noise), picture(noise))
    whole = np.asarray(canvas)[40 : 40 + 1500, 10:790]
    assert abs(whole.mean() - 127.5) < 1 and whole.std() < 70  # of single pixels, 127


def test_a_jpeg_says_its_quality(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg", quality=10)
    before = decode_picture(tmp_path / "a.jpg")
    labeled = np.asarray(draw(before, before))[:28, :400]
    unlabeled = np.asarray(draw(dataclasses.replace(before, header=None), before))[:28, :400]
    assert (labeled < 128).sum() > (unlabeled < 128).sum() > 0
