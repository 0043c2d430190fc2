import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from skimage import data as skimage_data

from artifact_remover.judging import scoring
from artifact_remover.judging.metrics import MAX_DECIBELS
from artifact_remover.judging.scoring import (
    JPEG,
    cut_middle,
    draw_comparison,
    encode_jpeg,
    gain,
    group_by_kind,
    jpeg_settings,
    judge,
    limit_size,
    make_untouched,
    merit,
    print_table,
    score,
    summarize,
    to_gray,
    write_report,
)
from data_prep.config import DegradationConfig
from data_prep.degradation import degrade
from data_prep.errors import InputError
from data_prep.photographs import read_photograph

PICTURES = Path(__file__).resolve().parents[2] / "shared" / "data" / "test"

PHOTOS = {"astronaut": skimage_data.astronaut()[:200, 100:331], "chelsea": skimage_data.chelsea()[:97, :300]}


def brighten(pictures):
    return np.clip(pictures.astype(int) + 4, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def rows():
    methods = {"identity": lambda jpeg: jpeg.pixels, "brighter": lambda jpeg: brighten(jpeg.pixels)}
    return [judge(name, photo, 10, "4:2:0", methods, {}) for name, photo in PHOTOS.items()]


def test_the_identity_scores_exactly_what_the_jpeg_scores(rows):
    summary = summarize(rows)["summary"]
    assert summary["identity"]["mean"] == summary[JPEG]["mean"]
    assert summary["identity"]["psnr_gain"] == {"mean": 0, "least": 0}
    assert summary["identity"]["better_on"] == 0


def test_summary_is_the_arithmetic_of_the_rows(rows):
    report = summarize(rows)
    gains = [row["scores"]["brighter"]["psnr"] - row["scores"][JPEG]["psnr"] for row in rows]
    entry = report["summary"]["brighter"]
    assert entry["psnr_gain"] == {"mean": pytest.approx(np.mean(gains)), "least": min(gains)}
    assert entry["better_on"] == sum(gain > 0 for gain in gains)
    assert entry["worst"] == list(PHOTOS)[int(np.argmin(gains))]
    assert [gain(row, "brighter") for row in rows] == gains
    assert entry["mean"]["color_shift"] == pytest.approx(4, abs=1.5)
    assert report["pictures"] == 2 and [each["name"] for each in report["each"]] == list(PHOTOS)


def test_a_restorer_gets_whole_jpegs_of_the_configured_quality():
    seen = []
    [quality], chroma_subsampling = jpeg_settings(DegradationConfig("5", "4:4:4"))
    spy = {"spy": lambda jpeg: (seen.append(jpeg.pixels), jpeg.pixels)[1]}
    for photo in PHOTOS.values():
        judge("photo", photo, quality, chroma_subsampling, spy, {})
    for photo, jpeg in zip(PHOTOS.values(), seen, strict=True):
        np.testing.assert_array_equal(jpeg, encode_jpeg(photo, 5, "4:4:4").pixels)


@pytest.mark.parametrize(
    ("trained_for", "judged"),
    [
        ("10", (10,)),
        ("85", (85,)),
        ("5-100,5-60", (10, 50, 90)),
        ("60-97,20-30", (50, 90)),
        ("5-9", (5,)),
        ("90", (90,)),
    ],
)
def test_restorers_for_a_range_are_judged_all_over_it(trained_for, judged):
    assert jpeg_settings(DegradationConfig(trained_for, "4:4:4,4:2:0")) == (judged, "4:4:4")


def test_a_large_photograph_is_cut_on_the_grid():
    large = np.zeros([1000, 800, 3], np.uint8)
    large[112:880, 16:784] = 255
    cut = cut_middle(large, 768, 768)
    assert cut.shape == (768, 768, 3)
    assert (cut == 255).all()  # starts at 112 and 16, multiples of 16


def test_comparison_picture_has_a_row_each_and_a_titled_column_each(rows, tmp_path):
    draw_comparison(rows, tmp_path / "comparison.png")
    side = 128 * 3
    with Image.open(tmp_path / "comparison.png") as drawn:
        assert drawn.format == "PNG" and drawn.size == (8 + 4 * (side + 8), 24 + 2 * (side + 8))
        first = np.asarray(drawn)[24 : 24 + side : 3, 8 : 8 + side : 3]
    jpeg = encode_jpeg(PHOTOS["astronaut"], 10).pixels
    crop = scoring.find_worst_crop(PHOTOS["astronaut"], jpeg)
    np.testing.assert_array_equal(first, jpeg[crop])


def test_the_crop_is_where_the_jpeg_is_worst():
    clean, jpeg = np.zeros([300, 400, 3], np.uint8), np.zeros([300, 400, 3], np.uint8)
    jpeg[170:180, 310:320] = 255
    down, across = scoring.find_worst_crop(clean, jpeg)
    assert down.start <= 170 < 180 <= down.stop and across.start <= 310 < 320 <= across.stop
    assert down.start % 16 == across.start % 16 == 0 and down.stop - down.start == 128


def test_table_names_every_photograph_and_who_restored_it(rows):
    printed = io.StringIO()
    print_table({10: rows}, "4:2:0", Console(file=printed, width=100))
    assert printed.getvalue().split("\n")[0].strip().endswith("quality 10, 4:2:0, and restored from these")
    for word in (*PHOTOS, "mean", JPEG, "identity", "brighter", "+0.00", "SSIM", "PSNR-B", "color shift"):
        assert word in printed.getvalue()


def test_of_further_qualities_the_table_has_the_means_and_the_least_gains(rows):
    methods = {"identity": lambda jpeg: jpeg.pixels, "brighter": lambda jpeg: brighten(jpeg.pixels)}
    finer = [judge(name, photo, 90, "4:2:0", methods, {}) for name, photo in PHOTOS.items()]
    printed = io.StringIO()
    print_table({10: rows, 90: finer}, "4:2:0", Console(file=printed, width=100))
    lines = printed.getvalue().splitlines()
    assert lines[0].strip().endswith("quality 10, 4:2:0, and restored from these, and the means at 90")
    assert sum("chelsea" in line for line in lines) == 1
    for quality, each in ((10, rows), (90, finer)):
        start = next(number for number, line in enumerate(lines) if f"mean of 2 at {quality} " in line)
        gains = summarize(each)["summary"]["brighter"]["psnr_gain"]
        assert f"{gains['mean']:+.2f} │ {gains['least']:+.2f}" in lines[start + 2]


def test_only_the_first_pictures_are_shown_but_all_are_scored(tmp_path):
    tiny = [(f"photo{number}", PHOTOS["astronaut"][:32, :32]) for number in range(scoring.SHOWN + 2)]
    many = [judge(name, photo, 10, "4:2:0", {"identity": lambda jpeg: jpeg.pixels}, {}) for name, photo in tiny]
    draw_comparison(many, tmp_path / "comparison.png")
    with Image.open(tmp_path / "comparison.png") as drawn:
        assert drawn.height == 24 + scoring.SHOWN * (128 * 3 + 8)
    assert summarize(many)["pictures"] == len(tiny)
    printed = io.StringIO()
    print_table({10: many}, "4:2:0", Console(file=printed, width=100))
    assert f"mean of {len(tiny)}" in printed.getvalue() and tiny[-1][0] not in printed.getvalue()


def test_report_is_json_that_can_be_read(rows, tmp_path):
    write_report(summarize(rows), tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == summarize(rows)
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("write", [write_report, draw_comparison])
def test_a_failed_write_leaves_what_was_there(rows, tmp_path, monkeypatch, write):
    def fail(*_arguments):
        raise OSError("disk full")

    (tmp_path / "output").write_text("before")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(summarize(rows) if write is write_report else rows, tmp_path / "output")
    assert (tmp_path / "output").read_text() == "before"


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", [1, 10, 55, 100])
def test_judged_are_the_jpegs_that_are_trained_on(quality, subsampling):
    for photo in PHOTOS.values():
        patch = photo[:96, :96]
        trained_on, _ = degrade(patch[np.newaxis], 0, DegradationConfig(str(quality), subsampling))
        np.testing.assert_array_equal(encode_jpeg(patch, quality, subsampling).pixels, trained_on[0])


def test_a_gray_jpeg_has_one_component_and_decodes_to_three_equal_channels():
    jpeg = encode_jpeg(to_gray(PHOTOS["chelsea"]), 10)
    with Image.open(io.BytesIO(jpeg.content)) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(jpeg.pixels, np.repeat(np.asarray(image)[..., np.newaxis], 3, axis=2))


def test_gray_is_made_as_matlab_makes_it():
    colors = np.uint8([[[255, 255, 254], [0, 0, 1], [255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 200, 77]]])
    # by hand: round(16 + (65.481 R + 128.553 G + 24.966 B) / 255)
    np.testing.assert_array_equal(to_gray(colors), np.uint8([[235, 16, 81, 145, 41, 127]])[..., np.newaxis])
    np.testing.assert_array_equal(to_gray(np.full([2, 2, 3], 255, np.uint8)), np.full([2, 2, 1], 255))


def test_gray_is_measured_on_its_one_channel():
    clean = to_gray(PHOTOS["chelsea"])
    scores = score(clean, np.repeat(clean, 3, axis=2) - 2)
    assert scores["psnr"] == pytest.approx(20 * np.log10(255 / 2), abs=1e-3)
    assert scores["color_shifts"] == [pytest.approx(-2, abs=1e-3)] and scores["color_shift"] == pytest.approx(
        2, abs=1e-3
    )


@pytest.mark.parametrize("to_clean", [to_gray, np.asarray], ids=["gray", "color"])
def test_further_measures_see_three_channels_in_0_1(to_clean):
    def distance(clean, restored):
        assert clean.dtype == restored.dtype == np.float32 and clean.shape == restored.shape == (1, 97, 300, 3)
        return np.abs(clean - restored).max(axis=(1, 2, 3))

    clean = to_clean(PHOTOS["chelsea"])
    assert score(clean, encode_jpeg(clean, 100).pixels, {"far": distance})["far"] < 0.1


@pytest.mark.parametrize(
    ("size", "judged"),
    [
        ((2000, 2000), (2000, 2000)),
        ((4000, 4000), (2000, 2000)),
        ((1999, 4001), (1408, 2816)),
        ((16, 1_000_000), (16, 65_488)),
        ((70_000, 40), (65_488, 40)),
        ((65_500, 20), (65_500, 20)),
        ((62, 65_500), (48, 64_992)),
    ],
)
def test_large_pictures_are_limited_to_whole_blocks(size, judged):
    assert limit_size(*size) == judged
    assert cut_middle(np.zeros([200, 300, 3], np.uint8), 64, 300).shape == (64, 300, 3)


def test_a_jpeg_is_made_of_the_longest_pictures():
    part = cut_middle(np.zeros([70_000, 1, 3], np.uint8), *limit_size(70_000, 1))
    assert encode_jpeg(part, 50).pixels.shape == part.shape


def test_a_method_is_timed_and_its_crops_are_kept():
    clean = PHOTOS["chelsea"]
    row = judge("cat", clean, 10, "4:2:0", {"same": lambda jpeg: jpeg.pixels}, {})
    assert row["name"] == "cat" and row["pixels"] == 97 * 300 and list(row["scores"]) == [JPEG, "same"]
    assert 0 <= row["seconds"]["same"] < 1
    assert row["crops"]["same"].shape == row["clean_crop"].shape == (97, 128, 3)
    summary = summarize([row, row])
    assert summary["summary"]["same"]["seconds_per_megapixel"] == pytest.approx(row["seconds"]["same"] / 0.0291)
    assert len(summary["summary"]["same"]["mean"]["color_shifts"]) == 3
    assert json.loads(json.dumps(summary)) == summary


def test_gains_within_rounding_are_equal():
    rows = [{"name": f"{psnr}", "scores": {JPEG: {"psnr": 30.0}, "model": {"psnr": psnr}}} for psnr in (30.5, 29.99)]
    rows += [{"name": f"{psnr}", "scores": {JPEG: {"psnr": 30.0}, "model": {"psnr": psnr}}} for psnr in (30.01, 28.0)]
    entry = summarize(rows)["summary"]["model"]
    assert (entry["better_on"], entry["equal_on"], entry["worst"]) == (1, 2, "28.0")
    assert [loss["picture"] for loss in entry["not_beaten"]] == ["28.0", "29.99", "30.01"]
    assert entry["least_psnr"] == {"psnr": 28.0, "picture": "28.0"}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_clean_picture_is_handed_over_bit_for_bit(channels):
    clean = PHOTOS["chelsea"][..., :channels]
    same, untouched = make_untouched(clean, None, "4:2:0")
    assert same is clean and untouched.content.startswith(b"\x89PNG")
    np.testing.assert_array_equal(untouched.pixels, np.repeat(clean, 3, axis=2) if channels == 1 else clean)
    row = judge(
        "cat", clean, None, "4:2:0", {"same": lambda given: given.pixels, "half": lambda given: given.pixels // 2}, {}
    )
    assert list(row["scores"]) == ["same", "half"] and row["unchanged"] == ["same"]
    assert row["scores"]["same"]["psnr"] == pytest.approx(MAX_DECIBELS)
    assert merit(row, "half") == row["scores"]["half"]["psnr"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_is_cut_and_then_saved_again(channels):
    clean = PHOTOS["chelsea"][..., :channels]
    once = encode_jpeg(clean, 20, "4:4:4").pixels[5:, 2:, :channels]
    cut, untouched = make_untouched(clean, 20, "4:4:4", offset=(5, 2))
    np.testing.assert_array_equal(cut, clean[5:, 2:])
    with Image.open(io.BytesIO(untouched.content)) as file:
        assert file.format == "PNG"
        np.testing.assert_array_equal(np.asarray(file).reshape(once.shape), once)
    cut, untouched = make_untouched(clean, 20, "4:4:4", resave=60, offset=(5, 2))
    np.testing.assert_array_equal(cut, clean[5:, 2:])
    assert untouched.content == encode_jpeg(once, 60, "4:4:4").content
    same = {"same": lambda given: given.pixels}
    row = judge("cat", clean, 20, "4:4:4", same, {}, resave=60, offset=(5, 2))
    assert row["scores"]["same"] == score(cut, untouched.pixels)  # the last JPEG's blocks start at the corner


def test_rows_are_grouped_by_their_first_folder():
    rows = [{"name": name} for name in ("a/1", "b/deep/2", "b/3")]
    assert group_by_kind(rows) == {"a": rows[:1], "b": rows[1:]}
    assert list(group_by_kind([*rows, {"name": "4"}])) == ["a", "b", "."]
    assert group_by_kind(rows[1:]) == {}


def test_what_a_method_does_wrong_is_an_error_that_names_the_picture():
    def fail(jpeg):
        raise InputError("it broke")

    with pytest.raises(InputError, match=r"^it broke \(restoring cat at quality 10\)$"):
        judge("cat", PHOTOS["chelsea"], 10, "4:2:0", {"bad": fail}, {})
    with pytest.raises(InputError, match="half made 150x97 of cat, which is 300x97"):
        judge("cat", PHOTOS["chelsea"], 10, "4:2:0", {"half": lambda jpeg: jpeg.pixels[:, ::2]}, {})


def check_jpeg_rows(folder, protocol, quality, published):
    """Compares PSNR, SSIM and PSNR-B of the JPEG itself with the published means."""
    rows = []
    for file in sorted((PICTURES / folder).glob("*.png")):
        clean = protocol(read_photograph(file))
        rows.append(judge(file.name, clean, quality, "4:2:0", {}, {}))
    mean = summarize(rows)["summary"][JPEG]["mean"]
    measured = [mean[name] for name in ("psnr", "ssim", "psnr_b")]
    np.testing.assert_array_less(np.abs(np.subtract(measured, published)), [0.02, 0.001, 0.02])


@pytest.mark.slow
@pytest.mark.skipif(not (PICTURES / "live1").is_dir(), reason=f"no LIVE1 pictures in {PICTURES}")
@pytest.mark.parametrize(
    ("protocol", "quality", "published"),
    [
        (np.asarray, 10, (25.69, 0.7433, 24.20)),
        (np.asarray, 20, (28.06, 0.8256, 26.49)),
        (np.asarray, 30, (29.37, 0.8615, 27.84)),
        (np.asarray, 40, (30.28, 0.8821, 28.83)),
        (to_gray, 10, (27.77, 0.7730, 25.33)),
        (to_gray, 20, (30.07, 0.8512, 27.57)),
        (to_gray, 30, (31.41, 0.8851, 28.92)),
        (to_gray, 40, (32.35, 0.9041, 29.96)),
    ],
)
def test_the_jpeg_rows_of_live1_are_the_published_ones(protocol, quality, published):
    check_jpeg_rows("live1", protocol, quality, published)


@pytest.mark.skipif(not (PICTURES / "classic5").is_dir(), reason=f"no Classic5 pictures in {PICTURES}")
@pytest.mark.parametrize(
    ("quality", "published"),
    [
        (10, (27.82, 0.7595, 25.21)),
        (20, (30.12, 0.8344, 27.50)),
        (30, (31.48, 0.8666, 28.94)),
        (40, (32.43, 0.8849, 29.92)),
    ],
)
def test_the_jpeg_rows_of_classic5_are_the_published_ones(quality, published):
    check_jpeg_rows("classic5", to_gray, quality, published)
