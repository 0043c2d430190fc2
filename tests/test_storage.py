import io
import os

import pytest

from data_prep.errors import InputError

pytest.importorskip("pyarrow")

from pyarrow import fs  # noqa: E402

from artifact_remover import storage  # noqa: E402


@pytest.mark.parametrize(
    ("uri", "path", "name"),
    [
        ("/data/my photos/", "/data/my photos", "/data/my photos"),
        ("file:///data/100%25 #1?", "/data/100%25 #1", "file:///data/100%25 #1"),
        ("s3://key:secret@bucket/a %20?region=eu-west-1&scheme=http", "bucket/a %20", "s3://bucket/a %20"),
        ("s3://bucket?region=eu-west-1", "bucket", "s3://bucket/"),
        ("file:///", "/", "file:///"),
    ],
)
def test_a_uri_is_taken_as_it_is(uri, path, name):
    location = storage.locate(uri)
    assert (location.path, location.name) == (path, name)
    below = location / "x/ü.jpg"
    assert (below.path, below.name) == (f"{path.rstrip('/')}/x/ü.jpg", f"{name.removesuffix('/')}/x/ü.jpg")


def test_a_listed_name_may_hold_a_question_mark():
    assert storage.locate_listed("file:///a?b=c.jpg").path == "/a?b=c.jpg"


def test_an_unknown_scheme_is_one_line():
    with pytest.raises(InputError, match=r"^ftp://host cannot be reached: ((?!secret).)*$"):
        storage.locate("ftp://key:secret@host/photos")


def test_a_folder_is_listed_in_order_and_links_apart(tmp_path):
    for name in ("b", "a", "Z"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    (tmp_path / "broken").symlink_to(tmp_path / "none")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    os.mkfifo(tmp_path / "pipe")
    listing = storage.list_folder(storage.locate(str(tmp_path)))
    listing.broken.sort()
    assert listing == storage.Listing(["Z", "a", "b", "linked"], ["folder"], ["link"], ["broken", "round"], [])
    with pytest.raises(InputError, match="cannot read the folder, check its permissions: .*/none"):
        storage.list_folder(storage.locate(str(tmp_path)) / "none")


def test_a_name_that_is_no_utf8_is_told_and_the_others_are_listed(tmp_path):
    (tmp_path / "good").write_text("")
    with open(bytes(tmp_path) + b"/\xff.jpg", "wb"):
        pass
    listing = storage.list_folder(storage.locate(str(tmp_path)))
    assert listing.files == ["good"]
    assert len(listing.errors) == 1 and "UTF-8" in listing.errors[0]


@pytest.mark.parametrize("kind", ["local", "renames", "appears whole"])
def test_what_cannot_be_read_to_its_end_is_not_written(tmp_path, monkeypatch, kind):
    class Breaking(io.BytesIO):
        def read(self, size=-1):
            if self.tell() or size < 0:
                raise OSError("broken")
            return super().read(1)

    target = storage.locate(str(tmp_path)) / "sub/file"
    if kind != "local":
        monkeypatch.setattr(storage, "_APPEAR_WHOLE", ("subtree",) if kind == "appears whole" else ())
        elsewhere = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
        target = storage.Location(elsewhere, "sub/file", str(tmp_path / "sub/file"))
        (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*/sub/file: broken"):
        storage.deliver(Breaking(b"content"), target)
    assert list((tmp_path / "sub").iterdir()) == []
    storage.deliver(io.BytesIO(b"content"), target)
    storage.deliver(io.BytesIO(b"new"), target)
    assert (tmp_path / "sub/file").read_bytes() == b"new"
