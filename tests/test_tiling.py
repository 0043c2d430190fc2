import numpy as np
import pytest

from artifact_remover.tiling import GRID, choose_side, measure_overlap, plan_tiles

SHAPES = [(1, 1), (15, 17), (1000, 3), (64, 64), (65, 64), (400, 300), (177, 471)]
plans = pytest.mark.parametrize(
    ("shape", "side", "overlap"),
    [(shape, side, overlap) for shape in SHAPES for side in (64, 96) for overlap in (16, 80)],
)


@pytest.mark.parametrize(
    ("memory", "per_pixel", "side"),
    [(0, 960, 64), (100e6, 960, 320), (400e6, 960, 640), (700e6, 960, 848), (700e6, 240, 1696)],
)
def test_side_is_the_largest_on_the_grid_that_the_memory_holds(memory, per_pixel, side):
    assert choose_side(memory, per_pixel) == side


@plans
def test_targets_cover_every_pixel_once(shape, side, overlap):
    covered = np.zeros(shape, int)
    for tile in plan_tiles(shape, side, overlap):
        covered[tile.target] += 1
    assert (covered == 1).all()


@plans
def test_every_tile_starts_on_the_grid_and_sees_its_surroundings(shape, side, overlap):
    for tile in plan_tiles(shape, side, overlap):
        for length, target, source in zip(shape, tile.target, tile.source, strict=True):
            assert source.start % GRID == 0
            assert source.start == 0 or target.start - source.start >= overlap
            assert source.stop == length or source.stop - target.stop >= overlap


@plans
def test_no_tile_is_larger_than_asked_for_unless_the_overlap_leaves_no_room(shape, side, overlap):
    largest = max(side, 2 * overlap + 2 * GRID - 1)
    for tile in plan_tiles(shape, side, overlap):
        assert max(tile.shape) <= largest


def test_picture_that_fits_is_one_tile():
    [tile] = plan_tiles((1024, 1000), 1024, 16)
    assert tile.shape == (1024, 1000) and tile.inner == (slice(0, 1024), slice(0, 1000))


@plans
def test_all_sources_have_one_shape(shape, side, overlap):
    assert len({tile.shape for tile in plan_tiles(shape, side, overlap)}) == 1


@pytest.mark.parametrize("length", [1088, 1095, 1100])
def test_tiles_are_about_equal(length):
    rows = {tile.target[0].stop - tile.target[0].start for tile in plan_tiles((length, 64), 1024, 16)}
    assert max(rows) - min(rows) <= 2 * GRID  # not 992 and 108


@pytest.mark.parametrize("length", range(900, 916))
def test_no_more_is_restored_than_the_overlaps_need(length):
    tiles = plan_tiles((length, 64), 400, 32)
    assert len(tiles) == 3 and 3 * tiles[0].shape[0] < length + 4 * 32 + 3 * 2 * GRID


def test_inner_picks_the_target_out_of_the_source():
    picture = np.arange(200 * 150).reshape(200, 150)
    for tile in plan_tiles(picture.shape, 64, 16):
        np.testing.assert_array_equal(picture[tile.source][tile.inner], picture[tile.target])


def test_region_is_tiled_and_sees_beyond_itself():
    region = (slice(64, 128), slice(32, 100))
    tiles = plan_tiles((200, 150), 64, 16, region)
    covered = np.zeros((200, 150), int)
    for tile in tiles:
        covered[tile.target] += 1
    assert covered.sum() == covered[region].sum() == 64 * 68
    assert min(tile.source[0].start for tile in tiles) == 48 and max(tile.source[1].stop for tile in tiles) == 116


def blur(taps):
    """A network that sees as far as its kernel has taps, to either side."""
    kernel = np.concatenate([taps[::-1], [1.0], taps]) / (1 + 2 * np.sum(taps))

    def restore(picture):
        padded = np.pad(picture, [(0, 0), (0, 0), (len(taps), len(taps)), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=2)
        return windows @ kernel

    return restore


@pytest.mark.parametrize(("reach", "overlap"), [(1, 16), (16, 16), (17, 32), (40, 48), (80, 80)])
def test_overlap_is_as_far_as_the_network_sees(reach, overlap):
    assert measure_overlap(blur(np.ones(reach)), 80) == overlap


def test_what_counts_for_less_than_a_fraction_of_a_level_needs_no_overlap():
    assert measure_overlap(blur(0.5 ** np.arange(60)), 80) == 16
