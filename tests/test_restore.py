import contextlib
import csv
import json
import os
import pty
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from skimage import data as skimage_data

from artifact_remover import decision, restore
from artifact_remover.__main__ import COMMANDS
from artifact_remover.options import Format
from artifact_remover.pictures.picture import FORMATS
from artifact_remover.restoration import Restorer
from tests.conftest import describe, running

PHOTO = skimage_data.astronaut()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, new, with three small JPEGs of quality 10."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for number, name in enumerate(("a.jpg", "b.jpg", "sub/c.jpeg")):
        Image.fromarray(PHOTO[:96, 96 * number : 96 * number + 100]).save(name, quality=10)
    return tmp_path


@pytest.fixture
def run(saved_models, capfd):
    """Runs the command with the tiny model; returns its exit code, what it printed, and the errors."""

    def run(*arguments):
        capfd.readouterr()
        code = restore.main(["--model", str(saved_models), "--precision", "float32", *map(str, arguments)])
        return code, *capfd.readouterr()

    return run


def read(file):
    with Image.open(file) as image:
        return np.asarray(image)


def files():
    return sorted(str(file) for file in Path().rglob("*") if file.is_file())


# Names and what is done


def test_a_picture_is_restored_beside_itself(folder, run):
    code, printed, errors = run("a.jpg")
    assert (code, errors) == (0, "")
    before, after = read("a.jpg"), read("a_restored.png")
    assert before.shape == after.shape and 0 < np.abs(before.astype(int) - after).mean() < 20
    assert "a.jpg -> a_restored.png\n" in printed
    assert re.fullmatch(r"restored 1 \(0\.0 MP, \d+\.\d\d MP/s\)", printed.splitlines()[-1])


def test_the_options_name_every_format():
    assert get_args(Format) == tuple(FORMATS)


def test_it_is_a_subcommand():
    assert COMMANDS["restore"] is restore.main


def test_a_tree_is_restored_into_the_same_tree(folder, run):
    code, printed, _ = run(".", "-o", "out")
    assert code == 0 and "restored 3 (" in printed
    assert [file for file in files() if file.startswith("out")] == ["out/a.png", "out/b.png", "out/sub/c.png"]


def test_a_tree_is_restored_beside_and_a_second_run_finds_nothing_new(folder, run):
    assert run(".", "--compare")[0] == 0
    made = [f"{name}_{what}.png" for name in ("a", "b", "sub/c") for what in ("compare", "restored")]
    assert files() == sorted([*made, "a.jpg", "b.jpg", "sub/c.jpeg"])
    before = describe(folder)
    code, printed, errors = run(".", "--compare", "--resume")
    assert (code, printed, errors) == (0, "skipped 3\n", "")
    assert describe(folder) == before


@pytest.mark.parametrize(
    ("options", "name", "format"),
    [
        (["-o", "out.webp"], "out.webp", "WEBP"),
        (["-o", "new/out.JPEG", "--quality", "80"], "new/out.JPEG", "JPEG"),
        (["--format", "tiff"], "a_restored.tiff", "TIFF"),
        (["--format", "jpeg", "-o", "new"], "new/a.jpg", "JPEG"),
        (["--format", "avif", "--quality", "50"], "a_restored.avif", "AVIF"),
    ],
)
def test_formats(folder, run, options, name, format):
    assert run("a.jpg", *options)[0] == 0
    with Image.open(name) as image:
        assert image.format == format and image.size == (100, 96)


def test_strength_0_is_the_decoded_input_and_half_lies_between(folder, run):
    for strength in ("0", "0.5", "1"):
        assert run("a.jpg", "-o", f"{strength}.png", "--strength", strength)[0] == 0
    before, half, full = (read(f"{strength}.png").astype(int) for strength in ("0", "0.5", "1"))
    np.testing.assert_array_equal(before, read("a.jpg"))
    assert np.abs(half - (before + full) / 2).max() <= 1


def test_the_self_ensemble_is_another_result_and_pythons_own(folder, run, saved_models):
    for name, options in (("alone", ()), ("together", ("--self-ensemble",))):
        assert run("a.jpg", "-o", f"{name}.png", *options)[0] == 0
    assert (read("alone.png") != read("together.png")).any()
    restorer = Restorer.load(saved_models, precision="float32", self_ensemble=True)
    assert restorer.restore_bytes(Path("a.jpg").read_bytes()) == Path("together.png").read_bytes()


def test_blend_mixes_in_the_perceptual_model(folder, run):
    code, printed, _ = run("a.jpg", "--blend", "0.25")
    assert code == 0 and re.search(
        r"^model: .*pretrain_generator/1, blended by 0\.25 with .*gan/1$", printed, re.MULTILINE
    )


def test_compare_shows_before_and_after(folder, run):
    assert run("a.jpg", "--compare", "-o", "x.webp")[0] == 0
    assert {"x.webp", "x_compare.png"} < set(files())
    assert read("x_compare.png").shape[1] > 2 * 300


def test_a_picture_that_is_nearly_uncompressed_is_left_alone_unless_forced(folder, run):
    Image.fromarray(PHOTO[:96, :100]).save("fine.jpg", quality=98)
    code, printed, _ = run("fine.jpg")
    assert code == 0 and "fine.jpg: left alone" in printed and printed.endswith("\nleft alone 1\n")
    np.testing.assert_array_equal(read("fine_restored.png"), read("fine.jpg"))
    code, printed, _ = run("fine.jpg", "--force", "--overwrite")
    assert code == 0 and "restored 1 (" in printed
    assert "fine.jpg: quality 98, the model was trained for quality 10: detail may be lost, --strength low" in printed
    assert (read("fine_restored.png") != read("fine.jpg")).any()


def test_what_is_there_is_kept_without_overwrite(folder, run):
    Path("a_restored.png").write_text("mine")
    code, printed, errors = run("a.jpg", "b.jpg")
    assert code == 1 and "restored 1, failed 1 (" in printed
    assert errors == "error: a.jpg: a_restored.png exists, --overwrite replaces it, --resume skips it\n"
    assert Path("a_restored.png").read_text() == "mine"
    code, printed, _ = run("a.jpg", "b.jpg", "--resume")
    assert (code, printed) == (0, "skipped 2\n")
    assert run("a.jpg", "--overwrite")[0] == 0 and read("a_restored.png").shape == (96, 100, 3)


@pytest.mark.parametrize("inputs", ["a.jpg", "."])
def test_of_a_result_and_its_drawing_resume_writes_the_one_that_is_missing(folder, run, inputs):
    made = ["a_restored.png", "a_compare.png"]
    assert run(inputs, "--compare")[0] == 0
    written = {name: Path(name).read_bytes() for name in made}
    for missing, kept in (made, made[::-1]):
        Path(missing).unlink()
        Path(kept).write_text("mine")
        before = describe(folder)
        code, printed, errors = run(inputs, "--compare", "--resume")
        assert (code, errors) == (0, "") and f"a.jpg -> {missing}\n" in printed
        assert "restored 1" in printed and ("skipped 2" in printed) == (inputs == ".")
        assert Path(missing).read_bytes() == written[missing] and Path(kept).read_text() == "mine"
        after = describe(folder)
        assert {name: after[name] for name in before} == before
        Path(kept).write_bytes(written[kept])


def test_an_input_is_replaced_only_with_overwrite(folder, run):
    before = Path("a.jpg").read_bytes()
    code, _, errors = run("a.jpg", "-o", "a.jpg")
    assert (
        code == 2 and errors.startswith("error: a.jpg is the picture itself: ") and Path("a.jpg").read_bytes() == before
    )
    assert run("a.jpg", "-o", "a.jpg", "--overwrite")[0] == 0 and Path("a.jpg").read_bytes() != before


def test_results_have_the_dates_of_their_pictures_unless_new_ones_are_wanted(folder, run):
    os.utime("a.jpg", ns=(10**18 + 1, 10**18 + 2))
    assert run("a.jpg", "--compare")[0] == 0
    stat = os.stat("a_restored.png")
    assert (stat.st_atime_ns, stat.st_mtime_ns) == (10**18 + 1, 10**18 + 2)
    assert os.stat("a_compare.png").st_mtime_ns > 10**18 + 2
    assert run("a.jpg", "--overwrite", "--new-dates")[0] == 0 and os.stat("a_restored.png").st_mtime_ns > 10**18 + 2


def test_what_is_chosen_passed_over_and_no_picture_is_counted_and_reported(folder, run):
    Image.fromarray(PHOTO[:80, :64]).save("fine.jpg", quality=60)
    Image.fromarray(PHOTO[:80, :64]).save("c.png")
    Path("sub/note.txt").touch()
    Path("broken.jpg").write_text("this is no picture")
    chosen = ("--include", "*.jp*g", "--include", "*.txt", "--exclude", "b.*", "--only-below", "50")
    code, printed, _ = run(".", "-o", "out", *chosen, "--report", "report.csv")
    assert code == 1 and "passed over, as they are no pictures that can be read: .txt 1\n" in printed
    assert printed.splitlines()[-1].startswith("restored 2, passed over 1, failed 1 (")
    with open("report.csv", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    decisions = {path: row["decision"] for path, row in rows.items()}
    assert decisions == {
        "a.jpg": "restored",
        "broken.jpg": "failed",
        "fine.jpg": "passed over",
        "sub/c.jpeg": "restored",
    }
    assert rows["a.jpg"]["output"] == "out/a.png" and float(rows["a.jpg"]["seconds"]) > 0
    assert rows["broken.jpg"]["error"].startswith("broken.jpg is not in a format that can be read")
    run(".", "-o", "out", *chosen, "--report", "report.csv", "--resume")
    with open("report.csv", newline="") as file:
        assert {row["path"]: row["decision"] for row in csv.DictReader(file)} == {
            path: "skipped" if decision == "restored" else decision for path, decision in decisions.items()
        }


@pytest.mark.parametrize(
    "name", ["[red]x.jpg", "-x.jpg", "new\nline.jpg", "\udcff.jpg", "写真 🖼.jpg", "\u202egpj.jpg", "x" * 251 + ".jpg"]
)
def test_any_name_is_restored_and_printed_in_one_line(folder, run, name):
    os.rename("a.jpg", name)
    code, printed, errors = run("-o", "out", "--compare", "--", name, "nothing\n[bold].jpg")
    assert code == 1 and errors == "error: no such file or folder: nothing\\n[bold].jpg\n"
    assert [line.partition(" ")[0] for line in printed.splitlines()[::2]] == ["model:", "restored"]
    assert printed.count("\n") == 3 and all(line.isprintable() for line in printed.splitlines())
    assert len(list(Path("out").iterdir())) == 2


# What goes wrong


def test_bad_files_do_not_sink_a_batch(folder, run):
    Path("empty.jpg").touch()
    Path("text.jpg").write_text("this is no picture")
    Path("short.jpg").write_bytes(Path("a.jpg").read_bytes()[:-300])
    code, printed, errors = run(".", "nothing.jpg", "-o", "out")
    assert code == 1 and "restored 3, failed 4 (" in printed
    lines = errors.splitlines()
    assert len(lines) == 4 and all(line.startswith("error: ") for line in lines)
    assert all(any(name in line for line in lines) for name in ("empty.jpg", "text.jpg", "short.jpg", "nothing.jpg"))
    assert [file for file in files() if file.startswith("out")] == ["out/a.png", "out/b.png", "out/sub/c.png"]
    code, printed, errors = run("short.jpg", "--allow-truncated")
    assert (code, errors) == (0, "") and Path("short_restored.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.jpg"], "no such file or folder: nothing.jpg"),
        (["empty"], "no pictures in the folder: empty"),
        (["text.jpg"], "text.jpg"),
        (["a.jpg", "--max-megapixels", "0.001"], "a.jpg is 0.0096 megapixels"),
        (["a.jpg", "-o", "text.jpg/x"], "cannot make the output folder"),
        (["a.jpg", "-o", "x.png", "--format", "webp"], "--format webp contradicts"),
        (["a.jpg", "--quality", "80"], "png takes no quality"),
        (["a.jpg", "--watch"], "a.jpg is no folder, and only folders are watched"),
        (["a.jpg", "--report", "nothing/x.csv"], "cannot write nothing/x.csv"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, run, arguments, message):
    Path("empty").mkdir()
    Path("text.jpg").write_text("this is no picture")
    before = describe(folder)
    code, _, errors = run(*arguments)
    assert code == 2 and errors.startswith("error: ") and errors.count("\n") == 1 and message in errors
    assert describe(folder) == before


@pytest.mark.parametrize("model", ["nothing", "sub"])
def test_a_model_that_is_none_is_one_line(folder, capfd, model):
    assert restore.main(["a.jpg", "--model", model]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith("error: ") and errors.count("\n") == 1 and model in errors
    assert not Path("a_restored.png").exists()


WITHOUT_TENSORFLOW = """
import sys
sys.modules.update(tensorflow=None, keras=None)
from artifact_remover import restore
sys.exit(restore.main(sys.argv[1:]))
"""


def run_without_tensorflow(*arguments):
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no pictures: give files or folders"),
        (["a.jpg", "--strength", "1.5"], "--strength must lie in 0..1"),
        (["a.jpg", "--blend", "nan"], "--blend must lie in 0..1"),
        (["a.jpg", "--quality", "0", "--format", "webp"], "--quality must lie in 1..100"),
        (["a.jpg", "--tile", "63"], "--tile must be at least 64"),
        (["a.jpg", "--max-megapixels", "-1"], "--max-megapixels must be above zero"),
        (["a.jpg", "--overwrite", "--resume"], "--overwrite and --resume exclude each other"),
        (["a.jpg", "--format", "gif"], "gif"),
        (["a.jpg", "--only-below", "0"], "--only-below must lie in 1..100"),
        (["a.jpg", "--report", "a.txt"], "--report must end in .csv or .json"),
        ([".", "--info", "--watch"], "--info and --watch exclude each other"),
        ([".", "--info", "--in-place", "--backup", "b"], "--info and --in-place exclude each other"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(capfd, arguments, message):
    with pytest.raises(SystemExit) as stop:
        restore.main(arguments)
    errors = capfd.readouterr().err
    assert stop.value.code == 2 and errors.startswith("error: ") and errors.count("\n") == 1 and message in errors


def test_mistakes_are_told_before_tensorflow_is_loaded(folder):
    Path("there_restored.png").touch()
    shutil.copy("a.jpg", "there.jpg")
    done = run_without_tensorflow("there.jpg", "nothing.jpg")
    assert done.returncode == 2 and done.stderr.count("\n") == 2 and done.stdout == "failed 2\n"


# What files say of themselves


def test_info_needs_no_tensorflow(folder):
    Image.fromarray(PHOTO[:80, :64]).save(
        "b.jpg", quality=97, subsampling="4:2:2", progressive=True, comment="x", dpi=(300, 300)
    )
    done = run_without_tensorflow("--info", "a.jpg", "b.jpg")
    assert done.returncode == 0 and done.stderr == ""
    first, second, last = re.split(r"\n(?=\w)", done.stdout)
    assert last == "the model was not tried on 1 left alone: it may find artifacts, as of a JPEG that was scaled\n"
    assert [part.partition("\n")[0] for part in (first, second)] == ["a.jpg", "b.jpg"]
    for said in ("JPEG", "100x96, 0.01 megapixels", "RGB, 8 bits", "baseline, Huffman", "10, standard", "4:2:0"):
        assert said in first
    assert " 80  55  50  80 120 200 255 255\n" in first and re.search(r"left alone +no", first)
    for said in ("64x80", "progressive", "97, standard", "4:2:2", "comment", "300 dpi"):
        assert said in second
    assert re.search(r"left alone +yes", second)


def test_info_tells_where_there_is_no_luma(folder, capsys):
    Image.fromarray(PHOTO).save("rgb.jpg", quality=75, keep_rgb=True)
    assert restore.main(["--info", "rgb.jpg"]) == 0
    assert re.search(r"chroma +4:4:4, without luma\n", capsys.readouterr().out)


def test_info_goes_on_where_memory_runs_out(folder, capsys, monkeypatch):
    Image.fromarray(PHOTO).save("a.jpg")
    Image.fromarray(PHOTO).save("b.png")
    look = decision.decide_from_file

    def run_out(source, *arguments):
        if source.name == "a.jpg":
            raise MemoryError
        return look(source, *arguments)

    monkeypatch.setattr(decision, "decide_from_file", run_out)
    assert restore.main(["--info", "a.jpg", "b.png"]) == 1
    said = capsys.readouterr()
    assert "b.png" in said.out and said.err == "error: a.jpg: not enough memory, close other programs\n"


def test_info_of_a_folder_is_a_table_and_may_be_a_report(folder, capsys):
    Image.fromarray(PHOTO[:80, :64]).save("b.jpg", quality=97, subsampling="4:4:4")
    Image.fromarray(PHOTO[:80, :64]).save("c.png")
    Path("broken.jpg").write_text("this is no picture")
    Path("note.txt").touch()
    assert restore.main(["--info", ".", "--report", "report.json"]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "format         size      MP  quality  chroma  left alone  found                                 path",
        "JPEG         100x96    0.01  10       4:2:0   no          Q10                                   a.jpg",
        "JPEG          64x80    0.01  97       4:4:4   yes         Q97                                   b.jpg",
        "PNG           64x80    0.01                   yes         no trace of JPEG                      c.png",
        "JPEG         100x96    0.01  10       4:2:0   no          Q10                                   sub/c.jpeg",
        "the model was not tried on 2 left alone: it may find artifacts, as of a JPEG that was scaled",
        "passed over, as they are no pictures that can be read: .txt 1",
    ]
    assert printed.err.count("\n") == 1 and "broken.jpg is not in a format that can be read" in printed.err
    rows = json.loads(Path("report.json").read_text())
    assert [row["decision"] for row in rows] == ["restore", "left alone", "failed", "left alone", "restore"]
    assert rows[3]["why"] == "no trace of JPEG compression was found, --force restores it"
    assert rows[1]["why"] == "practically uncompressed: quality 97, --force restores it"
    assert restore.main(["--info", ".", "--only-below", "50", "--report", "report.json"]) == 1
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:3]] == ["a.jpg", "sub/c.jpeg"]
    rows = json.loads(Path("report.json").read_text())
    assert [row["decision"] for row in rows] == ["restore", "passed over", "failed", "passed over", "restore"]


def test_info_of_a_bad_file_is_one_line(folder, capsys):
    Path("text.jpg").write_text("this is no picture")
    assert restore.main(["--info", "text.jpg"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert restore.main(["--info", "text.jpg", "a.jpg"]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("a.jpg\n") and "text.jpg" in printed.err


def test_info_of_a_damaged_header_needs_an_option(folder, capsys):
    save_with_damaged_text("a.png")
    assert restore.main(["--info", "a.png"]) == 2
    assert "or use --allow-truncated" in capsys.readouterr().err
    assert restore.main(["--info", "--allow-truncated", "a.png"]) == 0
    assert "100x96" in capsys.readouterr().out


def test_a_picture_with_a_damaged_header_is_restored_where_that_is_asked(folder, run):
    save_with_damaged_text("a.png")
    assert run("a.png")[0] == 2
    code, out, _ = run("a.png", "--allow-truncated")
    assert code == 0 and "a.png: truncated or damaged, taken as far as it goes" in out
    assert read("a_restored.png").shape == (96, 100, 3)


def save_with_damaged_text(file):
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "A title")
    Image.fromarray(PHOTO[:96, :100]).save(file, pnginfo=info)
    content = Path(file).read_bytes()
    Path(file).write_bytes(content.replace(b"A title", b"a title"))


def test_info_writes_nothing(folder, capsys):
    before = describe(folder)
    assert restore.main(["--info", ".", "-o", "out"]) == 0
    assert describe(folder) == before


def run_in_shell(command, *arguments):
    code = "import sys\nfrom artifact_remover import restore\nsys.exit(restore.main(sys.argv[1:]))"
    command = command.format(command=shlex.join([sys.executable, "-c", code, *map(str, arguments)]))
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)


def test_nobody_has_to_read_what_is_printed(folder):
    for redirection in ("| head -1", ">&-", "2>&-", ">&- 2>&-", "> /dev/full"):
        done = run_in_shell(
            f"{{command}} {redirection}; exit ${{{{PIPESTATUS[0]}}}}", "--info", *["a.jpg", "b.jpg"] * 2
        )
        assert (done.returncode, done.stderr) == (0, ""), redirection


# Processes that are stopped


# A restorer that takes its time but no TensorFlow: what is tested is what becomes of files and threads.
SLOW_RESTORER = """
import sys, time, types
from artifact_remover.restore_picture import restore_parts

class Restorer:
    description = "slow"

    @classmethod
    def load(cls, *_, **__):
        return cls()

    def restore_picture(self, picture, strength, force, progress):
        time.sleep(0.02)
        return restore_parts(picture, lambda pixels: pixels // 2, lambda sample: sample, force)

sys.modules["artifact_remover.restoration"] = types.SimpleNamespace(Restorer=Restorer)
from artifact_remover import restore
sys.exit(restore.main(sys.argv[1:]))
"""
REAL_RESTORER = """
import sys
from artifact_remover import restore
sys.exit(restore.main(sys.argv[1:]))
"""


def started(*arguments, code=SLOW_RESTORER, stderr=subprocess.PIPE):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return running(command, stdout=subprocess.PIPE, stderr=stderr, text=True)


def wait_for(file, process):
    until = time.monotonic() + 120
    while not Path(file).exists():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            pytest.fail(f"no {file}: {process.communicate()}")
        time.sleep(0.002)


@pytest.fixture
def many(folder):
    """A folder with pictures that take a while."""
    Path("many").mkdir()
    for number in range(40):
        Image.fromarray(np.roll(PHOTO, 8 * number, axis=0)).save(f"many/{number:02}.jpg", quality=10)
    return Path("many")


def check_whole(folder):
    """Every result is whole, and nothing else was left."""
    for file in folder.iterdir():
        assert file.suffix == ".png", file
        assert read(file).shape == PHOTO.shape
    return len(list(folder.iterdir()))


@pytest.mark.parametrize("code", [SLOW_RESTORER, pytest.param(REAL_RESTORER, marks=pytest.mark.slow)])
def test_a_killed_batch_leaves_no_half_picture_and_resume_finishes(many, run, saved_models, code):
    with started(many, "-o", "out", "--model", saved_models, code=code) as process:
        wait_for("out/00.png", process)
        process.kill()
    for partial in Path("out").glob(".*"):  # of a process that was killed there may be one, under another name
        partial.unlink()
    done = check_whole(Path("out"))
    assert 1 <= done < 40
    for number in range(done + 3, 40):
        (many / f"{number:02}.jpg").unlink()
    code, printed, _ = run(many, "-o", "out", "--resume")
    assert code == 0 and printed.splitlines()[-1].startswith(f"restored 3, skipped {done} (")
    assert check_whole(Path("out")) == done + 3


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("code", [SLOW_RESTORER, pytest.param(REAL_RESTORER, marks=pytest.mark.slow)])
def test_a_stopped_batch_says_what_is_done_and_leaves_nothing_unfinished(many, saved_models, stop, code):
    with started(many, "-o", "out", "--model", saved_models, code=code) as process:
        wait_for("out/00.png", process)
        process.send_signal(stop)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    done = check_whole(Path("out"))
    said = re.fullmatch(r"error: stopped, (\d+) of 40 pictures are done; --resume goes on\n", errors)
    assert done - int(said[1]) in (0, 1)  # it may be stopped between writing one and counting it


def test_a_stopped_batch_reports_what_is_done(many, saved_models):
    with started(many, "-o", "out", "--report", "report.json", "--model", saved_models) as process:
        wait_for("out/02.png", process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    rows = json.loads(Path("report.json").read_text())
    assert process.returncode == 130 and 2 <= len(rows) < 40
    assert all(row["decision"] == "restored" and Path(row["output"]).exists() for row in rows)


def test_a_report_of_nothing_replaces_none(folder, run):
    Path("report.json").write_text("of an earlier run")
    assert run("nothing.jpg", "--report", "report.json")[0] == 2
    assert restore.main(["a.jpg", "--report", "report.json", "--model", "nothing"]) == 2
    assert Path("report.json").read_text() == "of an earlier run"


def test_a_batch_in_place_that_is_killed_loses_nothing_and_goes_on(many, saved_models):
    originals = {file.name: file.read_bytes() for file in many.iterdir()}
    in_place = (many, "--in-place", "--backup", "kept", "--model", saved_models)
    with started(*in_place) as process:
        wait_for("kept/03.jpg", process)
        process.kill()
    for name, content in originals.items():
        kept = Path("kept", name)
        assert (many / name).exists() and (kept.read_bytes() == content if kept.exists() else True)
        assert kept.exists() or (many / name).read_bytes() == content
    with started(*in_place) as process:
        printed, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, "")
    restored, alone = map(int, re.search(r"restored (\d+), left alone (\d+) \(", printed).groups())
    assert restored + alone == 40 and alone >= 3
    assert {file.name: file.read_bytes() for file in Path("kept").glob("*.jpg")} == originals


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_watched_folder_is_restored_as_pictures_appear(folder, saved_models, stop):
    watched = (".", "-o", "out", "--watch", "--resume", "--report", "report.json", "--model", saved_models)
    Path("note.txt").touch()
    with started(*watched) as process:
        wait_for("out/sub/c.png", process)  # what is there comes first
        Path("new").mkdir()
        content = Path("a.jpg").read_bytes()
        Path("new/d.jpg").write_bytes(content[:-200])  # half of a download
        time.sleep(0.5)
        Path("new/d.jpg").write_bytes(content)
        wait_for("out/new/d.png", process)
        Path("a.jpg").write_bytes(content[::-1])  # another one of that name
        time.sleep(2)
        process.send_signal(stop)
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "error: stopped, 5 of 5 pictures are done; --resume goes on\n"
    assert [printed.count(said) for said in (" -> ", "model: ", "passed over")] == [4, 1, 1]
    assert "a.jpg: out/a.png is there already, --overwrite replaces it\n" in printed
    assert len(json.loads(Path("report.json").read_text())) == 5


def test_a_watched_folder_is_restored_in_place_once(folder, saved_models):
    with started(".", "--in-place", "--backup", "kept", "--watch", "--model", saved_models) as process:
        wait_for("kept/sub/c.jpeg", process)
        Path("d.jpg").write_bytes(Path("kept/a.jpg").read_bytes())
        wait_for("kept/d.jpg", process)
        time.sleep(3)  # in which what was written could be taken for something new
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    assert errors == "error: stopped, 4 of 4 pictures are done; the same command goes on\n"
    assert printed.count("restored, the original is") == 4 and "left alone" not in printed


def test_progress_goes_to_the_terminal_and_lines_into_the_file(saved_models, many):
    ours, terminal = pty.openpty()
    with started(many, "-o", "out", "--model", saved_models, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # as reading ends where the other side is closed
            while part := os.read(ours, 10_000):
                shown += part
        printed, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0 and b"40/40 files" in shown and b" MP/s" in shown and b"->" not in shown
    lines = printed.splitlines()
    assert len(lines) == 42 and "many/39.jpg -> out/39.png" in lines and "\x1b" not in printed


def test_a_picture_that_cannot_be_written_whole_is_one_line(folder, run):
    Image.fromarray(PHOTO).save("large.jpg", quality=10)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))  # a.png is smaller, large.png is larger
    try:
        code, printed, errors = run("a.jpg", "large.jpg", "-o", "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert code == 1 and "restored 1, failed 1 (" in printed
    assert errors == "error: cannot write out/large.png: File too large\n"
    assert [file.name for file in Path("out").iterdir()] == ["a.png"]


MEASURED = """
import re, sys
from pathlib import Path
from typing import get_args
from artifact_remover import restore
code = restore.main(sys.argv[1:])
print(re.search("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is not to be read like this")
def test_hundred_megapixels_are_restored_in_two_gibibytes(saved_models, folder):
    width, height = 11552, 8656
    photo = np.tile(skimage_data.coffee(), (22, 20, 1))[:height, :width]
    Image.fromarray(photo).save("large.jpg", quality=20)
    command = [sys.executable, "-c", MEASURED, "large.jpg", "--model", saved_models]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kibibytes = int(done.stdout.splitlines()[-1])
    assert kibibytes < 2 * 2**20
    with Image.open("large_restored.png") as restored:
        assert restored.size == (width, height)
        corner = np.asarray(restored.crop((11392, 8496, width, height)))
    assert np.abs(corner.astype(int) - photo[8496:, 11392:]).mean() < 20
