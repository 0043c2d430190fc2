"""The writing of networks as SavedModels for TF Serving, and the loading of an export's weights into a network.

An export is a folder `<stage>/<version>/` with the SavedModel and a `manifest.json` that says how it came about. It
appears under its name whole or not at all, runs without this project's code, and holds each weight once.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from artifact_remover.checkpoint_files import DamagedCheckpointError, find_checkpoints, read_checkpoint
from artifact_remover.config import DiscriminatorConfig, GeneratorConfig
from artifact_remover.discriminator import build_discriminator, recover_spectral_vectors
from artifact_remover.generator import (
    build_generator,
    is_of_residual_block,
    memory_per_pixel,
    read_size,
    receptive_field,
)
from artifact_remover.model_folder import MANIFEST, SUMS, read_manifest, sum_up
from artifact_remover.saved_model_jpeg_graph import restore_jpegs
from artifact_remover.saved_model_warm_up import make_discriminator_requests, make_generator_requests, write_warm_up
from artifact_remover.tensorflow_engine import load_saved_model
from artifact_remover.tiling import choose_side, measure_overlap
from data_prep.errors import InputError, Message, Option

_MEMORY_OF_SERVED_TILES = 500_000_000  # bytes for a tile, of each request that is served

_UNKNOWN_NETWORK = "the model is of a network that this version cannot build: use the version that trained it"

_FLOAT_PICTURES = tf.TensorSpec([None, None, None, 3], tf.float32, name="degraded")
_BYTE_PICTURES = tf.TensorSpec([None, None, None, 3], tf.uint8, name="degraded")
_IMAGE_FILES = tf.TensorSpec([None], tf.string, name="image_bytes")
_PATCHES = tf.TensorSpec([None, None, None, 3], tf.float32, name="patches")


def export_generator(generator: keras.Model, config: GeneratorConfig, folder: Path, manifest: dict) -> None:
    """Writes a generator as a float32 SavedModel.

    Its signatures, each for pictures of any size from 1x1 up:

    * `serving_default`: `degraded` float32 [N, H, W, 3] in [0, 1] to `restored`, the same shape and range;
    * `restore`: `degraded` uint8 [N, H, W, 3] in 0..255, RGB, to `restored`, the same;
    * `restore_jpeg`: `image_bytes` string [B], JPEGs, to `restored_bytes` string [B], PNGs, and their `height` and
      `width` int32 [B]: in tiles, in steady memory, with the limits that `saved_model_jpeg_graph.restore_jpegs` states.

    Args:
        generator: From `build_generator`, of any precision.
        config: Its size.
        folder: Where, `<stage>/<version>`; must not exist.
        manifest: What `manifest.json` is to say; added are the `overlap` that tiles need, in pixels, and the
            `memory_per_pixel` that they take, in bytes.
    """
    in_float32 = build_generator(config)
    in_float32.set_weights(generator.get_weights())

    # A function of its own, so that the graph holds the network once and not once for each signature.
    @tf.function(input_signature=[_FLOAT_PICTURES])
    def network(degraded):
        return tf.clip_by_value(in_float32(degraded, training=False), 0.0, 1.0)

    def restore_float(degraded):
        return {"restored": network(degraded)}

    def restore(degraded):
        restored = network(tf.cast(degraded, tf.float32) / 255.0)
        return {"restored": tf.cast(tf.round(restored * 255.0), tf.uint8)}

    overlap = measure_overlap(lambda picture: network(picture).numpy(), receptive_field(config))
    memory = memory_per_pixel(config)
    side = choose_side(_MEMORY_OF_SERVED_TILES, memory)

    def restore_jpeg(image_bytes):
        return restore_jpegs(network, image_bytes, overlap, side)

    signatures = {
        "serving_default": (restore_float, _FLOAT_PICTURES),
        "restore": (restore, _BYTE_PICTURES),
        "restore_jpeg": (restore_jpeg, _IMAGE_FILES),
    }
    _write(folder, manifest | {"overlap": overlap, "memory_per_pixel": memory}, signatures, make_generator_requests())


def export_discriminator(discriminator: keras.Model, config: DiscriminatorConfig, folder: Path, manifest: dict) -> None:
    """Writes a discriminator as a float32 SavedModel.

    Its signature `serving_default` takes `patches`, float32 [N, H, W, 3] in [0, 1], and returns `logits`, float32
    [N, ceil(H / 8), ceil(W / 8), 1]; above zero means clean.

    Args:
        discriminator: From `build_discriminator`, of any precision.
        config: Its size.
        folder: Where, `<stage>/<version>`; must not exist.
        manifest: What `manifest.json` is to say.
    """
    in_float32 = build_discriminator(config)
    in_float32.set_weights(discriminator.get_weights())

    def judge(patches):
        return {"logits": in_float32(patches, training=False)}

    _write(folder, manifest, {"serving_default": (judge, _PATCHES)}, make_discriminator_requests())


def rebuild_generator(weights: Mapping[str, np.ndarray]) -> keras.Model:
    """Builds a generator of this version's code around the weights of an export, which may be of an earlier version's.

    Args:
        weights: By name, from `TensorFlowEngine.read_weights`.

    Returns:
        A float32 model as from `build_generator`, with copies of the weights.

    Raises:
        InputError: If this version builds no generator of such weights.
    """
    values = {name.removesuffix(":0"): value for name, value in weights.items()}
    try:
        network = build_generator(read_size({path: tuple(value.shape) for path, value in values.items()}))
        for weight in network.weights:
            weight.assign(values.pop(weight.path))
    except (LookupError, ValueError, InputError) as error:
        raise InputError(_UNKNOWN_NETWORK) from error
    if values:
        raise InputError(_UNKNOWN_NETWORK)
    return network


def load_weights(network: keras.Model, folder: Path) -> None:
    """Takes a network's weights from an export or a checkpoint folder of an earlier run.

    Residual blocks that an export lacks stay as they are.

    Args:
        network: From `build_generator` or `build_discriminator`; changed in place.
        folder: `<run>/saved_models/<stage>/<version>` or `<run>/checkpoints/<stage>`.

    Raises:
        InputError: If there is neither in the folder, or the weights are those of a network of another size.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give an export or a checkpoint folder of an earlier run")
    if checkpoints := find_checkpoints(folder):
        _load_checkpoint(network, checkpoints[0])
    else:
        read_manifest(folder)
        _load_export(network, folder)


def _write(folder, manifest, signatures, warm_up):
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    archive = keras.export.ExportArchive()
    for name, (function, spec) in signatures.items():
        archive.add_endpoint(name, function, [spec])
    try:
        archive.write_out(str(partial), verbose=False)
        write_warm_up(warm_up, folder.parent.name, partial)
        sums = {f"variables/{file.name}": sum_up(file) for file in sorted(partial.glob("variables/*"))}
        (partial / MANIFEST).write_text(json.dumps(manifest | {SUMS: sums}, indent=2) + "\n")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk it would take what room is left
        raise


def _load_checkpoint(network, checkpoint):
    # Of a GAN stage the moving average is what counts.
    averaged = f"averaged_{network.name}"
    try:
        try:
            read_checkpoint(checkpoint, **{averaged: network})
        except AssertionError:
            read_checkpoint(checkpoint, **{network.name: network})
    except (ValueError, AssertionError) as error:
        raise InputError(_another_size(network, checkpoint)) from error
    except DamagedCheckpointError as error:
        raise InputError(f"{checkpoint} is damaged, its weights cannot be read: use another checkpoint") from error


def _load_export(network, folder):
    exported = load_saved_model(folder)  # held, as its signature's variables live only as long
    variables = exported.signatures["serving_default"].variables
    values = {variable.name.removesuffix(":0"): variable for variable in variables}
    wanted = {weight.path: weight for weight in network.weights}
    # A discriminator's spectral normalization keeps vectors that only training needs, so an export lacks them.
    lacking = [path for path, weight in wanted.items() if weight.trainable and path not in values]
    if not all(map(is_of_residual_block, lacking)) or any(
        path not in wanted or wanted[path].shape != value.shape for path, value in values.items()
    ):
        raise InputError(_another_size(network, folder, {path: tuple(value.shape) for path, value in values.items()}))
    for path, value in values.items():
        wanted[path].assign(value)
    recover_spectral_vectors(network)


def _another_size(network, source, shapes=None):
    """Says that weights, of these shapes where they are known, are of another size, and which options to give."""
    sizes = _list_other_sizes(network, shapes) if shapes else []
    advice = (
        [*sizes, ", as it was trained with"]
        if sizes
        else [Option(f"{network.name}.*"), " the values that it was trained with"]
    )
    return Message(f"{source} holds no {network.name} of this size: give ", *advice)


def _list_other_sizes(network, shapes):
    """Lists the options in which a generator's size is not that of weights of these shapes, and the weights' values."""
    own_shapes = {weight.path: tuple(weight.shape) for weight in network.weights}
    try:
        trained, own = (dataclasses.asdict(read_size(each)) for each in (shapes, own_shapes))
    except (LookupError, ValueError, InputError):  # one of them is no generator
        return []
    if trained["scale"] != own["scale"]:  # which cannot be given
        return []
    pieces = []
    for name, value in trained.items():
        if value != own[name]:
            values = value if isinstance(value, tuple) else (value,)
            pieces += [" ", Option(f"generator.{name}"), *(f" {each}" for each in values)]
    return pieces[1:]
