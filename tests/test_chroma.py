"""Tests of what WebP, AVIF and HEIC say of their chroma."""

import io

import numpy as np
import pytest
from PIL import Image

from artifact_remover.pictures.chroma import is_chroma_subsampled
from artifact_remover.pictures.picture import decode_picture

COLORS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))


def save(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def with_alpha():
    image = COLORS.copy()
    image.putalpha(Image.linear_gradient("L").resize(COLORS.size))
    return image


@pytest.mark.parametrize(
    ("format", "options", "subsampled"),
    [
        ("WEBP", {"quality": 80}, True),
        ("WEBP", {"quality": 80, "exif": b"Exif\0\0MM\0*"}, True),  # in an extended file
        ("WEBP", {"lossless": True}, False),
        ("WEBP", {"lossless": True, "exif": b"Exif\0\0MM\0*"}, False),
        ("WEBP", {"save_all": True, "append_images": [COLORS.rotate(90)], "quality": 80}, True),
        ("WEBP", {"save_all": True, "append_images": [COLORS.rotate(90)], "lossless": True}, False),
        ("AVIF", {"quality": 80}, True),
        ("AVIF", {"quality": 80, "subsampling": "4:2:2"}, True),
        ("AVIF", {"quality": 80, "subsampling": "4:4:4"}, False),
        ("PNG", {}, False),
        ("JPEG", {"quality": 80}, False),
    ],
)
@pytest.mark.parametrize("image", [COLORS, with_alpha()], ids=["RGB", "RGBA"])
def test_subsampled_chroma_is_told_by_the_header(image, format, options, subsampled):
    if format == "JPEG":
        image = image.convert("RGB")
    content = save(image, format, **options)
    assert decode_picture(content).chroma_subsampled == subsampled


def test_gray_avif_has_no_chroma():
    content = save(COLORS.convert("L"), "AVIF", subsampling="4:0:0")
    assert not decode_picture(content).chroma_subsampled


@pytest.mark.parametrize(("chroma", "subsampled"), [(420, True), (422, True), (444, False)])
def test_subsampled_chroma_of_a_heic_is_told(chroma, subsampled):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    assert decode_picture(save(COLORS, "HEIF", quality=80, chroma=chroma)).chroma_subsampled == subsampled


@pytest.mark.parametrize("length", [0, 12, 14, 20, 40])
def test_a_file_that_breaks_off_has_none(length):
    assert not is_chroma_subsampled("WEBP", io.BytesIO(save(with_alpha(), "WEBP", exif=b"Exif\0\0MM\0*")[:length]))
