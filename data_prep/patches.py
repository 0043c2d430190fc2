"""From a photograph to clean patches: the only door to albumentations."""

import functools
import os
import random
import threading
from typing import Any

# albumentations would ask PyPI for a newer version whenever it is imported.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np

from data_prep.config import GRID, LUMA, DataConfig
from data_prep.processing import MOST_ENLARGED, draw_side, enlarge, process

# 2 Y - C in each channel C, with JPEG's luma Y (ITU-R BT.601): both chroma components change their sign.
_COMPLEMENT = 2 * np.array([LUMA] * 3) - np.eye(3)

_INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)

# tf.data already runs one call per core; OpenCV's own threads would only compete with the training.
cv2.setNumThreads(0)


def cut_patches(photo: np.ndarray, seed: int, config: DataConfig) -> np.ndarray:
    """Cuts random patches for training: crop, one of the eight flips and rotations, then color changes.

    Some are smaller crops, enlarged up to four times by bilinear, bicubic or Lanczos interpolation: else a generator
    takes the soft edges of a picture that was enlarged for artifacts, and sharpens them. Some are made grainy, dithered
    and so on by data_prep/processing.py.

    The result depends on nothing but the arguments: albumentations ignores NumPy's global seed, so one is
    passed in.

    Args:
        photo: Photograph, `uint8 [H, W, 3]`, RGB, 0..255, no side shorter than a patch.
        seed: Any number from 0 up; another number gives other patches.
        config: Gives `patch_size` (p), `patches_per_photo` (n), how many are enlarged and processed, and how colors are
            changed.

    Returns:
        Patches, `uint8 [n, p, p, 3]`, RGB, 0..255.

    Raises:
        ValueError: The photograph is smaller than a patch.
    """
    _check_size(photo, config.patch_size)
    augmentation = _build_augmentation(
        threading.get_ident(),
        config.patch_size,
        config.enlarged_share,
        config.color_augmentation,
        config.complementary_share,
        config.gray_share,
    )
    # One stream of random numbers for all transforms; `set_random_seed` would give each the same stream, so
    # that their choices would go together, and costs seven times as much.
    augmentation.set_random_state(np.random.default_rng(seed), random.Random(int(seed)))
    rng = np.random.default_rng([seed, 1])
    return np.stack(
        [_process_some(augmentation(image=photo)["image"], rng, config) for _ in range(config.patches_per_photo)]
    )


def cut_graphic_patches(picture: np.ndarray, seed: int, config: DataConfig) -> np.ndarray:
    """Cuts random patches of graphics for training: crop, and one of the eight flips and rotations.

    Some are enlarged and some processed, as by `cut_patches`.

    Half of the others start at multiples of 16, as blocks do in a JPEG of the whole picture: rows of text and the
    pixels of pixel art lie where they would lie there.

    Args:
        picture: Picture, `uint8 [H, W, 3]`, RGB, 0..255, no side shorter than a patch.
        seed: Any number from 0 up; another number gives other patches.
        config: Gives `patch_size` (p), `patches_per_photo` (n), how many are enlarged and how many processed.

    Returns:
        Patches, `uint8 [n, p, p, 3]`, RGB, 0..255.

    Raises:
        ValueError: The picture is smaller than a patch.
    """
    size = config.patch_size
    _check_size(picture, size)
    rng = np.random.default_rng(seed)

    def cut() -> np.ndarray:
        enlarged = rng.random() < config.enlarged_share
        side = draw_side(size, rng) if enlarged else size
        corner = rng.integers(0, np.array(picture.shape[:2]) - side + 1)
        top, left = corner // GRID * GRID if not enlarged and rng.random() < 0.5 else corner
        patch = picture[top : top + side, left : left + side]
        if enlarged:
            patch = enlarge(patch, size, rng)
        patch = np.rot90(patch, int(rng.integers(4)))
        return _process_some(patch[:, ::-1] if rng.random() < 0.5 else patch, rng, config)

    return np.stack([cut() for _ in range(config.patches_per_photo)])


def cut_validation_patches(photo: np.ndarray, count: int, config: DataConfig) -> np.ndarray:
    """Cuts evenly spaced patches, always the same ones, as they are.

    Args:
        photo: Photograph, `uint8 [H, W, 3]`, RGB, 0..255, no side shorter than a patch.
        count: Number of patches (n).
        config: Gives `patch_size` (p).

    Returns:
        Patches, `uint8 [n, p, p, 3]`, RGB, 0..255.

    Raises:
        ValueError: The photograph is smaller than a patch.
    """
    size = config.patch_size
    _check_size(photo, size)
    columns = int(np.ceil(np.sqrt(count)))
    rows = int(np.ceil(count / columns))
    height, width = photo.shape[:2]
    tops = ((np.arange(rows) + 0.5) / rows * (height - size)).astype(int)
    lefts = ((np.arange(columns) + 0.5) / columns * (width - size)).astype(int)
    corners = [(top, left) for top in tops for left in lefts][:count]
    return np.stack([photo[top : top + size, left : left + size] for top, left in corners])


class ColorMixing(A.ImageOnlyTransform):
    """Mixes the channels, changes contrast and brightness of each, in one step and without clipping.

    One matrix in floating point, rounded once: a chain of 8-bit steps (hue through HSV, for one) would leave
    bands in the clean patch, and bands are what the generator is to remove. What leaves 0..255 is not
    clipped: the whole patch is squeezed back, so that no detail is lost in a saturated color.
    """

    def __init__(self, strength: float):
        """Sets how strong the changes are.

        Args:
            strength: 0 is no change; at 1 half of a channel may come from the others, contrast is multiplied
                by 0.67..1.5 and brightness moves by up to 40 levels.
        """
        super().__init__(p=1)
        self.strength = strength

    def get_params(self) -> dict[str, Any]:
        """Draws the matrix, `float64 [3, 4]`: three channel weights and an offset in levels per channel."""
        draw = self.random_generator.uniform
        noise = draw(-0.5, 0.5, (3, 3)) * self.strength
        # Weights of a channel add up to 1, so that gray stays gray until contrast and brightness change it.
        weights = np.eye(3) + noise - noise.mean(axis=1, keepdims=True)
        contrast = np.exp(draw(-0.25, 0.25) * self.strength + draw(-0.15, 0.15, (3, 1)) * self.strength)
        brightness = (draw(-25, 25) + draw(-15, 15, (3, 1))) * self.strength
        return {"matrix": np.hstack([weights * contrast, 127.5 * (1 - contrast) + brightness])}

    def apply(self, img: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        """Changes a patch, `uint8 [H, W, 3]`, RGB, 0..255, into another."""
        return _recolor(img, matrix)


class ComplementaryColors(A.ImageOnlyTransform):
    """Turns every color into its complement of the same luma: red into cyan, orange into azure.

    A JPEG of low quality rounds weak colors to gray, and a generator guesses them back: after training on a few
    photographs, as the tint that most of them have. Where a tint and its complement are equally likely, the best
    guess is none, and colors do not drift.
    """

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Changes a patch, `uint8 [H, W, 3]`, RGB, 0..255, into another."""
        return _recolor(img, _COMPLEMENT)


def _process_some(patch: np.ndarray, rng: np.random.Generator, config: DataConfig) -> np.ndarray:
    return process(patch, rng) if rng.random() < config.processed_share else patch


def _recolor(img: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    mixed = cv2.transform(img.astype(np.float32), matrix)
    low, high = min(0.0, float(mixed.min())), max(255.0, float(mixed.max()))
    return cv2.convertScaleAbs(mixed, alpha=255 / (high - low), beta=-255 * low / (high - low))


@functools.lru_cache(maxsize=64)
def _build_augmentation(
    thread: int, size: int, enlarged_share: float, strength: float, complementary_share: float, gray_share: float
) -> A.Compose:
    """Builds the transforms once per thread: they hold the state of the draw, which threads must not share."""
    colors = A.Sequential(
        [
            A.ChannelShuffle(p=strength),
            A.RandomGamma((100 - 40 * strength, 100 + 60 * strength), p=0.5 * strength),
            ColorMixing(strength),
            A.ToGray(p=0.1 * strength),
        ],
        p=0.9,  # one patch in ten keeps its colors, so that the generator also sees true ones
    )
    sides = (size // MOST_ENLARGED, size - 1)
    enlarged = [A.RandomSizedCrop(sides, (size, size), interpolation=each) for each in _INTERPOLATIONS]
    crop = A.RandomCrop(size, size)  # of an enlarged patch the whole
    geometry = [*([A.OneOf(enlarged, p=enlarged_share)] if enlarged_share else []), crop, A.SquareSymmetry(p=1)]
    if not strength:
        return A.Compose(geometry)
    gray = [A.ToGray(p=gray_share)] if gray_share else []
    return A.Compose([*geometry, colors, ComplementaryColors(p=complementary_share), *gray])


def _check_size(photo: np.ndarray, size: int) -> None:
    if min(photo.shape[:2]) < size:
        raise ValueError(f"the photograph is smaller than a patch of {size} pixels: {photo.shape}")
