"""Scores of restored pictures against the clean ones, beside the scores of the JPEGs that they were restored from."""

import dataclasses
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from artifact_remover.judging import metrics
from artifact_remover.judging.perceptual_distances import Distance
from artifact_remover.pictures.picture import LONGEST_SIDE
from data_prep.config import GRID, DegradationConfig
from data_prep.errors import InputError
from data_prep.files import write_whole

JPEG = "JPEG itself"
LARGEST_PICTURE = 4_000_000
"""Pixels of the largest picture that is judged as a whole: the measures take 1 GB a megapixel."""

SHOWN = 8
"""The table lists, and the comparison draws, this many photographs; the means are over all."""

EQUAL = 0.02
"""Decibels of PSNR within which a restored picture counts as equal to its JPEG: rounding to 8 bits costs as much."""

_BLOCK = 8  # pixels of a JPEG's blocks
_CROP = 128
_QUALITIES = (10, 50, 90)
_ENLARGED = 3

Method = Callable[["Untouched"], np.ndarray]


class MethodError(InputError):
    """The failure of a method, or what is wrong with what it made.

    Attributes:
        who: Its name.
    """

    def __init__(self, who: str, *parts: str):
        """Joins the pieces of the message, as of an `InputError`."""
        super().__init__(*parts)
        self.who = who


@dataclasses.dataclass(frozen=True)
class Untouched:
    """A picture that is to be restored.

    Attributes:
        content: Its file: the JPEG, or a PNG of what was cut out of one or never compressed.
        pixels: The file's pixels, uint8 [H, W, 3] in 0..255, RGB; three equal channels where the file is gray.
    """

    content: bytes
    pixels: np.ndarray


def judge(
    name: str,
    clean: np.ndarray,
    quality: int | None,
    chroma_subsampling: str,
    methods: dict[str, Method],
    distances: dict[str, Distance],
    *,
    resave: int | None = None,
    offset: tuple[int, int] = (0, 0),
) -> dict:
    """Has one picture restored by each method, and measures time and result.

    Args:
        name: Of the picture.
        clean: uint8 [H, W, 3] in 0..255, RGB, or [H, W, 1], which is measured by the gray protocol.
        quality: As in `make_untouched`.
        chroma_subsampling: As in `encode_jpeg`.
        methods: By name, functions from an `Untouched` to uint8 [H, W, 3] in 0..255, RGB.
        distances: As in `score`.
        resave: As in `make_untouched`.
        offset: As in `make_untouched`.

    Returns:
        A row for `summarize`: `name`, `pixels` (how many), `scores` from `score` and `crops` by the methods' names, the
        untouched JPEG's under `JPEG` where one was made, `seconds` by the methods' names, and `unchanged`, the names of
        the methods that gave the picture back bit for bit. The crops and the `clean_crop`, uint8 [h, w, C] in 0..255,
        show where the JPEG, or else the first method's picture, is furthest from the clean one.

    Raises:
        MethodError: If a method fails or returns another size.
    """
    clean, untouched = make_untouched(clean, quality, chroma_subsampling, resave, offset)
    restored, seconds = {}, {}
    for who, restore in methods.items():
        began = time.perf_counter()
        try:
            restored[who] = restore(untouched)
        except InputError as error:
            how = "uncompressed" if quality is None else f"at quality {quality}"
            raise MethodError(who, error.message, f" (restoring {name} {how})") from error
        seconds[who] = time.perf_counter() - began
        if restored[who].shape != untouched.pixels.shape:
            made, given = ("x".join(map(str, each.shape[1::-1])) for each in (restored[who], untouched.pixels))
            said = f"{who} made {made} of {name}, which is {given}: only what keeps the size can be judged"
            raise MethodError(who, said)
    pictures = restored if quality is None else {JPEG: untouched.pixels, **restored}
    crop = find_worst_crop(clean, next(iter(pictures.values())))
    corner = (0, 0) if resave else (-offset[0] % _BLOCK, -offset[1] % _BLOCK)
    return {
        "name": name,
        "pixels": clean.shape[0] * clean.shape[1],
        "scores": {who: score(clean, picture, distances, corner) for who, picture in pictures.items()},
        "seconds": seconds,
        "unchanged": [who for who, picture in restored.items() if np.array_equal(picture, untouched.pixels)],
        # Copies, as views would keep the whole pictures in memory.
        "crops": {who: picture[crop].copy() for who, picture in pictures.items()},
        "clean_crop": clean[crop].copy(),
    }


def jpeg_settings(degradation: DegradationConfig) -> tuple[tuple[int, ...], str]:
    """Chooses the qualities and the chroma subsampling on which restorers are judged.

    Args:
        degradation: What they trained for.

    Returns:
        The one quality that they trained for, or of a range 10, 50 and 90 as far as these are in it, or else its
        lowest, in rising order; and the first of the subsamplings.
    """
    low, high = degradation.quality_range
    within = tuple(quality for quality in _QUALITIES if low <= quality <= high)
    return within or (low,), degradation.subsamplings[0]


def make_untouched(
    clean: np.ndarray,
    quality: int | None,
    chroma_subsampling: str,
    resave: int | None = None,
    offset: tuple[int, int] = (0, 0),
) -> tuple[np.ndarray, Untouched]:
    """Makes the picture that is to be restored.

    Args:
        clean: uint8 [H, W, 3] in 0..255, RGB, or [H, W, 1].
        quality: Of the JPEG that is made of it, 1..100; None to have the clean picture itself restored.
        chroma_subsampling: As in `encode_jpeg`.
        resave: Quality at which the decoded JPEG is saved again, 1..100; None to save it once.
        offset: Row and column, in pixels, at which the clean picture and the decoded JPEG are cut before, so that the
            JPEG's blocks no longer start at the corner. Both together are the double compression of Jiang et al.,
            "Towards Flexible Blind JPEG Artifacts Removal", ICCV 2021.

    Returns:
        The clean picture, cut likewise, uint8 [h, w, C] in 0..255; and the picture to restore, of the same size.
    """
    untouched = _encode_png(clean) if quality is None else encode_jpeg(clean, quality, chroma_subsampling)
    if any(offset):
        clean = clean[offset[0] :, offset[1] :]
    # One channel where the clean picture has one, or the second JPEG would have three.
    cut = untouched.pixels[offset[0] :, offset[1] :, : clean.shape[2]]
    if resave:
        untouched = encode_jpeg(cut, resave, chroma_subsampling)
    elif any(offset):
        untouched = _encode_png(cut)
    return clean, untouched


def encode_jpeg(clean: np.ndarray, quality: int, chroma_subsampling: str = "4:2:0") -> Untouched:
    """Makes the JPEG that is to be restored, with Pillow, as the published tables are made.

    Args:
        clean: uint8 [H, W, 3] in 0..255, RGB, or [H, W, 1], of which a JPEG of one component is made.
        quality: Quality factor, 1..100.
        chroma_subsampling: `4:2:0` or `4:4:4`.
    """
    return _encode(clean, format="JPEG", quality=quality, subsampling=chroma_subsampling)


def _encode_png(picture):
    return _encode(picture, format="PNG", compress_level=1)


def _encode(picture, **settings):
    """Saves uint8 [H, W, 3] or [H, W, 1] with Pillow, and decodes what was saved."""
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(file, **settings)
    with Image.open(file) as decoded:
        return Untouched(file.getvalue(), np.asarray(decoded.convert("RGB")))


def to_gray(photo: np.ndarray) -> np.ndarray:
    """Makes the one channel of the gray tables: MATLAB's Y, 16..235, of a color picture; a gray one is taken as it is.

    Args:
        photo: uint8 [H, W, 3] in 0..255, RGB.

    Returns:
        uint8 [H, W, 1] in 16..235, or in 0..255 where the picture was gray.
    """
    if (photo == photo[..., :1]).all():
        return photo[..., :1]
    return np.floor(photo @ np.array(metrics.LUMA_OF_RGB) + 16.5).astype(np.uint8)[..., np.newaxis]


def cut_middle(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cuts the middle out of a photograph if it is larger; the cut starts at multiples of 16 pixels.

    Args:
        photo: uint8 [H, W, C] in 0..255.
        height: Most rows of the result.
        width: Most columns of the result.

    Returns:
        A view, uint8 [h, w, C] in 0..255.
    """
    limits = (height, width)
    start = [max(0, side - limit) // 2 // GRID * GRID for side, limit in zip(photo.shape[:2], limits, strict=True)]
    return photo[start[0] : start[0] + height, start[1] : start[1] + width]


def limit_size(height: int, width: int) -> tuple[int, int]:
    """Limits the part of a picture that is judged to `LARGEST_PICTURE` pixels, and to what a JPEG can hold.

    Args:
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.

    Returns:
        Height and width of the part: the picture's own where they are small enough, else multiples of 16 pixels.
    """
    longest = LONGEST_SIDE["jpeg"]
    height, width = (side if side <= longest else longest // GRID * GRID for side in (height, width))
    if height * width <= LARGEST_PICTURE:
        return height, width
    shrunk = (LARGEST_PICTURE / (height * width)) ** 0.5
    return int(height * shrunk) // GRID * GRID, int(width * shrunk) // GRID * GRID


def score(
    clean: np.ndarray,
    picture: np.ndarray,
    distances: dict[str, Distance] | None = None,
    corner: tuple[int, int] = (0, 0),
) -> dict:
    """Measures a picture against the clean one.

    Args:
        clean: uint8 [H, W, 3] in 0..255, RGB, or [H, W, 1]: then everything is measured on that channel.
        picture: uint8 [H, W, 3] in 0..255, RGB; made gray where `clean` is gray.
        distances: Further measures by name, from float32 [N, H, W, 3] in [0, 1], twice, to float32 [N].
        corner: Row and column, in pixels, of the first corner of a JPEG block; PSNR-B is measured from there on.

    Returns:
        `psnr` and `psnr_b` in dB, `ssim`, the further measures, the signed `color_shifts` of each channel's mean in
        8-bit levels, and `color_shift`, the largest of them without its sign.
    """
    if clean.shape[2] == 1:  # equal channels stay as they are
        picture = np.asarray(Image.fromarray(picture).convert("L"))[..., np.newaxis]
    clean, picture = (each[np.newaxis].astype(np.float32) / 255.0 for each in (clean, picture))
    shifts = np.ravel(metrics.color_shift(clean, picture))
    colors = [np.repeat(each, 3, axis=3) if each.shape[3] == 1 else each for each in (clean, picture)]
    top, left = corner
    return {
        "psnr": float(metrics.psnr(clean, picture)[0]),
        "ssim": float(metrics.ssim(clean, picture)[0]),
        "psnr_b": float(metrics.psnr_b(clean[:, top:, left:], picture[:, top:, left:])[0]),
        **{name: float(measure(*colors)[0]) for name, measure in (distances or {}).items()},
        "color_shift": float(np.max(np.abs(shifts))),
        "color_shifts": [float(shift) for shift in shifts],
    }


def summarize(rows: list[dict]) -> dict:
    """Sums a comparison up, as plain JSON values.

    Args:
        rows: Of each picture its `name` and its `scores` by who restored it, as from `judge`. Where they have `pixels`,
            `seconds` and `unchanged`, speed and unchanged pictures are summed up too.

    Returns:
        `pictures`, how many there are; `each`, every picture's own scores; and `summary`, for each of the JPEG and the
        restorers:

        * the `mean` of each measure, and `least_psnr`, the least PSNR in dB, with the picture that has it;
        * of restorers `worst`, the picture with the least `merit`, and beside a JPEG the mean and the least `psnr_gain`
          in dB, on how many pictures they are `better_on` and `equal_on`, and the pictures `not_beaten`, on which the
          gain is `EQUAL` or less, the least gain first; without a JPEG the pictures `changed`, the least PSNR first;
        * of restorers that were timed `seconds_per_megapixel`, and how many pictures are `unchanged_on`.
    """
    summary: dict[str, dict[str, Any]] = {}
    for who in rows[0]["scores"]:
        scores = [row["scores"][who] for row in rows]
        # By channel where a measure is a list of them.
        means = {name: np.mean([each[name] for each in scores], axis=0).tolist() for name in scores[0]}
        lowest = int(np.argmin([each["psnr"] for each in scores]))
        least = {"psnr": scores[lowest]["psnr"], "picture": rows[lowest]["name"]}
        summary[who] = {"mean": means, "least_psnr": least}
        if who == JPEG:
            continue
        summary[who]["worst"] = rows[int(np.argmin([merit(row, who) for row in rows]))]["name"]
        if JPEG in rows[0]["scores"]:
            summary[who] |= _summarize_gains(rows, who)
        else:
            changed = [
                {"picture": row["name"], "psnr": row["scores"][who]["psnr"]}
                for row in rows
                if who not in row["unchanged"]
            ]
            summary[who]["changed"] = sorted(changed, key=lambda each: each["psnr"])
        if "seconds" in rows[0]:
            seconds = sum(row["seconds"][who] for row in rows)
            summary[who]["seconds_per_megapixel"] = 1e6 * seconds / sum(row["pixels"] for row in rows)
        if "unchanged" in rows[0]:
            summary[who]["unchanged_on"] = sum(who in row["unchanged"] for row in rows)
    kept = ("name", "pixels", "scores", "seconds", "unchanged")
    return {
        "pictures": len(rows),
        "summary": summary,
        "each": [{key: row[key] for key in kept if key in row} for row in rows],
    }


def _summarize_gains(rows, who):
    gains = [{"picture": row["name"], "psnr_gain": gain(row, who)} for row in rows]
    values = np.array([each["psnr_gain"] for each in gains])
    return {
        "psnr_gain": {"mean": float(np.mean(values)), "least": float(np.min(values))},
        "better_on": int(np.sum(values > EQUAL)),
        "equal_on": int(np.sum(np.abs(values) <= EQUAL)),
        "not_beaten": sorted(
            (each for each in gains if each["psnr_gain"] <= EQUAL), key=lambda each: each["psnr_gain"]
        ),
    }


def gain(row: dict, who: str) -> float:
    """Subtracts the JPEG's PSNR on a picture from a restorer's, in dB; `row` as in `summarize`."""
    return row["scores"][who]["psnr"] - row["scores"][JPEG]["psnr"]


def merit(row: dict, who: str) -> float:
    """Ranks pictures, the worst least: by the gain over the JPEG, or by PSNR where there is none; in dB."""
    return gain(row, who) if JPEG in row["scores"] else row["scores"][who]["psnr"]


def group_by_kind(rows: list[dict]) -> dict[str, list[dict]]:
    """Groups pictures by the folder in which they lie.

    Args:
        rows: As in `summarize`; the part of a `name` before its first slash is the folder, `.` where it has none.

    Returns:
        The rows of each folder by its name; nothing where all lie in one.
    """
    kinds: dict[str, list[dict]] = {}
    for row in rows:
        folder, slash, _ = row["name"].partition("/")
        kinds.setdefault(folder if slash else ".", []).append(row)
    return kinds if len(kinds) > 1 else {}


def print_table(rows: dict[int, list[dict]], chroma_subsampling: str, console: Console) -> None:
    """Prints what photographs score at the lowest quality, and the mean of all at each.

    Args:
        rows: By quality, the lowest first, from `judge`.
        chroma_subsampling: As in `judge`.
        console: Where to.
    """
    lowest, *others = rows
    more = f", and the means at {' and '.join(map(str, others))}" if others else ""
    title = f"Held-out photographs, as JPEGs of quality {lowest}, {chroma_subsampling}, and restored from these{more}"
    table = Table(title=title)
    for heading in ("photograph", "", "PSNR dB", "over the JPEG", "least", "SSIM", "PSNR-B", "color shift"):
        table.add_column(heading, justify="left" if heading in ("photograph", "") else "right")
    for row in rows[lowest][:SHOWN]:
        table.add_section()
        for who, scores in row["scores"].items():
            over = "" if who == JPEG else f"{gain(row, who):+.2f}"
            table.add_row(row["name"] if who == JPEG else "", who, *_word(scores, over, ""))
    for quality, each in rows.items():
        table.add_section()
        for who, entry in summarize(each)["summary"].items():
            gains = [f"{entry['psnr_gain'][name]:+.2f}" for name in ("mean", "least")] if who != JPEG else ["", ""]
            name = f"mean of {len(each)}" + (f" at {quality}" if others else "")
            table.add_row(name if who == JPEG else "", who, *_word(entry["mean"], *gains))
    console.print(table)


def _word(scores, over, least):
    rest = (f"{scores['ssim']:.4f}", f"{scores['psnr_b']:.2f}", f"{scores['color_shift']:.2f}")
    return (f"{scores['psnr']:.2f}", over, least, *rest)


def write_report(report: dict, file: Path) -> None:
    """Writes a report as JSON, whole or not at all."""
    write_whole(file, (json.dumps(report, indent=2) + "\n").encode())


def draw_comparison(rows: list[dict], file: Path) -> None:
    """Draws before, after and clean side by side: an enlarged crop of each photograph, where the JPEG is at its worst.

    Args:
        rows: From `judge`; the first `SHOWN` are drawn.
        file: PNG to write, whole or not at all.
    """
    rows = rows[:SHOWN]
    titles = [*rows[0]["crops"], "clean"]
    side, margin, heading = _CROP * _ENLARGED, 8, 24
    shape = (margin + (side + margin) * len(titles), heading + (side + margin) * len(rows))
    canvas = Image.new("RGB", shape, "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        left = margin + column * (side + margin)
        draw.text((left, 4), title, fill="black", font=ImageFont.load_default(14))
        for number, row in enumerate(rows):
            crop = Image.fromarray(row["crops"].get(title, row["clean_crop"]))
            # Nearest neighbor: every pixel is to be seen as it is.
            crop = crop.resize((crop.width * _ENLARGED, crop.height * _ENLARGED), Image.Resampling.NEAREST)
            canvas.paste(crop, (left, heading + number * (side + margin)))
    png = io.BytesIO()
    canvas.save(png, format="PNG")
    write_whole(file, png.getvalue())


def find_worst_crop(clean: np.ndarray, jpeg: np.ndarray) -> tuple[slice, slice]:
    """Finds where a JPEG is furthest from the clean picture.

    Args:
        clean: uint8 [H, W, C] in 0..255.
        jpeg: uint8 [H, W, 3] in 0..255, RGB.

    Returns:
        Rows and columns of a crop, 128 pixels a side where the picture is as large, that starts at multiples of 16.
    """
    error = np.square(clean.astype(np.float32) - jpeg).mean(axis=-1)
    height, width = (min(_CROP, side) for side in error.shape)
    corners = [
        (top, left)
        for top in range(0, error.shape[0] - height + 1, GRID)
        for left in range(0, error.shape[1] - width + 1, GRID)
    ]
    top, left = max(corners, key=lambda c: error[c[0] : c[0] + height, c[1] : c[1] + width].mean())
    return slice(top, top + height), slice(left, left + width)
