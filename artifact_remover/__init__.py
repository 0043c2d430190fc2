"""Removes JPEG artefacts: training, judging and running the networks.

Importing the package is free: nothing heavy is loaded. Once Keras is imported, before or after this package, the
layers of `artifact_remover.layers` are registered with it, so that `keras.models.load_model` reads our `.keras` files.
`Restorer`, of `artifact_remover.restoration`, is loaded when it is first asked for.
"""

import wrapt

__version__ = "0.1.0"


@wrapt.when_imported("keras")
def _register_layers(_keras):
    from artifact_remover import layers  # noqa: F401


def __getattr__(name):
    if name == "Restorer":
        from artifact_remover.restoration import Restorer

        return Restorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*globals(), "Restorer"]
