import keras
import pytest
import tensorflow as tf

from artifact_remover import precision
from artifact_remover.precision import choose_dtype


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of the given processor flags (`None`: not Linux) and GPU's compute capability (`None`: no GPU)."""

    def machine(flags, capability=None):
        cpuinfo = tmp_path / "cpuinfo"
        if flags is not None:
            cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu sse2 {flags}\nbogomips\t: 1\n")
        monkeypatch.setattr(precision, "_CPUINFO", cpuinfo)
        monkeypatch.setattr(precision, "_GPU_DRIVERS", [tmp_path] if capability else [])
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["gpu"] if capability else [])
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: {"compute_capability": capability})

    return machine


@pytest.mark.parametrize("flags", ["avx512_bf16 avx512vl", "amx_bf16", "asimd bf16 i8mm"])
def test_auto_takes_bfloat16_where_the_processor_is_fast_at_it(machine, flags):
    machine(flags)
    assert choose_dtype("auto") == "mixed_bfloat16"


@pytest.mark.parametrize("flags", ["avx2", "avx512f amx_tile", "not_bf16", None])
def test_auto_takes_float32_on_other_processors(machine, flags):
    machine(flags)
    assert choose_dtype("auto") == "float32"


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), "float32"), ((8, 0), "mixed_bfloat16"), ((9, 0), "mixed_bfloat16")]
)
def test_auto_asks_the_gpu_and_not_the_processor_where_there_is_one(machine, capability, dtype):
    machine("amx_bf16" if dtype == "float32" else "avx2", capability)
    assert choose_dtype("auto") == dtype


@pytest.mark.parametrize(("chosen", "dtype"), [("float32", "float32"), ("bfloat16", "mixed_bfloat16")])
def test_explicit_choice_is_obeyed_whatever_the_machine(machine, chosen, dtype):
    machine("amx_bf16" if chosen == "float32" else "avx2")
    assert choose_dtype(chosen) == dtype
    assert keras.dtype_policies.get(dtype).variable_dtype == "float32"


def test_auto_answers_on_this_machine():
    assert choose_dtype("auto") in ("float32", "mixed_bfloat16")
