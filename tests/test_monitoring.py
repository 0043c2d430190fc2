import io
import json
import logging
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from artifact_remover.training.monitoring import Monitor
from tests.conftest import STAGES

# TensorBoard warns of what it carries inside itself.
pytestmark = pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated:DeprecationWarning")


def launch(folder):
    """Starts a real TensorBoard that shows a folder; returns a function that asks it over HTTP."""
    from tensorboard import program

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    tensorboard = program.TensorBoard()
    tensorboard.configure(argv=[None, "--logdir", str(folder), "--port", "0", "--load_fast", "false"])
    url = tensorboard.launch()

    def get(path, **query):
        with urllib.request.urlopen(f"{url}data/plugin/{path}?{urllib.parse.urlencode(query)}") as answer:
            return answer.read()

    return get


@pytest.fixture(scope="module")
def get(finished_run):
    """Asks a real TensorBoard that shows a finished run."""
    return launch(finished_run.folder / "tensorboard")


@pytest.fixture(scope="module")
def scalars(get):
    """Tags and curves by run: `scalars(run, tag)` is a list of (step, value)."""
    tags = json.loads(get("scalars/tags"))

    def scalars(run, tag):
        assert tag in tags[run], sorted(tags[run])
        return [(step, value) for _, step, value in json.loads(get("scalars/scalars", run=run, tag=tag))]

    return scalars


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        ("pretrain_generator", "loss pixel gradient_norm learning_rate"),
        ("pretrain_discriminator", "discriminator_loss accuracy_clean accuracy_restored learning_rate"),
        (
            "train_gan",
            "loss pixel adversarial gradient_norm learning_rate discriminator_learning_rate discriminator_loss "
            "discriminator_gradient_norm accuracy_clean accuracy_restored generator_steps",
        ),
    ],
)
def test_tensorboard_serves_what_training_reports(scalars, stage, names):
    for name in (*names.split(), "steps_per_second", "data_wait_share"):
        [(step, value)] = scalars(f"{stage}/train", f"train/{name}")
        assert step == 10 and np.isfinite(value)
    [(_, share)] = scalars(f"{stage}/train", "train/data_wait_share")
    assert 0 <= share <= 1


@pytest.mark.parametrize("stage", STAGES)
def test_tensorboard_serves_the_jpegs_own_line_in_the_same_chart(scalars, stage):
    for name in ("psnr", "ssim", "psnr_b"):
        restored, jpeg = (scalars(f"{stage}/{run}", f"validation/{name}") for run in ("validation", "jpeg"))
        assert [step for step, _ in restored] == [step for step, _ in jpeg] == [0, 5, 10]
        assert len({value for _, value in jpeg}) == 1
    assert scalars("pretrain_generator/validation", "validation/psnr")[0] == pytest.approx(
        scalars("pretrain_generator/jpeg", "validation/psnr")[0]
    )


@pytest.mark.parametrize("stage", ["pretrain_discriminator", "train_gan"])
def test_tensorboard_serves_the_discriminators_accuracy(scalars, stage):
    for name in ("accuracy_clean", "accuracy_restored"):
        assert all(0 <= value <= 1 for _, value in scalars(f"{stage}/validation", f"validation/{name}"))


@pytest.mark.parametrize("stage", STAGES)
def test_tensorboard_serves_before_after_and_clean(get, stage):
    run, tag = f"{stage}/validation", "before | after | clean"
    assert tag in json.loads(get("images/tags"))[run]
    pictures = json.loads(get("images/images", run=run, tag=tag, sample=0))
    assert [picture["step"] for picture in pictures] == [0, 5, 10]
    with Image.open(io.BytesIO(get("images/individualImage?" + pictures[-1]["query"]))) as picture:
        assert picture.format == "PNG" and picture.size == (3 * 32, 32)
        before, _, clean = np.split(np.asarray(picture.convert("RGB")).astype(int), 3, axis=1)
    assert 0 < np.abs(before - clean).mean() < 40


@pytest.fixture
def printed():
    return io.StringIO()


@pytest.fixture
def monitor(tmp_path, printed):
    with Monitor("train_gan", tmp_path, 20, 0, Console(file=printed, width=120)) as monitor:
        yield monitor


def test_the_bar_moves_while_the_generator_waits(monitor):
    monitor.training(7, {"loss": float("nan"), "discriminator_loss": 0.7}, 0.1, 0.01)
    assert monitor._progress.tasks[0].completed == 7


def test_a_validation_is_a_line_beside_the_jpeg(monitor, printed):
    scores, jpeg = {"psnr": 28.5, "ssim": 0.8, "accuracy_clean": 0.75}, {"psnr": 28.0, "ssim": 0.79}
    monitor.validation(10, scores, jpeg, np.zeros([1, 8, 24, 3], np.uint8))
    line = "train_gan 10/20: PSNR 28.50 dB (+0.50 over the JPEG), ssim 0.800, accuracy clean 0.750"
    assert line in printed.getvalue().splitlines()


def test_the_bar_tells_of_the_last_validation_even_after_the_last_step(monitor):
    scores, jpeg, picture = {"psnr": 28.5}, {"psnr": 28.0}, np.zeros([1, 8, 24, 3], np.uint8)
    monitor.validation(0, scores, jpeg, picture)
    assert monitor._progress.tasks[0].fields["state"] == "+0.50 dB over the JPEG"  # there is no loss yet
    monitor.training(20, {"loss": 0.5}, 0.1, 0.01)
    monitor.validation(20, {"psnr": 29.0}, jpeg, picture)
    assert monitor._progress.tasks[0].fields["state"] == "loss 0.50000, +1.00 dB over the JPEG"


@pytest.mark.parametrize("saved", [0, 30])
def test_steps_that_a_kill_took_back_are_shown_once(tmp_path, saved):
    scores, picture = {"psnr": 28.5}, np.zeros([1, 8, 24, 3], np.uint8)
    for first, last, loss in ((0, 50, 1.0), (saved, 60, 2.0)):  # the second goes on from what the first has saved
        with Monitor("train_gan", tmp_path, 60, first, Console(file=io.StringIO())) as monitor:
            if not first:
                monitor.validation(0, scores, scores, picture)
            for step in range(first + 1, last + 1):
                monitor.training(step, {"loss": loss}, 0.1, 0.01)
                if step % 15 == 0:
                    monitor.validation(step, scores, scores, picture)
        time.sleep(1)  # files are named after the second in which a process has begun them
    get = launch(tmp_path)
    curve = json.loads(get("scalars/scalars", run="train_gan/train", tag="train/loss"))
    assert [(step, value) for _, step, value in curve] == [
        (step, 1.0 if step <= saved else 2.0) for step in (10, 20, 30, 40, 50, 60)
    ]
    for run in ("validation", "jpeg"):
        curve = json.loads(get("scalars/scalars", run=f"train_gan/{run}", tag="validation/psnr"))
        assert [step for _, step, _ in curve] == [0, 15, 30, 45, 60]
