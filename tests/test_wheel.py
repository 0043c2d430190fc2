import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from data_prep import __version__
from tests.conftest import TINY

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[1]


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built from a copy of the tree so that nothing is left in it."""
    folder = tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns(".*", "build", "*.egg-info", "runs", "__pycache__")
    shutil.copytree(CHECKOUT, folder / "tree", ignore=unwanted)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, folder / "tree")
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Runs Python in a folder outside the checkout, with nothing of the project but the installed wheel."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", folder / "site", wheel)

    def python(*arguments):
        return run(sys.executable, *arguments, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder / "site")})

    return python


def test_the_wheel_holds_both_packages_and_nothing_else(wheel):
    files = zipfile.ZipFile(wheel).namelist()
    for package in ("artifact_remover", "data_prep"):
        for file in (CHECKOUT / package).rglob("*.py"):
            assert file.relative_to(CHECKOUT).as_posix() in files
    assert "data_prep/datasets/photo_folder/photo_folder_dataset_builder.py" in files
    tops = {file.partition("/")[0] for file in files if ".dist-info" not in file}
    assert tops == {"artifact_remover", "data_prep"}


def test_the_wheel_runs_outside_the_checkout(python):
    where = python("-c", "import artifact_remover, data_prep; print(artifact_remover.__file__, data_prep.__file__)")
    assert str(CHECKOUT) not in where and where.count("site") == 2
    assert "fit" in python("-m", "artifact_remover", "--help")
    assert "--workdir" in python("-m", "artifact_remover", "fit", "--help")


def test_the_wheel_tells_its_version(wheel, python):
    assert wheel.name.split("-")[1] == __version__
    for command in ("artifact_remover", "data_prep"):
        assert python("-m", command, "--version") == f"artifact-remover {__version__}\n"


def test_the_wheel_brings_the_published_models(python):
    code = "from artifact_remover import Restorer; print(Restorer.load().trained_quality)"
    assert "(5, 100)" in python("-c", code)
    where = python(
        "-c", "from artifact_remover.model_folder import PUBLISHED, find_exports; print(*find_exports(PUBLISHED))"
    )
    assert where.split() == ["pretrain_generator", "gan"]


def test_the_wheel_trains(python, photo_folder, tmp_path):
    steps = ("--pretrain-generator.steps", "2", "--pretrain-generator.warmup-steps", "0")
    tiny = [*TINY, *steps, "--stage", "pretrain_generator"]
    printed = python(
        *("-m", "artifact_remover", "fit", *tiny, "--data", photo_folder),
        *("--data-dir", tmp_path / "tfds", "--workdir", tmp_path / "run"),
    )
    assert "stage 1" in printed
    assert (tmp_path / "run" / "saved_models" / "pretrain_generator" / "1" / "saved_model.pb").is_file()
