"""The engines that run a generator: TensorFlow, the reference, and OpenVINO, which starts sooner and without it.

Both read the same SavedModel, and in float32 give the same to one 8-bit level.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from artifact_remover.options import EngineName
from artifact_remover.precision import Precision, find_gpus
from data_prep.errors import InputError, Option


class Engine(Protocol):
    """A generator, loaded.

    Attributes:
        name: What runs it: `tensorflow` or `openvino`.
        precision: `float32`, `bfloat16` or `int8`.
        memory_factor: Memory that a pixel of a tile takes, as a multiple of the manifest's `memory_per_pixel`, which
            was found for TensorFlow in float32.
    """

    name: str
    precision: str
    memory_factor: float

    def __call__(self, degraded: np.ndarray) -> np.ndarray:
        """Restores float32 [N, H, W, 3] in [0, 1], N, H and W from 1 up, to the same; threads may share it.

        Raises:
            MemoryError: If there is not enough.
        """

    def read_weights(self) -> Mapping[str, np.ndarray]:
        """Reads the weights by names that are the same in other models of its size."""

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Changes the weights; not while another thread restores."""


def choose_engine(engine: EngineName, has_gpu: bool | None = None) -> Literal["tensorflow", "openvino"]:
    """Chooses what runs the models.

    Args:
        engine: `auto` takes OpenVINO where it is installed, unless there is a GPU that TensorFlow can use.
        has_gpu: Whether there is; looked for when not given.

    Raises:
        InputError: If there is no such engine, or it is not installed.
    """
    _require_choice("engine", engine, EngineName)
    installed = engine != "tensorflow" and _has_openvino()
    if engine == "openvino" and not installed:
        raise InputError(Option("engine"), " openvino needs another package: pip install 'artifact-remover[fast]'")
    if engine != "auto":
        return engine
    if installed and has_gpu is None:
        has_gpu = bool(find_gpus())
    return "openvino" if installed and not has_gpu else "tensorflow"


def _require_choice(name, value, choices: Any):
    if value not in get_args(choices):
        raise InputError(Option(name), f" must be one of {', '.join(get_args(choices))}: {value}")


def _has_openvino():
    try:
        import openvino
    except ImportError:  # also where a library of the system is missing
        return False
    return hasattr(openvino, "Core")  # no mere folder of this name


def load_engine(
    engine: Literal["tensorflow", "openvino"], export: Path, precision: Precision, to_blend: bool = False
) -> Engine:
    """Loads a generator.

    Args:
        engine: From `choose_engine`.
        export: Folder of a generator's SavedModel, of any stage.
        precision: `auto` computes in int8 where that is fast and the export has such a model, or else in bfloat16 where
            that is fast. int8 needs OpenVINO.
        to_blend: Whether the weights will be read or changed, which those in int8 cannot be.

    Raises:
        InputError: If the folder holds no export, a damaged one, or that of a discriminator, there is no such
            precision, or int8 cannot be had.
    """
    _require_choice("precision", precision, Precision)
    # Imported here, so that neither engine loads the other's library.
    if engine == "openvino":
        from artifact_remover.openvino_engine import OpenVinoEngine

        if precision == "int8" and to_blend:
            raise InputError("a model in int8 cannot be blended with another: choose another ", Option("precision"))
        return OpenVinoEngine(export, precision, to_blend)
    if precision == "int8":
        raise InputError(Option("precision"), " int8 needs ", Option("engine"), " openvino")
    from artifact_remover.tensorflow_engine import TensorFlowEngine

    return TensorFlowEngine(export, precision)
