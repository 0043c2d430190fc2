"""An export behind the two doors of TF Serving: the true SavedModel run by TensorFlow, only the server is ours.

What is not said in TF Serving's description of its API (https://www.tensorflow.org/tfx/serving/api_rest) is not here.
"""

import base64
import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc


class ServedModel(prediction_service_pb2_grpc.PredictionServiceServicer):
    """A model under a name, whose next answers can be made to fail.

    Attributes:
        failures: Status codes with which the next requests are answered; "drop" closes the connection.
        requests: How many requests there were.
    """

    def __init__(self, export, name):
        self.name, self.failures, self.requests = name, [], 0
        self._model = tf.saved_model.load(str(export))
        [meta_graph] = SavedModel.FromString((export / "saved_model.pb").read_bytes()).meta_graphs
        kept = {key: value for key, value in meta_graph.signature_def.items() if not key.startswith("_")}
        self.signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=kept)

    def next_failure(self):
        self.requests += 1
        return self.failures.pop(0) if self.failures else None

    def run(self, signature, inputs):
        return self._model.signatures[signature](**inputs)

    def dtype(self, signature, name):
        return tf.as_dtype(self.signatures.signature_def[signature].inputs[name].dtype)

    def GetModelMetadata(self, request, context):  # noqa: N802, gRPC's own names
        self._check(request, context)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(self.signatures)
        return response

    def Predict(self, request, context):  # noqa: N802
        self._check(request, context)
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        try:
            outputs = self.run(request.model_spec.signature_name, inputs)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        return predict_pb2.PredictResponse(
            outputs={name: tf.make_tensor_proto(value.numpy()) for name, value in outputs.items()}
        )

    def _check(self, request, context):
        if failure := self.next_failure():
            context.abort(failure, "made to fail")
        if request.model_spec.name != self.name:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({request.model_spec.name})"
            )


class RestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: ServedModel

    def do_GET(self):  # noqa: N802
        if self._may_answer("/metadata"):
            content = MessageToDict(self.model.signatures, preserving_proto_field_name=True)
            self._answer(200, {"model_spec": {"name": self.model.name}, "metadata": {"signature_def": content}})

    def do_POST(self):  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._may_answer(":predict"):
            return
        signature, rows = body["signature_name"], body["instances"]
        inputs = {
            name: tf.constant([_from_json(row[name]) for row in rows], self.model.dtype(signature, name))
            for name in rows[0]
        }
        try:
            outputs = self.model.run(signature, inputs)
        except tf.errors.InvalidArgumentError as error:
            return self._answer(400, {"error": error.message})
        columns = {name: [_to_json(name, each) for each in value.numpy()] for name, value in outputs.items()}
        if len(columns) == 1:  # a single output goes without its name
            return self._answer(200, {"predictions": next(iter(columns.values()))})
        predictions = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return self._answer(200, {"predictions": predictions})

    def _may_answer(self, ending):
        failure = self.model.next_failure()
        if failure == "drop":
            self.close_connection = True
            self.connection.close()
        elif failure:
            self._answer(failure, {"error": "made to fail"})
        elif self.path != f"/v1/models/{self.model.name}{ending}":
            self._answer(404, {"error": f"Servable not found for request: {self.path}"})
        else:
            return True
        return False

    def _answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve_rest(model):
    handler = type("Handler", (RestHandler,), {"model": model})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def serve_grpc(model):
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(2), options=unlimited)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(model, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"grpc://127.0.0.1:{port}"
    server.stop(None).wait()


def _from_json(value):
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    return value


def _to_json(name, value):
    if isinstance(value, bytes):
        assert name.endswith("_bytes")  # or TF Serving would take it for text
        return {"b64": base64.b64encode(value).decode()}
    return np.asarray(value).tolist()
