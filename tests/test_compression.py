"""Traces of compression are found where they are, and nowhere else."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, JpegPresets
from skimage import data as skimage_data

from artifact_remover.pictures.compression import (
    Compression,
    busiest_corners,
    find_compressions,
    is_enlarged,
    is_noisy,
    power_beyond_quantization,
)
from artifact_remover.pictures.jpeg_header import read_jpeg_header
from artifact_remover.pictures.picture import decode_picture
from data_prep.drawing import KINDS, draw_graphic
from tests.sample_pictures import to_file, to_jpeg

PHOTO = skimage_data.astronaut()
CUPS = skimage_data.coffee()
PICTURES = Path(__file__).parent / "pictures"
PROGRAMS = ("jpegli", "mozjpeg", "guetzli")


def decoded(content):
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def compressed(pixels, quality, **options):
    return decoded(to_jpeg(pixels, quality, **options))


def told(pixels, header=None):
    return [(found.quality, found.offset) for found in find_compressions(pixels, header)]


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90, 95, 98])
@pytest.mark.parametrize("cut", [(0, 0), (2, 2), (7, 4), (13, 9)])
def test_quality_and_grid_of_what_was_cut_out_of_a_jpeg(quality, subsampling, cut):
    pixels = compressed(PHOTO, quality, subsampling=subsampling)[cut[0] : cut[0] + 300, cut[1] : cut[1] + 300]
    [(found, offset)] = told(pixels)
    assert offset == tuple(-each % 8 for each in cut) and abs(found - quality) <= 2


def test_gray_and_16_bits():
    gray = compressed(skimage_data.camera(), 40)[5:, 3:, :1]
    assert told(gray) == [(40, (3, 5))] == told(gray.astype(np.uint16) * 257)


@pytest.mark.parametrize("picture", [PHOTO, CUPS, skimage_data.camera()[..., np.newaxis]])
def test_clean_photographs_have_no_trace(picture):
    assert told(picture) == told(picture[3:, 5:]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_clean_graphics_have_no_trace(kind):
    for seed in range(4):
        assert told(draw_graphic(np.random.default_rng(seed), 256, kind)) == []


@pytest.mark.parametrize("pixel", [2, 4, 7, 8, 16])
def test_pixel_art_is_not_taken_for_blocks(pixel):
    art = np.random.default_rng(0).choice(np.array([0, 60, 200, 255], np.uint8), [40, 40, 3])
    assert told(np.kron(art, np.ones([pixel, pixel, 1], np.uint8))) == []


@pytest.mark.parametrize(
    ("kind", "seed", "factor", "filter"),
    [
        ("code", 6, 2, Image.Resampling.NEAREST),
        ("code", 6, 2, Image.Resampling.LANCZOS),
        ("code", 3, 2, Image.Resampling.BILINEAR),
        ("pixel_art", 7, 2, Image.Resampling.BILINEAR),
        ("bitmap_text", 9, 3, Image.Resampling.NEAREST),
        ("bitmap_text", 7, 2, Image.Resampling.BICUBIC),
    ],
)
def test_clean_graphics_have_no_trace_when_enlarged(kind, seed, factor, filter):
    graphic = Image.fromarray(draw_graphic(np.random.default_rng(seed), 256, kind))
    assert told(np.array(graphic.resize([256 * factor] * 2, filter))) == []


@pytest.mark.parametrize(("seed", "filter"), [(23, "LANCZOS"), (30, "BICUBIC"), (35, "LANCZOS"), (37, "LANCZOS")])
def test_clean_codes_have_traces_of_chance_at_many_offsets_and_so_none(seed, filter):
    code = Image.fromarray(draw_graphic(np.random.default_rng(seed), 192, "code"))
    assert told(np.array(code.resize([384, 384], Image.Resampling[filter]))) == []


@pytest.mark.parametrize("side", [4, 8])
def test_a_code_whose_cells_become_blocks_has_no_trace_when_enlarged(side):
    dark = np.random.default_rng(0).random([48, 48]) < 0.5
    code = Image.fromarray(np.where(dark, 0, 255).astype(np.uint8).repeat(side, 0).repeat(side, 1)).convert("RGB")
    for filter in Image.Resampling.NEAREST, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS:
        assert told(np.array(code.resize([2 * code.width] * 2, filter))) == []


@pytest.mark.parametrize("name", ["web_low", "web_medium", "web_high", "maximum"])
def test_tables_that_are_not_libjpegs(name):
    content = to_file(PHOTO, qtables=JpegPresets.presets[name]["quantization"], subsampling="4:4:4")
    [(quality, offset)] = told(decoded(content)[3:, 6:])
    assert offset == (5, 2)
    # By the steps of few frequencies at low qualities, where the header tells those of all.
    assert abs(quality - read_jpeg_header(io.BytesIO(content)).quality) <= (25 if name == "web_low" else 3)


@pytest.mark.parametrize(("first", "last"), [(20, 95), (50, 95), (75, 97), (20, 85)])
@pytest.mark.parametrize("cut", [(0, 0), (3, 5)])
def test_an_earlier_compression_of_a_jpeg(first, last, cut):
    picture = decode_picture(to_jpeg(compressed(PHOTO, first)[cut[0] :, cut[1] :], last))
    [(quality, offset), own] = told(picture.pixels, picture.header)
    assert own == (last, (0, 0)) and offset == tuple(-each % 8 for each in cut) and abs(quality - first) <= 2


@pytest.mark.parametrize("quality", [10, 20, 50, 75, 85, 90, 95, 97, 100])
@pytest.mark.parametrize("picture", [PHOTO, CUPS])
def test_a_jpeg_that_was_saved_once_has_no_earlier_compression(quality, picture):
    once = decode_picture(to_jpeg(picture, quality))
    assert told(once.pixels, once.header) == [(quality, (0, 0))]


@pytest.mark.parametrize("program", PROGRAMS)
def test_nor_has_one_of_another_program(program):
    """Its tables are as coarse as those of a much lower quality of libjpeg in some frequencies."""
    once = decode_picture((PICTURES / "programs" / f"{program}.jpg").read_bytes())
    assert told(once.pixels, once.header) == [(once.header.quality, (0, 0))]


@pytest.mark.parametrize("preset", ["web_low", "web_high", "low", "medium", "high"])
@pytest.mark.parametrize("picture", [PHOTO, CUPS])
def test_nor_has_one_of_photoshops_tables(preset, picture):
    once = decode_picture(to_file(picture, quality=preset))
    assert told(once.pixels, once.header) == [(once.header.quality, (0, 0))]


@pytest.mark.parametrize("cut", [(0, 0), (3, 5)])
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_earlier_compression_of_a_jpeg_of_another_program(program, cut):
    tables = read_jpeg_header(io.BytesIO((PICTURES / "programs" / f"{program}.jpg").read_bytes())).quantization
    picture = decode_picture(to_file(compressed(PHOTO, 20)[cut[0] :, cut[1] :], qtables=[tables[0], tables[-1]]))
    [(quality, offset), own] = told(picture.pixels, picture.header)
    assert own == (picture.header.quality, (0, 0))
    assert offset == tuple(-each % 8 for each in cut) and abs(quality - 20) <= 2


@pytest.mark.parametrize("filter", [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS], ids=lambda each: each.name)
@pytest.mark.parametrize("kind", ["code", "pixel_art", "bitmap_text"])
def test_nor_has_one_of_an_enlarged_pattern_whose_few_blocks_repeat(kind, filter):
    for seed in range(6):
        drawn = Image.fromarray(draw_graphic(np.random.default_rng(seed), 192, kind))
        picture = decode_picture(to_jpeg(np.array(drawn.resize((384, 384), filter)), 90))
        [found] = find_compressions(picture.pixels, picture.header)
        assert found.quality == 90 and found.offset == (0, 0)


def test_the_strongest_of_two_compressions_of_a_lossless_file():
    assert told(compressed(compressed(PHOTO, 20)[2:, 3:], 95)[1:, 1:]) == [(20, (5, 4))]
    [(first, grid), last] = told(compressed(compressed(CUPS, 80)[2:, 3:], 95)[1:, 1:])
    assert (first, grid, last) == (80, (5, 4), (95, (7, 7)))


def test_a_photograph_that_was_a_jpeg_once():
    assert told(skimage_data.chelsea()) == [(98, (0, 0))]  # published as a PNG


@pytest.mark.parametrize(
    ("shape", "found"),
    [((1, 1), 0), ((15, 400), 0), ((16, 16), 0), ((64, 64), 1), ((48, 512), 1), ((512, 48), 1)],
)
def test_small_and_narrow_pictures(shape, found):
    assert told(compressed(PHOTO[-shape[0] :, -shape[1] :], 30)) == [(30, (0, 0))] * found


def test_a_jpeg_inside_a_screenshot_is_found_where_it_is_most_of_the_picture():
    screen = np.full([600, 800, 3], 240, np.uint8)
    screen[51:563, 131:643] = compressed(PHOTO, 40)
    assert told(screen) == [(40, (51 % 8, 131 % 8))]


@pytest.mark.parametrize("factor", [1.5, 2, 3])
def test_enlarged_pictures_are_told_by_their_missing_detail(factor):
    large = Image.fromarray(PHOTO[:256, :256]).resize([int(256 * factor)] * 2, Image.Resampling.BICUBIC)
    assert is_enlarged(np.array(large)) and not is_enlarged(PHOTO)
    assert not is_enlarged(compressed(PHOTO, 30))


def test_the_busiest_squares_come_first_and_do_not_overlap():
    pixels = np.zeros([64, 96, 3], np.uint8)
    pixels[32:64, 64:] = np.random.default_rng(0).integers(0, 255, [32, 32, 3])
    pixels[:32, :32, 1] = np.arange(32) * 8
    corners = busiest_corners(pixels, 32, 6)
    assert corners[:2] == [(32, 64), (0, 0)] and len(set(corners)) == 6
    assert busiest_corners(pixels, 65, 6) == []


@pytest.mark.parametrize("offset", [(0, 0), (3, 5)])
def test_the_power_of_changes_beyond_quantization_is_told(offset):
    """The lowest horizontal frequency has a luma step of 11 at quality 50."""
    wave = np.cos(np.pi / 16 * (2 * (np.arange(64) - offset[1]) + 1)) / 2
    wave = np.broadcast_to(wave, (1, 64, 64)).astype(np.float32)
    wave = wave / (np.linalg.norm(wave[0, offset[0] : offset[0] + 8, offset[1] : offset[1] + 8]))
    changes = np.concatenate([5.5 * wave, 11 * wave, 0 * wave])
    beyond, power = power_beyond_quantization(changes, Compression(50, offset, 1.0))
    assert beyond / np.maximum(power, 1) == pytest.approx([0, 0.25, 0], rel=1e-3, abs=1e-6)
    stated = power_beyond_quantization(changes, Compression(50, offset, 1.0, table=(22,) * 64))
    assert stated[0] == pytest.approx([0, 0, 0], abs=1e-6) and (stated[1] == power).all()
    assert power[0] == pytest.approx(5.5**2 * (64 // 8 - bool(offset[0])) * (64 // 8 - bool(offset[1])), rel=1e-3)


@pytest.mark.parametrize("strength", [3, 8])
def test_noise_in_the_quietest_parts_tells_a_noisy_picture_from_a_scaled_jpeg(strength):
    noisy = np.clip(PHOTO * 0.8 + 25 + np.random.default_rng(0).normal(0, strength, PHOTO.shape), 0, 255)
    noisy = np.rint(noisy).astype(np.uint8)
    scaled = Image.fromarray(compressed(noisy, 30)).resize([360, 360], Image.Resampling.BICUBIC)
    assert is_noisy(noisy) and is_noisy(noisy.astype(np.uint16) * 257)
    assert not is_noisy(np.array(scaled)) and not is_noisy(PHOTO) and not is_noisy(PHOTO[:71])


def test_a_trace_of_any_table_is_ahead_of_other_offsets():
    """Single frequencies of a pattern with noise fit steps of their own by chance, at most offsets nearly as well."""
    letters = np.asarray(draw_graphic(np.random.default_rng(5), 288, "bitmap_text"))
    noisy = letters * 0.85 + 20 + np.random.default_rng(5).normal(0, 2, letters.shape)
    assert find_compressions(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)) == ()
