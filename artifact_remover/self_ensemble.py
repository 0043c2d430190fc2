"""The geometric self-ensemble: a picture is restored in its eight orientations, and the mean of all is taken.

A model restores a mirrored or turned picture a little otherwise; in the mean errors of its own cancel out (Lim et al.,
"Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPR Workshops 2017).
"""

from collections.abc import Callable

import numpy as np

ORIENTATIONS = (0, 2, 4, 6, 1, 3, 5, 7)
"""All, those first that are as high and as wide as the picture: engines prepare for a shape."""

_BLOCK = 8


def turn(pictures: np.ndarray, orientation: int, back: bool = False) -> np.ndarray:
    """Mirrors and turns pictures.

    Args:
        pictures: [N, H, W, C].
        orientation: 0 to 7: quarter turns, and 4 where they are mirrored before.
        back: Undoes it.

    Returns:
        [N, H, W, C], or [N, W, H, C] after an odd number of quarter turns.
    """
    quarters, is_mirrored = orientation % 4, orientation >= 4
    if back:
        pictures = np.rot90(pictures, -quarters, (1, 2))
        return pictures[:, :, ::-1] if is_mirrored else pictures
    return np.rot90(pictures[:, :, ::-1] if is_mirrored else pictures, quarters, (1, 2))


def restore_in_all_orientations(restore: Callable[[np.ndarray], np.ndarray], degraded: np.ndarray) -> np.ndarray:
    """Restores pictures in all orientations.

    Args:
        restore: The model, from float32 [N, H, W, 3] in [0, 1] to the same.
        degraded: Such pictures, the first pixel at the corner of an 8x8 block.

    Returns:
        The mean, float32 [N, H, W, 3] in [0, 1].
    """
    height, width = degraded.shape[1:3]
    # So that a block begins at every corner.
    whole = np.pad(degraded, ((0, 0), (0, -height % _BLOCK), (0, -width % _BLOCK), (0, 0)), mode="edge")
    total = np.zeros_like(whole)
    for orientation in ORIENTATIONS:
        total += turn(restore(np.ascontiguousarray(turn(whole, orientation))), orientation, back=True)
    return total[:, :height, :width] / np.float32(len(ORIENTATIONS))
