import errno
import os

import pytest

from data_prep.files import write_whole


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
