"""The teaching of a generator by the mean of what it makes of eight orientations."""

import dataclasses
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as skimage_data

from artifact_remover import saved_model
from artifact_remover.config import PRESETS
from artifact_remover.model_folder import SUMS
from artifact_remover.self_ensemble import restore_turned
from tests.tiny_models import TINY, make_generator

SCRIPT = Path(__file__).parents[1] / "saved_models" / "distill.py"
MANIFEST = {"stage": "pretrain_generator", "steps": 3, "curve": [1.0], SUMS: {"openvino_int8.xml": "0"}}


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_all_orientations_give_their_mean_and_some_an_estimate(script):
    patches = np.random.default_rng(0).random((1, 6, 6, 3), np.float32)
    weight = np.linspace(0, 1, 6, dtype=np.float32) ** 2

    def darken(patches):  # the rows at the top most
        return patches * weight[:, np.newaxis, np.newaxis]

    own, mean = script["estimate_mean"](darken, patches, np.arange(1, 8))
    np.testing.assert_array_equal(own, darken(patches))
    both_ways = weight + weight[::-1]
    np.testing.assert_allclose(mean, patches * ((both_ways[:, np.newaxis] + both_ways) / 4)[..., np.newaxis], rtol=1e-5)
    _, estimate = script["estimate_mean"](darken, patches, np.array([6]))
    turned = restore_turned(darken, patches, 6)
    np.testing.assert_allclose(estimate, (own + 7 * turned) / 8, rtol=1e-5)


def test_a_generator_comes_closer_to_its_mean(script, tmp_path, monkeypatch, capsys):
    """With the script's own command line, at a learning rate for a few steps of a tiny generator."""
    data = dataclasses.replace(PRESETS["blind"].data, patch_size=64, batch_size=2)
    monkeypatch.setitem(PRESETS, "blind", dataclasses.replace(PRESETS["blind"], generator=TINY, data=data))
    before = make_generator(3)
    saved_model.export_generator(before, TINY, tmp_path / "before" / "1", MANIFEST)
    for folder in ("photographs", "graphics"):
        (tmp_path / folder).mkdir()
        for number in range(4):
            picture = np.rot90(skimage_data.coffee()[:200, 100 * number :][:, :200], number)
            Image.fromarray(picture).save(tmp_path / folder / f"{number}.png")
    out = tmp_path / "after" / "1"
    folders = ["--data", tmp_path / "photographs", "--graphics", tmp_path / "graphics", "--out", out]
    options = ["--steps", 60, "--learning-rate", 1e-3, "--others", 3]
    monkeypatch.setattr(sys, "argv", [*map(str, [SCRIPT, tmp_path / "before" / "1", *folders, *options])])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    manifest = json.loads((out / "manifest.json").read_text())
    [distilled] = manifest.pop("distilled")
    assert (distilled["steps"], manifest["steps"], manifest["curve"]) == (60, 3, [1.0])
    assert "openvino_int8.xml" not in manifest[SUMS]  # it was made of other weights
    assert [row["step"] for row in distilled["curve"]] == [50, 60]
    last = distilled["curve"][-1]
    assert last["loss"] < 0.8 * last["before"]
    assert "60/60: loss " in capsys.readouterr().out
