import io
import random
import struct
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps
from skimage import data

from artifact_remover.pictures.jpeg_container import JpegParts, end_of_picture, without_claims
from artifact_remover.pictures.picture import FORMATS, decode_picture, encode_picture, inspect_picture, orient
from data_prep.errors import InputError
from tests.sample_pictures import segment, with_index

PHOTO = Image.fromarray(data.astronaut()).crop((150, 20, 230, 80))
OTHERS = [format for format in FORMATS if format != "jpeg"]
NAMESPACES = (
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:C="http://ns.google.com/photos/1.0/container/" '
    'xmlns:Item="http://ns.google.com/photos/1.0/container/item/" xmlns:G="http://ns.google.com/photos/1.0/camera/" '
    'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmlns:dcterms="http://purl.org/dc/terms/"'
)
VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0\0\1\0mdat" + bytes(range(248))
ISO = b"urn:iso:std:iso:ts:21496:-1\0"


def jpeg_of(image, *extra, **options):
    """A JPEG with segments added behind its start, each a marker and a content."""
    file = io.BytesIO()
    image.copy().save(file, "JPEG", **options)
    content = file.getvalue()
    return content[:2] + b"".join(segment(*each) for each in extra) + content[2:]


def xmp_of(attributes="", *items):
    """XMP with a title, these attributes, and a directory of items: mime type, semantic and length."""
    directory = "".join(
        f'<rdf:li rdf:parseType="Resource"><C:Item Item:Mime="{mime}" Item:Semantic="{name}" Item:Length="{length}"/>'
        "</rdf:li>"
        for mime, name, length in items
    )
    directory = f"<C:Directory><rdf:Seq>{directory}</rdf:Seq></C:Directory>" if items else ""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF {NAMESPACES}><rdf:Description rdf:about="" dc:format="a &amp; ü" {attributes}>{directory}'
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def exif_of(orientation):
    return b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 274, 3, 1, orientation, 0)


GAIN_MAP = jpeg_of(PHOTO.convert("L").resize((40, 30)), xmp=xmp_of('hdrgm:Version="1.0" hdrgm:GainMapMax="2"'))
HDR_XMP = xmp_of('hdrgm:Version="1.0"', ("image/jpeg", "Primary", 0), ("image/jpeg", "GainMap", len(GAIN_MAP)))


def encoded(picture, format):
    file = io.BytesIO()
    notes = encode_picture(picture, file, format)
    return file.getvalue(), notes


def opened(content):
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def listed(content):
    """Pillow's word on which pictures the index lists: the type and the content of each."""
    image = opened(content)
    table, position = image._getmp(), image.info.get("mpoffset") or content.index(b"MPF\0") + 4
    found = []
    for entry in table[0xB002]:
        start = position + entry["DataOffset"] if entry["DataOffset"] else 0
        found.append((entry["Attribute"]["MPType"], content[start : start + entry["Size"]]))
    return found


def segments_of(content):
    return opened(content).applist


# --- gain maps


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_gain_map_is_kept_in_a_jpeg(orientation):
    primary = jpeg_of(PHOTO, (0xE2, ISO + bytes(4)), quality=40, xmp=HDR_XMP, exif=exif_of(orientation))
    content = with_index(primary, (0, GAIN_MAP))
    picture = decode_picture(content)
    assert picture.notes == () and picture.orientation == orientation and picture.metadata.xmp == HDR_XMP
    written, notes = encoded(picture, "jpeg")
    assert notes == ()
    (kind, first), (_, second) = listed(written)
    assert kind == "Baseline MP Primary Image" and second == GAIN_MAP
    assert end_of_picture(written) == len(first) and np.array_equal(opened(first), opened(written))
    assert written.endswith(GAIN_MAP) and len(first) + len(GAIN_MAP) == len(written)  # as the directory counts
    again = decode_picture(written)
    assert again.metadata == picture.metadata and ("APP2", ISO + bytes(4)) in segments_of(written)
    # The map lies as the pixels are stored, so that both are turned by the orientation, or neither.
    assert again.orientation == orientation and again.pixels.shape == picture.pixels.shape
    assert np.abs(again.pixels - picture.pixels.astype(int)).mean() < 2
    assert inspect_picture(io.BytesIO(content)).metadata[-1] == "gain map"


@pytest.mark.parametrize("format", OTHERS)
def test_a_gain_map_is_said_to_be_lost_in_other_formats(format):
    primary = jpeg_of(PHOTO, xmp=HDR_XMP, exif=exif_of(6))
    picture = decode_picture(with_index(primary, (0, GAIN_MAP)))
    written, notes = encoded(picture, format)
    assert notes == (f"gain map dropped, {format} cannot hold it",)
    again = decode_picture(written)
    assert np.array_equal(again.pixels, orient(picture.pixels, 6)) or format == "avif"
    xmp = again.metadata.xmp
    assert not any(word in xmp for word in (b"hdrgm", b"hdr-gain-map", b"Directory", b"photos/1.0/container", b"Item"))
    assert b'dc:format="a &amp; \xc3\xbc"' in xmp and xmp.startswith(b"<?xpacket begin=") and again.notes == ()


@pytest.mark.parametrize(
    "kind, sign", [(0, ISO + bytes(4)), (0x050000, b""), (0, b"urn:com:apple:photo:2020:aux:hdrgainmap")]
)
def test_gain_maps_are_known_by_themselves(kind, sign):
    gain_map = jpeg_of(PHOTO.convert("L"), (0xE2, sign))
    picture = decode_picture(with_index(jpeg_of(PHOTO), (kind, gain_map)))
    assert picture.notes == () and picture.metadata.jpeg_parts.names == ("gain map",)
    assert listed(encoded(picture, "jpeg")[0])[1][1] == gain_map
    assert encoded(picture, "png")[1] == ("gain map dropped, png cannot hold it",)


def test_a_gain_map_that_no_index_lists_is_kept():
    picture = decode_picture(jpeg_of(PHOTO, xmp=HDR_XMP) + GAIN_MAP)
    written, notes = encoded(picture, "jpeg")
    assert notes == () and written.endswith(b"\xff\xd9" + GAIN_MAP) and b"MPF\0" not in written


def test_other_pictures_are_left_out_of_what_follows():
    preview = jpeg_of(PHOTO.resize((40, 30)))
    content = with_index(jpeg_of(PHOTO, xmp=HDR_XMP), (0x010002, preview), (0, GAIN_MAP))
    picture = decode_picture(content)
    assert picture.notes == ("first of 2 pictures taken",)
    written = encoded(picture, "jpeg")[0]
    assert [picture for _, picture in listed(written)][1:] == [GAIN_MAP] and written.endswith(b"\xff\xd9" + GAIN_MAP)
    stereo = with_index(jpeg_of(PHOTO), (0x020002, jpeg_of(ImageOps.mirror(PHOTO))))
    picture = decode_picture(stereo)
    assert picture.notes == ("first of 2 pictures taken",) and picture.metadata.jpeg_parts == JpegParts(lost=1)
    written = encoded(picture, "jpeg")[0]
    assert end_of_picture(written) == len(written) and b"MPF\0" not in written


@pytest.mark.parametrize(
    ("types", "lost"),
    [((0x010002,), 0), ((0x010005, 0x010001), 0), ((0x020002,), 1), ((0x010002, 0x020003, 0), 2), ((0x050000,), 0)],
)
def test_pictures_that_are_neither_kept_nor_previews_are_lost(types, lost):
    content = with_index(jpeg_of(PHOTO), *((kind, jpeg_of(PHOTO)) for kind in types))
    summary = inspect_picture(io.BytesIO(content))
    assert (summary.format, summary.pictures, summary.lost) == ("MPO", len(types) + 1, lost)


def test_the_directory_does_not_count_the_first_picture():
    xmp = xmp_of('hdrgm:Version="1.0"', ("image/jpeg", "Primary", 4321), ("image/jpeg", "GainMap", len(GAIN_MAP)))
    picture = decode_picture(with_index(jpeg_of(PHOTO, xmp=xmp), (0, GAIN_MAP)))
    assert picture.metadata.xmp == xmp.replace(b' Item:Length="4321"', b"") != xmp


def test_xmp_does_not_claim_a_gain_map_that_is_missing():
    picture = decode_picture(jpeg_of(PHOTO, xmp=HDR_XMP))
    assert picture.metadata.jpeg_parts is None and b"hdrgm" not in picture.metadata.xmp


# --- videos


@pytest.mark.parametrize(
    "xmp, behind",
    [
        (xmp_of(f'G:MicroVideo="1" G:MicroVideoVersion="1" G:MicroVideoOffset="{len(VIDEO)}"'), VIDEO),
        (
            xmp_of('G:MotionPhoto="1"', ("image/jpeg", "Primary", 0), ("video/mp4", "MotionPhoto", len(VIDEO))),
            bytes(8) + VIDEO,
        ),
        (xmp_of(), b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data" + VIDEO + b"SEFH" + bytes(20) + b"SEFT"),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_motion_photo_is_kept_in_a_jpeg(xmp, behind, orientation):
    picture = decode_picture(jpeg_of(PHOTO, xmp=xmp, exif=exif_of(orientation)) + behind)
    assert picture.notes == ()
    written, notes = encoded(picture, "jpeg")
    assert notes == () and written.endswith(b"\xff\xd9" + behind)  # its place is counted from the end
    again = decode_picture(written)
    assert again.metadata.xmp == xmp and again.orientation == 1
    for format in OTHERS:
        written, notes = encoded(picture, format)
        assert notes == (f"motion photo dropped, {format} cannot hold it",)
        xmp_left = decode_picture(written).metadata.xmp
        assert b"MotionPhoto" not in xmp_left and b"MicroVideo" not in xmp_left and b"a &amp; " in xmp_left


def test_a_video_behind_a_gain_map():
    items = [("image/jpeg", "Primary", 0), ("image/jpeg", "GainMap", len(GAIN_MAP)), ("video/mp4", "MotionPhoto", 280)]
    xmp = xmp_of('G:MotionPhoto="1" hdrgm:Version="1.0"', *items)
    picture = decode_picture(with_index(jpeg_of(PHOTO, xmp=xmp), (0, GAIN_MAP)) + VIDEO)
    written, notes = encoded(picture, "jpeg")
    assert notes == () and written.endswith(GAIN_MAP + VIDEO) and listed(written)[1][1] == GAIN_MAP
    assert encoded(picture, "png")[1] == tuple(
        f"{name} dropped, png cannot hold it" for name in ("gain map", "motion photo")
    )


def test_a_damaged_index_does_not_sink_the_rest():
    content = with_index(jpeg_of(PHOTO, (0xE6, b"GoPro\0" + bytes(40))), (0, GAIN_MAP))
    at = content.index(b"MPF\0")
    for damaged in (b"MPF\0XX", b"MPF\0II*\0\xff\xff"):
        picture = decode_picture(content[:at] + damaged + content[at + len(damaged) :])
        assert picture.metadata.jpeg_parts.names == ("GoPro segment",)
        assert picture.notes == (f"{len(GAIN_MAP)} bytes behind the picture dropped",)


def test_an_index_lists_each_picture_once():
    content = with_index(jpeg_of(PHOTO), (0x050000, GAIN_MAP))
    count_tag = struct.pack("<HHII", 0xB001, 4, 1, 2)
    list_tag = struct.pack("<HHII", 0xB002, 7, 32, 50)
    twice = content.replace(count_tag, list_tag)
    assert twice.count(list_tag) == 2
    picture = decode_picture(twice)
    assert picture.notes == () and picture.metadata.jpeg_parts.behind == GAIN_MAP
    assert [kind for kind, _, _ in picture.metadata.jpeg_parts.pictures] == [0x050000]


def test_what_else_follows_is_said_to_be_dropped():
    picture = decode_picture(jpeg_of(PHOTO) + b"a trailer")
    assert picture.notes == ("9 bytes behind the picture dropped",)
    assert encoded(picture, "jpeg")[0].endswith(b"\xff\xd9")
    assert decode_picture(jpeg_of(PHOTO) + bytes(512)).notes == ()  # padding
    picture = decode_picture(jpeg_of(PHOTO) + b"SEFH" + bytes(8) + b"SEFT")
    assert encoded(picture, "png")[1] == ("Samsung trailer dropped, png cannot hold it",)


# --- segments


def photoshop(*resources):
    return b"Photoshop 3.0\0" + b"".join(
        b"8BIM" + struct.pack(">H", number) + name + struct.pack(">I", len(each)) + each + bytes(len(each) % 2)
        for number, name, each in resources
    )


def test_iptc_is_kept_or_said_to_be_lost():
    iptc = b"\x1c\2\5\0\5title"
    thumbnail = (0x040C, b"\0\0", b"old thumbnail")
    app13 = photoshop(thumbnail, (0x03ED, b"\5odd a", bytes(16)), (0x0404, b"\0\0", iptc))
    picture = decode_picture(jpeg_of(PHOTO, (0xED, app13)))
    assert picture.notes == () and picture.metadata.iptc == iptc
    written = {format: encoded(picture, format) for format in FORMATS}
    assert [notes for format, (_, notes) in written.items() if format in ("jpeg", "tiff", "png")] == [()] * 3
    for format in ("webp", "avif"):
        assert written[format][1] == (f"IPTC dropped, {format} cannot hold it",)
    assert opened(written["jpeg"][0]).info["photoshop"] == {0x0404: iptc}
    assert tifffile.TiffFile(io.BytesIO(written["tiff"][0])).pages[0].tags[33723].value == iptc
    head, size, digits = opened(written["png"][0]).text["Raw profile type iptc"].split(maxsplit=2)
    resource = bytes.fromhex(digits)
    assert (head, int(size)) == ("iptc", len(resource)) and resource == photoshop((0x0404, b"\0\0", iptc))[14:]


def test_iptc_of_several_segments():
    iptc = random.Random(0).randbytes(150_001)
    block = photoshop((0x0404, b"\0\0", iptc))[14:]
    parts = [(0xED, b"Photoshop 3.0\0" + block[at : at + 60_000]) for at in range(0, len(block), 60_000)]
    picture = decode_picture(jpeg_of(PHOTO, *parts))
    assert picture.metadata.iptc == iptc
    assert decode_picture(encoded(picture, "jpeg")[0]).metadata.iptc == iptc


def test_clipping_paths_are_kept_in_a_jpeg():
    iptc, paths = (0x0404, b"\0\0", b"\x1c\2\5\0\5title"), [(2000, b"\4Path\0", bytes(51)), (2999, b"\0\0", b"Path")]
    picture = decode_picture(
        jpeg_of(PHOTO, (0xED, photoshop(iptc, *paths, (0x0421, b"\0\0", bytes(8)))), exif=exif_of(6))
    )
    content, notes = encoded(picture, "jpeg")
    kept = [each for _, each in segments_of(content) if each.startswith(b"Photoshop")]
    assert notes == picture.notes == () and kept == [photoshop(iptc), photoshop(*paths)]
    assert decode_picture(content).metadata == picture.metadata and decode_picture(content).orientation == 6
    assert encoded(picture, "tiff")[1] == ("clipping paths dropped, tiff cannot hold it",)
    cut = photoshop(paths[0])[:-9]
    assert decode_picture(jpeg_of(PHOTO, (0xED, cut))).metadata.jpeg_parts is None


def test_segments_that_stay_true_are_kept_in_a_jpeg():
    thermal = [(0xE1, b"FLIR\0\1\0\1" + bytes(64)), (0xE1, b"FLIR\0\1\1\1" + bytes(9))]
    others = [(0xE5, b"RMETA\0" + bytes(30)), (0xE6, b"GoPro\0" + bytes(40))]
    picture = decode_picture(jpeg_of(PHOTO, *thermal, *others))
    assert picture.notes == ()
    content, notes = encoded(picture, "jpeg")
    assert notes == () and all((f"APP{marker & 15}", each) in segments_of(content) for marker, each in thermal + others)
    assert decode_picture(content).metadata == picture.metadata
    for format in OTHERS:
        assert encoded(picture, format)[1] == tuple(
            f"{name} segment dropped, {format} cannot hold it" for name in ("FLIR", "Ricoh", "GoPro")
        )


def test_thermal_data_lie_as_the_pixels():
    thermal = (0xE1, b"FLIR\0\1\0\0" + bytes(64))
    picture = decode_picture(jpeg_of(PHOTO, thermal, exif=exif_of(6)))
    assert decode_picture(encoded(picture, "jpeg")[0]).orientation == 6
    assert decode_picture(encoded(picture, "png")[0]).pixels.shape == (80, 60, 3)


def test_a_signature_is_dropped_with_what_xmp_says_of_it():
    jumbf = b"JP\0\1\0\0\0\1" + struct.pack(">I4s", 48, b"jumb") + b"c2pa".ljust(40, b"\0")
    xmp = xmp_of('dcterms:provenance="self#jumbf=c2pa/urn:uuid:1"')
    picture = decode_picture(jpeg_of(PHOTO, (0xEB, jumbf), (0xEB, jumbf), xmp=xmp))
    assert picture.notes == ("C2PA (JUMBF) dropped, as it signs the pixels of before",)
    assert b"provenance" not in picture.metadata.xmp
    content, notes = encoded(picture, "jpeg")
    assert notes == () and b"c2pa" not in content
    assert b"provenance" in decode_picture(jpeg_of(PHOTO, xmp=xmp)).metadata.xmp


def test_segments_of_the_old_compression_are_not_kept():
    adobe = (0xEE, b"Adobe\0\x64\0\0\0\0\1")
    ducky = (0xEC, b"Ducky\0\1\0\4\0\0\0\x3c")
    picture = decode_picture(jpeg_of(PHOTO, adobe, ducky, (0xE0, b"JFXX\0\x10" + jpeg_of(PHOTO.resize((8, 6))))))
    assert picture.notes == ("JFXX thumbnail dropped",)
    assert [name for name, _ in segments_of(encoded(picture, "jpeg")[0])] == ["APP0"]
    assert decode_picture(jpeg_of(PHOTO, (0xE9, b"what"), (0xE9, b"ever"))).notes == (
        "APP9 segment of an unknown kind dropped",
    )


def test_extended_xmp_is_kept_in_a_jpeg():
    guid = b"0123456789ABCDEF0123456789ABCDEF"
    extended = (0xE1, b"http://ns.adobe.com/xmp/extension/\0" + guid + struct.pack(">II", 9, 0) + b"<x:xmpm/>")
    xmp = xmp_of(f'xmpNote:HasExtendedXMP="{guid.decode()}"')
    picture = decode_picture(jpeg_of(PHOTO, extended, xmp=xmp))
    content, notes = encoded(picture, "jpeg")
    assert notes == picture.notes == () and ("APP1", extended[1]) in segments_of(content)
    assert decode_picture(content).metadata.xmp == xmp
    content, notes = encoded(picture, "png")
    assert notes == ("extended XMP dropped, png cannot hold it",)
    assert b"HasExtendedXMP" not in decode_picture(content).metadata.xmp


def test_the_table_of_what_is_kept_is_true():
    document = (Path(__file__).parents[1] / "docs" / "restoring.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in document.splitlines() if line.startswith("| ")]
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray = profile[:16] + b"GRAY" + profile[20:]
    guid = "0123456789ABCDEF" * 2
    extended = (0xE1, f"http://ns.adobe.com/xmp/extension/\0{guid}".encode() + struct.pack(">II", 9, 0) + b"<x:xmpm/>")
    segments = [
        extended,
        (0xE6, b"GoPro\0" + bytes(40)),
        (0xED, photoshop((0x0404, b"\0\0", b"\x1c\2\5\0\5title"), (2000, b"\0\0", bytes(52)))),
    ]
    xmp = xmp_of(f'hdrgm:Version="1.0" G:MotionPhoto="1" xmpNote:HasExtendedXMP="{guid}"')
    options = {"xmp": xmp, "exif": exif_of(1), "icc_profile": profile}
    content = with_index(jpeg_of(PHOTO, *segments, comment=b"said", dpi=(300, 300), **options), (0, GAIN_MAP)) + VIDEO
    whole = decode_picture(content)
    stretched = replace(whole, metadata=replace(whole.metadata, dpi=None, aspect=(1, 2)))
    placed = replace(whole, metadata=replace(whole.metadata, georeference=((33550, "d", [10.0, 10.0, 0.0]),)))
    in_gray = replace(whole, pixels=whole.pixels[..., :1], metadata=replace(whole.metadata, icc_profile=gray))
    transparent = replace(in_gray, alpha=whole.pixels[..., 1])
    notes_of = {
        "EXIF": ("EXIF", whole),
        "XMP": ("XMP", whole),
        "extended XMP": ("extended XMP", whole),
        "ICC profile": ("ICC profile", whole),
        "IPTC": ("IPTC", whole),
        "resolution": ("resolution", whole),
        "pixel aspect": ("pixel aspect", stretched),
        "comment": ("comment", whole),
        "georeference (GeoTIFF)": ("georeference", placed),
        "gain map (Ultra HDR)": ("gain map", whole),
        "motion photo": ("motion photo", whole),
        "clipping paths": ("clipping paths", whole),
        "FLIR, GoPro, Ricoh and other makers' segments": ("GoPro segment", whole),
    }
    [formats] = [row for row in rows if row[-1] == "AVIF"]
    formats = [format.lower() for format in formats[-len(FORMATS) :]]
    assert {*formats} == {*FORMATS}
    told = {row[0]: dict(zip(formats, row[1:], strict=True)) for row in rows if row[0] in notes_of}
    assert told.keys() == notes_of.keys()
    for row, (name, picture) in notes_of.items():
        for format, cell in told[row].items():
            lost = f"{name} dropped, {format} cannot hold it" in encoded(picture, format)[1]
            assert lost == (cell in ("line", "in EXIF only")), (row, format)
    for format, cell in told["ICC profile"].items():
        for picture, unless in ((in_gray, "not of gray"), (transparent, "gray")):
            lost = f"ICC profile for gray dropped, {format} cannot hold it" in encoded(picture, format)[1]
            assert lost == (unless in cell), format


# --- XMP


def test_claims_are_known_by_their_namespace():
    xmp = (
        b'<r xmlns:any="http://ns.google.com/photos/1.0/camera/" any:MicroVideo="1" any:Kept="2">'
        b"<any:MotionPhoto>1</any:MotionPhoto><any:Kept/></r>"
    )
    kept = b'<r xmlns:any="http://ns.google.com/photos/1.0/camera/" any:Kept="2"><any:Kept/></r>'
    assert without_claims(xmp) == (kept, [])
    assert without_claims(kept) == (kept, []) and without_claims(None) == (None, [])
    untouched = b"<no <xml"
    assert without_claims(untouched) == (untouched, [])
    deep = b"<a>" * 9999 + b"</a>" * 9999
    for damaged in (xmp[:-3], xmp.replace(b"<r ", b"<q:r "), b'<r b="http://ns.adobe.com/xmp/note/">' + deep):
        assert without_claims(damaged) == (None, ["damaged XMP dropped"])


@pytest.mark.parametrize("part", [b"<b/>", b"<b c='d'/>"])
def test_xmp_whose_tree_would_fill_the_memory_counts_as_damaged(part):
    """65 kB of a PNG took 6.5 GB."""
    start, end = b'<r b="http://ns.adobe.com/xmp/note/">', b"</r>"
    assert without_claims(start + 10_000 * part + end)[1] == []
    assert without_claims(start + 100_000 * part + end) == (None, ["damaged XMP dropped"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-be"])
def test_xmp_with_a_document_type_counts_as_damaged(encoding):
    """In UTF-16, too, where the bytes of the claim's namespace are hidden in a comment."""
    camera = b"http://ns.google.com/photos/1.0/camera/"
    bomb = (
        '\ufeff<!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'
        f'<r xmlns:any="{camera.decode()}" any:MotionPhoto="1">&b;<!--{(camera + b" ").decode("utf-16-be")}--></r>'
    ).encode(encoding)
    assert camera in bomb and without_claims(bomb) == (None, ["damaged XMP dropped"])


# --- fuzz


def test_no_mutation_does_harm():
    chance = random.Random(0)
    app13 = photoshop((0x0404, b"\0\0", b"\x1c\2\5\0\5title"))
    primary = jpeg_of(PHOTO.resize((17, 9)), (0xED, app13), xmp=HDR_XMP, exif=exif_of(6))
    content = with_index(primary, (0, GAIN_MAP), (0x010001, jpeg_of(PHOTO.resize((9, 9))))) + VIDEO
    decoded = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in range(200):
            changed = bytearray(content)
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(primary) + 200)
                if chance.random() < 0.7:
                    changed[at] = chance.choice([0, 0xFF, 0x7F, chance.randrange(256)])
                else:
                    del changed[at : at + chance.randint(1, 9)]
            try:
                picture = decode_picture(bytes(changed), max_megapixels=1, allow_truncated=index % 2 == 0)
                for format in ("jpeg", "png"):
                    decode_picture(encoded(picture, format)[0])
                decoded += 1
            except InputError as error:
                assert str(error).isprintable()
    assert decoded > 60
