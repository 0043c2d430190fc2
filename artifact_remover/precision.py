"""The choice of the precision to compute in."""

from pathlib import Path
from typing import Any, Literal

Precision = Literal["auto", "float32", "bfloat16", "int8"]
"""The values of `--precision` where a model runs."""

# Instructions for products of bfloat16, as Linux names them: Intel's and AMD's, Intel's matrix unit, ARM's.
_FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
# For products of 8-bit integers: Intel's and AMD's, with and without AVX-512.
_FAST_INT8 = {"avx512_vnni", "avx_vnni"}
_AMPERE = (8, 0)
# NVIDIA's driver, the same under Windows, and AMD's.
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
_CPUINFO = "/proc/cpuinfo"


def choose_dtype(precision: Literal["auto", "float32", "bfloat16"]) -> str:
    """Chooses the Keras dtype policy of the networks: `float32`, or `mixed_bfloat16` with float32 weights.

    Args:
        precision: `auto` takes bfloat16 where the GPU, or without one the processor, has instructions for it; where
            that cannot be told (not Linux), float32.
    """
    if precision == "auto":
        precision = "bfloat16" if _has_fast_bfloat16() else "float32"
    return {"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision]


def has_fast_int8() -> bool:
    """Tells whether the processor has instructions for int8; where that cannot be told (not Linux), it has none."""
    return _processor_has(_FAST_INT8)


def find_gpus() -> list[Any]:
    """Finds the GPUs that TensorFlow can use; loads it only where the system has a driver for one."""
    if not any(Path(driver).exists() for driver in _GPU_DRIVERS):
        return []
    import tensorflow as tf

    return tf.config.list_physical_devices("GPU")


def _has_fast_bfloat16():
    if gpus := find_gpus():
        import tensorflow as tf

        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return capability >= _AMPERE
    return _processor_has(_FAST_BFLOAT16)


def _processor_has(instructions):
    cpuinfo = Path(_CPUINFO)
    return cpuinfo.exists() and not instructions.isdisjoint(cpuinfo.read_text().split())
