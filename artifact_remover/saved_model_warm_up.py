"""Requests that TF Serving runs when it loads a model, so that the first user does not wait for what is made lazily.

A record is a `PredictionLog` of tensorflow-serving-api. Only requests are written, of which every field is a message
or a string, so protobuf's wire format is three things in a row: number, length, content. That is why an export does not
need the package; a test reads the records back with it.
"""

import io
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow.core.framework.tensor_pb2 import TensorProto

WARM_UP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
"""The place in an export where TF Serving looks for them."""

_SIDE = 64  # any size takes the same way through the graph


def make_generator_requests() -> dict[str, tuple[str, TensorProto]]:
    """Makes a request for each signature of a generator: its name to the input's name and value.

    Each is of one picture: a server whose batches hold no more could not load the model otherwise.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
    return {
        "serving_default": ("degraded", tf.make_tensor_proto(pixels[np.newaxis] / np.float32(255))),
        "restore": ("degraded", tf.make_tensor_proto(pixels[np.newaxis])),
        "restore_jpeg": ("image_bytes", tf.make_tensor_proto([_encode(pixels)])),
    }


def make_discriminator_requests() -> dict[str, tuple[str, TensorProto]]:
    """Makes a request for the signature of a discriminator, as `make_generator_requests` does."""
    _, pictures = make_generator_requests()["serving_default"]
    return {"serving_default": ("patches", pictures)}


def write_warm_up(requests: dict[str, tuple[str, TensorProto]], model: str, export: Path) -> None:
    """Writes the requests into an export.

    Args:
        requests: From `make_generator_requests` or `make_discriminator_requests`.
        model: Under which name the model is served.
        export: The folder with the SavedModel.
    """
    file = export / WARM_UP_FILE
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature, (input_name, value) in requests.items():
            writer.write(_prediction_log(model, signature, input_name, value))


def _encode(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=10)
    return file.getvalue()


def _prediction_log(model, signature, input_name, value) -> bytes:
    """A PredictionLog (prediction_log.proto) with a PredictRequest (predict.proto), by their fields' numbers."""
    model_spec = _field(1, model.encode()) + _field(3, signature.encode())
    inputs = _field(1, input_name.encode()) + _field(2, value.SerializeToString())  # an entry of the map
    request = _field(1, model_spec) + _field(2, inputs)
    predict_log = _field(1, request)
    return _field(6, predict_log)


def _field(number, content) -> bytes:
    """One field of wire type 2, which is what messages, maps' entries and strings have."""
    length, digits = len(content), []
    while length >= 128:
        digits.append(length % 128 + 128)
        length //= 128
    return bytes([8 * number + 2, *digits, length]) + content
