import io
import json

import numpy as np
import pytest
from rich.console import Console

from artifact_remover.judging import report
from artifact_remover.judging.scoring import JPEG

DESCRIBED = {
    "made_by": "artifact-remover 1",
    "data": "pictures[a]",
    "protocol": "color",
    "chroma_subsampling": "4:2:0",
    "clean": False,
    "resave": None,
    "offset": [0, 0],
    "self_ensemble": False,
    "machine": {
        "processor": "a processor",
        "cores": 2,
        "gpus": ["a GPU"],
        "engine": "openvino",
        "precision": "bfloat16",
    },
    "notes": ["DISTS is <left> out"],
}


def make_rows(gains, names=None, methods=("model",), **further):
    """Pictures on which each method gains so many dB."""
    rows = []
    for number, gain in enumerate(gains):
        base = {"ssim": 0.75, "psnr_b": 24.0, **further, "color_shift": 1.0, "color_shifts": [1.0, -0.5, 0.0]}
        rows.append(
            {
                "name": names[number] if names else f"picture{number}.png",
                "pixels": 1_000_000,
                "scores": {JPEG: {"psnr": 25.0, **base}} | {who: {"psnr": 25.0 + gain, **base} for who in methods},
                "seconds": dict.fromkeys(methods, 2.5),
                "unchanged": [],
                "crops": dict.fromkeys([JPEG, *methods], np.full([16, 16, 3], 99, np.uint8)),
                "clean_crop": np.full([16, 16, 3], 100, np.uint8),
            }
        )
    return rows


def print_rows(rows):
    printed = io.StringIO()
    report.print_all(DESCRIBED, rows, Console(file=printed, width=120))
    return printed.getvalue()


def test_table_has_a_section_for_each_quality():
    printed = print_rows({10: make_rows([1, 0.5]), 90: make_rows([0.25, 0.25])})
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert "10 JPEG itself 25.00 0.7500 24.00 1.00" in lines
    assert "model 25.75 +0.75 +0.50 picture1.png 2/2 0.7500 24.00 1.00 2.50" in lines
    assert "90 JPEG itself 25.00 0.7500 24.00 1.00" in lines
    assert "model 25.25 +0.25 +0.25 picture0.png 2/2 0.7500 24.00 1.00 2.50" in lines
    assert (
        "pictures[a]" in lines[0]
        and "artifact-remover 1; a processor, 2 cores, a GPU, models by openvino in bfloat16" in lines
    )
    assert "does not beat" not in printed


def test_table_fits_a_terminal_with_every_measure_and_long_names():
    rows = make_rows([1], ["a/very/long/path/of/a/photograph/that/was/taken.png"], ["n" * 40], lpips=0.1, dists=0.2)
    rows += make_rows([1], ["another/folder.png"], ["n" * 40], lpips=0.1, dists=0.2)
    printed = print_rows({10: rows})
    assert max(map(len, printed.splitlines())) <= 120
    for figure in ("25.00", "26.00", "+1.00", "1/1", "0.7500", "24.00", "0.1000", "0.2000", "2.50"):
        assert figure in printed


def test_all_pictures_on_which_the_jpeg_is_not_beaten_are_named_the_worst_first():
    printed = print_rows({10: make_rows([1, -0.5, 0.03, -2, -0.1, -0.2])})
    said = "picture3.png (-2.00 dB), picture1.png (-0.50 dB), picture5.png (-0.20 dB), picture4.png (-0.10 dB)"
    assert f"model does not beat the JPEG at quality 10 on 4 of 6: {said}\n" in printed


def test_what_is_within_rounding_of_the_jpeg_counts_as_equal():
    rows = {10: make_rows([1, 0.012, -0.03, -0.012, 0.025])}
    printed = print_rows(rows)
    said = "picture2.png (-0.03 dB), picture3.png (-0.01 dB), picture1.png (+0.01 dB)"
    assert f"model does not beat the JPEG at quality 10 on 3 of 5 (2 equal within 0.02 dB): {said}\n" in printed
    assert " 2/5 " in printed
    page = report._to_html(DESCRIBED, rows)
    assert '<span class="loss">-0.03</span>' in page and "<span>-0.01</span>" in page


def test_kinds_are_told_apart_in_table_and_files(tmp_path):
    rows = {10: make_rows([1, 3, 0.5], ["art/a.png", "photos/b.png", "photos/c.png"])}
    lines = [" ".join(line.split()) for line in print_rows(rows).splitlines()]
    assert "10 art JPEG itself 25.00 0.7500 24.00 1.00" in lines
    assert "photos JPEG itself 25.00 0.7500 24.00 1.00" in lines
    assert lines.count("model 26.00 +1.00 +1.00 art/a.png 1/1 0.7500 24.00 1.00 2.50") == 1
    assert lines.count("model 26.75 +1.75 +0.50 photos/c.png 2/2 0.7500 24.00 1.00 2.50") == 1
    assert lines.count("model 26.50 +1.50 +0.50 photos/c.png 3/3 0.7500 24.00 1.00 2.50") == 1
    report.write_all(DESCRIBED, rows, tmp_path)
    kinds = json.loads((tmp_path / "evaluation.json").read_text())["qualities"]["10"]["kinds"]
    assert {kind: each["summary"]["model"]["worst"] for kind, each in kinds.items()} == {
        "art": "art/a.png",
        "photos": "photos/c.png",
    }


def test_names_are_shown_as_they_are():
    names = ["[bold]<i>.png", ":smile:.png"]
    printed = print_rows({10: make_rows([-1, -2], names, ["<x>"])})
    page = report._to_html(DESCRIBED, {10: make_rows([-1, -2], names, ["<x>"])})
    for name in names:
        assert name in printed
    assert "<i>" not in page and "<x>" not in page and "&lt;x&gt;" in page and "DISTS is &lt;left&gt; out" in page


def test_page_shows_the_worst_first_and_marks_losses():
    rows = make_rows([1, -0.5, 2])
    rows[2].pop("crops")
    page = report._to_html(DESCRIBED, {10: rows})
    assert page.index("<h3>picture1.png</h3>") < page.index("<h3>picture0.png</h3>") and "<h3>picture2" not in page
    assert '<span class="loss">-0.50</span>' in page and "<span>+1.00</span>" in page
    assert "a processor, 2 cores, a GPU, models by openvino in bfloat16" in page and page.count("<img ") == 2 * 3


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_and_color_crops_are_drawn(channels):
    figure = report._figure(np.zeros([8, 9, channels], np.uint8), "a caption")
    assert 'src="data:image/png;base64,' in figure and "a caption" in figure


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "evaluation.html").write_text("before")
    monkeypatch.setattr(report, "_to_html", lambda *_: "\ud800")  # which no file can hold
    with pytest.raises(UnicodeEncodeError):
        report.write_all(DESCRIBED, {10: make_rows([1])}, tmp_path)
    assert (tmp_path / "evaluation.html").read_text() == "before"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        f"evaluation.{kind}" for kind in ("csv", "html", "json")
    ]
