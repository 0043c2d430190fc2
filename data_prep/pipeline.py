"""From photographs to batches: shuffle -> patches -> degradation -> batch -> prefetch."""

import numpy as np
import tensorflow as tf

from data_prep.config import DataConfig
from data_prep.degradation import degrade
from data_prep.errors import InputError
from data_prep.patches import cut_patches, cut_validation_patches
from data_prep.sources import Photographs, decode
from data_prep.splits import Part, Role

# So many bytes of encoded photographs are shuffled among each other, which takes 2.5 times as much memory. A smaller
# data set is kept in memory whole; TFDS shuffled all of a larger one when preparing it.
_SHUFFLED_BYTES = 2**28
# Patches that are validated on.
_VALIDATION_PATCHES = 64


def training_batches(
    photographs: Photographs, role: Role, config: DataConfig, seed: int, start_step: int = 0
) -> tf.data.Dataset:
    """Make endless batches for training.

    Batch `i` depends on nothing but the photographs, the configuration, the seed and `i`, so a resumed run
    that starts at `i` sees what the interrupted run would have seen. Each photograph comes once per epoch;
    the patches cut from it are spread over as many batches, so that a batch shows different photographs.

    Args:
        photographs: Opened photographs.
        role: `generator` (also for the GAN) or `discriminator`.
        config: Patches, degradation and batch size (B).
        seed: Number from 0 up; another number gives other batches.
        start_step: Number (from 0) of the first batch.

    Returns:
        Dataset of (degraded, clean), each `float32 [B, p, p, 3]`, RGB, 0..1.

    Raises:
        InputError: Every photograph is smaller than a patch, or an epoch does not fill one batch.
    """
    count = _count_usable(photographs, role, "train", config)
    per_photo, batch_size = config.patches_per_photo, config.batch_size
    if batch_size > count * per_photo:
        raise InputError(
            f"{count} photographs of {per_photo} patches do not fill a batch, choose a smaller batch_size: {batch_size}"
        )
    # Every `batch_size` photographs make `per_photo` batches.
    first_photo = start_step // per_photo * batch_size
    first_epoch, photos_before = divmod(first_photo, count)

    def cut(photo: np.ndarray, photo_seed: np.ndarray) -> np.ndarray:
        return cut_patches(photo, int(photo_seed), config)

    def degrade_patches(number: tf.Tensor, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        photo_seed = tf.random.stateless_uniform([], [seed, number], 0, 2**31 - 1, tf.int32)
        clean = tf.numpy_function(cut, [decode(image), photo_seed], tf.uint8, stateful=False)
        clean = tf.ensure_shape(clean, [per_photo, config.patch_size, config.patch_size, 3])
        return degrade(clean, photo_seed, config.degradation), clean

    return (
        _shuffled_epochs(photographs, role, config, seed, first_epoch)
        .skip(photos_before)  # before anything is decoded
        .enumerate(first_photo)
        .map(degrade_patches, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(batch_size, drop_remainder=True)
        .map(_spread_over_batches)
        .unbatch()
        .skip(start_step % per_photo)
        .map(_to_float)
        .prefetch(2)
    )


def validation_batches(photographs: Photographs, role: Role, config: DataConfig, seed: int) -> tf.data.Dataset:
    """Make the batches for validation, always the same: at most 64 patches, of as many photographs as can be.

    Args:
        photographs: Opened photographs.
        role: `generator` (also for the GAN) or `discriminator`.
        config: Patches, degradation and batch size (B); the last batch may be smaller.
        seed: Number from 0 up, from which the degradation is drawn.

    Returns:
        Dataset of (degraded, clean), each `float32 [B, p, p, 3]`, RGB, 0..1.

    Raises:
        InputError: Every photograph is smaller than a patch.
    """
    count = min(_count_usable(photographs, role, "validation", config), _VALIDATION_PATCHES)
    per_photo = min(config.patches_per_photo, _VALIDATION_PATCHES // count)

    def cut(photo: np.ndarray) -> np.ndarray:
        return cut_validation_patches(photo, per_photo, config)

    def degrade_patches(number: tf.Tensor, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        photo_seed = tf.random.stateless_uniform([], [seed, number], 0, 2**31 - 1, tf.int32)
        clean = tf.numpy_function(cut, [decode(image)], tf.uint8, stateful=False)
        clean = tf.ensure_shape(clean, [per_photo, config.patch_size, config.patch_size, 3])
        return degrade(clean, photo_seed, config.degradation), clean

    return (
        _read(photographs, role, "validation", config)
        .take(count)
        .enumerate()
        .map(degrade_patches, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .unbatch()
        .map(_to_float)
        .batch(config.batch_size)
        .cache()  # a few megabytes, read after every epoch of training
        .prefetch(1)
    )


def _count_usable(photographs: Photographs, role: Role, part: Part, config: DataConfig) -> int:
    count = len(photographs.entries(role, part, config.patch_size))
    if not count:
        raise InputError(
            f"a patch of {config.patch_size} pixels is larger than every photograph for {part}, "
            f"choose a smaller patch_size: {photographs.name}"
        )
    return count


def _read(photographs: Photographs, role: Role, part: Part, config: DataConfig) -> tf.data.Dataset:
    """Read the photographs that hold a patch, still encoded: `string []`."""
    return photographs.read(role, part, config.patch_size).map(lambda example: example["image"])


def _shuffled_epochs(
    photographs: Photographs, role: Role, config: DataConfig, seed: int, first_epoch: int
) -> tf.data.Dataset:
    """Repeat the photographs for ever, still encoded (`string []`), in another order in each epoch.

    `Dataset.shuffle` also depends on TensorFlow's global seed; a stateless shuffle of a batch of file
    contents depends on seed and epoch alone.
    """
    encoded = _read(photographs, role, "train", config)
    if photographs.num_bytes <= _SHUFFLED_BYTES:
        encoded = encoded.batch(_count_usable(photographs, role, "train", config)).cache()
    else:
        bytes_each = photographs.num_bytes / sum(len(entries) for entries in photographs.inventory.values())
        encoded = encoded.batch(max(1, int(_SHUFFLED_BYTES / bytes_each)))

    def shuffle_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        return encoded.map(lambda images: tf.random.experimental.stateless_shuffle(images, [seed, epoch])).unbatch()

    return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(shuffle_epoch)


def _spread_over_batches(*pair: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Turn B photographs of n patches into n batches of B patches, each from another photograph."""
    return tuple(tf.transpose(patches, [1, 0, 2, 3, 4]) for patches in pair)


def _to_float(*pair: tf.Tensor) -> tuple[tf.Tensor, ...]:
    return tuple(tf.cast(patches, tf.float32) / 255 for patches in pair)
