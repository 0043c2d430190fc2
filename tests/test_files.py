import errno
import os
import platform
import shutil
import subprocess
import sys
import threading

import pytest

from data_prep import files
from data_prep.files import HeldError, hold, open_whole, write_whole
from tests.conftest import running


def test_content_replaces_what_was_there(tmp_path):
    file = tmp_path / "report.json"
    for content in (b"first", b"second"):
        write_whole(file, content)
        assert file.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]


def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "report.json"
    write_whole(file, b"kept")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, b"lost")
    assert file.read_bytes() == b"kept" and len(list(tmp_path.iterdir())) == 1


def test_a_name_as_long_as_can_be_works(tmp_path):
    file = tmp_path / ("ä" * 125 + "y.png")
    assert len(file.name.encode()) == 255
    with open_whole(file) as opened:
        opened.write(b"half")
        assert not file.exists()
        opened.seek(0)
        opened.write(b"whole")
    assert file.read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("bug"), KeyboardInterrupt]
)
def test_a_failing_writer_keeps_the_old_file_and_leaves_nothing_else(tmp_path, error):
    file = tmp_path / "photo.png"
    write_whole(file, b"kept")
    with pytest.raises(type(error) if isinstance(error, Exception) else error), open_whole(file) as opened:
        opened.write(b"lost")
        raise error
    assert file.read_bytes() == b"kept" and len(list(tmp_path.iterdir())) == 1


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(FileNotFoundError), open_whole(tmp_path / "missing" / "photo.png"):
        pass


@pytest.mark.parametrize("place", ["none/a.png", "file/a.png", "folder"])
def test_errors_name_the_file_that_was_to_be_written(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError) as error:
        write_whole(tmp_path / place, b"content")
    assert error.value.filename == str(tmp_path / place)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_what_is_there_is_kept_if_it_is_not_to_be_replaced(tmp_path):
    file = tmp_path / "file"
    file.write_text("before")
    with pytest.raises(FileExistsError), open_whole(file, replace=False) as opened:
        opened.write(b"after")
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_dates_of_another_file_are_taken_over(tmp_path):
    os.utime(tmp_path, ns=(10**18 + 1, 10**18 + 2))
    with open_whole(tmp_path / "photo.png", dates=tmp_path.stat()) as opened:
        opened.write(b"new")
    stat = (tmp_path / "photo.png").stat()
    assert (stat.st_atime_ns, stat.st_mtime_ns) == (10**18 + 1, 10**18 + 2)


HOLDING = """
import sys, time
from pathlib import Path
from data_prep.files import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds `.lock`."""
    with running([sys.executable, "-c", HOLDING, tmp_path / ".lock"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process


def test_what_another_process_holds_is_refused_until_that_is_killed(holder, tmp_path):
    for _ in range(2):  # asking leaves its name in place
        with pytest.raises(HeldError, match=f"^process {holder.pid} on {platform.node()}$"), hold(tmp_path / ".lock"):
            pytest.fail("two hold it")
    holder.kill()
    holder.wait()
    with hold(tmp_path / ".lock"), pytest.raises(HeldError, match=f"process {os.getpid()} "), hold(tmp_path / ".lock"):
        pytest.fail("two hold it")
    with hold(tmp_path / ".lock"):
        pass


def test_what_another_process_holds_is_waited_for_where_that_is_wanted(holder, tmp_path):
    told = []

    def tell(name):
        told.append(name)
        holder.kill()

    with hold(tmp_path / ".lock", tell):
        assert told == [f"process {holder.pid} on {platform.node()}"]


def test_a_lock_that_was_removed_while_it_was_waited_for_is_taken_anew(tmp_path):
    lock = tmp_path / "run" / ".lock"
    waiting, refused = threading.Event(), []

    def wait():
        with hold(lock, lambda _: waiting.set()):
            try:
                with hold(lock):
                    pass
            except HeldError as error:
                refused.append(error)

    thread = threading.Thread(target=wait)
    with hold(lock):
        thread.start()
        assert waiting.wait(20)
        shutil.rmtree(lock.parent)
    thread.join()
    assert lock.is_file() and refused


def test_without_locks_nothing_is_kept_out(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with hold(tmp_path / ".lock"), hold(tmp_path / ".lock"):
        pass
