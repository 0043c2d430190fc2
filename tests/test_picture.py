import io
import os
import random
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageFile, ImageOps, PngImagePlugin
from skimage import data

from artifact_remover.pictures.picture import (
    FORMATS,
    Metadata,
    Picture,
    check_format,
    decode_picture,
    encode_picture,
    inspect_picture,
    orient,
)
from data_prep.errors import InputError
from tests.sample_pictures import png_of, raw_png

PICTURES = Path(__file__).parent / "pictures"
PHOTO = Image.fromarray(data.astronaut()).crop((150, 20, 230, 80))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
ORIENTATIONS = range(1, 9)


def saved(image, format="JPEG", **options):
    file = io.BytesIO()
    image.copy().save(file, format, **options)  # Pillow leaves its settings on what it saves
    return file.getvalue()


def encoded(picture, format="png", quality=None):
    file = io.BytesIO()
    notes = encode_picture(picture, file, format, quality)
    return file.getvalue(), notes


def opened(content):
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def picture_of(pixels, alpha=None, orientation=1, **metadata):
    return Picture(pixels, alpha, orientation, Metadata(**metadata), None, "PNG")


def exif_of(orientation, order="<", thumbnail=True):
    """EXIF with a maker note that would not survive being written anew, as it points to a place of its own."""
    mark = {"<": b"II", ">": b"MM"}[order]

    def entry(tag, kind, count, value):
        return struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")

    short, long = (lambda value: struct.pack(f"{order}H", value)), (lambda value: struct.pack(f"{order}I", value))
    note = b"MakerNote" + long(94) + bytes(range(7))
    first = [entry(271, 2, 4, b"Cam\0"), entry(274, 3, 1, short(orientation)), entry(34665, 4, 1, long(50))]
    second = [entry(259, 3, 1, short(6)), entry(274, 3, 1, short(orientation))]
    directory = short(3) + b"".join(first) + long(88 if thumbnail else 0)
    exif_directory = short(1) + entry(37500, 7, len(note), long(68)) + long(0)
    return (mark + short(42) + long(8) + directory + exif_directory + note).ljust(88, b"\0") + (
        short(2) + b"".join(second) + long(0)
    )


def with_exif(content):
    return b"Exif\0\0" + content


def png_chunks(content):
    position, chunks = 8, []
    while position < len(content):
        [length] = struct.unpack_from(">I", content, position)
        chunks.append((content[position + 4 : position + 8], content[position + 8 : position + 8 + length]))
        position += length + 12
    return chunks


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape, dtype)


# --- JPEG


@pytest.mark.parametrize("name", [file.stem for file in PICTURES.glob("*.jpg")])
def test_jpegs_of_every_kind_are_decoded(name):
    picture = decode_picture(PICTURES / f"{name}.jpg")
    assert picture.pixels.shape == (75, 97, 3) and picture.pixels.dtype == np.uint8
    assert picture.format == "JPEG" and picture.notes == () and picture.alpha is None
    original = np.asarray(Image.fromarray(data.astronaut()).crop((150, 20, 247, 95)), int)
    assert np.abs(picture.pixels - original).mean() < (12 if "q10" in name else 6)
    if "arithmetic" in name or "progressive" in name:  # the same coefficients, coded otherwise
        assert np.array_equal(picture.pixels, decode_picture(PICTURES / "baseline_420.jpg").pixels)


@pytest.mark.parametrize("size", [(1, 1), (17, 15), (8, 1), (1, 33)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_odd_sizes(size, subsampling):
    content = saved(PHOTO.resize(size), subsampling=subsampling)
    picture = decode_picture(content)
    assert np.array_equal(picture.pixels, np.asarray(opened(content)))
    for format in FORMATS:
        assert opened(encoded(picture, format)[0]).size == size


def test_gray_stays_gray():
    content = saved(PHOTO.convert("L"), icc_profile=SRGB)
    picture = decode_picture(content)
    assert picture.pixels.shape == (60, 80, 1)
    # a profile for RGB in a gray picture is not valid in any format
    assert picture.metadata.icc_profile is None
    assert picture.notes == ("ICC profile of another color space dropped",)
    for format in ("png", "jpeg", "tiff", "avif"):
        assert opened(encoded(picture, format)[0]).mode == "L"
    assert decode_picture(encoded(picture, "tiff")[0]).pixels.shape == (60, 80, 1)


def test_a_wrong_extension_does_not_matter(tmp_path):
    file = tmp_path / "photo.png"
    file.write_bytes(saved(PHOTO, "JPEG"))
    assert decode_picture(file).format == "JPEG" and inspect_picture(file).header.quality == 75


def test_formats_beyond_the_list_are_not_opened(tmp_path):
    for format in ("PPM", "EPS", "GIF"):
        with pytest.raises(InputError, match="not in a format that can be read"):
            decode_picture(saved(PHOTO, format))


# --- orientation


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_pixels_are_as_stored_and_written_upright(source, orientation):
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 90}}.get(source, {})
    content = saved(PHOTO, source, exif=with_exif(exif_of(orientation)), **lossless)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    picture = decode_picture(content)
    assert picture.orientation == orientation
    assert picture.pixels.shape == (60, 80, 3)
    assert np.array_equal(orient(picture.pixels, orientation), upright)
    assert (inspect_picture(io.BytesIO(content)).width, inspect_picture(io.BytesIO(content)).orientation) == (
        80,
        orientation,
    )
    for format in ("png", "tiff", "webp"):
        again = decode_picture(encoded(picture, format)[0])
        assert again.orientation == 1 and np.array_equal(again.pixels, upright)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_alpha_is_turned_with_the_pixels(orientation):
    image = Image.merge("RGBA", [*PHOTO.split(), Image.fromarray(noise(60, 80))])
    content = saved(image, "PNG", exif=with_exif(exif_of(orientation)))
    upright = np.asarray(ImageOps.exif_transpose(opened(content)))
    written = np.asarray(opened(encoded(decode_picture(content))[0]))
    assert np.array_equal(written, upright)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("format", FORMATS)
def test_exif_is_kept_but_for_its_orientations(order, format):
    picture = decode_picture(saved(PHOTO, exif=with_exif(exif_of(6, order))))
    assert picture.metadata.exif == exif_of(6, order)
    content, notes = encoded(picture, format)
    assert notes == ("EXIF thumbnail dropped, as the picture was turned",)
    exif = bytearray(exif_of(1, order))
    exif[46:50] = bytes(4)  # the link to the thumbnail's directory; all else, and all positions, stay
    if format == "tiff":  # at the file's start, but for the directory that leads to it
        assert content[8 : len(exif)] == exif[8:]
        assert opened(content).getexif().get_ifd(34665)[37500].startswith(b"MakerNote")
        assert opened(content).getexif()[271] == "Cam"
    else:
        assert decode_picture(content).metadata.exif == exif


@pytest.mark.parametrize(
    "form",
    [b'<a tiff:Orientation="6"/>', b"<a tiff:Orientation='6'/>", b"<tiff:Orientation>6</tiff:Orientation>"],
)
@pytest.mark.parametrize("source", ["jpeg", "tiff", "png"])
def test_only_the_orientation_of_exif_turns_a_picture(form, source):
    for exif, orientation in ((None, 1), (exif_of(1), 1), (exif_of(8), 8)):
        content, _ = encoded(picture_of(np.asarray(PHOTO), xmp=form, exif=exif), source)
        picture = decode_picture(content)
        assert picture.orientation == orientation and picture.pixels.shape == (60, 80, 3)
        again = decode_picture(encoded(picture)[0])
        # What did not turn it is left alone, so that other programs show it as they did.
        assert again.metadata.xmp == (form if orientation == 1 else form.replace(b"6", b"1"))
        assert again.orientation == 1 and again.pixels.shape == ((60, 80, 3) if orientation == 1 else (80, 60, 3))


def test_an_exif_thumbnail_stays_where_nothing_is_turned():
    picture = decode_picture(saved(PHOTO, exif=with_exif(exif_of(1))))
    for format in FORMATS:
        content, notes = encoded(picture, format)
        assert notes == (("EXIF thumbnail dropped, tiff cannot hold it",) if format == "tiff" else ())
        assert format == "tiff" or decode_picture(content).metadata.exif == exif_of(1)


@pytest.mark.parametrize("exif", [b"garbage", b"II*\0", b"MM\0*\0\0\xff\xff", exif_of(6)[:20]])
def test_damaged_exif_does_not_sink_the_picture(exif):
    picture = decode_picture(saved(PHOTO, exif=with_exif(exif)))
    assert picture.notes == ("damaged EXIF dropped",)
    assert picture.metadata.exif is None and picture.orientation == 1
    encoded(picture)


def test_a_damaged_thumbnail_leaves_the_exif_alone():
    exif = exif_of(6)[:-20]
    picture = decode_picture(saved(PHOTO, exif=with_exif(exif)))
    assert (picture.metadata.exif, picture.orientation, picture.notes) == (exif, 6, ())


def test_an_unknown_orientation_is_taken_for_upright():
    assert decode_picture(saved(PHOTO, exif=with_exif(exif_of(9)))).orientation == 1


# --- other metadata


@pytest.mark.parametrize("format", FORMATS)
def test_all_metadata_is_kept_or_said_to_be_lost(format):
    content = saved(
        PHOTO,
        exif=with_exif(exif_of(6, thumbnail=False)),
        icc_profile=SRGB,
        xmp=XMP,
        dpi=(300, 150),
        comment="Grüße".encode(),
    )
    picture = decode_picture(content)
    assert picture.metadata == Metadata(SRGB, exif_of(6, thumbnail=False), XMP, (300, 150), "Grüße".encode())
    written, notes = encoded(picture, format)
    again = decode_picture(written)
    assert again.metadata.icc_profile == SRGB
    assert again.metadata.xmp == XMP.replace(b'"6"', b'"1"')
    kept = again.metadata.dpi, again.metadata.comment
    if format in ("webp", "avif"):
        assert kept == (None, None)
        assert notes == tuple(f"{name} dropped, {format} cannot hold it" for name in ("comment", "resolution"))
    else:
        # turned by a quarter, across becomes down
        assert kept[0] == pytest.approx((150, 300), abs=0.02)
        description = opened(written).getexif().get(270)
        assert (kept[1] or description.encode("latin-1")) == "Grüße".encode()
        assert notes == ()


def test_webp_needs_no_resolution_beside_that_of_exif():
    exif = Image.Exif()
    exif[282] = exif[283] = 72.0
    exif[296] = 2
    picture = decode_picture(saved(PHOTO, exif=exif))
    assert picture.metadata.dpi == (72, 72)
    assert encoded(picture, "webp")[1] == ()


@pytest.mark.parametrize("source", ["JPEG", "TIFF"])
def test_a_resolution_that_nobody_stated_is_not_made_up(source):
    assert decode_picture(saved(PHOTO, source, exif=with_exif(exif_of(1)))).metadata.dpi is None


def test_metadata_survives_from_png_to_png():
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">I", 45455))
    info.add(b"cHRM", struct.pack(">8I", *range(8)))
    info.add_text("Title", "A", zip=True)
    info.add_text("Comment", "said")
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    content = saved(PHOTO, "PNG", pnginfo=info, dpi=(300, 300), exif=with_exif(exif_of(1)))
    picture = decode_picture(content)
    assert (picture.metadata.comment, picture.metadata.xmp) == (b"said", XMP)
    before, after = dict(png_chunks(content)), dict(png_chunks(encoded(picture)[0]))
    for name in (b"gAMA", b"cHRM", b"zTXt", b"pHYs", b"eXIf"):
        assert after[name] == before[name]
    image = opened(encoded(picture)[0])
    assert (image.text["Title"], image.text["Comment"]) == ("A", "said")
    for format in ("webp", "tiff", "jpeg"):
        notes = encoded(picture, format)[1]
        assert f"PNG text dropped, {format} cannot hold it" in notes
        assert f"PNG color description dropped, {format} cannot hold it" in notes


def test_metadata_behind_a_pngs_pixels_is_found():
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "late")
    chunks = png_chunks(saved(PHOTO, "PNG", pnginfo=info))
    chunks.sort(key=lambda chunk: (chunk[0] == b"IEND", chunk[0] == b"tEXt"))
    assert decode_picture(png_of(chunks)).metadata.comment == b"late"


def test_what_a_jpeg_segment_cannot_hold_is_said():
    picture = picture_of(np.asarray(PHOTO), xmp=b"x" * 70000, exif=exif_of(1).ljust(70000, b"\0"), comment=b"c" * 70000)
    content, notes = encoded(picture, "jpeg")
    assert notes == tuple(f"{name} dropped, jpeg cannot hold it" for name in ("EXIF", "XMP", "comment"))
    assert opened(content).size == PHOTO.size


def tiff_of(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


@pytest.mark.parametrize("order, big", [("<", False), (">", False), ("<", True)])  # Pillow reads no others
def test_descriptions_of_a_tiff_keep_their_bytes(order, big):
    texts = {315: "Jörg".encode() + b"\0", 33432: "© Łódź".encode() + b"\0", 269: b"page\0", 270: b"said\0"}
    iptc = b"\x1c\x02\x05\0\4name"
    extra = [*((tag, 2, len(text), text, True) for tag, text in texts.items()), (33723, 7, len(iptc), iptc, True)]
    content = tiff_of(noise(60, 80, 3), photometric="rgb", bigtiff=big, byteorder=order, extratags=extra, metadata=None)
    picture = decode_picture(content)
    assert picture.notes == ()
    again = decode_picture(encoded(picture, "tiff")[0]).metadata.exif
    written = tifffile.TiffFile(io.BytesIO(encoded(picture, "tiff")[0]))
    for found in (picture.metadata.exif, again):
        assert all(text in found for text in [*texts.values(), iptc])
    assert written.pages[0].tags[33723].value == iptc and written.pages[0].tags[269].value == "page"
    assert opened(encoded(picture, "jpeg")[0]).info["photoshop"] == {0x0404: iptc}
    assert encoded(picture, "webp")[1] == ()  # it is in the EXIF


def test_exif_within_a_tiff_keeps_its_bytes():
    exif = Image.Exif()
    exif.get_ifd(34665)[42036], exif.get_ifd(34853)[29] = "Objektiv", "2024:01:02"
    lens = exif.tobytes()[6:].replace(b"Objektiv", b"Objekt\xedv")
    picture = decode_picture(encoded(picture_of(np.asarray(PHOTO), exif=lens), "tiff")[0])
    assert picture.metadata.exif.count(b"Objekt\xedv") == 1
    kept = opened(encoded(picture)[0]).getexif()
    assert kept.get_ifd(34665)[42036] == "Objekt\xedv" and kept.get_ifd(34853)[29] == "2024:01:02"


GEOREFERENCE = {
    33550: (12, (10.0, 0.1, 0.0)),
    33920: (12, tuple(np.linspace(-1, 1, 17))),
    33922: (12, (0.0, 0.0, 0.0, 500000.0, 5000000.0, 0.0)),
    34264: (12, tuple(np.linspace(-3e8, 3e8, 16))),
    34735: (3, (1, 1, 0, 2, 1024, 0, 1, 1, 1026, 34737, 9, 0)),
    34736: (12, (6378137.0, 298.257223563)),
    34737: (2, "WGS 84|\xe9|"),
    42112: (2, "<GDALMetadata><Item>a</Item></GDALMetadata>"),
    42113: (2, "0"),
}


@pytest.mark.parametrize("order, big", [("<", False), (">", False), ("<", True)])
@pytest.mark.parametrize("described", [True, False])
def test_a_tiff_keeps_its_georeference(order, big, described):
    extra = [
        (tag, kind, len(value) + 1, value.encode("latin-1") + b"\0", True)
        if kind == 2
        else (tag, kind, len(value), value, True)
        for tag, (kind, value) in GEOREFERENCE.items()
    ]
    kept = {"software": "maker"} if described else {"software": False}
    content = tiff_of(
        noise(60, 80, 3), photometric="rgb", bigtiff=big, byteorder=order, extratags=extra, metadata=None, **kept
    )
    picture = decode_picture(content)
    assert picture.notes == () and len(picture.metadata.georeference) == 9
    content, notes = encoded(picture, "tiff")
    tags = tifffile.TiffFile(io.BytesIO(content)).pages[0].tags
    found = {tag: (tags[tag].dtype.value, tags[tag].value) for tag in GEOREFERENCE}
    assert notes == () and found == GEOREFERENCE and (305 in tags) == described
    for format in ("png", "jpeg", "webp", "avif"):
        assert f"georeference dropped, {format} cannot hold it" in encoded(picture, format)[1]
        assert b"WGS 84" not in encoded(picture, format)[0]


def test_a_turned_picture_loses_its_georeference():
    extra = [(33550, 12, 3, (10.0, 0.1, 0.0), True), (274, 3, 1, 6, True)]
    picture = decode_picture(tiff_of(noise(60, 80, 3), photometric="rgb", extratags=extra, metadata=None))
    content, notes = encoded(picture, "tiff")
    assert notes == ("georeference dropped, the picture is turned",)
    assert 33550 not in tifffile.TiffFile(io.BytesIO(content)).pages[0].tags


def test_a_damaged_directory_of_a_tiff_does_not_sink_the_picture():
    entry = struct.pack("<HHI", 305, 2, 12)  # tifffile's name
    content = tiff_of(noise(60, 80, 3), photometric="rgb", metadata=None).replace(
        entry, struct.pack("<HHI", 34665, 4, 1)
    )
    assert entry not in content
    assert decode_picture(content).notes == ("damaged EXIF dropped",)


def test_resolutions_are_turned_wherever_they_stand():
    exif = Image.Exif()
    exif[282], exif[283], exif[296] = 300.0, 150.0, 2
    for orientation, expected in ((6, (150, 300)), (3, (300, 150))):
        exif[274] = orientation
        for format in ("jpeg", "tiff", "png"):
            content = encoded(decode_picture(saved(PHOTO, exif=exif)), format)[0]
            written = opened(content).getexif()
            assert (written[282], written[283]) == expected
    aspect = struct.pack(">IIB", 2, 1, 0)
    picture = decode_picture(raw_png(noise(60, 80, 3, dtype=np.uint16), 2, (b"pHYs", aspect), (b"eXIf", exif_of(6))))
    assert dict(png_chunks(encoded(picture)[0]))[b"pHYs"] == struct.pack(">IIB", 1, 2, 0)


def test_several_comments_are_kept():
    content = saved(PHOTO, comment=b"one")
    content = content[:2] + b"\xff\xfe\0\5two" + content[2:]
    assert decode_picture(content).metadata.comment == b"two\none"
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "one")
    info.add_text("Comment", "two")
    picture = decode_picture(saved(PHOTO, "PNG", pnginfo=info))
    comments = [content for name, content in png_chunks(encoded(picture)[0]) if name == b"tEXt"]
    assert comments == [b"Comment\0one", b"Comment\0two"]
    assert encoded(picture, "jpeg")[1] == ("PNG text dropped, jpeg cannot hold it",)


def test_the_resolution_of_exif_comes_before_that_of_jfif():
    exif = Image.Exif()
    exif[282] = exif[283] = 300.0
    for unit, expected in ((2, 300), (3, 762), (1, 72)):  # inch, centimeter, none
        exif[296] = unit
        picture = decode_picture(saved(PHOTO, dpi=(72, 72), exif=exif))
        assert picture.metadata.dpi == pytest.approx((expected, expected))
    exif[296] = 2
    picture = decode_picture(saved(PHOTO, dpi=(72, 72), exif=exif))
    for format in ("jpeg", "tiff", "png"):
        content, notes = encoded(picture, format)
        assert notes == () and opened(content).info["dpi"] == pytest.approx((300, 300), abs=0.01)
    assert tifffile.TiffFile(io.BytesIO(encoded(picture, "tiff")[0])).pages[0].tags[282].value == (3000000, 10000)


@pytest.mark.parametrize("orientation, expected", [(1, (1, 2)), (6, (2, 1))])
def test_an_aspect_of_pixels_without_a_unit_is_kept_or_said_to_be_lost(orientation, expected):
    content = bytearray(saved(PHOTO, exif=with_exif(exif_of(orientation, thumbnail=False))))
    content[13:18] = struct.pack(">BHH", 0, 1, 2)
    aspect = struct.pack(">IIB", 100000, 200000, 0)
    chunks = (b"pHYs", aspect), (b"eXIf", exif_of(orientation, thumbnail=False))
    for source in (bytes(content), raw_png(noise(60, 80, 3, dtype=np.uint16), 2, *chunks)):
        picture = decode_picture(source)
        assert (picture.metadata.aspect, picture.metadata.dpi) == ((1, 2), None)
        written = {format: encoded(picture, format) for format in FORMATS}
        assert dict(png_chunks(written["png"][0]))[b"pHYs"] == struct.pack(">IIB", *expected, 0)
        assert written["jpeg"][0][6:18] == b"JFIF\0\1\1" + struct.pack(">BHH", 0, *expected)
        tags = tifffile.TiffFile(io.BytesIO(written["tiff"][0])).pages[0].tags
        assert [tags[tag].value for tag in (282, 283, 296)] == [(expected[0], 1), (expected[1], 1), 1]
        for format, (_, notes) in written.items():
            lost = f"pixel aspect dropped, {format} cannot hold it"
            assert (lost in notes) == (format in ("webp", "avif"))
    content[14:18] = struct.pack(">HH", 1, 1)
    assert decode_picture(bytes(content)).metadata.aspect is None


def test_an_incomplete_profile_is_said_to_be_dropped():
    content = saved(PHOTO, icc_profile=SRGB)
    at = content.index(b"ICC_PROFILE")
    picture = decode_picture(content[: at + 13] + b"\2" + content[at + 14 :])  # of two segments
    assert picture.metadata.icc_profile is None and picture.notes == ("incomplete ICC profile dropped",)


# --- colors


def cmyk_profile():
    """A CMYK output profile of 2 grid points (ICC.1:2001, lut8Type) whose paper is yellow."""
    corners = np.array(np.meshgrid(*[[0, 1]] * 4, indexing="ij")).reshape(4, -1).T
    ink = np.array([[-35, -30, -45], [-45, 70, -5], [-5, -5, 80], [-85, 0, 0]])
    lab = np.clip(np.array([95, 0, 30]) + corners @ ink, [0, -128, -128], [100, 127, 127])
    table = np.round(np.column_stack([lab[:, 0] * 2.55, lab[:, 1] + 128, lab[:, 2] + 128])).astype(np.uint8)
    ramp = bytes(range(256))
    unity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + unity + ramp * 4 + table.tobytes() + ramp * 3
    text = b"text" + bytes(4) + b"CC0\0"
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(8 + 3 + 67)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags, body, start = b"", b"", 128 + 4 + 12 * 4
    for signature, content in [(b"desc", name), (b"cprt", text), (b"wtpt", white), (b"A2B0", lut)]:
        tags += signature + struct.pack(">II", start + len(body), len(content))
        body += content.ljust(-(-len(content) // 4) * 4, b"\0")
    size = struct.pack(">I", start + len(body))
    d50 = struct.pack(">3i", 63190, 65536, 54061)
    header = size + bytes(4) + b"\x02\x20\0\0prtrCMYKLab " + struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp"
    return (header + bytes(28) + d50).ljust(128, b"\0") + struct.pack(">I", 4) + tags + body


@pytest.mark.parametrize("source", ["JPEG", "TIFF"])
def test_cmyk_is_converted_through_its_profile(source):
    image = PHOTO.convert("CMYK")
    content = saved(image, source, icc_profile=cmyk_profile())
    stored = opened(content)
    plain = np.asarray(stored.convert("RGB"), int)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(cmyk_profile()))
    expected = ImageCms.profileToProfile(stored, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    picture = decode_picture(content)
    assert picture.notes == ("CMYK converted to sRGB",)
    assert np.array_equal(picture.pixels, np.asarray(expected))
    assert np.abs(picture.pixels - plain).mean() > 10
    assert inspect_picture(io.BytesIO(content)).color == "CMYK"
    kept = ImageCms.ImageCmsProfile(io.BytesIO(opened(encoded(picture)[0]).info["icc_profile"]))
    assert ImageCms.getProfileDescription(kept).startswith("sRGB")


@pytest.mark.parametrize("profile", [b"", b"broken", SRGB])
def test_cmyk_without_a_usable_profile_is_converted_plainly(profile):
    content = saved(PHOTO.convert("CMYK"), icc_profile=profile)
    picture = decode_picture(content)
    assert picture.notes == ("CMYK converted to sRGB without a profile",)
    assert np.array_equal(picture.pixels, np.asarray(opened(content).convert("RGB")))
    assert picture.metadata.icc_profile is None


def test_adobe_ycck():
    # Pillow writes CMYK inverted, and no YCCK: so the planes are Y, Cb and Cr of the inks and the marker is told so
    planes = [*ImageOps.invert(PHOTO).convert("YCbCr").split(), Image.new("L", PHOTO.size, 255)]
    content = saved(Image.merge("CMYK", [ImageOps.invert(plane) for plane in planes]), quality=95)
    start = content.index(b"Adobe")
    assert content[start + 11] == 0
    picture = decode_picture(content[: start + 11] + b"\2" + content[start + 12 :])
    assert np.abs(picture.pixels - np.asarray(PHOTO, int)).mean() < 4
    assert picture.header.chroma_subsampling == "4:4:4"


def test_colors_of_an_avif_other_than_srgb_are_said_to_be_lost():
    content = saved(PHOTO, "AVIF")
    assert decode_picture(content).notes == ()
    colors = content.index(b"colrnclx") + 8
    for wide in (struct.pack(">HH", 12, 13), struct.pack(">HH", 9, 16)):
        picture = decode_picture(content[:colors] + wide + content[colors + 4 :])
        assert picture.notes == ("color description dropped, the colors are taken for sRGB",)


@pytest.mark.parametrize(
    "name, colors, lost",
    [
        (b"cICP", bytes([9, 16, 0, 1]), True),
        (b"cICP", bytes([1, 13, 0, 1]), False),
        (b"gAMA", struct.pack(">I", 100000), True),
        (b"gAMA", struct.pack(">I", 45455), False),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000), False),
    ],
)
def test_colors_of_a_png_other_than_srgb_are_said_to_be_lost(name, colors, lost):
    picture = decode_picture(raw_png(noise(60, 80, 3, dtype=np.uint16), 2, (name, colors)))
    assert encoded(picture)[1] == ()
    for format in ("tiff", "jpeg", "webp", "avif"):
        assert (f"PNG color description dropped, {format} cannot hold it" in encoded(picture, format)[1]) == lost


def test_profiles_are_kept_where_they_fit():
    picture = decode_picture(saved(PHOTO, icc_profile=SRGB))
    assert picture.metadata.icc_profile == SRGB
    assert tifffile.TiffFile(io.BytesIO(encoded(picture, "tiff")[0])).pages[0].tags[34675].dtype == 7  # UNDEFINED
    for damaged in (b"short", bytes(200), SRGB[:200]):
        picture = decode_picture(saved(PHOTO, icc_profile=damaged))
        assert picture.metadata.icc_profile is None and picture.notes == ("damaged ICC profile dropped",)
    gray = SRGB[:16] + b"GRAY" + SRGB[20:]
    picture = decode_picture(saved(PHOTO.convert("L"), icc_profile=gray))
    assert picture.metadata.icc_profile == gray
    assert opened(encoded(picture)[0]).info["icc_profile"] == gray
    # WebP has no gray, so a reader would apply it to colors
    content, notes = encoded(picture, "webp")
    assert "icc_profile" not in opened(content).info and "ICC profile for gray dropped" in notes[0]


# --- transparency, palettes and depths


@pytest.mark.parametrize(
    "image, options",
    [
        (Image.fromarray(noise(60, 80, 4), "RGBA"), {}),
        (Image.merge("LA", [PHOTO.convert("L"), Image.fromarray(noise(60, 80))]), {}),
        (PHOTO.quantize(16), {"transparency": 3}),
        (PHOTO.quantize(16), {"transparency": bytes(range(0, 160, 10))}),
        (PHOTO, {"transparency": PHOTO.getpixel((3, 4))}),
        (PHOTO.convert("L"), {"transparency": PHOTO.convert("L").getpixel((3, 4))}),
        (PHOTO.convert("1"), {"transparency": 0}),
    ],
)
def test_transparency_is_kept_bit_for_bit(image, options):
    content = saved(image, "PNG", **options)
    expected = np.asarray(opened(content).convert("RGBA"))
    picture = decode_picture(content)
    assert picture.alpha.shape == (60, 80)
    assert picture.pixels.shape[2] == (1 if image.mode in ("L", "LA", "1") else 3)
    for format in ("png", "webp", "tiff"):
        assert np.array_equal(np.asarray(opened(encoded(picture, format)[0]).convert("RGBA")), expected)
    assert np.array_equal(np.asarray(opened(encoded(picture, "avif")[0]).getchannel("A")), expected[..., 3])
    content, notes = encoded(picture, "jpeg")
    assert notes == ("transparency laid over white",)
    page = Image.new("RGBA", image.size, "white")
    laid = Image.alpha_composite(page, Image.fromarray(expected)).convert("RGB")
    found = np.asarray(opened(content).convert("RGB"), int)
    assert np.abs(found - np.asarray(laid)).mean() < (5 if image.mode == "RGBA" else 3)
    assert inspect_picture(io.BytesIO(saved(image, "PNG", **options))).color.endswith(" + alpha")


@pytest.mark.parametrize("mode, gray", [("1", True), ("L", True), ("P", False), ("RGB", False)])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_modes(mode, gray, format):
    image = PHOTO.convert(mode)
    picture = decode_picture(saved(image, format))
    assert picture.alpha is None
    expected = np.asarray(image.convert("L" if gray else "RGB")).reshape(60, 80, -1)
    if format == "BMP" and mode != "RGB":  # whose gray is a palette to Pillow, or not
        expected = np.asarray(image.convert("RGB"))
        assert np.array_equal(np.broadcast_to(picture.pixels, expected.shape), expected)
    else:
        assert np.array_equal(picture.pixels, expected)


def test_transparency_of_a_tiff():
    rgba = Image.fromarray(noise(60, 80, 4), "RGBA")
    picture = decode_picture(saved(rgba, "TIFF"))
    assert np.array_equal(np.dstack([picture.pixels, picture.alpha]), np.asarray(rgba))


@pytest.mark.parametrize("channels, color_type", [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_16_bit_pngs_lose_nothing(channels, color_type):
    pixels = noise(60, 80, channels, dtype=np.uint16)
    content = raw_png(pixels, color_type, (b"eXIf", exif_of(6, thumbnail=False)))
    summary = inspect_picture(io.BytesIO(content))
    assert (summary.bits, summary.color.split()[0]) == (16, "gray" if channels < 3 else "RGB")
    picture = decode_picture(content)
    colors = channels - 1 + channels % 2
    assert picture.orientation == 6
    assert picture.pixels.dtype == np.uint16 and np.array_equal(picture.pixels, pixels[..., :colors])
    if channels % 2 == 0:
        assert np.array_equal(picture.alpha, pixels[..., colors])
    upright = orient(pixels, 6)
    written, notes = encoded(picture, "png")
    # another decoder's word on what was written
    found = cv2.imdecode(np.frombuffer(written, np.uint8), cv2.IMREAD_UNCHANGED)
    found = {1: lambda: found[..., None], 2: lambda: found[..., ::3], 3: lambda: found[..., ::-1]}.get(
        channels, lambda: found[..., [2, 1, 0, 3]]
    )()
    assert notes == () and np.array_equal(found, upright)
    written, notes = encoded(picture, "tiff")
    assert notes == () and np.array_equal(tifffile.imread(io.BytesIO(written)).reshape(upright.shape), upright)
    for format in ("webp", "jpeg", "avif"):
        assert "16 bits reduced to 8" in encoded(picture, format)[1]
    if channels != 2:  # which Pillow does not read
        again = decode_picture(written)
        assert np.array_equal(again.pixels, upright[..., :colors]) and again.pixels.dtype == np.uint16


def test_a_transparent_16_bit_color():
    pixels = noise(60, 80, 3, dtype=np.uint16)
    picture = decode_picture(raw_png(pixels, 2, (b"tRNS", struct.pack(">3H", *pixels[4, 5]))))
    assert picture.alpha[4, 5] == 0 and np.count_nonzero(picture.alpha == 65535) == 60 * 80 - 1
    gray = pixels[..., :1]
    picture = decode_picture(raw_png(gray, 0, (b"tRNS", struct.pack(">H", gray[4, 5, 0]))))
    assert picture.alpha[4, 5] == 0 and set(np.unique(picture.alpha)) == {0, 65535}


@pytest.mark.parametrize("above", [0, 0xFF00])  # bits beyond the depth, which do not count
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_gray_is_compared_as_it_is_stored(bits, above):
    levels = noise(60, 80, 1) >> (8 - bits)
    for value in {0, 1, 2**bits - 1}:
        picture = decode_picture(raw_png(levels, 0, (b"tRNS", struct.pack(">H", value + above)), bits=bits))
        assert np.array_equal(picture.alpha, np.where(levels[..., 0] == value, 0, 255))
        assert np.array_equal(picture.pixels, levels * (255 // (2**bits - 1)))


def test_a_transparent_color_of_8_bits():
    pixels = noise(60, 80, 3)
    for above in (0, 0xFF00):
        color = pixels[4, 5].astype(int) + above
        picture = decode_picture(raw_png(pixels, 2, (b"tRNS", struct.pack(">3H", *color)), bits=8))
        assert np.array_equal(picture.alpha, np.where((pixels == pixels[4, 5]).all(-1), 0, 255))


@pytest.mark.parametrize("alpha", [b"\0", b"\xff\0", b"\0\n", b"\0\x80", bytes(range(256)) + b"more"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_transparent_entries_of_a_palette(bits, alpha):
    palette, indices = noise(2**bits, 3), noise(60, 80, 1) >> (8 - bits)
    picture = decode_picture(raw_png(indices, 3, (b"PLTE", palette.tobytes()), (b"tRNS", alpha), bits=bits))
    entries = np.frombuffer(alpha.ljust(256, b"\xff")[:256], np.uint8)
    assert np.array_equal(picture.alpha, entries[indices[..., 0]])
    assert np.array_equal(picture.pixels, palette[indices[..., 0]])


def test_transparency_stands_in_no_other_chunk():
    late = raw_png(noise(60, 80, 1), 0, bits=8)
    chunks = png_chunks(late)
    late = png_of([*chunks[:-1], (b"tRNS", b"\0\0"), chunks[-1]])
    text = (b"tEXt", b"transparency\0no")
    for content in (late, raw_png(noise(60, 80, 3), 2, text, bits=8), raw_png(noise(60, 80, 3), 2, text)):
        assert decode_picture(content).alpha is None


@pytest.mark.parametrize("keyword", ["exif", "xmp", "icc_profile", "dpi", "photoshop", "Comment"])
def test_texts_are_not_taken_for_other_metadata(keyword):
    text = (b"tEXt", keyword.encode() + b"\0said")
    metadata = decode_picture(raw_png(noise(60, 80, 3), 2, text, bits=8)).metadata
    assert metadata == Metadata(comment=b"said" if keyword == "Comment" else None, png_chunks=(text,))


def test_a_transparent_16_bit_gray_stays_transparent_in_8_bits():
    gray = noise(60, 80, 1, dtype=np.uint16)
    content = raw_png(gray, 0, (b"tRNS", struct.pack(">H", gray[4, 5, 0])))
    alpha = np.asarray(opened(encoded(decode_picture(content), "webp")[0]).getchannel("A"))
    assert np.array_equal(alpha, np.where(gray[..., 0] == gray[4, 5, 0], 0, 255))


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_tiffs_lose_nothing(channels, order, compression):
    pixels = noise(60, 80, channels, dtype=np.uint16)
    file = io.BytesIO()
    options = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    photometric = "minisblack" if channels == 1 else "rgb"
    if compression == "lzw":
        content = cv2.imencode(".tiff", pixels[..., [2, 1, 0, 3][:channels]] if channels > 2 else pixels)[1].tobytes()
    else:
        tifffile.imwrite(file, pixels, byteorder=order, photometric=photometric, compression=compression, **options)
        content = file.getvalue()
    picture = decode_picture(content)
    stored = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    assert np.array_equal(stored, pixels)
    assert inspect_picture(io.BytesIO(content)).bits == 16


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("photometric, planar", [("separated", "contig"), ("rgb", "separate")])
def test_16_bit_tiffs_that_would_be_misread_are_refused(photometric, planar, compression):
    pixels = noise(60, 80, 4 if photometric == "separated" else 3, dtype=np.uint16)
    pixels = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    content = tiff_of(pixels, photometric=photometric, planarconfig=planar, compression=compression)
    kind = "CMYK, 4 x 16 bits" if photometric == "separated" else "RGB, 3 x 16 bits, channel after channel"
    assert f"a TIFF of a kind that is not read ({kind}): save it as a PNG" in refusal(content)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_whose_zero_is_white(dtype):
    pixels = noise(60, 80, dtype=dtype)
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="miniswhite")
    assert np.array_equal(decode_picture(file.getvalue()).pixels[..., 0], np.iinfo(dtype).max - pixels)


def floats(*shape):
    return noise(*shape).astype(np.float32)


@pytest.mark.parametrize(
    "pixels, options, kind",
    [
        (floats(9, 9), {}, "gray, 1 x 32 floating-point bits"),
        (floats(9, 9, 3), {"photometric": "rgb"}, "RGB, 3 x 32 floating-point bits"),
        (floats(9, 9).astype(np.float16), {}, "gray, 1 x 16 floating-point bits"),
        (noise(9, 9, dtype=np.uint32), {}, "gray, 1 x 32 bits"),
        (noise(9, 9, dtype=np.int32), {}, "gray, 1 x 32 signed bits"),
        (noise(9, 9, dtype=np.int16), {}, "gray, 1 x 16 signed bits"),
        (noise(9, 9, dtype=np.int8), {}, "gray, 1 x 8 signed bits"),
        (noise(9, 9, 2, dtype=np.uint16), {"extrasamples": [2]}, "gray, 2 x 16 bits"),
        (
            noise(9, 9, 4, dtype=np.uint16),
            {"photometric": "rgb", "extrasamples": [1]},
            "RGB, 4 x 16 bits, premultiplied",
        ),
        (noise(9, 9, 5), {"photometric": "minisblack", "planarconfig": "contig"}, "gray, 5 x 8 bits"),
        (noise(9, 9, 3), {"photometric": "cielab"}, "Lab, 3 x 8 bits"),
    ],
)
def test_tiffs_of_rare_kinds_are_told(pixels, options, kind):
    for big in (False, True):
        content = tiff_of(pixels, **options, bigtiff=big, metadata=None)
        said = refusal(content, allow_truncated=True)
        assert said.startswith(f"the picture is a TIFF of a kind that is not read ({kind}")
        assert said.endswith("): save it as a PNG of 8 or 16 bits per channel") and "Pillow" not in said


def test_a_tiff_of_12_bits_is_told():
    entries = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    content = b"II*\0" + struct.pack("<I", 12) + b"abc\0" + struct.pack("<H", len(entries)) + directory + bytes(4)
    assert "(gray, 1 x 12 bits): save it" in refusal(content)
    assert inspect_picture(io.BytesIO(content)).bits == 12
    compression = struct.pack("<HHII", 259, 4, 1, 1)
    jpeg_2000 = content.replace(compression, struct.pack("<HHII", 259, 4, 1, 34712))
    assert "(gray, 1 x 12 bits, compression 34712)" in refusal(jpeg_2000)
    assert "is truncated or damaged" in refusal(content[:40])


def test_an_avif_of_10_bits_is_reduced_and_said_so():
    pixels = noise(64, 64, 3, dtype=np.uint16) >> 6
    content = cv2.imencode(".avif", pixels, [cv2.IMWRITE_AVIF_DEPTH, 10])[1].tobytes()
    assert decode_picture(content).notes == ("10 bits reduced to 8",)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_per_pixel(bits):
    image = PHOTO.quantize(2**bits)
    picture = decode_picture(saved(image, "PNG", bits=bits))
    assert np.array_equal(picture.pixels, np.asarray(image.convert("RGB")))


# --- how a PNG is stored


def header_of(content):
    """Bits per channel and color type of a PNG (PNG specification, third edition, section 11.2.1)."""
    return content[24], content[25]


@pytest.mark.parametrize("width", [1, 7, 80])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("number, bits", [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (256, 8), (257, 0)])
def test_few_colors_become_a_palette(number, bits, channels, width, monkeypatch):
    monkeypatch.setattr("artifact_remover.pictures.writers._BAND", 500)
    table = noise(number, channels)
    table[:, 0], table[:, 1] = np.arange(number) % 256, np.arange(number) // 256  # no two alike
    pixels = table[np.arange(300 * width).reshape(300, width) % number]
    content, notes = encoded(picture_of(pixels[..., :3], pixels[..., 3] if channels == 4 else None))
    assert notes == () and header_of(content) == ((bits, 3) if bits else (8, 2 if channels == 3 else 6))
    # another decoder's word, and ours
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(found, pixels[..., [2, 1, 0, 3][:channels]])
    again = decode_picture(content)
    again = again.pixels if again.alpha is None else np.dstack([again.pixels, again.alpha])
    assert np.array_equal(again, pixels)


def test_opaque_colors_of_a_palette_come_last():
    pixels, alpha = np.zeros((9, 9, 3), np.uint8), np.full((9, 9), 255, np.uint8)
    pixels[3:], alpha[4, 4] = 200, 7
    chunks = dict(png_chunks(encoded(picture_of(pixels, alpha))[0]))
    assert chunks[b"PLTE"] == bytes([200] * 3 + [0] * 3 + [200] * 3) and chunks[b"tRNS"].rstrip(b"\xff") == b"\7"


@pytest.mark.parametrize(
    "levels, bits", [([0, 255], 1), ([85], 2), ([0, 170], 2), ([17, 255], 4), ([0, 1], 8), ([2], 8)]
)
def test_gray_of_few_levels_gets_few_bits(levels, bits):
    pixels = np.array(levels, np.uint8)[noise(60, 81, 1) % len(levels)]
    content = encoded(picture_of(pixels))[0]
    assert header_of(content) == (bits, 0)
    assert np.array_equal(opened(content).convert("L"), pixels[..., 0])
    assert np.array_equal(decode_picture(content).pixels, pixels)


def test_no_palette_where_it_would_change_the_picture():
    black, black16 = np.zeros((9, 9, 1), np.uint8), np.zeros((9, 9, 3), np.uint16)
    assert header_of(encoded(picture_of(black, black[..., 0]))[0]) == (8, 4)  # a palette is never gray
    assert header_of(encoded(picture_of(black16))[0]) == (16, 2)


def test_graphics_of_many_colors_stay_small():
    tile = noise(16, 16, 3)
    pixels = np.tile(tile, (20, 20, 1)) // 2
    pixels[100:200, 100:200] = np.arange(100)[:, None]
    for dtype in (np.uint8, np.uint16):
        content = encoded(picture_of(pixels.astype(dtype)))[0]
        assert np.array_equal(decode_picture(content).pixels, pixels)
        assert len(content) < pixels.nbytes / 20
    photo = data.astronaut()
    assert len(encoded(picture_of(photo))[0]) < 0.6 * photo.nbytes  # without a filter 0.8


def test_bands_of_a_png_are_parts_of_one_stream(monkeypatch):
    graphic = np.tile(noise(8, 40, 3), (40, 2, 1))
    for pixels, allowed in ((data.astronaut(), 1.01), (graphic, 3)):
        whole = encoded(picture_of(pixels))[0]
        monkeypatch.setattr("artifact_remover.pictures.writers._BAND", 4000)
        content = encoded(picture_of(pixels))[0]
        monkeypatch.undo()
        parts = [part for name, part in png_chunks(content) if name == b"IDAT"]
        assert len(parts) > 5 and len(content) < allowed * len(whole)
        zlib.decompress(b"".join(parts))  # which checks the checksum, as few readers of PNGs do
        assert np.array_equal(opened(content), pixels)


# --- several pictures


def test_the_first_of_several_pictures_is_taken():
    for format in ("MPO", "TIFF", "PNG", "WEBP", "AVIF"):
        others = [ImageOps.invert(PHOTO), PHOTO.rotate(180)]
        content = saved(PHOTO, format, save_all=True, append_images=others, quality=90)
        picture = decode_picture(content)
        assert picture.notes == ("first of 3 pictures taken",) and picture.format == format
        assert np.abs(picture.pixels - np.asarray(PHOTO, int)).mean() < 5
        assert inspect_picture(io.BytesIO(content)).pictures == 3
        assert (picture.header is not None) == (format == "MPO")


def test_pages_of_a_tiff_are_counted_up_to_a_limit():
    """Each is looked up: of a file of megabytes, for minutes."""
    content = bytearray(saved(PHOTO, "TIFF"))
    [start] = struct.unpack_from("<I", content, 4)
    end = start + 2 + 12 * struct.unpack_from("<H", content, start)[0]
    content += bytes(len(content) % 2)
    directory, place = bytes(content[start:end]), len(content)
    struct.pack_into("<I", content, end, place)
    for _ in range(1500):
        place += len(directory) + 4
        content += directory + struct.pack("<I", place)
    content += directory + bytes(4)
    assert decode_picture(bytes(content)).notes == ("first of 1000 or more pictures taken",)
    assert inspect_picture(io.BytesIO(content)).pictures == 1000


# --- summary


def test_summary(tmp_path):
    file = tmp_path / "photo.jpg"
    file.write_bytes(
        saved(PHOTO, exif=with_exif(exif_of(6)), icc_profile=SRGB, xmp=XMP, dpi=(300, 300), comment=b"c", quality=42)
    )
    summary = inspect_picture(file)
    assert (summary.format, summary.width, summary.height, summary.bits) == ("JPEG", 80, 60, 8)
    assert (summary.color, summary.orientation, summary.pictures, summary.header.quality) == ("RGB", 6, 1, 42)
    assert summary.metadata == ("EXIF", "ICC", "XMP", "comment", "300 dpi")
    assert inspect_picture(io.BytesIO(saved(PHOTO.convert("L"), "PNG"))).color == "gray"


def test_summary_decodes_no_pixel():
    assert inspect_picture(io.BytesIO(saved(PHOTO)[:700])).width == 80


def test_a_tiff_keeps_what_exif_tells_of_the_picture_and_says_what_else_it_held():
    exif = Image.Exif()
    kept = {11: "a program", 271: "a maker", 36867: "2026:11:28 20:00:00", 50341: b"PrintIM\x000300"}
    exif.update(kept | {256: 80, 51000: "an unknown one"})
    picture = decode_picture(saved(PHOTO, exif=exif))
    tiff, notes = encoded(picture, "tiff")
    assert notes == ("EXIF 51000 dropped, which might tell of another way of storing",)
    found = opened(tiff).getexif()
    assert {tag: found.get(tag) for tag in kept} == kept and 51000 not in found
    again = encoded(decode_picture(tiff), "tiff")
    assert again[1] == () and {tag: opened(again[0]).getexif().get(tag) for tag in kept} == kept


def test_what_stands_behind_the_pixels_of_a_png_is_told_without_decoding_them():
    png = raw_png(np.asarray(PHOTO), 2, bits=8)
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    whole = saved(PHOTO, "PNG", exif=exif_of(6), pnginfo=texts)
    chunks = b"".join(
        whole[at - 4 : at + 8 + struct.unpack_from(">I", whole, at - 4)[0]]
        for at in (whole.index(b"eXIf"), whole.index(b"iTXt"))
    )
    late = io.BytesIO(png[:-12] + chunks + png[-12:])
    summary = inspect_picture(late)
    assert summary.orientation == decode_picture(late.getvalue()).orientation == 6
    assert {"EXIF", "XMP"} <= set(summary.metadata)
    damaged = late.getvalue().replace(chunks, chunks[::-1])
    assert inspect_picture(io.BytesIO(damaged)).metadata == ()


# --- what is refused


def refusal(source, **options):
    with pytest.raises(InputError) as refused:
        decode_picture(source, **options)
    message = str(refused.value)
    assert message.isprintable()
    return message


def test_bad_files_are_told_in_one_line(tmp_path):
    file = tmp_path / "photo\n.jpg"
    shown = str(tmp_path / "photo\\n.jpg")
    assert refusal(file) == f"{shown} is missing: check the path"
    file.write_bytes(b"")
    assert refusal(file) == f"{shown} is empty: give another picture"
    file.write_bytes(b"Dear Sir,\n")
    assert refusal(file).startswith(f"{shown} is not in a format that can be read: give a whole JPEG, PNG")
    assert "is no file but a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is no file but a folder" in refusal(tmp_path / "pipe")
    assert "File name too long" in refusal(tmp_path / ("a" * 300))
    assert refusal(b"").startswith("the picture is empty")
    with pytest.raises(InputError, match="missing"):
        inspect_picture(tmp_path / "missing.jpg")


def test_an_unreadable_file_is_told(tmp_path, monkeypatch):
    file = tmp_path / "photo.jpg"
    file.write_bytes(saved(PHOTO))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # tests may run as root, who may read everything
    assert refusal(file) == f"{file} cannot be read, check its name and permissions: Permission denied"


def test_zero_size_pictures_are_refused():
    jpeg = bytearray(saved(PHOTO))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = bytes(4)
    bmp = bytearray(saved(PHOTO, "BMP"))
    bmp[18:26] = bytes(8)
    for content in (bytes(jpeg), raw_png(np.zeros((0, 0, 3), np.uint16), 2), bytes(bmp)):
        assert refusal(content).startswith("the picture is truncated or damaged")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_truncated_files_need_a_flag(format):
    content = saved(PHOTO, format, **({"compression": "tiff_lzw"} if format == "TIFF" else {}))
    half = content[: len(content) * 3 // 4]
    message = refusal(half)
    if format in ("JPEG", "PNG", "BMP"):
        assert "allow_truncated" in message
        picture = decode_picture(half, allow_truncated=True)
        assert picture.notes == ("truncated or damaged, taken as far as it goes",)
        whole = decode_picture(content)
        rows = slice(-16, None) if format == "BMP" else slice(0, 16)
        assert np.array_equal(picture.pixels[rows], whole.pixels[rows])
    else:  # which nobody decodes in part
        assert "allow_truncated" not in refusal(half, allow_truncated=True)
    assert decode_picture(content, allow_truncated=True).notes == ()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_only_its_end_marker_is_read(progressive, tmp_path):
    content = saved(PHOTO, progressive=progressive)
    file = tmp_path / "photo.jpg"
    for missing in (1, 2):
        file.write_bytes(content[:-missing])
        for source in (content[:-missing], file):
            picture = decode_picture(source)
            assert picture.notes == ("its end marker is missing, nothing else",) and not picture.truncated
            assert np.array_equal(picture.pixels, decode_picture(content).pixels) and picture.jpeg == content
    for missing in (3, 4, 20, 200):  # of the data, too
        assert "allow_truncated" in refusal(content[: -2 - missing])
        picture = decode_picture(content[: -2 - missing], allow_truncated=True)
        assert picture.notes == ("truncated or damaged, taken as far as it goes",)


def test_uncommon_jpegs_are_called_what_they_are(tmp_path):
    content = (PICTURES / "baseline_420.jpg").read_bytes()
    at = content.index(b"\xff\xc0")
    file = tmp_path / "photo.jpg"
    for frame, bits, kind in (
        (0xC3, 8, "a lossless JPEG"),
        (0xC3, 12, "a lossless JPEG"),
        (0xC7, 8, "a hierarchical JPEG"),
        (0xF7, 8, "a JPEG-LS"),
        (0xC1, 12, "a JPEG of 12 bits"),
    ):
        file.write_bytes(
            content[: at + 1] + bytes([frame]) + content[at + 2 : at + 4] + bytes([bits]) + content[at + 5 :]
        )
        for allow_truncated in (False, True):
            message = refusal(file, allow_truncated=allow_truncated)
            assert message.startswith(f"{file} is {kind}, which cannot be read: save it ")
        with pytest.raises(InputError, match=kind):
            inspect_picture(file)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_blocks": 2}, {"subsampling": 0}])
def test_a_jpeg_that_breaks_off_before_its_end_marker_is_truncated(mode, options):
    content = saved(PHOTO.convert(mode), **options)
    decode_picture(content)
    half = content[: len(content) * 3 // 4] + b"\xff\xd9"
    assert "is truncated or damaged, mend it or use allow_truncated: the data end before" in refusal(half)
    picture = decode_picture(half, allow_truncated=True)
    assert "truncated or damaged, taken as far as it goes" in picture.notes
    assert np.array_equal(picture.pixels[:16], decode_picture(content).pixels[:16])


def test_a_whole_jpeg_does_not_count_as_truncated():
    # gray, as what is missing would be; of every size of the last block
    for side in range(1, 34):
        for gray, quality in ((85, 75), (128, 1), (170, 100)):
            for subsampling in (0, 2):
                image = Image.new("RGB", (side, 34 - side), (gray, gray, gray))
                content = saved(image, quality=quality, subsampling=subsampling)
                assert decode_picture(content + b"trailer").pixels.shape == (34 - side, side, 3)


def test_truncated_16_bits():
    pixels = noise(60, 80, 3, dtype=np.uint16)
    content = raw_png(pixels, 2)
    assert "allow_truncated" in refusal(content[:-9000])
    picture = decode_picture(content[:-9000], allow_truncated=True)
    assert np.array_equal(picture.pixels[:30], pixels[:30])


def test_the_limit_of_megapixels(tmp_path, monkeypatch):
    file = tmp_path / "photo.png"
    Image.new("1", (20000, 20000)).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    limit = f"{file} is 400 megapixels, more than the limit of 256: raise it with max_megapixels"
    assert refusal(file) == limit
    assert inspect_picture(file).width == 20000
    assert refusal(saved(PHOTO), max_megapixels=0.004).startswith("the picture is 0.0048 megapixels, more than")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode_picture(saved(PHOTO))
    assert Image.MAX_IMAGE_PIXELS == 1000 and ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("options", [{}, {"zip": True}])
def test_a_long_text_is_kept(options):
    info = PngImagePlugin.PngInfo()
    info.add_text("Workflow", "A" * 3_000_000, **options)
    info.add_itxt("XML:com.adobe.xmp", XMP.decode().ljust(2_000_000), **options)
    content = saved(PHOTO, "PNG", pnginfo=info)
    picture = decode_picture(content)
    assert picture.notes == () and picture.metadata.xmp == XMP.ljust(2_000_000)
    kept = [chunk for chunk in png_chunks(encoded(picture)[0]) if chunk[1].startswith(b"Workflow")]
    assert kept == [chunk for chunk in png_chunks(content) if chunk[1].startswith(b"Workflow")]


def test_a_long_profile_is_kept():
    profile = struct.pack(">I", 2_000_000) + SRGB.ljust(2_000_000, b"\0")[4:]
    picture = decode_picture(saved(PHOTO, "PNG", icc_profile=profile))
    assert picture.notes == () and picture.metadata.icc_profile == profile
    assert decode_picture(encoded(picture)[0]).metadata.icc_profile == profile


@pytest.mark.parametrize("number, length", [(3, 60_000_000), (1, 2**26 + 1)])
def test_a_bomb_of_text_is_refused(number, length):
    info = PngImagePlugin.PngInfo()
    for index in range(number):
        info.add_text(f"Title{index}", "A" * length, zip=True)
    said = refusal(saved(PHOTO, "PNG", pnginfo=info))
    assert said == "the picture has a text or profile of more than 64 MiB: remove it"
    assert (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY) == (2**20, 2**26)


def test_texts_that_pillow_does_not_count_have_a_limit(monkeypatch):
    monkeypatch.setattr("artifact_remover.pictures.metadata.PNG_TEXT_LIMIT", 1000)
    texts = [(b"iTXt", b"Title\0\0\0\0\0" + bytes([255]) * 400)] * 3  # no UTF-8
    picture = decode_picture(raw_png(noise(60, 80, 3), 2, *texts, bits=8))
    assert picture.metadata.png_chunks == tuple(texts[:2])
    assert picture.notes == ("PNG text beyond 0 MiB dropped",)


def test_a_picture_with_damage_beside_its_pixels_can_be_taken():
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "A title")
    content = saved(PHOTO, "PNG", pnginfo=info).replace(b"A title", b"a title")
    assert refusal(content).startswith("the picture is truncated or damaged, or of a kind that cannot be read, mend it")
    assert np.array_equal(decode_picture(content, allow_truncated=True).pixels, np.asarray(PHOTO))
    with pytest.raises(InputError, match="allow_truncated"):
        inspect_picture(io.BytesIO(content))
    assert inspect_picture(io.BytesIO(content), allow_truncated=True).width == 80


@pytest.mark.parametrize("format", ["WEBP", "AVIF"])
def test_costly_formats_have_half_the_limit(format):
    content = saved(PHOTO, format)
    decode_picture(content, max_megapixels=0.0096)
    assert f"half the limit of 0.009, as {format} takes twice the memory" in refusal(content, max_megapixels=0.009)


def test_a_picture_comes_as_a_path_or_bytes(tmp_path):
    content = saved(PHOTO)
    for source in (bytearray(content), memoryview(content)):
        assert np.array_equal(decode_picture(source).pixels, decode_picture(content).pixels)
    for source in (str(tmp_path), io.BytesIO(content), None):
        with pytest.raises(TypeError, match="Path or bytes"):
            decode_picture(source)


@pytest.mark.parametrize(
    "format, quality, message",
    [
        ("gif", None, "choose png, webp, jpeg, tiff, avif"),
        ("PNG", None, "format PNG cannot be written"),
        ("png", 90, "png takes no quality"),
        ("jpeg", 0, "from 1 to 100"),
        ("webp", 101, "from 1 to 100"),
        ("avif", "high", "from 1 to 100"),
    ],
)
def test_unknown_formats_and_qualities_are_refused(format, quality, message):
    with pytest.raises(InputError, match=message):
        encoded(picture_of(np.asarray(PHOTO)), format, quality)
    for known in FORMATS:
        check_format(known)


def test_pictures_larger_than_the_format_are_refused():
    wide = np.zeros((1, 70000, 3), np.uint8)
    for format in ("webp", "jpeg", "avif"):
        with pytest.raises(InputError, match=f"70000x1 pixels are more than a {format} can hold"):
            encoded(picture_of(wide), format)
    for format in ("png", "tiff"):
        assert np.array_equal(decode_picture(encoded(picture_of(wide), format)[0]).pixels, wide)


def test_a_pillow_without_avif(monkeypatch):
    monkeypatch.delitem(Image.SAVE, "AVIF")
    with pytest.raises(InputError, match="cannot write avif"):
        encoded(picture_of(np.asarray(PHOTO)), "avif")


def test_pictures_larger_than_a_band(monkeypatch):
    monkeypatch.setattr("artifact_remover.pictures.writers._BAND", 500)
    monkeypatch.setattr("artifact_remover.pictures.writers._STRIP", 300)
    rgba = noise(60, 80, 4)
    picture = picture_of(rgba[..., :3], rgba[..., 3], orientation=5)
    for format in ("png", "tiff", "webp"):
        again = decode_picture(encoded(picture, format)[0])
        assert np.array_equal(np.dstack([again.pixels, again.alpha]), rgba.swapaxes(0, 1))


def test_quality_sets_the_size():
    picture = decode_picture(PICTURES / "baseline_420.jpg")
    for format in ("jpeg", "webp", "avif"):
        small, default = (len(encoded(picture, format, quality)[0]) for quality in (20, None))
        assert small < default
    assert inspect_picture(io.BytesIO(encoded(picture, "jpeg")[0])).header.quality == 95
    assert inspect_picture(io.BytesIO(encoded(picture, "jpeg")[0])).header.chroma_subsampling == "4:4:4"


def test_jpegs_that_would_take_very_long_are_refused():
    """A megabyte of empty scans, or of bytes between segments, took minutes."""
    jpeg = saved(PHOTO, progressive=True)
    scan, start = jpeg[jpeg.rindex(b"\xff\xda") : -2], 2 + 18  # behind JFIF's segment
    assert decode_picture(jpeg[:-2] + 400 * scan + jpeg[-2:]).header
    assert "more than 500 scans" in refusal(jpeg[:-2] + 600 * scan + jpeg[-2:])
    for between in (bytes(1000), b"\xff" * 1000):
        assert decode_picture(jpeg[:start] + between + jpeg[start:]).header
        assert "a megabyte between its segments" in refusal(jpeg[:start] + 1100 * between + jpeg[start:])
    assert decode_picture(jpeg + 600 * scan).header  # a video behind it may hold anything


# --- fuzz


def mutated(content, chance):
    content = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        # the first half holds all headers
        at = chance.randrange(len(content) // chance.choice([1, 2, 8]) or 1)
        kind = chance.randrange(4)
        if kind == 0:
            content[at] = chance.choice([0, 0xFF, 0x7F, content[at] ^ 1 << chance.randrange(8)])
        elif kind == 1:
            del content[at : at + chance.randint(1, 40)]
        elif kind == 2:
            content[at:at] = chance.randbytes(chance.randint(1, 40))
        else:
            del content[chance.randrange(len(content) // 2, len(content) + 1) :]
        if not content:
            break
    return bytes(content)


def test_no_mutation_does_harm(capsys):
    small = PHOTO.crop((0, 0, 33, 17))
    exif = with_exif(exif_of(6))
    originals = [
        saved(small, quality=50),
        saved(small, progressive=True, exif=exif, icc_profile=SRGB, dpi=(72, 72), comment=b"c", xmp=XMP),
        saved(small.convert("CMYK"), icc_profile=cmyk_profile()),
        saved(small, "MPO", save_all=True, append_images=[small.copy()], exif=exif),
        saved(small, "PNG", exif=exif, icc_profile=SRGB),
        saved(small.quantize(16), "PNG", transparency=1),
        raw_png(noise(9, 9, 3, dtype=np.uint16), 2),
        saved(small, "WEBP", exif=exif, icc_profile=SRGB),
        saved(small, "TIFF", compression="tiff_lzw"),
        saved(small, "TIFF", save_all=True, append_images=[small.copy()]),
        saved(small, "BMP"),
        saved(small, "AVIF", exif=exif),
    ]
    chance = random.Random(0)
    decoded = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in range(360):
            content = mutated(originals[index % len(originals)], chance)
            try:
                inspect_picture(io.BytesIO(content))
                picture = decode_picture(content, max_megapixels=1, allow_truncated=index % 3 == 0)
                encode_picture(picture, io.BytesIO(), [*FORMATS][index % len(FORMATS)])
                decoded += 1
            except InputError as error:
                assert str(error).isprintable()
    assert 50 < decoded < 350
    assert capsys.readouterr() == ("", "")
