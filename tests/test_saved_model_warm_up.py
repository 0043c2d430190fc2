import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from artifact_remover.saved_model_warm_up import WARM_UP_FILE


@pytest.fixture(scope="module", params=["gan", "pretrain_discriminator"])
def export(request, saved_models):
    return saved_models / request.param / "1"


def test_records_warm_up_every_signature(export):
    signatures = tf.saved_model.load(str(export)).signatures
    records = tf.data.TFRecordDataset(str(export / WARM_UP_FILE)).as_numpy_iterator()
    requests = [PredictionLog.FromString(record).predict_log.request for record in records]
    assert {request.model_spec.signature_name for request in requests} == set(signatures)
    for request in requests:
        assert request.model_spec.name == export.parent.name
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        assert {len(value) for value in inputs.values()} == {
            1
        }  # a queue takes no larger ones, tf_serving/batching.config
        for value in signatures[request.model_spec.signature_name](**inputs).values():
            assert len(value) == 1 and (value.dtype == tf.string or np.isfinite(value).all())


def test_records_are_written_as_the_real_messages_are(export):
    for record in tf.data.TFRecordDataset(str(export / WARM_UP_FILE)).as_numpy_iterator():
        log = PredictionLog.FromString(record)
        assert log.SerializeToString(deterministic=True) == record
        assert log.WhichOneof("log_type") == "predict_log"
