import numpy as np
import pytest

from data_prep.drawing import KINDS, draw_graphic, draw_pixel_art


def draw(kind, seed=1, size=96):
    return draw_graphic(np.random.default_rng(seed), size, kind)


def count_colors(picture):
    return len(np.unique(picture.reshape(-1, 3), axis=0))


@pytest.mark.parametrize("size", [16, 96, 320])
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_have_the_stated_shape_and_type(kind, size):
    picture = draw(kind, size=size)
    assert (picture.shape, picture.dtype) == ((size, size, 3), np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_draws_the_same_and_others_draw_others(kind):
    pictures = [draw(kind, seed) for seed in range(6)]
    np.testing.assert_array_equal(pictures[0], draw(kind, 0))
    assert len({picture.tobytes() for picture in pictures}) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_show_something(kind):
    shown = [draw(kind, seed).std(axis=(0, 1)).max() > 5 for seed in range(20)]
    assert np.mean(shown) >= 0.9


def test_kinds_differ():
    assert len({draw(kind).tobytes() for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("scale", [2, 5, 8, 16])
def test_pixels_of_pixel_art_are_squares_from_the_corner_on(scale):
    picture = np.asarray(draw_pixel_art(np.random.default_rng(3), 160, scale)).astype(int)
    for axis in (0, 1):
        others = [other for other in (0, 1, 2) if other != axis]
        steps = abs(np.diff(picture, axis=axis)).sum(axis=tuple(others))
        changes = np.flatnonzero(steps) + 1
        assert len(changes) > 3
        assert (changes % scale == 0).all()


def test_pixel_art_lies_on_the_grid_of_jpeg_and_off_it():
    def on_grid(seed):
        picture = draw("pixel_art", seed, 160).astype(int)
        rows = np.flatnonzero(abs(np.diff(picture, axis=0)).sum(axis=(1, 2))) + 1
        return bool(len(rows)) and (rows % 8 == 0).all()

    share = np.mean([on_grid(seed) for seed in range(60)])
    assert 0.2 < share < 0.5  # 6 of 15 are enlarged by 8 or 16, two thirds of these from the corner on


def test_two_colors_make_codes_and_dither_and_few_make_pixel_art():
    assert {count_colors(draw(kind, seed)) for kind in ("code", "dither") for seed in range(5)} == {2}
    assert all(count_colors(draw("pixel_art", seed)) <= 16 for seed in range(5))


def test_smoothing_of_text_is_gray_or_of_subpixels():
    def is_gray(picture):
        return (picture.max(axis=-1) == picture.min(axis=-1)).mean()

    def gray_page(kind):
        pictures = [draw(kind, seed) for seed in range(40)]
        return [is_gray(each) for each in pictures if len(set(each[-1, -1])) == 1]

    # On gray pages, the fringes of subpixels are colored.
    assert np.mean(gray_page("text")) > np.mean(gray_page("subpixel_text")) + 0.05
