import configparser
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from artifact_remover.options import SUFFIXES
from tests.conftest import TINY

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[1]


def lowest_versions():
    """The requirements of setup.cfg, each at the lowest version that it names, or the newest where it names none."""
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    asked = [
        setup["options"]["install_requires"],
        *(setup["options.extras_require"][each] for each in ("export", "heic", "web")),
    ]
    lines = [line for text in asked for line in text.splitlines() if line and not line.startswith("#")]
    return [f"{each.name}{str(each.specifier).replace('>=', '==')}" for each in map(Requirement, lines)]


def run(*command):
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A fresh virtual environment's Python, with nothing but what the project says that it needs."""
    folder = tmp_path_factory.mktemp("lowest")
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", *lowest_versions())
    return python


def test_all_bounds_are_lower_bounds():
    pinned = lowest_versions()
    assert {"tensorflow==2.20", "tyro==0.9.14", "numpy"} <= set(pinned)
    assert not [each for each in pinned if "<" in each or ">" in each or "~" in each]


@pytest.mark.parametrize("module", ["artifact_remover", "artifact_remover.fit", "artifact_remover.serve", "data_prep"])
def test_help_is_shown(python, module):
    assert "options" in run(python, "-m", module, "--help").lower()


def test_everything_is_imported_and_a_picture_restored(python):
    code = """
import numpy as np
import artifact_remover.judging.report, artifact_remover.training.stages, artifact_remover.web.app, pillow_heif
from artifact_remover import Restorer
print(Restorer.load().restore(np.full([40, 50, 3], 128, np.uint8)).mean())
"""
    assert float(run(python, "-c", code)) == pytest.approx(128, abs=2)


@pytest.mark.parametrize("suffix", SUFFIXES.values())
def test_the_published_model_is_exported(python, suffix, tmp_path):
    assert "beside the model" in run(python, "-m", "artifact_remover.export", "-o", tmp_path / f"jpeg{suffix}")


def test_a_tiny_training_ends(python, photo_folder, tmp_path):
    tiny = [*TINY, "--pretrain-generator.steps", "2", "--pretrain-generator.warmup-steps", "0"]
    places = ("--data", photo_folder, "--data-dir", tmp_path / "tfds", "--workdir", tmp_path / "run")
    printed = run(python, "-m", "artifact_remover.fit", *tiny, "--stage", "pretrain_generator", *places)
    assert "stage 1" in printed
