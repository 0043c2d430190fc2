"""Parts that files other than JPEGs hold beside the picture are told to be lost, and XMP no longer speaks of them."""

import io
import struct

import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image
from skimage import data as skimage_data

from artifact_remover.pictures.picture import FORMATS, Metadata, Picture, decode_picture, encode_picture
from tests.sample_pictures import png_of

PHOTO = skimage_data.astronaut()[:96, :100]
SIGNATURE = "C2PA (JUMBF) dropped, as it signs the pixels of before"
UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
FILES = [*FORMATS, "heif", "jxl"]
DIRECTORY = '<C:Directory><C:Item C:Semantic="GainMap"/></C:Directory>'


def xmp_of(attributes="", content=""):
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" '
        'xmlns:C="http://ns.google.com/photos/1.0/container/" xmlns:dcterms="http://purl.org/dc/terms/" '
        'xmlns:G="http://ns.google.com/photos/1.0/camera/" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="kept" {attributes}>{content}</x:xmpmeta>'
    ).encode()


def file_of(format, xmp=None, pixels=PHOTO):
    """A picture in any format that is read."""
    file = io.BytesIO()
    if format in FORMATS:
        alpha = pixels[..., 3] if pixels.shape[2] == 4 else None
        encode_picture(Picture(pixels[..., :3], alpha, 1, Metadata(xmp=xmp), None, "PNG"), file, format)
    else:
        if format == "heif":
            pillow_heif.register_heif_opener()
        else:
            pytest.importorskip("pillow_jxl")  # which has no wheel for some systems
        options = {"use_container": True} if format == "jxl" else {}
        Image.fromarray(pixels).save(file, format.upper(), **options, **({"xmp": xmp} if xmp else {}))
    return file.getvalue()


def box(kind, content):
    return struct.pack(">I4s", 8 + len(content), kind) + content


def with_chunk(png, name, content):
    return png[:33] + png_of([(name, content)])[8:] + png[33:]


def grown(content, path, addition):
    """Adds to the end of a box in the boxes of a HEIC or AVIF, whose data move."""
    content = bytearray(content)
    for kind in path:
        at = content.index(kind) - 4
        [size] = struct.unpack_from(">I", content, at)
        struct.pack_into(">I", content, at, size + len(addition))
    content[at + size : at + size] = addition
    at = content.index(b"iloc") + 4
    assert not content[at] and content[at + 4] == 0x44  # the version, and four bytes for each number
    base, items = content[at + 5] >> 4, content[at + 7]
    for item in range(items):
        field = at + 8 + item * (4 + base + 2 + 8) + (4 if base else 6)
        struct.pack_into(">I", content, field, struct.unpack_from(">I", content, field)[0] + len(addition))
    return bytes(content)


def with_signature(format, xmp):
    content, manifest = file_of(format, xmp), box(b"jumb", b"c2pa".ljust(41, b"\0"))
    if format == "png":
        return with_chunk(content, b"caBX", manifest)
    if format == "webp":
        chunk = b"C2PA" + struct.pack("<I", len(manifest)) + manifest + b"\0"
        return content[:4] + struct.pack("<I", len(content) - 8 + len(chunk)) + content[8:] + chunk
    if format == "tiff":
        file = io.BytesIO()
        tags = [(52545, 7, len(manifest), manifest, True), (700, 1, len(xmp), xmp, True)]
        tifffile.imwrite(file, PHOTO, photometric="rgb", metadata=None, extratags=tags)
        return file.getvalue()
    return content + (manifest if format == "jxl" else box(b"uuid", UUID + bytes(4) + b"manifest\0" + manifest))


@pytest.mark.parametrize("format", [format for format in FILES if format != "jpeg"])
def test_a_signature_is_dropped_with_a_line_and_with_what_xmp_says_of_it(format):
    content = with_signature(format, xmp_of('dcterms:provenance="self#jumbf=c2pa/urn:uuid:1"'))
    picture = decode_picture(content)
    assert picture.notes == (SIGNATURE,)
    assert b'dc:format="kept"' in picture.metadata.xmp and b"provenance" not in picture.metadata.xmp
    for target in FORMATS:
        file = io.BytesIO()
        assert not any("C2PA" in note for note in encode_picture(picture, file, target))
        assert b"c2pa" not in file.getvalue() and decode_picture(file.getvalue()).notes == ()


@pytest.mark.parametrize("format", FILES)
@pytest.mark.parametrize(
    "claims, told",
    [
        (('hdrgm:Version="1.0"',), ["gain map"]),
        (('hdrgm:Version="1.0"', DIRECTORY), ["gain map"]),
        (("", DIRECTORY), ["pictures behind the first"]),
        (('G:MotionPhoto="1"', DIRECTORY), ["motion photo"]),
        (('xmpNote:HasExtendedXMP="0" hdrgm:Version="1.0"',), ["extended XMP", "gain map"]),
        ((), []),
    ],
)
def test_xmp_tells_of_nothing_that_is_missing(format, claims, told):
    picture = decode_picture(file_of(format, xmp_of(*claims)))
    assert picture.notes == tuple(f"{part} lost, of which XMP told" for part in told)
    xmp = picture.metadata.xmp
    assert b'dc:format="kept"' in xmp
    assert not any(word in xmp for word in (b"hdrgm:", b"Directory", b":MotionPhoto", b"HasExtendedXMP"))
    for target in FORMATS:
        file = io.BytesIO()
        assert encode_picture(picture, file, target) == ()
        assert decode_picture(file.getvalue()).metadata.xmp == xmp


def test_a_gain_map_of_a_png_or_jpeg_xl_is_told():
    xmp = xmp_of('hdrgm:Version="1.0"', DIRECTORY)
    png, jxl = file_of("png", xmp), file_of("jxl", xmp)
    for content in (with_chunk(png, b"gdAT", png), jxl + box(b"jhgm", bytes(40))):
        picture = decode_picture(content)
        assert picture.notes == ("gain map dropped",) and b"hdrgm:" not in picture.metadata.xmp


@pytest.mark.parametrize("format", ["avif", "heif"])
@pytest.mark.parametrize("entry", [b"\2" + bytes(3) + b"\0\x09" + bytes(2), b"\3" + bytes(4) + b"\1\0\x09" + bytes(2)])
def test_a_gain_map_that_is_an_item_is_told(format, entry):
    content = grown(file_of(format), [b"meta", b"iinf"], box(b"infe", entry + b"tmap\0"))
    counter = content.index(b"iinf") + 9
    content = content[:counter] + bytes([content[counter] + 1]) + content[counter + 1 :]
    assert decode_picture(content).notes == ("gain map dropped",)


@pytest.mark.parametrize("format", ["avif", "heif"])
@pytest.mark.parametrize(
    "name, notes",
    [
        (b"urn:com:apple:photo:2020:aux:hdrgainmap", ("gain map dropped",)),
        (b"urn:com:apple:photo:2018:aux:portraiteffectsmatte", ("depth and other auxiliary pictures dropped",)),
        (b"urn:mpeg:hevc:2015:auxid:2", ("depth and other auxiliary pictures dropped",)),
        (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", ()),
    ],
)
def test_auxiliary_pictures_are_told(format, name, notes):
    content = file_of(format, pixels=np.dstack([PHOTO, PHOTO[..., :1]]))
    assert decode_picture(content).notes == () and decode_picture(content).alpha is not None
    content = grown(content, [b"meta", b"iprp", b"ipco"], box(b"auxC", bytes(4) + name + b"\0"))
    picture = decode_picture(content)
    assert picture.notes == notes and picture.alpha is not None


def test_a_heic_whose_second_picture_is_its_depth():
    content = file_of("heif", pixels=np.dstack([PHOTO, PHOTO[..., :1]]))
    picture = decode_picture(content.replace(b"2015:auxid:1", b"2015:auxid:2"))
    assert picture.notes == ("depth and other auxiliary pictures dropped",) and picture.alpha is None


@pytest.mark.parametrize("format", ["avif", "heif"])
def test_a_video_in_a_box_is_told(format):
    content = file_of(format, xmp_of('G:MotionPhoto="1"', DIRECTORY)) + box(b"mpvd", bytes(99))
    picture = decode_picture(content)
    assert picture.notes == ("motion photo dropped",) and b":MotionPhoto" not in picture.metadata.xmp
