"""Runs a generator's SavedModel with OpenVINO on the processor; TensorFlow is not loaded.

OpenVINO reads SavedModels itself.
"""

import contextlib
import functools
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from artifact_remover.model_folder import SUMS, read_manifest, sum_up
from artifact_remover.precision import Precision, has_fast_int8
from data_prep.errors import InputError, Option

INT8 = "openvino_int8.xml"
"""The quantized model in an export's folder, whose weights are in a `.bin`; `saved_models/quantize.py` makes it."""

CLIPPED = 0.003
"""Share of the energy of values that int8 clips in 64x64 pixels, above which a picture or tile is restored in float.

The int8 models round values to steps of a range, which fine patterns of full contrast exceed up to twentyfold: of 35
photographs that were dithered to two values and saved at quality 90, 28 lost 0.2 to 12 dB in int8 beside float. With
this limit all 35 are as in float. Of 303 JPEGs of photographs, of quality 20, 60 and 90, it is exceeded in one, by
0.001, and of 333 of graphics in 16.
"""

_WINDOW = 16  # values a side, at a quarter of the picture's resolution

_MEMORY_FACTORS = {"float32": 0.75, "bfloat16": 0.45, "int8": 0.5}  # measured
_WORTH_COMPILING = 400_000
"""Pixels from which on compiling for a shape pays. The shape alone decides, as in int8 the two differ by a level."""

_NO_MEMORY = re.compile(
    "bad_alloc|Failed to allocate|not allocate memory|can't alloc|could not create a (primitive|memory)|failed to map"
)


@functools.cache
def open_core() -> openvino.Core:
    """Opens OpenVINO, once in a process.

    Each `Core` puts a stack for signals in the place of the one before. Of two that end in the order in which they
    began, the second brings the first one's back, which is gone: the next Ctrl-C crashes the process (2026.4).
    """
    return openvino.Core()


class OpenVinoEngine:
    """A generator that OpenVINO runs; see `engines.Engine`.

    A model that is compiled for one shape is a tenth to a fifth faster than one for any shape, and takes half of its
    memory, but compiling takes as long as restoring 0.1 megapixels.
    """

    name = "openvino"

    def __init__(self, export: Path, precision: Precision, to_blend: bool = False):
        """Reads a SavedModel, or in int8 the quantized model beside it; it is compiled when it first restores.

        In int8 the SavedModel is read when the first picture needs it.

        Args:
            export: Folder of the SavedModel.
            precision: As in `engines.load_engine`.
            to_blend: As there.

        Raises:
            InputError: If the folder holds no export, a damaged one, that of a discriminator, or none in int8.
        """
        sums = read_manifest(export).get(SUMS, {})
        self._core = open_core()
        in_bfloat16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        in_float: Precision = "bfloat16" if in_bfloat16 else "float32"
        if precision == "auto":
            is_best = has_fast_int8() and INT8 in sums and not to_blend
            precision = "int8" if is_best else in_float
        if precision == "bfloat16" and not in_bfloat16:
            precision = "float32"  # in which OpenVINO computes then, whatever it is told
        in_int8 = precision == "int8"
        if in_int8 and INT8 not in sums:
            raise InputError(f"{export} has no model in int8: choose another ", Option("precision"))
        try:
            for file, told in sums.items():
                is_read = file.startswith(Path(INT8).stem) == in_int8
                if is_read and sum_up(export / file) != told:
                    raise RuntimeError(f"{file} was changed")  # OpenVINO would not notice
            self._model = self._core.read_model(export / INT8 if in_int8 else export)
        except (OSError, RuntimeError) as error:
            what = INT8 if in_int8 else "SavedModel"
            raise InputError(f"{export} is damaged, its {what} cannot be read: use another export") from error
        if "restored" not in self._model.outputs[0].names:
            raise InputError(f"{export} restores nothing, it is a discriminator: give a generator's export")
        self.precision: str = precision
        # Of the layers that stay float in int8.
        self._float = "bf16" if in_bfloat16 and precision != "float32" else "f32"
        self.memory_factor = _MEMORY_FACTORS[precision]
        self._export = export
        if in_int8:
            _tell_clipping(self._model)
            self.memory_factor = max(self.memory_factor, _MEMORY_FACTORS[in_float])  # large tiles take turns
        self._is_short = False  # of memory: then each shape gets the model that takes less
        self._lock = threading.Lock()
        self._shape: tuple[int, ...] | None
        self._for_shape: openvino.CompiledModel | None
        self._for_any: openvino.CompiledModel | None
        self._forget()

    def __call__(self, degraded: np.ndarray) -> np.ndarray:
        """Restores a batch; in int8 those of it in float whose values it would clip."""
        with self._lock, self._telling_of_memory():
            outputs = self._compile_for(degraded.shape)(degraded)
            if self.precision != "int8":
                return outputs[0]
            restored, is_clipped = outputs[0], outputs[1] > CLIPPED
            if is_clipped.any():
                restored[is_clipped] = self._restore_in_float(degraded[is_clipped])
            return restored

    def read_weights(self) -> dict[str, np.ndarray]:
        """Reads the weights, which are named by their order: names are not kept."""
        return {str(number): constant.data for number, constant in enumerate(self._find_constants())}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Changes the weights."""
        for number, constant in enumerate(self._find_constants()):
            changed = openvino.op.Constant(np.ascontiguousarray(weights[str(number)], np.float32))
            for user in constant.output(0).get_target_inputs():
                user.replace_source_output(changed.output(0))
        self._forget()

    def _find_constants(self):
        constants = [each for each in self._model.get_ordered_ops() if each.get_type_name() == "Constant"]
        # Single numbers are slopes of activations, or bounds.
        return [each for each in constants if each.get_element_type() == openvino.Type.f32 and each.data.size > 1]

    def _restore_in_float(self, degraded):
        """Restores in float, with the memory of one model where a picture is large."""
        if _is_large(degraded.shape):
            self._forget()
        restored = self._in_float(degraded)
        if _is_large(degraded.shape):
            self._in_float._forget()
        return restored

    @functools.cached_property
    def _in_float(self):
        return OpenVinoEngine(self._export, "bfloat16")  # float32 where there is none

    def _compile_for(self, shape):
        """Returns the model for this shape or for any."""
        if shape == self._shape:
            return self._for_shape
        if not _is_large(shape) and not self._is_short:
            self._for_any = self._for_any or self._compile(self._model)
            return self._for_any
        self._shape = self._for_shape = None  # what it held is free for the next
        model = self._model.clone()
        model.reshape(list(shape))
        self._shape, self._for_shape = shape, self._compile(model)
        return self._for_shape

    def _compile(self, model):
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self._float,
            # Pinned, several processes would share the same processors and leave others idle.
            "ENABLE_CPU_PINNING": False,
        }
        if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
            settings["INFERENCE_NUM_THREADS"] = int(os.environ["OMP_NUM_THREADS"])
        return self._core.compile_model(model, "CPU", settings)

    def _forget(self):
        """Frees what was compiled."""
        self._shape = self._for_shape = self._for_any = None

    @contextlib.contextmanager
    def _telling_of_memory(self) -> Iterator[None]:
        """Raises Python's own error where OpenVINO is short of memory."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or _NO_MEMORY.search(str(error))):
                raise
            self._is_short = True
            self._forget()  # what has failed once fails from then on, whatever it is given
            raise MemoryError(str(error)) from error


def _tell_clipping(model):
    """Adds an output, float32 [N]: the share of energy that is clipped, in each picture's window where it is largest.

    It is measured in the sums of residuals that are rounded last. These tell of the layers before them: the same
    pictures exceed the ranges of all.
    """
    from openvino import opset13 as op

    *_, rounded = (
        each
        for each in model.get_ordered_ops()
        if each.get_type_name() == "FakeQuantize" and each.input_value(0).get_node().get_type_name() == "Add"
    )
    values, low, high = (rounded.input_value(number) for number in range(3))
    beyond = op.subtract(values, op.minimum(op.maximum(values, low), high))
    energies = [
        op.avg_pool(
            op.reduce_sum(op.multiply(each, each), np.array([1]), keep_dims=True),
            strides=[_WINDOW, _WINDOW],
            pads_begin=[0, 0],
            pads_end=[0, 0],
            kernel_shape=[_WINDOW, _WINDOW],
            exclude_pad=True,
            auto_pad="same_upper",
        )
        for each in (beyond, values)
    ]
    model.add_outputs([op.reduce_max(op.divide(*energies), np.array([1, 2, 3])).output(0)])


def _is_large(shape):
    return shape[0] * shape[1] * shape[2] >= _WORTH_COMPILING
