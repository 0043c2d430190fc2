"""Chroma subsampling of lossy WebPs, AVIFs and HEICs, read from their headers."""

import re
from typing import BinaryIO

from artifact_remover.pictures.lost_parts import riff_chunks

# Of the decoder's configuration of each item: AV1 Codec ISO Media File Format Binding, 2.3; ISO/IEC 14496-15, 8.3.3.
_CONFIGURATION = re.compile(rb"av1C\x81.(?P<av1>.)|hvcC\x01.{15}(?P<hevc>.)", re.DOTALL)
_SEARCHED = 2**20  # the configurations stand before the data in what encoders write


def is_chroma_subsampled(format: str, file: BinaryIO) -> bool:
    """Tells whether a picture's chroma was subsampled when it was compressed.

    Args:
        format: Pillow's name of the file format.
        file: Must be able to seek.

    Returns:
        Whether it is a lossy WebP, which is always 4:2:0 (RFC 6386), or an AVIF or HEIC of 4:2:0 or 4:2:2. No for other
        formats; `read_jpeg_header` tells it of a JPEG.
    """
    if format == "WEBP":
        return _is_lossy_webp(file)
    if format not in ("AVIF", "HEIF"):
        return False
    file.seek(0)
    return any(map(_is_subsampled, _CONFIGURATION.finditer(file.read(_SEARCHED))))


def _is_lossy_webp(file, position=12) -> bool:
    for name in riff_chunks(file, position):
        if name == b"ANMF":  # the chunks of an animation's frame stand behind its place and duration
            return _is_lossy_webp(file, file.tell() + 16)
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8 "
    return False


def _is_subsampled(configuration) -> bool:
    if av1 := configuration["av1"]:
        monochrome, subsampled = av1[0] & 0x10, av1[0] & 0x0C
        return bool(subsampled and not monochrome)
    return configuration["hevc"][0] & 3 in (1, 2)
