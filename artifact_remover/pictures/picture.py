"""The only door to image files: from a file to pixels and all that belongs to them, and back.

Pixels are kept as stored in the file, so that a JPEG's 8x8 blocks start at the corner for the network; a picture is
turned upright only when it is written.
"""

import io
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile

from artifact_remover.pictures.jpeg_header import JpegHeader, read_jpeg_header
from artifact_remover.pictures.metadata import (
    Metadata,
    orientation_of,
    read_metadata,
    upright,
    with_fitting_profile,
)
from artifact_remover.pictures.writers import BAND, write_png, write_tiff, write_with_pillow
from data_prep.errors import InputError, Message, Option, to_one_line
from data_prep.photographs import cmyk_to_srgb

INPUT_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif")
)
FORMATS = {"png": ".png", "webp": ".webp", "jpeg": ".jpg", "tiff": ".tiff", "avif": ".avif"}
"""What can be written, and the suffix that a file of the format gets."""
QUALITY_FORMATS = ("webp", "jpeg", "avif")
"""Of these, the formats that take a quality; the others are lossless."""

_READABLE = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "AVIF")
_SIGNATURES = re.compile(rb"\xff\xd8|\x89PNG|RIFF....WEBP|II[*+]\0|MM\0[*+]|BM|....ftypavi[fs]", re.DOTALL)
_LONGEST_SIDE = {"png": 2**31 - 1, "webp": 16383, "jpeg": 65500, "tiff": 2**32 - 1, "avif": 65536}

# Pillow keeps its limits in module variables, and so does `warnings`: they are changed under this lock, then put back.
_LOCK = threading.RLock()


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: uint8 [H, W, C] in 0..255 or uint16 [H, W, C] in 0..65535, C 1 (gray) or 3 (RGB); as stored, so
            `orientation` is not applied.
        alpha: [H, W], of the pixels' dtype and range, the largest value opaque; None without transparency.
        orientation: EXIF's, 1..8.
        metadata: All that is kept beside the pixels.
        header: How a JPEG was compressed, None for other formats.
        format: Pillow's name of the file format, such as "JPEG".
        notes: What the user should be told, each a short clause.
        jpeg: The bytes that any JPEG decoder gets the same pixels from; None for other formats, CMYK, and what breaks
            off.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    orientation: int
    metadata: Metadata
    header: JpegHeader | None
    format: str
    notes: tuple[str, ...] = ()
    jpeg: bytes | None = None


@dataclass(frozen=True)
class Summary:
    """What a file says about its picture before any pixel is decoded.

    Attributes:
        format: Pillow's name of the file format, such as "JPEG".
        width: In pixels, as stored.
        height: In pixels, as stored.
        bits: Bits per channel.
        colour: "gray", "RGB" or "CMYK", or Pillow's name of something rarer, with " + alpha" where it has one.
        orientation: EXIF's, 1..8.
        pictures: How many the file holds.
        header: How a JPEG was compressed, None for other formats.
        metadata: Names of what is there, such as ("EXIF", "ICC", "XMP", "comment", "300 dpi").
    """

    format: str
    width: int
    height: int
    bits: int
    colour: str
    orientation: int
    pictures: int
    header: JpegHeader | None
    metadata: tuple[str, ...]


class DamagedError(InputError):
    """The file ends early or is damaged; part of it may still be decoded."""


class TooLargeError(InputError):
    """The picture has more pixels than the caller allows."""


def inspect_picture(file: Path | BinaryIO) -> Summary:
    """Reads what a file says about its picture, without decoding it.

    Args:
        file: A JPEG, MPO, PNG, WebP, TIFF, BMP or AVIF, whatever its name.

    Raises:
        InputError: If it cannot be read or is no such picture.
    """
    with _open(file) as (image, opened):
        metadata, _ = read_metadata(image.info, image.format, opened)
        present = {"EXIF": metadata.exif, "ICC": metadata.icc_profile, "XMP": metadata.xmp, "comment": metadata.comment}
        names = [name for name, content in present.items() if content]
        if metadata.dpi:
            names.append(" x ".join(dict.fromkeys(f"{dpi:.0f}" for dpi in metadata.dpi)) + " dpi")
        colour = "gray" if _is_gray(image) else {"CMYK": "CMYK", "LAB": "Lab"}.get(image.mode, "RGB")
        return Summary(
            image.format,
            *_stored_size(image),
            _bit_depth(image, opened),
            colour + (" + alpha" if image.has_transparency_data else ""),
            orientation_of(metadata),
            getattr(image, "n_frames", 1),
            _header(image, opened),
            tuple(names),
        )


def decode_picture(
    source: Path | bytes | bytearray | memoryview, *, max_megapixels: float = 256, allow_truncated: bool = False
) -> Picture:
    """Decodes a picture, the first one where there are several.

    CMYK is converted to sRGB through the embedded profile, or plainly where there is none. A palette becomes its
    colours; gray stays gray; 16 bits stay 16 bits.

    Args:
        source: A JPEG, MPO, PNG, WebP, TIFF, BMP or AVIF: its path, whatever its suffix, or its content.
        max_megapixels: Larger pictures are refused before they are decoded; half of it for WebP and AVIF, whose
            libraries take twice the memory.
        allow_truncated: Whether a truncated file is decoded as far as it goes, the rest being gray or black.

    Raises:
        InputError: If it cannot be read, is no such picture, is too large, or is damaged.
        TypeError: If the source is neither a path nor bytes.
    """
    if isinstance(source, (bytearray, memoryview)):
        source = bytes(source)
    elif not isinstance(source, (Path, bytes)):
        raise TypeError(f"a picture's source is a Path or bytes, not {type(source).__name__}")
    try:
        return _decode(source, max_megapixels)
    except DamagedError:
        if not allow_truncated:
            raise
        picture = _decode(source, max_megapixels, allow_truncated=True)
        return replace(picture, notes=(*picture.notes, "truncated or damaged, taken as far as it goes"))


def encode_picture(picture: Picture, file: BinaryIO, format: str, quality: int | None = None) -> tuple[str, ...]:
    """Writes a picture upright, with all metadata that the format can hold.

    Args:
        picture: From `decode_picture`, pixels and alpha as they are stored.
        file: Where, at its start; must be able to seek.
        format: One of `FORMATS`.
        quality: 1..100, of `QUALITY_FORMATS`; None for lossless WebP, JPEG 95 and AVIF 90. Only
            WebP, as it must, subsamples the colours.

    Returns:
        Notes on what the format cannot hold, each a short clause.

    Raises:
        InputError: If the picture is too large for the format, or `check_format` refuses.
        OSError: If the file cannot be written.
    """
    check_format(format, quality)
    pixels = orient(picture.pixels, picture.orientation)
    alpha = None if picture.alpha is None else orient(picture.alpha, picture.orientation)
    height, width = pixels.shape[:2]
    if max(height, width) > _LONGEST_SIDE[format] or (format == "tiff" and pixels.nbytes > 2**31):
        raise InputError(
            f"{width}x{height} pixels are more than a {format} can hold: choose another ", Option("format")
        )
    metadata = upright(picture.metadata, picture.orientation)
    if format == "png":
        write_png(file, pixels, alpha, metadata)
        return ()
    if format == "tiff":
        return write_tiff(file, pixels, alpha, metadata)
    return write_with_pillow(file, pixels, alpha, metadata, format, quality)


def check_format(format: str, quality: int | None = None) -> None:
    """Refuses what `encode_picture` cannot write.

    Args:
        format: One of `FORMATS`.
        quality: 1..100, of `QUALITY_FORMATS` only; None for the default.

    Raises:
        InputError: If the format is unknown, takes no quality, or the quality is out of range.
    """
    if format not in FORMATS:
        raise InputError(f"format {to_one_line(format)} cannot be written: choose {', '.join(FORMATS)}")
    if quality is not None and format not in QUALITY_FORMATS:
        raise InputError(
            f"{format} takes no quality, it is lossless: leave it out or choose {', '.join(QUALITY_FORMATS)}"
        )
    if quality is not None and quality not in range(1, 101):
        raise InputError(f"quality {to_one_line(quality)} is out of range: give a whole number from 1 to 100")


def format_of(file: Path) -> str:
    """Tells which of `FORMATS` a file's suffix names.

    Raises:
        InputError: If it names none of them.
    """
    suffixes = {suffix: format for format, suffix in FORMATS.items()} | {".jpeg": "jpeg", ".tif": "tiff"}
    try:
        return suffixes[file.suffix.lower()]
    except KeyError:
        raise InputError(
            f"{to_one_line(file)} names no format that can be written: end it in {', '.join(suffixes)}"
        ) from None


def matching_format(source: str) -> str | None:
    """Tells which of `FORMATS` is the format of a file that was read.

    Args:
        source: Pillow's name of the file's format, such as "JPEG"; a JPEG of several pictures is an "MPO".

    Returns:
        None where it cannot be written, such as "BMP".
    """
    name = {"MPO": "jpeg"}.get(source, source.lower())
    return name if name in FORMATS else None


def orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns a stored picture upright (EXIF 2.32, tag 274).

    Args:
        pixels: [H, W] or [H, W, C], any dtype and range.
        orientation: 1..8.

    Returns:
        A view: [H, W, ...] for 1..4, [W, H, ...] for 5..8.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


@contextmanager
def _open(source: Path | bytes | BinaryIO, allow_truncated: bool = False) -> Iterator[tuple[Image.Image, BinaryIO]]:
    name = to_one_line(source if isinstance(source, Path) else getattr(source, "name", "the picture"))
    advice = "mend or remove it" if allow_truncated else Message("mend it or give ", Option("allow_truncated"))
    start = b""
    try:
        if isinstance(source, Path) and source.exists() and not source.is_file():
            raise InputError("no file but a folder or device: give a picture")  # opening a pipe would wait forever
        with _LOCK, _pillow_limits(allow_truncated), _binary(source) as file:
            start = file.read(16)
            if not start:
                raise InputError("empty: give a picture")
            file.seek(0)
            Image.init()  # an older Pillow may know no AVIF
            with Image.open(file, formats=[name for name in _READABLE if name in Image.OPEN]) as image:
                if comments := [content for name, content in getattr(image, "applist", ()) if name == "COM"]:
                    image.info["comment"] = b"\n".join(comments)  # of which Pillow keeps the last
                yield image, file
    except InputError as error:
        raise type(error)(f"{name} is ", error.message) from error
    except FileNotFoundError as error:
        raise InputError(f"{name} is missing: check the path") from error
    except Image.UnidentifiedImageError as error:
        if _SIGNATURES.match(start):
            raise DamagedError(f"{name} is truncated or damaged, or of a kind that cannot be read, ", advice) from error
        raise InputError(
            f"{name} is no picture that can be read: give a whole JPEG, PNG, WebP, TIFF, BMP or AVIF"
        ) from error
    except MemoryError as error:
        raise InputError(f"{name} is too large for the memory of this machine: reduce it") from error
    # Pillow's decoders raise whatever a damaged file leads them to, from KeyError to RecursionError.
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{name} cannot be read, check its name and permissions: {error.strerror}") from error
        reason = to_one_line(error) or type(error).__name__
        raise DamagedError(f"{name} is truncated or damaged, ", advice, f": {reason}") from error


@contextmanager
def _pillow_limits(allow_truncated):
    logger = logging.getLogger("PIL")
    level, limits = logger.level, (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    try:
        logger.setLevel(logging.CRITICAL)  # it would print what the error says
        # Ours is checked instead of Pillow's, which warns of what a camera makes nowadays.
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, allow_truncated
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = limits
        logger.setLevel(level)


def _binary(source):
    if isinstance(source, Path):
        return source.open("rb")
    return nullcontext(io.BytesIO(source) if isinstance(source, bytes) else source)


def _decode(source, max_megapixels, allow_truncated=False) -> Picture:
    with _open(source, allow_truncated) as (image, file):
        megapixels = image.width * image.height / 1e6
        costly = image.format in ("WEBP", "AVIF")  # a few kilobytes may claim a canvas of 16 bytes per pixel
        if megapixels > (max_megapixels / 2 if costly else max_megapixels):
            limit = f"the limit of {max_megapixels:.6g}"
            if costly:
                limit = f"half {limit}, as {image.format} takes twice the memory"
            raise TooLargeError(
                f"{megapixels:.6g} megapixels, more than {limit}: raise it with ", Option("max_megapixels")
            )
        format, depth, header = image.format, _bit_depth(image, file), _header(image, file)
        if header and not allow_truncated and _breaks_off(header, file):
            raise OSError("the data end before the last row")
        jpeg = None
        if header and image.mode in ("L", "RGB") and not allow_truncated:
            file.seek(0)
            jpeg = file.read()
        pictures = getattr(image, "n_frames", 1)
        notes = [f"first of {pictures} pictures taken"] if pictures > 1 else []
        # turning a TIFF upright, Pillow takes the orientation out of this
        kept = {"xmp": image.info.get("xmp")} if format == "TIFF" else {}
        pixels, alpha, info, colour_notes = (_decode_16_bits if depth == 16 else _decode_8_bits)(image, file)
        metadata, metadata_notes = read_metadata({**info, **kept}, format, file)
    if depth not in (1, 2, 4, 8, 16):
        notes.append(f"{depth} bits reduced to 8")
    orientation = orientation_of(metadata)
    if format == "TIFF":  # Pillow has turned it upright
        pixels, alpha = (_turn_back(each, orientation) for each in (pixels, alpha))
    metadata, profile_notes = with_fitting_profile(metadata, pixels)
    notes = (*notes, *colour_notes, *metadata_notes, *profile_notes)
    return Picture(pixels, alpha, orientation, metadata, header, format, notes, jpeg)


def _decode_8_bits(image, file):
    image.load()
    info, notes = image.info, []
    if image.mode == "CMYK":
        converted = cmyk_to_srgb(image)
        notes.append("CMYK converted to sRGB" + ("" if converted else " without a profile"))
        image = converted or image.convert("RGB")
        info = {**info, "icc_profile": _srgb_profile() if converted else None}
    if image.mode in ("I", "F", "LAB") or image.mode.startswith("I;"):
        raise InputError(f"of Pillow's mode {image.mode}: save it in gray or RGB with 8 or 16 bits per channel")
    mode = ("L" if _is_gray(image) else "RGB") + ("A" if image.has_transparency_data else "")
    if image.mode != mode:
        image = image.convert(mode)
    channels = len(mode) - (mode[-1] == "A")
    pixels = np.empty((image.height, image.width, channels), np.uint8)
    alpha = np.empty(pixels.shape[:2], np.uint8) if mode[-1] == "A" else None
    for rows, band in _bands(image):
        pixels[rows] = band[..., :channels]
        if alpha is not None:
            alpha[rows] = band[..., channels]
    return pixels, alpha, info, notes


def _decode_16_bits(image, file):
    # Pillow keeps only one byte of two where there are several channels: the upper, or the lower one if it is told the
    # wrong byte order. So these are decoded twice.
    rawmode, mode = _rawmode(image.tile[0]), image.mode
    if mode.startswith("I"):
        passes = [(rawmode, 0)]
    elif rawmode == "LA;16B":
        passes = [("RGBA", 0)]  # two bytes of gray and two of alpha, taken for four channels
    elif mode in ("RGB", "RGBA") and rawmode.startswith(f"{mode};16") and not _is_planar(image):
        big_endian = rawmode.endswith("B") or (rawmode.endswith("N") and sys.byteorder == "big")
        passes = [(f"{mode};16B", 8 if big_endian else 0), (f"{mode};16L", 0 if big_endian else 8)]
    else:
        raise InputError("of 16 bits per channel in an unusual arrangement: save it as a PNG")
    stored = np.zeros((*image.size[::-1], 1 if mode.startswith("I") else len(mode)), np.uint16)
    for rawmode, shift in passes:
        file.seek(0)
        with Image.open(file, formats=[image.format]) as each:
            each.tile = [_with_rawmode(tile, rawmode) for tile in each.tile]
            each.load()
            info = {**image.info, **each.info}
            for rows, band in _bands(each):
                stored[rows] |= band.astype(np.uint16) << shift
    if image.format == "TIFF" and image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0:
        stored = 65535 - stored  # white is zero, which Pillow minds for 8 bits only
    if passes[0][0] == "RGBA":
        stored = stored[..., ::2] << 8 | stored[..., 1::2]
    if stored.shape[2] in (2, 4):
        return stored[..., :-1], stored[..., -1], info, []
    transparent = info.get("transparency")
    if transparent is None:
        return stored, None, info, []
    return stored, np.where((stored == transparent).all(-1), 0, 65535).astype(np.uint16), info, []


def _is_planar(image) -> bool:
    # each channel by itself, of which Pillow takes the upper byte only, whatever it is told
    return image.format == "TIFF" and image.tag_v2.get(ExifTags.Base.PlanarConfiguration) == 2


def _bands(image: Image.Image) -> Iterator[tuple[slice, np.ndarray]]:
    height = max(1, BAND // image.width)
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        band = np.asarray(image.crop((0, top, image.width, bottom)))
        yield slice(top, bottom), band.reshape(*band.shape[:2], -1)


def _rawmode(tile) -> str:
    return tile.args if isinstance(tile.args, str) else tile.args[0]


def _with_rawmode(tile, rawmode):
    return tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:]))


def _is_gray(image) -> bool:
    # Pillow gives gray and alpha of 16 bits the mode of colours
    in_16_bits = image.format == "PNG" and image.tile and _rawmode(image.tile[0]) == "LA;16B"
    return bool(in_16_bits) or image.mode in ("1", "L", "LA", "La") or image.mode.startswith(("I", "F"))


def _stored_size(image) -> tuple[int, int]:
    # of a TIFF, Pillow gives the size that it has upright
    turned = image.format == "TIFF" and image.tag_v2.get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return image.size[::-1] if turned else image.size


def _turn_back(pixels, orientation):
    return None if pixels is None else np.ascontiguousarray(orient(pixels, {6: 8, 8: 6}.get(orientation, orientation)))


def _header(image, file) -> JpegHeader | None:
    if image.format not in ("JPEG", "MPO"):
        return None
    file.seek(0)
    return read_jpeg_header(file)


def _breaks_off(header: JpegHeader, file: BinaryIO) -> bool:
    """Tells whether a JPEG's data run out before its last row, although it has an end marker.

    The decoder would fill it up with gray and say nothing. So the marker is replaced by zeros, too few to matter: of a
    whole picture the last row is written all the same, of another one it keeps whatever stood there before.

    Args:
        header: The JPEG's.
        file: At its first scan, where reading the header has left it.
    """
    if (header.process, header.entropy_coding) not in (("baseline", "Huffman"), ("extended", "Huffman")):
        return False  # of the others, the decoder writes nothing before the end
    start = file.tell()
    file.seek(0)
    content = file.read()
    end = content.find(b"\xff\xd9", start)
    return end >= 0 and all(_keeps_last_row(content[:end] + bytes(16), content[start + 2], mark) for mark in (85, 170))


def _keeps_last_row(content, channels, mark) -> bool:
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        if len(image.getbands()) != channels:
            return False  # in several scans, which are not written before the last one ends
        image.draft(image.mode, (1, 1))  # an eighth of the size costs less
        image.load_prepare()
        row = 0, image.height - 1, image.width, image.height
        image.im.paste((mark,) * channels if channels > 1 else mark, row)
        with suppress(OSError):
            image.load()
        image.tile = []  # lest it is loaded again
        return bool((np.asarray(image.crop(row)) == mark).all())


def _bit_depth(image, file) -> int:
    if image.format == "TIFF":
        return max(image.tag_v2.get(ExifTags.Base.BitsPerSample, (1,)))
    if image.format not in ("PNG", "AVIF"):
        return 8
    file.seek(0)
    start = file.read(4096)
    if image.format == "PNG":
        return start[24]  # of IHDR, the first chunk
    property_of_pixels = re.search(rb"pixi\0{4}[\1-\4](.)", start, re.DOTALL)  # ISO/IEC 23008-12, 6.5.6
    return property_of_pixels[1][0] if property_of_pixels else 8


def _srgb_profile() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes(12) + profile[36:]  # without the date, so that the same input gives the same file
