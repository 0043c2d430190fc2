"""From image files to pixels: opening with Pillow, decoding 8 and 16 bits, and noticing what is damaged."""

import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, PngImagePlugin, TiffImagePlugin

from artifact_remover.pictures.jpeg_container import end_of_picture, has_more_scans
from artifact_remover.pictures.jpeg_header import JpegHeader, UncommonJpegError, read_jpeg_header
from artifact_remover.pictures.jpeg_xl import DecodedJpegXl, can_decode, decode_apart, is_jpeg_xl, read_header
from artifact_remover.pictures.writers import band_height
from data_prep.errors import InputError, Message, Option, to_one_line
from data_prep.photographs import NO_PICTURE, cmyk_to_srgb, describe_unidentified, with_end_marker
from data_prep.png import PNG_TEXT_LIMIT, long_texts, tell_transparency

_READABLE = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "HEIF")
_MOST_SCANS = 500  # as the tools of libjpeg-turbo can be told; of an empty one each block is gone through all the same
MOST_PAGES = 1000
"""Pages of a TIFF that are counted; a file of megabytes may hold many thousands, each a look-up."""
_HEIF = re.compile(rb"....ftyp(he(ic|ix|im|is|vc|vx|vm|vs)|mif1|msf1)", re.DOTALL)  # ISO/IEC 23008-12, annex B and 10


class DamagedError(InputError):
    """A file that ends early or is damaged; part of it may still be decoded."""


class TooLargeError(InputError):
    """A picture of more pixels than the caller allows."""


@contextmanager
def open_image(
    source: Path | bytes | BinaryIO, allow_truncated: bool = False, max_megapixels: float = 256
) -> Iterator[tuple[ImageFile.ImageFile, BinaryIO]]:
    """Opens an image file with Pillow, and words what goes wrong while it is open.

    Args:
        source: A JPEG, MPO, PNG, WebP, TIFF, BMP, AVIF or JPEG XL: its path, its content, or an open file that can
            seek.
        allow_truncated: Whether Pillow decodes a truncated file as far as it goes.
        max_megapixels: A larger JPEG XL is refused, as by `check_size`.

    Yields:
        Pillow's picture, of which no pixel is decoded yet, and the file. Of a JPEG XL both are those of the JPEG or PNG
        that it is decoded to, and the file is a `DecodedJpegXl`.

    Raises:
        InputError: If it cannot be read, is no such picture or an uncommon JPEG, or does not fit in the memory.
        TooLargeError: If it is a JPEG XL and too large.
        DamagedError: If it is truncated or damaged.
    """
    name = to_one_line(source if isinstance(source, Path) else getattr(source, "name", "the picture"))
    advice = "mend or remove it" if allow_truncated else Message("mend it or use ", Option("allow_truncated"))
    start = b""
    try:
        if isinstance(source, Path) and source.exists() and not source.is_file():
            raise InputError("no file but a folder or device: give a picture")  # opening a pipe would wait forever
        with _binary(source) as given, _decoded(given, max_megapixels) as file, _pillow_limits(allow_truncated):
            start = file.read(16)
            if not start:
                raise InputError("empty: give another picture")
            file.seek(0)
            if start.startswith(b"\xff\xd8"):
                _refuse_uncommon(file)
            if brand := _HEIF.match(start):
                _register_heif(brand[1])
            Image.init()  # an older Pillow may know no AVIF
            try:
                opened = Image.open(file, formats=[name for name in _READABLE if name in Image.OPEN])
            except (Image.UnidentifiedImageError, KeyError):
                if tags := _directory_of_tiff(file):
                    raise _refusal_of(tags) from None
                raise
            with opened as image:
                if comments := [content for name, content in getattr(image, "applist", ()) if name == "COM"]:
                    image.info["comment"] = b"\n".join(comments)  # Pillow keeps only the last one
                yield image, file
    except InputError as error:
        raise type(error)(f"{name} is ", error.message) from error
    except FileNotFoundError as error:
        raise InputError(f"{name} is missing: check the path") from error
    except Image.UnidentifiedImageError as error:
        said = describe_unidentified(start)
        if said == NO_PICTURE:
            raise InputError(f"{name} is {said}: give a whole JPEG, PNG, WebP, TIFF, BMP or AVIF") from error
        raise DamagedError(f"{name} is {said}, ", advice) from error
    except MemoryError as error:
        raise InputError(f"{name} is too large for the memory of this machine: reduce it") from error
    # Pillow's decoders raise whatever a damaged file leads them to, from KeyError to RecursionError.
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{name} cannot be read, check its name and permissions: {error.strerror}") from error
        if "MAX_TEXT_" in str(error):  # Pillow's names of the limits
            too_much = f"{name} has a text or profile of more than {PNG_TEXT_LIMIT >> 20} MiB: remove it"
            raise InputError(too_much) from error
        reason = to_one_line(error) or type(error).__name__
        raise DamagedError(f"{name} is truncated or damaged, ", advice, f": {reason}") from error


def check_size(width: int, height: int, format: str, max_megapixels: float) -> None:
    """Refuses a picture that is too large.

    Args:
        width: In pixels.
        height: In pixels.
        format: Pillow's name of the file format.
        max_megapixels: As in `decode_picture`.

    Raises:
        TooLargeError: If it is too large.
    """
    megapixels = width * height / 1e6
    costly = format in ("WEBP", "AVIF", "JXL")  # their decoders take up to 16 bytes per pixel, also for tiny files
    if megapixels > (max_megapixels / 2 if costly else max_megapixels):
        limit = f"the limit of {max_megapixels:.6g}"
        if costly:
            limit = f"half {limit}, as {format} takes twice the memory"
        raise TooLargeError(f"{megapixels:.6g} megapixels, more than {limit}: raise it with ", Option("max_megapixels"))


def _decoded(file, max_megapixels):
    """Decodes a JPEG XL, before the lock is taken, as it may take long; other files stay as they are."""
    start = file.read(16)
    file.seek(0)
    if not is_jpeg_xl(start):
        return nullcontext(file)
    if not can_decode():
        raise InputError("a JPEG XL, for which a package is missing: pip install 'artifact-remover[jxl]'")
    content = file.read()
    try:
        header = read_header(content)
        check_size(header.width, header.height, "JXL", max_megapixels)
        if header.animated:
            raise InputError("an animated JPEG XL, which is not read: save a picture of it as a PNG")
        if header.floating_point:
            raise InputError(
                "a JPEG XL of floating-point numbers, which is not read: save it as a PNG of 8 or 16 bits per channel"
            )
        return decode_apart(content, header)
    except ValueError as error:
        raise InputError(
            f"a JPEG XL that is damaged or of a kind that is not read, {error}: mend it, or make a PNG of it"
        ) from error  # of which no part can be decoded


def _register_heif(brand):
    try:
        import pillow_heif
    except ImportError:
        if brand in (b"mif1", b"msf1"):  # it may also be an AVIF
            return
        raise InputError("a HEIC, for which a package is missing: pip install 'artifact-remover[heic]'") from None
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()


@contextmanager
def _pillow_limits(allow_truncated):
    logger = logging.getLogger("PIL")
    # Pillow keeps its limits in module variables, and so does `warnings`: one thread at a time changes them.
    with long_texts(), warnings.catch_warnings():
        level, limits = logger.level, (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
        try:
            logger.setLevel(logging.CRITICAL)  # it would print the error's text as well
            # `max_megapixels` is checked instead of Pillow's own limit, which today's cameras exceed.
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, allow_truncated
            warnings.simplefilter("ignore")
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = limits
            logger.setLevel(level)


def _binary(source):
    if isinstance(source, Path):
        return source.open("rb")
    return nullcontext(io.BytesIO(source) if isinstance(source, bytes) else source)


def _refuse_uncommon(file):
    try:
        read_jpeg_header(file)
    except UncommonJpegError:
        raise
    except InputError:  # which the decoder words better
        pass
    file.seek(0)
    if has_more_scans(file.read(), _MOST_SCANS):
        raise UncommonJpegError(f"a JPEG of more than {_MOST_SCANS} scans, which would take too long: save it anew")
    file.seek(0)


def count_pictures(image: ImageFile.ImageFile) -> int:
    """Counts a file's pictures; of a TIFF not beyond `MOST_PAGES`, as each is looked up.

    Args:
        image: From `open_image`, at its first picture, where it stays.
    """
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1)
    try:
        for page in range(1, MOST_PAGES):
            image.seek(page)
    except EOFError:
        return page
    finally:
        image.seek(0)
    return MOST_PAGES


def decode_8_bits(image: ImageFile.ImageFile, file: BinaryIO) -> tuple[np.ndarray, np.ndarray | None, dict, list[str]]:
    """Decodes a picture of up to 8 bits per channel, or one that Pillow reduces to 8.

    Args:
        image: From `open_image`.
        file: From `open_image`.

    Returns:
        Pixels, uint8 [H, W, C] in 0..255, C 1 (gray) or 3 (RGB); alpha, uint8 [H, W] in 0..255, or None; what Pillow
        says of the picture; and notes on the colors, each a short clause.

    Raises:
        InputError: If it is a TIFF of another kind, such as 32 bits of gray.
    """
    if image.mode in ("I", "F", "LAB") or image.mode.startswith("I;") or _is_signed(image):
        raise _refusal_of(_tiff_tags(image))
    image.load()
    if image.format == "PNG":
        tell_transparency(image, file)
    decoded: Image.Image = image
    info, notes = image.info, []
    if image.mode == "CMYK":
        converted = cmyk_to_srgb(image)
        notes.append("CMYK converted to sRGB" + ("" if converted else " without a profile"))
        decoded = converted or image.convert("RGB")
        info = {**info, "icc_profile": _srgb_profile() if converted else None}
    mode = ("L" if is_gray(decoded) else "RGB") + ("A" if decoded.has_transparency_data else "")
    if decoded.mode != mode:
        decoded = decoded.convert(mode)
    channels = len(mode) - (mode[-1] == "A")
    pixels = np.empty((decoded.height, decoded.width, channels), np.uint8)
    alpha = np.empty(pixels.shape[:2], np.uint8) if mode[-1] == "A" else None
    for rows, band in _bands(decoded):
        pixels[rows] = band[..., :channels]
        if alpha is not None:
            alpha[rows] = band[..., channels]
    return pixels, alpha, info, notes


def decode_16_bits(image: ImageFile.ImageFile, file: BinaryIO) -> tuple[np.ndarray, np.ndarray | None, dict, list[str]]:
    """Decodes a picture of 16 bits per channel.

    Args:
        image: From `open_image`.
        file: From `open_image`; it is read again.

    Returns:
        Pixels, uint16 [H, W, C] in 0..65535, C 1 (gray) or 3 (RGB); alpha, uint16 [H, W] in 0..65535, or None; what
        Pillow says of the picture; and no notes.

    Raises:
        InputError: If it is a TIFF of which Pillow cannot be made to read both bytes of a channel.
    """
    # Where there are several channels, Pillow keeps the upper byte of each only, or the lower one if it is given the
    # wrong byte order. So such a picture is decoded twice.
    rawmode, mode = _rawmode(image.tile[0]), image.mode
    if mode.startswith("I") and not _is_signed(image):
        passes = [(rawmode, 0)]
    elif rawmode == "LA;16B":
        passes = [("RGBA", 0)]  # two bytes of gray and two of alpha, taken for four channels
    elif mode in ("RGB", "RGBA") and rawmode.startswith(f"{mode};16") and not _is_planar(image):
        big_endian = rawmode.endswith("B") or (rawmode.endswith("N") and sys.byteorder == "big")
        passes = [(f"{mode};16B", 8 if big_endian else 0), (f"{mode};16L", 0 if big_endian else 8)]
    else:
        raise _refusal_of(_tiff_tags(image))
    stored: np.ndarray = np.zeros((*image.size[::-1], 1 if mode.startswith("I") else len(mode)), np.uint16)
    for rawmode, shift in passes:
        file.seek(0)
        with Image.open(file, formats=[file_format(image)]) as each:
            each.tile = [_with_rawmode(tile, rawmode) for tile in each.tile]
            each.load()
            info = {**image.info, **each.info}
            for rows, band in _bands(each):
                stored[rows] |= band.astype(np.uint16) << shift
    if _tiff_tag(image, ExifTags.Base.PhotometricInterpretation) == 0:
        stored = 65535 - stored  # zero is white, which Pillow heeds for 8 bits only
    if passes[0][0] == "RGBA":
        stored = stored[..., ::2] << 8 | stored[..., 1::2]
    if stored.shape[2] in (2, 4):
        return stored[..., :-1], stored[..., -1], info, []
    if image.format == "PNG":
        tell_transparency(image, file)
    transparent = image.info.get("transparency")
    if transparent is None:
        return stored, None, info, []
    return stored, np.where((stored == transparent).all(-1), 0, 65535).astype(np.uint16), info, []


def _is_planar(image) -> bool:
    # Each channel is stored by itself; of these, Pillow keeps the upper byte with either byte order.
    return _tiff_tag(image, ExifTags.Base.PlanarConfiguration) == 2


def _is_signed(image) -> bool:
    # Pillow would take values below zero for bright ones.
    return 2 in _tiff_tag(image, ExifTags.Base.SampleFormat, ())


def _directory_of_tiff(file) -> Mapping[int, Any] | None:
    """Reads the first directory of a TIFF that Pillow does not open; None where it is no TIFF or is cut off."""
    file.seek(0)
    head = file.read(8)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head + (file.read(8) if head[2:4] in (b"+\0", b"\0+") else b""))
        file.seek(tags.next)
        tags.load(file)
    except Exception:  # whatever a damaged file leads Pillow to
        return None
    return tags if ExifTags.Base.StripOffsets in tags or ExifTags.Base.TileOffsets in tags else None


def _refusal_of(tags: Mapping[int, Any]) -> InputError:
    """Says what a TIFF is that cannot be read (TIFF 6.0)."""
    compression, bits = tags.get(ExifTags.Base.Compression, 1), tags.get(ExifTags.Base.BitsPerSample, (1,))
    numbers = {2: "signed ", 3: "floating-point "}.get(max(tags.get(ExifTags.Base.SampleFormat, (1,))), "")
    color = {2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}.get(
        tags.get(ExifTags.Base.PhotometricInterpretation, 1), "gray"
    )
    kind = f"{color}, {len(bits)} x {max(bits)} {numbers}bits"
    if tags.get(ExifTags.Base.PlanarConfiguration) == 2:
        kind += ", channel after channel"
    if 1 in tags.get(ExifTags.Base.ExtraSamples, ()):
        kind += ", premultiplied alpha"
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        kind += f", compression {compression}"
    return InputError(f"a TIFF of a kind that is not read ({kind}): save it as a PNG of 8 or 16 bits per channel")


def _tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    return image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}


def _tiff_tag(image: Image.Image, tag: int, default: Any = None) -> Any:
    return _tiff_tags(image).get(tag, default)


def _bands(image: Image.Image) -> Iterator[tuple[slice, np.ndarray]]:
    height = band_height(image.width)
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        band = np.asarray(image.crop((0, top, image.width, bottom)))
        yield slice(top, bottom), band.reshape(*band.shape[:2], -1)


def _rawmode(tile) -> str:
    return tile.args if isinstance(tile.args, str) else tile.args[0]


def _with_rawmode(tile, rawmode):
    return tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:]))


def file_format(image: ImageFile.ImageFile) -> str:
    """Tells Pillow's name of a file's format, such as "JPEG"."""
    assert image.format  # only pictures that were never a file have none
    return image.format


def source_format(image: ImageFile.ImageFile, file: BinaryIO) -> str:
    """Tells the name of the format of the file that was given, which is "JXL" where a JPEG or PNG was made of it."""
    return "JXL" if isinstance(file, DecodedJpegXl) else file_format(image)


def source_bits(image: ImageFile.ImageFile, file: BinaryIO) -> int:
    """Tells how many bits per channel the file has that was given."""
    return file.bits if isinstance(file, DecodedJpegXl) else bit_depth(image, file)


def is_gray(image: Image.Image) -> bool:
    """Tells whether a picture is gray, with or without transparency."""
    # Pillow opens a PNG of gray and alpha in 16 bits in a mode for colors.
    in_16_bits = isinstance(image, PngImagePlugin.PngImageFile) and image.tile and _rawmode(image.tile[0]) == "LA;16B"
    return bool(in_16_bits) or image.mode in ("1", "L", "LA", "La") or image.mode.startswith(("I", "F"))


def stored_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Tells width and height in pixels, as stored."""
    # Pillow gives the size of a TIFF as it is after turning it upright.
    turned = _tiff_tag(image, ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else (image.width, image.height)


def breaks_off(header: JpegHeader, file: BinaryIO) -> bool:
    """Tells whether a JPEG's data end before its last row, although it has an end marker.

    The decoder fills such a picture up with gray and says nothing. So it is decoded once more with a mark in its last
    row and a few zeros for the end marker: a whole picture overwrites the mark, one that breaks off keeps it.

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


def add_missing_end(source: Path | bytes) -> bytes | None:
    """Adds the end marker to a JPEG that is whole but for it.

    Args:
        source: Its path or content.

    Returns:
        The JPEG's content, None where it has an end marker already, or breaks off, or is no JPEG.
    """
    content = source.read_bytes() if isinstance(source, Path) else source
    if end_of_picture(content) is not None:
        return None
    try:
        return with_end_marker(content, _decode_plainly)
    except InputError:
        return None


def _decode_plainly(content) -> np.ndarray:
    with open_image(content) as (image, _):
        return np.asarray(image)


def _keeps_last_row(content, channels, mark) -> bool:
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        if len(image.getbands()) != channels:
            return False  # in several scans, of which the decoder writes nothing before the last one ends
        image.draft(image.mode, (1, 1))  # an eighth of the size costs less
        image.load_prepare()
        row = 0, image.height - 1, image.width, image.height
        image.im.paste((mark,) * channels if channels > 1 else mark, row)
        with suppress(OSError):
            image.load()
        image.tile = []  # or Pillow would load it again
        return bool((np.asarray(image.crop(row)) == mark).all())


def bit_depth(image: ImageFile.ImageFile, file: BinaryIO) -> int:
    """Tells how many bits the file stores per channel, from its header where Pillow does not say."""
    if image.format == "TIFF":
        return max(_tiff_tag(image, ExifTags.Base.BitsPerSample, (1,)))
    if image.format == "HEIF":
        return image.info["bit_depth"]
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
