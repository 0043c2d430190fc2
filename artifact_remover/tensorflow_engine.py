"""Runs a generator's SavedModel with TensorFlow; also the loading of any SavedModel."""

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from artifact_remover.checkpoint_files import plainly_named
from artifact_remover.model_folder import read_manifest
from artifact_remover.precision import choose_dtype
from data_prep.errors import InputError

_MEMORY_FACTORS = {"float32": 1.0, "bfloat16": 0.6}  # measured

_rewriting = threading.Lock()


class TensorFlowEngine:
    """A generator that TensorFlow runs, on a GPU if it has one; see `engines.Engine`."""

    name = "tensorflow"

    def __init__(self, export: Path, precision: Literal["auto", "float32", "bfloat16"]):
        """Loads a SavedModel, without this project's model code.

        Args:
            export: Its folder.
            precision: As in `choose_dtype`; in bfloat16 TensorFlow rewrites the convolutions of its graph.

        Raises:
            InputError: If the folder holds no export, a damaged one, or that of a discriminator.
        """
        read_manifest(export)
        # Held, as the weights live only as long as what was loaded.
        self._exported = load_saved_model(export)
        self._restore = self._exported.signatures["serving_default"]
        if "restored" not in self._restore.structured_outputs:
            raise InputError(f"{export} restores nothing, it is a discriminator: give a generator's export")
        self.precision = choose_dtype(precision).removeprefix("mixed_")
        self.memory_factor = _MEMORY_FACTORS[self.precision]

    def __call__(self, degraded: np.ndarray) -> np.ndarray:
        """Restores a batch."""
        rewriting = _rewriting_to_bfloat16() if self.precision == "bfloat16" else contextlib.nullcontext()
        with rewriting, _telling_of_memory():
            return self._restore(degraded=tf.convert_to_tensor(degraded))["restored"].numpy()

    def read_weights(self) -> dict[str, np.ndarray]:
        """Reads the weights by name."""
        return {variable.name: variable.numpy() for variable in self._restore.variables}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Changes the weights."""
        for variable in self._restore.variables:
            variable.assign(weights[variable.name])


def load_saved_model(folder: Path) -> Any:
    """Loads a SavedModel; what is returned must be held as long as one of its signatures is used.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        with plainly_named(folder) as readable:
            exported = tf.saved_model.load(str(readable))
        exported.signatures["serving_default"]
        return exported
    except (OSError, ValueError, LookupError, tf.errors.OpError) as error:
        raise InputError(f"{folder} is damaged, its SavedModel cannot be read: use another export") from error


@contextlib.contextmanager
def _telling_of_memory() -> Iterator[None]:
    """Raises Python's own error where TensorFlow, or in it oneDNN, is short of memory."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(error.message) from error
    except tf.errors.AbortedError as error:
        # oneDNN, short of memory, aborts for want of a "primitive" or a "memory object".
        if not re.search("primitive|memory", error.message):
            raise
        raise MemoryError(error.message) from error


@contextlib.contextmanager
def _rewriting_to_bfloat16() -> Iterator[None]:
    """Has TensorFlow compute convolutions in bfloat16, for the calls inside only.

    Its graph rewriting is a setting of the whole process, in which other models may run.
    """
    name = "auto_mixed_precision_onednn_bfloat16"
    with _rewriting:
        before = tf.config.optimizer.get_experimental_options().get(name, False)
        tf.config.optimizer.set_experimental_options({name: True})
        try:
            yield
        finally:
            tf.config.optimizer.set_experimental_options({name: before})
