"""From a clean patch to one that is enlarged, grainy, noisy, blurred, sharpened, faded, in dots or dithered.

Such a picture is clean as well: what it has beyond the photograph or drawing that it was made from is part of it. A
restorer that never saw it takes grain, dots and soft edges for a JPEG's artifacts, and removes them.
"""

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from data_prep.config import LUMA
from data_prep.drawing import BAYER

Process = Callable[[np.ndarray, np.random.Generator], np.ndarray]

MOST_ENLARGED = 4
"""Times that a patch is enlarged at most."""

_INTERPOLATIONS = (
    (Image.Resampling.BILINEAR, cv2.INTER_LINEAR),
    (Image.Resampling.BICUBIC, cv2.INTER_CUBIC),
    (Image.Resampling.LANCZOS, cv2.INTER_LANCZOS4),
)


def process(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Processes a patch in one of the ways of `PROCESSES`.

    Args:
        patch: Patch, uint8 [H, W, 3], RGB, 0..255.
        rng: Every choice is drawn from it.

    Returns:
        The processed patch, uint8 [H, W, 3], RGB, 0..255.
    """
    return apply(PROCESSES[rng.integers(len(PROCESSES))], patch, rng)


def apply(process: Process, patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies one of `PROCESSES` to a patch, uint8 [H, W, 3], RGB, 0..255, and rounds the result to such a patch."""
    return np.clip(np.rint(process(patch.astype(np.float32), rng)), 0, 255).astype(np.uint8)


def draw_side(size: int, rng: np.random.Generator) -> int:
    """Draws the side of what `enlarge` makes a patch of `size` pixels a side: the half, third or quarter, or any."""
    if rng.random() < 0.5:
        return size // int(rng.integers(2, MOST_ENLARGED + 1))
    return int(rng.integers(size // MOST_ENLARGED, size))


def enlarge(patch: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Enlarges a patch by bilinear, bicubic or Lanczos interpolation, with Pillow's kernels or OpenCV's.

    Args:
        patch: Square patch, uint8 [n, n, 3], RGB, 0..255.
        size: Side of the result, in pixels.
        rng: Every choice is drawn from it.

    Returns:
        The enlarged patch, uint8 [size, size, 3], RGB, 0..255.
    """
    of_pillow, of_opencv = _INTERPOLATIONS[rng.integers(len(_INTERPOLATIONS))]
    if rng.random() < 0.5:
        return np.array(Image.fromarray(patch).resize((size, size), of_pillow))
    return cv2.resize(patch, (size, size), interpolation=of_opencv)


def add_noise(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds the noise of a sensor, of each channel or of all alike, with a standard deviation of 1 to 25 levels."""
    noise = rng.standard_normal((*patch.shape[:2], rng.choice([1, 3]))).astype(np.float32)
    return patch + noise * _draw_evenly(rng, 1, 25)


def add_grain(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds the grain of film or paper: noise of luma that is wider than a pixel, of 1 to 20 levels."""
    noise = rng.standard_normal(patch.shape[:2]).astype(np.float32)
    grain = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.4, 1.5))
    return patch + (grain / grain.std() * _draw_evenly(rng, 1, 20))[..., None]


def blur(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blurs as a lens out of focus does, or as motion does along a row, a column or a diagonal."""
    if rng.random() < 0.5:
        return cv2.GaussianBlur(patch, (0, 0), rng.uniform(0.5, 3))
    length = int(rng.integers(2, 16))
    line = (np.eye(length), np.eye(length)[::-1], np.ones((1, length)), np.ones((length, 1)))[rng.integers(4)]
    return cv2.filter2D(patch, -1, line / length, borderType=cv2.BORDER_REFLECT)


def sharpen(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sharpens by an unsharp mask, up to clear rims."""
    return patch + rng.uniform(0.3, 3) * (patch - cv2.GaussianBlur(patch, (0, 0), rng.uniform(0.5, 2.5)))


def fade(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Takes contrast away, toward black, white or a gray between: a night, fog, faint print."""
    level = rng.choice([0, 255, rng.uniform(0, 255)])
    return level + (patch - level) * rng.uniform(0.08, 0.7)


def halftone(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Prints in black dots, or in dots of each channel, at an angle, with hard or soft rims."""
    inks = patch if rng.random() < 0.5 else patch @ np.array(LUMA, np.float32)[:, None]
    distance, sharpness = rng.uniform(3, 10), _draw_evenly(rng, 1, 30)
    rows, columns = np.mgrid[: patch.shape[0], : patch.shape[1]].astype(np.float32) * (2 * np.pi / distance)
    dots = []
    for _ in range(inks.shape[2]):
        angle = rng.uniform(0, np.pi)
        across = np.cos(angle) * columns + np.sin(angle) * rows
        along = np.cos(angle) * rows - np.sin(angle) * columns
        dots.append(0.5 + (np.cos(across) + np.cos(along)) / 4)
    return _to_three_channels(np.clip((inks / 255 - np.stack(dots, -1)) * sharpness + 0.5, 0, 1) * 255)


def dither(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dithers to black and white or few colors, by error diffusion (Floyd and Steinberg) or by Bayer's matrix."""
    in_gray = rng.random() < 0.5
    if rng.random() < 0.5:
        values = patch @ np.array(LUMA, np.float32)[:, None] if in_gray else patch
        rows, columns = np.indices(patch.shape[:2])
        order = BAYER[rows % 4, columns % 4]
        step = 255 / rng.integers(1, 6)
        return _to_three_channels(np.floor(values / step + order[..., None]) * step)
    image = Image.fromarray(patch.astype(np.uint8))
    if in_gray:
        image = image.convert("1")
    else:
        image = image.quantize(palette=image.quantize(int(rng.integers(2, 33))), dither=Image.Dither.FLOYDSTEINBERG)
    return np.array(image.convert("RGB"), np.float32)


PROCESSES: tuple[Process, ...] = (
    add_noise,
    add_grain,
    blur,
    sharpen,
    fade,
    halftone,
    dither,
)
"""Each takes a patch, float32 [H, W, 3], RGB, 0..255, and may leave that range."""


def _draw_evenly(rng: np.random.Generator, low: float, high: float) -> float:
    """Draws a number whose logarithm is uniform."""
    return low * (high / low) ** rng.random()


def _to_three_channels(values: np.ndarray) -> np.ndarray:
    return np.broadcast_to(values, (*values.shape[:2], 3))
