"""Small real photographs, and a tiny run of all three stages on them that many tests read."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest
import tyro
from filelock import FileLock
from PIL import Image
from rich.console import Console
from skimage import data as skimage_data

from artifact_remover import fit
from artifact_remover.config import PRESETS, DiscriminatorConfig, FitConfig
from artifact_remover.discriminator import build_discriminator
from artifact_remover.saved_model import export_discriminator, export_generator
from artifact_remover.training import gan
from artifact_remover.training.run import Run
from data_prep.config import DataConfig
from data_prep.sources import open_photographs
from tests import tiny_models

# No perceptual term, or a test's outcome would depend on whether VGG19 can be downloaded.
TINY = """
    --generator-loss.perceptual 0 --gan-loss.perceptual 0
    --precision float32 --patch-size 32 --batch-size 2 --patches-per-photo 4
    --generator.features 8 --generator.growth 4 --generator.blocks 1 --discriminator.features 4
    --pretrain-generator.steps 10 --pretrain-generator.warmup-steps 2 --pretrain-generator.validate-every 5
    --pretrain-discriminator.steps 10 --pretrain-discriminator.warmup-steps 2
    --pretrain-discriminator.validate-every 5
    --train-gan.steps 10 --train-gan.warmup-steps 2 --train-gan.validate-every 5
""".split()  # noqa: SIM905
gan.GATE = 10.0  # or networks as small as these would never get under it
STAGES = ("pretrain_generator", "pretrain_discriminator", "train_gan")


@pytest.fixture
def other_keras_defaults():
    """Keras as a `keras.json` may set it for a user's other programs."""
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float64")
    yield
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """Makes a folder in the first worker that wants it; all read it, and no test changes it.

    As pytest-xdist's documentation has it, "Making session-scoped fixtures execute only once".
    """
    own = tmp_path_factory.getbasetemp()
    common = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def make(name, fill):
        folder = common / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                folder.mkdir()
                try:
                    fill(folder)
                except BaseException:
                    shutil.rmtree(folder)
                    raise
        return folder

    return make


@pytest.fixture(scope="session")
def saved_models(make_once):
    """The models of `tf_serving/models.config`, tiny ones."""
    return make_once("saved_models", export_tiny_models)


def export_tiny_models(folder):
    manifest = {"settings": {"data": {"degradation": {"quality": "10"}}}}
    for seed, model in enumerate(("pretrain_generator", "gan")):
        export_generator(tiny_models.make_generator(seed), tiny_models.TINY, folder / model / "1", manifest)
    config = DiscriminatorConfig(features=4)
    export_discriminator(build_discriminator(config), config, folder / "pretrain_discriminator" / "1", {})


@pytest.fixture(scope="session")
def photo_folder(make_once):
    """Nine crops of real photographs: seven to train on, one to validate on, one to test on."""
    return make_once("photos", save_crops)


def save_crops(folder):
    for name in ("astronaut", "chelsea", "coffee"):
        photo = getattr(skimage_data, name)()
        for number in range(3):
            crop = photo[60 : 60 + 80, 100 * number : 100 * number + 96]
            Image.fromarray(crop).save(folder / f"{name}{number}.png")


@pytest.fixture(scope="session")
def tiny_options(photo_folder, make_once):
    """Command line of a tiny run, but for `--workdir`."""
    prepared = make_once("tfds", lambda folder: open_photographs(DataConfig(str(photo_folder), str(folder))))
    return [*TINY, "--data", str(photo_folder), "--data-dir", str(prepared)]


@pytest.fixture(scope="session")
def tiny_config(tiny_options):
    return tyro.cli(FitConfig, args=tiny_options, default=PRESETS["quick"])


@pytest.fixture(scope="session")
def make_run(tiny_config):
    """Makes what the stages take: a tiny run in a folder, with other settings where they are given."""
    photographs = open_photographs(tiny_config.data)

    def make(folder, **settings):
        config = dataclasses.replace(tiny_config, **settings)
        console = Console(file=io.StringIO(), width=200)
        return Run(config, Path(folder), photographs, "its weights are 0", "float32", console)

    return make


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    folder: Path
    code: int
    printed: str
    options: list[str]


@pytest.fixture(scope="session")
def finished_run(tiny_options, make_once) -> FinishedRun:
    """A tiny run from the command line."""

    def options(folder):
        return [*tiny_options, "--workdir", str(folder / "run")]

    def train(folder):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = fit.main(options(folder))
        (folder / "end.json").write_text(json.dumps([code, printed.getvalue()]))

    folder = make_once("finished", train)
    return FinishedRun(folder / "run", *json.loads((folder / "end.json").read_text()), options(folder))


@pytest.fixture
def copied_run(finished_run, make_run, tmp_path):
    """A finished run that may be changed."""
    shutil.copytree(finished_run.folder, tmp_path / "run")
    return make_run(tmp_path / "run")


@pytest.fixture
def ordinary_user(tmp_path, monkeypatch):  # what is patched is undone by root
    """One who may not read and write everything, as root may."""
    if os.geteuid():
        yield
        return
    for folder in tmp_path.parents[:-2]:  # pytest's own, below the temporary one
        folder.chmod(folder.stat().st_mode | 0o011)
    os.chown(tmp_path, 65534, 65534)
    os.seteuid(65534)
    yield
    os.seteuid(0)


@contextlib.contextmanager
def running(command, **options):
    """A process that does not outlive its test, which would wait for it without end where something failed."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def describe(folder):
    """Every file below a folder, with when it was last written."""
    return {file.relative_to(folder): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
