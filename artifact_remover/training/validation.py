"""Scores of the networks on the fixed validation patches, beside those of the JPEGs themselves."""

import numpy as np
import tensorflow as tf

from artifact_remover.discriminator import crop_and_add_grain
from artifact_remover.judging import metrics
from artifact_remover.training.perceptual import MeanDistance

CHANNELS = ("red", "green", "blue")

_PICTURES = 4


class Validation:
    """The validation patches, and what the untouched JPEGs score on them.

    Args:
        batches: Finite and fixed: `(degraded, clean)`, float32 [N, H, W, 3] in [0, 1].
        distance: The perceptual loss, for the perceptual score; `None` where there is none.
    """

    def __init__(self, batches: tf.data.Dataset, distance: MeanDistance | None = None):
        """Takes the arguments that the class documents."""
        self._batches = batches
        self._distance = distance
        self._measure = tf.function(self._measure_batch, autograph=False)
        self.jpeg = self.score(lambda degraded: degraded)[0]

    def score(self, generator) -> tuple[dict[str, float], np.ndarray]:
        """Judges a generator.

        Args:
            generator: float32 [N, H, W, 3] in [0, 1] to the same.

        Returns:
            The mean of each measure over all patches: `psnr` and `psnr_b` in dB, of those that JPEG changed, as clean
            ones would drown all others; `ssim`; `red_shift`, `green_shift`, `blue_shift` and the largest of them,
            without its sign, `color_shift`, in 8-bit levels; and `perceptual`,
            the smaller the better: the perceptual loss, or without pretrained features the deviation of gradient
            magnitudes (`gmsd`). And pictures uint8 [N, H, 3 W, 3] of before, after and clean side by side.
        """
        measured, changed = [], []
        pictures: list[tf.Tensor] = []
        for degraded, clean in self._batches:
            restored = tf.clip_by_value(tf.cast(generator(degraded), tf.float32), 0.0, 1.0)
            measured.append(self._measure(clean, restored))
            changed.extend(np.any(degraded != clean, axis=(1, 2, 3)))
            pictures.extend(tf.concat([degraded, restored, clean], axis=2)[: _PICTURES - len(pictures)])
        values = {name: np.concatenate([each[name] for each in measured]) for name in measured[0]}
        if any(changed):
            values |= {name: values[name][changed] for name in ("psnr", "psnr_b")}
        means = {name: np.mean(each, axis=0) for name, each in values.items()}
        shift = means["color_shift"]
        means["color_shift"] = np.max(np.abs(shift))
        means |= {f"{channel}_shift": value for channel, value in zip(CHANNELS, shift, strict=True)}
        scores = {name: float(value) for name, value in means.items()}
        return scores, np.round(np.stack(pictures) * 255.0).astype(np.uint8)

    def accuracy(self, discriminator, generator) -> dict[str, float]:
        """Share of patch logits that a discriminator has right, on clean and on restored validation patches apart.

        It judges them as in training, under the same grain each time.
        """
        clean_right, restored_right = [], []
        for number, (degraded, clean) in enumerate(self._batches):
            clean_logits, restored_logits = (
                discriminator(crop_and_add_grain(each, number)) for each in (clean, generator(degraded))
            )
            clean_right.append(metrics.discriminator_accuracy(clean_logits, clean=True))
            restored_right.append(metrics.discriminator_accuracy(restored_logits, clean=False))
        return {
            "accuracy_clean": float(np.mean(np.concatenate(clean_right))),
            "accuracy_restored": float(np.mean(np.concatenate(restored_right))),
        }

    def _measure_batch(self, clean, restored):
        return {
            "psnr": metrics.psnr(clean, restored),
            "ssim": metrics.ssim(clean, restored),
            "psnr_b": metrics.psnr_b(clean, restored),
            "color_shift": metrics.color_shift(clean, restored),
            # One number for the batch counts for each of its patches, as the last batch may be smaller.
            "perceptual": tf.repeat(self._distance(clean, restored), tf.shape(clean)[0])
            if self._distance
            else metrics.gmsd(clean, restored),
        }
