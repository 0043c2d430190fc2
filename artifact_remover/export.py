"""Writes a model for other programs: ONNX, LiteRT, OpenVINO and darktable.

python -m artifact_remover.export [MODEL] -o FILE [OPTIONS]

The file is tried on a photograph first, and nothing is written where it restores otherwise than the model itself.
"""

import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from artifact_remover.engines import load_engine
from artifact_remover.model_folder import KINDS, choose_exports, read_manifest, read_model
from artifact_remover.options import SUFFIXES, ExportConfig, ExportFormat
from data_prep.command_line import parse_options, run_command, say
from data_prep.errors import InputError, Option
from data_prep.files import open_whole
from data_prep.quiet import quiet_keras

_LEAST_PSNR = 60.0  # dB, of what is written beside the model itself: both differ by a quarter of a level then
_OPSET = 17  # of ONNX; ONNX Runtime reads it since 1.12, of 2022
_DIMENSIONS = ("batch", None, "height", "width")

_DARKTABLE_SIDE = 768  # pixels; of darktable's own denoise models


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Instead of the process's own.

    Returns:
        Exit code: 0 if all is well, 2 for a mistake of the user's, 130 if the user stopped it.
    """
    config = parse_options(ExportConfig, arguments, prog="python -m artifact_remover.export", description=__doc__)
    return run_command(lambda: export(config), stopped="stopped, nothing is written")


def export(config: ExportConfig) -> None:
    """Converts a model, tries what came out on a photograph, and writes it.

    Raises:
        InputError: For a mistake of the user's, or if the photograph comes out otherwise; nothing is written then.
    """
    chosen = [each for each in choose_exports(config.model, config.blend) if each]
    _require_packages(config.kind)
    targets = [config.output.with_suffix(suffix) for suffix in _list_suffixes(config.kind)]
    _prepare(targets, config.overwrite)
    with quiet_keras():
        # Imported here and below, not at the top, so that `--help` answers at once.
        from artifact_remover.restoration import Mixture
        from artifact_remover.saved_model import rebuild_generator

        restore = load_engine("tensorflow", chosen[0], "float32")
        if config.blend is not None:
            Mixture(restore, load_engine("tensorflow", chosen[1], "float32"), *chosen).mix(config.blend)
        network = rebuild_generator(restore.read_weights())
        contents = _convert(network, config, [read_manifest(each) for each in chosen])
        picture = _make_jpeg(config.kind)
        expected = restore(picture)
        try:
            found = load_export(config.kind, contents)(picture)
        except Exception as error:  # each library has its own
            raise InputError(f"{config.output} cannot be run, nothing is written: {error}") from error
    decibels = _psnr(expected, found)
    if not decibels >= _LEAST_PSNR:  # nor where it is no number
        raise InputError(
            f"{config.output} would restore a photograph otherwise than the model does, nothing is written: "
            f"{decibels:.1f} dB where {_LEAST_PSNR:.0f} are wanted"
        )
    _write(targets, contents, config.overwrite)
    levels = 255 * np.abs(expected - found).max()
    say(
        f"{config.output}: {sum(map(len, contents)) / 1e6:.1f} MB; beside the model on a JPEG of quality 10, "
        f"{picture.shape[2]}x{picture.shape[1]}: {decibels:.1f} dB, at most {levels:.4f} levels of 255 apart"
    )


def describe(manifests: list[dict], blend: float | None = None) -> dict[str, str]:
    """Describes a model for whoever finds its file: what it is, its license, and what it was trained on.

    Args:
        manifests: Of the export; of the faithful and the perceptual one where two are blended.
        blend: By how much.

    Returns:
        Texts by name; what no manifest says is missing.
    """
    kind = KINDS[read_model(manifests[0])]
    about = {
        "name": f"JPEG artifact remover, {kind if blend is None else f'blend {blend:g}'}",
        "description": "Restores pictures that were JPEGs. RGB in [0, 1] in and out, of the same size; "
        "the first pixel at the corner of an 8x8 block of the JPEG.",
    }
    told = {
        "version": [each.get("versions", {}).get("artifact_remover") for each in manifests],
        "license": [each.get("license") for each in manifests],
        "training_data": [_tell_data(each.get("data", {})) for each in manifests],
        "training_data_license": [each.get("data", {}).get("licenses") for each in manifests],
    }
    return about | {name: _join(texts) for name, texts in told.items() if any(texts)}


def pack_for_darktable(onnx_model: bytes, name: str, about: dict[str, str]) -> bytes:
    """Packs a model as darktable's denoise module installs it.

    https://github.com/andriiryzhkov/darktable-ai-sdk/blob/main/docs/dtmodel-format.md

    Args:
        onnx_model: Float32 [1, 3, 768, 768] to the same.
        name: Of the file without its suffix, which is the model's id and the folder's name inside.
        about: From `describe`.
    """
    card = {
        "long_description": f"{about['description']} So it is for JPEGs that the edits before it leave unturned, "
        "unscaled and uncropped.",
        "scope": "removal of JPEG artifacts",
        # src/common/ai/restore.c: what lies beyond the border is mirrored about the outermost pixel, off the blocks.
        "notes": "Tiles overlap by 64 pixels in darktable, less than the model sees: seams and the picture's border "
        "may come out a little otherwise than artifact-remover restores them.",
    }
    card |= {key: about[key] for key in ("license", "training_data", "training_data_license") if key in about}
    config = {
        "id": name,
        "name": about["name"],
        "description": "Removes JPEG artifacts",
        "task": "denoise",
        "backend": "onnx",
        "version": about.get("version", "1.0"),
        "tiling": True,
        "model_card": card,
        "attributes": {"input_sizes": [_DARKTABLE_SIDE]},
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}/config.json", json.dumps(config, ensure_ascii=False, indent=4) + "\n")
        archive.writestr(f"{name}/model.onnx", onnx_model)
    return file.getvalue()


def load_export(kind: ExportFormat, contents: list[bytes]) -> Callable[[np.ndarray], np.ndarray]:
    """Loads an export into the library that other programs run it with.

    Args:
        kind: Its format.
        contents: Of its files, in the order in which they are written.

    Returns:
        A function from float32 [N, H, W, 3] in [0, 1] to the same; of a dtmodel, from [1, 768, 768, 3].
    """
    if kind == "litert":
        from ai_edge_litert.interpreter import Interpreter

        restore = Interpreter(model_content=contents[0]).get_signature_runner()
        return lambda pictures: restore(input=pictures)["output"]
    if kind == "openvino":
        from artifact_remover.openvino_engine import open_core

        core = open_core()
        # Or it would compute in bfloat16 on a processor that is fast at it.
        in_float32 = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(contents[1], contents[0]), "CPU", in_float32)
        return lambda pictures: compiled(_to_planes(pictures))[0].transpose(0, 2, 3, 1)
    import onnxruntime

    model = contents[0]
    if kind == "dtmodel":
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            model = archive.read(archive.namelist()[-1])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(["output"], {"input": _to_planes(pictures)})[0].transpose(0, 2, 3, 1)


def _convert(network, config, manifests):
    """The contents of the files of a format, in the order in which they are written."""
    about = describe(manifests, config.blend)
    in_float16 = config.precision == "float16"
    if config.kind == "litert":
        return [_to_litert(network, about, in_float16)]
    if config.kind == "openvino":
        return _to_openvino(_to_onnx(network, about), about, in_float16)
    if config.kind == "onnx":
        return [_to_onnx(network, about)]
    return [pack_for_darktable(_to_onnx(network, about, _DARKTABLE_SIDE), config.output.stem, about)]


def _to_onnx(network, about, side=None):
    """An ONNX model, float32 [N, 3, H, W] to the same, of any size or of one size for one picture."""
    import onnx
    import tf2onnx

    restore = _trace(network, side)
    model, _ = tf2onnx.convert.from_function(
        restore, restore.input_signature, opset=_OPSET, inputs_as_nchw=["input"], outputs_as_nchw=["output"]
    )
    for value in (*model.graph.input, *model.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, _DIMENSIONS, strict=True):
            if name and not dimension.dim_value:
                dimension.dim_param = name
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _to_litert(network, about, in_float16):
    """A LiteRT model, float32 [N, H, W, 3] to the same, of any size."""
    import tensorflow as tf
    from tensorflow.lite.tools import flatbuffer_utils

    holder = tf.Module()  # the converter finds the weights that a module holds, and none of a Keras model
    holder.weights = [weight.value for weight in network.weights]
    converter = tf.lite.TFLiteConverter.from_concrete_functions([_trace(network).get_concrete_function()], holder)
    if in_float16:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    model = flatbuffer_utils.convert_bytearray_to_object(converter.convert())
    model.description = json.dumps(about, ensure_ascii=False)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _to_openvino(onnx_model, about, in_float16):
    """OpenVINO's two files, weights and graph, of float32 [N, 3, H, W] to the same, of any size."""
    import openvino

    from artifact_remover.openvino_engine import open_core

    model = open_core().read_model(onnx_model)
    for name, text in about.items():
        model.set_rt_info(text, ["artifact_remover", name])
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.xml"
        openvino.save_model(model, graph, compress_to_fp16=in_float16)
        return [graph.with_suffix(suffix).read_bytes() for suffix in _list_suffixes("openvino")]


def _trace(network, side=None):
    """The computation of an export's `serving_default` as a function of `input`, for pictures of one size or any."""
    import tensorflow as tf

    batch = 1 if side else None

    @tf.function(input_signature=[tf.TensorSpec([batch, side, side, 3], tf.float32, name="input")])
    def restore(pictures):
        return {"output": tf.clip_by_value(network(pictures, training=False), 0.0, 1.0)}

    return restore


def _make_jpeg(kind):
    """A photograph as a JPEG of quality 10, float32 [1, H, W, 3] in [0, 1]; of uneven sides where they may be."""
    from skimage.data import coffee

    from data_prep.config import DegradationConfig
    from data_prep.degradation import degrade

    photograph = np.pad(coffee(), ((0, 368), (0, 168), (0, 0)), "reflect")[np.newaxis]
    jpeg = degrade(photograph, 0, DegradationConfig(quality="10"))[0].numpy()
    return (jpeg if kind == "dtmodel" else jpeg[:, :333, :517]).astype(np.float32) / 255


def _to_planes(pictures):
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))


def _psnr(expected, found):
    return -10 * np.log10(np.mean(np.square(expected - found, dtype=np.float64)) or 1e-30)


def _list_suffixes(kind):
    """Suffixes of the files of a format, that of what is opened last, so that it is never there alone."""
    return [".bin", ".xml"] if kind == "openvino" else [SUFFIXES[kind]]


def _prepare(targets, overwrite):
    """Refuses, before time is spent, what could not be written."""
    for target in targets:
        if os.path.lexists(target) and not overwrite:
            raise InputError(f"{target} exists, ", Option("overwrite"), " replaces it")
    # The folder itself is made when there is something to write.
    existing = next(each for each in targets[0].absolute().parents if os.path.exists(each))
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    if not writable or any(map(os.path.isdir, targets)):
        raise InputError(
            f"cannot write {targets[-1]}: give a file in a folder that may be written to as ", Option("output")
        )


def _write(targets, contents, overwrite):
    try:
        targets[0].parent.mkdir(parents=True, exist_ok=True)
        for target, content in zip(targets, contents, strict=True):
            with open_whole(target, replace=overwrite) as writing:
                writing.write(content)
    except OSError as error:
        raise InputError(f"cannot write {targets[-1]}: {error.strerror}") from error


def _require_packages(kind):
    """Refuses, before TensorFlow is loaded, a format whose packages are missing."""
    wanted = ["ai_edge_litert"] if kind == "litert" else ["tf2onnx", "onnx", "onnxruntime"]
    if kind == "openvino":
        wanted.append("openvino")
    for name in wanted:
        if not find_spec(name):
            raise InputError(
                f"{name} is not installed: pip install 'artifact-remover[export]', in a checkout "
                "pip install -e '.[export]'"
            )


def _tell_data(data):
    return "; ".join(f"{name}: {value}" for name, value in data.items() if name != "licenses")


def _join(texts):
    """Joins the texts that there are, each once."""
    return " and ".join(dict.fromkeys(text for text in texts if text))


if __name__ == "__main__":
    sys.exit(main())
