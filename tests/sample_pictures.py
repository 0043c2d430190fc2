"""Pictures to test with, as arrays and as files, and how far apart two are."""

import io
import struct
import zlib

import cv2
import numpy as np
import tensorflow as tf
from PIL import Image
from skimage import data

PHOTO = data.astronaut()[:96, :100]


def to_file(pixels, format="JPEG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def to_jpeg(pixels, quality=10, **options):
    return to_file(pixels, quality=quality, **options)


def to_turned_jpeg(pixels, quality, subsampling):
    """A JPEG as it is once one of the turned picture is turned back without loss, which turns its tables too.

    Of 4:4:0 the tables are not turned, as no encoder at hand writes such.
    """
    if subsampling == "4:4:0":
        options = (cv2.IMWRITE_JPEG_QUALITY, quality)
        options += (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440)
        return cv2.imencode(".jpg", pixels[..., ::-1], options)[1].tobytes()
    tables = Image.open(io.BytesIO(to_jpeg(pixels, quality))).quantization
    turned = [np.reshape(tables[each], (8, 8)).T.ravel().tolist() for each in sorted(tables)]
    return to_file(pixels, qtables=turned, subsampling=subsampling)


def to_png(pixels):
    return to_file(pixels, "PNG")


def to_cmyk_jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(file, "JPEG", **options)
    return file.getvalue()


def segment(marker, content):
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_index(primary, *pictures):
    """Puts an index (CIPA DC-007) into the first of several JPEGs, each with its type; the others follow."""
    count = len(pictures) + 1
    size = len(primary) + 4 + 4 + 50 + 16 * count
    entries, start = struct.pack("<IIIHH", 0x030000, size, 0, 0, 0), size
    for kind, content in pictures:
        entries += struct.pack("<IIIHH", kind, len(content), start - 10, 0, 0)
        start += len(content)
    directory = struct.pack("<H", 3) + struct.pack("<HHI4s", 0xB000, 7, 4, b"0100")
    directory += struct.pack("<HHII", 0xB001, 4, 1, count) + struct.pack("<HHII", 0xB002, 7, len(entries), 50)
    index = b"MPF\0II*\0" + struct.pack("<I", 8) + directory + bytes(4) + entries
    return primary[:2] + segment(0xE2, index) + primary[2:] + b"".join(content for _, content in pictures)


def levels(one, other):
    """The largest difference."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def raw_png(pixels, color_type, *extra, bits=16):
    """A PNG of any depth and with any chunks, which Pillow does not write."""
    digits = pixels[..., None] >> np.arange(bits)[::-1] & 1
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in digits)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, color_type, 0, 0, 0)
    return png_of([(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def png_of(chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(each)) + name + each + struct.pack(">I", zlib.crc32(name + each)) for name, each in chunks
    )


def make_pairs():
    """Two pairs, fixed and made of what JPEG does: block means against stripes, and a lighter picture."""
    y, x = np.mgrid[:64, :80].astype(np.float32)
    stripes = np.stack([(np.sin(x / 5) + 1) / 2, (np.sin((x + y) / 7) + 1) / 2, (x * y) % 64 / 63], axis=-1)
    means = stripes.reshape(8, 8, 10, 8, 3).mean(axis=(1, 3), keepdims=True)
    blocks = np.broadcast_to(means, (8, 8, 10, 8, 3)).reshape(64, 80, 3)
    turned = stripes[::-1, ::-1]
    clean, restored = [stripes, turned], [blocks, (turned + 0.1).clip(0, 1)]
    return tf.constant(np.stack(clean), tf.float32), tf.constant(np.stack(restored), tf.float32)


def repeat_pixels(pixels: np.ndarray, down: float, across: float) -> np.ndarray:
    """Enlarges to the nearest neighbor by these factors, uint8 [H, W, C] or [H, W] to the same."""
    rows, columns = (np.arange(int(length * by)) / by for length, by in zip(pixels.shape, (down, across), strict=False))
    return np.ascontiguousarray(pixels[rows.astype(int)][:, columns.astype(int)])
