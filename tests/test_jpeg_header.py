import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifact_remover.pictures.jpeg_header import UncommonJpegError, read_jpeg_header, step_scale
from data_prep.errors import InputError
from tests.sample_pictures import segment, to_cmyk_jpeg, to_jpeg, to_turned_jpeg

PICTURES = Path(__file__).parent / "pictures"
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))


def header_of(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    file.seek(0)
    return read_jpeg_header(file)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_each_quality_is_known_by_its_tables(mode):
    # no two qualities share their tables, so each is told exactly
    image = NOISE.convert(mode)
    found = [header_of(image, quality=quality, progressive=quality % 2 == 0) for quality in range(1, 101)]
    assert [(each.quality, each.standard_tables) for each in found] == [(quality, True) for quality in range(1, 101)]


def test_tables_are_row_by_row():
    steps = [*range(1, 65)]
    header = header_of(NOISE, qtables=[steps, steps[::-1]])
    assert header.quantization == (tuple(steps), tuple(steps[::-1]))


def test_tables_of_others_give_the_nearest_quality():
    # Photoshop's, quality 8 of 12: luminance and chrominance
    photoshop = header_of(NOISE, quality="web_high")
    assert not photoshop.standard_tables and 75 <= photoshop.quality <= 90
    # As much error in luma as at quality 82; its chroma is finer.
    assert read_jpeg_header(io.BytesIO((PICTURES / "programs" / "jpegli.jpg").read_bytes())).quality == 82
    nearly = [list(table) for table in header_of(NOISE, quality=80).quantization]
    nearly[0][63] += 1
    assert (header_of(NOISE, qtables=nearly).quality, header_of(NOISE, qtables=nearly).standard_tables) == (80, False)


@pytest.mark.parametrize("name, sampling", [("4:4:4", 0), ("4:2:2", 1), ("4:2:0", 2)])
@pytest.mark.parametrize("progressive", [False, True])
def test_subsampling_and_process(name, sampling, progressive):
    header = header_of(NOISE, subsampling=sampling, progressive=progressive)
    assert header.chroma_subsampling == name
    assert header.process == ("progressive" if progressive else "baseline")
    assert (header.entropy_coding, header.restart_interval) == ("Huffman", 0)


@pytest.mark.parametrize("quality", [10, 75, 92])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0", "4:4:0"])
def test_what_was_turned_without_loss_is_known(quality, subsampling):
    pixels = np.asarray(NOISE)
    header = read_jpeg_header(io.BytesIO(to_turned_jpeg(pixels, quality, subsampling)))
    assert (header.quality, header.standard_tables, header.turned) == (quality, True, True)
    if subsampling != "4:4:0":
        assert not header_of(NOISE, quality=quality, subsampling=subsampling).turned


def test_turned_tables_of_chroma_that_was_subsampled_across_were_turned_back():
    assert not read_jpeg_header(io.BytesIO(to_turned_jpeg(np.asarray(NOISE), 75, "4:2:2"))).turned
    assert not header_of(NOISE, quality=100).turned  # its tables are the same, turned or not


def test_components_without_luma_are_known_by_the_rules_of_libjpeg():
    plain, rgb = (to_jpeg(np.asarray(NOISE), 80, **options) for options in ({}, {"keep_rgb": True}))

    def is_rgb(content):
        return read_jpeg_header(io.BytesIO(content)).without_luma

    assert is_rgb(rgb) and not is_rgb(plain)
    adobe = rgb.index(b"\xff\xee")
    assert is_rgb(rgb[:adobe] + rgb[adobe + 16 :])  # by the names of its components
    assert not is_rgb(plain[:20] + rgb[2:])  # JFIF is never
    assert not is_rgb(rgb.replace(rgb[adobe : adobe + 16], rgb[adobe : adobe + 15] + b"\x01"))
    assert is_rgb(rgb[:adobe] + b"\xff\xee\x00\x07Adobe" + rgb[adobe + 16 :])  # too short to tell
    assert not is_rgb(b"\xff\xd8" + segment(0xE0, b"AVI1\0") + plain[2:20] + rgb[2:])  # others' segments tell nothing
    assert is_rgb(b"\xff\xd8" + segment(0xEE, b"Other, of 12 bytes") + rgb[2:])
    assert header_of(NOISE.convert("CMYK")).without_luma and not header_of(NOISE.convert("L")).without_luma
    inks = to_cmyk_jpeg(np.asarray(NOISE), quality=80)
    adobe = inks.index(b"\xff\xee")
    assert is_rgb(inks[:adobe] + inks[adobe + 16 :])
    assert not is_rgb(inks[: adobe + 15] + b"\x02" + inks[adobe + 16 :])  # YCCK


def test_tables_behind_the_first_scan_are_not_asked_for():
    content = to_jpeg(np.asarray(NOISE), 80)
    first, second = (match.start() for match in re.finditer(rb"\xff\xdb\x00\x43", content))
    header = read_jpeg_header(io.BytesIO(content[:second] + content[second + 69 :]))
    assert (header.quality, header.standard_tables, len(header.quantization)) == (80, True, 1)
    with pytest.raises(InputError):
        read_jpeg_header(io.BytesIO(content[:first] + content[first + 69 :]))


@pytest.mark.parametrize(
    ("factors", "turned", "one_way"),
    [(0x22, False, False), (0x21, False, True), (0x12, True, True), (0x41, False, True), (0x14, True, True)],
)
def test_chroma_that_was_subsampled_downward_alone_was_turned(factors, turned, one_way):
    content = to_jpeg(np.asarray(NOISE), 80, subsampling="4:2:0")
    place = content.index(b"\xff\xc0") + 11
    assert content[place] == 0x22
    header = read_jpeg_header(io.BytesIO(content[:place] + bytes([factors]) + content[place + 1 :]))
    assert (header.turned, header.subsampled_one_way) == (turned, one_way)


def test_gray_has_one_table_and_no_subsampling():
    header = header_of(NOISE.convert("L"), quality=30)
    assert header.chroma_subsampling == "gray" and len(header.quantization) == 1


@pytest.mark.parametrize(
    "name, expected",
    [
        ("baseline_420", (60, True, "4:2:0", "baseline", "Huffman", 0)),
        ("440", (60, True, "4:4:0", "baseline", "Huffman", 0)),
        ("411", (60, True, "4:1:1", "baseline", "Huffman", 0)),
        ("restart_422", (60, True, "4:2:2", "baseline", "Huffman", 2)),
        ("extended_q10", (10, True, "4:2:0", "extended", "Huffman", 0)),
        ("progressive", (60, True, "4:2:0", "progressive", "Huffman", 0)),
        ("arithmetic", (60, True, "4:2:0", "extended", "arithmetic", 0)),
        ("arithmetic_progressive", (60, True, "4:2:0", "progressive", "arithmetic", 0)),
    ],
)
def test_what_cjpeg_and_jpegtran_write(name, expected):
    with (PICTURES / f"{name}.jpg").open("rb") as file:
        header = read_jpeg_header(file)
    found = (header.quality, header.standard_tables, header.chroma_subsampling, header.process, header.entropy_coding)
    assert (*found, header.restart_interval) == expected


def changed(frame=None, factors=None):
    content = bytearray((PICTURES / "baseline_420.jpg").read_bytes())
    start = content.index(b"\xff\xc0")
    if frame:
        content[start + 1] = frame
    if factors:
        content[start + 11 : start + 18 : 3] = bytes(factors)
    return io.BytesIO(content)


def test_uncommon_factors_are_given_as_written():
    assert read_jpeg_header(changed(factors=[0x22, 0x12, 0x11])).chroma_subsampling == "2x2 1x2 1x1"


@pytest.mark.parametrize(
    "frame, kind",
    [
        (0xC3, "a lossless"),
        (0xCB, "a lossless"),
        (0xC5, "a hierarchical"),
        (0xC7, "a hierarchical"),
        (0xCF, "a hierarchical"),
        (0xF7, "a JPEG-LS"),
    ],
)
def test_lossless_and_hierarchical_jpegs_are_refused(frame, kind):
    with pytest.raises(UncommonJpegError, match=f"^{kind}.* cannot be read: save it as a common JPEG"):
        read_jpeg_header(changed(frame=frame))


def test_stray_bytes_between_segments_are_skipped():
    content = (PICTURES / "baseline_420.jpg").read_bytes()
    start = content.index(b"\xff\xdb")
    assert read_jpeg_header(io.BytesIO(content[:start] + b"\x00\x01\xff" + content[start:])).quality == 60


def test_a_damaged_header_is_refused():
    content = (PICTURES / "restart_422.jpg").read_bytes()
    end = content.index(b"\xff\xda") + 2
    for length in range(end):
        with pytest.raises(InputError, match="not a JPEG, or its header is damaged"):
            read_jpeg_header(io.BytesIO(content[:length]))
    with pytest.raises(InputError, match="damaged"):
        read_jpeg_header(changed(factors=[0x22, 0x00, 0x11]))


@pytest.mark.parametrize(("quality", "percent"), [(1, 5000), (25, 200), (50, 100), (75, 50), (95, 10), (100, 0)])
def test_scale_of_the_steps(quality, percent):
    assert step_scale(quality) == percent
