"""The decision, and that every front door acts on it."""

import functools
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as skimage_data

from artifact_remover import __version__, restore, tf_serving_client
from artifact_remover.decision import decide, decide_by_mark
from artifact_remover.pictures.compression import find_compressions, to_luma
from artifact_remover.pictures.picture import FORMATS, decode_picture, inspect_picture
from artifact_remover.restoration import Restorer
from artifact_remover.restore_picture import restore_parts
from artifact_remover.tf_serving_client import RemoteRestorer
from tests.sample_pictures import PHOTO, to_cmyk_jpeg, to_file, to_jpeg, to_png
from tests.web_server import serving

LARGE = skimage_data.astronaut()[:300, :300]
FINE, POOR = to_jpeg(PHOTO, 97), to_jpeg(PHOTO, 10)


def brighter(pictures):
    return np.clip(pictures + 1 / 255, 0, 1)


RESTORER = Restorer(brighter, 16)


def restore_bytes(content, format, **options):
    return RESTORER.restore_bytes(content, format=format, **options)


def restore_file(content, format, **options):
    Path("in.jpg").write_bytes(content)
    return RESTORER.restore_file("in.jpg", f"out.{format}", overwrite=True, **options).read_bytes()


def restore_by_command(content, format, *options, force=False, quality=None):
    Path("in.jpg").write_bytes(content)
    arguments = ["--force"] * force + (["--quality", str(quality)] if quality else [])
    assert restore.main(["in.jpg", "-o", f"out.{format}", "--overwrite", *options, *arguments]) == 0
    return Path(f"out.{format}").read_bytes()


@pytest.fixture(params=["restore_bytes", "restore_file", "command", "command with a server", "web"])
def door(request, tmp_path, monkeypatch):
    """Restores a file's content by one front door: `door(content, format, force=False, quality=None)`."""
    monkeypatch.chdir(tmp_path)
    doors = {"restore_bytes": restore_bytes, "restore_file": restore_file, "command": restore_by_command}
    if request.param in doors:
        monkeypatch.setattr(restore, "_load", lambda config: RESTORER)
        yield doors[request.param]
    elif request.param == "web":
        with serving(RESTORER) as client:
            yield lambda content, format, **query: client.post(content, format=format, **query).content
    else:
        remote = RemoteRestorer(lambda content: to_png(RESTORER.restore(decode_picture(content).pixels)), "a server")
        monkeypatch.setattr(tf_serving_client.RemoteRestorer, "connect", lambda url: remote)
        yield lambda content, format, **options: restore_by_command(
            content, format, "--server", "http://host:8501", **options
        )


def test_a_jpeg_that_is_left_alone_comes_back_byte_for_byte(door):
    assert door(FINE, "jpeg") == FINE


def test_a_jpeg_that_is_left_alone_is_converted_where_another_file_is_wanted(door):
    np.testing.assert_array_equal(decode_picture(door(FINE, "png")).pixels, decode_picture(FINE).pixels)
    smaller = door(FINE, "jpeg", quality=60)
    assert decode_picture(smaller).header.quality == 60 and len(smaller) < len(FINE)


def test_what_breaks_off_is_written_anew_and_not_handed_back_broken():
    broken = to_jpeg(PHOTO, 98, subsampling="4:4:4")[:-1500]
    content = RESTORER.restore_bytes(broken, format="jpeg", allow_truncated=True)
    assert content != broken and decode_picture(content).pixels.shape == PHOTO.shape


def test_forced_or_poor_it_is_restored(door):
    for content, options in ((FINE, {"force": True}), (POOR, {})):
        before, after = (decode_picture(each).pixels for each in (content, door(content, "png", **options)))
        np.testing.assert_array_equal(after, np.minimum(before, 254) + 1)


@pytest.mark.parametrize(
    ("quality", "subsampling", "force", "restored"),
    [
        (94, "4:4:4", False, True),
        (95, "4:4:4", False, False),
        (95, "4:4:4", True, True),
        (96, "4:2:0", False, True),
        (96, "4:2:2", False, True),
        (97, "4:2:0", False, False),
        (97, "4:2:0", True, True),
    ],
)
def test_a_jpeg_of_high_quality_is_left_alone_unless_forced(quality, subsampling, force, restored):
    decision = decide(decode_picture(to_jpeg(PHOTO, quality, subsampling=subsampling)), force)
    assert decision.restore == restored and bool(decision.why) == bool(decision.notes) == (not restored)
    assert decision.found == f"Q{quality}"


def test_a_gray_jpeg_is_left_alone_from_quality_95():
    assert [decide(decode_picture(to_jpeg(PHOTO[..., 0], quality))).restore for quality in (94, 95)] == [True, False]


@pytest.mark.parametrize("components", ["red, green and blue", "inks"])
def test_a_jpeg_without_luma_counts_as_finer(components):
    encode = to_cmyk_jpeg if components == "inks" else functools.partial(to_jpeg, keep_rgb=True)
    decisions = [decide(decode_picture(encode(LARGE, quality=quality))) for quality in (83, 84, 89, 90)]
    assert [(each.restore, each.luma, each.chroma) for each in decisions] == [
        (True, 1, 1),
        (True, 0.75, 0.75),
        (True, 0.75, 0.75),
        (False, 1, 1),
    ]
    assert decisions[-1].found == "Q90"


def test_the_reason_names_the_quality_and_the_option():
    assert decide(decode_picture(FINE)).notes == (
        "left alone, as practically uncompressed: quality 97, force restores it",
    )


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_what_was_a_jpeg_is_restored_on_its_grid_whatever_file_it_is_in(format):
    cut = decode_picture(to_jpeg(LARGE, 40)).pixels[3:, 5:]
    decision = decide(decode_picture(to_file(cut, format)))
    assert (decision.restore, decision.offset, decision.found) == (True, (5, 3), "Q40, grid at 5, 3")


@pytest.mark.parametrize("cut", [(0, 0), (3, 6)])
def test_the_model_is_tried_on_the_grid_on_which_it_would_restore(cut):
    small = Image.fromarray(skimage_data.astronaut()[100:300, 100:300])
    pixels = decode_picture(to_jpeg(np.array(small.resize((400, 400), Image.Resampling.BICUBIC)), 85)).pixels
    tried = []

    def note(sample):
        tried.append(sample)
        return sample

    decision = decide(decode_picture(to_png(pixels[cut[0] :, cut[1] :])), restore=note)
    assert decision.offset == (-cut[0] % 8, -cut[1] % 8)
    assert tried and {find_compressions(sample)[0].offset for sample in tried} == {(0, 0)}


def test_what_has_no_trace_of_jpeg_is_left_alone_unless_forced():
    picture = decode_picture(to_png(LARGE))
    assert decide(picture).notes == ("left alone, as no trace of JPEG compression was found, force restores it",)
    assert decide(picture).found == "no trace of JPEG"
    assert decide(picture, force=True).restore


@pytest.mark.parametrize(("height", "width", "restored"), [(23, 300, False), (300, 1, False), (24, 300, True)])
def test_what_is_nearly_all_edge_is_left_alone(height, width, restored):
    picture = decode_picture(to_jpeg(LARGE[:height, :width], 10))
    decision = decide(picture)
    assert decision.restore == restored and decide(picture, force=True).restore
    assert restored or "less than 24 pixels high or wide" in str(decision.why)


def test_a_lossless_copy_of_a_fine_jpeg_is_left_alone():
    decision = decide(decode_picture(to_png(decode_picture(to_jpeg(LARGE, 96, subsampling="4:4:4")).pixels[1:])))
    assert (decision.restore, decision.found) == (False, "Q96, grid at 7, 0")


@pytest.mark.parametrize(("first", "cut", "grid"), [(20, (0, 0), (0, 0)), (20, (3, 5), (5, 3)), (80, (3, 5), (0, 0))])
def test_what_was_saved_again_at_a_high_quality_is_restored(first, cut, grid):
    """On the grid of the first compression where that was much coarser."""
    once = decode_picture(to_jpeg(LARGE, first)).pixels
    decision = decide(decode_picture(to_jpeg(once[cut[0] :, cut[1] :], 97)))
    at = "" if cut == (0, 0) else ", grid at 5, 3"
    assert (decision.restore, decision.offset, decision.found) == (True, grid, f"Q{first}{at}, saved again at Q97")


def darker_by(levels):
    return lambda pixels: np.where(pixels > levels, pixels - np.uint8(levels), pixels)


@pytest.mark.parametrize(("levels", "restored"), [(0, False), (1, True)])
def test_what_lost_its_grid_is_restored_if_the_model_finds_much_to_mend(levels, restored):
    """A difference of one level is a PSNR of 48 dB."""
    decision = decide(decode_picture(to_png(LARGE)), restore=darker_by(levels))
    assert decision.restore == restored
    assert decision.found == ("no trace of JPEG, artifacts" if restored else "no trace of JPEG")


@pytest.mark.parametrize(("levels", "restored"), [(1, False), (2, True)])
def test_of_a_jpeg_the_model_has_to_mend_more_as_it_mends_its_rounding_too(levels, restored):
    assert decide(decode_picture(to_jpeg(LARGE, 98)), restore=darker_by(levels)).restore == restored


def redder(pixels, levels=2):
    """Luma changes by 0.6 levels of two, which is a PSNR of 52.6 dB, chroma by more."""
    return np.where(pixels < 256 - levels, pixels + np.array([levels, 0, 0], np.uint8), pixels)


@pytest.mark.parametrize(
    ("format", "options", "colors_only"),
    [
        ("WEBP", {"quality": 90}, True),
        ("WEBP", {"lossless": True}, False),
        ("AVIF", {"quality": 90}, True),
        ("AVIF", {"quality": 90, "subsampling": "4:4:4"}, False),
    ],
)
def test_colors_alone_are_restored_where_only_they_were_reduced(format, options, colors_only):
    picture = decode_picture(to_file(LARGE, format, **options))
    decision = decide(picture, restore=redder)
    assert decision.restore == decision.colors_only == colors_only
    assert not decide(picture, restore=lambda pixels: pixels).restore
    assert decide(picture).restore == colors_only  # without a model
    if colors_only:
        assert decision.found == "no trace of JPEG, chroma subsampled"
        restored = restore_parts(picture, redder, redder)
        assert restored.notes == ("only its colors were restored, force restores all",)
        assert abs(to_luma(restored.pixels) - to_luma(picture.pixels))[picture.pixels.max(axis=2) < 253].max() < 0.51
        assert (restored.pixels.astype(int) - picture.pixels)[..., 0].mean() > 0.9
        forced = restore_parts(picture, redder, redder, force=True)
        np.testing.assert_array_equal(forced.pixels, redder(picture.pixels))


@pytest.mark.parametrize(
    ("levels", "quality", "subsampling", "colors_only"),
    [
        (4, 97, "4:2:0", True),
        (4, 100, "4:2:0", True),
        (4, 98, "4:2:2", True),
        (4, 98, "4:4:4", False),
        (3, 98, "4:2:0", False),
    ],
)
def test_so_are_they_of_a_fine_jpeg_where_there_is_much_to_mend(levels, quality, subsampling, colors_only):
    """Four levels of red are a PSNR of 42.6 dB of chroma, 46.5 of luma; three are 45.1 of chroma."""
    content = to_jpeg(LARGE, quality, subsampling=subsampling)
    decision = decide(decode_picture(content), restore=lambda pixels: redder(pixels, levels))
    assert decision.restore == decision.colors_only == colors_only
    assert not colors_only or decision.found == f"Q{quality}, chroma subsampled"
    assert not decide(decode_picture(content)).restore  # without a model: cameras write such files


def test_transparency_is_kept_where_colors_alone_are_restored():
    alpha = np.broadcast_to(np.arange(256).repeat(2)[:300, np.newaxis], (300, 300, 1)).astype(np.uint8)
    picture = decode_picture(to_file(np.concatenate([LARGE, alpha], axis=2), "WEBP", quality=90))
    restored = restore_parts(picture, redder, redder)
    assert restored.decision.colors_only
    np.testing.assert_array_equal(restored.alpha, alpha[..., 0])


def test_enlarged_colors_are_left_alone():
    large = np.array(Image.fromarray(LARGE).resize([900, 900], Image.Resampling.BICUBIC))
    assert not decide(decode_picture(to_file(large, "WEBP", quality=90)), restore=redder).restore


def test_the_published_model_tells_a_reduced_jpeg_from_a_reduced_photograph():
    """Neither has a block grid."""
    restorer = Restorer.load()

    def reduced(pixels):
        return np.array(Image.fromarray(pixels).resize([200, 200], Image.Resampling.BICUBIC))

    clean, poor = reduced(LARGE), reduced(decode_picture(to_jpeg(LARGE, 20)).pixels)
    assert restorer.restore_bytes(to_png(clean)) == to_png(clean)
    restored = decode_picture(restorer.restore_bytes(to_png(poor))).pixels
    errors = [np.square(each.astype(float) - clean).mean() for each in (poor, restored)]
    assert errors[1] < 0.85 * errors[0]


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_restored_is_marked_and_not_restored_again_unless_forced(door, format):
    once = door(POOR, format)
    picture, summary = decode_picture(once), inspect_picture(io.BytesIO(once))
    assert picture.restored_by == summary.restored_by == f"artifact-remover {__version__}"
    assert decide(picture) == decide_by_mark(picture) == decide_by_mark(summary)
    assert decide(picture, force=True).restore and decide_by_mark(summary, force=True) is None
    assert decide(picture).why == f"already restored by {picture.restored_by}, force restores it again"
    assert door(once, format) == once
    again = decode_picture(door(once, "png", force=True))
    np.testing.assert_array_equal(again.pixels, np.minimum(picture.pixels, 254) + 1)


def test_what_is_left_alone_is_not_marked(door):
    assert decode_picture(door(FINE, "png")).restored_by is None
