"""The compression of a JPEG, read from its header without decoding a pixel."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from data_prep.errors import InputError

# Process and entropy coding by start-of-frame marker (ITU-T T.81, table B.1).
_FRAMES = {
    0xC0: ("baseline", "Huffman"),
    0xC1: ("extended", "Huffman"),
    0xC2: ("progressive", "Huffman"),
    0xC9: ("extended", "arithmetic"),
    0xCA: ("progressive", "arithmetic"),
}
_UNCOMMON_FRAMES = {
    **dict.fromkeys((0xC3, 0xCB), "a lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "a hierarchical JPEG"),
    0xF7: "a JPEG-LS",
}
_APP0, _APP14 = 0xE0, 0xEE
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})

_SUBSAMPLINGS: dict[tuple[float, float], str] = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (1, 2): "4:4:0",
    (4, 1): "4:1:1",
    (4, 2): "4:1:0",
}

_ACROSS, _DOWNWARD = ("4:2:2", "4:1:1"), ("4:4:0", "1x4 1x1 1x1")  # subsampled in that direction alone

_MOST_BETWEEN = 2**20  # bytes outside of segments, which are read one by one

# Along the diagonals, down and up by turns (ITU-T T.81, figure A.6).
_ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, (i // 8 if (i // 8 + i % 8) % 2 else i % 8)))

# ITU-T T.81, tables K.1 and K.2: luminance and chrominance, row by row.
_ANNEX_K = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29]
        + [51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103]
        + [121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99],
        [17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99]
        + [99] * 36,
    ]
)


class UncommonJpegError(InputError):
    """A whole JPEG, but of a kind that the decoder does not know."""


@dataclass(frozen=True)
class JpegHeader:
    """The compression of a JPEG (ITU-T T.81).

    Attributes:
        quality: IJG quality factor, 1..100, whose tables are these, or whose table of luma is nearest to the first.
        standard_tables: Whether they are exactly the tables of that quality, as they are or turned.
        quantization: The tables in use, the first component's first; each 64 steps, row by row of the 8x8 block. Those
            of other components are missing where they stand behind the first scan.
        chroma_subsampling: "4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "4:1:0", "gray", or each component's sampling
            factors as written in the file, such as "2x2 1x2 1x1".
        process: "baseline", "extended" or "progressive".
        entropy_coding: "Huffman" or "arithmetic".
        restart_interval: In MCUs; 0 for none.
        turned: Whether it lies as a JPEG that was turned by a quarter without loss: its chroma is subsampled downward
            alone, or its tables are standard ones that were turned, and chroma is not subsampled across alone.
        without_luma: Whether its components are red, green and blue, or inks (CMYK), not luma and chroma.
    """

    quality: int
    standard_tables: bool
    quantization: tuple[tuple[int, ...], ...]
    chroma_subsampling: str
    process: str
    entropy_coding: str
    restart_interval: int
    turned: bool
    without_luma: bool

    @property
    def subsampled_one_way(self) -> bool:
        """Tells whether chroma is subsampled across alone, or downward alone."""
        return self.chroma_subsampling in _ACROSS + _DOWNWARD


def read_jpeg_header(file: BinaryIO) -> JpegHeader:
    """Reads a JPEG's markers up to its first scan.

    Args:
        file: At the JPEG's start; it is left at its first scan.

    Raises:
        InputError: If it is no JPEG, or is damaged before its first scan.
        UncommonJpegError: If it is lossless or hierarchical, a JPEG-LS, or has 12 bits per channel.
    """
    tables: dict[int, tuple[int, ...]] = {}
    frame, restart_interval, is_jfif, adobe_transform = None, 0, False, None
    try:
        for marker, content in segments(file):
            if marker == _APP0 and content.startswith(b"JFIF\0"):
                is_jfif = True
            elif marker == _APP14 and content.startswith(b"Adobe") and len(content) > 11:
                adobe_transform = content[11]
            elif marker == 0xDB:
                tables.update(_quantization_tables(content))
            elif marker == 0xDD:
                [restart_interval] = struct.unpack(">H", content)
            elif marker in _UNCOMMON_FRAMES:
                raise UncommonJpegError(f"{_UNCOMMON_FRAMES[marker]}, which cannot be read: save it as a common JPEG")
            elif marker in _FRAMES:
                if content[0] == 12:
                    raise UncommonJpegError("a JPEG of 12 bits, which cannot be read: save it with 8 bits")
                frame = *_FRAMES[marker], _components(content), bytes(content[6::3])
        if frame is None:
            raise ValueError("no start of frame")
        process, entropy_coding, components, names = frame
        first, *others = (identifier for *_, identifier in components)
        used = tuple(dict.fromkeys([tables[first], *(tables[each] for each in others if each in tables)]))
        subsampling = _subsampling([(across, down) for across, down, _ in components])
    except (struct.error, IndexError, KeyError, ValueError, ZeroDivisionError) as error:
        raise InputError("not a JPEG, or its header is damaged: mend or remove it") from error
    quality, standard_tables, turned = _estimate_quality(used)
    turned = subsampling in _DOWNWARD or (turned and subsampling not in _ACROSS)
    without_luma = _is_without_luma(names, is_jfif, adobe_transform)
    coded = process, entropy_coding, restart_interval
    return JpegHeader(quality, standard_tables, used, subsampling, *coded, turned, without_luma)


def segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yields a JPEG's segments in front of its first scan.

    Args:
        file: At the JPEG's start; behind the segment that was yielded, and at last at the first scan.

    Yields:
        Marker, such as 0xE1, and content.

    Raises:
        IndexError: If it ends before its first scan.
        UncommonJpegError: If it has a megabyte of markers and stray bytes before its first scan.
        struct.error: If it ends within a segment's length.
        ValueError: If it is no JPEG.
    """
    if file.read(2) != b"\xff\xd8":
        raise ValueError("no start of image")
    between = (file.read(1)[0] for _ in range(_MOST_BETWEEN))
    for byte in between:
        if byte != 0xFF:
            continue  # decoders skip stray bytes before a marker, and any number of FF in front of it
        marker = next((byte for byte in between if byte != 0xFF), 0)
        if marker == 0xDA:
            return
        if marker and marker not in _WITHOUT_LENGTH:
            [length] = struct.unpack(">H", file.read(2))
            yield marker, file.read(length - 2) if length > 2 else b""
    raise UncommonJpegError("a JPEG with a megabyte between its segments, which would take too long: save it anew")


def _quantization_tables(content: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    while content:
        precision, identifier = divmod(content[0], 16)
        size = 128 if precision else 64
        steps = struct.unpack(">64H" if precision else "64B", content[1 : 1 + size])
        natural = dict(zip(_ZIGZAG, steps, strict=True))
        yield identifier, tuple(natural[i] for i in range(64))
        content = content[1 + size :]


def _components(content: bytes) -> list[tuple[int, int, int]]:
    count = content[5]
    return [(*divmod(content[7 + 3 * i], 16), content[8 + 3 * i]) for i in range(count)]


def _subsampling(factors: list[tuple[int, int]]) -> str:
    if len(factors) == 1:
        return "gray"
    (across, down), *chroma = factors[:3]  # a fourth component, black, is sampled as the first is
    ratios = {(across / each_across, down / each_down) for each_across, each_down in chroma}
    as_written = " ".join(f"{each_across}x{each_down}" for each_across, each_down in factors)
    return _SUBSAMPLINGS.get(ratios.pop(), as_written) if len(ratios) == 1 else as_written


def _is_without_luma(names: bytes, is_jfif: bool, adobe_transform: int | None) -> bool:
    """Tells whether components are red, green and blue, or inks, by the rules of libjpeg."""
    if len(names) == 4:
        return adobe_transform in (None, 0)
    if len(names) != 3 or is_jfif:
        return False
    return names == b"RGB" if adobe_transform is None else adobe_transform == 0


def step_scale(quality: int) -> int:
    """Computes libjpeg's factor of the quantization steps, in percent (`jpeg_quality_scaling`).

    Args:
        quality: IJG quality factor, 1..100.

    Returns:
        5000 at quality 1, 100 at 50, 0 at 100.
    """
    return 5000 // quality if quality < 50 else 200 - 2 * quality


IJG_TABLES = np.array([np.clip((_ANNEX_K * step_scale(each) + 50) // 100, 1, 32767) for each in range(1, 101)])
"""libjpeg's tables by its integer arithmetic, int [100, 2, 64], 1..32767.

Of each quality from 1, the quantization steps of luma and of chroma, row by row of the 8x8 block.
"""


def _estimate_quality(tables: tuple[tuple[int, ...], ...]) -> tuple[int, bool, bool]:
    """Estimates the quality of tables, and tells whether they are exactly libjpeg's, and whether only if turned."""
    # Tables beside the first are chrominance's: the components of CMYK and RGB all use the first.
    kinds = [0, *[1] * (len(tables) - 1)]
    standard = IJG_TABLES[:, kinds]
    baseline = np.minimum(standard, 255)
    found = np.array(tables)
    across = found.reshape(-1, 8, 8).transpose(0, 2, 1).reshape(found.shape)
    for steps, turned in ((found, False), (across, True)):
        exact = ((steps == baseline).all(axis=(1, 2)) | (steps == standard).all(axis=(1, 2))).nonzero()[0]
        if exact.size:
            return int(exact[0]) + 1, True, turned
    # Ratios count, not differences: 2 instead of 1 is as far off as 200 instead of 100. By luma's table alone, the
    # estimate is that of equal error in luma, but for 1.8 in the mean of 60 tables of other programs; jpegli's
    # chroma, which is finer, would make 80 of 71.
    distances = np.abs(np.log(np.maximum(found[0], 1) / baseline[:, 0])).sum(axis=1)
    return int(distances.argmin()) + 1, False, False
