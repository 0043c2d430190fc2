"""Segments of a JPEG file beside its pixels, and what lies behind its picture."""

import io
import re
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import BinaryIO
from xml.dom import XMLNS_NAMESPACE, minidom
from xml.parsers.expat import ExpatError

from artifact_remover.pictures.jpeg_header import UncommonJpegError, segments

# Segments that tell of the scene or the camera, so that they stay true of the restored picture.
_STILL_TRUE = {
    (0xE1, b"FLIR\0"): "FLIR segment",
    (0xE1, b"http://ns.adobe.com/xmp/extension/\0"): "extended XMP",
    (0xE3, b"Meta\0"): "Kodak segment",
    (0xE5, b"RMETA\0"): "Ricoh segment",
    (0xE5, b"ssuniqueid\0"): "Samsung segment",
    (0xE6, b"GoPro\0"): "GoPro segment",
    (0xE7, b"HUAWEI\0"): "Huawei segment",
    (0xE7, b"PENTAX \0"): "Pentax segment",
}
_ICC_PROFILE, _PHOTOSHOP, _INDEX = b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"MPF\0"
_ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"

# Segments that are written anew, or describe the old compression.
_PASSED_OVER = (
    (0xE0, b"JFIF\0"),
    (0xE0, b"AVI1"),
    (0xE1, b"Exif\0"),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    (0xE2, _ICC_PROFILE),
    (0xE2, _INDEX),
    (0xE2, _ISO_GAIN_MAP),
    (0xE8, b"SPIFF\0"),
    (0xEC, b"Ducky"),
    (0xED, _PHOTOSHOP),
    (0xED, b"Adobe_CM"),
    (0xEE, b"Adobe"),
)
SIGNATURE_DROPPED = "C2PA (JUMBF) dropped, as it signs the pixels of before"
_DROPPED = {(0xE0, b"JFXX\0"): "JFXX thumbnail dropped", (0xEB, b"JP"): SIGNATURE_DROPPED}

# Image resources (Adobe Photoshop File Formats Specification, 2019).
_RESOURCE = re.compile(rb"8BIM|AgHg|DCSR|MeSa|PHUT")
_IPTC, _CLIPPING_PATHS = 0x0404, range(2000, 3000)
_LONGEST_SEGMENT = 65533  # bytes, without marker and length

# Names in XMP, namespace and beginning of the local name, of what other parts of the file hold.
_GAIN_MAP, _CONTAINER = "http://ns.adobe.com/hdr-gain-map/1.0/", "http://ns.google.com/photos/1.0/container/"
_CAMERA, _NOTE = "http://ns.google.com/photos/1.0/camera/", "http://ns.adobe.com/xmp/note/"
_BEHIND = {
    "gain map": (_GAIN_MAP,),
    "motion photo": (f"{_CAMERA}MotionPhoto", f"{_CAMERA}MicroVideo"),
    "pictures behind the first": (_CONTAINER,),
}
_EXTENDED = {"extended XMP": (f"{_NOTE}HasExtendedXMP",)}
_CLAIMS = _BEHIND | _EXTENDED
SIGNATURE_CLAIM = ("http://purl.org/dc/terms/provenance",)

_GAIN_MAP_SIGNS = (b"hdrgm", b"hdrgainmap", _ISO_GAIN_MAP)  # Google's and Adobe's, Apple's, ISO's
_GAIN_MAP_TYPE, _PREVIEW_TYPES, _PRIMARY_TYPE = 0x050000, range(0x010001, 0x010006), 0x030000
_VIDEO = re.compile(rb"\0\0..ftyp", re.DOTALL)  # the first box of an mp4 (ISO/IEC 14496-12, 4.3)

_FIRST_ITEM = re.compile(rb"<[^<>]*:Semantic=[\"']Primary[\"'][^<>]*>")
_LENGTH = re.compile(rb"\s[\w.-]+:Length=[\"'][1-9]\d*[\"']")

_MOST_XMP_PARTS = 100_000  # tags and attributes, of which each takes half a kilobyte in a tree

# What ends entropy-coded data, to which stuffed zeros and restart markers belong (ITU-T T.81, B.1.1).
_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")


@dataclass(frozen=True)
class JpegParts:
    """The parts of a JPEG file that stay true when its picture is restored, and that no other format can hold.

    Attributes:
        names: What they are, such as ("gain map", "FLIR segment").
        segments: Markers and contents of application segments.
        behind: What follows the picture's end marker.
        pictures: Type, start in `behind`, and size in bytes, of the pictures there that an index lists (CIPA DC-007).
        laid_out: Whether some of them are laid out as the pixels are stored, so that these must not be turned.
        lost: How many other photographs, such as the second of a stereo pair, are not among them.
    """

    names: tuple[str, ...] = ()
    segments: tuple[tuple[int, bytes], ...] = ()
    behind: bytes = b""
    pictures: tuple[tuple[int, int, int], ...] = ()
    laid_out: bool = False
    lost: int = 0


def read_jpeg_parts(
    file: BinaryIO, xmp: bytes | None
) -> tuple[JpegParts | None, bytes | None, bytes | None, list[str]]:
    """Reads what a JPEG file holds beside its picture.

    Args:
        file: The JPEG, which can seek.
        xmp: Its XMP packet.

    Returns:
        The parts that only a JPEG can hold, IPTC (IIM 4.2), XMP that claims no others, and notes on what is dropped.
    """
    file.seek(0)
    content = file.read()
    found, kept, names, notes = [], [], [], []
    index, position = b"", 0
    opened = io.BytesIO(content)
    with suppress(IndexError, ValueError, struct.error):  # a damaged header, of which the decoder tells
        for marker, segment in segments(opened):
            if 0xE0 <= marker <= 0xEF:
                found.append((marker, segment))
            if marker == 0xE2 and segment.startswith(_INDEX):
                index, position = segment[len(_INDEX) :], opened.tell() - len(segment) + len(_INDEX)
    for marker, segment in found:
        if name := _among(_STILL_TRUE, marker, segment):
            kept.append((marker, segment))
            names.append(_STILL_TRUE[name])
        elif name := _among(_DROPPED, marker, segment):
            notes.append(_DROPPED[name])
        elif not _among(_PASSED_OVER, marker, segment):
            notes.append(f"APP{marker & 15} segment of an unknown kind dropped")
    profile = [segment[12:14] for _, segment in found if segment.startswith(_ICC_PROFILE)]
    if profile and min(profile)[1:] != bytes([len(profile) % 256]):  # of each the number, and how many there are
        notes.append("incomplete ICC profile dropped")
    blocks = b"".join(segment[len(_PHOTOSHOP) :] for _, segment in found if segment.startswith(_PHOTOSHOP))
    resources = [*_resources(blocks)]
    iptc = next((value for number, value, _ in resources if number == _IPTC and value), None)
    if paths := b"".join(resource for number, _, resource in resources if number in _CLIPPING_PATHS):
        kept += _photoshop_segments(paths)
        names.append("clipping paths")

    listed: list[tuple[int, int, int]] = []
    with suppress(KeyError, struct.error):  # a damaged index lists nothing
        listed = [*_listed_pictures(index, position, content)]
    behind, pictures, lost, names_behind, notes_behind = _sort_behind(content, listed, xmp or b"")
    if "gain map" in names_behind:
        kept += [(marker, segment) for marker, segment in found if segment.startswith(_ISO_GAIN_MAP)]
    untrue = ({} if behind else _BEHIND) | ({} if "extended XMP" in names else _EXTENDED)
    xmp, notes_on_xmp = without_lost_claims(xmp, (), untrue)
    names = list(dict.fromkeys(names_behind + names))
    laid_out = bool({"gain map", "pictures behind the first", "FLIR segment", "clipping paths"} & {*names})
    if xmp and behind:  # of the first picture, whose length changes, none need be given
        xmp = _FIRST_ITEM.sub(lambda item: _LENGTH.sub(b"", item[0]), xmp)
    parts = JpegParts(tuple(names), tuple(kept), behind, tuple(pictures), laid_out, lost) if names or lost else None
    return parts, iptc, xmp, [*dict.fromkeys(notes), *notes_behind, *notes_on_xmp]


def write_jpeg_parts(
    file: BinaryIO, jpeg: bytes, parts: JpegParts | None, iptc: bytes | None, aspect: tuple[int, int] | None
) -> None:
    """Writes a JPEG with the parts that belong to it.

    Args:
        file: Where.
        jpeg: The JPEG of one picture, JFIF.
        parts: From `read_jpeg_parts`.
        iptc: From `read_jpeg_parts`.
        aspect: Pixels per unit of length across and down, 1..65535, where only their ratio is known.
    """
    parts = parts or JpegParts()
    if aspect:  # JFIF 1.02: units, X density, Y density
        jpeg = jpeg[:13] + struct.pack(">BHH", 0, *aspect) + jpeg[18:]
    opened, start = io.BytesIO(jpeg), 2
    for marker, _ in segments(opened):
        if not 0xE0 <= marker <= 0xEF and marker != 0xFE:
            break
        start = opened.tell()
    resources = _photoshop_segments(iptc_resource(iptc)) if iptc else ()
    added = b"".join(_segment(*each) for each in (*resources, *parts.segments))
    if parts.pictures:
        size = len(_segment(0xE2, _index(parts.pictures, 0, 0)))
        position = start + len(added) + 4 + len(_INDEX)
        added += _segment(0xE2, _index(parts.pictures, len(jpeg) + len(added) + size, position))
    for content in (jpeg[:start], added, memoryview(jpeg)[start:], parts.behind):
        file.write(content)


def without_lost_claims(
    xmp: bytes | None, told: Collection[str], claims: Mapping[str, tuple[str, ...]] = _CLAIMS
) -> tuple[bytes | None, list[str]]:
    """Takes out of XMP what it says of parts that are lost.

    Args:
        xmp: XMP packet.
        told: Names of parts, such as "gain map", of which the user is told already that they are lost.
        claims: Names of parts that are lost, and of the properties that tell of them, as in `without_claims`.

    Returns:
        The packet, and notes on parts of which it told, or that it is dropped, as it cannot be read.
    """
    lost = set[str]()
    for part, names in claims.items():
        left, damaged = without_claims(xmp, names)
        if damaged:
            return left, damaged
        # A directory tells of gain maps and videos, too.
        if left != xmp and not (part == "pictures behind the first" and {"gain map", "motion photo"} & {*told, *lost}):
            lost.add(part)
        xmp = left
    return xmp, [f"{part} lost, of which XMP told" for part in sorted(lost.difference(told))]


def without_claims(
    xmp: bytes | None, names: tuple[str, ...] = tuple(chain(*_CLAIMS.values()))
) -> tuple[bytes | None, list[str]]:
    """Takes what is no longer true out of XMP.

    Args:
        xmp: XMP packet.
        names: Beginnings of names of properties, each a namespace and the local name; by default, of all that tell of
            other parts of a JPEG file.

    Returns:
        The packet, byte for byte as it was where it has no such property; and a note if it is dropped, as it seems to
        have one and cannot be read, has a document type, or would take much memory.
    """
    namespaces = {re.sub("[^/]*$", "", name).encode() for name in names}
    if xmp is None or not any(namespace in xmp for namespace in namespaces):
        return xmp, []
    damaged = ["damaged XMP dropped"]
    if has_document_type(xmp) or xmp.count(b"<") + xmp.count(b"=") > _MOST_XMP_PARTS:
        return None, damaged
    try:
        document = minidom.parseString(xmp.strip(b"\0 \r\n\t"))
        changed = False
        for element in document.getElementsByTagName("*"):
            for attribute in [*element.attributes.values()]:
                declares = attribute.namespaceURI == XMLNS_NAMESPACE
                if (attribute.value if declares else _name(attribute)).startswith(names):
                    element.removeAttributeNode(attribute)
                    changed |= not declares
            if _name(element).startswith(names) and element.parentNode:
                element.parentNode.removeChild(element)
                changed = True
        return b"".join(node.toxml().encode() for node in document.childNodes) if changed else xmp, []
    except (ExpatError, ValueError, LookupError, AttributeError, RecursionError):
        return None, damaged


def has_document_type(xmp: bytes) -> bool:
    """Tells whether XMP has a document type, whose entities could exhaust the memory.

    Args:
        xmp: XMP packet, UTF-8 or UTF-16.
    """
    return b"<!DOCTYPE" in xmp.replace(b"\0", b"")


def end_of_picture(jpeg: bytes) -> int | None:
    """Finds the end of a JPEG's first picture.

    Args:
        jpeg: The file's content.

    Returns:
        The position behind its end marker; None where it has none.
    """
    ends = (marker.end() for marker in _markers_from_first_scan(jpeg) if marker[1] == b"\xd9")
    return next(ends, None)


def has_more_scans(jpeg: bytes, most: int) -> bool:
    """Tells whether a JPEG's first picture has more than so many scans.

    Args:
        jpeg: The file's content.
        most: How many, 1 or more.
    """
    if jpeg.count(_SCAN) <= most:  # there may be others in what lies before and behind the picture
        return False
    scans = (marker for marker in _markers_from_first_scan(jpeg) if marker[0] == _SCAN)
    return next(islice(scans, most - 1, None), None) is not None


def _markers_from_first_scan(jpeg) -> Iterator[re.Match[bytes]]:
    """Yields the markers behind the first scan's, up to the picture's end or another's start."""
    file = io.BytesIO(jpeg)
    try:
        for _ in segments(file):
            pass
    except (IndexError, ValueError, struct.error, UncommonJpegError):
        return
    position = file.tell()
    while True:  # at the length of a segment: a scan's header, or tables in front of the next scan
        position += int.from_bytes(jpeg[position : position + 2], "big")
        marker = _MARKER.search(jpeg, position)
        if marker is None:
            return
        yield marker
        if marker[1] in (b"\xd8", b"\xd9"):
            return
        position = marker.end()


def iptc_resource(iptc: bytes) -> bytes:
    """Wraps IPTC as the image resource that it is in JPEGs, and in PNGs by custom."""
    return b"8BIM" + struct.pack(">H2xI", _IPTC, len(iptc)) + iptc + bytes(len(iptc) % 2)


def _sort_behind(content, listed, xmp) -> tuple[bytes, list[tuple[int, int, int]], int, list[str], list[str]]:
    """Keeps gain maps, videos and all that XMP counts on.

    Returns:
        Their bytes and pictures, how many pictures are lost that are no previews, their names, and notes.
    """
    end = end_of_picture(content) or len(content)
    listed = [each for each in listed if each[1] >= end]
    rest, position = [], end
    for _, start, size in listed:
        rest.append((position, start))
        position = start + size
    rest.append((position, len(content)))
    unlisted = b"".join(content[start:stop] for start, stop in rest)

    counted, claimed = _CONTAINER.encode() in xmp, _GAIN_MAP.encode() in xmp
    gain_maps = [each for each in listed if each[0] == _GAIN_MAP_TYPE or _has_gain_map_sign(content, each)]
    if counted or (claimed and not gain_maps):
        carried = [each for each in listed if each[0] not in _PREVIEW_TYPES]
    else:
        carried = gain_maps
    pictured = bool(carried) or ((counted or claimed) and unlisted.startswith(b"\xff\xd8"))
    video, trailer = bool(_VIDEO.search(unlisted)), unlisted.endswith(b"SEFT")
    names = []
    if pictured:
        names.append("gain map" if claimed or gain_maps else "pictures behind the first")
    if video:
        names.append("motion photo")
    elif trailer:
        names.append("Samsung trailer")
    notes, others = [], len(listed) - len(carried)
    lost = sum(each not in carried and each[0] not in _PREVIEW_TYPES for each in listed)
    if others:
        notes.append(f"first of {others + 1} pictures taken")
    if not names or not (video or trailer or counted or not carried):
        if unlisted.strip(b"\0\xff"):
            notes.append(f"{len(unlisted)} bytes behind the picture dropped")
        rest = []
    pieces = sorted(
        [(start, stop, None) for start, stop in rest] + [(at, at + size, kind) for kind, at, size in carried]
    )
    behind, pictures = io.BytesIO(), []
    for start, stop, kind in pieces:
        if kind is not None:
            pictures.append((kind, behind.tell(), stop - start))
        behind.write(content[start:stop])
    return behind.getvalue(), pictures, lost, names, notes


def _has_gain_map_sign(content, picture) -> bool:
    _, start, size = picture
    return any(content.find(sign, start, start + min(size, 2**17)) >= 0 for sign in _GAIN_MAP_SIGNS)


def _listed_pictures(index, position, content) -> Iterator[tuple[int, int, int]]:
    """Yields type, start and size of the pictures behind the first; `position` is the index's in the file."""
    order = {b"II*\0": "<", b"MM\0*": ">"}[index[:4]]
    [directory] = struct.unpack_from(f"{order}I", index, 4)
    [number] = struct.unpack_from(f"{order}H", index, directory)
    starts = range(directory + 2, directory + 2 + 12 * number, 12)
    tags = (struct.unpack_from(f"{order}HHII", index, at) for at in starts)
    # The first list alone, as each more could give the same pictures, to be copied, again.
    _, _, length, value = next((tag for tag in tags if tag[0] == 0xB002), (0, 0, 0, 0))
    entries = (struct.unpack_from(f"{order}III", index, at) for at in range(value, value + length, 16))
    end = 0
    for kind, size, offset in sorted(entries, key=lambda entry: entry[2]):
        start = position + offset
        if offset and size and start >= end and content[start : start + 2] == b"\xff\xd8":
            end = min(start + size, len(content))
            yield kind & 0xFFFFFF, start, end - start


def _index(pictures, size, position) -> bytes:
    """Makes an index (CIPA DC-007, 5.2) for a first picture of `size` bytes that holds it at `position`."""
    count = len(pictures) + 1
    head = b"MM\0*" + struct.pack(">IH", 8, 3)
    head += struct.pack(">HHI4s", 0xB000, 7, 4, b"0100") + struct.pack(">HHII", 0xB001, 4, 1, count)
    head += struct.pack(">HHIII", 0xB002, 7, 16 * count, 50, 0)
    entries = [(_PRIMARY_TYPE, size, 0), *((kind, length, size + start - position) for kind, start, length in pictures)]
    return _INDEX + head + b"".join(struct.pack(">III4x", *entry) for entry in entries)


def _resources(content) -> Iterator[tuple[int, bytes, bytes]]:
    """Yields numbers and values of image resources, and the whole of each."""
    at = 0
    with suppress(IndexError, struct.error):  # cut off
        while _RESOURCE.match(content, at):
            [number] = struct.unpack_from(">H", content, at + 4)
            value = at + 6 + (content[at + 6] + 2) // 2 * 2 + 4  # behind a name, padded to even length, and a size
            [size] = struct.unpack_from(">I", content, value - 4)
            end = value + size
            if end > len(content):
                return
            yield number, content[value:end], content[at:end] + bytes(size % 2)
            at = end + size % 2


def _photoshop_segments(resources) -> list[tuple[int, bytes]]:
    step = _LONGEST_SEGMENT - len(_PHOTOSHOP)
    return [(0xED, _PHOTOSHOP + resources[at : at + step]) for at in range(0, len(resources), step)]


def _segment(marker, content) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _among(kinds, marker, content):
    return next((kind for kind in kinds if marker == kind[0] and content.startswith(kind[1])), None)


def _name(node) -> str:
    return f"{node.namespaceURI or ''}{node.localName}"
