"""From photographs and graphics to batches: shuffle -> patches -> degradation -> batch -> prefetch."""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_prep.config import DataConfig, DegradationConfig
from data_prep.degradation import degrade
from data_prep.errors import InputError, Option
from data_prep.patches import cut_graphic_patches, cut_patches, cut_validation_patches
from data_prep.sources import Photographs, decode
from data_prep.splits import PARTS, Part, Role

# So many bytes of encoded photographs are shuffled among each other, which takes 2.5 times as much memory. A smaller
# data set is kept in memory whole; TFDS shuffled all of a larger one when preparing it.
_SHUFFLED_BYTES = 2**28
# One device, in one process.
_ALONE = tf.distribute.InputContext()
# Patches that are validated on.
_VALIDATION_PATCHES = 64
_JPEG = r"(?s).*\.jpe?g"
# Shares are counted in whole numbers of these.
_MILLION = 10**6


def require_batches(photographs: Photographs, role: Role, config: DataConfig) -> None:
    """Makes sure that there are batches of photographs, and of graphics where there are any; decodes nothing.

    Args:
        photographs: Opened photographs, with their graphics.
        role: `generator` (also for the GAN) or `discriminator`.
        config: Patches and batch size.

    Raises:
        InputError: All that there is for training, or for validation, is smaller than a patch, or an epoch does not
            fill one batch.
    """
    photograph, graphic = _describe_kinds(photographs, config)
    for part in PARTS[:2]:  # the pictures for test are judged whole
        for kind in (photograph, graphic) if graphic else (photograph,):
            _count_usable(kind, role, part, config)
    count = _count_usable(photograph, role, "train", config)
    if config.batch_size > count * config.patches_per_photo:
        raise InputError(
            f"{count} photographs of {config.patches_per_photo} patches do not fill a batch for the {role}, "
            "choose a smaller ",
            Option("batch_size"),
            f": {config.batch_size}",
        )


def training_batches(
    photographs: Photographs,
    role: Role,
    config: DataConfig,
    seed: int,
    start_step: int = 0,
    context: tf.distribute.InputContext = _ALONE,
) -> tf.data.Dataset:
    """Makes endless batches for training.

    Batch `i` depends on nothing but the photographs, the configuration, the seed and `i`, so a resumed run
    that starts at `i` sees what the interrupted run would have seen. Each photograph comes once per epoch;
    the patches cut from it are spread over as many batches, so that a batch shows different photographs.
    Graphics take the place of photographs at even distances, in epochs of their own.

    Where several devices share the work, device `k` of `n` trains on every `n`-th patch of each batch, from the `k`-th
    on. A process cuts and degrades patches for its own devices alone.

    Args:
        photographs: Opened photographs, with their graphics.
        role: `generator` (also for the GAN) or `discriminator`.
        config: Patches, degradation and batch size (B).
        seed: Number from 0 up; another number gives other batches.
        start_step: Number (from 0) of the first batch.
        context: How many devices (n) share a batch in how many processes, and which of these this one is.

    Returns:
        Dataset of (degraded, clean), each `float32 [B / n, p, p, 3]`, RGB, 0..1: for each batch the part of each of
        the process's devices, one after the other.

    Raises:
        InputError: As `require_batches`, or a batch cannot be divided among the devices.
    """
    require_batches(photographs, role, config)
    per_photo, batch_size = config.patches_per_photo, config.batch_size
    devices = context.num_replicas_in_sync
    if batch_size % devices:
        raise InputError(
            f"{devices} devices cannot share a batch of {batch_size} patches, choose a multiple of {devices} as ",
            Option("batch_size"),
        )
    devices_here = devices // context.num_input_pipelines

    def is_ours(picture):
        return picture % devices // devices_here == context.input_pipeline_id

    def spread(*pair):
        return tuple(_spread_over_batches(patches, devices_here) for patches in pair)

    # Every `batch_size` pictures make `per_photo` batches.
    first = start_step // per_photo * batch_size
    return (
        _mix_pictures(photographs, role, config, seed, first, is_ours)
        .batch(batch_size // context.num_input_pipelines, drop_remainder=True)
        .map(spread)
        .unbatch()
        .skip(start_step % per_photo * devices_here)
        .map(_to_float)
        .prefetch(2 * devices_here)
        # Else several processes would ask each other before each batch whether there is one.
        .apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    )


def validation_batches(photographs: Photographs, role: Role, config: DataConfig, seed: int) -> tf.data.Dataset:
    """Makes the batches for validation, always the same: at most 64 patches, of as many photographs as can be.

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
    photograph, graphic = _describe_kinds(photographs, config)
    # At least one of each kind.
    of_graphics = min(max(1, round(_VALIDATION_PATCHES * config.graphics_share)), _VALIDATION_PATCHES - 1)
    of_photographs = _VALIDATION_PATCHES - of_graphics if graphic else _VALIDATION_PATCHES
    pairs = _validation_pairs(photograph, role, config, seed, of_photographs)
    if graphic:
        pairs = pairs.concatenate(_validation_pairs(graphic, role, config, seed, of_graphics))
    return (
        pairs.unbatch()
        .map(_to_float)
        .batch(config.batch_size)
        .cache()  # a few megabytes, read after every epoch of training
        .prefetch(1)
    )


class _Kind(NamedTuple):
    """A kind of pictures, and what is done to them.

    Attributes:
        name: `photograph` or `graphic`.
        pictures: Opened.
        cut: Cuts training patches from a decoded picture: of picture, seed and configuration.
        degrade: Degrades patches: of patches, seed and the picture's name. Gives the degraded and the clean ones.
    """

    name: str
    pictures: Photographs
    cut: Callable[[np.ndarray, int, DataConfig], np.ndarray]
    degrade: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def _describe_kinds(photographs: Photographs, config: DataConfig) -> tuple[_Kind, _Kind | None]:
    degrade_photograph = _make_degrade(photographs, config.degradation, config)
    photograph = _Kind("photograph", photographs, cut_patches, degrade_photograph)
    if photographs.graphics is None:
        return photograph, None
    degrade_graphic = _make_degrade(photographs.graphics, config.graphics_degradation, config)
    return photograph, _Kind("graphic", photographs.graphics, cut_graphic_patches, degrade_graphic)


def _make_degrade(
    pictures: Photographs, degradation: DegradationConfig, config: DataConfig
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Makes a kind's `degrade`, which limits the quality of pictures that are JPEG files themselves."""
    entries = [entry for split in pictures.inventory.values() for entry in split]
    some_are_jpegs = any(re.fullmatch(_JPEG, entry.name.lower()) for entry in entries)

    def degrade_picture(patches: tf.Tensor, seed: tf.Tensor, name: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if config.jpeg_photograph_quality == 100 or not some_are_jpegs:
            return degrade(patches, seed, degradation)
        return tf.cond(
            tf.strings.regex_full_match(tf.strings.lower(name), _JPEG),
            lambda: degrade(patches, seed, degradation.limit(config.jpeg_photograph_quality)),
            lambda: degrade(patches, seed, degradation),
        )

    return degrade_picture


def _count_usable(kind: _Kind, role: Role, part: Part, config: DataConfig) -> int:
    count = len(kind.pictures.entries(role, part, config.patch_size))
    if not count:
        raise InputError(
            f"a patch of {config.patch_size} pixels is larger than every {kind.name} for {part} of the {role}, "
            "choose a smaller ",
            Option("patch_size"),
            f": {kind.pictures.name}",
        )
    return count


def _mix_pictures(
    photographs: Photographs,
    role: Role,
    config: DataConfig,
    seed: int,
    first: int,
    is_wanted: Callable[[tf.Tensor], tf.Tensor],
) -> tf.data.Dataset:
    """Makes (degraded, clean) patches, each `uint8 [n, p, p, 3]`, of endless pictures from the `first`-th on.

    `is_wanted` tells by the number of a picture, `int64 []`, whether it is among them, before it is decoded.
    """
    photograph, graphic = _describe_kinds(photographs, config)
    pictures = tf.data.Dataset.range(first, tf.int64.max)
    if not graphic:
        return _training_pairs(photograph, role, config, seed, first, pictures.map(is_wanted))
    share = round(config.graphics_share * _MILLION)

    def count_graphics(pictures):
        """Counts the graphics among so many first pictures: the share of them, at even distances."""
        return pictures * share // _MILLION

    def is_graphic(picture):
        return count_graphics(picture + 1) > count_graphics(picture)

    def is_photograph(picture):
        return ~is_graphic(picture)

    graphics_before = count_graphics(first)
    pairs = [
        _training_pairs(kind, role, config, seed, before, pictures.filter(is_of_kind).map(is_wanted))
        for kind, is_of_kind, before in (
            (photograph, is_photograph, first - graphics_before),
            (graphic, is_graphic, graphics_before),
        )
    ]
    choice = pictures.filter(is_wanted).map(lambda picture: tf.cast(is_graphic(picture), tf.int64))
    return tf.data.Dataset.choose_from_datasets(pairs, choice)


def _training_pairs(
    kind: _Kind, role: Role, config: DataConfig, seed: int, first: int, wanted: tf.data.Dataset
) -> tf.data.Dataset:
    """Makes (degraded, clean) patches, each `uint8 [n, p, p, 3]`, of one kind from its `first`-th picture on.

    `wanted` says of each picture, `bool []`, whether it is to be decoded or passed over.
    """
    first_epoch, pictures_before = divmod(first, _count_usable(kind, role, "train", config))

    def cut(picture: np.ndarray, picture_seed: np.ndarray) -> np.ndarray:
        return kind.cut(picture, int(picture_seed), config)

    def cut_and_degrade(number: tf.Tensor, example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        picture_seed = _draw_seed(kind, seed, number)
        clean = tf.numpy_function(cut, [decode(example["image"]), picture_seed], tf.uint8, stateful=False)
        clean = tf.ensure_shape(clean, [config.patches_per_photo, config.patch_size, config.patch_size, 3])
        return kind.degrade(clean, picture_seed, example["name"])

    numbered = _shuffled_epochs(kind, role, config, seed, first_epoch).skip(pictures_before).enumerate(first)
    return (
        tf.data.Dataset.zip(wanted, numbered)
        .filter(lambda wanted, _: wanted)  # before anything is decoded
        .map(lambda _, numbered: cut_and_degrade(*numbered), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    )


def _validation_pairs(kind: _Kind, role: Role, config: DataConfig, seed: int, patches: int) -> tf.data.Dataset:
    """Makes (degraded, clean), each `uint8 [n, p, p, 3]`: at most so many patches, of as many pictures as can be."""
    count = min(_count_usable(kind, role, "validation", config), patches)
    per_picture = min(config.patches_per_photo, patches // count)

    def cut(picture: np.ndarray) -> np.ndarray:
        return cut_validation_patches(picture, per_picture, config)

    def cut_and_degrade(number: tf.Tensor, example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        clean = tf.numpy_function(cut, [decode(example["image"])], tf.uint8, stateful=False)
        clean = tf.ensure_shape(clean, [per_picture, config.patch_size, config.patch_size, 3])
        return kind.degrade(clean, _draw_seed(kind, seed, number), example["name"])

    return (
        kind.pictures.read(role, "validation", config.patch_size)
        .take(count)
        .enumerate()
        .map(cut_and_degrade, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    )


def _draw_seed(kind: _Kind, seed: int, number: tf.Tensor) -> tf.Tensor:
    """Draws the seed of a picture; the numbers of graphics are told from those of photographs by their sign."""
    signed = number if kind.name == "photograph" else -1 - number
    return tf.random.stateless_uniform([], [seed, signed], 0, 2**31 - 1, tf.int32)


def _shuffled_epochs(kind: _Kind, role: Role, config: DataConfig, seed: int, first_epoch: int) -> tf.data.Dataset:
    """Repeats the pictures for ever, as `Photographs.read` gives them, in another order in each epoch.

    `Dataset.shuffle` also depends on TensorFlow's global seed; a stateless shuffle of a batch of file
    contents depends on seed and epoch alone.
    """
    encoded = kind.pictures.read(role, "train", config.patch_size)
    num_bytes = kind.pictures.num_bytes
    if num_bytes <= _SHUFFLED_BYTES:
        encoded = encoded.batch(_count_usable(kind, role, "train", config)).cache()
    else:
        bytes_each = num_bytes / sum(len(entries) for entries in kind.pictures.inventory.values())
        encoded = encoded.batch(max(1, int(_SHUFFLED_BYTES / bytes_each)))

    def shuffle_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        def shuffle(values: tf.Tensor) -> tf.Tensor:  # images and names, both into the same order
            return tf.random.experimental.stateless_shuffle(values, [seed, epoch])

        return encoded.map(lambda examples: {name: shuffle(values) for name, values in examples.items()}).unbatch()

    return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(shuffle_epoch)


def _spread_over_batches(patches: tf.Tensor, devices: int) -> tf.Tensor:
    """Turns B photographs of n patches into n batches of B patches, each from another photograph.

    Args:
        patches: `[B, n, p, p, 3]`.
        devices: How many parts (d) a batch is divided into; each begins one patch after the one before it.

    Returns:
        `[n * d, B / d, p, p, 3]`.
    """
    count, per_photo, *picture = patches.shape
    parts = tf.reshape(patches, [count // devices, devices, per_photo, *picture])
    return tf.reshape(tf.transpose(parts, [2, 1, 0, 3, 4, 5]), [-1, count // devices, *picture])


def _to_float(*pair: tf.Tensor) -> tuple[tf.Tensor, ...]:
    return tuple(tf.cast(patches, tf.float32) / 255 for patches in pair)
