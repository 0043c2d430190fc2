"""VGG19 trained on ImageNet, as a frozen measure of what two pictures have in common to the eye.

Its features feed `losses.perceptual_loss`. The weights are genuine or there is no network: a file the user
names, Keras's cache, or Keras's download; never random ones, whose "perceptual" loss would look alike in
every log.
"""

import dataclasses
import hashlib
import http.client
import os
import queue
import socket
import threading
import urllib.request
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np

from data_prep.errors import InputError

WEIGHTS_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg19/"
    "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
WEIGHTS_MD5 = "253f8cb515780f3b799900260a226db6"
"""Keras's own file, as `keras.applications.VGG19(include_top=False)` downloads and checks it."""

_SUFFIXES = (".npz", ".h5", ".keras")
_ANSWER_SECONDS = 4.0
_STALLED_SECONDS = 30.0
_CONVOLUTIONS = [
    f"block{block}_conv{number}"
    for block, depth in enumerate((2, 2, 4, 4, 4), start=1)
    for number in range(1, depth + 1)
]
_IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)


class PretrainedFeaturesUnavailable(Exception):
    """A lack of pretrained weights, which are neither here nor to be downloaded; the message is one line: why.

    Training can go on without the perceptual loss, as long as it says so.
    """


@dataclasses.dataclass(frozen=True)
class PerceptualNetwork:
    """VGG19 up to one layer, frozen.

    Attributes:
        model: From `float32 [N, H, W, 3]`, RGB in [0, 1], to the layer's features after their ReLU,
            `[N, H // s, W // s, C]` in the compute dtype; `s` is 1, 2, 4, 8 or 16 for blocks 1 to 5.
        layer: The layer's name.
        source: Where the weights came from: the path of their file.
    """

    model: keras.Model
    layer: str
    source: str


def load_vgg19(layer: str = "block3_conv4", weights: Path | None = None, dtype: str = "float32") -> PerceptualNetwork:
    """Loads VGG19 up to a layer, frozen, with its preprocessing inside (Simonyan and Zisserman, 2015).

    The preprocessing is that of `keras.applications.vgg19.preprocess_input`: to 0..255, RGB to BGR, less
    ImageNet's mean. Without `weights` the file comes from Keras's cache, or is downloaded into it (80 MB,
    once); where the network does not answer, that is known after at most four seconds.

    >>> network = load_vgg19("block3_conv4")  # doctest: +SKIP
    >>> network.model.output_shape  # doctest: +SKIP
    (None, None, None, 256)

    Args:
        layer: A convolution, `block1_conv1` to `block5_conv4`.
        weights: A file with the weights of VGG19 or of its first layers: `.h5`, `.weights.h5` or `.keras` as Keras
            writes them, or `.npz` with each layer's `<layer>/kernel` `[3, 3, in, out]` and `<layer>/bias` `[out]`.
        dtype: Keras dtype policy of the convolutions, such as `mixed_bfloat16`.

    Returns:
        The network, which layer it ends at, and where its weights came from.

    Raises:
        InputError: If there is no such layer, or `weights` cannot be read, is not VGG19's, or ends before
            `layer`.
        PretrainedFeaturesUnavailable: If `weights` is not given and Keras's file cannot be had.
    """
    if layer not in _CONVOLUTIONS:
        raise InputError(f"no such VGG19 layer, it is one of {', '.join(_CONVOLUTIONS)}: {layer}")
    source = Path(weights) if weights else _cached_or_downloaded()
    vgg = keras.applications.VGG19(include_top=False, weights=None, input_shape=(None, None, 3))
    _load_weights(vgg, layer, source)
    return PerceptualNetwork(_frozen_up_to(vgg, layer, dtype), layer, str(source))


def _frozen_up_to(vgg: keras.Model, layer: str, dtype: str) -> keras.Model:
    """A copy of a chain of layers up to one of them, in another dtype, for RGB in [0, 1]."""
    image = keras.Input((None, None, 3), name="image")
    bgr = keras.ops.flip(image, axis=-1)
    features = keras.layers.Rescaling(255.0, [-mean for mean in _IMAGENET_MEAN_BGR], dtype="float32")(bgr)
    for original in vgg.layers[1 : vgg.layers.index(vgg.get_layer(layer)) + 1]:
        copy = type(original).from_config(original.get_config() | {"dtype": dtype})
        features = copy(features)
        copy.set_weights(original.get_weights())
    model = keras.Model(image, features, name=f"vgg19_{layer}")
    model.trainable = False
    return model


def _load_weights(vgg: keras.Model, layer: str, source: Path) -> None:
    """Loads a file up to `layer` at least; every weight is NaN before, so none can stay random."""
    if not source.is_file():  # which Keras tells of some suffixes only
        raise InputError(f"no such VGG19 weights file: {source}")
    if source.suffix not in _SUFFIXES:
        raise InputError(f"cannot be read as VGG19 weights: {source}: give a {', '.join(_SUFFIXES)} file")
    vgg.set_weights([np.full(weight.shape, np.nan, "float32") for weight in vgg.weights])
    try:
        if source.suffix == ".npz":
            _assign_npz(vgg, source)
        else:
            legacy = source.suffix == ".h5" and not source.name.endswith(".weights.h5")
            with warnings.catch_warnings(action="ignore"):  # whatever was skipped is still NaN
                vgg.load_weights(source, **({"by_name": True} if legacy else {"skip_mismatch": True}))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot be read as VGG19 weights: {source}: {reason}") from error
    loaded = [name for name in _CONVOLUTIONS if _is_finite(vgg.get_layer(name))]
    if not loaded or loaded != _CONVOLUTIONS[: len(loaded)]:
        raise InputError(f"not the weights of VGG19, or not from its first layer on: {source}")
    if layer not in loaded:
        last = loaded[-1]
        raise InputError(f"VGG19 weights end at {last}, before {layer}: use another file: {source}")


def _assign_npz(vgg: keras.Model, source: Path) -> None:
    with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        for name in _CONVOLUTIONS:
            if f"{name}/kernel" in arrays:
                vgg.get_layer(name).set_weights([arrays[f"{name}/kernel"], arrays[f"{name}/bias"]])


def _is_finite(layer: keras.layers.Layer) -> bool:
    return all(np.isfinite(weight).all() for weight in layer.get_weights())


def _cached_or_downloaded() -> Path:
    """Keras's own weights file, from its cache if intact there."""
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    name = WEIGHTS_URL.rpartition("/")[2]
    cached = home / "models" / name
    if cached.is_file() and _md5(cached) == WEIGHTS_MD5:
        return cached
    if reason := _why_unreachable(WEIGHTS_URL):
        raise PretrainedFeaturesUnavailable(f"VGG19 is not in Keras's cache and cannot be downloaded: {reason}")
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALLED_SECONDS)  # Keras's own download would wait for ever
    try:
        return Path(
            keras.utils.get_file(name, WEIGHTS_URL, cache_subdir="models", file_hash=WEIGHTS_MD5, cache_dir=str(home))
        )
    except Exception as error:  # what Keras raises for a failed download
        cached.unlink(missing_ok=True)
        reason = str(error).partition("\n")[0]
        raise PretrainedFeaturesUnavailable(f"VGG19 could not be downloaded: {reason}") from error
    finally:
        socket.setdefaulttimeout(patience)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _why_unreachable(url: str) -> str | None:
    """Asks for a file's header: None if the answer comes soon, else why not.

    Keras's download has no time limit of its own, and neither has the lookup of a host's name, hence the
    thread.
    """
    answer: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask():
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=_ANSWER_SECONDS).close()
            answer.put(None)
        except (OSError, http.client.HTTPException) as error:
            answer.put(f"{url}: {str(error) or type(error).__name__}")

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.get(timeout=_ANSWER_SECONDS)
    except queue.Empty:
        return f"{url}: no answer within {_ANSWER_SECONDS:g} seconds"
