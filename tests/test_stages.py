import dataclasses
import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from artifact_remover.checkpoint_files import find_checkpoints
from artifact_remover.config import GanSchedule
from artifact_remover.generator import build_generator
from artifact_remover.model_folder import name_export
from artifact_remover.training import gan, stages
from artifact_remover.training.perceptual import PerceptualLoss
from artifact_remover.training.run import find_result
from artifact_remover.training.stages import (
    pick_candidate,
    pretrain_discriminator,
    pretrain_generator,
    train_gan,
)
from data_prep.errors import InputError
from data_prep.pipeline import training_batches
from tests.conftest import STAGES, describe
from tests.tiny_models import load_generator


def load_candidate(run, step):
    generator = build_generator(run.config.generator)
    file = run.folder / "checkpoints" / "train_gan" / "candidates" / f"step-{step:06d}"
    tf.train.Checkpoint(generator=generator).read(str(file)).assert_existing_objects_matched()
    return generator


def arrays_equal(some, others):
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


# What a stage leaves


@pytest.mark.parametrize("stage", STAGES)
def test_no_manifest_names_a_place_on_this_machine(finished_run, photo_folder, stage):
    manifest = find_result(finished_run.folder, stage).manifest
    assert manifest["data"]["name"] == manifest["settings"]["data"]["data"] == photo_folder.name
    assert re.findall(r'"(?:[/~]|\.\./)[^"]*"', json.dumps(manifest)) == []


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_leaves_a_saved_model_with_a_manifest(finished_run, stage, tiny_options):
    manifest = find_result(finished_run.folder, stage).manifest
    settings = manifest["settings"]
    assert settings["seed"] == 0 and settings["generator"]["features"] == 8
    assert settings[stage]["steps"] == 10 and settings["data"]["patch_size"] == 32
    train = 3 if stage == "pretrain_discriminator" else 7
    assert manifest["data"]["photographs"] == {"train": train, "validation": 1, "test": 1}
    assert {"python", "artifact_remover", "tensorflow", "keras", "numpy"} == set(manifest["versions"])
    assert manifest["validation"]["psnr"] > 10 < manifest["validation_of_the_jpeg_itself"]["psnr"]
    assert [entry["step"] for entry in manifest["curve"]] == [0, 5, 10]
    assert "without the perceptual term: its weights are 0" in manifest["perceptual_features"]
    tf.saved_model.load(str(name_export(finished_run.folder, stage)))


def test_stages_name_their_parents(finished_run):
    exports = {stage: str(name_export(Path(), stage)) for stage in STAGES}  # seen from the run, which may be moved
    parents = {stage: find_result(finished_run.folder, stage).manifest["parents"] for stage in STAGES}
    assert parents["pretrain_generator"] == {}
    assert parents["pretrain_discriminator"] == {"generator": exports["pretrain_generator"]}
    assert parents["train_gan"] == {
        "generator": exports["pretrain_generator"],
        "discriminator": exports["pretrain_discriminator"],
    }


def test_the_gan_stage_starts_from_stage_one(finished_run):
    one, three = (find_result(finished_run.folder, stage).manifest for stage in (STAGES[0], STAGES[2]))
    for name in ("psnr", "ssim", "color_shift"):
        assert three["curve"][0][name] == pytest.approx(one["curve"][-1][name], rel=1e-4)


def test_the_picked_average_is_what_is_exported(finished_run, make_run):
    run, result = make_run(finished_run.folder), find_result(finished_run.folder, "train_gan")
    picked = pick_candidate(result.manifest["curve"], 0.5, 0.5)
    assert result.manifest["steps"] == picked["step"]
    averaged, exported = load_candidate(run, picked["step"]), load_generator(run, result.export)
    assert arrays_equal(exported.get_weights(), averaged.get_weights())


def test_the_average_is_neither_the_start_nor_the_generator_itself(finished_run, make_run):
    run = make_run(finished_run.folder)
    start = load_generator(run, find_result(run.folder, "pretrain_generator").export)
    itself = build_generator(run.config.generator)
    path = str(find_checkpoints(run.folder / "checkpoints" / "train_gan")[0])
    tf.train.Checkpoint(generator=itself).read(path).expect_partial().assert_existing_objects_matched()
    averaged = load_candidate(run, 10)
    kernels = [network.get_layer("correction").get_weights()[0] for network in (start, averaged, itself)]
    to_start, to_end = (np.abs(kernels[1] - kernel).mean() for kernel in (kernels[0], kernels[2]))
    assert 0 < to_end < to_start  # a short memory: closer to where the generator is than to where it began


def test_a_gan_checkpoint_gives_its_average(finished_run, make_run):
    run = make_run(finished_run.folder)
    taken = load_generator(run, run.folder / "checkpoints" / "train_gan")
    assert arrays_equal(taken.get_weights(), load_candidate(run, 10).get_weights())


def test_the_last_checkpoint_holds_the_average_and_both_optimizers(finished_run, make_run):
    run = make_run(finished_run.folder)
    path = str(find_checkpoints(run.folder / "checkpoints" / "train_gan")[0])
    averaged = build_generator(run.config.generator)
    kept = tf.train.Checkpoint(averaged_generator=averaged).read(path).expect_partial()
    kept.assert_existing_objects_matched()
    assert arrays_equal(averaged.get_weights(), load_candidate(run, 10).get_weights())
    names = {name.partition("/")[0] for name, _ in tf.train.list_variables(path)}
    assert names >= {"discriminator", "optimizer", "discriminator_optimizer"}


# What a stage does


def test_a_damaged_candidate_is_told_in_one_line(copied_run):
    one, two, three = (find_result(copied_run.folder, stage).export for stage in STAGES)
    shutil.rmtree(three)
    for file in (copied_run.folder / "checkpoints" / "train_gan" / "candidates").glob("*.index"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"^the candidate [^\n]*step-0000.. is damaged: remove [^\n]*/train_gan, "):
        train_gan(copied_run, one, two)


def test_a_finished_stage_is_not_run_again(finished_run, make_run, monkeypatch):
    before = describe(finished_run.folder)
    monkeypatch.setattr("artifact_remover.training.stages.train", lambda *_, **__: pytest.fail("trained again"))
    run = make_run(finished_run.folder)
    one = pretrain_generator(run).export
    two = pretrain_discriminator(run, one).export
    assert train_gan(run, one, two) == find_result(run.folder, "train_gan")
    assert describe(finished_run.folder) == before


def test_a_run_that_was_moved_and_killed_before_its_export_takes_no_step_again(copied_run, monkeypatch):
    exported = find_result(copied_run.folder, "train_gan").export
    weights = load_generator(copied_run, exported).get_weights()
    shutil.rmtree(exported)
    monkeypatch.setattr(gan.ArtifactRemovalGAN, "train_step", lambda *_: pytest.fail("trained"))
    one, two = (find_result(copied_run.folder, stage).export for stage in STAGES[:2])
    again = train_gan(copied_run, one, two)
    assert arrays_equal(load_generator(copied_run, again.export).get_weights(), weights)


def test_the_discriminator_is_trained_on_restored_against_clean(finished_run, make_run, monkeypatch, tmp_path):
    seen = []

    def spy(discriminator, optimizer, clean, restored):
        tf.py_function(lambda *pair: seen.append([each.numpy() for each in pair]), [clean, restored], [])
        return discriminator_step(discriminator, optimizer, clean, restored)

    discriminator_step = gan.discriminator_step
    monkeypatch.setattr(gan, "discriminator_step", spy)
    run, stage_one = make_run(tmp_path), find_result(finished_run.folder, "pretrain_generator").export
    pretrain_discriminator(run, stage_one)
    generator = load_generator(run, stage_one)
    batches = training_batches(run.photographs, "discriminator", run.config.data, run.config.seed + 1)
    assert len(seen) == 10
    for (degraded, clean), (judged_clean, judged_restored) in zip(batches.take(10), seen, strict=True):
        np.testing.assert_array_equal(judged_clean, clean)
        np.testing.assert_allclose(judged_restored, generator(degraded), atol=1e-5)
        assert np.abs(judged_restored - degraded).mean() > 1e-3  # never the JPEG


def test_pretraining_the_discriminator_leaves_the_generator_alone(finished_run, make_run):
    run = make_run(finished_run.folder)
    one, two = (find_result(run.folder, stage).manifest for stage in STAGES[:2])
    assert {entry["psnr"] for entry in two["curve"]} == {two["validation"]["psnr"]}
    assert two["validation"]["psnr"] == pytest.approx(one["validation"]["psnr"], abs=1e-3)
    assert {"accuracy_clean", "accuracy_restored"} < set(two["validation"])


def test_the_gan_stage_is_judged_by_the_perceptual_loss_that_it_is_trained_on(
    finished_run, make_run, tiny_config, monkeypatch, tmp_path
):
    def stop(*_arguments, **_settings):
        raise KeyboardInterrupt

    judged_by = []
    monkeypatch.setattr(stages, "Validation", lambda _batches, distance: judged_by.append(distance))
    monkeypatch.setattr(stages, "train", stop)
    one, two = (find_result(finished_run.folder, stage).export for stage in STAGES[:2])
    loss = PerceptualLoss(lambda clean, restored: tf.reduce_mean(clean), {"network": "a stand-in"})
    for weight in (0.1, 0.0):
        run = make_run(tmp_path, gan_loss=dataclasses.replace(tiny_config.gan_loss, perceptual=weight))
        with pytest.raises(KeyboardInterrupt):
            train_gan(dataclasses.replace(run, perceptual=loss), one, two)
    assert judged_by == [loss.distance, None]


def test_a_run_without_init_starts_as_the_jpeg_itself(finished_run):
    manifest = find_result(finished_run.folder, "pretrain_generator").manifest
    jpeg = manifest["validation_of_the_jpeg_itself"]
    assert {name: manifest["curve"][0][name] for name in jpeg} == pytest.approx(jpeg)


def test_same_seed_same_export(finished_run, make_run, tmp_path):
    keras.utils.set_random_seed(12345)  # must not matter
    one, two = (find_result(finished_run.folder, stage).export for stage in STAGES[:2])
    run = make_run(tmp_path)
    again = train_gan(run, one, two)
    steps = again.manifest["steps"]
    said = f"step {steps} of 10 is exported" if steps else "which is exported unchanged"
    assert said in run.console.file.getvalue()
    first = find_result(finished_run.folder, "train_gan")
    weights = [load_generator(make_run(tmp_path), each.export).get_weights() for each in (first, again)]
    assert arrays_equal(*weights)


@pytest.mark.parametrize(("last", "told"), [(29.5, True), (30.0, False), (30.5, False)])
def test_a_generator_that_got_worse_is_told_loudly(make_run, tmp_path, last, told):
    run = make_run(tmp_path)
    stages._warn_of_harm(run, "pretrain_generator", [{"psnr": 30.0}, {"psnr": 29.0}, {"psnr": last}])
    said = (
        "WORSE THAN AT ITS START: pretrain_generator ends at a PSNR of 29.50 dB, and began at 30.00 dB; take a lower "
        "--pretrain-generator.learning-rate or more photographs, in another --workdir.\n"
    )
    assert run.console.file.getvalue() == (said if told else "")


def test_a_gate_that_never_opened_is_told(finished_run, make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(gan, "GATE", 0.0)
    run = make_run(tmp_path, train_gan=GanSchedule(steps=1, learning_rate=1e-3))
    one, two = (find_result(finished_run.folder, stage).export for stage in STAGES[:2])
    result = train_gan(run, one, two)
    assert "train_gan: the generator took no step" in run.console.file.getvalue()
    assert (result.manifest["steps"], result.manifest["validation"]["step"]) == (0, 0)
    weights = [load_generator(run, each).get_weights() for each in (one, result.export)]
    assert arrays_equal(*weights)


# Which candidate is picked


def candidate(step, psnr=30.0, blue=-0.7, perceptual=1.0):
    return {
        "step": step,
        "psnr": psnr,
        "perceptual": perceptual,
        "red_shift": 0.2,
        "green_shift": 0.1,
        "blue_shift": blue,
    }


@pytest.mark.parametrize(
    ("picked", "candidates"),
    {
        "best perceptual score": (2, [candidate(1, perceptual=0.9), candidate(2, perceptual=0.7)]),
        "PSNR too low": (1, [candidate(1, perceptual=0.9), candidate(2, psnr=29.4, perceptual=0.1)]),
        "PSNR on the limit": (2, [candidate(1, perceptual=0.9), candidate(2, psnr=29.5, perceptual=0.1)]),
        "colors drifted": (1, [candidate(1, perceptual=0.9), candidate(2, blue=-0.1, perceptual=0.1)]),
        "colors drifted back": (2, [candidate(1, perceptual=0.9), candidate(2, blue=-0.3, perceptual=0.1)]),
        "worse than stage 1": (1, [candidate(1, perceptual=1.5)]),
        "none qualifies": (0, [candidate(1, psnr=20, perceptual=0.1), candidate(2, blue=9, perceptual=0.1)]),
        "there is none": (0, []),
        "equal": (1, [candidate(1), candidate(2)]),
    }.values(),
)
def test_pick_candidate(picked, candidates):
    assert pick_candidate([candidate(0), *candidates], 0.5, 0.5)["step"] == picked
