"""The exports in TF Serving: what can be tested without it, and all of it where it is installed."""

import base64
import io
import json
import pickle
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import requests
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from skimage import data as skimage_data
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from artifact_remover.model_folder import PUBLISHED
from artifact_remover.pictures.picture import decode_picture
from artifact_remover.restoration import Restorer
from artifact_remover.saved_model_warm_up import WARM_UP_FILE
from artifact_remover.tf_serving_client import RemoteRestorer
from tests.model_server import ServedModel, serve_rest
from tests.sample_pictures import levels, to_jpeg

ROOT = Path(__file__).parents[1]
LIBRARY = Path(tf.sysconfig.get_lib()) / "libtensorflow_cc.so.2"
PHOTO = skimage_data.coffee()[:75, :97]


def read_signatures(export):
    """The tensors of each signature's inputs and outputs by name."""
    [meta_graph] = SavedModel.FromString((export / "saved_model.pb").read_bytes()).meta_graphs
    return {
        name: [{key: info.name for key, info in side.items()} for side in (signature.inputs, signature.outputs)]
        for name, signature in meta_graph.signature_def.items()
        if not name.startswith("_")
    }


def read_requests(export):
    """The inputs, by signature, that the export is warmed up with."""
    records = tf.data.TFRecordDataset(str(export / WARM_UP_FILE)).as_numpy_iterator()
    logs = [PredictionLog.FromString(record).predict_log.request for record in records]
    return {
        request.model_spec.signature_name: {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        for request in logs
    }


@pytest.mark.skipif(not LIBRARY.exists(), reason=f"this TensorFlow comes without {LIBRARY.name}, as on Windows")
@pytest.mark.parametrize("model", ["pretrain_generator", "pretrain_discriminator"])
def test_every_signature_runs_through_the_c_api(saved_models, model):
    export = saved_models / model / "1"
    inputs = read_requests(export)
    if "restore_jpeg" in inputs:
        inputs["restore_jpeg"] = {"image_bytes": np.array([to_jpeg(PHOTO), to_jpeg(PHOTO[:40, :60, 0])], object)}
    signatures = read_signatures(export)
    assert set(inputs) == set(signatures)
    plain = {
        name: {
            "inputs": {
                tensors[key]: value.tolist() if value.dtype == object else value for key, value in inputs[name].items()
            },
            "outputs": outputs,
        }
        for name, (tensors, outputs) in signatures.items()
    }
    request = {"library": str(LIBRARY), "export": str(export), "signatures": plain}
    script = Path(__file__).with_name("c_api.py")
    done = subprocess.run([sys.executable, script], input=pickle.dumps(request), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = pickle.loads(done.stdout)
    loaded = tf.saved_model.load(str(export))
    for name, answer in answers.items():
        expected = loaded.signatures[name](**{key: tf.constant(value) for key, value in inputs[name].items()})
        assert set(answer) == set(expected)
        for key, value in expected.items():
            if value.dtype == tf.string:
                assert answer[key] == value.numpy().tolist()
            else:
                np.testing.assert_allclose(answer[key], value, atol=1e-5)


def test_requests_and_responses_of_the_protocol_fit_the_signatures(saved_models):
    export = saved_models / "gan" / "1"
    request = PredictRequest(inputs={"image_bytes": tf.make_tensor_proto([to_jpeg(PHOTO), to_jpeg(PHOTO[:, :, 0])])})
    request.model_spec.name, request.model_spec.signature_name = "gan", "restore_jpeg"
    response = ServedModel(export, "gan").Predict(PredictRequest.FromString(request.SerializeToString()), None)
    outputs = PredictResponse.FromString(response.SerializeToString()).outputs
    assert tf.make_ndarray(outputs["height"]).tolist() == [75, 75]
    assert tf.make_ndarray(outputs["width"]).tolist() == [97, 97]
    assert [Image.open(io.BytesIO(png)).mode for png in tf.make_ndarray(outputs["restored_bytes"])] == ["RGB", "L"]


def test_json_fits_the_signature(saved_models):
    [inputs, outputs] = read_signatures(saved_models / "gan" / "1")["restore_jpeg"]
    assert list(inputs) == ["image_bytes"] and set(outputs) == {"restored_bytes", "height", "width"}
    files = [to_jpeg(PHOTO), to_jpeg(PHOTO[:40, :60])]
    rows = [{"image_bytes": {"b64": base64.b64encode(file).decode()}} for file in files]
    with serve_rest(ServedModel(saved_models / "gan" / "1", "gan")) as url:
        answer = requests.post(
            f"{url}/v1/models/gan:predict", json={"signature_name": "restore_jpeg", "instances": rows}, timeout=60
        )
    sizes = [(row["width"], row["height"]) for row in answer.json()["predictions"]]
    assert sizes == [(97, 75), (60, 40)]
    for row, size in zip(answer.json()["predictions"], sizes, strict=True):
        assert Image.open(io.BytesIO(base64.b64decode(row["restored_bytes"]["b64"]))).size == size


def test_every_published_model_is_served():
    config = text_format.Parse((ROOT / "tf_serving" / "models.config").read_text(), ModelServerConfig())
    served = {model.name: model.base_path for model in config.model_config_list.config}
    published = [folder.name for folder in PUBLISHED.iterdir() if (folder / "1").is_dir()]
    assert served == {name: f"/models/{name}" for name in published}


@pytest.fixture(scope="module")
def real_server(saved_models, tmp_path_factory):
    """TF Serving itself: URLs for REST and gRPC."""
    ports = [free_port(), free_port()]
    folder = tmp_path_factory.mktemp("serving")
    shutil.copytree(ROOT / "tf_serving", folder, dirs_exist_ok=True)
    options = [
        "--model_config_file={}/models.config",
        "--enable_batching=true",
        "--batching_parameters_file={}/batching.config",
        "--monitoring_config_file={}/monitoring.config",
    ]
    if shutil.which("tensorflow_model_server"):
        config = folder / "models.config"
        config.write_text(config.read_text().replace('"/models/', f'"{saved_models}/'))
        command = ["tensorflow_model_server", f"--port={ports[1]}", f"--rest_api_port={ports[0]}"]
        command += [option.format(folder) for option in options]
    elif docker_works():
        command = ["docker", "run", "--rm", "-p", f"{ports[0]}:8501", "-p", f"{ports[1]}:8500"]
        command += ["-v", f"{saved_models}:/models:ro", "-v", f"{folder}:/serving:ro", "tensorflow/serving"]
        command += [option.format("/serving") for option in options]
    else:
        pytest.skip("no TF Serving here: neither tensorflow_model_server nor a docker that has tensorflow/serving")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(f"http://127.0.0.1:{ports[0]}/v1/models/gan", server)
            yield f"http://127.0.0.1:{ports[0]}", f"grpc://127.0.0.1:{ports[1]}"
        finally:
            server.terminate()


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def docker_works():
    command = ["docker", "image", "inspect", "tensorflow/serving"]
    return shutil.which("docker") and subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def wait_for(url, server):
    for _ in range(120):
        assert server.poll() is None, "the server has ended"
        try:
            if json.loads(requests.get(url, timeout=5).text)["model_version_status"][0]["state"] == "AVAILABLE":
                return
        except (requests.RequestException, LookupError, ValueError):
            pass
        time.sleep(0.5)
    raise AssertionError("the server has not loaded the models within a minute")


@pytest.mark.parametrize("door", [0, 1], ids=["REST", "gRPC"])
def test_the_client_restores_through_a_real_server(real_server, saved_models, door):
    local = Restorer.load(saved_models / "gan", precision="float32")
    remote = RemoteRestorer.connect(f"{real_server[door]}/v1/models/gan")
    for pixels in (PHOTO, PHOTO[:, :, 0]):
        picture = decode_picture(to_jpeg(pixels))
        assert levels(remote.restore_picture(picture).pixels, local.restore(picture.pixels)) <= 1
