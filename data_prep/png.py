"""PNGs as their specification has them, where Pillow reads them otherwise: long texts, and the transparent color."""

import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from typing import BinaryIO

from PIL import Image, PngImagePlugin

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TEXT_LIMIT = 2**26
"""Bytes of text, decompressed, in a PNG that is read, and of its ICC profile; a small file may hold a thousandfold."""

_LOCK = threading.RLock()


@contextmanager
def long_texts() -> Iterator[None]:
    """Has Pillow read PNGs with long texts and profiles, up to `PNG_TEXT_LIMIT`, for the calls inside only.

    Pillow keeps its limits in module variables, so one thread at a time is inside; others wait.
    """
    with _LOCK:
        limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
        # All the text that Pillow takes may stand in a single chunk: workflows of image generators are megabytes long.
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = PNG_TEXT_LIMIT
        try:
            yield
        finally:
            PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = limits


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yields type and length of each chunk of a PNG, the file being at its content; up to where the file ends."""
    position = len(PNG_SIGNATURE)
    while file.seek(position) and len(start := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", start)
        yield name, length
        position += 12 + length


def read_behind_pixels(file: BinaryIO) -> dict:
    """Reads the EXIF and texts of a PNG that stand behind its pixels, without decoding these, as Pillow would.

    Args:
        file: The PNG, which can seek.

    Returns:
        As `info` of Pillow's picture; empty where they are damaged.
    """
    behind, chunks = False, b""
    for name, length in png_chunks(file):
        behind |= name == b"IDAT"
        if behind and name in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            file.seek(-8, os.SEEK_CUR)
            chunks += file.read(12 + length)
    file.seek(0)
    up_to_header = file.read(len(PNG_SIGNATURE) + 25)
    if not chunks:
        return {}
    no_pixels = struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT"))
    with suppress(OSError, SyntaxError, ValueError), Image.open(io.BytesIO(up_to_header + chunks + no_pixels)) as image:
        return image.info
    return {}


def tell_transparency(image: Image.Image, file: BinaryIO) -> None:
    """Tells Pillow which value of a PNG is transparent (PNG specification, third edition, section 11.3.1.1).

    Pillow compares the value, as it is stored, with pixels that are scaled to 8 bits. It also takes a text for it whose
    keyword is "transparency".

    Args:
        image: Pillow's picture, loaded; its `info` is changed.
        file: The PNG, which can seek.
    """
    image.info.pop("transparency", None)
    file.seek(24)
    depth = file.read(1)[0]  # of IHDR, the first chunk
    before_pixels = takewhile(lambda chunk: chunk[0] != b"IDAT", png_chunks(file))  # behind them it does not count
    content = next((file.read(min(length, 256)) for name, length in before_pixels if name == b"tRNS"), b"")
    if image.mode == "P" and content:
        image.info["transparency"] = content
    elif image.mode in ("1", "L", "I;16", "RGB"):
        largest = 2**depth - 1
        scale = (2 ** max(depth, 8) - 1) // largest
        values = [(each & largest) * scale for [each] in struct.iter_unpack(">H", content[: len(content) // 2 * 2])]
        if image.mode == "RGB" and len(values) >= 3:
            image.info["transparency"] = tuple(values[:3])
        elif image.mode != "RGB" and values:
            image.info["transparency"] = values[0]
