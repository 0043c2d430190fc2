import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from data_prep.__main__ import main


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos[x]"  # which is not markup
    folder.mkdir()
    for number in range(9):
        photo = np.random.default_rng(number).integers(0, 256, (80, 100 + number, 3), np.uint8)
        Image.fromarray(photo).save(folder / f"{number}.png")
    return folder


def test_shows_counts_sizes_and_place(folder, tmp_path, capsys):
    assert main([str(folder), "--data-dir", str(tmp_path / "tfds")]) == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "generator" in line and "train" in line)
    assert [cell.strip() for cell in row.split("│")][3] == "7"
    assert "80" in row
    assert str(folder) in "".join(shown.split())  # the title, in as many lines as it needs
    assert f"MB in {tmp_path / 'tfds' / 'photo_folder'}" in shown


def test_excluded_pictures_are_not_counted(folder, tmp_path, capsys):
    (tmp_path / "benchmark").mkdir()
    Image.open(folder / "3.png").save(tmp_path / "benchmark" / "3.tif")
    arguments = [str(folder), "--data-dir", str(tmp_path / "tfds"), "--exclude", str(tmp_path / "benchmark")]
    assert main(arguments) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "generator" in line]
    assert sum(int(row[3]) for row in rows) == 8


@pytest.mark.parametrize("name", ["div3k", "no/such/folder"])
def test_unknown_name_is_one_line_and_exit_code_2(name, capsys):
    assert main([name]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"error: no such photographs, give sample_photos or div2k or an existing folder: {name}\n"
    assert not printed.out


def test_wrong_option_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sample_photos", "--dat-dir", "x"])
    assert stop.value.code == 2


def test_help_needs_no_tensorflow():
    start = time.perf_counter()
    code = "import sys; sys.modules['tensorflow'] = None; from data_prep.__main__ import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "NAME_OR_PATH" in done.stdout
    assert time.perf_counter() - start < 10


def test_process_prints_nothing_but_the_table(tmp_path):
    command = [sys.executable, "-m", "data_prep", "sample_photos", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "sample_photos" in done.stdout
    assert done.stderr == ""


def test_what_is_left_out_is_a_plain_line(folder, tmp_path):
    (folder / "a\nb.png").write_text("this is no picture")
    command = [sys.executable, "-m", "data_prep", str(folder), "--data-dir", str(tmp_path / "tfds")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = f"left out: not a usable picture, mend or remove it: {folder}/a\\nb.png (not in a format that can be read)"
    assert said in done.stderr.splitlines()


def test_closed_streams_do_not_matter(folder, tmp_path):
    command = f"exec {sys.executable} -m data_prep {folder} --data-dir {tmp_path / 'tfds'} <&- >&- 2>&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list(tmp_path.glob("tfds/**/inventory.json"))) == 1
