import contextlib
import hashlib
import http.server
import socket
import threading
import time
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from artifact_remover.training import vgg
from artifact_remover.training.vgg import PretrainedFeaturesUnavailable, load_vgg19
from data_prep.errors import InputError

# Keras 3.15 under NumPy 2.4 warns of itself whenever it saves a weight.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

GENUINE = Path(__file__).resolve().parents[2] / "shared" / "data" / "weights" / "vgg19_conv1_1_to_conv3_4.npz"
needs_genuine_weights = pytest.mark.skipif(not GENUINE.is_file(), reason=f"no {GENUINE}")
KERAS_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"


def picture(height=12, width=10, seed=0):
    return np.random.default_rng(seed).random((2, height, width, 3), np.float32)


def block1(seed=0):
    """Random weights of the first two convolutions, under the names of a `.npz` of weights."""
    random = np.random.default_rng(seed)
    return {
        "block1_conv1/kernel": random.standard_normal((3, 3, 3, 64), np.float32) / 100,
        "block1_conv1/bias": random.standard_normal(64, np.float32),
        "block1_conv2/kernel": random.standard_normal((3, 3, 64, 64), np.float32) / 10,
        "block1_conv2/bias": random.standard_normal(64, np.float32),
    }


def npz(path, arrays):
    np.savez(path, **arrays)
    return path


def convolve(image, kernel, bias):
    """A 3 x 3 convolution with zero padding and ReLU, of float [N, H, W, C], as nine shifted products."""
    height, width = image.shape[1:3]
    padded = np.pad(image, [(0, 0), (1, 1), (1, 1), (0, 0)])
    shifted = [padded[:, y : y + height, x : x + width] @ kernel[y, x] for y in range(3) for x in range(3)]
    return np.maximum(sum(shifted) + bias, 0)


def halve(image):
    """The maximum of every 2 x 2 pixels of float [N, H, W, C], odd edges dropped."""
    height, width = image.shape[1] // 2 * 2, image.shape[2] // 2 * 2
    quarters = [image[:, y:height:2, x:width:2] for y in (0, 1) for x in (0, 1)]
    return np.max(quarters, axis=0)


def features_in_numpy(image, arrays, layer):
    """VGG19's features of RGB float [N, H, W, 3] in [0, 1], by the paper and Caffe's preprocessing."""
    value = 255.0 * image[..., ::-1] - np.array([103.939, 116.779, 123.68])
    for block, depth in enumerate([2, 2, 4, 4, 4], start=1):
        value = halve(value) if block > 1 else value
        for number in range(1, depth + 1):
            name = f"block{block}_conv{number}"
            value = convolve(value, arrays[f"{name}/kernel"], arrays[f"{name}/bias"])
            if name == layer:
                return value


def assert_same_weights(layer, other):
    for ours, theirs in zip(layer.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def whole():
    """The whole VGG19 with random weights."""
    return keras.applications.VGG19(include_top=False, weights=None, input_shape=(None, None, 3))


@pytest.fixture(scope="module")
def keras_file(whole, tmp_path_factory):
    """A file in the layout of the one Keras downloads, which Keras 1 wrote."""
    path = tmp_path_factory.mktemp("vgg") / KERAS_FILE
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in whole.layers]
        for layer in whole.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}_{kind}_1:0" for kind in "Wb"][: len(layer.weights)]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights(), strict=True):
                group[name] = value
    return path


@pytest.fixture
def keras_home(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return tmp_path


@contextlib.contextmanager
def web_server(content, announced=None):
    """Serves bytes on loopback; `announced` is the length the header promises, if not theirs."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", str(announced or len(content)))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{KERAS_FILE}"
        finally:
            server.shutdown()
            thread.join()


@needs_genuine_weights
@pytest.mark.parametrize("layer", ["block1_conv1", "block1_conv2", "block2_conv2", "block3_conv4"])
def test_features_equal_numpy_with_the_genuine_weights(layer):
    image = picture(17, 22)
    expected = features_in_numpy(image, np.load(GENUINE), layer)
    network = load_vgg19(layer, GENUINE)
    np.testing.assert_allclose(network.model(image), expected, rtol=1e-3, atol=1e-3 * expected.max())
    assert expected.max() > 100, "genuine features of 0..255 pictures are large"
    assert (network.layer, network.source) == (layer, str(GENUINE))


def test_preprocessing_is_that_of_keras_applications(tmp_path):
    arrays, image = block1(), picture()
    kernel, bias = arrays["block1_conv1/kernel"], arrays["block1_conv1/bias"]
    prepared = keras.applications.vgg19.preprocess_input(255 * image)
    expected = tf.nn.relu(tf.nn.conv2d(prepared, kernel, 1, "SAME") + bias)
    model = load_vgg19("block1_conv1", npz(tmp_path / "vgg.npz", arrays)).model
    np.testing.assert_allclose(model(image), expected, rtol=1e-4, atol=1e-4)


def test_nothing_beyond_the_layer_is_built(tmp_path):
    model = load_vgg19("block1_conv2", npz(tmp_path / "vgg.npz", block1())).model
    assert [layer.name for layer in model.layers if layer.weights] == ["block1_conv1", "block1_conv2"]
    assert model.count_params() == 3 * 3 * 3 * 64 + 64 + 3 * 3 * 64 * 64 + 64
    assert model.output_shape == (None, None, None, 64)


def test_the_network_is_frozen_and_lets_gradients_through_to_the_picture(tmp_path):
    model = load_vgg19("block1_conv2", npz(tmp_path / "vgg.npz", block1())).model
    assert not model.trainable and model.trainable_variables == []
    image = tf.constant(picture())
    with tf.GradientTape() as tape:
        tape.watch(image)
        size = tf.reduce_mean(tf.square(model(image, training=True)))
    gradient = tape.gradient(size, image)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize(("dtype", "weights"), [("mixed_bfloat16", "float32"), ("bfloat16", "bfloat16")])
def test_half_precision_is_close_to_float32(tmp_path, dtype, weights):
    file = npz(tmp_path / "vgg.npz", block1())
    image = picture()
    exact = load_vgg19("block1_conv2", file).model(image)
    model = load_vgg19("block1_conv2", file, dtype).model
    assert {variable.dtype for variable in model.weights} == {weights}
    features = model(image)
    assert features.dtype == tf.bfloat16
    error = tf.reduce_mean(tf.square(tf.cast(features, tf.float32) - exact)) / tf.reduce_mean(tf.square(exact))
    assert error < 1e-4


def test_the_global_dtype_policy_does_not_leak_in(tmp_path):
    file, image = npz(tmp_path / "vgg.npz", block1()), picture()
    expected = load_vgg19("block1_conv1", file).model(image)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        features = load_vgg19("block1_conv1", file).model(image)
    finally:
        keras.config.set_dtype_policy(before)
    np.testing.assert_array_equal(features, expected)


def test_the_model_survives_saving_and_loading(tmp_path):
    model = load_vgg19("block1_conv2", npz(tmp_path / "vgg.npz", block1())).model
    model.save(tmp_path / "vgg.keras")
    again = keras.models.load_model(tmp_path / "vgg.keras")
    np.testing.assert_array_equal(again(picture()), model(picture()))


def test_keras_s_own_layout_is_read(whole, keras_file):
    network = load_vgg19("block2_conv1", keras_file)
    for name in ["block1_conv1", "block1_conv2", "block2_conv1"]:
        assert_same_weights(network.model.get_layer(name), whole.get_layer(name))


@pytest.mark.parametrize("name", ["vgg.weights.h5", "vgg.keras"])
def test_files_of_keras_3_are_read(whole, tmp_path, name):
    (whole.save_weights if name.endswith(".h5") else whole.save)(tmp_path / name)
    model = load_vgg19("block5_conv4", tmp_path / name).model
    for name in ["block1_conv1", "block5_conv4"]:
        assert_same_weights(model.get_layer(name), whole.get_layer(name))


def test_an_unknown_layer_is_refused_with_the_known_ones_named(tmp_path):
    for layer in ["block3_conv5", "block3_pool", ""]:
        with pytest.raises(InputError, match=f"no such VGG19 layer.* block1_conv1, .*_conv4: {layer}$"):
            load_vgg19(layer, tmp_path / "never read.npz")


def test_a_layer_beyond_a_partial_file_is_refused_with_the_last_one_named(tmp_path):
    file = npz(tmp_path / "vgg.npz", block1())
    with pytest.raises(InputError, match="end at block1_conv2, before block3_conv4: .*another file"):
        load_vgg19("block3_conv4", file)


@needs_genuine_weights
def test_the_genuine_partial_file_ends_at_block3_conv4():
    with pytest.raises(InputError, match="end at block3_conv4, before block4_conv1"):
        load_vgg19("block4_conv1", GENUINE)


def write_nothing(path):
    path.write_bytes(b"")


def write_text(path):
    path.write_text("<html>404</html>")


def write_half_a_file(path):
    npz(path, block1())
    path.write_bytes(path.read_bytes()[:100_000])


def write_other_names(path):
    npz(path, {"conv1/kernel": np.zeros((3, 3, 3, 64))})


def write_other_shapes(path):
    npz(path, block1() | {"block1_conv1/kernel": np.zeros((5, 5, 3, 64))})


def write_a_kernel_without_its_bias(path):
    arrays = block1()
    del arrays["block1_conv1/bias"]
    npz(path, arrays)


def write_a_layer_after_a_gap(path):  # as VGG16's weights have, which fit otherwise
    later = {"block2_conv2/kernel": np.zeros((3, 3, 128, 128)), "block2_conv2/bias": np.zeros(128)}
    npz(path, block1() | later)


def write_not_a_number(path):
    npz(path, block1() | {"block1_conv1/bias": np.full(64, np.nan)})


def write_objects(path):
    npz(path, {"block1_conv1/kernel": np.array([{}]), "block1_conv1/bias": np.array([{}])})


def make_a_folder(path):
    path.mkdir()


BAD_ARRAYS = [
    write_half_a_file,
    write_other_names,
    write_other_shapes,
    write_a_kernel_without_its_bias,
    write_a_layer_after_a_gap,
    write_not_a_number,
    write_objects,
]
SUFFIXES = [".npz", ".h5", ".weights.h5", ".keras", ".pth"]


@pytest.mark.parametrize(
    ("write", "suffix"),
    [(write, ".npz") for write in BAD_ARRAYS]
    + [(write, suffix) for write in (write_nothing, write_text, make_a_folder) for suffix in SUFFIXES],
)
def test_a_file_that_is_no_vgg19_is_refused_in_one_line(tmp_path, write, suffix):
    written = tmp_path / "weights.npz"
    write(written)
    path = written.rename(tmp_path / f"weights{suffix}")
    with pytest.raises(InputError) as refused:
        load_vgg19("block1_conv1", path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".weights.h5", ".keras", "", ".txt"])
def test_a_missing_file_is_refused(tmp_path, suffix):
    with pytest.raises(InputError, match="no such VGG19 weights file: .*absent"):
        load_vgg19("block1_conv1", tmp_path / f"absent{suffix}")


@pytest.mark.parametrize("name", ["weights", "weights.txt"])
def test_a_file_of_another_kind_is_told_which_kinds_there_are(tmp_path, name):
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(InputError, match=f"cannot be read as VGG19 weights: .*{name}: give a .npz, .h5, .keras file$"):
        load_vgg19("block1_conv1", tmp_path / name)
    with pytest.raises(InputError, match="no such VGG19 weights file"):
        load_vgg19("block1_conv1", tmp_path)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_another_network_s_file_is_refused_rather_than_left_random(tmp_path, whole, suffix):
    first_layers = keras.Model(whole.input, whole.get_layer("block1_pool").output)
    path = tmp_path / f"short{suffix}"
    (first_layers.save_weights if suffix == ".weights.h5" else first_layers.save)(path)
    with pytest.raises(InputError, match="short"):
        load_vgg19("block3_conv4", path)


def test_a_cached_file_is_used_without_any_network(monkeypatch, keras_home, keras_file):
    monkeypatch.setattr(vgg, "WEIGHTS_MD5", hashlib.md5(keras_file.read_bytes()).hexdigest())
    monkeypatch.setattr(socket, "socket", None)
    (keras_home / "models").mkdir()
    cached = keras_home / "models" / KERAS_FILE
    cached.symlink_to(keras_file)
    assert load_vgg19("block1_conv1").source == str(cached)


def test_a_downloaded_file_is_cached(monkeypatch, keras_home, keras_file):
    content = keras_file.read_bytes()
    monkeypatch.setattr(vgg, "WEIGHTS_MD5", hashlib.md5(content).hexdigest())
    cached = keras_home / "models" / KERAS_FILE
    with web_server(content) as url:
        monkeypatch.setattr(vgg, "WEIGHTS_URL", url)
        assert load_vgg19("block1_conv1").source == str(cached)
    assert load_vgg19("block1_conv1").source == str(cached), "the server is gone by now"


@pytest.mark.parametrize("announced", [None, 1_000_000])
def test_a_download_that_is_not_the_file_is_not_kept(monkeypatch, keras_home, announced):
    with web_server(b"<html>please log in</html>", announced) as url:
        monkeypatch.setattr(vgg, "WEIGHTS_URL", url)
        with pytest.raises(PretrainedFeaturesUnavailable, match="could not be downloaded"):
            load_vgg19("block1_conv1")
    assert not list((keras_home / "models").iterdir())


def test_a_broken_cached_file_is_not_used(monkeypatch, keras_home):
    (keras_home / "models").mkdir()
    (keras_home / "models" / KERAS_FILE).write_bytes(b"half")
    with web_server(b"") as url:
        monkeypatch.setattr(vgg, "WEIGHTS_URL", url.replace("http:", "nonsense:"))
    with pytest.raises(PretrainedFeaturesUnavailable, match="cannot be downloaded"):
        load_vgg19("block1_conv1")


def test_a_missing_page_is_named(monkeypatch, keras_home):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        monkeypatch.setattr(vgg, "WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/{KERAS_FILE}")
        monkeypatch.setattr(server.RequestHandlerClass, "log_message", lambda *arguments: None)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(PretrainedFeaturesUnavailable, match="Error 501"):
            load_vgg19("block1_conv1")
        thread.join()


def test_without_a_network_that_is_said_at_once(monkeypatch, keras_home):
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    monkeypatch.setattr(vgg, "WEIGHTS_URL", f"https://127.0.0.1:{port}/{KERAS_FILE}")
    start = time.monotonic()
    with pytest.raises(PretrainedFeaturesUnavailable, match="refused") as unavailable:
        load_vgg19("block1_conv1")
    assert time.monotonic() - start < 20  # the machine may be busy
    assert "\n" not in str(unavailable.value)


@pytest.mark.parametrize("protocol", ["http", "https"])
def test_a_server_that_never_answers_does_not_hang_us(monkeypatch, keras_home, protocol):
    assert vgg._ANSWER_SECONDS <= 5
    monkeypatch.setattr(vgg, "_ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, nobody reads
        port = silent.getsockname()[1]
        monkeypatch.setattr(vgg, "WEIGHTS_URL", f"{protocol}://127.0.0.1:{port}/{KERAS_FILE}")
        start = time.monotonic()
        with pytest.raises(PretrainedFeaturesUnavailable, match="timed out|no answer"):
            load_vgg19("block1_conv1")
        assert time.monotonic() - start < 20  # the machine may be busy


def test_a_name_server_that_never_answers_does_not_hang_us(monkeypatch, keras_home):
    monkeypatch.setattr(vgg, "_ANSWER_SECONDS", 0.5)
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments: answer.wait(10) and [])
    try:
        with pytest.raises(PretrainedFeaturesUnavailable, match="no answer within 0.5 seconds"):
            load_vgg19("block1_conv1")
    finally:
        answer.set()
