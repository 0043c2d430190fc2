import contextlib
import functools
import io
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tyro
from PIL import Image
from rich.console import Console

import data_prep.__main__
from artifact_remover import fit
from artifact_remover.checkpoint_files import find_checkpoints
from artifact_remover.config import PRESETS, FitConfig
from artifact_remover.model_folder import sum_up
from artifact_remover.training import gan, run, stages, vgg
from artifact_remover.training.run import StageResult, find_result
from data_prep.files import hold
from tests.conftest import STAGES, describe

WEIGHTS = Path(__file__).resolve().parents[2] / "shared" / "data" / "weights"
VGG19, LPIPS = WEIGHTS / "vgg19_conv1_1_to_conv3_4.npz", WEIGHTS / "lpips_vgg16_float16.npz"
PERCEPTUAL = ["--generator-loss.perceptual", "0.001"]
SHORT = ["--pretrain-generator.steps", "2", "--pretrain-generator.warmup-steps", "0"]


@pytest.fixture
def options(tiny_options, tmp_path):
    return [*tiny_options, "--workdir", str(tmp_path / "run")]


@pytest.fixture
def no_training(monkeypatch):
    for model in (gan.GeneratorPretraining, gan.DiscriminatorPretraining, gan.ArtifactRemovalGAN):
        monkeypatch.setattr(model, "train_step", lambda *_: pytest.fail("trained"))


def read_report(folder):
    return json.loads((folder / "report.json").read_text())


def final_files(folder):
    """The files below a folder under names that promise a whole result."""
    whole = ("*.index", "saved_model.pb", "manifest.json", "report.json", "comparison.png")
    files = (file for name in whole for file in Path(folder).rglob(name))
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def without_last_stage(finished, folder):
    """Copies a finished run as it was when its GAN stage was to begin."""
    shutil.copytree(finished, folder)
    for stage in ("checkpoints/train_gan", "tensorboard/train_gan", "saved_models/gan"):
        shutil.rmtree(folder / stage)
    (folder / "report.json").unlink()
    (folder / "comparison.png").unlink()


# All is well


def test_a_run_ends_with_a_table_a_picture_and_a_report(finished_run):
    assert finished_run.code == 0
    for word in ("JPEG", "stage 1", "stage 3", "mean", "PSNR dB", "tensorboard --logdir", "7 photographs of"):
        assert word in finished_run.printed
    with Image.open(finished_run.folder / "comparison.png") as picture:
        assert picture.width > 4 * 80 * 3  # JPEG, stage 1, stage 3 and clean, enlarged
    report = read_report(finished_run.folder)
    [(quality, judged)] = report["qualities"].items()
    assert (quality, report["chroma_subsampling"]) == ("10", "4:2:0")
    assert set(judged["summary"]) == {"JPEG itself", "stage 1", "stage 3"} and judged["pictures"] == 1
    for who in ("stage 1", "stage 3"):
        means = judged["summary"][who]["mean"]
        gain = means["psnr"] - judged["summary"]["JPEG itself"]["mean"]["psnr"]
        assert judged["summary"][who]["psnr_gain"]["mean"] == pytest.approx(gain)
        assert report["stages"][who]["stage"] in STAGES
    assert sum(file.name == "saved_model.pb" for file in final_files(finished_run.folder)) == 3


def test_the_report_is_of_the_exports(finished_run):
    scores = read_report(finished_run.folder)["qualities"]["10"]["each"][0]["scores"]
    before, after = scores["JPEG itself"], scores["stage 1"]
    assert before != after and before["psnr"] > 20


def test_the_same_command_again_trains_nothing(finished_run, no_training, capsys):
    kept = ("saved_models", "checkpoints", "tensorboard")
    before = [describe(finished_run.folder / name) for name in kept]
    report = read_report(finished_run.folder)
    assert fit.main(finished_run.options) == 0
    assert [describe(finished_run.folder / name) for name in kept] == before
    assert read_report(finished_run.folder) == report
    assert "stage 3" in capsys.readouterr().out


def test_a_run_without_vgg_says_so_loudly_of_the_stages_that_want_it(finished_run):
    assert "NO PERCEPTUAL LOSS" not in finished_run.printed  # its weights are 0
    stages = read_report(finished_run.folder)["stages"]
    stages["stage 3"]["settings"]["gan_loss"]["perceptual"] = 0.1
    console = Console(file=io.StringIO(), width=200)
    fit._say_what_was_missing(stages, console)
    assert console.file.getvalue().startswith("NO PERCEPTUAL LOSS in stage 3: none, trained without")
    assert console.file.getvalue().count("\n") == 1
    manifests = [*read_report(finished_run.folder)["stages"].values()]
    manifests += [find_result(finished_run.folder, stage).manifest for stage in STAGES]
    for manifest in manifests:
        assert manifest["perceptual_features"].startswith("none, trained without the perceptual term")


@pytest.mark.parametrize("loss", ["generator-loss", "gan-loss"])  # either needs the features
def test_without_a_network_training_goes_on_and_says_why(options, loss, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(vgg, "_why_unreachable", lambda url: "the moon is in the way")
    runs = []
    monkeypatch.setattr(fit, "_run_stages", runs.append)
    assert fit.main([*options, f"--{loss}.perceptual", "0.001"]) == 0
    assert not runs[0].perceptual_distance and "the moon is in the way" in runs[0].perceptual
    printed = capsys.readouterr().out
    assert printed.count("NO PERCEPTUAL LOSS") == 1 and "--vgg-weights FILE brings it back" in printed


def test_a_stage_that_wants_no_features_is_not_told_that_there_are_none(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(vgg, "_why_unreachable", lambda url: "the moon is in the way")
    monkeypatch.setattr(fit, "_run_stages", lambda run: None)
    assert fit.main([*options, "--gan-loss.perceptual", "0.1", "--stage", "pretrain_generator"]) == 0
    assert "NO PERCEPTUAL LOSS" not in capsys.readouterr().out


@pytest.mark.skipif(not (VGG19.is_file() and LPIPS.is_file()), reason=f"no weights in {WEIGHTS}")
@pytest.mark.parametrize(
    ("features", "description", "file"),
    [
        (["--vgg-weights", str(VGG19)], {"network": "vgg19", "layer": "block3_conv4"}, VGG19),
        pytest.param(
            ["--perceptual-features", "lpips", "--perceptual-weights", str(WEIGHTS)],
            {"network": "lpips v0.1, vgg16"},
            LPIPS,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["vgg19", "lpips"],
)
def test_with_genuine_weights_the_perceptual_term_is_trained_on_and_logged(
    options, features, description, file, tmp_path, capsys
):
    steps = ["--pretrain-generator.steps", "10", "--pretrain-generator.validate-every", "10"]  # every tenth is logged
    assert fit.main([*options, "--stage", "pretrain_generator", *steps, *PERCEPTUAL, *features]) == 0
    assert "NO PERCEPTUAL LOSS" not in capsys.readouterr().out
    manifest = find_result(tmp_path / "run", "pretrain_generator").manifest
    assert manifest["perceptual_features"] == description | {"source": file.name, "sha256": sum_up(file)}
    [events] = (tmp_path / "run" / "tensorboard" / "pretrain_generator" / "train").iterdir()
    values = [value for event in tf.compat.v1.train.summary_iterator(str(events)) for value in event.summary.value]
    logged = {value.tag: float(tf.make_ndarray(value.tensor)) for value in values}
    terms = [logged[f"train/{name}"] for name in ("loss", "pixel", "perceptual")]
    assert terms[0] == pytest.approx(terms[1] + 0.001 * terms[2], rel=1e-4) and terms[2] > 0


@pytest.mark.parametrize(
    ("finished", "options", "called"),
    [
        ("", [], [("1",), ("2", "1"), ("3", "1", "2")]),
        ("", ["--init", "0"], [("1", "0"), ("2", "1"), ("3", "1", "2")]),
        ("", ["--stage", "pretrain_generator"], [("1",)]),
        ("1", ["--stage", "pretrain_discriminator"], [("2", "1")]),
        ("12", ["--stage", "train_gan"], [("3", "1", "2")]),
        ("2", ["--stage", "train_gan", "--init", "0"], [("3", "0", "2")]),
    ],
)
def test_stages_run_from_the_one_before(tiny_options, make_run, monkeypatch, finished, options, called):
    calls = []
    numbers = dict(zip(STAGES, "123", strict=True))

    def result(stage):
        return StageResult(stage, Path(numbers[stage]), {})

    def record(stage, _run, *parents):
        calls.append((numbers[stage], *(str(parent) for parent in parents if parent)))
        return result(stage)

    for stage in STAGES:
        monkeypatch.setattr(stages, stage, functools.partial(record, stage))
    found = {stage: result(stage) for stage in STAGES if numbers[stage] in finished}
    monkeypatch.setattr(run, "find_result", lambda folder, stage: found.get(stage))
    config = tyro.cli(FitConfig, args=[*tiny_options, *options], default=PRESETS["quick"])
    fit._run_stages(make_run(".", stage=config.stage, init=config.init))
    assert calls == called


def test_init_starts_from_those_weights(finished_run, options, tmp_path):
    init = finished_run.folder / "checkpoints" / "pretrain_generator"
    still = [*options, *SHORT, "--pretrain-generator.learning-rate", "1e-9", "--stage", "pretrain_generator"]
    assert fit.main([*still, "--init", str(tmp_path)]) == 2
    assert fit.main([*still, "--init", str(init)]) == 0  # a mended command may use the same folder
    before, after = (find_result(folder, "pretrain_generator") for folder in (finished_run.folder, tmp_path / "run"))
    assert after.manifest["curve"][0]["psnr"] == pytest.approx(before.manifest["curve"][-1]["psnr"], abs=1e-4)
    assert after.manifest["parents"] == {"generator": os.path.relpath(init, tmp_path / "run")}
    models = [tf.saved_model.load(str(each.export)) for each in (before, after)]  # held: variables live as long
    before, after = (model.signatures["serving_default"] for model in models)
    for a, b in zip(before.variables, after.variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_a_folder_may_have_any_name(finished_run, options, tmp_path, capsys):
    folder = tmp_path / "a*b[x]"  # as a pattern it would not find itself, as markup it would not be seen
    without_last_stage(finished_run.folder, folder)
    for lost in ("saved_models/pretrain_generator/1", "saved_models/pretrain_discriminator"):
        shutil.rmtree(folder / lost)
    shutil.rmtree(folder / "checkpoints" / "pretrain_discriminator")
    command = [*options, "--workdir", str(folder)]
    assert fit.main([*command, "--stage", "pretrain_generator"]) == 0  # from its last checkpoint
    before, after = (find_result(run, "pretrain_generator").manifest for run in (finished_run.folder, folder))
    assert after["curve"] == before["curve"]  # with its seconds
    assert fit.main([*command, "--stage", "pretrain_discriminator"]) == 0  # from that export
    printed = capsys.readouterr().out
    for what, where in (("tensorboard --logdir", "tensorboard"), ("models:", "saved_models")):
        assert f"{what} {folder / where}\n" in printed


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        ("", "quick"),
        ("--data mine/Pictures", "quick-Pictures"),
        ("blind --data mine/Pictures", "blind-Pictures"),
        ("div2k", "div2k"),
        ("div2k --data mine/Pictures", "div2k-Pictures"),
        ("blind --data mine/Pictures --workdir elsewhere", None),
    ],
)
def test_each_preset_has_a_folder_of_its_own_for_the_same_photographs(command, folder, monkeypatch):
    folders = []
    monkeypatch.setattr(fit, "fit", lambda config, folder: folders.append(folder))
    assert fit.main(command.split()) == 0
    assert folders == [Path("runs", folder) if folder else Path("elsewhere")]


# Bad input


def broken_folder(folder, name):
    photos = folder / name
    if name != "missing":
        photos.mkdir()
    if name == "text":
        (photos / "note.jpg").write_text("this is no picture")
    return str(photos)


BAD = {
    "missing folder": (lambda tmp, run: ["--data", broken_folder(tmp, "missing")], "no such photographs"),
    "empty folder": (lambda tmp, run: ["--data", broken_folder(tmp, "empty")], "no PNG, JPEG, WebP, AVIF or TIFF file"),
    "batch too large": (lambda tmp, run: ["--batch-size", "100"], "choose a smaller --batch-size: 100"),
    "batch too large for the discriminator": (
        lambda tmp, run: ["--batch-size", "20"],
        "3 photographs of 4 patches do not fill a batch for the discriminator, choose a smaller --batch-size: 20",
    ),
    "patch too large": (lambda tmp, run: ["--patch-size", "96"], "choose a smaller --patch-size"),
    "stage too early": (lambda tmp, run: ["--stage", "train_gan"], "needs pretrain_generator, .* run --stage"),
    "no such init": (lambda tmp, run: ["--init", str(tmp / "nothing")], "nothing is not a folder"),
    "init without a model": (lambda tmp, run: ["--init", str(tmp)], "is not an export of this project"),
    "init of another size": (
        lambda tmp, run: ["--init", f"{run}/saved_models/pretrain_generator/1", "--generator.features", "12"],
        "holds no generator of this size: give --generator.features 8, as it was trained with",
    ),
    "init from a checkpoint of another size": (
        lambda tmp, run: ["--init", f"{run}/checkpoints/pretrain_generator", "--generator.growth", "6"],
        "holds no generator of this size",
    ),
    "init from a discriminator": (
        lambda tmp, run: ["--init", f"{run}/saved_models/pretrain_discriminator/1"],
        "holds no generator of this size",
    ),
    "no such vgg": (
        lambda tmp, run: [*PERCEPTUAL, "--vgg-weights", str(tmp / "vgg.npz")],
        "no such VGG19 weights file: .*vgg.npz",
    ),
    "text as vgg": (lambda tmp, run: [*PERCEPTUAL, "--vgg-weights", __file__], "VGG19 weights: .*test_fit.py"),
    "no lpips weights": (
        lambda tmp, run: [*PERCEPTUAL, "--perceptual-features", "lpips", "--perceptual-weights", str(tmp / "none")],
        "no such folder with the weights",
    ),
    "workdir below a file": (lambda tmp, run: ["--workdir", f"{__file__}/run"], "Not a directory: .*another --workdir"),
    "workdir in /proc": (lambda tmp, run: ["--workdir", "/proc/run"], ": /proc/run; .*another --workdir"),
    "workdir is a file": (lambda tmp, run: ["--workdir", __file__], "File exists: .*another --workdir"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, finished_run, options, tmp_path, capfd):
    make, message = BAD[case]
    assert fit.main([*options, *make(tmp_path, finished_run.folder)]) == 2
    printed = capfd.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1, printed
    assert re.search(message, printed), printed
    assert not final_files(tmp_path) and not (tmp_path / "run").exists()


def test_a_refused_run_leaves_folders_that_were_there_and_what_others_put_beside_it(options, tmp_path, capfd):
    refused = [*options, "--stage", "train_gan", "--workdir"]
    (tmp_path / "there").mkdir()
    for folder in ("there", "new/runs/a"):
        assert fit.main([*refused, str(tmp_path / folder)]) == 2
    assert (tmp_path / "there").is_dir() and not (tmp_path / "new").exists()
    with hold(tmp_path / "new" / "runs" / "b" / ".lock"):
        assert fit.main([*refused, str(tmp_path / "new" / "runs" / "a")]) == 2
    assert [folder.name for folder in (tmp_path / "new" / "runs").iterdir()] == ["b"]


def test_a_flipped_bit_in_what_was_prepared_is_one_line(options, tmp_path, capfd):
    data_dir = tmp_path / "tfds"
    command = [*options, "--data-dir", str(data_dir)]
    assert data_prep.__main__.main([options[options.index("--data") + 1], "--data-dir", str(data_dir)]) == 0
    [file] = data_dir.rglob("*.tfrecord-*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    capfd.readouterr()
    assert fit.main(command) == 2
    assert "error: what was prepared is damaged, remove it and give the same command" in capfd.readouterr().err


def test_a_text_file_named_jpg_is_named_and_then_nothing_is_left(options, tmp_path, capfd, caplog):
    assert fit.main([*options, "--data", broken_folder(tmp_path, "text")]) == 2
    assert "left out: not a usable picture" in caplog.text and "note.jpg" in caplog.text
    assert "error: no usable photograph in the folder" in capfd.readouterr().err
    assert not final_files(tmp_path)


@pytest.mark.parametrize("wrong", [["--stage", "paint"], ["--quality", "500"], ["--gan-loss.grid", "-1"]])
def test_a_wrong_option_is_exit_code_2(wrong, capfd):
    with pytest.raises(SystemExit) as stop:
        fit.main(wrong)
    assert stop.value.code == 2
    assert "Traceback" not in capfd.readouterr().err


def test_a_wrong_preset_is_told_which_there_are(capfd):
    assert fit.main(["blnd", "--help"]) == 2
    assert capfd.readouterr() == ("", "error: no such preset, give quick or blind or div2k: blnd\n")


# The disk is full


@pytest.fixture
def disk(tmp_path):
    """A disk of its own of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], stderr=subprocess.DEVNULL, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("may not mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk, free):
    """Leaves that many bytes free."""
    room = os.statvfs(disk)
    with contextlib.suppress(OSError), open(disk / "filler", "wb") as filler:
        filler.write(bytes(room.f_bavail * room.f_frsize - free))
    return disk / "filler"


def check_full(code, capfd):
    printed = capfd.readouterr().err
    assert code == 2 and printed.startswith("error: ") and printed.count("\n") == 1, printed
    assert "No space left on device" in printed and "; make room or choose another --workdir" in printed
    assert "{{" not in printed and "[Op:" not in printed


def full_at(*sizes, default):
    """Numbers of bytes that are free; all but the default one are slow tests."""
    return [size if size == default else pytest.param(size, marks=pytest.mark.slow) for size in sizes]


@pytest.mark.parametrize("free", full_at(0, 12_000, 60_000, 200_000, 500_000, default=500_000))
def test_a_full_disk_is_one_line_and_the_same_command_goes_on_later(options, disk, free, capfd):
    command = [*options, *SHORT, "--stage", "pretrain_generator", "--workdir", str(disk / "run")]
    filler = fill(disk, free)
    check_full(fit.main(command), capfd)
    assert not (disk / "run" / "report.json").exists() and not find_result(disk / "run", "pretrain_generator")
    filler.unlink()
    assert fit.main(command) == 0
    assert read_report(disk / "run")["stages"]["stage 1"]["steps"] == 2


@pytest.mark.parametrize("free", full_at(24_000, 100_000, 200_000, 500_000, 800_000, default=100_000))
def test_a_disk_that_is_full_in_the_last_stage_loses_no_finished_stage(finished_run, options, disk, free, capfd):
    without_last_stage(finished_run.folder, disk / "run")
    finished = describe(disk / "run" / "saved_models")
    fill(disk, free)
    check_full(fit.main([*options, "--workdir", str(disk / "run")]), capfd)
    assert describe(disk / "run" / "saved_models").items() >= finished.items()
    assert not (disk / "run" / "report.json").exists() and not find_result(disk / "run", "train_gan")


def test_a_read_only_disk_is_one_line(options, disk, capfd):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert fit.main([*options, "--workdir", str(disk / "run")]) == 2
    assert capfd.readouterr().err.startswith("error: Read-only file system: ")


# Processes that are stopped

SAVING_EVERY_STEP = """
import sys
from artifact_remover import fit
from data_prep.quiet import quiet_keras
with quiet_keras():
    from artifact_remover.training import checkpoints, gan
checkpoints.SECONDS_BETWEEN = 0
gan.GATE = 10.0
sys.exit(fit.main(sys.argv[1:]))
"""


def start(options, **environment):
    command = [sys.executable, "-c", SAVING_EVERY_STEP, *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, env=os.environ | environment)


def wait_for_checkpoint(process, folder, step):
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if any(int(file.stem.partition("-")[2]) >= step for file in folder.glob("ckpt-*.index")):
            return
        time.sleep(0.005)
    process.kill()
    pytest.fail(f"no checkpoint: {process.communicate()}")


def test_ctrl_c_saves_and_says_how_to_go_on_whatever_other_programs_run_keras_with(options, tmp_path):
    (tmp_path / "keras.json").write_text(
        json.dumps({"backend": "jax", "image_data_format": "channels_first", "floatx": "float64", "epsilon": 1e-7})
    )
    folder = tmp_path / "run" / "checkpoints" / "pretrain_generator"
    long = [*options, "--pretrain-generator.steps", "5000"]
    process = start(long, KERAS_BACKEND="jax", KERAS_HOME=str(tmp_path))
    wait_for_checkpoint(process, folder, 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    backend, printed = errors.splitlines()
    assert backend == "this runs on TensorFlow, KERAS_BACKEND=jax is passed over"
    assert printed.startswith("error: stopped at step ")
    assert "of 5000, saved; the same command goes on from there" in printed
    step = int(printed.split()[4])
    assert find_checkpoints(folder)[0] == folder / f"ckpt-{step}"


def test_a_second_process_in_the_same_folder_is_refused_before_it_changes_anything(options, tmp_path, capfd):
    folder = tmp_path / "run"
    folder.mkdir()
    with hold(folder / ".lock"):
        assert fit.main([*options, "--seed", "7"]) == 2
    holder = f"process {os.getpid()} on {platform.node()}"
    advice = "let it end, or choose another --workdir"
    assert capfd.readouterr().err == f"error: {holder} is at work in {folder}: {advice}\n"
    assert [file.name for file in folder.iterdir()] == [".lock"]


def test_ctrl_c_outside_of_training_is_one_line(options, monkeypatch, capsys):
    def interrupted(_config):
        raise KeyboardInterrupt

    monkeypatch.setattr("data_prep.sources.open_photographs", interrupted)
    assert fit.main(options) == 130
    assert capsys.readouterr().err == "error: stopped; the same command goes on\n"


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_whole_checkpoint_to_its_end(finished_run, options, tmp_path, capsys):
    without_last_stage(finished_run.folder, tmp_path / "run")
    finished = [describe(tmp_path / "run" / "checkpoints" / stage) for stage in STAGES[:2]]
    longer = [*options, "--train-gan.steps", "60", "--train-gan.validate-every", "20"]
    process = start([*longer, "--stage", "train_gan"])
    wait_for_checkpoint(process, tmp_path / "run" / "checkpoints" / "train_gan", 6)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not find_result(tmp_path / "run", "train_gan") and not (tmp_path / "run" / "report.json").exists()
    # Two are kept, and a third where the kill came between the writing of the newest and the removal of the oldest.
    cut_off, before, *_ = find_checkpoints(tmp_path / "run" / "checkpoints" / "train_gan")
    cut_off.with_suffix(".data-00000-of-00001").write_bytes(b"")

    assert fit.main(longer) == 0
    printed = capsys.readouterr().out
    assert f"{cut_off} is damaged, the one before it is used\n" in printed
    assert f": going on from step {before.name.removeprefix('ckpt-')} of 60\n" in printed
    curve = find_result(tmp_path / "run", "train_gan").manifest["curve"]
    assert [entry["step"] for entry in curve] == [0, 20, 40, 60]
    assert find_checkpoints(tmp_path / "run" / "checkpoints" / "train_gan")[0].name == "ckpt-60"
    assert [describe(tmp_path / "run" / "checkpoints" / stage) for stage in STAGES[:2]] == finished
    seconds = [entry["seconds"] for entry in curve]
    assert np.all(np.diff(seconds) > 0)
