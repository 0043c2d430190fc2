"""Other programs' JPEGs are what they are known for: their own tables, fewer bytes, and coefficients not rounded."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from artifact_remover.pictures.jpeg_header import read_jpeg_header
from data_prep.jpeg_programs import encode_with_jpegli, encode_with_mozjpeg
from tests.sample_pictures import to_file

FACE = np.ascontiguousarray(data.astronaut()[:160, 100:260])


def error(content):
    return np.square(np.asarray(Image.open(io.BytesIO(content))).astype(float) - FACE).mean()


@pytest.mark.parametrize(
    ("encode", "subsampling"),
    [
        (lambda *how: encode_with_mozjpeg(*how, halved=True), "4:2:0"),
        (lambda *how: encode_with_mozjpeg(*how, halved=False), "4:4:4"),
        (encode_with_jpegli, "4:2:0"),
    ],
    ids=["mozjpeg", "mozjpeg 4:4:4", "jpegli"],
)
def test_bytes_are_saved_for_error_where_libjpeg_rounds_by_the_same_tables(encode, subsampling):
    content = encode(FACE, 75)
    header = read_jpeg_header(io.BytesIO(content))
    assert header.chroma_subsampling == subsampling and not header.standard_tables
    how = {"qtables": (header.quantization * 2)[:2], "subsampling": subsampling, "progressive": True}
    rounded = to_file(FACE, optimize=True, **how)
    assert len(content) < 0.95 * len(rounded)
    assert 1.02 * error(rounded) < error(content) < 1.5 * error(rounded)


@pytest.mark.parametrize("encode", [encode_with_jpegli, lambda *how: encode_with_mozjpeg(*how, halved=True)])
def test_a_higher_quality_is_closer(encode):
    errors = [error(encode(FACE, quality)) for quality in (10, 40, 70, 95)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 5
