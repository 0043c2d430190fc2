import contextlib
import functools
import io
import json
import zipfile

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.tools import flatbuffer_utils

from artifact_remover import Restorer, export, layers
from artifact_remover.config import GeneratorConfig
from artifact_remover.export import describe, load_export, main
from artifact_remover.options import SUFFIXES
from artifact_remover.saved_model import export_generator
from artifact_remover.tensorflow_engine import TensorFlowEngine
from tests.tiny_models import make_generator

# Folds 4x4 pixels at its coarsest.
CONFIG = GeneratorConfig(features=4, growth=4, blocks=1, finer=(4,), residual_blocks=(1,))
SHAPES = [(1, 1), (1, 16), (3, 2), (7, 9), (16, 16), (33, 65), (128, 128), (333, 517), (20, 30, 3)]
MANIFEST = {
    "stage": "pretrain_generator",
    "versions": {"artifact_remover": "1.2.3"},
    "license": "CC0-1.0",
    "data": {"photographs": "9 of the neighbor's cat", "licenses": "CC-BY 4.0"},
    "overlap": 64,
}
ABOUT = {
    "name": "JPEG artifact remover, faithful",
    "description": describe([MANIFEST])["description"],
    "version": "1.2.3",
    "license": "CC0-1.0",
    "training_data": "photographs: 9 of the neighbor's cat",
    "training_data_license": "CC-BY 4.0",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for seed, (model, stage) in enumerate({"pretrain_generator": "pretrain_generator", "gan": "train_gan"}.items()):
        export_generator(make_generator(seed, CONFIG), CONFIG, folder / model / "1", MANIFEST | {"stage": stage})
    return folder


@pytest.fixture(scope="module")
def restore(model):
    return TensorFlowEngine(model / "pretrain_generator" / "1", "float32")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """The faithful model's export of each format, made when it is first asked for, and what the command printed."""
    folder = tmp_path_factory.mktemp("exported") / "new"

    @functools.cache
    def make(kind):
        file = folder / f"denoise-jpeg{SUFFIXES[kind]}"
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main([str(model), "-o", str(file)]) == 0  # makes the folder
        return file, printed.getvalue()

    return make


def read_files(file):
    """The contents of an export's files, in the order in which they are written."""
    files = [file.with_suffix(".bin"), file] if file.suffix == ".xml" else [file]
    return [each.read_bytes() for each in files]


def make_pictures(height, width, count=1):
    return np.random.default_rng(height).random((count, height, width, 3), np.float32)


def differ(one, other):
    """The largest difference of two results, in 8-bit levels."""
    assert one.shape == other.shape and one.dtype == other.dtype == np.float32
    return 255 * np.abs(one - other).max()


@pytest.mark.parametrize("kind", SUFFIXES)
def test_an_export_restores_as_the_model_does_at_every_size(kind, exported, restore):
    file, printed = exported(kind)
    assert printed.startswith(f"{file}: 0.") and " dB, at most 0.000" in printed and printed.count("\n") == 1
    restore_there = load_export(kind, read_files(file))
    for shape in SHAPES if kind != "dtmodel" else [(768, 768)]:
        pictures = make_pictures(*shape)
        assert differ(restore_there(pictures), restore(pictures)) < 1e-3, shape


def test_float16_halves_the_weights(model, exported, restore, tmp_path):
    file = tmp_path / "jpeg.tflite"
    assert main([str(model), "-o", str(file), "--format", "litert", "--precision", "float16"]) == 0
    pictures = make_pictures(33, 65)
    assert 1e-3 < differ(load_export("litert", read_files(file))(pictures), restore(pictures)) < 0.25
    assert file.stat().st_size < 0.8 * exported("litert")[0].stat().st_size


def test_onnx_is_what_chainner_and_darktable_take(exported):
    file, _ = exported("onnx")
    session = onnxruntime.InferenceSession(file)
    [taken], [given] = session.get_inputs(), session.get_outputs()
    assert (taken.name, given.name) == ("input", "output")
    assert taken.shape == given.shape == ["batch", 3, "height", "width"]
    assert taken.type == given.type == "tensor(float)"
    assert session.get_modelmeta().custom_metadata_map == ABOUT
    # No layout is changed at the edges: the picture and the network's correction of it are added as they come.
    model = onnx.load(file)
    [last] = [node for node in model.graph.node if "output" in node.output]
    assert last.op_type != "Transpose"
    assert "Add" in [node.op_type for node in model.graph.node if "input" in node.input]
    # From this chaiNNer learns that the picture keeps its size.
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = 16
    [given] = onnx.shape_inference.infer_shapes(model).graph.output
    assert [each.dim_value for each in given.type.tensor_type.shape.dim[1:]] == [3, 16, 16]


def test_a_litert_file_tells_what_it_is(exported):
    content = exported("litert")[0].read_bytes()
    told = flatbuffer_utils.convert_bytearray_to_object(bytearray(content)).description
    assert json.loads(told) == ABOUT
    signatures = Interpreter(model_content=content).get_signature_list()
    assert signatures == {"serving_default": {"inputs": ["input"], "outputs": ["output"]}}


def test_an_openvino_file_tells_what_it_is(exported):
    served = openvino.Core().read_model(exported("openvino")[0])
    assert {name: served.get_rt_info(["artifact_remover", name]).astype(str) for name in ABOUT} == ABOUT
    assert str(served.input("input").partial_shape) == str(served.output("output").partial_shape) == "[?,3,?,?]"


def test_a_dtmodel_is_laid_out_as_darktable_wants(exported):
    with zipfile.ZipFile(exported("dtmodel")[0]) as archive:
        assert archive.namelist() == ["denoise-jpeg/config.json", "denoise-jpeg/model.onnx"]
        config = json.loads(archive.read("denoise-jpeg/config.json"))
        session = onnxruntime.InferenceSession(archive.read("denoise-jpeg/model.onnx"))
    assert [each.shape for each in (*session.get_inputs(), *session.get_outputs())] == [[1, 3, 768, 768]] * 2
    card = config.pop("model_card")
    assert config == {
        "id": "denoise-jpeg",
        "name": ABOUT["name"],
        "description": "Removes JPEG artifacts",
        "task": "denoise",
        "backend": "onnx",
        "version": "1.2.3",
        "tiling": True,
        "attributes": {"input_sizes": [768]},
    }
    assert {name: card[name] for name in ("license", "training_data", "training_data_license")}.items() <= ABOUT.items()


def test_a_blend_is_exported_as_it_restores(model, tmp_path):
    file = tmp_path / "jpeg.tflite"
    assert main([str(model), "-o", str(file), "--blend", "0.3"]) == 0
    pixels = np.round(make_pictures(40, 50)[0] * 65535).astype(np.uint16)
    expected = Restorer.load(model, blend=0.3, precision="float32").restore(pixels)
    [found] = load_export("litert", read_files(file))(pixels[np.newaxis].astype(np.float32) / 65535)
    assert np.abs(found * 65535 - expected).max() < 1
    assert describe([MANIFEST, MANIFEST], 0.3) == ABOUT | {"name": "JPEG artifact remover, blend 0.3"}


def test_of_two_models_all_data_are_told():
    other = MANIFEST | {"license": "MIT", "data": {"name": "dogs", "photographs": {"train": 3}}, "stage": "train_gan"}
    both = describe([MANIFEST, other], 0.5)
    assert both["license"] == "CC0-1.0 and MIT" and both["training_data_license"] == "CC-BY 4.0"
    assert both["training_data"].endswith(" cat and name: dogs; photographs: {'train': 3}")
    assert describe([other])["name"] == "JPEG artifact remover, perceptual"
    assert describe([{}]).keys() == {"name", "description"}


def refused(capsys, *arguments):
    """The line that a command is refused with."""
    try:
        code = main([str(each) for each in arguments])
    except SystemExit as leaving:
        code = leaving.code
    printed = capsys.readouterr()
    assert code == 2 and printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


def test_what_the_converter_gets_wrong_is_not_written(model, tmp_path, monkeypatch, capsys):
    # As layers.py had it, which tf2onnx translates to another number.
    def mirror(image, axis, multiple):
        length = layers.ops.shape(image)[axis]
        index = layers.ops.arange(-(-length // multiple) * multiple) % (2 * length)
        return layers.ops.take(image, layers.ops.minimum(index, 2 * length - 1 - index), axis=axis)

    monkeypatch.setattr(layers, "_mirror", mirror)
    assert "jpeg.onnx cannot be run, nothing is written" in refused(capsys, model, "-o", tmp_path / "jpeg.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_restores_otherwise_is_not_written(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "load_export", lambda *made: lambda pictures: load_export(*made)(pictures) + 0.5 / 255)
    said = refused(capsys, model, "-o", tmp_path / "jpeg.dtmodel")
    assert "otherwise than the model does, nothing is written: 54.2 dB where 60 are wanted" in said
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced_unasked(model, tmp_path, capsys):
    (tmp_path / "jpeg.bin").write_bytes(b"kept")
    said = refused(capsys, model, "-o", tmp_path / "jpeg.xml")
    assert "jpeg.bin exists, --overwrite replaces it" in said
    assert [file.name for file in tmp_path.iterdir()] == ["jpeg.bin"]
    assert (tmp_path / "jpeg.bin").read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "jpeg.pt"], "--output must end in .onnx or .tflite or .xml or .dtmodel: jpeg.pt"),
        (["-o", "jpeg.onnx", "--format", "litert"], "--output must end in .tflite: jpeg.onnx"),
        (["-o", "jpeg.onnx", "--precision", "float16"], "--precision float16 goes with litert and openvino"),
        (["-o", "jpeg.onnx", "--blend", "1.5"], "--blend must lie in 0..1"),
        (["-o", "...dtmodel"], "darktable takes the file's name for the model's"),
        (["-o", "/dev/null/jpeg.onnx"], "cannot write /dev/null/jpeg.onnx: give a file in a folder"),
        (["-o", "jpeg.onnx", "gone"], "gone holds no model"),
        (["-o", "jpeg.onnx", "MODEL/gan", "--blend", "1"], "holds no pretrain_generator, and --blend mixes both"),
        ([], "--output"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments, said, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, *(each.replace("MODEL", str(model)) for each in arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_discriminator_is_refused(saved_models, tmp_path, capsys):
    said = refused(capsys, saved_models / "pretrain_discriminator", "-o", tmp_path / "new" / "jpeg.onnx")
    assert "restores nothing, it is a discriminator" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_missing_package_is_told(kind, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    said = refused(capsys, model, "-o", tmp_path / f"jpeg{SUFFIXES[kind]}")
    assert "is not installed: pip install 'artifact-remover[export]'" in said


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain_generator", "gan"])
@pytest.mark.parametrize("kind", SUFFIXES)
def test_the_published_models_are_exported(kind, stage, tmp_path):
    from artifact_remover.model_folder import PUBLISHED

    file = tmp_path / f"jpeg{SUFFIXES[kind]}"
    assert main([str(PUBLISHED / stage), "-o", str(file)]) == 0
    restore = TensorFlowEngine(PUBLISHED / stage / "1", "float32")
    restore_there = load_export(kind, read_files(file))
    for shape in SHAPES if kind != "dtmodel" else [(768, 768)]:
        pictures = make_pictures(*shape)
        assert differ(restore_there(pictures), restore(pictures)) < 1e-2, shape
