"""Removes JPEG artefacts: training, judging and running the networks.

Importing the package is free: nothing heavy is loaded. Once Keras is imported, before or after this package, the
layers of `artifact_remover.layers` are registered with it, so that `keras.models.load_model` reads our `.keras` files.
"""

import wrapt

__version__ = "0.1.0"


@wrapt.when_imported("keras")
def _register_layers(_keras):
    from artifact_remover import layers  # noqa: F401
