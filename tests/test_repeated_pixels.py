import numpy as np
import pytest
from PIL import Image

from artifact_remover.decision import decide
from artifact_remover.pictures.compression import find_compressions
from artifact_remover.pictures.picture import decode_picture
from artifact_remover.pictures.repeated_pixels import Cells, average_cells, find_cells
from artifact_remover.restore_picture import restore_parts
from data_prep.drawing import KINDS, draw_graphic
from tests.sample_pictures import repeat_pixels, to_jpeg, to_png

SIDE = 192


def sprite(side=96, number=0):
    """Small colored squares on a background that changes slowly."""
    random = np.random.default_rng(number)
    rows, columns = np.indices((side, side))
    picture = np.stack([rows + 60, columns + 40, 160 - rows // 2], axis=2)
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    for _ in range(side * side // 10):
        top, left = random.integers(0, side, 2)
        picture[top : top + random.integers(1, 5), left : left + random.integers(1, 5)] = random.integers(60, 200, 3)
    return picture


def repeat(picture, down, across=None):
    return repeat_pixels(picture, down, across or down)[:SIDE, :SIDE]


def psnr(picture, clean):
    return 10 * np.log10(255**2 / np.square(picture.astype(float) - clean).mean())


def find(content):
    picture = decode_picture(content)
    return find_cells(picture.pixels, find_compressions(picture.pixels, picture.header))


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize(("quality", "subsampling"), [(85, "4:2:0"), (90, "4:4:4"), (97, "4:4:4")])
def test_it_is_found_that_each_pixel_was_repeated(factor, quality, subsampling):
    jpeg = to_jpeg(repeat(sprite(), factor), quality, subsampling=subsampling)
    assert find(jpeg) == Cells(factor, factor)


@pytest.mark.parametrize("factor", [2, 3, 5, 8])
def test_it_is_found_in_a_part_of_such_a_picture_and_in_gray(factor):
    clean = repeat(sprite(), factor)[factor - 1 :, 1:]
    for picture in (clean, clean[..., 0]):
        assert find(to_jpeg(picture, 90, subsampling="4:4:4")) == Cells(factor, factor, 1, (factor - 1) % factor)


def test_it_is_found_in_a_lossless_copy_cut_off_the_grid():
    pixels = decode_picture(to_jpeg(repeat(sprite(), 4), 75)).pixels[2:, 4:]
    assert find(to_png(pixels)) == Cells(4, 4, 2, 0)


@pytest.mark.parametrize(
    "factors", [(1.25, 1.25), (1.5, 1.5), (2.5, 2.5), (2, 2.4), (3.3, 3.3), (1, 2), (3, 1), (2, 5)]
)
@pytest.mark.parametrize("corner", [0, 5])
@pytest.mark.parametrize("quality", [90, 97])
def test_it_is_found_of_broken_and_unequal_factors(factors, corner, quality):
    clean = repeat(sprite(SIDE), *factors)[corner:, corner:]
    jpeg = to_jpeg(clean, quality, subsampling="4:4:4")
    cells, pixels = find(jpeg), decode_picture(jpeg).pixels
    assert (cells.height, cells.width) == pytest.approx(factors, rel=0.01)
    assert psnr(average_cells(pixels, cells), clean) > psnr(pixels, clean) + 0.6


@pytest.mark.parametrize("factor", [3, 4, 7])
def test_whole_sides_are_found_where_little_is_to_be_seen(factor):
    text = np.full([SIDE, SIDE, 3], 250, np.uint8)
    for top, left in np.random.default_rng(0).integers(0, SIDE // factor - 4, (8, 2)):
        text[top, left : left + 3] = text[top : top + 3, left + 1] = 30
    assert find(to_jpeg(repeat(text, factor), 85)) == Cells(factor, factor)


@pytest.mark.parametrize("factor", [1.77, 2.6, 3.333])
def test_cells_of_broken_sides_are_found_in_wide_pictures(factor):
    wide = np.tile(sprite(SIDE), (1, 8, 1))
    clean = repeat_pixels(wide, factor, factor)[:SIDE, :1000]
    cells = find(to_jpeg(clean, 92, subsampling="4:4:4"))
    assert (cells.height, cells.width) == pytest.approx((factor, factor), rel=0.002)


def test_cells_of_a_broken_side_begin_where_they_are_drawn():
    clean = repeat(sprite(SIDE), 2.5, 2.4)
    cells = find(to_jpeg(clean, 97, subsampling="4:4:4"))
    assert cells.rows(SIDE).tolist() == np.ceil(np.arange(SIDE / 2.5) * 2.5).tolist()
    assert cells.columns(SIDE).tolist() == np.ceil(np.arange(SIDE / 2.4) * 2.4).tolist()


@pytest.mark.parametrize("quality", [50, 75, 90, 97])
@pytest.mark.parametrize(
    "change", ["not repeated", "bicubic", "bilinear", "2.5 bicubic", "one half", "one line", "lines of text", "clean"]
)
def test_other_pictures_have_no_cells(change, quality):
    repeated = repeat(sprite(), 2)
    if change == "not repeated":
        repeated = sprite(SIDE)
    elif change == "one half":
        repeated[:96] = sprite(SIDE)[:96]
    elif change == "2.5 bicubic":
        repeated = np.array(Image.fromarray(sprite()[:77, :77]).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    elif change == "lines of text":  # of which each column of the gaps equals the next, and each row between lines
        repeated = 255 - np.random.default_rng(1).integers(0, 2, [SIDE, SIDE, 1], np.uint8) * np.uint8([200, 230, 240])
        repeated[::7], repeated[:, 6::7], repeated[:, 5::7] = 255, 255, 255
    elif change == "one line":  # of text over a game
        repeated[80:91, 20:180] = np.where(np.random.default_rng(1).random([11, 160, 1]) > 0.5, 255, 0)
    elif change in ("bicubic", "bilinear"):
        filter = getattr(Image.Resampling, change.upper())
        repeated = np.array(Image.fromarray(sprite()).resize((SIDE, SIDE), filter))
    content = to_png(repeated) if change == "clean" else to_jpeg(repeated, quality, subsampling="4:4:4")
    assert find(content) is None


@pytest.mark.parametrize("kind", KINDS)
def test_no_drawing_loses_by_the_cells_that_are_found_in_it(kind):
    for number in range(4):
        clean = draw_graphic(np.random.default_rng(number), SIDE, kind)
        for quality in (50, 75, 90):
            picture = decode_picture(to_jpeg(clean, quality, subsampling="4:4:4"))
            cells = find_cells(picture.pixels, find_compressions(picture.pixels, picture.header))
            if cells:
                before, after = (
                    np.square(each.astype(float) - clean).mean()
                    for each in (picture.pixels, average_cells(picture.pixels, cells))
                )
                assert after <= before, (number, quality, cells, before, after)


@pytest.mark.parametrize("shape", [(7, 9, 3), (300, 5, 1), (2, 2, 3), (1, 17, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cells_get_their_mean_also_where_the_edges_cut_them(shape, dtype, monkeypatch):
    monkeypatch.setattr("artifact_remover.pictures.repeated_pixels.band_height", lambda width: 1)
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)
    expected = np.empty_like(pixels)
    rows, columns = ((np.arange(length) - offset) // 3 for length, offset in zip(shape, (1, 2), strict=False))
    for row in np.unique(rows):
        for column in np.unique(columns):
            cell = np.ix_(rows == row, columns == column)
            expected[cell] = np.rint(pixels[cell].mean(axis=(0, 1)))
    averaged = average_cells(pixels, Cells(3, 3, 1, 2))
    assert averaged.dtype == dtype and np.abs(averaged.astype(int) - expected).max() <= 1
    assert (averaged == expected).mean() > 0.95  # float32 rounds halves of 16 bits either way


@pytest.mark.parametrize(
    ("quality", "subsampling", "colors_only", "cells_only"),
    [(80, "4:4:4", False, False), (90, "4:2:0", True, False), (90, "4:4:4", False, True), (98, "4:4:4", False, True)],
)
def test_the_decision_says_what_is_left_to_the_mean(quality, subsampling, colors_only, cells_only):
    picture = decode_picture(to_jpeg(repeat(sprite(), 2), quality, subsampling=subsampling))
    decision = decide(picture)
    assert decision.restore and decision.cells == Cells(2, 2)
    assert decision.found == f"Q{quality}, each pixel 2 x 2 times"
    assert (decision.colors_only, decision.cells_only) == (colors_only, cells_only)
    assert ("mean" in " ".join(map(str, decision.notes))) == (colors_only or cells_only)
    forced = decide(picture, force=True)
    assert forced.cells and not (forced.colors_only or forced.cells_only)


@pytest.mark.parametrize(("quality", "cells_only"), [(85, False), (97, True)])
def test_doubled_lines_get_their_mean_beside_what_else_is_done(quality, cells_only):
    clean = repeat(sprite(SIDE), 2, 1)
    picture = decode_picture(to_jpeg(clean, quality, subsampling="4:4:4"))
    decision = decide(picture)
    assert decision.restore and decision.cells == Cells(2, 1) and decision.cells_only == cells_only
    assert decision.luma == decision.chroma == 1 and decision.found == f"Q{quality}, each pixel 2 x 1 times"
    asked = []

    def restore(pixels):
        asked.append(pixels.shape)
        return np.minimum(pixels, 250) + np.uint8(5)

    def find_artifacts(sample):
        assert not cells_only
        return sample

    restored = restore_parts(picture, restore, find_artifacts).pixels
    assert bool(asked) != cells_only and np.array_equal(restored[0::2], restored[1::2])
    if cells_only:
        assert psnr(restored, clean) > psnr(picture.pixels, clean) + 1


@pytest.mark.parametrize("side", [8, 16])
@pytest.mark.parametrize("quality", [50, 75, 90])
def test_squares_that_are_the_blocks_themselves_are_left_as_they_are(side, quality):
    clean = repeat(np.random.default_rng(0).integers(0, 256, [SIDE // side, SIDE // side, 3], np.uint8), side)
    fine = decode_picture(to_jpeg(clean, quality, subsampling="4:4:4"))
    assert not decide(fine).restore and "blocks" in decide(fine).why
    copy = decode_picture(to_png(fine.pixels[:, 5:]))
    assert np.abs(restore_parts(copy, pytest.fail, pytest.fail).pixels.astype(int) - copy.pixels).max() <= 1
    subsampled = decode_picture(to_jpeg(clean, quality))
    if side == 8:
        assert decide(subsampled).cells_only
        assert psnr(restore_parts(subsampled, pytest.fail, pytest.fail).pixels, clean) > psnr(subsampled.pixels, clean)
    assert decide(fine, force=True).cells == Cells(8, 8)


def test_a_coarse_jpeg_whose_blocks_are_flat_is_restored():
    rows, columns = np.indices((SIDE, SIDE))
    slope = np.stack([rows // 2 + 60, columns // 2 + 60, 160 - rows // 4], axis=2).astype(np.uint8)
    assert find(to_jpeg(slope, 50, subsampling="4:4:4")) is None


def test_the_mean_alone_is_closer_and_the_model_is_not_asked():
    clean = repeat(sprite(), 2)
    picture = decode_picture(to_jpeg(clean, 94, subsampling="4:4:4"))
    restored = restore_parts(picture, pytest.fail, pytest.fail)
    assert psnr(restored.pixels, clean) > psnr(picture.pixels, clean) + 3
    assert "only their mean was taken" in str(restored.notes[-1])


@pytest.mark.parametrize("quality", [80, 94])
def test_strength_takes_less_of_the_mean_too(quality):
    picture = decode_picture(to_jpeg(repeat(sprite(), 2), quality, subsampling="4:4:4"))

    def restore(strength):
        def brighter(pixels):
            return np.clip(np.rint(pixels + 20.0 * strength), 0, 255).astype(np.uint8)

        return restore_parts(picture, brighter, lambda sample: sample, strength=strength).pixels.astype(int)

    none, half, all_of_it = (restore(strength) for strength in (0, 0.5, 1))
    assert np.array_equal(none, picture.pixels)
    assert np.abs(half - (none + all_of_it) / 2)[all_of_it < 250].max() <= 2
