"""The adding of what one model learned to another."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from artifact_remover import saved_model
from artifact_remover.config import PRESETS
from artifact_remover.generator import build_generator
from artifact_remover.model_folder import SUMS
from artifact_remover.openvino_engine import INT8
from tests.tiny_models import TINY, make_generator

SCRIPT = Path(__file__).parents[1] / "saved_models" / "add_training.py"
MANIFEST = {"stage": "train_gan", "steps": 3, "curve": [1.0], "license": "CC0-1.0", SUMS: {INT8: "0"}}
TRAINING = {"steps": 5, "training_seconds": 2.0, "settings": {"data": {"patch_size": 160}}, "curve": [2.0], "seed": 7}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A folder with the exports `base`, `before` and `after`, and their networks."""
    folder = tmp_path_factory.mktemp("exports")
    networks = {name: make_generator(seed, TINY) for seed, name in enumerate(("base", "before", "after"))}
    for name, network in networks.items():
        saved_model.export_generator(network, TINY, folder / name, TRAINING if name == "after" else MANIFEST)
    return folder, networks


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_share_of_the_difference_is_added_and_told(exports, tmp_path, monkeypatch, share):
    monkeypatch.setitem(PRESETS, "blind", PRESETS["blind"].__class__(generator=TINY))
    folder, networks = exports
    out = tmp_path / "new" / "1"
    options = ["--before", folder / "before", "--after", folder / "after", "--share", share, "--out", out]
    monkeypatch.setattr(sys, "argv", [*map(str, [SCRIPT, folder / "base", *options])])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    made = build_generator(TINY)
    saved_model.load_weights(made, out)
    base, before, after = (networks[name].get_weights() for name in ("base", "before", "after"))
    for weight, first, old, new in zip(made.get_weights(), base, before, after, strict=True):
        np.testing.assert_allclose(weight, first + share * (new - old), atol=1e-6)
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["steps"], manifest["license"]) == (3, "CC0-1.0")
    assert INT8 not in manifest[SUMS]  # it was made of other weights
    assert manifest["added"] == [{"share": share, **{name: TRAINING[name] for name in TRAINING if name != "seed"}}]
