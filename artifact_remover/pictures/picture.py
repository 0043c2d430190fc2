"""Pictures to restore: from an image file to pixels and all that belongs to them, and back.

Pixels are kept as stored in the file, so that a JPEG's 8x8 blocks start at the corner for the network; a picture is
turned upright only when it is written. Photographs to train on are read by `data_prep.photographs`.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags

from artifact_remover.pictures.chroma import is_chroma_subsampled
from artifact_remover.pictures.jpeg_header import JpegHeader, read_jpeg_header
from artifact_remover.pictures.metadata import (
    Metadata,
    orientation_of,
    read_metadata,
    upright,
    with_fitting_profile,
    without_jpeg_parts,
)
from artifact_remover.pictures.readers import (
    MOST_PAGES,
    DamagedError,
    add_missing_end,
    bit_depth,
    breaks_off,
    check_size,
    count_pictures,
    decode_8_bits,
    decode_16_bits,
    file_format,
    is_gray,
    open_image,
    source_bits,
    source_format,
    stored_size,
)
from artifact_remover.pictures.restored_mark import read_mark
from artifact_remover.pictures.writers import write_png, write_tiff, write_with_pillow
from data_prep.errors import InputError, Option, to_one_line
from data_prep.png import read_behind_pixels

INPUT_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif")
)
FORMATS = {"png": ".png", "webp": ".webp", "jpeg": ".jpg", "tiff": ".tiff", "avif": ".avif"}
"""The formats for writing, each with its suffix."""
QUALITY_FORMATS = ("webp", "jpeg", "avif")
"""The formats that take a quality; the others are lossless."""

LONGEST_SIDE = {"png": 2**31 - 1, "webp": 16383, "jpeg": 65500, "tiff": 2**32 - 1, "avif": 65536}
"""Pixels of the longest side that each format can hold."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: uint8 [H, W, C] in 0..255 or uint16 [H, W, C] in 0..65535, C 1 (gray) or 3 (RGB); as stored, so
            `orientation` is not applied.
        alpha: [H, W], of the pixels' dtype and range, the largest value opaque; None without transparency.
        orientation: EXIF's, 1..8.
        metadata: Its metadata.
        header: How a JPEG was compressed, also one that was transcoded to a JPEG XL; None for other formats.
        format: Pillow's name of the file format, such as "JPEG".
        notes: What the user should be told, each a short clause.
        jpeg: The file's content where any JPEG decoder gets the same pixels from it, or that of the JPEG which was
            transcoded to a JPEG XL; None for other formats, for CMYK, and for files that break off.
        truncated: Whether the file breaks off or is damaged, and was taken as far as it goes.
        chroma_subsampled: Whether it is a lossy WebP, AVIF or HEIC whose colors have a lower resolution than its luma.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    orientation: int
    metadata: Metadata
    header: JpegHeader | None
    format: str
    notes: tuple[str, ...] = ()
    jpeg: bytes | None = None
    truncated: bool = False
    chroma_subsampled: bool = False

    @property
    def restored_by(self) -> str | None:
        """The program and version that restored it already, None where none did."""
        return read_mark(self.metadata.xmp)


@dataclass(frozen=True)
class Summary:
    """The facts about a picture that its file states in its headers.

    Attributes:
        format: Pillow's name of the file format, such as "JPEG".
        width: In pixels, as stored.
        height: In pixels, as stored.
        bits: Bits per channel.
        color: "gray", "RGB" or "CMYK", or Pillow's name of something rarer, with " + alpha" where it has one.
        orientation: EXIF's, 1..8.
        pictures: How many the file holds.
        header: How a JPEG was compressed, None for other formats.
        metadata: Names of what is there, such as ("EXIF", "ICC", "XMP", "comment", "300 dpi").
        restored_by: The program and version that restored it already, None where none did.
        lost: How many of its pictures are not written again with the first; previews do not count.
    """

    format: str
    width: int
    height: int
    bits: int
    color: str
    orientation: int
    pictures: int
    header: JpegHeader | None
    metadata: tuple[str, ...]
    restored_by: str | None = None
    lost: int = 0


def inspect_picture(file: Path | BinaryIO, *, max_megapixels: float = 256, allow_truncated: bool = False) -> Summary:
    """Reads the facts about a picture from its file, without decoding a pixel unless it is a JPEG XL.

    Args:
        file: A JPEG, MPO, PNG, WebP, TIFF, BMP, AVIF or JPEG XL, whatever its name.
        max_megapixels: A larger JPEG XL is refused, as by `decode_picture`.
        allow_truncated: Whether a truncated or damaged file is read as far as it goes.

    Raises:
        InputError: If it cannot be read, is no such picture, or is damaged.
    """
    with open_image(file, allow_truncated, max_megapixels) as (image, opened):
        behind = read_behind_pixels(opened) if image.format == "PNG" else {}
        metadata, _ = _read_metadata(image, opened, image.info | behind)
        present = {"EXIF": metadata.exif, "ICC": metadata.icc_profile, "XMP": metadata.xmp, "IPTC": metadata.iptc}
        present["comment"] = metadata.comment
        names = [name for name, content in present.items() if content]
        names += metadata.jpeg_parts.names if metadata.jpeg_parts else ()
        if metadata.dpi:
            names.append(" x ".join(dict.fromkeys(f"{dpi:.0f}" for dpi in metadata.dpi)) + " dpi")
        pictures, header = count_pictures(image), _header(image, opened)
        lost = (metadata.jpeg_parts.lost if metadata.jpeg_parts else 0) if header else pictures - 1
        color = "gray" if is_gray(image) else {"CMYK": "CMYK", "LAB": "Lab"}.get(image.mode, "RGB")
        return Summary(
            source_format(image, opened),
            *stored_size(image),
            source_bits(image, opened),
            color + (" + alpha" if image.has_transparency_data else ""),
            orientation_of(metadata),
            pictures,
            header,
            tuple(names),
            read_mark(metadata.xmp),
            lost,
        )


def decode_picture(
    source: Path | bytes | bytearray | memoryview, *, max_megapixels: float = 256, allow_truncated: bool = False
) -> Picture:
    """Decodes a picture, the first one where there are several.

    CMYK is converted to sRGB through the embedded profile, or plainly where there is none. A palette becomes its
    colors; gray stays gray; 16 bits stay 16 bits.

    Args:
        source: A JPEG, MPO, PNG, WebP, TIFF, BMP, AVIF or JPEG XL: its path, whatever its suffix, or its content.
        max_megapixels: Larger pictures are refused before they are decoded; half of it for WebP, AVIF and JPEG XL,
            whose libraries take twice the memory.
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
        if mended := add_missing_end(source):
            with suppress(DamagedError):
                picture = _decode(mended, max_megapixels)
                return replace(picture, notes=(*picture.notes, "its end marker is missing, nothing else"))
        if not allow_truncated:
            raise
        picture = _decode(source, max_megapixels, allow_truncated=True)
        notes = (*picture.notes, "truncated or damaged, taken as far as it goes")
        return replace(picture, notes=notes, truncated=True)


def encode_picture(picture: Picture, file: BinaryIO, format: str, quality: int | None = None) -> tuple[str, ...]:
    """Writes a picture upright, with all metadata that the format can hold.

    A JPEG with a gain map, or with another part that is laid out as the stored pixels are, becomes a JPEG whose pixels
    are stored as they were, with the orientation in its EXIF.

    Args:
        picture: From `decode_picture`, pixels and alpha as they are stored.
        file: Where, at its start; must be able to seek.
        format: One of `FORMATS`.
        quality: 1..100, of `QUALITY_FORMATS`; None for lossless WebP, JPEG 95 and AVIF 90. Only
            WebP, as it must, subsamples the colors.

    Returns:
        Notes on what the format cannot hold, each a short clause.

    Raises:
        InputError: If `check_format` or `check_side` refuses.
        OSError: If the file cannot be written.
    """
    check_format(format, quality)
    check_side(picture, format)
    metadata, lost = picture.metadata, list[str]()
    if format != "jpeg":
        metadata, lost = without_jpeg_parts(metadata, format)
    laid_out = metadata.jpeg_parts is not None and metadata.jpeg_parts.laid_out
    orientation = 1 if laid_out else picture.orientation
    pixels = orient(picture.pixels, orientation)
    alpha = None if picture.alpha is None else orient(picture.alpha, orientation)
    metadata, dropped = upright(metadata, orientation)
    if metadata.georeference and (format != "tiff" or orientation != 1):
        dropped.append(
            f"georeference dropped, {'the picture is turned' if format == 'tiff' else f'{format} cannot hold it'}"
        )
        metadata = replace(metadata, georeference=())
    notes: tuple[str, ...] = ()
    if format == "png":
        write_png(file, pixels, alpha, metadata)
    elif format == "tiff":
        notes = write_tiff(file, pixels, alpha, metadata)
    else:
        notes = write_with_pillow(file, pixels, alpha, metadata, format, quality)
    return (*notes, *lost, *dropped)


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


def check_side(picture: Picture, format: str) -> None:
    """Refuses a picture that is larger than a format can hold.

    Args:
        picture: From `decode_picture`.
        format: One of `FORMATS`.

    Raises:
        InputError: If its longer side, or a TIFF's number of bytes, is too large.
    """
    height, width = picture.pixels.shape[:2]
    if max(height, width) > LONGEST_SIDE[format] or (format == "tiff" and picture.pixels.nbytes > 2**31):
        raise InputError(
            f"{width}x{height} pixels are more than a {format} can hold: choose another ", Option("format")
        )


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


def _decode(source, max_megapixels, allow_truncated=False) -> Picture:
    with open_image(source, allow_truncated, max_megapixels) as (image, file):
        check_size(image.width, image.height, file_format(image), max_megapixels)
        format, depth, header = file_format(image), bit_depth(image, file), _header(image, file)
        if header and not allow_truncated and breaks_off(header, file):
            raise OSError("the data end before the last row")
        jpeg = None
        if header and image.mode in ("L", "RGB") and not allow_truncated:
            file.seek(0)
            jpeg = file.read()
        pictures = count_pictures(image)
        # The pictures of a JPEG are told with its other parts.
        more = " or more" if pictures == MOST_PAGES else ""
        notes = [f"first of {pictures}{more} pictures taken"] if pictures > 1 and not header else []
        # Pillow turns a TIFF upright, by its XMP too, and removes the orientation from there, so that both are kept.
        kept = {"xmp": image.info.get("xmp")} if format == "TIFF" else {}
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) if format == "TIFF" else 1
        decoded = decode_16_bits(image, file) if depth == 16 else decode_8_bits(image, file)
        pixels, alpha, info, color_notes = decoded
        metadata, metadata_notes = _read_metadata(image, file, {**info, **kept})
        format, depth = source_format(image, file), source_bits(image, file)
        chroma_subsampled = is_chroma_subsampled(file_format(image), file)
    if depth > 8 and pixels.dtype == np.uint8:
        notes.append(f"{depth} bits reduced to 8")
    if turned != 1:
        pixels, alpha = (_turn_back(each, turned) for each in (pixels, alpha))
    metadata, profile_notes = with_fitting_profile(metadata, pixels)
    notes += [*color_notes, *metadata_notes, *profile_notes]
    orientation = orientation_of(metadata)
    return Picture(
        pixels, alpha, orientation, metadata, header, format, tuple(notes), jpeg, chroma_subsampled=chroma_subsampled
    )


def _read_metadata(image, file, info) -> tuple[Metadata, list[str]]:
    format = file_format(image)
    metadata, notes = read_metadata(info, format, file)
    if source_format(image, file) == "JXL" and format == "PNG":
        # Its codestream says how it is turned, whatever EXIF says, and the decoder has done so.
        metadata, dropped = upright(metadata, orientation_of(metadata))
        notes += dropped
    return metadata, notes


def _turn_back(pixels, orientation):
    return None if pixels is None else np.ascontiguousarray(orient(pixels, {6: 8, 8: 6}.get(orientation, orientation)))


def _header(image, file) -> JpegHeader | None:
    if image.format not in ("JPEG", "MPO"):
        return None
    file.seek(0)
    return read_jpeg_header(file)
