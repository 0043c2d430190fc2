import csv
import json
from pathlib import Path

import pytest

from artifact_remover.batch_plan import Job, Outcome
from artifact_remover.batch_report import check_report, lay_out, make_row, row_of, write_report
from artifact_remover.pictures.picture import inspect_picture
from data_prep.errors import InputError, Message, Option
from tests.sample_pictures import PHOTO, to_jpeg


@pytest.fixture
def job(tmp_path):
    (tmp_path / "a.jpg").write_bytes(to_jpeg(PHOTO, 30, subsampling="4:2:2"))
    return Job(tmp_path / "a.jpg", Path("a.png"), summary=inspect_picture(tmp_path / "a.jpg"))


def test_a_row_says_what_was_found_decided_and_done(job):
    row = row_of(Outcome(job, "restored", found="twice compressed", seconds=0.12345))
    assert row == {
        "path": str(job.source),
        "width": 100,
        "height": 96,
        "format": "JPEG",
        "quality": 30,
        "subsampling": "4:2:2",
        "found": "twice compressed",
        "decision": "restored",
        "why": None,
        "output": "a.png",
        "seconds": 0.123,
        "error": None,
    }


def test_nothing_is_written_for_what_failed_or_is_left_alone_in_place(job):
    said = Message("it exists, ", Option("allow_truncated"), " helps")
    failed = row_of(Outcome(Job(job.source, job.target), "failed", error=said))
    assert (failed["output"], failed["width"], failed["error"]) == (None, None, "it exists, --allow-truncated helps")
    in_place = Job(job.source, job.source, backup=Path("kept/a.jpg"))
    assert row_of(Outcome(in_place, "left alone"))["output"] is None
    assert row_of(Outcome(in_place, "restored"))["output"] == str(job.source)


NAMES = ["a.jpg", "with, comma\n.jpg", "写真.jpg", "\udcff.jpg"]


def test_any_name_can_be_read_back(tmp_path):
    rows = [make_row(Path(name), None, "failed") for name in NAMES]
    write_report(tmp_path / "report.csv", rows)
    write_report(tmp_path / "report.json", rows)
    with (tmp_path / "report.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["path"] for row in csv.DictReader(file)] == NAMES
    assert [row["path"] for row in json.loads((tmp_path / "report.json").read_text())] == NAMES


@pytest.mark.parametrize("found", ["no trace of JPEG, chroma subsampled", "Q20, grid at 5, 3, saved again at Q97"])
def test_a_table_keeps_what_was_found_apart_from_the_path(found):
    row = {"format": "PNG", "width": 64, "height": 80, "quality": None, "subsampling": None, "decision": "restore"}
    names, line = lay_out([row | {"found": found, "path": "a.png"}])
    assert line.endswith(f"{found} ".ljust(38) + "a.png") and line.index("a.png") == names.index("path")


def test_an_empty_report_has_its_names(tmp_path):
    write_report(tmp_path / "report.csv", [])
    assert (tmp_path / "report.csv").read_text().startswith("path,width,height,format,quality,subsampling,found,")


@pytest.mark.parametrize("name", ["nothing/report.csv", "folder.csv"])
def test_a_report_that_cannot_be_written_is_refused_before(tmp_path, name):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=f"cannot write .*{name}"):
        check_report(tmp_path / name)
    check_report(tmp_path / "report.csv")
    with pytest.raises(InputError, match="cannot write"):
        write_report(tmp_path / name, [])
