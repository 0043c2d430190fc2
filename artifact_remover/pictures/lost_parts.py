"""The parts of files other than JPEGs that no result can hold, such as gain maps and signatures."""

import re
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from artifact_remover.pictures.jpeg_container import SIGNATURE_DROPPED
from artifact_remover.pictures.jpeg_xl import DecodedJpegXl, boxes
from data_prep.png import png_chunks

_LOST = {
    # C2PA 2.1, appendix A: of a PNG, of a WebP, of AVIF and HEIC, of a JPEG XL
    b"caBX": SIGNATURE_DROPPED,
    b"C2PA": SIGNATURE_DROPPED,
    bytes.fromhex("d8fec3d61b0e483c92975828877ec481"): SIGNATURE_DROPPED,
    b"jumb": SIGNATURE_DROPPED,
    b"gdAT": "gain map dropped",  # of a PNG, as Skia writes it
    b"tmap": "gain map dropped",  # of AVIF and HEIC, an item as of ISO 21496-1
    b"jhgm": "gain map dropped",  # of a JPEG XL (ISO/IEC 18181-2)
    b"mpvd": "motion photo dropped",  # of AVIF and HEIC (Android's Motion Photo format 1.0)
    b"auxC": "depth and other auxiliary pictures dropped",  # of AVIF and HEIC
}
_ITEM_TYPE = re.compile(rb"infe(?:\x02.{7}|\x03.{9})(.{4})", re.DOTALL)  # ISO/IEC 14496-12, 8.11.6
_AUXILIARY = re.compile(rb"auxC\0{4}([^\0]+)\0")  # ISO/IEC 23008-12, 6.5.8
_ALPHA = re.compile(rb"urn:mpeg:(mpegB:cicp:systems:auxiliary:alpha|(hevc|avc):2015:auxid:1)")


def find_lost_parts(file: BinaryIO, format: str) -> list[str]:
    """Tells which parts beside picture and metadata are dropped.

    Args:
        file: A file, which can seek; of a JPEG XL, what it was decoded to.
        format: Pillow's name of its format; a JPEG's own parts are told by `read_jpeg_parts`.

    Returns:
        Notes such as "gain map dropped", each once.
    """
    kinds = file.boxes if isinstance(file, DecodedJpegXl) else frozenset[bytes]()
    if format == "PNG":
        kinds = kinds.union(name for name, _ in png_chunks(file))
    elif format == "WEBP":
        kinds = kinds.union(riff_chunks(file))
    elif format in ("AVIF", "HEIF"):
        file.seek(0)
        kinds = kinds.union(_kinds_in_boxes(file.read()))
    return tell_lost(kinds)


def tell_lost(kinds: Iterable[bytes]) -> list[str]:
    """Tells which parts are dropped, by the types of a file's chunks, boxes and items."""
    return sorted({_LOST[kind] for kind in kinds if kind in _LOST})


def riff_chunks(file: BinaryIO, position: int = 12) -> Iterator[bytes]:
    """Yields the names of the chunks of a WebP (RFC 9649), the file at each one's content.

    Args:
        file: Must be able to seek; may be read and sought between the names.
        position: Of the first one, in bytes from the file's start.
    """
    while file.seek(position) and len(start := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", start)
        yield name
        position += 8 + length + length % 2


def _kinds_in_boxes(content) -> Iterator[bytes]:
    for kind, start, end in boxes(content):
        yield content[start : start + 16] if kind == b"uuid" else kind
        if kind == b"meta":
            yield from _ITEM_TYPE.findall(content, start, end)
            for name in _AUXILIARY.findall(content, start, end):
                if name.endswith(b"hdrgainmap"):  # Apple's
                    yield b"tmap"
                elif not _ALPHA.fullmatch(name):
                    yield b"auxC"
