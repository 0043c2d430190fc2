"""JPEGs as other programs than libjpeg write them; the only door to these programs.

mozjpeg and jpegli do not round each DCT coefficient to the nearest quantization step. They weigh the error against the
bytes that a coefficient costs, so that faint texture is lost and what stays of it looks like an artifact. Their
quantization tables are not libjpeg's either.
"""

import numpy as np


def encode_with_mozjpeg(image: np.ndarray, quality: int, halved: bool) -> bytes:
    """Encodes with mozjpeg, by its defaults: its table of N. Robidoux, trellis quantization, no ringing at white.

    Trellis quantization is that of Crouse and Ramchandran, "Joint Thresholding and Quantizer Selection for Transform
    Image Coding", IEEE Transactions on Image Processing 1997.

    Args:
        image: Image, uint8 [H, W, 3], RGB, 0..255.
        quality: mozjpeg's quality factor, 1..100.
        halved: Whether chroma is halved in both directions (4:2:0) or kept (4:4:4).

    Returns:
        The JPEG.
    """
    import pyvips  # whose package pyvips-binary has mozjpeg

    return pyvips.Image.new_from_array(image).jpegsave_buffer(
        Q=int(quality),
        subsample_mode="on" if halved else "off",
        keep="none",
        quant_table=3,
        trellis_quant=True,
        overshoot_deringing=True,
        interlace=True,  # by which trellis quantization takes the spectrum in parts
    )


def encode_with_jpegli(image: np.ndarray, quality: int) -> bytes:
    """Encodes with jpegli, in 4:2:0: tables of its own, and a dead zone that is wider where detail hides errors.

    Args:
        image: Image, uint8 [H, W, 3], RGB, 0..255.
        quality: jpegli's quality factor, 1..100.

    Returns:
        The JPEG.
    """
    import pyjpegli

    height, width, _ = image.shape
    return pyjpegli.encode(image.tobytes(), width, height, int(quality))
