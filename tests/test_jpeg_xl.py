"""Reading JPEG XL, which takes the extra `jxl`."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as skimage_data

from artifact_remover import restore
from artifact_remover.batch_plan import Output, find_sources
from artifact_remover.pictures import jpeg_xl
from artifact_remover.pictures.jpeg_xl import read_header
from artifact_remover.pictures.picture import decode_picture, inspect_picture
from artifact_remover.pictures.readers import TooLargeError
from artifact_remover.restoration import Restorer
from data_prep.errors import InputError
from tests.sample_pictures import PHOTO, to_jpeg

pillow_jxl = pytest.importorskip("pillow_jxl")  # which has no wheel for some systems

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'


def to_jxl(pixels=PHOTO, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JXL", **options)
    return file.getvalue()


def transcoded(jpeg):
    """A JPEG XL from which the JPEG can be made again."""
    encoder = pillow_jxl.Encoder(
        mode="RGB", lossless=True, quality=100, decoding_speed=0, effort=7, use_container=True,
        use_original_profile=False, num_threads=0,
    )  # fmt: skip
    return encoder(jpeg, 0, 0, jpeg_encode=True)


def exif_with_orientation(orientation):
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a title", orientation
    return exif.tobytes()


def with_header(content, *fields):
    """Gives a bare codestream another header, of pairs of value and bits."""
    bits, length = 0x0AFF, 16
    for value, count in fields:
        bits |= value << length
        length += count
    return bits.to_bytes(-(-length // 8), "little") + content


def test_a_transcoded_jpeg_is_that_jpeg():
    jpeg = to_jpeg(PHOTO, 40, exif=exif_with_orientation(6), comment=b"a comment")
    for content in (jpeg, to_jpeg(PHOTO[..., 0], 40)):
        picture, expected = decode_picture(transcoded(content)), decode_picture(content)
        assert (picture.format, picture.jpeg) == ("JXL", content)
        assert (picture.header, picture.metadata, picture.orientation) == (
            expected.header,
            expected.metadata,
            expected.orientation,
        )
        assert np.array_equal(picture.pixels, expected.pixels) and picture.notes == ()
    summary = inspect_picture(io.BytesIO(transcoded(jpeg)))
    assert (summary.format, summary.header.quality, summary.orientation) == ("JXL", 40, 6)


@pytest.mark.parametrize("compressed", [False, True])
def test_pixels_and_metadata_are_those_of_the_file(compressed):
    exif = exif_with_orientation(1)
    picture = decode_picture(to_jxl(lossless=True, exif=exif, xmp=XMP, compress_metadata=compressed))
    assert (picture.format, picture.header, picture.jpeg, picture.notes) == ("JXL", None, None, ())
    assert np.array_equal(picture.pixels, PHOTO)
    assert picture.metadata.xmp == XMP and picture.metadata.exif == exif.removeprefix(b"Exif\0\0")
    assert picture.metadata.icc_profile[36:40] == b"acsp"


def test_exif_behind_its_offset_is_found():
    exif = exif_with_orientation(1).removeprefix(b"Exif\0\0")
    content = to_jxl(exif=exif)
    start = content.index(b"Exif") - 4
    box = (len(exif) + 12).to_bytes(4, "big") + b"Exif" + bytes(4) + exif
    assert decode_picture(content[:start] + box + content[start + len(box) - 4 :]).metadata.exif == exif


def test_exif_does_not_turn_it():
    picture = decode_picture(to_jxl(lossless=True, exif=exif_with_orientation(6)))
    assert picture.orientation == 1 and np.array_equal(picture.pixels, PHOTO)


def test_its_codestream_turns_it():
    size = [(0, 1), (0, 2), (95, 9), (0, 3), (0, 2), (99, 9)]
    content, metadata = to_jxl(quality=95), [(1, 1), (1, 1)]  # all of it has its default
    assert content.startswith(header := with_header(b"", *size, *metadata))
    # Orientation 6, and then the defaults one by one: 8 bits, no further channels, XYB.
    metadata = [(0, 1), (1, 1), (5, 3), (0, 3), (0, 3), (1, 1), (0, 2), (1, 1), (1, 1), (1, 1), (0, 2), (1, 1)]
    picture = decode_picture(with_header(content[len(header) :], *size, *metadata))
    assert picture.orientation == 1 and picture.pixels.shape == (100, 96, 3)
    assert np.abs(picture.pixels.astype(int) - np.rot90(PHOTO, -1)).mean() < 4


def test_gray_and_transparency_stay_apart():
    assert decode_picture(to_jxl(PHOTO[..., 0])).pixels.shape == (96, 100, 1)
    alpha = np.full((96, 100, 1), 100, np.uint8)
    picture = decode_picture(to_jxl(np.dstack([PHOTO, alpha]), lossless=True))
    assert np.array_equal(picture.pixels, PHOTO) and (picture.alpha == 100).all()


def test_gray_of_16_bits_stays_so():
    pixels = PHOTO[..., 0].astype(np.uint16) * 257
    content = to_jxl(pixels, lossless=True)
    assert inspect_picture(io.BytesIO(content)).bits == 16
    picture = decode_picture(content)
    assert np.array_equal(picture.pixels[..., 0], pixels) and picture.notes == ()


# Value and bits of SizeHeader, the two sizes that it means, in ISO/IEC 18181-1.
SIZES = [
    ([(1, 1), (11, 5), (0, 3), (0, 5)], (8, 96)),
    ([(1, 1), (31, 5), (7, 3)], (512, 256)),
    ([(0, 1), (0, 2), (99, 9), (2, 3)], (120, 100)),
    ([(0, 1), (1, 2), (4999, 13), (0, 3), (2, 2), (99999, 18)], (100000, 5000)),
    ([(0, 1), (3, 2), (2**30 - 1, 30), (1, 3)], (2**30, 2**30)),
]


@pytest.mark.parametrize("fields, size", SIZES)
def test_the_size_is_in_the_header(fields, size):
    header = read_header(with_header(b"", *fields, (1, 1)))
    assert (header.width, header.height) == size
    assert (header.bits, header.floating_point, header.animated) == (8, False, False)


@pytest.mark.parametrize("use_container", [False, True])
@pytest.mark.parametrize("height, width", [(96, 100), (96, 96), (64, 512), (7, 300), (512, 384)])
def test_it_is_that_of_the_encoder(height, width, use_container):
    header = read_header(to_jxl(skimage_data.astronaut()[:height, :width], use_container=use_container))
    assert (header.width, header.height, header.bits) == (width, height, 8)


def test_it_may_be_in_two_boxes():
    content = to_jxl(exif=exif_with_orientation(1))
    assert content.count(b"jxlp") == 2 and read_header(content).width == 100
    # Boxes may have lengths of 64 bits.
    start = content.index(b"Exif") - 4
    length = int.from_bytes(content[start : start + 4], "big")
    long = b"\0\0\0\1Exif" + (length + 8).to_bytes(8, "big") + content[start + 8 : start + length]
    assert decode_picture(content[:start] + long + content[start + length :]).metadata.exif


@pytest.fixture
def never_decoded(monkeypatch):
    monkeypatch.setattr("artifact_remover.pictures.readers.decode_apart", lambda *_: pytest.fail("decoded"))


@pytest.mark.usefixtures("never_decoded")
def test_what_is_too_large_is_not_decoded():
    for content in (to_jxl(), transcoded(to_jpeg(PHOTO))):
        with pytest.raises(TooLargeError, match="0.0096 megapixels, more than half the limit of 0.019, as JXL takes"):
            decode_picture(content, max_megapixels=0.019)
        with pytest.raises(TooLargeError):
            inspect_picture(io.BytesIO(content), max_megapixels=0.019)


SQUARE = ((1, 1), (11, 5), (1, 3))


@pytest.mark.usefixtures("never_decoded")
@pytest.mark.parametrize(
    "fields, said",
    [
        ([*SQUARE, (0, 1), (1, 1), (0, 3), (0, 2), (1, 1)], "an animated JPEG XL, which is not read: .* PNG"),
        ([*SQUARE, (0, 2), (1, 1), (0, 2)], "a JPEG XL of floating-point numbers, which is not read: .* PNG"),
        ([*SQUARE, (0, 1), (1, 1), (0, 3), (0, 1), (1, 1)], "a JPEG XL that is damaged or of a kind that is not read"),
        ([], "a JPEG XL that is damaged or of a kind that is not read, the header ends early: mend it"),
    ],
)
def test_of_other_kinds_it_is_one_line(fields, said):
    with pytest.raises(InputError, match=f"^the picture is {said}"):
        decode_picture(with_header(b"", *fields))


def test_damaged_it_is_one_line():
    content = to_jxl(lossless=True)
    boxed = to_jxl(lossless=True, use_container=True)
    for damaged in (content[:-500], boxed[:-500], content[:100] + bytes(100) + content[200:], boxed[:40], boxed[:12]):
        with pytest.raises(InputError, match=r"^the picture is a JPEG XL that is damaged or .*[^\n]+$"):
            decode_picture(damaged, allow_truncated=True)


def test_more_time_or_memory_than_its_size_needs_is_refused(monkeypatch):
    content = to_jxl()
    monkeypatch.setattr(jpeg_xl, "_MEMORY", 2**24)
    with pytest.raises(InputError, match="damaged or of a kind that is not read, it cannot be decoded: mend it"):
        decode_picture(content)
    monkeypatch.undo()
    monkeypatch.setattr(jpeg_xl, "_SECONDS", 0)
    began = time.monotonic()
    with pytest.raises(InputError, match="not decoded after 0 seconds"):
        decode_picture(content)
    assert time.monotonic() - began < 5


@pytest.fixture
def without_package(monkeypatch):
    monkeypatch.setattr(jpeg_xl, "find_spec", lambda name: None)


@pytest.mark.usefixtures("without_package")
@pytest.mark.parametrize("start", [b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"])
def test_without_the_package_a_line_names_the_extra(start):
    with pytest.raises(InputError, match=r"is a JPEG XL, for which a package is missing: pip install .*\[jxl\]"):
        decode_picture(start + bytes(100))


def test_in_a_folder_it_is_found_by_its_content_or_counted(tmp_path, request, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.jxl").write_bytes(to_jxl())
    Path("b.jpg").write_bytes(to_jpeg(PHOTO))
    assert [source.file.name for source in find_sources([Path()], Output("png")).sources] == ["a.jxl", "b.jpg"]
    request.getfixturevalue("without_package")
    assert restore.main(["--info", "."]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[2:] == [
        "passed over, as they are no pictures that can be read: .jxl 1",
        "JPEG XL needs another package: pip install 'artifact-remover[jxl]'",
    ]


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(restore, "_load", lambda config: Restorer(lambda pictures: pictures, 16))


@pytest.mark.usefixtures("in_folder")
def test_it_is_restored_to_other_formats_but_not_in_place(capsys):
    Path("a.jxl").write_bytes(transcoded(to_jpeg(PHOTO, 40)))
    assert restore.main(["a.jxl", "-o", "a.jpg", "--force"]) == 0 and decode_picture(Path("a.jpg")).restored_by
    capsys.readouterr()
    assert restore.main(["a.jxl", "--in-place", "--backup", "kept"]) == 2
    assert capsys.readouterr().err == "error: a.jxl: JXL cannot be written, restore it without --in-place\n"


@pytest.mark.usefixtures("in_folder")
def test_a_transcoded_jpeg_that_is_left_alone_is_written_as_it_was():
    jpeg = to_jpeg(PHOTO, 100)
    Path("a.jxl").write_bytes(transcoded(jpeg))
    assert restore.main(["a.jxl", "-o", "a.jpg"]) == 0 and Path("a.jpg").read_bytes() == jpeg


@pytest.mark.usefixtures("in_folder")
@pytest.mark.parametrize("quality", [40, 100])
def test_what_lies_beside_a_transcoded_jpeg_is_said_to_be_lost(quality, capsys):
    """Checks it restored and left alone, compressed and not."""
    signature, gain_map = b"\0\0\0\x10jumbc2pa\0\0\0\0", b"\0\0\0\x10brobjhgm\0\0\0\0"
    Path("a.jxl").write_bytes(transcoded(to_jpeg(PHOTO, quality)) + signature + gain_map)
    assert restore.main(["a.jxl", "-o", "a.jpg"]) == 0
    said = capsys.readouterr().out
    assert "a.jxl: C2PA (JUMBF) dropped, as it signs the pixels of before\n" in said
    assert "a.jxl: gain map dropped\n" in said
