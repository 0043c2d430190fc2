"""Tests of what writes measured figures into docs/results.md."""

import json
import sys

import pytest

from tests import result_tables
from tests.result_tables import DOCUMENT, GRAPHICS, ORIENTATIONS, read_decisions, read_evaluation, write_tables

TABLES = """## One

| | a | b |
|---|---|---|
| ours | 1 | 2 |
| theirs | 3 | |

**Two**: the same labels.

| quality | | a | b |
|---|---|---|---|
| 10 | theirs | 3 | |
| | ours | 1 | 2 |
"""
GAIN = {"restored": 7, "mean_gain": 1.234, "least_gain": -0.5, "worse": 3}


def line(benchmark, data="live1", **values):
    how = {"benchmark": benchmark, "precision": "float32", "data": f"/pictures/{data}", "pictures": 29}
    return how | values


def changed_rows(measured):
    """Rows of the real document that measured cells change, without the cells that stay."""
    before, after = (text.split("\n") for text in (DOCUMENT.read_text(), write_tables(DOCUMENT.read_text(), measured)))
    return [new for old, new in zip(before, after, strict=True) if old != new]


def test_cells_are_put_where_their_table_and_label_are():
    measured = {("One", "ours"): ["5", ""], ("Two", "10 ours"): [None, "6"], ("Three", "ours"): ["7"]}
    one, two = TABLES.split("\n\n**Two**")
    expected = [one.replace("ours | 1 | 2 |", "ours | 5 | |"), two.replace("ours | 1 | 2 |", "ours | 1 | 6 |")]
    assert write_tables(TABLES, measured) == "\n\n**Two**".join(expected)


def test_a_row_of_which_a_part_was_measured_is_refused():
    with pytest.raises(ValueError, match="One, ours: 1 cells were measured, the row has 2"):
        write_tables(TABLES, {("One", "ours"): ["5"]})
    with pytest.raises(ValueError, match="Harm, LIVE1: not all qualities were measured"):
        read_decisions([line("harm", quality=50, subsampling="4:2:0", cut=[0, 0], **GAIN)])


@pytest.mark.parametrize(
    ("rows", "expected"),
    {
        "grid": (
            [line("grid", quality=10, subsampling="4:2:0", grid_found=0.5, gain_at_0_0=9, mean_gain=8, least_gain=7)],
            "| Q10 4:2:0 | 3712 of 7424 | 9.00 | 8.00 | 7.00 |",
        ),
        "clean": (
            [line("clean", data, quality=20, factor=0.5, **GAIN) for data in ("photographs", "drawings")],
            "| Q20, scaled to 0.5 | 7 of 29 | +1.23 / -0.50 | 7 of 29 | +1.23 / -0.50 |",
        ),
        "codecs": (
            [line("codecs", format="WEBP", quality=75, **GAIN), line("codecs", format="WEBP", quality=75, restored=0)],
            "| WebP, quality 75 | 7 | +1.23 / -0.50 | 0 | |",
        ),
        "copies": (
            [line("codecs", **{"lossless copies of": "AVIF"}, quality=60, **GAIN) for _ in range(2)],
            "| copies: AVIF, quality 60 | 7 | +1.23 / -0.50 | 7 | +1.23 / -0.50 |",
        ),
        "turned": (
            [line("turned", quality=90, subsampling="4:4:0", as_it_lies=0.5, **GAIN) for _ in range(2)],
            "| Q90 4:4:0 | +0.50 | +1.23 / -0.50 | 3 | +0.50 | +1.23 / -0.50 | 3 |",
        ),
        "enlarged": (
            [line("enlarged", factor=2, filter="LANCZOS", quality=90, subsampling="4:4:4", **GAIN) for _ in range(2)],
            "| x2 Lanczos, Q90 4:4:4 | 7 | +1.23 / -0.50 | 3 | 7 | +1.23 / -0.50 | 3 |",
        ),
        "scaled": (
            [line("scaled", first=30, factor=1.4, last=90, **GAIN) for _ in range(2)],
            "| Q30, x1.4, Q90 | 7 | +1.23 / -0.50 | 3 | 7 | +1.23 / -0.50 | 3 |",
        ),
        "processed": (
            [line("processed", process="halftone", quality=75, subsampling="4:2:0", **GAIN) for _ in range(2)],
            "| halftone dots, Q75 4:2:0 | 7 | +1.23 / -0.50 | 3 | 7 | +1.23 / -0.50 | 3 |",
        ),
        "written": (
            [
                line("written", quality=50, subsampling="4:2:0", format=name, fitted=fit, handed_back=1, size=2, **GAIN)
                for name, fit in (("png", True), ("jpeg", False), ("jpeg", True))
            ],
            "| LIVE1, Q50 4:2:0 | +1.23 / -0.50 | +1.23 / -0.50 | 3 | +1.23 / -0.50 | 3 | 1 | 2.0 |",
        ),
        "harm": (
            [
                line("harm", "graphics", quality=quality, subsampling=subsampling, cut=[3, 5], **GAIN)
                for quality, subsampling in ((50, "4:2:0"), (90, "4:2:0"), (90, "4:4:4"), (94, "4:4:4"))
            ],
            "| graphics, cut | 116 | 12 | +1.23 | +1.23 | +1.23 | -0.50 |",
        ),
    }.values(),
)
def test_each_measure_has_its_rows_in_the_document(rows, expected):
    assert changed_rows(read_decisions(rows)) == [expected]
    assert not read_decisions([row | {"precision": "int8"} for row in rows])


def evaluation(data, qualities=("10",), **settings):
    score = {
        "mean": {"psnr": 1.0, "ssim": 0.5, "psnr_b": 2.0, "lpips": 0.25, "dists": 0.125, "color_shift": 3.0},
        "least_psnr": {"psnr": 0.5},
        "psnr_gain": {"mean": 4.0, "least": -0.25},
        "better_on": 5,
    }
    models = {"JPEG itself": {"mean": {"psnr": 1.5}}, "published faithful": score, "published perceptual": score}
    each = [{"scores": {"JPEG itself": {"psnr": 30}, "published faithful": {"psnr": ours}}} for ours in (29, 31)]
    result = {"pictures": 7, "summary": models, "each": each}
    plain = {"clean": False, "resave": None, "offset": [0, 0], "self_ensemble": False, "chroma_subsampling": "4:2:0"}
    protocol = "gray" if data == "classic5" else "color"
    plain["machine"] = {"precision": "float32"}
    how = {"data": f"/pictures/{data}", "protocol": protocol, **plain, **settings}
    return how | {"qualities": dict.fromkeys(qualities, result)}


GAINS, BOTH = ["+4.00", "-0.25"], ("faithful", "perceptual")


@pytest.mark.parametrize(
    ("evaluated", "expected"),
    [
        (
            evaluation("live1", ("20",)),
            {
                **{("LIVE1", f"**ours, {each}**"): [None, None, "1.00", *6 * [None]] for each in BOTH},
                **{("LIVE1", f"20 **{each}**"): [*GAINS, "5/7", "0.5000", "2.00", "0.250", "3.00"] for each in BOTH},
                **{
                    ("Perceptual distances", f"**ours, {each}**"): [None, None, "0.250", None, "0.125", None, None]
                    for each in BOTH
                },
                (GRAPHICS, "Q20, saved again at 90"): [None, None, "+4.00"],
                (ORIENTATIONS, "LIVE1, Q20 4:2:0"): ["1.50", "+4.00 / -0.25", None, None, None],
            },
        ),
        (
            evaluation("live1", ("20",), self_ensemble=True),
            {(ORIENTATIONS, "LIVE1, Q20 4:2:0"): ["1.50", None, "1.00", "+4.00 / -0.25", "1"]},
        ),
        (
            evaluation("classic5", ("10", "20", "30", "40")),
            {("Classic5", f"**ours, {each}**"): 4 * ["1.00"] for each in BOTH},
        ),
        (
            evaluation("bsds500_test", ("10", "20", "30", "40")),
            {
                ("BSDS500 test", "**ours, faithful**"): 4 * ["1.00"],
                ("BSDS500 test", "least over the JPEG"): 4 * ["-0.25"],
            },
        ),
        (
            evaluation("graphics", ("75",), chroma_subsampling="4:4:4"),
            {
                (GRAPHICS, "Q75 4:4:4"): ["1.50", "1.00", *GAINS, "1", None, None, None],
                (ORIENTATIONS, "graphics, Q75 4:4:4"): ["1.50", "+4.00 / -0.25", None, None, None],
            },
        ),
        (evaluation("live1", ("clean",), clean=True), {(GRAPHICS, "LIVE1"): 2 * ["1.0 / 0.5"]}),
        (evaluation("live1", ("20",), resave=90), {(GRAPHICS, "Q20, saved again at 90"): [*GAINS, None]}),
        (
            evaluation("live1", ("50",), offset=[4, 4], resave=10, protocol="gray"),
            {(GRAPHICS, "Q50, then 10"): ["1.50", "1.00", "-0.25", *5 * [None]]},
        ),
        (evaluation("live1", ("50",), offset=[2, 2]), {(GRAPHICS, "Q50, cut at (2, 2)"): [*GAINS, None]}),
        (evaluation("elsewhere"), {}),
        (evaluation("live1", machine={"precision": "int8"}), {}),
        (evaluation("live1", protocol="gray"), {}),
        (evaluation("live1", ("50",), offset=[4, 4], resave=10), {}),
        (evaluation("graphics", ("50",), offset=[4, 4], resave=10, protocol="gray"), {}),
        (evaluation("graphics", ("20",), resave=90), {}),
        (evaluation("live1", ("20",), resave=90, self_ensemble=True), {}),
        (evaluation("live1", ("clean",), clean=True, self_ensemble=True), {}),
    ],
)
def test_each_evaluation_has_its_rows_in_the_document(evaluated, expected):
    measured = read_evaluation(evaluated)
    assert measured == expected
    assert len(changed_rows(measured)) == len(expected)


def test_the_command_writes_the_document(tmp_path, monkeypatch, capsys):
    document = tmp_path / "results.md"
    document.write_text(DOCUMENT.read_text())
    monkeypatch.setattr(result_tables, "DOCUMENT", document)
    rows = [line("scaled", data, first=30, factor=1.4, last=90, **GAIN) for data in ("live1", "graphics")]
    (tmp_path / "scaled.jsonl").write_text("a warning\n" + "".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "evaluation.json").write_text(json.dumps(evaluation("graphics", ("clean",), clean=True)))
    monkeypatch.setattr(sys, "argv", ["result_tables", str(tmp_path)])
    result_tables.main()
    assert "| Q30, x1.4, Q90 | 7 | +1.23 / -0.50 | 3 | 7 | +1.23 / -0.50 | 3 |\n" in document.read_text()
    assert "| graphics | 1.0 / 0.5 | 1.0 / 0.5 |\n" in document.read_text()
    assert capsys.readouterr().out.startswith("scaled, live1: 3 of 7 worse, least -0.50\n")
