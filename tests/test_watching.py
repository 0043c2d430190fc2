"""Waiting for files; `test_restore` runs the command."""

import os
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from artifact_remover.watching import look, watch
from data_prep.errors import InputError


def start(folder, replaced=None, settle=0.05):
    return closing(watch([folder], lambda: sorted(folder.glob("*.jpg")), {} if replaced is None else replaced, settle))


def test_what_is_there_comes_first_then_what_appears(tmp_path):
    (tmp_path / "a.jpg").write_text("a")
    with start(tmp_path) as watched:
        assert next(watched) == {tmp_path / "a.jpg"}
        timer = threading.Timer(0.2, lambda: (tmp_path / "b.jpg").write_text("b"))
        timer.start()
        assert next(watched) == {tmp_path / "b.jpg"}


def test_a_file_is_whole_once_it_grows_no_more(tmp_path):
    def grow():
        for _ in range(20):
            with (tmp_path / "slow.jpg").open("a") as file:
                file.write("more")
            time.sleep(0.05)

    with start(tmp_path, settle=1) as watched:
        thread = threading.Thread(target=grow)
        thread.start()
        assert next(watched) == {tmp_path / "slow.jpg"}
        assert (tmp_path / "slow.jpg").stat().st_size == 80
        thread.join()


def rename_over(file, content):
    file.with_name("new").write_text(content)
    os.replace(file.with_name("new"), file)


def test_what_changes_comes_again_but_not_what_the_caller_replaced(tmp_path):
    a, b, c, d = (tmp_path / f"{name}.jpg" for name in "abcd")
    replaced = {}
    for file in (a, b, c, d):
        file.write_text("original")
    with start(tmp_path, replaced) as watched:
        assert next(watched) == {a, b, c, d}
        for file in (a, d):
            rename_over(file, "restored")
            replaced[file] = look(file)
        b.write_text("grown meanwhile")
        rename_over(c, "another by its name")
        rename_over(d, "edited after it was restored")
        assert next(watched) == {b, c, d}
        a.write_text("another")
        assert next(watched) == {a} and not replaced


def test_looking_is_no_change(tmp_path):
    """Opening files to look at them must not wake it, or it would never sleep."""
    looks = []

    def find():
        looks.append([file.read_bytes() for file in tmp_path.iterdir()])
        return list(tmp_path.iterdir())

    (tmp_path / "a.jpg").write_text("a")
    with closing(watch([tmp_path], find, {}, 0.05)) as watched:
        next(watched)
        timer = threading.Timer(1, lambda: (tmp_path / "b.jpg").write_text("b"))
        timer.start()
        next(watched)
    assert len(looks) < 40


def test_it_looks_seldom_while_something_is_written_all_the_time(tmp_path):
    looks, stopped = [], threading.Event()

    def find():
        looks.append(time.monotonic())
        return [tmp_path / "a.jpg"]

    def write():
        while not stopped.wait(0.005):
            (tmp_path / "log.txt").write_text("more")

    (tmp_path / "a.jpg").write_text("a")
    with closing(watch([tmp_path], find, {}, 0.4)) as watched:
        next(watched)
        thread = threading.Thread(target=write)
        thread.start()
        threading.Timer(1, lambda: (tmp_path / "a.jpg").write_text("another")).start()
        next(watched)
        stopped.set()
        thread.join()
    assert min(later - look for look, later in zip(looks, looks[1:], strict=False)) >= 0.1


def test_a_file_that_vanishes_is_forgotten(tmp_path):
    (tmp_path / "a.jpg").write_text("a")
    with closing(watch([tmp_path], lambda: [tmp_path / "gone.jpg", tmp_path / "a.jpg"], {}, 0.05)) as watched:
        assert next(watched) == {tmp_path / "a.jpg"}


def test_a_folder_that_cannot_be_watched_is_one_line():
    with pytest.raises(InputError, match="the folders cannot be watched: "):
        next(watch([Path("nothing")], list, {}))
