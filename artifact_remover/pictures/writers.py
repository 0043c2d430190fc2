"""Writers of image files; each converts the picture in bands, so that the memory never holds it twice."""

import io
import os
import struct
import textwrap
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from artifact_remover.pictures.jpeg_container import iptc_resource, write_jpeg_parts
from artifact_remover.pictures.metadata import (
    DESCRIPTIVE_TAGS,
    IPTC_TAG,
    XMP_KEYWORD,
    Metadata,
    chunks_of_png_only,
    exif_entries,
    has_thumbnail,
    states_resolution,
)
from artifact_remover.pictures.restored_mark import read_mark, with_mark
from data_prep.errors import InputError, Option
from data_prep.photographs import to_8_bits
from data_prep.png import PNG_SIGNATURE

_Field = tuple[int, str, list | bytes]  # of a TIFF: tag, type as `struct` writes it, values

_BAND = 2**17  # pixels that are converted at a time: few enough to stay in the processor's cache

LONGEST_JPEG_XMP = 65504
"""Bytes of XMP that a JPEG's segment holds."""

# Tags that describe how pixels are stored, of the TIFF or JPEG that EXIF comes from: TIFF 6.0, and XMP and ICC, which
# are written apart.
_STORAGE_TAGS = frozenset(
    {254, 255, *range(256, 267), 273, *range(277, 282), 284, *range(317, 326), 330, 338, 339, 347, *range(512, 533)}
    | {700, 34675}
)
_STRIP = 2**18  # pixels of a TIFF's strip
_WINDOW = 2**15  # bytes that deflate looks back


def write_png(file: BinaryIO, pixels: np.ndarray, alpha: np.ndarray | None, metadata: Metadata) -> None:
    """Writes a PNG (PNG specification, third edition).

    At most 256 colors of 8 bits are written as a palette, and gray in 1, 2 or 4 bits where these hold it exactly.
    Pillow would write colors of 8 bits only, and take twice as long for the same size.

    Args:
        file: Where.
        pixels: uint8 [H, W, C] in 0..255 or uint16 [H, W, C] in 0..65535, C 1 (gray) or 3 (RGB).
        alpha: [H, W] of the pixels' dtype and range, or None.
        metadata: The picture's; all of it is written.
    """
    height, width, channels = pixels.shape
    color_type, depth = (0 if channels == 1 else 2) + (0 if alpha is None else 4), 8 * pixels.itemsize
    colors = _few_colors(pixels, alpha)
    if colors is not None:
        color_type, depth = 3 if channels == 3 else 0, next(bits for bits in (1, 2, 4, 8) if len(colors) <= 2**bits)
    file.write(PNG_SIGNATURE)
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    for name, content in metadata.png_chunks:
        if name != b"sRGB" or not metadata.icc_profile:  # a PNG may have only one of them
            _write_chunk(file, name, content)
    if metadata.icc_profile:
        _write_chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile))
    if metadata.dpi:
        _write_chunk(file, b"pHYs", struct.pack(">IIB", *(round(each / 0.0254) for each in metadata.dpi), 1))
    elif metadata.aspect:
        _write_chunk(file, b"pHYs", struct.pack(">IIB", *metadata.aspect, 0))
    if metadata.exif:
        _write_chunk(file, b"eXIf", metadata.exif)
    if metadata.iptc:  # as ImageMagick, ExifTool and Exiv2 do, as there is no chunk of its own
        resource = iptc_resource(metadata.iptc)
        digits = "".join(f"{line}\n" for line in textwrap.wrap(resource.hex(), 72))
        profile = f"\niptc\n{len(resource):8}\n{digits}".encode()
        _write_chunk(file, b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(profile))
    if metadata.xmp:
        _write_chunk(file, b"iTXt", XMP_KEYWORD + bytes(5) + metadata.xmp)
    if metadata.comment and not any(content.startswith(b"Comment\0") for _, content in metadata.png_chunks):
        _write_chunk(file, b"iTXt", b"Comment" + bytes(5) + _text(metadata.comment).encode())
    if colors is not None and color_type == 3:
        _write_chunk(file, b"PLTE", colors[:, :3].tobytes())
        if alpha is not None:
            _write_chunk(file, b"tRNS", colors[:, 3].tobytes())
    graphic = colors is not None or _is_graphic(pixels)

    def filtered_bands():
        above = None
        for _, band in _interleaved(pixels, alpha):
            rows = _as_bytes(band, ">") if colors is None else _pack(band, colors, depth)
            yield _unfiltered(rows) if graphic else _average_filtered(rows, above, pixels.itemsize * band.shape[2])
            above = rows[-1:]

    for part in _zlib_stream(filtered_bands(), graphic):
        _write_chunk(file, b"IDAT", part)
    _write_chunk(file, b"IEND", b"")


def write_tiff(file: BinaryIO, pixels: np.ndarray, alpha: np.ndarray | None, metadata: Metadata) -> tuple[str, ...]:
    """Writes a TIFF (TIFF 6.0, deflated strips).

    The file begins with the EXIF, which is a TIFF itself and has its offsets counted from its start; the strips follow.
    Pillow would write colors of 8 bits only, and fails on some EXIF.

    Args:
        file: Where, at its start; must be able to seek.
        pixels: uint8 [H, W, C] in 0..255 or uint16 [H, W, C] in 0..65535, C 1 (gray) or 3 (RGB).
        alpha: [H, W] of the pixels' dtype and range, or None.
        metadata: The picture's. Not written are the EXIF's thumbnail, the chunks of a PNG, and a comment where the EXIF
            has a description, as both would need the same tag.

    Returns:
        Notes on what is lost.
    """
    height, width, channels = pixels.shape
    samples = channels + (alpha is not None)
    exif = metadata.exif or b""
    order = ">" if exif.startswith(b"MM") else "<"
    file.write(exif or b"II*\0" + bytes(4))
    rows_per_strip = max(1, _STRIP // width)
    offsets, sizes = [], []
    strips = ((order, band) for _, band in _interleaved(pixels, alpha, rows_per_strip))
    for strip in _in_turn(_compress_strip, strips):
        offsets.append(file.tell())
        sizes.append(len(strip))
        file.write(strip)
    in_exif = list(exif_entries(exif))
    entries = {
        tag: exif[position : position + 12]
        for _, directory, tag, _, _, position in in_exif
        if directory == 0 and tag in DESCRIPTIVE_TAGS
    }
    lost = ["comment dropped, a description is there"] if metadata.comment and 270 in entries else []
    thumbnail = ["EXIF thumbnail"] if has_thumbnail(exif) else []
    lost += [f"{name} dropped, tiff cannot hold it" for name in thumbnail + chunks_of_png_only(metadata)]
    in_first = {tag for _, directory, tag, *_ in in_exif if directory == 0}
    if others := sorted(in_first - DESCRIPTIVE_TAGS - _STORAGE_TAGS):
        lost.append(f"EXIF {', '.join(map(str, others))} dropped, which might tell of another way of storing")
    fields: list[_Field] = [
        (256, "I", [width]),
        (257, "I", [height]),
        (258, "H", [8 * pixels.itemsize] * samples),
        (259, "H", [8]),  # deflate
        (262, "H", [1 if channels == 1 else 2]),  # black is zero, or RGB
        (273, "I", offsets),
        (277, "H", [samples]),
        (278, "I", [rows_per_strip]),
        (279, "I", sizes),
        (317, "H", [2]),  # differences, as above
    ]
    if alpha is not None:
        fields.append((338, "H", [2]))  # transparency, by which the colors are not multiplied
    fields += _describe_in_tiff(metadata, with_comment=270 not in entries)
    entries.update((tag, _tiff_entry(file, order, tag, kind, values)) for tag, kind, values in fields)
    file.write(bytes(file.tell() % 2))
    start = file.tell()
    file.write(struct.pack(f"{order}H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4))
    file.seek(4)
    file.write(struct.pack(f"{order}I", start))
    file.seek(0, io.SEEK_END)
    return tuple(lost)


def _describe_in_tiff(metadata, with_comment) -> list[_Field]:
    fields: list[_Field] = []
    if metadata.dpi:
        fields += [(tag, "Q", [round(each * 10000), 10000]) for tag, each in zip((282, 283), metadata.dpi, strict=True)]
        fields.append((296, "H", [2]))  # per inch
    elif metadata.aspect:
        fields += [(tag, "Q", [each, 1]) for tag, each in zip((282, 283), metadata.aspect, strict=True)]
        fields.append((296, "H", [1]))  # of no known unit
    if metadata.xmp:
        fields.append((700, "B", metadata.xmp))
    if metadata.iptc:
        fields.append((IPTC_TAG, "U", metadata.iptc))
    if metadata.icc_profile:
        fields.append((34675, "U", metadata.icc_profile))
    if metadata.comment and with_comment:
        fields.append((270, "s", _text(metadata.comment).encode() + b"\0"))
    return [*fields, *metadata.georeference]


def _compress_strip(order, band) -> bytes:
    differences = np.concatenate([band[:, :1], band[:, 1:] - band[:, :-1]], axis=1)
    return zlib.compress(_as_bytes(differences, order).data, 1)


def write_with_pillow(
    file: BinaryIO,
    pixels: np.ndarray,
    alpha: np.ndarray | None,
    metadata: Metadata,
    format: str,
    quality: int | None,
) -> tuple[str, ...]:
    """Writes a WebP, JPEG or AVIF.

    Args:
        file: Where.
        pixels: uint8 [H, W, C] in 0..255 or uint16 [H, W, C] in 0..65535, C 1 (gray) or 3 (RGB).
        alpha: [H, W] of the pixels' dtype and range, or None.
        metadata: The picture's; what the format can hold of it is written.
        format: "webp", "jpeg" or "avif".
        quality: 1..100; None for lossless WebP, JPEG 95 and AVIF 90.

    Returns:
        Notes on what the format cannot hold.

    Raises:
        InputError: If this Pillow was built without the format.
    """
    Image.init()
    if format.upper() not in Image.SAVE:
        raise InputError(f"this Pillow cannot write {format}: upgrade it or choose another ", Option("format"))
    notes = []
    if pixels.dtype == np.uint16:
        notes.append("16 bits reduced to 8")
    if alpha is not None and format == "jpeg":
        notes.append("transparency laid over white")
    mode = ("L" if pixels.shape[2] == 1 else "RGB") + ("A" if alpha is not None and format != "jpeg" else "")
    metadata, lost = _fitting(metadata, mode, format)
    image = Image.new(mode, pixels.shape[1::-1])
    for top, band in _interleaved(pixels, alpha):
        band = to_8_bits(band) if band.dtype == np.uint16 else band
        if alpha is not None and format == "jpeg":
            opacity = band[..., -1:].astype(np.uint16)
            band = ((band[..., :-1] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
        image.paste(Image.fromarray(band[..., 0] if band.shape[2] == 1 else np.ascontiguousarray(band)), (0, top))
    options: dict[str, Any] = {"icc_profile": metadata.icc_profile, "xmp": metadata.xmp or b""}
    if format == "jpeg":
        options |= {"quality": 95 if quality is None else quality, "subsampling": 0, "comment": metadata.comment}
        options |= {"exif": b"Exif\0\0" + metadata.exif if metadata.exif else b"", "dpi": metadata.dpi or (0, 0)}
    elif format == "webp":
        lossless = {"lossless": True, "exact": True, "quality": 20, "method": 1}
        options |= lossless if quality is None else {"quality": quality}
        options["exif"] = metadata.exif or b""
    else:
        options |= {"quality": 90 if quality is None else quality, "exif": _VerbatimExif(metadata.exif or b"")}
        options |= {"speed": 8} | ({} if mode == "L" else {"subsampling": "4:4:4"})
        options |= {} if alpha is None else {"advanced": {"a:lossless": "1"}}
    if format == "jpeg" and (metadata.jpeg_parts or metadata.iptc or metadata.aspect):
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", **options)
        write_jpeg_parts(file, jpeg.getvalue(), metadata.jpeg_parts, metadata.iptc, metadata.aspect)
    else:
        image.save(file, format.upper(), **options)
    return (*notes, *lost)


def band_height(width: int) -> int:
    """Computes how many rows of a picture are converted at a time, to save memory.

    Args:
        width: Of the picture, in pixels.
    """
    return max(1, _BAND // max(1, width))


def _interleaved(pixels, alpha, height: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Cuts the picture into bands of whole rows, alpha as the last channel, so that it is never copied as a whole."""
    height = height or band_height(pixels.shape[1])
    for top in range(0, len(pixels), height):
        band = pixels[top : top + height]
        yield top, band if alpha is None else np.dstack([band, alpha[top : top + height]])


def _few_colors(pixels, alpha) -> np.ndarray | None:
    """Finds colors, uint8 [N, C] with alpha last, whose numbers a PNG can store in place of all pixels.

    Returns:
        All colors of a picture, N at most 256, opaque ones last; for gray all levels of 1, 2 or 4 bits. None where they
        are not enough.
    """
    if pixels.dtype != np.uint8 or (pixels.shape[2] == 1 and alpha is not None):  # a palette is never gray
        return None
    found: set = set()
    for _, band in _interleaved(pixels, alpha):
        colors = Image.fromarray(band[..., 0] if band.shape[2] == 1 else np.ascontiguousarray(band)).getcolors(256)
        found.update(color for _, color in colors or ())
        if colors is None or len(found) > 256:
            return None
    if pixels.shape[2] == 1:
        scales = (range(0, 256, 255 // (2**bits - 1)) for bits in (1, 2, 4))
        scale = next((each for each in scales if found <= set(each)), None)
        return None if scale is None else np.array(scale, np.uint8)[:, None]
    table = np.array([*found], np.uint8)
    return table[np.argsort(_numbers(table))]


def _numbers(colors):
    """Makes a number of each color, uint8 [..., C], the larger the more opaque."""
    return colors @ np.array([1 << 16, 1 << 8, 1, 1 << 24][: colors.shape[-1]], np.uint32)


def _pack(band, colors, depth) -> np.ndarray:
    indices = np.searchsorted(_numbers(colors), _numbers(band)).astype(np.uint8)
    if depth == 8:
        return indices
    digits = indices[..., None] >> np.arange(depth, dtype=np.uint8)[::-1] & 1
    return np.packbits(digits.reshape(len(indices), -1), axis=1)


def _is_graphic(pixels) -> bool:
    """Tells whether a sample of a picture gets smaller without a filter, as graphics do."""
    height, width = pixels.shape[:2]
    middle = pixels[:, max(0, width // 2 - 512) : width // 2 + 512]
    blocks = [middle[top : top + 16] for top in range(0, height, max(16, height // 8))]
    rows = _as_bytes(np.concatenate(blocks), ">")
    sizes = []
    for graphic in (False, True):
        filtered = _unfiltered(rows) if graphic else _average_filtered(rows, None, pixels.itemsize * pixels.shape[2])
        sizes.append(len(_deflate(graphic, filtered.data)))
    return sizes[1] < sizes[0]


def _deflate(graphic, content, before=b"") -> bytes:
    """Compresses a part of a deflate stream, which may repeat what stands before it."""
    # Graphics repeat what they hold. On filtered photographs compressing only runs is a third faster than searching
    # matches, and no larger.
    level, strategy = (-1, zlib.Z_DEFAULT_STRATEGY) if graphic else (1, zlib.Z_RLE)
    compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy, before)
    return compressor.compress(content) + compressor.flush(zlib.Z_SYNC_FLUSH)


def _zlib_stream(bands, graphic) -> Iterator[bytes]:
    """Compresses bands on all processors to the parts of one stream (RFC 1950), as pigz does."""
    checksum = 1

    def with_histories():
        nonlocal checksum
        before = b""
        for band in bands:
            checksum = zlib.adler32(band.data, checksum)
            yield graphic, band.data, before
            before = band.tobytes()[-_WINDOW:] if graphic else b""

    yield b"\x78\x01"
    yield from _in_turn(_deflate, with_histories())
    yield b"\x03\0" + struct.pack(">I", checksum)  # an empty last block


def _in_turn(task: Callable, calls: Iterable[tuple]) -> Iterator:
    """Yields the results of calls in their order, which run on all processors, a few at a time to save memory."""
    processors, waiting = os.cpu_count() or 1, deque[Future]()
    with ThreadPoolExecutor(processors) as pool:
        for arguments in calls:
            waiting.append(pool.submit(task, *arguments))
            if len(waiting) > 2 * processors:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _unfiltered(rows) -> np.ndarray:
    return np.pad(rows, ((0, 0), (1, 0)))


def _average_filtered(rows, above, pixel) -> np.ndarray:
    """Filters rows, uint8 [H, W], by the average filter: on photographs the best of those that are cheap to compute."""
    filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 3
    left = np.pad(rows[:, :-pixel], ((0, 0), (pixel, 0))).astype(np.uint16)
    above = np.zeros_like(rows[:1]) if above is None else above
    filtered[:, 1:] = rows - ((left + np.concatenate([above, rows[:-1]])) // 2).astype(np.uint8)
    return filtered


def _write_chunk(file, name, content):
    file.write(struct.pack(">I4s", len(content), name))
    file.write(content)
    file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(name))))


def _as_bytes(band, order) -> np.ndarray:
    return np.ascontiguousarray(band, band.dtype.newbyteorder(order)).view(np.uint8).reshape(len(band), -1)


def _text(comment: bytes) -> str:
    try:
        return comment.decode().replace("\0", "")
    except UnicodeDecodeError:
        return comment.decode("latin-1").replace("\0", "")


def _tiff_entry(file, order, tag, kind, values) -> bytes:
    number, size = {"B": (1, 1), "s": (2, 1), "H": (3, 2), "I": (4, 4), "Q": (5, 8), "U": (7, 1), "d": (12, 8)}[kind]
    content = (
        values
        if isinstance(values, bytes)
        else b"".join(struct.pack(order + kind.replace("Q", "I"), value) for value in values)
    )
    if len(content) > 4:
        file.write(bytes(file.tell() % 2))
        position = struct.pack(f"{order}I", file.tell())
        file.write(content)
    else:
        position = content.ljust(4, b"\0")
    return struct.pack(f"{order}HHI", tag, number, len(content) // size) + position


class _VerbatimExif(Image.Exif):
    """EXIF that is written byte for byte.

    Pillow would parse an AVIF's EXIF and write it anew, which breaks maker notes.
    """

    def __init__(self, content):
        super().__init__()
        self._content = content

    def __bool__(self):
        return bool(self._content)

    def tobytes(self, offset=8):
        return self._content


def _fitting(metadata: Metadata, mode: str, format: str) -> tuple[Metadata, list[str]]:
    """Leaves out the metadata that a format cannot hold, and names them."""
    too_much = {}
    if metadata.icc_profile and (format, mode) in (("webp", "L"), ("webp", "LA"), ("avif", "LA")):
        too_much["icc_profile"] = "ICC profile for gray"
    if format == "jpeg":  # a segment is at most 65535 bytes long, with its length and name
        limits = {"exif": ("EXIF", 65527), "xmp": ("XMP", LONGEST_JPEG_XMP), "comment": ("comment", 65533)}
        for field, (name, limit) in limits.items():
            if len(getattr(metadata, field) or b"") > limit:
                too_much[field] = name
    else:
        unknown = {"comment": "comment", "aspect": "pixel aspect"}
        if (metadata.iptc or b"") not in (metadata.exif or b""):
            unknown["iptc"] = "IPTC"
        if not states_resolution(metadata.exif):
            unknown["dpi"] = "resolution"
        too_much |= {field: name for field, name in unknown.items() if getattr(metadata, field)}
    names = [*too_much.values(), *chunks_of_png_only(metadata)]
    notes = [f"{name} dropped, {format} cannot hold it" for name in names]
    dropped: dict[str, Any] = dict.fromkeys(too_much)
    if "xmp" in dropped and read_mark(metadata.xmp):
        dropped["xmp"] = with_mark(None)
    return replace(metadata, **dropped), notes
