import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from skimage import data as skimage_data

from artifact_remover import engines, openvino_engine, precision
from artifact_remover.engines import choose_engine, load_engine
from artifact_remover.judging.metrics import psnr
from artifact_remover.model_folder import FAITHFUL, PERCEPTUAL, PUBLISHED, find_exports
from artifact_remover.openvino_engine import INT8, OpenVinoEngine
from artifact_remover.restoration import Restorer
from artifact_remover.tensorflow_engine import TensorFlowEngine
from data_prep.drawing import draw_graphic
from data_prep.errors import InputError
from data_prep.sources import decode
from tests.sample_pictures import to_jpeg

LEVEL = 1 / 255
both = pytest.mark.parametrize("engine", ["tensorflow", "openvino"])


@pytest.fixture(scope="module")
def export(saved_models):
    """A tiny generator's."""
    return saved_models / "pretrain_generator" / "1"


@pytest.fixture(scope="module")
def published():
    """The published generator with each engine, in float32."""
    export = find_exports(PUBLISHED)[FAITHFUL]
    return TensorFlowEngine(export, "float32"), OpenVinoEngine(export, "float32")


def noise(*shape):
    return np.random.default_rng(0).random((*shape, 3), np.float32)


def photograph(rows, columns):
    return skimage_data.coffee()[np.newaxis, :rows, :columns] / np.float32(255)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 7, 9), (1, 33, 65), (1, 64, 1), (1, 333, 517)])
def test_both_engines_restore_the_same(published, shape):
    by_tensorflow, by_openvino = (engine(noise(*shape)) for engine in published)
    assert by_openvino.shape == by_tensorflow.shape == (*shape, 3)
    assert np.abs(by_openvino - by_tensorflow).max() < 0.1 * LEVEL
    assert np.abs(by_tensorflow - noise(*shape)).max() > 5 * LEVEL or shape == (1, 1, 1)


@both
def test_weights_can_be_changed(export, engine):
    engine = load_engine(engine, export, "float32")
    before = engine(noise(1, 40, 40))
    weights = {name: np.array(weight) for name, weight in engine.read_weights().items()}
    engine.set_weights({name: 0 * weight for name, weight in weights.items()})
    np.testing.assert_array_equal(engine(noise(1, 40, 40)), noise(1, 40, 40))
    engine.set_weights(weights)
    np.testing.assert_array_equal(engine(noise(1, 40, 40)), before)


@both
def test_discriminator_is_no_generator(saved_models, engine):
    with pytest.raises(InputError, match="restores nothing, it is a discriminator"):
        load_engine(engine, saved_models / "pretrain_discriminator" / "1", "float32")


@both
@pytest.mark.parametrize("name", ["m [x]", "a*b?", "\u00e9\u4e2d"])
def test_folders_of_any_name_are_read(export, tmp_path, engine, name):
    shutil.copytree(export, tmp_path / name)
    restored = load_engine(engine, tmp_path / name, "float32")(noise(1, 40, 40))
    np.testing.assert_array_equal(restored, load_engine(engine, export, "float32")(noise(1, 40, 40)))


@both
@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index", "variables/*.data-*"])
@pytest.mark.parametrize("damage", ["cut", "removed", "flipped"])
def test_damaged_model_is_refused(export, tmp_path, engine, file, damage):
    shutil.copytree(export, tmp_path / "1")
    [file] = (tmp_path / "1").glob(file)
    if damage == "flipped":
        if file.suffix == ".pb":
            pytest.skip("neither engine notices that")
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 255
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    with pytest.raises(InputError, match="is damaged, its SavedModel cannot be read: use another export"):
        load_engine(engine, tmp_path / "1", "float32")


@both
def test_what_is_no_export_is_refused(tmp_path, engine):
    with pytest.raises(InputError, match="is not an export of this project"):
        load_engine(engine, tmp_path, "float32")


# TensorFlow


def test_rewriting_to_bfloat16_ends_with_the_call(export):
    TensorFlowEngine(export, "bfloat16")(noise(1, 8, 8))
    assert not tf.config.optimizer.get_experimental_options().get("auto_mixed_precision_onednn_bfloat16")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"), MemoryError),
        (tf.errors.AbortedError(None, None, "Operation aborted: could not create a primitive"), MemoryError),
        (tf.errors.AbortedError(None, None, "the session was closed"), tf.errors.AbortedError),
    ],
)
def test_tensorflow_and_onednn_short_of_memory_raise_pythons_own_error(export, error, raised):
    engine = TensorFlowEngine(export, "float32")

    def fail(**_):
        raise error

    engine._restore = fail
    with pytest.raises(raised):
        engine(noise(1, 8, 8))


# OpenVINO


@pytest.mark.parametrize("name", ["float32", "int8"])
def test_a_result_depends_on_nothing_that_was_restored_before(name, monkeypatch):
    monkeypatch.setattr(openvino_engine, "_WORTH_COMPILING", 10_000)
    engine = OpenVinoEngine(find_exports(PUBLISHED)[FAITHFUL], name)
    small, large, other = (photograph(rows, columns) for rows, columns in ((64, 96), (128, 112), (144, 96)))
    first = [engine(picture) for picture in (small, large)]
    assert engine._shape == large.shape and engine._for_any
    engine(other)
    assert engine._shape == other.shape
    for picture, before in zip((small, large), first, strict=True):
        np.testing.assert_array_equal(engine(picture), before)


def test_a_signal_after_engines_have_ended_is_no_crash(export):
    code = """
import gc, signal, sys
from pathlib import Path
import numpy as np
from artifact_remover.openvino_engine import OpenVinoEngine
signal.signal(signal.SIGUSR1, lambda *_: print("noticed"))
engines = [OpenVinoEngine(Path(sys.argv[1]), "float32") for _ in range(3)]
for engine in engines:
    engine(np.zeros([1, 8, 8, 3], np.float32))
while engines:
    del engines[0], engine
    engine = None
    gc.collect()
signal.raise_signal(signal.SIGUSR1)
"""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, str(export)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "noticed\n"), done.stderr


# Slow: under such a limit OpenVINO sometimes stands still for minutes.
@pytest.mark.slow
def test_tiles_are_halved_when_openvino_runs_out_of_memory():
    code = """
import re, resource, sys
from pathlib import Path
import numpy as np
from artifact_remover import Restorer
tile = 1280
restorer = Restorer.load(engine="openvino", precision="float32", tile=tile)
pixels = np.random.default_rng(0).integers(0, 255, (1280, 1280, 3), np.uint8)
restorer.restore(pixels[:640, :640])
used = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000,) * 2)
steps = []
restorer.restore(pixels, progress=steps.append)
assert sum(steps) == 1280 * 1280 and len(steps) > 1 and restorer._tile < 1280, steps
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_threads_are_as_many_as_the_environment_says(export, monkeypatch):
    for given in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        engine = OpenVinoEngine(export, "float32")
        engine(noise(1, 8, 8))
        assert engine._for_any.get_property("INFERENCE_NUM_THREADS") == int(given)


def test_restoring_with_openvino_loads_no_tensorflow(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(to_jpeg(skimage_data.coffee()[:64, :96]))
    code = """
import sys
from artifact_remover import restore
assert restore.main(["photo.jpg", "--engine", "openvino"]) == 0
assert not {"tensorflow", "keras", "scipy", "skimage", "albumentations", "pandas"} & sys.modules.keys()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, env=_with_our_path()
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "photo_restored.png").exists()


def _with_our_path():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


# int8


@pytest.fixture(scope="module", params=[FAITHFUL, PERCEPTUAL])
def quantized(request):
    """A published generator that has been quantized."""
    return find_exports(PUBLISHED)[request.param]


@pytest.fixture(scope="module")
def in_float(quantized):
    return OpenVinoEngine(quantized, "bfloat16")  # float32 where there is none


@pytest.fixture(scope="module")
def in_float32(quantized):
    return OpenVinoEngine(quantized, "float32")


@pytest.fixture(scope="module")
def in_int8(quantized):
    return OpenVinoEngine(quantized, "int8")


@pytest.mark.parametrize("quality", [10, 50, 80])
def test_int8_restores_photographs_as_well_and_graphics_hardly_less(in_float32, in_int8, quality):
    engines = {"float32": in_float32, "int8": in_int8}
    cut, graphics = skimage_data.coffee()[:256, :256], draw_graphic(np.random.default_rng(0), 256, "text")
    for picture, least_gain, most_lost in ((cut, 0.3, 0.05), (graphics, 0.5, 0.2)):
        jpeg = decode(to_jpeg(picture, quality)).numpy()
        clean, jpeg = (each[np.newaxis] / np.float32(255) for each in (picture, jpeg))
        gains = {name: float(psnr(clean, each(jpeg))[0] - psnr(clean, jpeg)[0]) for name, each in engines.items()}
        assert gains["float32"] > least_gain and gains["int8"] > gains["float32"] - most_lost, gains


@pytest.fixture
def dithered():
    """A JPEG of a photograph that was dithered to black and white, whose values leave the ranges of int8."""
    clean = np.array(Image.fromarray(skimage_data.coffee()[:128, :192]).convert("1").convert("RGB"))
    return decode(to_jpeg(clean, 90)).numpy()[np.newaxis] / np.float32(255)


def test_what_int8_would_clip_is_restored_in_float(in_float, in_int8, dithered):
    restored = in_int8(np.concatenate([photograph(128, 192), dithered]))
    assert not np.array_equal(restored[:1], in_float(photograph(128, 192)))
    np.testing.assert_array_equal(restored[1:], in_float(dithered))


def test_a_large_picture_in_float_leaves_no_other_model_in_memory(quantized, dithered, monkeypatch):
    monkeypatch.setattr(openvino_engine, "_WORTH_COMPILING", 10_000)
    engine = OpenVinoEngine(quantized, "int8")
    first = engine(dithered)
    assert engine._shape is engine._in_float._shape is None
    np.testing.assert_array_equal(engine(dithered), first)


def test_int8_is_refused_where_it_cannot_be_had(export, quantized, tmp_path):
    with pytest.raises(InputError, match=r"/1 has no model in int8: choose another precision$"):
        load_engine("openvino", export, "int8")
    with pytest.raises(InputError, match="^precision int8 needs engine openvino$"):
        load_engine("tensorflow", quantized, "int8")
    with pytest.raises(InputError, match="^a model in int8 cannot be blended with another: choose another precision$"):
        Restorer.load(blend=0.5, engine="openvino", precision="int8")
    for suffix in (".bin", ".xml"):
        for name in (INT8, "openvino_int8.bin", "manifest.json"):
            shutil.copy(quantized / name, tmp_path)
        damaged = (tmp_path / INT8).with_suffix(suffix)
        content = bytearray(damaged.read_bytes())
        content[5000] ^= 1
        damaged.write_bytes(content)
        with pytest.raises(InputError, match="is damaged, its openvino_int8.xml cannot be read: use another export"):
            load_engine("openvino", tmp_path, "int8")


# The choice


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with or without OpenVINO, a GPU's driver, and a GPU that TensorFlow can use."""

    def machine(openvino, driver, gpu):
        monkeypatch.setattr(engines, "_has_openvino", lambda: openvino)
        monkeypatch.setattr(precision, "_GPU_DRIVERS", [tmp_path if driver else tmp_path / "none"])
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["gpu"] if gpu else [])

    return machine


@pytest.mark.parametrize(
    ("openvino", "driver", "gpu", "chosen"),
    [
        (True, False, False, "openvino"),
        (True, True, False, "openvino"),
        (True, True, True, "tensorflow"),
        (True, False, True, "openvino"),  # TensorFlow is not even loaded
        (False, False, False, "tensorflow"),
    ],
)
def test_auto_takes_openvino_unless_tensorflow_has_a_gpu(machine, openvino, driver, gpu, chosen):
    machine(openvino, driver, gpu)
    assert choose_engine("auto") == chosen
    assert choose_engine("tensorflow") == "tensorflow"


def test_openvino_that_is_not_installed_is_one_clear_line(machine):
    machine(openvino=False, driver=False, gpu=False)
    with pytest.raises(
        InputError, match=r"^engine openvino needs another package: pip install 'artifact-remover\[fast\]'$"
    ):
        choose_engine("openvino")


def test_what_the_processor_is_fast_at_is_chosen(export, quantized, monkeypatch, tmp_path):
    has_bfloat16 = bool(re.search("avx512_bf16|amx_bf16", Path("/proc/cpuinfo").read_text()))
    in_float = "bfloat16" if has_bfloat16 else "float32"
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "cpuinfo")
    for flags, chosen in {"fma avx_vnni": "int8", "avx512f avx512_vnni": "int8", "fma avx2": in_float}.items():
        (tmp_path / "cpuinfo").write_text(f"flags : fpu {flags} ssse3\n")
        assert OpenVinoEngine(quantized, "auto").precision == chosen
        assert OpenVinoEngine(quantized, "auto", to_blend=True).precision == in_float
        assert OpenVinoEngine(export, "auto").precision == in_float
        assert TensorFlowEngine(quantized, "auto").precision == "float32"
    (tmp_path / "cpuinfo").unlink()
    assert OpenVinoEngine(quantized, "auto").precision == in_float
