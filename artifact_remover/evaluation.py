"""The proof: restored photographs beside the JPEGs they were made from."""

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from artifact_remover import metrics
from data_prep.config import DegradationConfig
from data_prep.degradation import jpeg_photograph
from data_prep.files import write_whole

JPEG = "JPEG itself"
LARGEST_SIDE = 768
"""Photographs are judged on at most this many pixels a side, from the middle: whole pictures take 1 GB a megapixel."""

SHOWN = 8
"""The table lists, and the comparison draws, this many photographs; the means are over all."""

_GRID = 16
_CROP = 128
_ENLARGED = 3

Restore = Callable[[np.ndarray], np.ndarray]


def compare(
    photographs: Iterable[tuple[str, np.ndarray]], restorers: dict[str, Restore], degradation: DegradationConfig
) -> list[dict]:
    """Degrades clean photographs, restores them, and measures JPEG and restorations against the clean ones.

    Args:
        photographs: Names and clean photographs, uint8 [H, W, 3] RGB.
        restorers: By name, functions from uint8 [H, W, 3] to the same, such as `Restorer.restore`.
        degradation: What the restorers trained for; `jpeg_settings` says what of it is used.

    Returns:
        For each photograph its `name` and, by the restorers' names and `JPEG`, its `scores`: `psnr` and `psnr_b` in dB,
        `ssim`, and `colour_shift`, the largest shift of a channel's mean in 8-bit levels; for the first `SHOWN` also
        `clean` and, by the same names, the `pictures`, uint8 [H, W, 3].
    """
    quality, subsampling = jpeg_settings(degradation)
    rows = []
    for name, photo in photographs:
        clean = _middle(photo).copy()  # a view would keep the whole photograph in memory
        jpeg = jpeg_photograph(clean, quality, subsampling)
        pictures = {JPEG: jpeg} | {who: restore(jpeg) for who, restore in restorers.items()}
        scores = {who: _score(clean, picture) for who, picture in pictures.items()}
        row = {"name": name, "scores": scores}
        rows.append(row | {"clean": clean, "pictures": pictures} if len(rows) < SHOWN else row)
    return rows


def jpeg_settings(degradation: DegradationConfig) -> tuple[int, str]:
    """The quality factor and chroma subsampling on which restorers are judged: the hardest that they trained for."""
    return degradation.quality_range[0], "4:4:4" if degradation.chroma_subsampling == "4:4:4" else "4:2:0"


def summarise(rows: list[dict]) -> dict:
    """Sums a comparison up, as plain JSON values.

    Args:
        rows: From `compare`.

    Returns:
        For each of the JPEG and the restorers the `mean` of each measure, and for restorers the least and the mean
        `psnr_gain` over the JPEG and on how many pictures they are `better_on`; and every picture's own scores.
    """
    summary = {}
    for who in rows[0]["scores"]:
        scores = [row["scores"][who] for row in rows]
        summary[who] = {"mean": {name: float(np.mean([each[name] for each in scores])) for name in scores[0]}}
        if who != JPEG:
            gains = [row["scores"][who]["psnr"] - row["scores"][JPEG]["psnr"] for row in rows]
            summary[who]["psnr_gain"] = {"mean": float(np.mean(gains)), "least": float(np.min(gains))}
            summary[who]["better_on"] = int(np.sum(np.array(gains) > 0))
    return {
        "pictures": len(rows),
        "summary": summary,
        "each": [{"name": row["name"], "scores": row["scores"]} for row in rows],
    }


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
            gain = scores["psnr"] - row["scores"][JPEG]["psnr"]
            table.add_row(
                row["name"] if who == JPEG else "",
                who,
                f"{scores['psnr']:.2f}",
                "" if who == JPEG else f"{gain:+.2f}",
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
    crops = [_worst_crop(row["clean"], row["pictures"][JPEG]) for row in rows]
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


def _middle(photo):
    """The middle of a photograph, cut on the grid of 4:2:0 blocks if it is large."""
    start = [max(0, side - LARGEST_SIDE) // 2 // _GRID * _GRID for side in photo.shape[:2]]
    return photo[start[0] : start[0] + LARGEST_SIDE, start[1] : start[1] + LARGEST_SIDE]


def _score(clean, picture):
    clean, picture = (each[np.newaxis].astype(np.float32) / 255.0 for each in (clean, picture))
    return {
        "psnr": float(metrics.psnr(clean, picture)[0]),
        "ssim": float(metrics.ssim(clean, picture)[0]),
        "psnr_b": float(metrics.psnr_b(clean, picture)[0]),
        "colour_shift": float(np.max(np.abs(metrics.colour_shift(clean, picture)))),
    }


def _worst_crop(clean, jpeg):
    """Where a JPEG is furthest from the clean picture, as slices of a square crop on the block grid."""
    error = np.square(clean.astype(np.float32) - jpeg).mean(axis=-1)
    height, width = (min(_CROP, side) for side in error.shape)
    corners = [
        (top, left)
        for top in range(0, error.shape[0] - height + 1, _GRID)
        for left in range(0, error.shape[1] - width + 1, _GRID)
    ]
    top, left = max(corners, key=lambda c: error[c[0] : c[0] + height, c[1] : c[1] + width].mean())
    return slice(top, top + height), slice(left, left + width)
