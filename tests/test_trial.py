"""Tests of the trial: what the model makes of samples of a picture."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from skimage import data as skimage_data

from artifact_remover.decision import decide
from artifact_remover.pictures.compression import Compression, find_compressions, is_enlarged
from artifact_remover.pictures.picture import decode_picture
from artifact_remover.restoration import Restorer
from artifact_remover.trial import Trial
from data_prep.drawing import draw_graphic, draw_pixel_art
from tests.sample_pictures import to_jpeg, to_png

LARGE = skimage_data.astronaut()[:300, :300]


def finds_artifacts(pixels, restore):
    return Trial(pixels, restore).finds_artifacts(compressed=False)


def darker_by(levels):
    return lambda pixels: np.where(pixels > levels, pixels - pixels.dtype.type(levels), pixels)


def sharper(pixels):
    return np.array(Image.fromarray(pixels).filter(ImageFilter.UnsharpMask(2, 300, 3)))


def dithered(pixels):
    """Changes the highest frequency by 8, of which quantization leaves more open."""
    checkers = np.indices(pixels.shape[:2]).sum(axis=0)[..., np.newaxis] % 2
    return np.clip(pixels.astype(int) + 2 * checkers - 1, 0, 255).astype(np.uint8)


def soft_shapes():
    """Draws an enlarged drawing, with a little noise, so that it counts as no drawing."""
    rng, image = np.random.default_rng(0), Image.new("RGB", (200, 200), "gray")
    for row, column in rng.integers(0, 200, (25, 2)):
        shape = [int(column), int(row), int(column) + 30, int(row) + 20]
        ImageDraw.Draw(image).ellipse(shape, fill=tuple(int(each) for each in rng.integers(0, 256, 3)))
    large = np.array(image.resize((600, 600), Image.Resampling.BICUBIC))
    return np.minimum(large, 254) + rng.integers(0, 2, large.shape).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_was_enlarged_is_not_restored_for_its_softness(dtype):
    """A model would change its edges; artifacts lie everywhere."""
    shapes = soft_shapes()
    assert is_enlarged(shapes)
    edges = abs(sharper(shapes).astype(float) - shapes)
    assert 10 * np.log10(255**2 / np.square(edges).mean()) < 40
    white = np.iinfo(dtype).max // 255

    def adapt(restore):
        return lambda pixels: restore((pixels // white).astype(np.uint8)).astype(dtype) * white

    pixels = shapes.astype(dtype) * white
    assert not finds_artifacts(pixels, adapt(sharper))
    assert finds_artifacts(pixels, adapt(darker_by(9)))


@pytest.mark.parametrize(
    ("enlarged", "quality", "restore", "sharpened"),
    [
        (True, 90, sharper, True),
        (True, 60, sharper, False),
        (True, 90, dithered, False),
        (True, 90, darker_by(40), False),
        (False, 90, sharper, False),
    ],
)
def test_an_enlarged_picture_would_be_sharpened_by_more_than_its_quantization_left_open(
    enlarged, quality, restore, sharpened
):
    clean = soft_shapes() if enlarged else LARGE
    picture = decode_picture(to_jpeg(clean, quality, subsampling="4:4:4"))
    [compression] = find_compressions(picture.pixels, picture.header)
    assert Trial(picture.pixels, restore).would_sharpen(compression) == sharpened
    assert decide(picture, restore=restore).restore != sharpened
    assert decide(picture, restore=restore, force=True).restore and decide(picture).restore


def a_little_sharper(percent):
    return lambda pixels: np.array(Image.fromarray(pixels).filter(ImageFilter.UnsharpMask(2, percent, 3)))


@pytest.mark.parametrize(
    ("percent", "subsampling", "copied", "shares"),
    [
        (7, "4:4:4", False, (1, 1)),
        (8, "4:4:4", False, (0.5, 0.5)),
        (8, "4:4:4", True, (0.5, 1)),  # whose chroma may have been subsampled
        (8, "4:2:0", False, (1, 1)),
    ],
)
def test_half_is_taken_of_what_sharpens_an_enlarged_picture_a_little(percent, subsampling, copied, shares):
    picture = decode_picture(to_jpeg(soft_shapes(), 85, subsampling=subsampling))
    decision = decide(decode_picture(to_png(picture.pixels)) if copied else picture, restore=a_little_sharper(percent))
    assert (decision.restore, decision.luma, decision.chroma) == (True, *shares)


def sharper_by_chance(pixels):
    """Sharpens every other part of 16 rows: other parts in a sample that was turned and is no multiple of 32 high."""
    parts = np.arange(len(pixels))[:, np.newaxis, np.newaxis] // 16 % 2
    return np.where(parts, sharper(pixels), pixels)


@pytest.mark.parametrize(
    ("subsampling", "restore", "colors_only"),
    [
        ("4:2:0", sharper, True),
        ("4:2:2", sharper, True),
        ("4:4:4", sharper, False),
        ("4:2:0", sharper_by_chance, False),
    ],
)
def test_its_colors_are_restored_where_they_were_reduced_and_are_changed_alike(subsampling, restore, colors_only):
    picture = decode_picture(to_jpeg(soft_shapes(), 90, subsampling=subsampling))
    [compression] = find_compressions(picture.pixels, picture.header)
    assert Trial(picture.pixels, restore).would_sharpen(compression)
    decision = decide(picture, restore=restore)
    assert decision.restore == decision.colors_only == colors_only
    assert decision.found == ("Q90, chroma subsampled" if colors_only else "Q90")


def test_where_all_is_gray_there_are_no_colors_to_restore():
    picture = decode_picture(to_jpeg(soft_shapes()[..., :1].repeat(3, axis=2), 90))
    assert picture.header.chroma_subsampling == "4:2:0"
    assert "sharpened" in decide(picture, restore=sharper).why


def to_two_values(pixels):
    return np.array(Image.fromarray(pixels).convert("1").convert("RGB"))


DOTS = to_two_values(LARGE)


@pytest.mark.parametrize(
    ("clean", "quality", "restore", "smeared"),
    [
        (DOTS, 90, darker_by(40), True),
        (DOTS, 75, darker_by(40), True),
        (DOTS, 60, darker_by(40), False),
        (DOTS, 90, dithered, False),
        (DOTS[:120, :120], 90, darker_by(40), False),
        (DOTS.repeat(2, axis=0).repeat(2, axis=1), 90, darker_by(40), False),
        (LARGE, 90, darker_by(40), False),
        (np.full_like(LARGE, 128), 90, darker_by(40), False),
    ],
    ids=["dots", "poorer", "too poor", "mended", "too small", "doubled", "photograph", "blank"],
)
def test_a_fine_jpeg_that_was_dithered_to_two_values_is_not_smeared(clean, quality, restore, smeared):
    picture = decode_picture(to_jpeg(clean, quality))
    decision = decide(picture, restore=restore)
    assert decision.restore != smeared and ("smeared" in decision.why) == smeared
    assert decide(picture, restore=restore, force=True).restore and decide(picture).restore


@pytest.mark.parametrize("white", [1, 257])
def test_gray_and_16_bits_may_be_smeared_too(white):
    gray = DOTS[..., :1].astype(np.uint8 if white == 1 else np.uint16) * white
    assert Trial(gray, darker_by(40 * white)).would_smear(Compression(90, (0, 0), 1.0))


def test_what_the_model_changes_by_chance_is_not_restored():
    rng = np.random.default_rng(0)

    def at_random(pixels):
        return np.clip(pixels + rng.normal(0, 5, pixels.shape), 0, 255).astype(np.uint8)

    assert not finds_artifacts(LARGE, at_random)
    assert finds_artifacts(LARGE, darker_by(5))


def test_gray_has_no_colors_to_mend():
    gray = LARGE[..., :1]
    assert not Trial(gray, darker_by(9)).finds_colors_to_mend(compressed=False)
    assert finds_artifacts(gray, darker_by(9))


@pytest.mark.parametrize("start", [0, 1])
def test_what_was_doubled_pixel_by_pixel_is_left_alone(start):
    large = LARGE.repeat(2, axis=0).repeat(2, axis=1)[start:, start:]
    assert not finds_artifacts(large, darker_by(9))


def written_text():
    image = Image.new("RGB", (300, 300), "white")
    for line in range(20):
        text = "The quick brown fox jumps over the lazy dog 0123456789"
        ImageDraw.Draw(image).text((4, 15 * line), text, "black", ImageFont.load_default(12))
    return np.array(image)


@pytest.mark.parametrize(
    "clean", [written_text(), np.array(Image.fromarray(LARGE).convert("1").convert("RGB"))], ids=["text", "dithered"]
)
def test_what_is_drawn_is_left_alone_though_the_model_would_change_it(clean):
    assert not finds_artifacts(clean, darker_by(9))
    assert not Restorer.load(precision="float32").restore_picture(decode_picture(to_png(clean))).decision.restore


@pytest.mark.parametrize(
    "filter",
    [Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC],
    ids=lambda each: each.name,
)
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_enlarged_pixel_art_is_left_alone_though_the_model_would_change_it(seed, filter):
    art = draw_pixel_art(np.random.default_rng(seed), 256).resize([512, 512], filter)
    assert not finds_artifacts(np.array(art), darker_by(9))


def test_what_is_flat_far_from_edges_alone_is_not_taken_for_drawn():
    """A JPEG of text has ringing beside its letters."""
    reduced = Image.fromarray(decode_picture(to_jpeg(written_text(), 20)).pixels).resize([200, 200])
    assert finds_artifacts(np.array(reduced), darker_by(9))


def test_noise_of_a_scan_is_left_alone_though_the_model_would_take_it_for_artifacts():
    page = np.asarray(draw_graphic(np.random.default_rng(1), 288, "code"))
    noisy = page * 0.85 + 20 + np.random.default_rng(1).normal(0, 8, page.shape)
    picture = decode_picture(to_png(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)))
    assert not Restorer.load(precision="float32").restore_picture(picture).decision.restore


@pytest.mark.parametrize(("shape", "restored"), [((1, 1), False), ((300, 127), False), ((128, 128), True)])
def test_small_pictures_are_no_sample(shape, restored):
    assert finds_artifacts(LARGE[-shape[0] :, -shape[1] :], darker_by(4)) == restored
