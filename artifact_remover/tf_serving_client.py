"""Restoring with a running TF Serving, by REST or gRPC.

JPEGs are sent byte for byte, up to the end of their picture. Other pictures of 8 bits are sent as PNGs, which are
lossless, and so are the JPEGs that the server cannot decode, and those whose pixels are turned, moved or surrounded
before they are restored. REST needs no TensorFlow in this process, gRPC needs the
extra `serving`.
"""

import base64
import io
import json
import logging
import re
from collections.abc import Callable
from urllib.parse import urlsplit

import numpy as np
import requests
from PIL import Image
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ReadTimeoutError
from urllib3.util import Retry

from artifact_remover.model_folder import FAITHFUL
from artifact_remover.pictures.jpeg_container import end_of_picture
from artifact_remover.pictures.picture import Picture, decode_picture
from artifact_remover.restore_picture import RestoredPicture, restore_parts
from data_prep.errors import InputError, Message, Option, to_one_line
from data_prep.quiet import quiet_tensorflow

_SIGNATURE = "restore_jpeg"
_CONNECT_SECONDS, _ANSWER_SECONDS = 10, 600
_ATTEMPTS = 5  # gRPC allows no more
_BACKOFF_SECONDS = 0.5  # before the second attempt, twice as long before each further one
_MOST_RETRIED = 256 * 2**20  # bytes of a request; gRPC keeps 256 kB by default and would never retry larger ones
_WITHOUT_SERVER = Message("leave ", Option("server"), " out")
_TIMEOUT = Message("no answer in time, the picture may be too large for the server: ", _WITHOUT_SERVER)


class RemoteRestorer:
    """A restorer like `Restorer`, whose network runs on a server.

    Attributes:
        description: Which model on which server it is.
    """

    def __init__(self, send: Callable[[bytes], bytes], description: str):
        """Wraps a way to a server; `RemoteRestorer.connect` makes one from a URL.

        Args:
            send: From a JPEG's or PNG's bytes to those of the restored PNG.
            description: Which model on which server it is.
        """
        self.description = description
        self._send = send

    @classmethod
    def connect(cls, url: str) -> "RemoteRestorer":
        """Asks a server whether it has the model, retrying for some seconds.

        Args:
            url: `http://HOST:8501`, `https://` or `grpc://HOST:8500`, for the faithful model; of another one with
                `/v1/models/NAME` behind it, and `/versions/NUMBER` if need be.

        Raises:
            InputError: If the URL is none of these, the server cannot be reached, or has no such model.
        """
        given = re.fullmatch(r"(https?|grpc)://([^/?#]+)(?:/v1/models/([^/:?#]+)(?:/versions/(\d+))?)?/?", url)
        if not given or not _has_host_and_port(given[2]):
            raise InputError(
                f"{to_one_line(url)} is no server: give http://HOST:8501 or grpc://HOST:8500, and /v1/models/NAME "
                "behind it for another model"
            )
        scheme, server, model, version = given.groups()
        open_model = _GrpcModel if scheme == "grpc" else _RestModel
        served = open_model(f"{scheme}://{server}", model or FAITHFUL, version)
        signatures = served.list_signatures()
        if _SIGNATURE not in signatures:
            raise InputError(
                f"{served.name} has no signature {_SIGNATURE}, only {', '.join(sorted(signatures))}: give a generator "
                "that this version has exported"
            )
        return cls(served.restore, served.name)

    def restore_picture(
        self,
        picture: Picture,
        strength: float = 1.0,
        force: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> RestoredPicture:
        """Restores a decoded picture, as `Restorer.restore_picture` does.

        Args:
            picture: As there, but of 8 bits.
            strength: As there.
            force: As there.
            progress: Called once, with the number of all pixels.

        Returns:
            The restored picture; its notes say if it was left alone.

        Raises:
            InputError: If the picture has 16 bits, or the server refuses it or cannot be reached.
        """

        def restore_colors(pixels):
            # A picture that is moved onto its block grid is no longer what the JPEG holds.
            restored = self._restore(pixels, strength, picture.jpeg if pixels is picture.pixels else None)
            if progress:
                progress(pixels.shape[0] * pixels.shape[1])
            return restored

        return restore_parts(
            picture,
            restore_colors,
            self._restore_sample,
            force,
            strength=strength,
        )

    def _restore_sample(self, pixels):
        """Restores uint8 or uint16 [H, W, 3 or 1], the latter by its upper 8 bits, which are enough to judge by."""
        if pixels.dtype == np.uint8:
            return self._restore(pixels, strength=1)
        return self._restore((pixels >> 8).astype(np.uint8), strength=1) * np.uint16(257)

    def _restore(self, pixels, strength, jpeg=None):
        """Restores uint8 [H, W, 3 or 1] in 0..255; `jpeg` is the file that they were decoded from, if it was a JPEG."""
        if strength == 0:
            return pixels
        if pixels.dtype != np.uint8:
            raise InputError("16 bits per channel, of which a server would keep 8: ", _WITHOUT_SERVER)
        # Not what lies behind the picture, such as a phone's video, which is several times as large.
        content = jpeg[: end_of_picture(jpeg)] if jpeg else _encode_png(pixels)
        restored = decode_picture(self._send(content)).pixels
        if restored.shape[2] < pixels.shape[2]:  # gray in three channels comes back in one
            restored = np.repeat(restored, pixels.shape[2], axis=2)
        if restored.shape != pixels.shape or restored.dtype != pixels.dtype:
            raise InputError(f"{self.description} returned another picture, {restored.dtype} {restored.shape}")
        if strength == 1:
            return restored
        mixed = pixels + np.float32(strength) * (restored.astype(np.float32) - pixels)
        return np.rint(mixed).astype(np.uint8)


class _RestModel:
    """A served model behind TF Serving's REST API (https://www.tensorflow.org/tfx/serving/api_rest)."""

    def __init__(self, server, model, version):
        self.name = f"{server}/v1/models/{model}" + (f"/versions/{version}" if version else "")
        self._session = requests.Session()
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # which warns of every attempt
        retry = _Retry(
            total=_ATTEMPTS - 1,
            backoff_factor=_BACKOFF_SECONDS,
            status_forcelist=(429, 502, 503),
            allowed_methods=("GET", "POST"),
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def list_signatures(self):
        return set(self._ask("GET", "/metadata", lambda answer: answer["metadata"]["signature_def"]["signature_def"]))

    def restore(self, content):
        encoded = {"b64": base64.b64encode(content).decode()}
        request = {"signature_name": _SIGNATURE, "instances": [{"image_bytes": encoded}]}

        def read(answer):
            return base64.b64decode(answer["predictions"][0]["restored_bytes"]["b64"], validate=True)

        return self._ask("POST", ":predict", read, json=request)

    def _ask(self, method, path, read, **content):
        try:
            timeout = _CONNECT_SECONDS, _ANSWER_SECONDS
            response = self._session.request(method, self.name + path, timeout=timeout, **content)
        except requests.ReadTimeout as error:
            raise InputError(f"{self.name}: ", _TIMEOUT) from error
        except requests.RequestException as error:
            raise InputError(f"{self.name} cannot be reached: start the server or check the URL") from error
        try:
            answer = response.json()
            if response.ok:
                return read(answer)
            said = answer["error"]
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"{self.name} does not answer like TF Serving, status {response.status_code}: check the URL"
            ) from error
        raise InputError(f"{self.name} says: {_plain(said)}")


class _Retry(Retry):
    """Repeats requests that failed, except those that got no answer in time: they would take as long again."""

    def increment(self, method=None, url=None, response=None, error=None, _pool=None, _stacktrace=None):
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, _pool, _stacktrace)


class _GrpcModel:
    """A served model behind TF Serving's PredictionService."""

    def __init__(self, server, model, version):
        try:
            with quiet_tensorflow():
                import grpc
                from tensorflow_serving.apis import prediction_service_pb2_grpc
        except ImportError as error:
            raise InputError(
                "grpc:// needs the extra serving: pip install 'artifact-remover[serving]', or give http://HOST:8501"
            ) from error
        self.name = f"{server}/v1/models/{model}" + (f"/versions/{version}" if version else "")
        self._model, self._version = model, version
        retry = {
            "maxAttempts": _ATTEMPTS,
            "initialBackoff": f"{_BACKOFF_SECONDS}s",
            "maxBackoff": "8s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config = {
            "methodConfig": [{"name": [{"service": "tensorflow.serving.PredictionService"}], "retryPolicy": retry}]
        }
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.per_rpc_retry_buffer_size", _MOST_RETRIED),
            ("grpc.service_config", json.dumps(config)),
        ]
        channel = grpc.insecure_channel(server.removeprefix("grpc://"), options)
        self._service = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def list_signatures(self):
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        response = self._call(self._service.GetModelMetadata, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return set(signatures.signature_def)

    def restore(self, content):
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest(inputs={"image_bytes": tf.make_tensor_proto([content])})
        request.model_spec.signature_name = _SIGNATURE
        response = self._call(self._service.Predict, request)
        return tf.make_ndarray(response.outputs["restored_bytes"])[0]

    def _call(self, method, request):
        import grpc

        request.model_spec.name = self._model
        if self._version:
            request.model_spec.version.value = int(self._version)
        try:
            return method(request, timeout=_ANSWER_SECONDS)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise InputError(f"{self.name}: ", _TIMEOUT) from error
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise InputError(
                    f"{self.name} cannot be reached: start the server or check the URL ({_plain(error.details())})"
                ) from error
            raise InputError(f"{self.name} says: {_plain(error.details())}") from error


def _has_host_and_port(server) -> bool:
    try:
        parts = urlsplit(f"//{server}")
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _encode_png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _plain(message) -> str:
    """Removes the names of graph nodes from an error message of TensorFlow."""
    return to_one_line(str(message).partition("\n\t [[")[0].rpartition("assertion failed: ")[2].strip())
