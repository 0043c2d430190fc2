"""Reading HEIC, which takes the extra `heic`."""

import io
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from artifact_remover import restore
from artifact_remover.batch_plan import Output, find_sources
from artifact_remover.pictures.picture import decode_picture, inspect_picture
from artifact_remover.pictures.readers import DamagedError, TooLargeError
from artifact_remover.restoration import Restorer
from data_prep.errors import InputError
from tests.sample_pictures import PHOTO, to_jpeg

pillow_heif.register_heif_opener()


def to_heic(pixels=PHOTO, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "HEIF", **options)
    return file.getvalue()


def exif_with_orientation(orientation):
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a title", orientation
    return exif.tobytes()


def test_pixels_and_metadata_are_those_of_the_file():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    picture = decode_picture(to_heic(quality=95, xmp=xmp, exif=exif_with_orientation(1)))
    assert picture.format == "HEIF" and picture.header is None and picture.notes == ()
    assert np.abs(picture.pixels.astype(int) - PHOTO).mean() < 4
    assert picture.metadata.xmp == xmp and b"a title" in picture.metadata.exif


def test_it_is_turned_upright_once():
    picture = decode_picture(to_heic(quality=95, exif=exif_with_orientation(6)))
    assert picture.orientation == 1 and picture.pixels.shape == (100, 96, 3)
    assert np.abs(picture.pixels.astype(int) - np.rot90(PHOTO, -1)).mean() < 4


def test_gray_and_transparency_stay_apart():
    assert decode_picture(to_heic(PHOTO[..., 0])).pixels.shape == (96, 100, 1)
    alpha = np.full((96, 100, 1), 100, np.uint8)
    picture = decode_picture(to_heic(np.dstack([PHOTO, alpha]), quality=95))
    assert picture.pixels.shape == PHOTO.shape and np.abs(picture.alpha.astype(int) - 100).max() < 5


def test_ten_bits_are_reduced_to_8_with_a_note():
    file = io.BytesIO()
    pillow_heif.encode("RGB;16", (100, 96), (PHOTO.astype(np.uint16) * 257).tobytes(), file)
    summary = inspect_picture(io.BytesIO(file.getvalue()))
    assert (summary.format, summary.width, summary.height, summary.bits) == ("HEIF", 100, 96, 10)
    picture = decode_picture(file.getvalue())
    assert picture.pixels.dtype == np.uint8 and picture.notes == ("10 bits reduced to 8",)


def test_too_large_or_damaged_it_is_refused():
    with pytest.raises(TooLargeError):
        decode_picture(to_heic(), max_megapixels=0.001)
    with pytest.raises(DamagedError):
        decode_picture(to_heic()[:-500])


@pytest.fixture
def without_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF")
    monkeypatch.setattr(restore, "find_spec", lambda name: None)


def test_without_the_package_a_line_names_the_extra(request):
    content = to_heic()
    request.getfixturevalue("without_package")
    with pytest.raises(InputError, match=r"is a HEIC, for which a package is missing: pip install .*\[heic\]"):
        decode_picture(content)


def test_in_a_folder_it_is_found_by_its_content_or_counted(tmp_path, request, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.heic").write_bytes(to_heic())
    Path("b.jpg").write_bytes(to_jpeg(PHOTO))
    assert [source.file.name for source in find_sources([Path()], Output("png")).sources] == ["a.heic", "b.jpg"]
    request.getfixturevalue("without_package")
    assert restore.main(["--info", "."]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[2:] == [
        "passed over, as they are no pictures that can be read: .heic 1",
        "HEIC needs another package: pip install 'artifact-remover[heic]'",
    ]


def test_it_is_restored_to_other_formats_but_not_in_place(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(restore, "_load", lambda config: Restorer(lambda pictures: pictures, 16))
    Path("a.heic").write_bytes(to_heic())
    assert restore.main(["a.heic", "-o", "a.jpg", "--force"]) == 0 and decode_picture(Path("a.jpg")).restored_by
    capsys.readouterr()
    assert restore.main(["a.heic", "--in-place", "--backup", "kept"]) == 2
    assert capsys.readouterr().err == "error: a.heic: HEIF cannot be written, restore it without --in-place\n"
