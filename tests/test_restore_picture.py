import dataclasses
import io
import tracemalloc

import numpy as np
import pytest
from skimage import data as skimage_data

from artifact_remover import restore_picture
from artifact_remover.decision import decide
from artifact_remover.pictures.picture import decode_picture
from artifact_remover.restore_picture import LOSSY_QUALITIES, fit_to_format, restore_parts, write_restored
from data_prep.errors import InputError
from tests.sample_pictures import levels, to_file, to_jpeg, to_png, to_turned_jpeg

PICTURE = decode_picture(to_jpeg(np.full([24, 24, 3], 100, np.uint8)))


def brighter(pixels):
    return pixels + np.uint8(1)


def fail(_):
    raise AssertionError


def test_colors_are_restored():
    restored = restore_parts(PICTURE, brighter, fail)
    np.testing.assert_array_equal(restored.pixels, PICTURE.pixels + 1)
    assert restored.alpha is None and restored.metadata == PICTURE.metadata


@pytest.mark.parametrize("strength", [-0.5, 1.5, np.nan])
def test_a_strength_out_of_range_is_refused_also_where_nothing_is_restored(strength):
    for each in (PICTURE, decode_picture(to_png(PICTURE.pixels))):
        with pytest.raises(InputError, match="strength must lie in 0..1"):
            restore_parts(each, brighter, brighter, strength=strength)


@pytest.mark.parametrize("quality", [None, 90])
def test_of_what_is_not_changed_the_file_is_handed_back(quality):
    restored = restore_parts(PICTURE, lambda pixels: pixels, fail, strength=0)
    fitted = fit_to_format(PICTURE, restored, "jpeg", quality)
    assert fitted.decision.restore == bool(quality)
    assert fitted.notes == (() if quality else ("left alone, as nothing of it is changed",))


def test_what_is_changed_beside_the_sample_is_written():
    """Parts of a large picture are looked at, which may be flat while others are not."""
    before = decode_picture(to_jpeg(np.full([1400, 1400, 3], 100, np.uint8)))

    def change(pixels):
        changed = pixels.copy()
        changed[300:310, 300:310] += 50
        return changed

    fitted = fit_to_format(before, restore_parts(before, change, fail), "jpeg")
    assert fitted.decision.restore and fitted.pixels[305, 305, 0] > 140


def to_other_program(pixels, quality, **options):
    """A JPEG of libjpeg's tables of this quality, but for one step of 64."""
    tables = [list(table) for table in decode_picture(to_jpeg(pixels, quality)).header.quantization]
    tables[0][-1] += 1
    return to_file(pixels, qtables=(tables * 2)[:2], **{"progressive": True} | options)


@pytest.mark.parametrize(("quality", "taken"), [(89, True), (80, True), (79, False)])
def test_of_changes_to_fine_jpegs_that_may_not_be_rounded_three_quarters_are_taken(quality, taken):
    photo = skimage_data.astronaut()[:136, :136]
    picture = decode_picture(to_other_program(photo, quality, subsampling="4:4:4"))
    restored = restore_parts(picture, lambda pixels: pixels // 2, lambda pixels: pixels)
    half = picture.pixels // 2
    expected = np.rint(half + 0.25 * (picture.pixels.astype(float) - half)) if taken else half
    assert levels(restored.pixels, expected) <= 1 and restored.decision.luma == (0.75 if taken else 1)
    forced = restore_parts(picture, lambda pixels: pixels // 2, lambda pixels: pixels, force=True)
    np.testing.assert_array_equal(forced.pixels, half)


@pytest.mark.parametrize(
    ("encode", "progressive", "shares"),
    [
        (to_jpeg, True, [1, 1, 1, 1, 1, 0.75, 0.75]),
        (to_other_program, False, [1, 1, 1, 0.75, 0.75, 0.75, 0.75]),
        (to_other_program, True, [1, 0.75, 0.75, 0.75, 0.5, 0.5, 0.25]),
    ],
)
def test_how_much_is_taken_depends_on_the_program(encode, progressive, shares):
    photo = skimage_data.astronaut()[:136, :136]
    qualities = (79, 80, 87, 88, 91, 92, 94)
    pictures = [decode_picture(encode(photo, each, subsampling="4:4:4", progressive=progressive)) for each in qualities]
    assert [decide(each).luma for each in pictures] == [decide(each).chroma for each in pictures] == shares
    assert {decide(each, force=True).luma for each in pictures} == {1}


def test_of_subsampled_ones_all_is_taken_of_the_colors():
    photo = skimage_data.astronaut()[:136, :136] // 2 + 60
    picture = decode_picture(to_other_program(photo, 89))
    change = np.array([9, 4, 20])
    restored = restore_parts(picture, lambda pixels: (pixels + change).astype(np.uint8), lambda pixels: pixels)
    expected = change - 0.25 * (change @ [0.299, 0.587, 0.114])
    assert np.abs(restored.pixels.astype(float) - picture.pixels - expected).max() <= 0.51
    gray = decode_picture(to_other_program(photo[..., 0], 89))
    restored = restore_parts(gray, lambda pixels: pixels + np.uint8(8), lambda pixels: pixels)
    np.testing.assert_array_equal(restored.pixels, gray.pixels + 6)


@pytest.mark.parametrize(
    ("quality", "subsampling", "luma", "chroma"),
    [
        (91, "4:4:4", 1, 1),
        (92, "4:4:4", 0.75, 0.75),
        (94, "4:4:4", 0.75, 0.75),
        (91, "4:2:0", 1, 1),
        (92, "4:2:2", 0.75, 1),
        (94, "4:2:0", 0.75, 1),
        (95, "4:2:0", 0.75, 1),
        (96, "4:2:0", 0.5, 1),
        (96, "4:2:2", 0.5, 1),
    ],
)
def test_the_finer_a_jpeg_the_less_is_taken(quality, subsampling, luma, chroma):
    photo = skimage_data.astronaut()[:136, :136] // 2 + 60
    picture = decode_picture(to_jpeg(photo, quality, subsampling=subsampling))
    change = np.array([9, 4, 20])
    restored = restore_parts(picture, lambda pixels: (pixels + change).astype(np.uint8), lambda pixels: pixels)
    of_luma = change @ [0.299, 0.587, 0.114]
    expected = chroma * (change - of_luma) + luma * of_luma
    assert np.abs(restored.pixels.astype(float) - picture.pixels - expected).max() <= 0.51
    forced = restore_parts(picture, lambda pixels: (pixels + change).astype(np.uint8), fail, force=True)
    np.testing.assert_array_equal(forced.pixels, picture.pixels + change)


@pytest.mark.parametrize(("height", "width"), [(128, 200), (200, 128), (24, 24)])
def test_of_small_pictures_less_is_taken(height, width):
    photo = skimage_data.astronaut()[:height, :width]
    decisions = [decide(decode_picture(to_jpeg(photo, quality, subsampling=0))) for quality in (79, 80, 90, 94, 95)]
    assert [each.luma for each in decisions] == [each.chroma for each in decisions] == [1, 0.75, 0.5, 0.25, 1]
    assert [each.restore for each in decisions] == [True, True, True, True, False]
    subsampled = decide(decode_picture(to_jpeg(photo, 96, subsampling=2)))
    assert (subsampled.restore, subsampled.luma, subsampled.chroma) == (True, 0.25, 1)
    assert decide(decode_picture(to_jpeg(photo, 90)), force=True).luma == 1


def test_of_noisy_ones_less_is_taken():
    photo = skimage_data.astronaut()[:200, :200] * 0.4 + 75
    noise = np.random.default_rng(0).normal(0, 20, (*photo.shape[:2], 1))
    noisy = np.rint(photo + noise).clip(0, 255).astype(np.uint8)
    lumas = [decide(decode_picture(to_jpeg(noisy, quality, subsampling=0))).luma for quality in (79, 80, 90, 94)]
    assert lumas == [1, 0.75, 0.5, 0.25]
    assert decide(decode_picture(to_jpeg(photo.astype(np.uint8), 90, subsampling=0))).luma == 1


def test_of_a_lossless_copy_all_is_taken_of_the_colors():
    photo = skimage_data.astronaut()[:136, :136]
    for quality, luma in ((90, 1), (93, 0.75)):
        decision = decide(decode_picture(to_png(decode_picture(to_jpeg(photo, quality, subsampling=0)).pixels)))
        assert (decision.found, decision.luma, decision.chroma) == (f"Q{quality}", luma, 1)


def test_of_one_that_was_finer_than_an_earlier_one_all_is_taken():
    photo = skimage_data.astronaut()[:128, :128]
    twice = to_jpeg(decode_picture(to_jpeg(photo, 50)).pixels, 95)
    decision = decide(decode_picture(twice))
    assert (decision.found, decision.luma, decision.chroma) == ("Q50, saved again at Q95", 1, 1)


@pytest.mark.parametrize("subsampling", ["4:4:0", "4:4:4", "4:2:0"])
@pytest.mark.parametrize("size", [(64, 96), (40, 150)])
def test_what_was_turned_without_loss_is_turned_for_the_model(subsampling, size):
    photo = skimage_data.astronaut()[: size[0], : size[1]]
    picture = decode_picture(to_turned_jpeg(photo, 60, subsampling))
    seen = []

    def restore(pixels):
        seen.append(pixels)
        return brighter(pixels)

    restored = restore_parts(picture, restore, fail)
    np.testing.assert_array_equal(restored.pixels, picture.pixels + np.uint8(1))
    [given] = seen
    assert given.shape[0] > given.shape[1] and given.flags.c_contiguous and restored.pixels.flags.c_contiguous
    if min(size) >= 64:  # it is not surrounded by its own blocks
        np.testing.assert_array_equal(given, picture.pixels.swapaxes(0, 1))


@pytest.mark.parametrize(("height", "width"), [(24, 24), (25, 40), (63, 300), (64, 64), (24, 1000)])
@pytest.mark.parametrize("offset", [(0, 0), (3, 5)])
def test_small_pictures_are_surrounded_by_their_own_blocks(height, width, offset):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    seen = []

    def restore(filled):
        seen.append(filled)
        return brighter(filled)

    np.testing.assert_array_equal(restore_picture._restore_on_grid(pixels, offset, restore), pixels + 1)
    [filled] = seen
    assert min(filled.shape[:2]) >= 64
    places = np.argwhere((filled == pixels[0, 0]).all(axis=2))
    assert any(((place + offset) % 8 == 0).all() for place in places)  # blocks begin at multiples of 8
    if min(height, width) >= 64 and offset == (0, 0):
        assert filled is pixels


def test_a_large_picture_is_not_copied():
    pixels = np.zeros([2048, 1024, 3], np.uint8)
    tracemalloc.start()
    assert restore_picture._restore_on_grid(pixels, (0, 0), lambda same: same) is pixels
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_a_picture_that_is_gone_cannot_be_copied(tmp_path):
    picture = decode_picture(to_png(np.full([24, 24, 3], 100, np.uint8)))
    left_alone = restore_parts(picture, brighter, fail)
    with pytest.raises(InputError, match="gone.png cannot be read: No such file"):
        write_restored(left_alone, tmp_path / "gone.png", io.BytesIO(), "png")


def test_luma_is_kept_in_little_memory():
    before = np.random.default_rng(0).integers(40, 200, (1024, 1024, 3), np.uint8)
    restored = np.flip(before, axis=2) // 2
    tracemalloc.start()
    result = restore_picture._take_shares(before, restored, 0.0, 1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 9 * 1024**2  # bytes; 3 for each pixel are the result
    np.testing.assert_allclose(*(each @ np.array([0.299, 0.587, 0.114]) for each in (result, before)), atol=1)


@pytest.mark.parametrize("format", ["jpeg", "avif"])
def test_what_is_only_converted_loses_as_little_as_the_format_can(format):
    picture = decode_picture(to_png(skimage_data.astronaut()[:64, :64]))
    left_alone = restore_parts(picture, brighter, brighter)
    fitted = fit_to_format(picture, left_alone, format)
    assert not left_alone.decision.restore and fitted.quality == 100
    assert fitted.notes == (*left_alone.notes, f"{format} of quality 100 loses some of it, PNG keeps it")
    assert fit_to_format(picture, left_alone, "png") is left_alone


def test_what_is_left_alone_in_its_own_format_is_no_worse_for_it():
    picture = decode_picture(to_jpeg(skimage_data.astronaut()[:64, :64], 98))
    left_alone = restore_parts(picture, brighter, brighter)
    assert fit_to_format(picture, left_alone, "jpeg") is left_alone


def test_transparency_is_kept():
    alpha = np.tile(np.array([0, 7, 255], np.uint8), (24, 8))
    restored = restore_parts(dataclasses.replace(PICTURE, alpha=alpha), brighter, fail)
    np.testing.assert_array_equal(restored.alpha, alpha)
    np.testing.assert_array_equal(restored.pixels, PICTURE.pixels + 1)


@pytest.mark.parametrize("cut", [(0, 0), (2, 2), (7, 0), (0, 5)])
def test_the_model_sees_a_picture_from_the_corner_of_a_block(cut):
    """Whose corner is filled up by reflection, and cut off again."""
    seen = []

    def look(pixels):
        seen.append(pixels)
        return pixels + np.uint8(1)

    whole = decode_picture(to_jpeg(skimage_data.astronaut()[:200, :208], 20)).pixels
    part = decode_picture(to_png(whole[cut[0] :, cut[1] :]))
    restored = restore_parts(part, look, fail)
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
    picture = decode_picture(to_jpeg(np.full([24, 24, 3], 100, np.uint8), 97))
    restored = restore_parts(picture, brighter, lambda sample: sample, force)
    assert (restored.pixels == picture.pixels + (1 if force else 0)).all()
    assert any("left alone" in note for note in restored.notes) != force


CLEAN = skimage_data.astronaut()[:136, :136]  # large enough that most of a change is taken


def mean_square(one, other):
    return np.square(one.astype(float) - other).mean()


def restore_to(pixels, content, format, quality=None, force=False, **options):
    """Writes what a model finds that gives just these pixels: the file, and the restored picture."""
    before = decode_picture(content, **options)
    restored = restore_parts(before, lambda _: pixels, lambda sample: sample, force)
    fitted = fit_to_format(before, restored, format, quality, force)
    file = io.BytesIO()
    write_restored(fitted, content, file, format, quality)
    return file.getvalue(), fitted


@pytest.mark.parametrize(("quality", "subsampling"), [(30, "4:2:0"), (75, "4:4:4"), (90, "4:4:4"), (94, "4:4:4")])
@pytest.mark.parametrize("format", ["jpeg", "avif"])
def test_a_lossy_format_keeps_most_of_the_gain(format, quality, subsampling):
    content = to_jpeg(CLEAN, quality, subsampling=subsampling)
    written, fitted = restore_to(CLEAN, content, format)
    lost = mean_square(decode_picture(written).pixels, CLEAN)
    assert lost <= (0.3 if format == "jpeg" else 0.7) * mean_square(decode_picture(content).pixels, CLEAN)
    assert fitted.quality in LOSSY_QUALITIES[format]
    if quality == 30:
        assert fitted.quality == LOSSY_QUALITIES[format][0]
    if quality == 94:
        assert fitted.quality > LOSSY_QUALITIES[format][0]


def test_it_does_so_in_all_parts_of_a_large_picture():
    """Only some are looked at, and none needs to lie on blocks."""
    large = np.tile(CLEAN, (10, 9, 1))[3:, 5:]
    content = to_jpeg(large, 90)
    written, _ = restore_to(large, content, "jpeg")
    lost, before = (mean_square(decode_picture(each).pixels, large) for each in (written, content))
    assert lost <= 0.3 * before


def test_gray_is_fitted_too():
    gray = np.ascontiguousarray(CLEAN[..., 1:2])
    content = to_jpeg(gray[..., 0], 90)
    written, _ = restore_to(gray, content, "jpeg")
    before, after = (mean_square(decode_picture(each).pixels, gray) for each in (content, written))
    assert after <= 0.3 * before


def test_where_nothing_was_changed_nothing_is_lost():
    content = to_jpeg(CLEAN, 50)
    unchanged = decode_picture(content).pixels
    assert restore_to(unchanged, content, "jpeg")[0] == content  # left alone
    for format, force in (("avif", False), ("jpeg", True)):
        _, fitted = restore_to(unchanged, content, format, force=force)
        assert fitted.quality == LOSSY_QUALITIES[format][0] and fitted.notes == ()


def test_16_bits_are_fitted_as_the_8_that_are_written():
    before = decode_picture(to_jpeg(CLEAN, 90))
    restored = restore_parts(before, lambda _: CLEAN, lambda sample: sample)
    deep, restored_deep = (
        dataclasses.replace(each, pixels=each.pixels * np.uint16(257)) for each in (before, restored)
    )
    fitted = fit_to_format(deep, restored_deep, "jpeg")
    assert fitted.quality == fit_to_format(before, restored, "jpeg").quality > 95
    assert fitted.pixels.dtype == np.uint16


def test_the_file_is_handed_back_where_its_format_would_lose_more_than_was_gained():
    content = to_jpeg(CLEAN, 50)
    hardly = decode_picture(content).pixels.copy()
    hardly[::8, ::8] ^= 1
    written, fitted = restore_to(hardly, content, "jpeg")
    assert written == content and not fitted.decision.restore
    np.testing.assert_array_equal(fitted.pixels, decode_picture(content).pixels)
    assert str(fitted.notes[-1]).startswith("left alone, as it would lose as jpeg what restoring gains")
    assert fitted.decision.found == "Q50"

    for format in ("png", "avif"):  # as there is no such file, or nothing is lost
        written, fitted = restore_to(hardly, content, format)
        assert fitted.decision.restore and written != content
        assert any("loses" in str(note) for note in fitted.notes) == (format == "avif")
    for options in ({"force": True}, {"quality": 60}):
        written, fitted = restore_to(hardly, content, "jpeg", **options)
        assert fitted.decision.restore and written != content
        quality = options.get("quality", 100)
        assert fitted.notes[-1] == f"as jpeg of quality {quality} it loses what restoring gained, PNG keeps it"
        assert decode_picture(written).header.quality == quality
    _, broken = restore_to(hardly, content[:-40], "jpeg", allow_truncated=True)
    assert broken.decision.restore


def test_what_the_user_wants_is_kept_without_a_word_where_it_loses_little():
    written, fitted = restore_to(CLEAN, to_jpeg(CLEAN, 20), "webp", quality=95)
    assert fitted.notes == () and fitted.quality == 95
    before, _ = restore_to(CLEAN, to_jpeg(CLEAN, 20), "webp")  # without loss
    assert len(written) < len(before)
    np.testing.assert_array_equal(decode_picture(before).pixels, CLEAN)
