"""From random numbers to graphics: what JPEG and a restorer that knows photographs alone damage most.

Every picture is a function of the random generator that is passed in. NumPy and Pillow draw; all text is in the one
scalable font that Pillow carries, so that every machine draws the same.
"""

import functools
import string
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, ...]

_VIVID = (
    *[(255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 255, 0), (255, 0, 255), (0, 255, 255), (255, 128, 0)],
    *[(128, 0, 255), (255, 255, 255), (0, 0, 0), (200, 0, 0), (0, 0, 128), (0, 100, 0)],
)
# Page and ink, as documents, terminals and editors have them.
_PAGES = (
    ((255, 255, 255), (0, 0, 0)),
    ((255, 255, 255), (40, 40, 40)),
    ((30, 30, 30), (212, 212, 212)),
    ((0, 0, 0), (255, 255, 255)),
    ((13, 17, 23), (201, 209, 217)),
    ((253, 246, 227), (88, 110, 117)),
    ((0, 43, 54), (147, 161, 161)),
    ((245, 245, 245), (51, 51, 51)),
)
_CHARACTERS = np.array(
    list(string.ascii_lowercase * 6 + string.ascii_uppercase + string.digits * 2 + ".,:;-()[]{}=+*/<>\"'_#%&!?@")
)
BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) / 16
"""Bayer's matrix, the order in which dots are set on paper, float64 [4, 4], 0..1."""

_SUPERSAMPLING = 4


def draw_graphic(rng: np.random.Generator, size: int, kind: str) -> np.ndarray:
    """Draws a picture of one of the `KINDS`.

    Args:
        rng: Every choice is drawn from it.
        size: Side of the picture, in pixels.
        kind: One of `KINDS`.

    Returns:
        The picture, uint8 [size, size, 3], RGB, 0..255.
    """
    return np.asarray(_DRAW[kind](rng, size))


def draw_pixel_art(rng: np.random.Generator, size: int, scale: int | None = None) -> Image.Image:
    """Draws mirrored sprites over tiles in few colors, each of their pixels enlarged to a square.

    Args:
        rng: Every choice is drawn from it.
        size: Side of the picture, in pixels.
        scale: Side of such a square, in pixels; 1..16, drawn when not given. When given, squares start at the corner.

    Returns:
        The picture, RGB.
    """
    if scale is None:
        scale, start = int(rng.choice([1, 2, 3, 4, 4, 5, 6, 8, 8, 8, 8, 10, 12, 16, 16])), None
    else:
        start = (0, 0)
    side = size // scale + 2
    palette = rng.integers(0, 256, (int(rng.integers(3, 17)), 3), np.uint8)
    pixels = _draw_tiles(rng, side, palette)
    for _ in range(max(1, side * side // int(rng.integers(60, 400)))):
        _put_sprite(rng, pixels, palette)
    return _enlarge(rng, Image.fromarray(pixels), scale, size, start)


def _draw_tiles(rng: np.random.Generator, side: int, palette: np.ndarray) -> np.ndarray:
    length = int(rng.choice([4, 8, 16]))
    colors = 2 if rng.random() < 0.6 else 1
    tile = palette[rng.integers(0, colors, (length, length))]
    repeats = -(-side // length)
    return np.tile(tile, (repeats, repeats, 1))[:side, :side].copy()


def _put_sprite(rng: np.random.Generator, pixels: np.ndarray, palette: np.ndarray) -> None:
    width = int(rng.integers(5, 17))
    half = (width, (width + 1) // 2)
    halves: tuple[np.ndarray, ...] = (rng.random(half) < 0.55, rng.integers(0, len(palette), half))
    shape, colors = (np.hstack([each, each[:, ::-1][:, width % 2 :]]) for each in halves)
    top, left = _draw_corner(rng, -4, len(pixels))
    rows, columns = slice(max(0, -top), len(pixels) - top), slice(max(0, -left), len(pixels) - left)
    shape, colors = shape[rows, columns], colors[rows, columns]
    under = pixels[max(0, top) : max(0, top) + shape.shape[0], max(0, left) : max(0, left) + shape.shape[1]]
    under[shape] = palette[colors[shape]]


def _enlarge(
    rng: np.random.Generator, picture: Image.Image, scale: int, size: int, start: tuple[int, int] | None = None
) -> Image.Image:
    """Repeats pixels; without a start, the first square is whole in two of three pictures."""
    if start is None:
        start = (0, 0) if rng.random() < 0.67 else _draw_corner(rng, 0, scale)
    large = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    return large.crop((*start, start[0] + size, start[1] + size))


@functools.cache
def _load_font(height: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(height)  # type: ignore[return-value]  # with a height it is always FreeType's


def _draw_corner(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    first, second = rng.integers(low, high, 2)
    return int(first), int(second)


def _draw_count(rng: np.random.Generator, size: int, low: int, high: int) -> int:
    """Draws the number of things to draw: `low` to `high`, that excluded, for every 128 x 128 pixels."""
    return max(1, int(rng.integers(low, high) * (size / 128) ** 2))


def _draw_words(rng: np.random.Generator, length: int) -> str:
    characters = "".join(rng.choice(_CHARACTERS, length))
    starts = range(0, length, 6)
    return " ".join(characters[i : i + k] for i, k in zip(starts, rng.integers(1, 7, len(starts)), strict=True))


def _draw_color(rng: np.random.Generator) -> Color:
    if rng.random() < 0.5:
        return _VIVID[rng.integers(len(_VIVID))]
    return tuple(int(level) for level in rng.integers(0, 256, 3))


def _draw_contrast(rng: np.random.Generator, other: Color, distance: int = 200) -> Color:
    """A color whose channels are together so many levels from another's."""
    for _ in range(50):
        color = _draw_color(rng)
        if sum(abs(a - b) for a, b in zip(color, other, strict=True)) > distance:
            return color
    return (0, 0, 0) if sum(other) > 380 else (255, 255, 255)


def _draw_page(rng: np.random.Generator) -> tuple[Color, Color]:
    return _PAGES[rng.integers(len(_PAGES))]


def _write_lines(
    rng: np.random.Generator,
    picture: Image.Image,
    ink: Color,
    smoothing: str,
    height: int,
    box: tuple[int, int, int, int],
) -> None:
    """Fills a box (left, top, right, bottom) with lines of text.

    Args:
        rng: Every choice is drawn from it.
        picture: Is written on.
        ink: Color of most lines.
        smoothing: `none`, `gray`, or `subpixel`, as screens have it.
        height: Of the font, in pixels.
        box: In pixels.
    """
    left, top, right, bottom = box
    font = _load_font(height)
    bold = int(smoothing == "gray" and height > 12 and rng.random() < 0.2)
    while top < bottom:
        color = ink if rng.random() < 0.8 else _draw_color(rng)
        words = _draw_words(rng, max(2, int((right - left) / height * rng.uniform(0.6, 2.2))))
        if smoothing == "subpixel":
            _write_subpixels(picture, (left, top), words, height, color)
        else:
            draw = ImageDraw.Draw(picture)
            draw.fontmode = "1" if smoothing == "none" else "L"
            draw.text((left, top), words, font=font, fill=color, stroke_width=bold)
        top += int(height * rng.uniform(1.15, 1.5))


def _write_subpixels(picture: Image.Image, corner: tuple[int, int], words: str, height: int, ink: Color) -> None:
    """Writes as LCD screens are written on: the three stripes of a pixel are covered each by itself."""
    right, bottom = _load_font(height).getbbox(words)[2:]
    width, rows = int(right) + 10, int(bottom) + 4
    mask = Image.new("L", (width * 3, rows * 3))
    ImageDraw.Draw(mask).text((12, 0), words, font=_load_font(height * 3), fill=255)
    stripes = np.asarray(mask.resize((width * 3, rows), Image.Resampling.BOX), np.float32) / 255
    padded = np.pad(stripes, ((0, 0), (2, 2)))
    weights = (1 / 9, 2 / 9, 3 / 9, 2 / 9, 1 / 9)  # FreeType's default filter against colored fringes
    cover = np.sum([weight * padded[:, i : i + width * 3] for i, weight in enumerate(weights)], axis=0)
    cover = cover.reshape(rows, width, 3)
    box = (corner[0] - 4, corner[1], corner[0] - 4 + width, corner[1] + rows)
    under = np.asarray(picture.crop(box), np.float32)
    written = np.rint(under + (np.array(ink, np.float32) - under) * cover).astype(np.uint8)
    picture.paste(Image.fromarray(written), box[:2])


def _draw_text(rng: np.random.Generator, size: int, smoothing: str | None = None) -> Image.Image:
    page, ink = _draw_page(rng)
    picture = Image.new("RGB", (size, size), page)
    smoothing = smoothing or ("none" if rng.random() < 0.15 else "gray")
    corner = int(rng.integers(-6, 9)), int(rng.integers(-8, 4))
    _write_lines(rng, picture, ink, smoothing, int(rng.integers(9, 30)), (*corner, size, size))
    return picture


def _draw_subpixel_text(rng: np.random.Generator, size: int) -> Image.Image:
    return _draw_text(rng, size, "subpixel")


def _draw_vivid_text(rng: np.random.Generator, size: int) -> Image.Image:
    picture = Image.new("RGB", (size, size), _draw_color(rng))
    draw = ImageDraw.Draw(picture)
    top = int(rng.integers(-20, 1))
    while top < size:
        height, left = int(rng.integers(14, 60)), int(rng.integers(-30, 1))
        while left < size:
            width, ground = int(rng.integers(20, 160)), _draw_color(rng)
            draw.rectangle([left, top, left + width - 1, top + height - 1], fill=ground)
            font = _load_font(max(8, height - int(rng.integers(4, 10))))
            draw.text((left + 3, top + 1), _draw_words(rng, 14), font=font, fill=_draw_contrast(rng, ground))
            left += width if rng.random() < 0.8 else size
        top += height
    return picture


def _draw_bitmap_text(rng: np.random.Generator, size: int) -> Image.Image:
    scale = int(rng.choice([1, 2, 2, 3, 4, 8]))
    page = _draw_color(rng)
    side = size // scale + 2
    picture = Image.new("RGB", (side, side), page)
    ink, height = _draw_contrast(rng, page), int(rng.integers(9, 17))
    _write_lines(rng, picture, ink, "none", height, (int(rng.integers(-6, 9)), int(rng.integers(-8, 4)), side, side))
    return _enlarge(rng, picture, scale, size)


def _draw_code(rng: np.random.Generator, size: int) -> Image.Image:
    """A bar code, or a square code with two of its three finders."""
    scale = int(rng.choice([2, 3, 4, 5, 6, 8, 8, 16]))
    side = size // scale + 2
    ink, paper = ((0, 0, 0) if rng.random() < 0.7 else _draw_color(rng)), (255, 255, 255)
    dark = rng.random((side, side)) < 0.5
    if rng.random() < 0.25:
        dark[:] = dark[0]
    else:
        for top, left in rng.integers(0, side, (2, 2)):
            for inset, length, is_dark in ((0, 9, False), (1, 7, True), (2, 5, False), (3, 3, True)):
                rows, columns = (slice(start + inset, start + inset + length) for start in (top, left))
                dark[rows, columns] = is_dark
    return _enlarge(rng, _to_two_colors(dark, ink, paper), scale, size)


def _draw_dither(rng: np.random.Generator, size: int) -> Image.Image:
    scale = int(rng.choice([1, 1, 2, 4, 8]))
    side = size // scale + 2
    rows, columns = np.mgrid[:side, :side]
    slope = (columns * rng.uniform(-1, 1) + rows * rng.uniform(-1, 1)) / side
    slope += rng.uniform(0.2, 0.8) - slope.mean()
    dots = slope > BAYER[rows % 4, columns % 4]
    return _enlarge(rng, _to_two_colors(dots, _draw_color(rng), _draw_color(rng)), scale, size)


def _to_two_colors(mask: np.ndarray, inside: Color, outside: Color) -> Image.Image:
    return Image.fromarray(np.where(mask[..., None], np.array(inside, np.uint8), np.array(outside, np.uint8)))


def _reduce(large: Image.Image) -> Image.Image:
    return large.reduce(_SUPERSAMPLING)


def _draw_lines(rng: np.random.Generator, size: int) -> Image.Image:
    """Line art: Bézier curves of even width, some of them filled."""
    page = (255, 255, 255) if rng.random() < 0.6 else _draw_color(rng)
    ink, side = _draw_contrast(rng, page), size * _SUPERSAMPLING
    large = Image.new("RGB", (side, side), page)
    draw = ImageDraw.Draw(large)
    t = np.linspace(0, 1, 40)[:, None]
    for _ in range(_draw_count(rng, size, 2, 9)):
        length = min(side, 128 * _SUPERSAMPLING)
        points = rng.uniform(0, side - length, 2) + rng.uniform(-0.2, 1.2, (4, 2)) * length
        weights = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3])
        curve = [tuple(point) for point in weights @ points]
        if rng.random() < 0.35:
            draw.polygon(curve, fill=_draw_color(rng))
        draw.line(curve, fill=ink, width=int(rng.uniform(0.6, 5) * _SUPERSAMPLING), joint="curve")
    return _reduce(large)


def _draw_shapes(rng: np.random.Generator, size: int) -> Image.Image:
    """Smooth shapes over a gradient, which has steps in three of ten pictures."""
    side = size * _SUPERSAMPLING
    large = _draw_gradient(rng, size).resize((side, side), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(large)
    for _ in range(_draw_count(rng, size, 1, 7)):
        color, length = _draw_color(rng), int(rng.integers(8, 128 * _SUPERSAMPLING))
        left, top = _draw_corner(rng, -length // 2, side)
        box = [left, top, left + length, top + length // int(rng.integers(1, 3))]
        shape = rng.integers(3)
        if shape == 0:
            draw.ellipse(box, fill=color)
        elif shape == 1:
            draw.rectangle(box, fill=color)
        else:
            draw.polygon([(left + int(x), top + int(y)) for x, y in rng.integers(0, length, (4, 2))], fill=color)
    return _reduce(large)


def _draw_gradient(rng: np.random.Generator, size: int) -> Image.Image:
    start, end = (np.array(_draw_color(rng), float) for _ in range(2))
    rows, columns = np.mgrid[:size, :size] / size
    t = np.clip(columns * rng.uniform(-1, 1) + rows * rng.uniform(-1, 1) + rng.uniform(0, 1), 0, 1)
    if rng.random() < 0.3:
        steps = rng.integers(3, 12)
        t = np.rint(t * steps) / steps
    return Image.fromarray(np.rint(start + (end - start) * t[..., None]).astype(np.uint8))


def _draw_chart(rng: np.random.Generator, size: int) -> Image.Image:
    page, ink = _draw_page(rng)
    side = size * _SUPERSAMPLING
    large = Image.new("RGB", (side, side), page)
    draw = ImageDraw.Draw(large)
    faint = tuple((3 * a + b) // 4 for a, b in zip(page, ink, strict=True))
    for row in range(0, side, int(rng.integers(16, 40)) * _SUPERSAMPLING):
        draw.line([0, row, side, row], fill=faint, width=_SUPERSAMPLING)
    plot = (_plot_curves, _plot_bars, _plot_points, _plot_pie)[rng.integers(4)]
    plot(rng, draw, side, ink)
    draw.line([0, side - _SUPERSAMPLING, side, side - _SUPERSAMPLING], fill=ink, width=_SUPERSAMPLING)
    picture = _reduce(large)
    draw = ImageDraw.Draw(picture)
    for _ in range(_draw_count(rng, size, 2, 6)):
        draw.text(_draw_corner(rng, 0, size), _draw_words(rng, 7), font=_load_font(int(rng.integers(8, 14))), fill=ink)
    return picture


def _plot_curves(rng: np.random.Generator, draw: ImageDraw.ImageDraw, side: int, ink: Color) -> None:
    for number in range(4):
        heights = 0.1 + 0.2 * number + np.cumsum(rng.random(60) - 0.5) / 8
        points = [(side * i / 59, side * height) for i, height in enumerate(heights)]
        draw.line(points, fill=_draw_color(rng), width=int(rng.uniform(1, 3) * _SUPERSAMPLING))


def _plot_bars(rng: np.random.Generator, draw: ImageDraw.ImageDraw, side: int, ink: Color) -> None:
    for number in range(4):
        color = _draw_color(rng)
        for group, height in enumerate(rng.random(8)):
            left = side * (group + 0.2 * number) / 8
            draw.rectangle([left, side * height, left + 0.022 * side, side], fill=color)


def _plot_points(rng: np.random.Generator, draw: ImageDraw.ImageDraw, side: int, ink: Color) -> None:
    for _ in range(4):
        color, radius = _draw_color(rng), rng.uniform(1.5, 5) * _SUPERSAMPLING
        for x, y in rng.random((30, 2)) * side:
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)


def _plot_pie(rng: np.random.Generator, draw: ImageDraw.ImageDraw, side: int, ink: Color) -> None:
    ends = np.sort(rng.uniform(0, 360, 5))
    for start, end in zip(ends, [*ends[1:], ends[0] + 360], strict=True):
        box = [0.1 * side, 0.1 * side, 0.9 * side, 0.9 * side]
        draw.pieslice(box, start, end, fill=_draw_color(rng), outline=ink, width=_SUPERSAMPLING)


def _draw_interface(rng: np.random.Generator, size: int) -> Image.Image:
    """Windows, buttons and fields with their labels."""
    page, _ = _draw_page(rng)
    picture = Image.new("RGB", (size, size), page)
    for _ in range(_draw_count(rng, size, 2, 7)):
        left, top = _draw_corner(rng, -20, size)
        right, bottom = left + int(rng.integers(20, 160)), top + int(rng.integers(14, 90))
        near = tuple(int(level) for level in np.clip(np.array(page) + rng.integers(-25, 26), 0, 255))
        ground = _draw_color(rng) if rng.random() < 0.5 else near
        outline = _draw_contrast(rng, ground, 60) if rng.random() < 0.6 else None
        radius = int(rng.choice([0, 0, 3, 6, 10]))
        ImageDraw.Draw(picture).rounded_rectangle([left, top, right, bottom], radius, fill=ground, outline=outline)
        smoothing = "subpixel" if rng.random() < 0.3 else "gray"
        inside = (left + 5, top + 3, min(size, right), min(size, bottom - 10))
        _write_lines(rng, picture, _draw_contrast(rng, ground), smoothing, int(rng.integers(8, 18)), inside)
    return picture


_DRAW: dict[str, Callable[[np.random.Generator, int], Image.Image]] = {
    "text": _draw_text,
    "subpixel_text": _draw_subpixel_text,
    "vivid_text": _draw_vivid_text,
    "bitmap_text": _draw_bitmap_text,
    "pixel_art": draw_pixel_art,
    "code": _draw_code,
    "dither": _draw_dither,
    "lines": _draw_lines,
    "shapes": _draw_shapes,
    "chart": _draw_chart,
    "interface": _draw_interface,
}
KINDS = tuple(_DRAW)
"""The kinds of pictures that `draw_graphic` draws."""
