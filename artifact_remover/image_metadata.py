"""What belongs to a picture beside its pixels: EXIF, XMP, ICC profile, resolution, comment."""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP_KEYWORD = b"XML:com.adobe.xmp"
"""Of the chunk that holds a PNG's XMP."""

# What of a TIFF's directory describes the picture rather than its storage, and so is EXIF as well (EXIF 2.32, tables 3
# and 4): title, make, model, orientation, resolution, software, date, artist, host, copyright, Exif, GPS; rating, IPTC
# and what Windows adds.
DESCRIPTIVE_TAGS = frozenset(
    {270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 316, 18246, 18249, 33432, 33723, 34665, 34853}
    | set(range(40091, 40096))
)
"""Tags of a TIFF's first directory that are kept."""

# Chunks that are copied from PNG to PNG (PNG specification, third edition, section 11.3).
_PNG_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION = ExifTags.Base.Orientation
_ORIENTATION_IN_XMP = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)([1-8])")


@dataclass(frozen=True)
class Metadata:
    """What belongs to a picture beside its pixels.

    Attributes:
        icc_profile: ICC.1 profile whose colour space is that of the pixels, gray or RGB.
        exif: EXIF 2.32 as a TIFF file, without the "Exif" in front of it; byte for byte as it was read.
        xmp: XMP packet.
        dpi: Pixels per inch, across and down.
        comment: Comment, UTF-8 or of unknown encoding.
        png_chunks: Types and contents of a PNG's colour and text chunks.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()


def read_metadata(info: dict, format: str, file: BinaryIO) -> tuple[Metadata, list[str]]:
    """Gathers what Pillow has read, and the chunks of a PNG that it passes over.

    Args:
        info: Of Pillow's picture.
        format: Pillow's name of the file format.
        file: The picture's, which can seek.

    Returns:
        The metadata, and notes on what is damaged.
    """
    notes = []
    exif = (info.get("exif") or b"").removeprefix(b"Exif\0\0") or None
    try:
        list(exif_entries(exif or b""))
    except (KeyError, struct.error):
        exif, notes = None, ["damaged EXIF dropped"]
    xmp, comment = info.get("xmp"), info.get("Comment" if format == "PNG" else "comment")
    if xmp and b"HasExtendedXMP" in xmp:
        notes.append("extended XMP dropped")
    chunks = tuple(_png_chunks(file)) if format == "PNG" else ()
    comment = comment.encode(errors="replace") if isinstance(comment, str) else comment
    return Metadata(
        info.get("icc_profile") or None, exif, xmp or None, _dpi(info, format, exif), comment or None, chunks
    ), notes


def exif_of_tiff(image: Image.Image) -> bytes:
    """Makes EXIF of what a TIFF says about its picture."""
    try:
        exif = image.getexif()
        for tag in list(exif):
            if tag not in DESCRIPTIVE_TAGS:
                del exif[tag]
        return exif.tobytes() if len(exif) else b""
    except Exception:  # whatever Pillow's parser meets, the picture can do without
        return b"damaged"


def with_fitting_profile(metadata: Metadata, pixels: np.ndarray) -> tuple[Metadata, list[str]]:
    """Drops a profile that is not for the pixels, as readers would refuse the picture or show wrong colours.

    Args:
        metadata: Of the picture.
        pixels: [H, W, C], C 1 (gray) or 3 (RGB), any dtype and range.

    Returns:
        The metadata, and a note if the profile is dropped.
    """
    profile = metadata.icc_profile
    space = b"GRAY" if pixels.shape[2] == 1 else b"RGB "
    if profile is None or (profile[16:20] == space and profile[36:40] == b"acsp"):
        return metadata, []
    return replace(metadata, icc_profile=None), ["ICC profile of another colour space dropped"]


def orientation_of(metadata: Metadata) -> int:
    """Tells the orientation, 1..8, by EXIF or else by XMP."""
    for directory, form, position in _orientation_fields(metadata.exif or b""):
        if directory == 0:
            [value] = struct.unpack_from(form, metadata.exif, position)
            return value if 1 <= value <= 8 else 1
    in_xmp = _ORIENTATION_IN_XMP.search(metadata.xmp or b"")
    return int(in_xmp[2]) if in_xmp else 1


def upright(metadata: Metadata, orientation: int) -> Metadata:
    """Tells the metadata that the picture has been turned upright from this orientation."""
    exif = bytearray(metadata.exif or b"")
    for _, form, position in _orientation_fields(metadata.exif or b""):
        struct.pack_into(form, exif, position, 1)
    return replace(
        metadata,
        # only this value changes, as maker notes point to places in the EXIF
        exif=bytes(exif) or None,
        xmp=_ORIENTATION_IN_XMP.sub(rb"\g<1>1", metadata.xmp) if metadata.xmp else None,
        dpi=metadata.dpi[::-1] if metadata.dpi and orientation >= 5 else metadata.dpi,
    )


def exif_entries(exif: bytes) -> Iterator[tuple[str, int, int, int, int, int]]:
    """Finds byte order, directory (1 is the thumbnail's), tag, type, count and position of each entry (TIFF 6.0)."""
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


def states_resolution(exif: bytes | None) -> bool:
    """Tells whether EXIF holds the picture's resolution."""
    return any(
        tag == ExifTags.Base.XResolution for _, directory, tag, *_ in exif_entries(exif or b"") if directory == 0
    )


def _orientation_fields(exif: bytes) -> Iterator[tuple[int, str, int]]:
    for order, directory, tag, kind, _, position in exif_entries(exif):
        if tag == _ORIENTATION and kind in (3, 4):
            yield directory, order + {3: "H", 4: "I"}[kind], position + 8


def _dpi(info, format, exif) -> tuple[float, float] | None:
    if format in ("JPEG", "MPO", "TIFF") and not info.get("jfif_unit") and not states_resolution(exif):
        return None  # Pillow's own guess
    try:
        across, down = (float(each) for each in info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if min(across, down) > 0.01 and max(across, down) < 65535 else None


def _png_chunks(file) -> Iterator[tuple[bytes, bytes]]:
    file.seek(len(PNG_SIGNATURE))
    while len(start := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", start)
        if name in _PNG_CHUNKS and length < ImageFile.SAFEBLOCK:
            content = file.read(length)
            if not content.startswith((XMP_KEYWORD, b"Comment\0")):  # written from what they say
                yield name, content
            file.seek(4, io.SEEK_CUR)
        else:
            file.seek(length + 4, io.SEEK_CUR)
