"""From an image file to a photograph: the only place of this package that opens image files."""

import contextlib
import hashlib
import io
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from data_prep.errors import InputError
from data_prep.png import long_texts, tell_transparency

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff"})

UNREADABLE, NO_PICTURE = "truncated or damaged, or of a kind that cannot be read", "not in a format that can be read"
"""Words for a file whose format Pillow does not tell."""

_SIGNATURES = re.compile(rb"\xff\xd8|\x89PNG|RIFF....WEBP|II[*+]\0|MM\0[*+]|BM|....ftyp(avi[fs]|he)", re.DOTALL)

# What Pillow's decoders raise on a broken file, beside its own UnidentifiedImageError (an OSError).
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    TypeError,  # a TIFF's tags
    RuntimeError,  # libavif
    Image.DecompressionBombError,
)


def find_photographs(folder: Path) -> Iterator[Path]:
    """Finds the PNG, JPEG, WebP, AVIF and TIFF files below a folder, by extension, in the order of their paths.

    Args:
        folder: Folder to search, sub-folders included; hidden files and folders are passed over.

    Raises:
        InputError: The folder is missing, is not a folder, or it or one of its sub-folders cannot be read.
    """

    def refuse(error):
        said = f"cannot read the folder, check its permissions: {error.filename} ({error.strerror})"
        raise InputError(said) from error

    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no such folder, check the path: {folder}") from None
    except OSError as error:
        refuse(error)
    if not is_folder:
        raise InputError(f"not a folder, give the folder that holds the photographs: {folder}")
    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    for file in sorted(found):
        if file.suffix.lower() in SUFFIXES and file.is_file():
            yield file


def read_photograph(file: Path) -> np.ndarray:
    """Decodes an image file into RGB.

    EXIF's orientation is applied; XMP's is not, as browsers do not apply it either. Gray becomes three equal channels,
    a palette its colors. CMYK is converted through the embedded ICC profile where there is one; the profile of an RGB
    picture is not applied, as TensorFlow's decoders do not apply it either. 16 bits per channel are scaled to 8, white
    staying white. Transparency is laid over white, as a browser shows it on an empty page. Of several frames or pages,
    the first is taken. A JPEG that lacks its end marker and nothing else is read.

    Args:
        file: Path of a PNG, JPEG, WebP, AVIF or TIFF file.

    Returns:
        The photograph, `uint8 [H, W, 3]`, RGB, 0..255.

    Raises:
        InputError: The file is broken, is no picture, or holds numbers whose white is unknown (float, 32
            bits).
    """
    start = b""
    try:
        with file.open("rb") as opened:
            start = opened.read(16)
            opened.seek(0)
            try:
                return _decode(opened)
            except _BROKEN:
                opened.seek(0)
                with contextlib.suppress(*_BROKEN):
                    if mended := with_end_marker(opened.read(), lambda content: _decode(io.BytesIO(content))):
                        return _decode(io.BytesIO(mended))
                raise
    except _BROKEN as error:
        raise InputError(f"not a usable picture, mend or remove it: {file} ({_explain(error, start)})") from error


def describe_unidentified(start: bytes) -> str:
    """Says of a file whose format Pillow does not tell what it is: `UNREADABLE` or `NO_PICTURE`.

    Args:
        start: Its first 16 bytes, or all where it has fewer.
    """
    return UNREADABLE if _SIGNATURES.match(start) else NO_PICTURE


def with_end_marker(content: bytes, decode: Callable[[bytes], np.ndarray]) -> bytes | None:
    """Adds the end marker (ITU-T T.81, B.2.1) to a JPEG that is whole but for it.

    Bytes behind the last scan are passed over by the decoder, unless the scan wants more. So it is decoded with three
    kinds of them, of 1, 2 and 3 bits that are repeated, which give the same pixels if it is whole.

    Args:
        content: Of a file that cannot be decoded as it is.
        decode: From a JPEG's content to its pixels, of any dtype and range; what it raises is passed on.

    Returns:
        The JPEG's content, None where it breaks off, or is no JPEG.
    """
    if not content.startswith(b"\xff\xd8"):
        return None
    content, end = content.rstrip(b"\xff"), b"\xff\xd9"  # without half of a marker
    kinds = (b"\0", b"\x55", b"\x92\x49\x24")
    return content + end if len({hash_pixels(decode(content + kind * 64 + end)) for kind in kinds}) == 1 else None


def encode_photograph(photo: np.ndarray) -> io.BytesIO:
    """Encodes a photograph as TFDS is to keep it: a PNG, lightly compressed.

    TFDS's own encoder compresses harder, which takes four times as long and saves 7 % of the space.

    Args:
        photo: Photograph, `uint8 [H, W, 3]`, RGB, 0..255.

    Returns:
        The file's bytes, from their start.
    """
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG", compress_level=1)
    file.seek(0)
    return file


def hash_pixels(photo: np.ndarray) -> str:
    """Hashes what is seen, so that the same picture is known again in another file format.

    Args:
        photo: Photograph, `uint8 [H, W, 3]`, RGB, 0..255.

    Returns:
        SHA-256 over height, width and pixels, in hexadecimal.
    """
    digest = hashlib.sha256(struct.pack("<II", *photo.shape[:2]))
    digest.update(np.ascontiguousarray(photo).data)
    return digest.hexdigest()


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Scales 16 bits per channel to 8, white staying white.

    Args:
        pixels: Of any shape, `uint16`, 0..65535, in the machine's byte order or the other.

    Returns:
        The same shape, `uint8`, 0..255.
    """
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 257 * 255


def cmyk_to_srgb(image: Image.Image) -> Image.Image | None:
    """Converts a CMYK picture through its embedded ICC profile.

    Returns:
        The picture in sRGB, mode "RGB"; None where it has no profile, or a broken one.
    """
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (KeyError, TypeError, ImageCms.PyCMSError, OSError):
        return None


def _explain(error: Exception, start: bytes) -> str:
    if isinstance(error, Image.UnidentifiedImageError):  # which names a Python object
        return describe_unidentified(start)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _decode(file: BinaryIO) -> np.ndarray:
    with long_texts(), Image.open(file) as image:
        image.info.pop("xmp", None)  # by which Pillow would turn a TIFF as soon as it is loaded
        image.load()
        exif = Image.Exif()
        with contextlib.suppress(*_BROKEN):  # a photograph is worth more than its EXIF
            exif.load(image.info.get("exif", b""))
        # Pillow's own EXIF has the orientation of XMP where there is no other.
        image.getexif()[ExifTags.Base.Orientation] = exif.get(ExifTags.Base.Orientation, 1)
        if image.format == "PNG":
            tell_transparency(image, file)
        return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        levels = np.asarray(image)
        if "transparency" in image.info:
            levels = np.where(levels == image.info["transparency"], np.uint16(65535), levels)
        # Pillow's own conversion clips at 255 instead of scaling
        return Image.fromarray(to_8_bits(levels)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32 bits per channel")
    if image.mode == "CMYK":
        # a broken profile does not make the picture unusable
        return cmyk_to_srgb(image) or image.convert("RGB")
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
