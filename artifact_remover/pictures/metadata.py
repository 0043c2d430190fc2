"""Metadata of pictures: EXIF, XMP, IPTC, ICC profile, resolution, comment, chunks of a PNG, and parts of a JPEG."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, ImageFile

from artifact_remover.pictures.jpeg_container import (
    SIGNATURE_CLAIM,
    SIGNATURE_DROPPED,
    JpegParts,
    read_jpeg_parts,
    without_claims,
    without_lost_claims,
)
from artifact_remover.pictures.lost_parts import find_lost_parts
from data_prep.png import PNG_TEXT_LIMIT, png_chunks

XMP_KEYWORD = b"XML:com.adobe.xmp"
"""Keyword of the iTXt chunk that holds a PNG's XMP."""

# A TIFF's first directory holds tags that describe the picture and tags that describe how it is stored. EXIF has the
# former too (EXIF 2.32, tables 3 and 4): title, make, model, orientation, resolution, software, date, artist, host,
# copyright, Exif, GPS. Beside them: what processed it, the document's name, rating, IPTC, when it was made,
# the tags that Windows adds, and how cameras want it printed (PrintIM).
IPTC_TAG = 33723
DESCRIPTIVE_TAGS = frozenset(
    {11, 269, 270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 316, 18246, 18249, 33432, IPTC_TAG, 34665, 34853, 36867}
    | {*range(40091, 40096), 50341}
)
"""Tags of a TIFF's first directory that are kept, as they describe the picture."""

# GeoTIFF 1.1 (OGC 19-008r4), and below 42112 and 42113 GDAL's notes and the value that stands for no data.
_GEOREFERENCE_TAGS = frozenset({33550, 33920, 33922, 34264, 34735, 34736, 34737, 42112, 42113})

_SIGNATURE_TAG = 52545  # C2PA 2.1, appendix A

# Chunks that are copied from PNG to PNG (PNG specification, third edition, section 11.3).
_PNG_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION = ExifTags.Base.Orientation
_RESOLUTIONS = (ExifTags.Base.XResolution, ExifTags.Base.YResolution)
_SUB_DIRECTORIES = ((34665, 34853), (40965,), ())  # by depth: Exif and GPS in the first directory, Interop in Exif
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes by type (TIFF 6.0)
_NCLX = re.compile(rb"colrnclx(.{4})", re.DOTALL)  # colors of an AVIF (ISO/IEC 14496-12, 12.1.5)
_SRGB_CHRM = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_ORIENTATION_IN_XMP = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)([1-8])")


@dataclass(frozen=True)
class Metadata:
    """The metadata of a picture that are kept when it is restored.

    Attributes:
        icc_profile: ICC.1 profile whose color space is that of the pixels, gray or RGB.
        exif: EXIF 2.32 as a TIFF file, without the "Exif" in front of it; byte for byte as it was read.
        xmp: XMP packet.
        dpi: Pixels per inch, across and down.
        comment: Comment, UTF-8 or of unknown encoding.
        png_chunks: Types and contents of a PNG's color chunks and text chunks.
        aspect: Pixels per unit of length, across and down, where only their ratio is known, as the unit is not.
        iptc: IPTC (IIM 4.2); that of a TIFF is in its EXIF, too.
        jpeg_parts: What no other format can hold.
        georeference: Tag, type as `struct` writes it, and values of each tag that places a TIFF on the Earth.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()
    aspect: tuple[int, int] | None = None
    iptc: bytes | None = None
    jpeg_parts: JpegParts | None = None
    georeference: tuple[tuple[int, str, bytes | list], ...] = ()


def read_metadata(info: dict, format: str, file: BinaryIO) -> tuple[Metadata, list[str]]:
    """Gathers the metadata that Pillow has read, and reads those that it ignores from the file.

    Args:
        info: The `info` of Pillow's picture.
        format: Pillow's name of the file format.
        file: The picture's file, which can seek.

    Returns:
        The metadata, and notes on what is damaged or cannot be kept.
    """
    notes = []
    if format == "PNG":  # Pillow keeps the texts among the rest, whatever their keyword
        info = {name: value for name, value in info.items() if name == "Comment" or not isinstance(value, str)}
    exif, georeference, signed = _read_tiff(file) if format == "TIFF" else (info.get("exif"), (), False)
    exif = (exif or b"").removeprefix(b"Exif\0\0") or None
    try:
        list(exif_entries(exif or b""))
    except (KeyError, struct.error):
        exif, notes = None, ["damaged EXIF dropped"]
    xmp, comment = info.get("xmp"), info.get("Comment" if format == "PNG" else "comment")
    parts, iptc = None, _iptc_of_tiff(exif) if format == "TIFF" else None
    if format in ("JPEG", "MPO"):
        parts, iptc, xmp, jpeg_notes = read_jpeg_parts(file, xmp)
        notes += jpeg_notes
    lost = find_lost_parts(file, format) + ([SIGNATURE_DROPPED] if signed else [])
    notes += [note for note in lost if note not in notes]
    if parts is None:  # its claims are true, or gone already
        xmp, claim_notes = without_lost_claims(xmp, [note.removesuffix(" dropped") for note in lost])
        notes += claim_notes
    if SIGNATURE_DROPPED in notes:
        xmp, claim_notes = without_claims(xmp, SIGNATURE_CLAIM)
        notes += claim_notes
    if format in ("AVIF", "HEIF") and not info.get("icc_profile") and not _is_srgb_avif(file):
        notes.append("color description dropped, the colors are taken for sRGB")
    chunks, too_much = _kept_png_chunks(file) if format == "PNG" else ((), [])
    notes += too_much
    comment = comment.encode(errors="replace") if isinstance(comment, str) else comment
    dpi = _dpi(info, format, exif)
    return Metadata(
        icc_profile=info.get("icc_profile") or None,
        exif=exif,
        xmp=xmp or None,
        dpi=dpi,
        comment=comment or None,
        png_chunks=tuple(chunk for chunk in chunks if chunk[0] != b"pHYs"),
        aspect=None if dpi else _aspect(info, chunks),
        iptc=iptc or None,
        jpeg_parts=parts,
        georeference=georeference,
    ), notes


def _read_tiff(file: BinaryIO) -> tuple[bytes, tuple[tuple[int, str, bytes | list], ...], bool]:
    """Makes EXIF of the tags with which a TIFF or BigTIFF describes its picture, and reads its georeference.

    Values are copied byte for byte. Pillow would change some: it reads text as ASCII, and IPTC as numbers. tifffile
    writes no EXIF directories.

    Args:
        file: The TIFF, which can seek.

    Returns:
        A TIFF that holds the descriptive tags only; b"" where there are none, b"damaged" where they cannot be read. The
        georeference, as in `Metadata`. And whether there is a C2PA signature.
    """
    try:
        file.seek(0)
        start = file.read(16)
        order = {b"II": "<", b"MM": ">"}[start[:2]]
        big = struct.unpack_from(f"{order}H", start, 2) == (43,)
        [position] = struct.unpack_from(f"{order}Q", start, 8) if big else struct.unpack_from(f"{order}I", start, 4)
        directory = _read_directory(file, order, big, position)
        georeference, signed = [], bool(directory.pop(_SIGNATURE_TAG, None))
        for tag in _GEOREFERENCE_TAGS & directory.keys():
            kind, count, value = directory.pop(tag)
            if kind == 2:
                georeference.append((tag, "s", value))
            elif kind in (3, 12):
                letter = "H" if kind == 3 else "d"
                georeference.append((tag, letter, list(struct.unpack(f"{order}{count}{letter}", value))))
        head = start[:2] + struct.pack(f"{order}HI", 42, 8)
        return head + _pack_directory(directory, order, 8) if directory else b"", tuple(georeference), signed
    except (KeyError, ValueError, OverflowError, OSError, struct.error):  # the picture is restored without them
        return b"damaged", (), False


def _iptc_of_tiff(exif) -> bytes | None:
    for order, directory, tag, kind, count, position in exif_entries(exif or b""):
        if directory == 0 and tag == IPTC_TAG and count * _TIFF_SIZES[kind] > 4:
            [start] = struct.unpack_from(f"{order}I", exif, position + 8)
            return exif[start : start + count * _TIFF_SIZES[kind]]
    return None


def with_fitting_profile(metadata: Metadata, pixels: np.ndarray) -> tuple[Metadata, list[str]]:
    """Drops an ICC profile that is damaged, or made for another color space than the pixels'.

    Other programs would refuse the picture or show wrong colors.

    Args:
        metadata: The picture's metadata.
        pixels: [H, W, C], C 1 (gray) or 3 (RGB), any dtype and range.

    Returns:
        The metadata, and a note if the profile is dropped.
    """
    profile = metadata.icc_profile
    if profile is None:
        return metadata, []
    if profile[36:40] != b"acsp" or int.from_bytes(profile[:4], "big") > len(profile):
        return replace(metadata, icc_profile=None), ["damaged ICC profile dropped"]
    if profile[16:20] != (b"GRAY" if pixels.shape[2] == 1 else b"RGB "):
        return replace(metadata, icc_profile=None), ["ICC profile of another color space dropped"]
    return metadata, []


def without_jpeg_parts(metadata: Metadata, format: str) -> tuple[Metadata, list[str]]:
    """Leaves out the parts that only a JPEG can hold, and what the XMP says of them.

    Args:
        metadata: The picture's metadata.
        format: The name of the format, for the notes.

    Returns:
        The metadata, and notes on what is lost.
    """
    if metadata.jpeg_parts is None:
        return metadata, []
    xmp, notes = without_lost_claims(metadata.xmp, metadata.jpeg_parts.names)
    lost = [f"{name} dropped, {format} cannot hold it" for name in metadata.jpeg_parts.names]
    return replace(metadata, xmp=xmp, jpeg_parts=None), lost + notes


def orientation_of(metadata: Metadata) -> int:
    """Tells EXIF's orientation, 1..8; that of XMP is not heeded, as browsers do not."""
    exif = metadata.exif or b""
    for directory, form, position in _orientation_fields(exif):
        if directory == 0:
            [value] = struct.unpack_from(form, exif, position)
            return value if 1 <= value <= 8 else 1
    return 1


def upright(metadata: Metadata, orientation: int) -> tuple[Metadata, list[str]]:
    """Changes the metadata of a picture that has been turned upright.

    Args:
        metadata: The picture's metadata from before.
        orientation: EXIF's, 1..8, that it had before.

    Returns:
        The metadata with orientation 1, and a note if the EXIF's thumbnail is dropped, which would lie sideways.
        Resolutions across and down are swapped where width and height were. They stay as they are where the picture
        was upright.
    """
    if orientation == 1:
        return metadata, []
    exif = bytearray(metadata.exif or b"")
    for _, form, position in _orientation_fields(metadata.exif or b""):
        struct.pack_into(form, exif, position, 1)
    thumbnail = has_thumbnail(metadata.exif)
    if thumbnail:
        order = "<" if exif.startswith(b"II") else ">"
        [start] = struct.unpack_from(f"{order}I", exif, 4)
        [entries] = struct.unpack_from(f"{order}H", exif, start)
        struct.pack_into(f"{order}I", exif, start + 2 + 12 * entries, 0)  # where the thumbnail's directory is
    sideways = orientation >= 5
    if sideways:
        _swap_resolutions(exif)
    turned = replace(
        metadata,
        # The length must stay: maker notes refer to positions in the EXIF.
        exif=bytes(exif) or None,
        xmp=_ORIENTATION_IN_XMP.sub(rb"\g<1>1", metadata.xmp) if metadata.xmp else None,
        dpi=metadata.dpi[::-1] if metadata.dpi and sideways else metadata.dpi,
        aspect=metadata.aspect[::-1] if metadata.aspect and sideways else metadata.aspect,
    )
    return turned, ["EXIF thumbnail dropped, as the picture was turned"] if thumbnail else []


def exif_entries(exif: bytes) -> Iterator[tuple[str, int, int, int, int, int]]:
    """Yields the entries of EXIF's first two directories (TIFF 6.0).

    Args:
        exif: EXIF as a TIFF file; may be empty.

    Yields:
        Byte order as `struct` writes it, directory (0 is the picture's, 1 the thumbnail's), tag, type, count, and the
        entry's position in bytes.

    Raises:
        KeyError: If it does not begin like a TIFF.
        struct.error: If the picture's directory is cut off.
    """
    if not exif:
        return
    order = {b"II*\0": "<", b"MM\0*": ">"}[exif[:4]]
    [start] = struct.unpack_from(f"{order}I", exif, 4)
    for directory in (0, 1):
        [entries] = struct.unpack_from(f"{order}H", exif, start)
        positions = range(start + 2, start + 2 + 12 * entries, 12)
        if directory and positions.stop > len(exif):
            return  # the thumbnail's may be damaged
        for position in positions:
            yield order, directory, *struct.unpack_from(f"{order}HHI4x", exif, position), position
        # Many writers end the last directory without the offset of a next one.
        following = exif[positions.stop : positions.stop + 4].ljust(4, b"\0")
        [start] = struct.unpack(f"{order}I", following)
        if not 0 < start < len(exif) - 2:
            return


def has_thumbnail(exif: bytes | None) -> bool:
    """Tells whether EXIF holds a thumbnail."""
    return any(directory == 1 for _, directory, *_ in exif_entries(exif or b""))


def states_resolution(exif: bytes | None) -> bool:
    """Tells whether EXIF holds the picture's resolution."""
    return any(
        tag == ExifTags.Base.XResolution for _, directory, tag, *_ in exif_entries(exif or b"") if directory == 0
    )


def chunks_of_png_only(metadata: Metadata) -> list[str]:
    """Names the metadata that only a PNG's chunks can hold, so that they are lost in other formats."""
    texts = [content for name, content in metadata.png_chunks if name.endswith(b"Xt")]
    comments = sum(content.startswith(b"Comment\0") for content in texts)
    names = ["PNG text"] if len(texts) > comments or comments > 1 else []
    return names + ([] if _is_srgb_png(metadata) else ["PNG color description"])


def _is_srgb_png(metadata) -> bool:
    # one overrides the next: cICP, ICC profile, sRGB, gAMA and cHRM (PNG specification, third edition, section 4.3)
    chunks = dict(metadata.png_chunks)
    if b"cICP" in chunks:
        return _is_like_srgb(*chunks[b"cICP"][:2])
    if metadata.icc_profile or b"sRGB" in chunks:
        return True
    found = chunks.get(b"gAMA", b"") + chunks.get(b"cHRM", b"")
    expected = ((45455,) if b"gAMA" in chunks else ()) + (_SRGB_CHRM if b"cHRM" in chunks else ())
    if len(found) != 4 * len(expected):
        return False
    return all(abs(a - b) < 200 for a, b in zip(struct.unpack(f">{len(expected)}I", found), expected, strict=True))


def _is_srgb_avif(file) -> bool:
    file.seek(0)
    nclx = _NCLX.search(file.read(4096))
    return nclx is None or _is_like_srgb(*struct.unpack(">HH", nclx[1]))


def _is_like_srgb(primaries=None, transfer=None) -> bool:
    # ITU-T H.273: of BT.709 or unspecified; of BT.709, unspecified, BT.601 or sRGB
    return primaries in (1, 2) and transfer in (1, 2, 6, 13)


def _read_directory(file, order, big, position, depth=0) -> dict[int, tuple[int, int, Any]]:
    """Reads types, counts and values of a TIFF's directory by tag, its sub-directories as directories."""
    file.seek(position)
    [number] = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
    size = 20 if big else 12
    if number > 4096:
        raise ValueError("more entries than anybody writes")
    entries: dict[int, tuple[int, int, Any]] = {}
    table, total = file.read(number * size), 0
    for start in range(0, number * size, size):
        tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), table, start)
        value = table[start + (12 if big else 8) : start + size]
        if tag in _SUB_DIRECTORIES[depth]:
            [position] = struct.unpack_from(order + ("Q" if kind in (16, 18) else "I"), value)
            entries[tag] = 4, 1, _read_directory(file, order, big, position, depth + 1)
        elif not depth and tag == _SIGNATURE_TAG:
            entries[tag] = kind, 0, b""  # that it is there suffices
        elif kind in _TIFF_SIZES and (depth or tag in DESCRIPTIVE_TAGS | _GEOREFERENCE_TAGS):
            length = count * _TIFF_SIZES[kind]
            total += length
            if total > 16 * ImageFile.SAFEBLOCK:
                raise ValueError("more than anybody writes")
            if length > len(value):
                [position] = struct.unpack(order + ("Q" if big else "I"), value)
                file.seek(position)
                value = file.read(length)
            if len(value) < length:
                raise ValueError("beyond the file's end")
            entries[tag] = kind, count, value[:length]
    return entries


def _pack_directory(directory, order, position) -> bytes:
    """Makes a directory for this position, followed by the values that are too long for its entries."""
    entries, values = b"", b""
    position += 2 + 12 * len(directory) + 4
    for tag, (kind, count, value) in sorted(directory.items()):
        if isinstance(value, dict):
            value = _pack_directory(value, order, position + len(values))
        elif len(value) <= 4:
            entries += struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")
            continue
        entries += struct.pack(f"{order}HHII", tag, kind, count, position + len(values))
        values += value + bytes(len(value) % 2)
    return struct.pack(f"{order}H", len(directory)) + entries + bytes(4) + values


def _swap_resolutions(exif: bytearray) -> None:
    found = list(_resolution_fields(bytes(exif)))
    if len(found) == 2 and found[0][1] == found[1][1]:
        (*_, one), (*_, other) = found
        exif[one : one + 4], exif[other : other + 4] = exif[other : other + 4], exif[one : one + 4]


def _resolution_fields(exif: bytes) -> Iterator[tuple[str, int, int]]:
    for order, directory, tag, kind, _, position in exif_entries(exif):
        if directory == 0 and tag in _RESOLUTIONS:
            yield order, kind, position + 8


def _orientation_fields(exif: bytes) -> Iterator[tuple[int, str, int]]:
    for order, directory, tag, kind, _, position in exif_entries(exif):
        if tag == _ORIENTATION and kind in (3, 4):
            yield directory, order + {3: "H", 4: "I"}[kind], position + 8


def _dpi(info, format, exif) -> tuple[float, float] | None:
    found = [info.get("dpi")]
    if format in ("JPEG", "MPO"):  # JFIF's is often a program's default; that of Pillow, too, where there is none
        found = [_exif_dpi(exif), info.get("dpi") if info.get("jfif_unit") else None]
    elif format == "TIFF" and not states_resolution(exif):
        return None  # the file says nothing, Pillow assumes a value
    for dpi in found:
        try:
            across, down = (float(each) for each in dpi)
        except (TypeError, ValueError, ZeroDivisionError):
            continue
        if min(across, down) > 0.01 and max(across, down) < 65535:
            return across, down
    return None


def _aspect(info, chunks) -> tuple[int, int] | None:
    across, down = info.get("jfif_density", (1, 1)) if info.get("jfif_unit") == 0 else (1, 1)
    if ratio := dict(chunks).get(b"pHYs"):
        across, down = struct.unpack_from(">II", ratio)
    if across == down or not across or not down:
        return None
    aspect = Fraction(across, down).limit_denominator(65535)  # what a JPEG can hold
    return (aspect.numerator, aspect.denominator) if 0 < aspect.numerator < 65536 else None


def _exif_dpi(exif) -> tuple[float, float] | None:
    if not states_resolution(exif):
        return None
    resolutions, per_inch = [], 1.0
    try:
        for order, kind, position in _resolution_fields(exif):
            if kind == 5:
                over, under = struct.unpack_from(f"{order}II", exif, *struct.unpack_from(f"{order}I", exif, position))
                resolutions.append(over / under)
        for order, directory, tag, *_, position in exif_entries(exif):
            if directory == 0 and tag == ExifTags.Base.ResolutionUnit:
                [unit] = struct.unpack_from(f"{order}H", exif, position + 8)
                per_inch = {1: 0.0, 3: 2.54}.get(unit, 1.0)
    except (ZeroDivisionError, struct.error):
        return None
    return (resolutions[0] * per_inch, resolutions[-1] * per_inch) if resolutions else None


def _kept_png_chunks(file) -> tuple[tuple[tuple[bytes, bytes], ...], list[str]]:
    kept, left, notes = [], PNG_TEXT_LIMIT, []
    for name, length in png_chunks(file):
        if name in _PNG_CHUNKS and length > left:
            notes = [f"PNG text beyond {PNG_TEXT_LIMIT >> 20} MiB dropped"]
        elif name in _PNG_CHUNKS:
            content = file.read(length)
            # XMP and dpi are kept as such, so that their chunks are not copied.
            if not content.startswith(XMP_KEYWORD) and (name != b"pHYs" or content[8:] == b"\0"):
                kept.append((name, content))
                left -= length
    return tuple(kept), notes
