"""The proof: restored photographs beside the JPEGs they were made from."""

import dataclasses
import io
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from artifact_remover.judging import metrics
from data_prep.config import DegradationConfig
from data_prep.degradation import jpeg_photograph
from data_prep.errors import InputError
from data_prep.files import write_whole

JPEG = "JPEG itself"
LARGEST_SIDE = 768
"""`compare` judges photographs on at most this many pixels a side, from the middle, so that a run ends soon."""

LARGEST_PICTURE = 4_000_000
"""Pixels of the largest picture that is judged as a whole: the measures take 1 GB a megapixel."""

SHOWN = 8
"""The table lists, and the comparison draws, this many photographs; the means are over all."""

_GRID = 16
_CROP = 128
_ENLARGED = 3
_LUMA = np.array([65.481, 128.553, 24.966]) / 255  # MATLAB's rgb2ycbcr

Restore = Callable[[np.ndarray], np.ndarray]
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
Method = Callable[["Jpeg"], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Jpeg:
    """A JPEG that is to be restored.

    Attributes:
        content: The file.
        pixels: What it decodes to, uint8 [H, W, 3] RGB; of a gray one three equal channels.
    """

    content: bytes
    pixels: np.ndarray


def compare(
    photographs: Iterable[tuple[str, np.ndarray]], restorers: dict[str, Restore], degradation: DegradationConfig
) -> list[dict]:
    """Degrades clean photographs, restores them, and measures JPEG and restorations against the clean ones.

    Args:
        photographs: Names and clean photographs, uint8 [H, W, 3] RGB.
        restorers: By name, functions from uint8 [H, W, 3] to the same, such as `Restorer.restore`.
        degradation: What the restorers trained for; `jpeg_settings` says what of it is used.

    Returns:
        For each photograph its `name` and, by the restorers' names and `JPEG`, its `scores`, from `score`; for the
        first `SHOWN` also `clean` and, by the same names, the `pictures`, uint8 [H, W, 3].
    """
    quality, subsampling = jpeg_settings(degradation)
    rows = []
    for name, photo in photographs:
        clean = cut_middle(photo, LARGEST_SIDE, LARGEST_SIDE).copy()  # a view would keep the whole one in memory
        jpeg = jpeg_photograph(clean, quality, subsampling)
        pictures = {JPEG: jpeg} | {who: restore(jpeg) for who, restore in restorers.items()}
        row = {"name": name, "scores": {who: score(clean, picture) for who, picture in pictures.items()}}
        rows.append(row | {"clean": clean, "pictures": pictures} if len(rows) < SHOWN else row)
    return rows


def judge(
    name: str,
    clean: np.ndarray,
    quality: int,
    chroma_subsampling: str,
    methods: dict[str, Method],
    distances: dict[str, Distance],
) -> dict:
    """Has one picture restored by each method, and measures time and result.

    Args:
        name: What the picture is called.
        clean: uint8 [H, W, 3] RGB, or [H, W, 1], which is measured by the gray protocol.
        quality: Of the JPEG that is made of it.
        chroma_subsampling: As in `encode_jpeg`.
        methods: By name, functions from a `Jpeg` to uint8 [H, W, 3].
        distances: As in `score`.

    Returns:
        A row for `summarise`, and `crops`, by the methods' names and `JPEG`, and `clean_crop`, uint8 [h, w, C], from
        where the JPEG is at its worst.

    Raises:
        InputError: If a method fails or returns another size.
    """
    jpeg = encode_jpeg(clean, quality, chroma_subsampling)
    pictures, seconds = {JPEG: jpeg.pixels}, {}
    for who, restore in methods.items():
        began = time.perf_counter()
        try:
            pictures[who] = restore(jpeg)
        except InputError as error:
            raise InputError(f"{error} (restoring {name} at quality {quality})") from error
        seconds[who] = time.perf_counter() - began
        if pictures[who].shape != jpeg.pixels.shape:
            made, given = ("x".join(map(str, each.shape[1::-1])) for each in (pictures[who], jpeg.pixels))
            raise InputError(f"{who} made {made} of {name}, which is {given}: only what keeps the size can be judged")
    crop = find_worst_crop(clean, jpeg.pixels)
    return {
        "name": name,
        "pixels": clean.shape[0] * clean.shape[1],
        "scores": {who: score(clean, picture, distances) for who, picture in pictures.items()},
        "seconds": seconds,
        # Copies, as views would keep the whole pictures in memory.
        "crops": {who: picture[crop].copy() for who, picture in pictures.items()},
        "clean_crop": clean[crop].copy(),
    }


def jpeg_settings(degradation: DegradationConfig) -> tuple[int, str]:
    """The quality factor and chroma subsampling on which restorers are judged: the hardest that they trained for."""
    return degradation.quality_range[0], degradation.subsamplings[0]


def encode_jpeg(clean: np.ndarray, quality: int, chroma_subsampling: str = "4:2:0") -> Jpeg:
    """Makes the JPEG that is to be restored, with Pillow, as the published tables are made.

    Args:
        clean: uint8 [H, W, 3] RGB, or [H, W, 1], of which a JPEG of one component is made.
        quality: Quality factor, 1..100.
        chroma_subsampling: `4:2:0` or `4:4:4`.
    """
    file = io.BytesIO()
    image = Image.fromarray(clean[..., 0] if clean.shape[2] == 1 else clean)
    image.save(file, "JPEG", quality=quality, subsampling=chroma_subsampling)
    with Image.open(file) as decoded:
        return Jpeg(file.getvalue(), np.asarray(decoded.convert("RGB")))


def to_gray(photo: np.ndarray) -> np.ndarray:
    """Makes the one channel of the gray tables: MATLAB's Y, 16..235, of a colour picture; a gray one is taken as it is.

    Args:
        photo: uint8 [H, W, 3] RGB.

    Returns:
        uint8 [H, W, 1].
    """
    if (photo == photo[..., :1]).all():
        return photo[..., :1]
    return np.floor(photo @ _LUMA + 16.5).astype(np.uint8)[..., np.newaxis]


def cut_middle(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cuts the middle out of a photograph, on the grid of 4:2:0 blocks, if it is larger.

    Args:
        photo: uint8 [H, W, C].
        height: Most rows of the result.
        width: Most columns of the result.

    Returns:
        A view.
    """
    limits = (height, width)
    start = [max(0, side - limit) // 2 // _GRID * _GRID for side, limit in zip(photo.shape[:2], limits, strict=True)]
    return photo[start[0] : start[0] + height, start[1] : start[1] + width]


def limit_size(height: int, width: int) -> tuple[int, int]:
    """Tells how much of a picture is judged: all of it up to `LARGEST_PICTURE`, else as much, in whole blocks."""
    if height * width <= LARGEST_PICTURE:
        return height, width
    shrunk = (LARGEST_PICTURE / (height * width)) ** 0.5
    height, width = (max(_GRID, int(side * shrunk) // _GRID * _GRID) for side in (height, width))
    # A very long strip has still too many.
    return min(height, LARGEST_PICTURE // _GRID), min(width, LARGEST_PICTURE // _GRID)


def score(clean: np.ndarray, picture: np.ndarray, distances: dict[str, Distance] | None = None) -> dict:
    """Measures a picture against the clean one.

    Args:
        clean: uint8 [H, W, 3] RGB, or [H, W, 1]: then everything is measured on that channel.
        picture: uint8 [H, W, 3] RGB; of its three channels the gray one is made where `clean` is gray.
        distances: Further measures by name, from float32 [N, H, W, 3] in [0, 1], twice, to float32 [N].

    Returns:
        `psnr` and `psnr_b` in dB, `ssim`, the further measures, the signed `colour_shifts` of each channel's mean in
        8-bit levels, and `colour_shift`, the largest of them without its sign.
    """
    if clean.shape[2] == 1:  # equal channels stay as they are
        picture = np.asarray(Image.fromarray(picture).convert("L"))[..., np.newaxis]
    clean, picture = (each[np.newaxis].astype(np.float32) / 255.0 for each in (clean, picture))
    shifts = np.ravel(metrics.colour_shift(clean, picture))
    colours = [np.repeat(each, 3, axis=3) if each.shape[3] == 1 else each for each in (clean, picture)]
    return {
        "psnr": float(metrics.psnr(clean, picture)[0]),
        "ssim": float(metrics.ssim(clean, picture)[0]),
        "psnr_b": float(metrics.psnr_b(clean, picture)[0]),
        **{name: float(measure(*colours)[0]) for name, measure in (distances or {}).items()},
        "colour_shift": float(np.max(np.abs(shifts))),
        "colour_shifts": [float(shift) for shift in shifts],
    }


def summarise(rows: list[dict]) -> dict:
    """Sums a comparison up, as plain JSON values.

    Args:
        rows: Pictures, as from `compare`: of each its `name` and its `scores` by who restored it, `JPEG` first. Where
            they tell `pixels` and, by who restored it, `seconds`, the speed is summed up too.

    Returns:
        For each of the JPEG and the restorers the `mean` of each measure, and for restorers the least and the mean
        `psnr_gain` over the JPEG, the `worst` picture, which has the least, on how many pictures they are `better_on`,
        and `seconds_per_megapixel`; and every picture's own scores.
    """
    summary = {}
    for who in rows[0]["scores"]:
        scores = [row["scores"][who] for row in rows]
        # By channel where a measure is a list of them.
        means = {name: np.mean([each[name] for each in scores], axis=0).tolist() for name in scores[0]}
        summary[who] = {"mean": means}
        if who == JPEG:
            continue
        gains = [gain(row, who) for row in rows]
        summary[who]["psnr_gain"] = {"mean": float(np.mean(gains)), "least": float(np.min(gains))}
        summary[who]["worst"] = rows[int(np.argmin(gains))]["name"]
        summary[who]["better_on"] = int(np.sum(np.array(gains) > 0))
        if "seconds" in rows[0]:
            seconds = sum(row["seconds"][who] for row in rows)
            summary[who]["seconds_per_megapixel"] = 1e6 * seconds / sum(row["pixels"] for row in rows)
    return {
        "pictures": len(rows),
        "summary": summary,
        "each": [{key: row[key] for key in ("name", "pixels", "scores", "seconds") if key in row} for row in rows],
    }


def gain(row: dict, who: str) -> float:
    """By how many dB a restorer is better on a picture than the JPEG; `row` as in `summarise`."""
    return row["scores"][who]["psnr"] - row["scores"][JPEG]["psnr"]


def print_table(rows: list[dict], degradation: DegradationConfig, console: Console) -> None:
    """Prints what photographs score, and the mean of all; arguments as in `compare`."""
    quality, subsampling = jpeg_settings(degradation)
    table = Table(title=f"Held-out photographs, as JPEGs of quality {quality}, {subsampling}, and restored from these")
    for heading in ("photograph", "", "PSNR dB", "over the JPEG", "SSIM", "PSNR-B dB", "colour shift"):
        table.add_column(heading, justify="left" if heading in ("photograph", "") else "right")
    means = {
        "name": f"mean of {len(rows)}",
        "scores": {who: entry["mean"] for who, entry in summarise(rows)["summary"].items()},
    }
    for row in [*rows[:SHOWN], means]:
        table.add_section()
        for who, scores in row["scores"].items():
            table.add_row(
                row["name"] if who == JPEG else "",
                who,
                f"{scores['psnr']:.2f}",
                "" if who == JPEG else f"{gain(row, who):+.2f}",
                f"{scores['ssim']:.4f}",
                f"{scores['psnr_b']:.2f}",
                f"{scores['colour_shift']:.2f}",
            )
    console.print(table)


def write_report(report: dict, file: Path) -> None:
    """Writes a report as JSON, whole or not at all."""
    write_whole(file, (json.dumps(report, indent=2) + "\n").encode())


def draw_comparison(rows: list[dict], file: Path) -> None:
    """Draws before, after and clean side by side: an enlarged crop of each photograph, where the JPEG is at its worst.

    Args:
        rows: From `compare`.
        file: PNG to write, whole or not at all.
    """
    rows = [row for row in rows if "pictures" in row]
    crops = [find_worst_crop(row["clean"], row["pictures"][JPEG]) for row in rows]
    titles = [*rows[0]["pictures"], "clean"]
    side, margin, heading = _CROP * _ENLARGED, 8, 24
    shape = (margin + (side + margin) * len(titles), heading + (side + margin) * len(rows))
    canvas = Image.new("RGB", shape, "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        left = margin + column * (side + margin)
        draw.text((left, 4), title, fill="black", font=ImageFont.load_default(14))
        for number, row in enumerate(rows):
            picture = row["pictures"].get(title, row["clean"])
            crop = Image.fromarray(picture[crops[number]])
            # Nearest neighbour: every pixel is to be seen as it is.
            crop = crop.resize((crop.width * _ENLARGED, crop.height * _ENLARGED), Image.Resampling.NEAREST)
            canvas.paste(crop, (left, heading + number * (side + margin)))
    png = io.BytesIO()
    canvas.save(png, format="PNG")
    write_whole(file, png.getvalue())


def find_worst_crop(clean: np.ndarray, jpeg: np.ndarray) -> tuple[slice, slice]:
    """Finds where a JPEG is furthest from the clean picture.

    Args:
        clean: uint8 [H, W, C].
        jpeg: The same, or with other channels.

    Returns:
        Rows and columns of a square crop on the block grid.
    """
    error = np.square(clean.astype(np.float32) - jpeg).mean(axis=-1)
    height, width = (min(_CROP, side) for side in error.shape)
    corners = [
        (top, left)
        for top in range(0, error.shape[0] - height + 1, _GRID)
        for left in range(0, error.shape[1] - width + 1, _GRID)
    ]
    top, left = max(corners, key=lambda c: error[c[0] : c[0] + height, c[1] : c[1] + width].mean())
    return slice(top, top + height), slice(left, left + width)
