import dataclasses
import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from artifact_remover import model_folder
from artifact_remover.config import PRESETS, DiscriminatorConfig, GeneratorConfig
from artifact_remover.discriminator import build_discriminator
from artifact_remover.generator import build_generator
from artifact_remover.model_folder import FAITHFUL, find_exports, read_manifest, sum_up
from artifact_remover.saved_model import (
    export_discriminator,
    export_generator,
    load_weights,
    rebuild_generator,
)
from artifact_remover.tensorflow_engine import TensorFlowEngine
from artifact_remover.training.checkpoints import Checkpoints
from data_prep.errors import InputError

TINY = GeneratorConfig(features=8, growth=4, blocks=1)
TINY_DISCRIMINATOR = DiscriminatorConfig(features=4)
sizes = pytest.mark.parametrize(("height", "width"), [(1, 1), (15, 17), (32, 24)])


def pictures(height=16, width=16, number=2):
    return np.random.default_rng(0).integers(0, 256, (number, height, width, 3), np.uint8)


def make_generator(dtype="float32"):
    """A generator that changes pixels by tens of levels, beyond black and white as well."""
    keras.utils.set_random_seed(0)
    generator = build_generator(TINY, dtype)
    [kernel] = generator.get_layer("correction").weights
    kernel.assign(0.05 * np.random.default_rng(0).standard_normal(kernel.shape))
    return generator


def make_discriminator():
    """A discriminator whose norms have settled, as training leaves them."""
    keras.utils.set_random_seed(0)
    discriminator = build_discriminator(TINY_DISCRIMINATOR)
    for _ in range(60):
        discriminator(np.zeros([1, 8, 8, 3], np.float32), training=True)
    return discriminator


def restore_bytes(exported, degraded):
    signature = tf.saved_model.load(str(exported)).signatures["restore"]
    return signature(degraded=tf.constant(degraded))["restored"].numpy()


@pytest.fixture(scope="module")
def generator():
    return make_generator()


@pytest.fixture(scope="module")
def discriminator():
    return make_discriminator()


@pytest.fixture(scope="module")
def exported(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_models") / "pretrain_generator" / "1"
    export_generator(generator, TINY, folder, {"stage": "pretrain_generator"})
    return folder


@pytest.fixture(scope="module")
def exported_discriminator(discriminator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_models") / "pretrain_discriminator" / "1"
    export_discriminator(discriminator, TINY_DISCRIMINATOR, folder, {})
    return folder


@pytest.fixture
def damaged(exported, tmp_path):
    """A copy of the export, to be damaged."""
    folder = tmp_path / "1"
    shutil.copytree(exported, folder)
    return folder


def assert_refused(network, folder, match):
    with pytest.raises(InputError, match=match) as error:
        load_weights(network, folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def assert_equal_weights(network, other):
    for weight, expected in zip(network.weights, other.weights, strict=True):
        np.testing.assert_array_equal(weight, expected, err_msg=weight.path)


@sizes
def test_float_signature_is_the_generator_within_black_and_white(generator, exported, height, width):
    degraded = pictures(height, width) / np.float32(255)
    signature = tf.saved_model.load(str(exported)).signatures["serving_default"]
    restored = signature(degraded=tf.constant(degraded))["restored"]
    np.testing.assert_allclose(restored, np.clip(generator(degraded), 0, 1), atol=1e-6)


@sizes
def test_byte_signature_clips_and_rounds(generator, exported, height, width):
    degraded = pictures(height, width)
    restored = restore_bytes(exported, degraded)
    exact = np.clip(generator(degraded / np.float32(255)).numpy().astype(float), 0, 1) * 255
    assert restored.dtype == np.uint8 and restored.shape == degraded.shape
    assert np.abs(restored - exact).max() <= 0.5 + 1e-3
    assert height == 1 or {0, 255} <= set(restored.ravel())


@sizes
def test_discriminators_signature_is_the_discriminator(discriminator, exported_discriminator, height, width):
    patches = pictures(height, width) / np.float32(255)
    signature = tf.saved_model.load(str(exported_discriminator)).signatures["serving_default"]
    logits = signature(patches=tf.constant(patches))["logits"]
    np.testing.assert_allclose(logits, discriminator(patches), atol=1e-6)


def test_runs_in_a_process_that_has_only_tensorflow(generator, exported, tmp_path):
    degraded = pictures(15, 17)
    np.savez(tmp_path / "expected.npz", degraded=degraded, restored=restore_bytes(exported, degraded))
    code = f"""
import sys
sys.modules.update(artifact_remover=None, data_prep=None)
import numpy as np
import tensorflow as tf
expected = np.load("expected.npz")
model = tf.saved_model.load({str(exported)!r})
restored = model.signatures["restore"](degraded=tf.constant(expected["degraded"]))["restored"]
np.testing.assert_array_equal(restored, expected["restored"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_holds_each_weight_once_and_no_optimizer(generator, exported):
    stored = tf.train.list_variables(str(exported / "variables" / "variables"))
    shapes = [tuple(shape) for name, shape in stored if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    assert sorted(shapes) == sorted(tuple(weight.shape) for weight in generator.weights)
    num_bytes = sum(path.stat().st_size for path in (exported / "variables").glob("*.data-*"))
    assert num_bytes < 4 * generator.count_params() + 32_768  # and the names


def test_graph_holds_the_network_once_for_all_signatures(generator, exported):
    [meta_graph] = SavedModel.FromString((exported / "saved_model.pb").read_bytes()).meta_graphs
    bodies = [meta_graph.graph_def.node, *(function.node_def for function in meta_graph.graph_def.library.function)]
    convolutions = sum(node.op == "Conv2D" for body in bodies for node in body)
    assert convolutions == sum(isinstance(layer, keras.layers.Conv2D) for layer in generator.layers)


def test_bfloat16_generator_is_exported_in_float32_without_compiled_parts(tmp_path):
    export_generator(make_generator("mixed_bfloat16"), TINY, tmp_path / "1", {})
    [meta_graph] = SavedModel.FromString((tmp_path / "1" / "saved_model.pb").read_bytes()).meta_graphs
    meta_graph.ClearField("meta_info_def")  # which names what operations could compute in
    graph = str(meta_graph)
    assert "DT_BFLOAT16" not in graph and "DT_FLOAT" in graph
    assert "XlaCallModule" not in graph
    functions = meta_graph.graph_def.library.function
    assert not any(function.attr["_XlaMustCompile"].b for function in functions)


def test_an_export_under_other_keras_defaults_restores_alike(exported, tmp_path, other_keras_defaults):
    generator = build_generator(TINY)
    load_weights(generator, exported)
    export_generator(generator, TINY, tmp_path / "1", {})
    picture = np.random.default_rng(0).random((1, 20, 30, 3), np.float32)
    one, other = (
        tf.saved_model.load(str(folder)).signatures["serving_default"](tf.constant(picture))["restored"]
        for folder in (exported, tmp_path / "1")
    )
    np.testing.assert_array_equal(one, other)


def test_manifest_lies_beside_the_model(exported):
    assert read_manifest(exported) == json.loads((exported / "manifest.json").read_text())
    assert read_manifest(exported) == {
        "stage": "pretrain_generator",
        "overlap": 16,
        "memory_per_pixel": 120,
        "sha256": {f"variables/{file.name}": sum_up(file) for file in (exported / "variables").iterdir()},
    }
    assert {path.name for path in exported.iterdir()} >= {"saved_model.pb", "variables", "manifest.json"}


def test_failure_in_the_middle_leaves_nothing_and_a_retry_succeeds(generator, tmp_path, monkeypatch):
    def disk_is_full(path, _text):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    folder = tmp_path / "pretrain_generator" / "1"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", disk_is_full)
        with pytest.raises(OSError, match="No space left"):
            export_generator(generator, TINY, folder, {})
    assert not folder.exists()
    assert not any(path.name.isdecimal() for path in folder.parent.iterdir())  # what TF Serving would take up
    export_generator(generator, TINY, folder, {})
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_export_that_is_there_is_not_written_over(generator, exported):
    before = (exported / "saved_model.pb").stat()
    with pytest.raises(OSError, match="not empty"):
        export_generator(generator, TINY, exported, {})
    assert (exported / "saved_model.pb").stat() == before


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_weights_come_back_from_an_export(generator, exported, dtype):
    network = build_generator(TINY, dtype)
    load_weights(network, exported)
    assert_equal_weights(network, generator)


def test_discriminators_weights_come_back_from_an_export(discriminator, exported_discriminator):
    network = build_discriminator(TINY_DISCRIMINATOR)
    load_weights(network, exported_discriminator)
    for weight, expected in zip(network.trainable_weights, discriminator.trainable_weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_discriminator_from_an_export_trains_on_where_it_was(discriminator, exported_discriminator):
    network = build_discriminator(TINY_DISCRIMINATOR)
    load_weights(network, exported_discriminator)
    patches = pictures() / np.float32(255)
    np.testing.assert_allclose(network(patches, training=True), discriminator(patches), rtol=1e-2)


def test_weights_come_back_from_a_checkpoint_folder(generator, discriminator, tmp_path):
    networks = {"generator": generator, "discriminator": discriminator}
    Checkpoints(networks, tmp_path).save(3, [])
    for original, network in [
        (generator, build_generator(TINY)),
        (discriminator, build_discriminator(TINY_DISCRIMINATOR)),
    ]:
        load_weights(network, tmp_path)
        assert_equal_weights(network, original)


@pytest.mark.parametrize(
    "config",
    [
        GeneratorConfig(8, 4, 2),
        GeneratorConfig(8, 8, 1),
        GeneratorConfig(4, 4, 1),
        GeneratorConfig(8, 4, 1, scale=1),
    ],
    ids=str,
)
def test_another_size_is_refused(generator, exported, tmp_path, config):
    Checkpoints({"generator": generator}, tmp_path).save(1, [])
    network = build_generator(config)
    for folder in (exported, tmp_path):
        assert_refused(network, folder, "no generator of this size: give generator")


@pytest.mark.parametrize(
    ("config", "given"),
    [
        (GeneratorConfig(8, 8, 2), "generator.growth 4 generator.blocks 1, as it was trained with"),
        (
            GeneratorConfig(8, 4, 1, finer=(4, 6), residual_blocks=(3,)),
            "generator.finer generator.residual_blocks 2, as it was trained with",  # as no levels are given
        ),
        (GeneratorConfig(8, 4, 1, scale=1), "generator.* the values that it was trained with"),
    ],
    ids=str,
)
def test_the_size_of_an_export_is_named(exported, config, given):
    with pytest.raises(InputError, match=rf"no generator of this size: give {re.escape(given)}$"):
        load_weights(build_generator(config), exported)


def test_the_levels_of_an_export_are_named(tmp_path):
    config = GeneratorConfig(8, 4, 1, finer=(4, 6), residual_blocks=(3, 2))
    export_generator(build_generator(config), config, tmp_path / "1", {})
    with pytest.raises(InputError, match="give generator.finer 4 6 generator.residual_blocks 3 2, as it"):
        load_weights(build_generator(GeneratorConfig(8, 4, 1)), tmp_path / "1")


@pytest.mark.parametrize("blocks", [1, 2])
def test_larger_model_does_not_fill_a_smaller_one(blocks, tmp_path):
    Checkpoints({"generator": build_generator(GeneratorConfig(8, 8, 3))}, tmp_path).save(1, [])
    assert_refused(build_generator(GeneratorConfig(8, 8, blocks)), tmp_path, "no generator of this size")


def test_more_residual_blocks_do_nothing_at_first(tmp_path):
    smaller = build_generator(GeneratorConfig(8, 4, 1, finer=(4, 6)))
    for weight in smaller.weights:
        weight.assign(0.1 * np.random.default_rng(0).standard_normal(weight.shape))
    folder = tmp_path / "1"
    export_generator(smaller, GeneratorConfig(8, 4, 1, finer=(4, 6)), folder, {})
    grown = build_generator(GeneratorConfig(8, 4, 1, finer=(4, 6), residual_blocks=(3, 2)))
    load_weights(grown, folder)
    patches = pictures() / np.float32(255)
    assert np.abs(grown(patches) - patches).max() > 0.01
    np.testing.assert_allclose(grown(patches), smaller(patches), atol=1e-6)
    fewer, deeper = (
        GeneratorConfig(8, 4, 1, finer=(4, 6), residual_blocks=(2, 1)),
        GeneratorConfig(8, 4, 1, finer=(4, 6, 6)),
    )
    for other in (fewer, deeper):
        assert_refused(build_generator(other), folder, "no generator of this size")


def test_a_generator_is_rebuilt_from_its_export(generator, exported):
    restore = TensorFlowEngine(exported, "float32")
    rebuilt = rebuild_generator(restore.read_weights())
    assert_equal_weights(rebuilt, generator)
    patches = pictures() / np.float32(255)
    np.testing.assert_allclose(np.clip(rebuilt(patches), 0, 1), restore(patches), atol=1e-6)


@pytest.mark.parametrize("change", ["more", "less", "no size"])
def test_a_network_of_another_version_is_not_rebuilt(exported, change):
    weights = TensorFlowEngine(exported, "float32").read_weights()
    if change == "more":
        weights["attention/kernel:0"] = next(iter(weights.values()))
    elif change == "no size":
        shallow = next(name for name in weights if name.startswith("shallow/kernel"))
        weights[shallow] = weights[shallow][:, :, :1]
    else:
        del weights[next(name for name in weights if name.startswith("trunk/bias"))]
    with pytest.raises(InputError, match="of a network that this version cannot build"):
        rebuild_generator(weights)


def test_refused_weights_leave_the_network_as_it_was(generator, exported, tmp_path):
    Checkpoints({"generator": generator}, tmp_path).save(1, [])
    network, same = (build_generator(GeneratorConfig(8, 8, 1)) for _ in range(2))
    same.set_weights(network.get_weights())
    for folder in (exported, tmp_path):
        assert_refused(network, folder, "no generator of this size")
        assert_equal_weights(network, same)


def test_the_other_network_is_refused(exported, exported_discriminator, discriminator, tmp_path):
    Checkpoints({"discriminator": discriminator}, tmp_path).save(1, [])
    for folder in (exported_discriminator, tmp_path):
        assert_refused(build_generator(TINY), folder, "holds no generator")
    assert_refused(build_discriminator(TINY_DISCRIMINATOR), exported, "holds no discriminator")


def test_missing_folder_is_refused(tmp_path):
    assert_refused(build_generator(TINY), tmp_path / "gone", "is not a folder: give an export or a checkpoint")


def test_folder_without_manifest_is_refused(damaged):
    (damaged / "manifest.json").unlink()
    assert_refused(build_generator(TINY), damaged, "manifest.json is missing or damaged")


def cut_variables(folder):
    [data] = (folder / "variables").glob("*.data-*")
    data.write_bytes(data.read_bytes()[:1000])


def cut_index(folder):
    index = folder / "variables" / "variables.index"
    index.write_bytes(index.read_bytes()[:100])


def remove_variables(folder):
    for path in (folder / "variables").iterdir():
        path.unlink()


def scramble_model(folder):
    (folder / "saved_model.pb").write_bytes(np.random.default_rng(0).bytes(5000))


def cut_model(folder):
    model = folder / "saved_model.pb"
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])


def empty_model(folder):
    (folder / "saved_model.pb").write_bytes(b"")


def remove_model(folder):
    (folder / "saved_model.pb").unlink()


@pytest.mark.parametrize(
    "damage",
    [cut_variables, cut_index, remove_variables, scramble_model, cut_model, empty_model, remove_model],
)
def test_damaged_model_is_refused(damaged, damage):
    damage(damaged)
    assert_refused(build_generator(TINY), damaged, "is damaged, its SavedModel cannot be read")


@pytest.mark.parametrize("content", ["", "{", "\ud800"])
def test_damaged_manifest_is_refused(damaged, content):
    (damaged / "manifest.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    assert_refused(build_generator(TINY), damaged, "manifest.json is missing or damaged")


@pytest.mark.parametrize("pattern", ["*.data-*", "*.index"])
def test_damaged_checkpoint_is_refused(generator, tmp_path, pattern):
    Checkpoints({"generator": generator}, tmp_path).save(1, [])
    [path] = tmp_path.glob(pattern)
    path.write_bytes(path.read_bytes()[:100])
    assert_refused(build_generator(TINY), tmp_path, "ckpt-1 is damaged, its weights cannot be read")


@pytest.mark.parametrize("name", ["m [x]", "a*b?"])
def test_folders_of_any_name_are_read(generator, exported, tmp_path, name):
    shutil.copytree(exported, tmp_path / name / "1")
    Checkpoints({"generator": generator}, tmp_path / name).save(1, [])
    for folder in (tmp_path / name, tmp_path / name / "1"):
        network = build_generator(TINY)
        load_weights(network, folder)
        assert_equal_weights(network, generator)


def test_fine_tuning_in_ones_own_keras_code_as_documented(saved_models, tmp_path, monkeypatch):
    documented = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
    [code] = re.findall(r"## Fine-tuning .*?```python\n(.*?)```", documented, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "blind", dataclasses.replace(PRESETS["blind"], generator=TINY))
    monkeypatch.setattr(model_folder, "PUBLISHED", saved_models)
    clean = np.random.default_rng(0).random([2, 32, 32, 3], np.float32)
    degraded = np.clip(clean + 0.1, 0, 1)
    before = build_generator(TINY)
    load_weights(before, find_exports(saved_models)[FAITHFUL])
    names = {"batches": tf.data.Dataset.from_tensors((degraded, clean)).repeat(3)}
    exec(code, names)
    tuned = names["generator"]
    loss = [float(np.mean((network(degraded) - clean) ** 2)) for network in (before, tuned)]
    assert 0 < loss[1] < loss[0]
    again = keras.models.load_model("tuned.keras")
    np.testing.assert_array_equal(again(degraded), tuned(degraded))
    again.fit(names["batches"], verbose=0)  # its optimizer came back, too
    restored = TensorFlowEngine(find_exports(tmp_path / "tuned")[FAITHFUL], "float32")(degraded)
    np.testing.assert_allclose(restored, np.clip(tuned(degraded), 0, 1), atol=1e-5)
