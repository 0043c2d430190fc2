"""What restoring a decoded picture means, whoever restores the pixels: this process, or a server."""

import dataclasses
from collections.abc import Callable

import numpy as np

from artifact_remover.pictures.jpeg_header import is_left_alone
from artifact_remover.pictures.picture import Picture
from data_prep.errors import Message, Option


def restore_parts(
    picture: Picture,
    restore_colours: Callable[[np.ndarray], np.ndarray],
    restore_alpha: Callable[[np.ndarray], np.ndarray],
    force: bool = False,
    notes: tuple[str, ...] = (),
) -> Picture:
    """Restores a decoded picture's colours and, apart from them, its transparency.

    Transparency is restored where it is partial: what is fully transparent or opaque stays so.

    Args:
        picture: From `decode_picture`.
        restore_colours: From uint8 or uint16 [H, W, C], C 3 (RGB) or 1 (gray), to the same.
        restore_alpha: From uint8 or uint16 [H, W, 1] to the same.
        force: Restore even a JPEG that is practically uncompressed, which is otherwise left alone.
        notes: What else the user should be told of a picture that is restored.

    Returns:
        The restored picture; its notes say if it was left alone.
    """
    if is_left_alone(picture.header, force):
        said = f"left alone, as practically uncompressed: quality {picture.header.quality}, "
        note = Message(said, Option("force"), " restores it")
        return dataclasses.replace(picture, notes=(*picture.notes, note))
    pixels, alpha = restore_colours(picture.pixels), picture.alpha
    if alpha is not None:
        partial = (alpha > 0) & (alpha < np.iinfo(alpha.dtype).max)
        if partial.any():
            alpha = np.where(partial, restore_alpha(alpha[:, :, np.newaxis])[:, :, 0], alpha)
    return dataclasses.replace(picture, pixels=pixels, alpha=alpha, notes=(*picture.notes, *notes))
