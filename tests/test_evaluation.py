import io
import json
import os

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from skimage import data as skimage_data

from artifact_remover import evaluation
from artifact_remover.evaluation import JPEG, compare, draw_comparison, print_table, summarise, write_report
from data_prep.config import DegradationConfig
from data_prep.degradation import jpeg_photograph

PHOTOS = {"astronaut": skimage_data.astronaut()[:200, 100:331], "chelsea": skimage_data.chelsea()[:97, :300]}


def brighten(pictures):
    return np.clip(pictures.astype(int) + 4, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def rows():
    return compare(PHOTOS.items(), {"identity": lambda jpeg: jpeg, "brighter": brighten}, DegradationConfig())


def test_the_identity_scores_exactly_what_the_jpeg_scores(rows):
    summary = summarise(rows)["summary"]
    assert summary["identity"]["mean"] == summary[JPEG]["mean"]
    assert summary["identity"]["psnr_gain"] == {"mean": 0, "least": 0}
    assert summary["identity"]["better_on"] == 0


def test_summary_is_the_arithmetic_of_the_rows(rows):
    report = summarise(rows)
    gains = [row["scores"]["brighter"]["psnr"] - row["scores"][JPEG]["psnr"] for row in rows]
    entry = report["summary"]["brighter"]
    assert entry["psnr_gain"] == {"mean": pytest.approx(np.mean(gains)), "least": min(gains)}
    assert entry["better_on"] == sum(gain > 0 for gain in gains)
    assert entry["mean"]["colour_shift"] == pytest.approx(4, abs=1.5)
    assert report["pictures"] == 2 and [each["name"] for each in report["each"]] == list(PHOTOS)


def test_a_restorer_gets_whole_jpegs_of_the_configured_quality():
    seen = []
    compare(PHOTOS.items(), {"spy": lambda jpeg: (seen.append(jpeg), jpeg)[1]}, DegradationConfig("5-95", "4:4:4"))
    for photo, jpeg in zip(PHOTOS.values(), seen, strict=True):
        np.testing.assert_array_equal(jpeg, jpeg_photograph(photo, 5, "4:4:4"))


def test_a_large_photograph_is_cut_on_the_grid():
    large = np.zeros([1000, 800, 3], np.uint8)
    large[112:880, 16:784] = 255
    [row] = compare([("large", large)], {}, DegradationConfig())
    assert row["clean"].shape == (768, 768, 3)
    assert (row["clean"] == 255).all()  # starts at 112 and 16, multiples of 16


def test_comparison_picture_has_a_row_each_and_a_titled_column_each(rows, tmp_path):
    draw_comparison(rows, tmp_path / "comparison.png")
    side = 128 * 3
    with Image.open(tmp_path / "comparison.png") as drawn:
        assert drawn.format == "PNG" and drawn.size == (8 + 4 * (side + 8), 24 + 2 * (side + 8))
        first = np.asarray(drawn)[24 : 24 + side : 3, 8 : 8 + side : 3]
    crop = evaluation._worst_crop(rows[0]["clean"], rows[0]["pictures"][JPEG])
    np.testing.assert_array_equal(first, rows[0]["pictures"][JPEG][crop])


def test_the_crop_is_where_the_jpeg_is_worst():
    clean, jpeg = np.zeros([300, 400, 3], np.uint8), np.zeros([300, 400, 3], np.uint8)
    jpeg[170:180, 310:320] = 255
    down, across = evaluation._worst_crop(clean, jpeg)
    assert down.start <= 170 < 180 <= down.stop and across.start <= 310 < 320 <= across.stop
    assert down.start % 16 == across.start % 16 == 0 and down.stop - down.start == 128


def test_table_names_every_photograph_and_who_restored_it(rows):
    printed = io.StringIO()
    print_table(rows, DegradationConfig(), Console(file=printed, width=120))
    for word in (*PHOTOS, "mean", JPEG, "identity", "brighter", "+0.00", "SSIM", "PSNR-B", "colour shift"):
        assert word in printed.getvalue()


def test_only_the_first_pictures_are_kept_but_all_are_scored():
    tiny = [(f"photo{number}", PHOTOS["astronaut"][:32, :32]) for number in range(evaluation.SHOWN + 2)]
    many = compare(tiny, {"identity": lambda pictures: pictures}, DegradationConfig())
    assert sum("pictures" in row for row in many) == evaluation.SHOWN
    assert summarise(many)["pictures"] == len(tiny)
    printed = io.StringIO()
    print_table(many, DegradationConfig(), Console(file=printed, width=120))
    assert f"mean of {len(tiny)}" in printed.getvalue() and tiny[-1][0] not in printed.getvalue()


def test_report_is_json_that_can_be_read(rows, tmp_path):
    write_report(summarise(rows), tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == summarise(rows)
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("write", [write_report, draw_comparison])
def test_a_failed_write_leaves_what_was_there(rows, tmp_path, monkeypatch, write):
    def fail(*_arguments):
        raise OSError("disk full")

    (tmp_path / "output").write_text("before")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(summarise(rows) if write is write_report else rows, tmp_path / "output")
    assert (tmp_path / "output").read_text() == "before"
