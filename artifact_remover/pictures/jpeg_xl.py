"""JPEG XL (ISO/IEC 18181): the facts in its header, and what it holds, decoded in a process apart.

The decoder has no limits: after a header of 104x104 pixels may come frames of any size and number, so that nine
kilobytes take seconds, and a thread cannot be stopped. So it runs in a process that has as much memory and time as
pictures of the stated size need.
"""

import io
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec

_SIGNATURES = re.compile(rb"\xff\x0a|\0\0\0\x0cJXL ")  # ISO/IEC 18181-2, 9.1 and 18181-1, annex D
_DECODE = "from artifact_remover.pictures import jpeg_xl; jpeg_xl.decode_here()"
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_BYTES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "I;16": 2}  # of a pixel; of others the decoder gives no picture

# In one thread it took up to 16 bytes per pixel beside 128 MiB, and half a second per megapixel.
_MEMORY, _MEMORY_PER_PIXEL = 2**29, 48
_SECONDS, _SECONDS_PER_MEGAPIXEL = 30, 4


@dataclass(frozen=True)
class JpegXlHeader:
    """The facts that the header of a JPEG XL states.

    Attributes:
        width: In pixels, 1..2**30; it may be the height of the picture that is shown.
        height: In pixels, 1..2**30.
        bits: Bits per channel.
        floating_point: Whether channels are floating-point numbers.
        animated: Whether it holds an animation.
    """

    width: int
    height: int
    bits: int
    floating_point: bool
    animated: bool


class DecodedJpegXl(io.BytesIO):
    """The file that a JPEG XL was decoded to: the JPEG that was transcoded, else a PNG of its pixels and metadata.

    Attributes:
        bits: Bits per channel of the JPEG XL; the PNG has 8, or 16 where it is gray.
        boxes: The types of the JPEG XL's boxes.
    """

    def __init__(self, content: bytes, bits: int, boxes: frozenset[bytes]):
        """Holds the content of the JPEG or PNG."""
        super().__init__(content)
        self.bits = bits
        self.boxes = boxes


def is_jpeg_xl(start: bytes) -> bool:
    """Tells by its first 16 bytes whether a file is a JPEG XL."""
    return bool(_SIGNATURES.match(start))


def can_decode() -> bool:
    """Tells whether the packages of the extra `jxl` are there."""
    return all(map(find_spec, ("pillow_jxl", "brotli")))


def read_header(content: bytes) -> JpegXlHeader:
    """Reads the beginning of the codestream (ISO/IEC 18181-1, SizeHeader and ImageMetadata).

    Args:
        content: The file's; a bare codestream, or one in boxes.

    Raises:
        ValueError: If it ends early, has no codestream, or a preview before it.
    """
    bits = _Bits(_start_of_codestream(content))
    if bits.take(16) != 0x0AFF:
        raise ValueError("no codestream")
    width, height = _read_size(bits)
    depth, floating_point, animated = 8, False, False
    if not bits.take(1):  # all_default
        if bits.take(1):  # extra_fields
            bits.take(3)  # orientation
            if bits.take(1):
                _read_size(bits)  # at which it is to be shown
            if bits.take(1):
                raise ValueError("a preview")  # which nobody writes
            animated = bool(bits.take(1))
        if not animated:  # or its rate would follow
            floating_point = bool(bits.take(1))
            depth = bits.choose(
                *([(32, 0), (16, 0), (24, 0)] if floating_point else [(8, 0), (10, 0), (12, 0)]), (1, 6)
            )
    return JpegXlHeader(width, height, depth, floating_point, animated)


def decode_apart(content: bytes, header: JpegXlHeader) -> DecodedJpegXl:
    """Decodes a JPEG XL in a process of its own.

    Args:
        content: The file's.
        header: From `read_header`.

    Raises:
        ValueError: If it is damaged, of a kind that cannot be decoded, or takes more memory or time than pictures of
            its size need. Where the system does not limit memory, only the time is.
    """
    pixels = header.width * header.height
    command = [sys.executable, "-P", "-c", _DECODE, str(_MEMORY + _MEMORY_PER_PIXEL * pixels)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    seconds = _SECONDS + _SECONDS_PER_MEGAPIXEL * pixels / 1e6
    try:
        process = subprocess.run(
            command, input=content, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"not decoded after {seconds:.0f} seconds") from None
    if process.returncode:
        raise ValueError("it cannot be decoded")
    return DecodedJpegXl(process.stdout, header.bits, box_types(content))


def decode_here() -> None:
    """Decodes standard input to standard output with as many bytes of memory as the first argument says.

    What is written is the JPEG, if one was transcoded, else a PNG.
    """
    with suppress(ImportError, OSError, ValueError):  # not every system limits memory
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
    from PIL import Image, PngImagePlugin
    from pillow_jxl import Decoder

    content, output = sys.stdin.buffer.read(), sys.stdout.buffer
    is_jpeg, info, decoded, profile, *_ = Decoder(num_threads=0)(content)
    if is_jpeg:
        output.write(decoded)
        return
    if len(decoded) != _BYTES[info.mode] * info.width * info.height or profile[16:20] == b"CMYK":
        raise NotImplementedError
    found = dict(_metadata_boxes(content))
    texts = PngImagePlugin.PngInfo()
    if xmp := found.get(b"xml "):
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode(errors="replace"))
    # Before EXIF stands where it begins, which the encoder of this decoder leaves out.
    exif = re.sub(rb"\A\0{4}", b"", found.get(b"Exif", b""))
    picture = Image.frombytes(info.mode, (info.width, info.height), decoded)
    picture.save(output, "PNG", compress_level=0, icc_profile=profile or None, exif=exif or None, pnginfo=texts)


def boxes(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields type, start and end of the content of each box (ISO/IEC 18181-2, annex A)."""
    position = 0
    while position + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        start = position + 8
        if length == 1:
            length, start = int.from_bytes(content[start : start + 8], "big"), start + 8
        end = position + length if length else len(content)
        if end < start:
            return
        yield kind, start, end
        position = end


def box_types(content: bytes) -> frozenset[bytes]:
    """Lists the types of a JPEG XL's boxes, of compressed ones the type of what they hold; none of a bare codestream.

    Args:
        content: The file's.
    """
    if content.startswith(b"\xff\x0a"):
        return frozenset()
    return frozenset(content[start : start + 4] if kind == b"brob" else kind for kind, start, _ in boxes(content))


class _Bits:
    """Reads a codestream's numbers, from the lowest bit on (ISO/IEC 18181-1, annex B)."""

    def __init__(self, content):
        self._bits, self._left = int.from_bytes(content, "little"), 8 * len(content)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the header ends early")
        value = self._bits & ((1 << count) - 1)
        self._bits >>= count
        return value

    def choose(self, *ways: tuple[int, int]) -> int:
        """Reads U32(): which of four ways, then as many bits as it has, to be added to its base."""
        base, count = ways[self.take(2)]
        return base + self.take(count)


def _read_size(bits) -> tuple[int, int]:
    """Reads SizeHeader: width and height."""
    in_blocks = bits.take(1)

    def read_side():
        return 8 * (1 + bits.take(5)) if in_blocks else bits.choose((1, 9), (1, 13), (1, 18), (1, 30))

    height = read_side()
    ratio = bits.take(3)
    if not ratio:
        return read_side(), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height


def _start_of_codestream(content) -> bytes:
    if content.startswith(b"\xff\x0a"):
        return content[:64]
    found = b""
    for kind, start, end in boxes(content):
        if kind in (b"jxlc", b"jxlp"):
            start += 4 * (kind == b"jxlp")  # its number
            found += content[start : min(end, start + 64)]
        if kind == b"jxlc" or len(found) >= 64:
            break
    return found


def _metadata_boxes(content) -> Iterator[tuple[bytes, bytes]]:
    import brotli

    if content.startswith(b"\xff\x0a"):
        return
    for kind, start, end in boxes(content):
        if kind == b"brob" and content[start : start + 4] in (b"Exif", b"xml "):
            yield content[start : start + 4], brotli.decompress(content[start + 4 : end])
        elif kind in (b"Exif", b"xml "):
            yield kind, content[start:end]
