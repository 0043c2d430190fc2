import dataclasses
import json
import shutil

import pytest

from artifact_remover.config import GeneratorConfig
from artifact_remover.model_folder import PUBLISHED, name_export, read_manifest
from artifact_remover.training.perceptual import PerceptualLoss
from artifact_remover.training.run import began_without_features, begin_stage, find_result, wants_features
from artifact_remover.training.stages import pretrain_generator
from data_prep.command_line import word_for_terminal
from data_prep.errors import InputError
from tests.conftest import STAGES

FEATURES = PerceptualLoss(lambda clean, restored: 0.0, {})


@pytest.mark.parametrize("role", ["seed", "generator", "data"])
def test_other_settings_in_the_same_folder_are_refused(finished_run, make_run, tiny_config, role):
    changed, named = {
        "seed": (5, "seed 0, now 5$"),
        "generator": (dataclasses.replace(tiny_config.generator, growth=6), "generator.growth 4, now 6$"),
        "data": (dataclasses.replace(tiny_config.data, batch_size=3), "before: batch_size 2, now 3$"),
    }[role]
    with pytest.raises(InputError, match=named) as raised:
        pretrain_generator(make_run(finished_run.folder, **{role: changed}))
    assert str(raised.value).count(", now ") == 1 and "choose another workdir" in str(raised.value)


def test_of_many_other_settings_a_few_are_told_after_the_advice(finished_run, make_run, tiny_config):
    degradation = dataclasses.replace(tiny_config.data.degradation, first_quality="5-80", chroma_subsampling="both")
    data = dataclasses.replace(tiny_config.data, gray_share=0.5, patch_size=64, degradation=degradation)
    run = make_run(finished_run.folder, data=data, generator=GeneratorConfig(finer=(8, 8)))
    with pytest.raises(InputError) as raised:
        pretrain_generator(run)
    assert word_for_terminal(raised.value) == (
        f"{finished_run.folder} holds pretrain_generator with other settings: choose another --workdir, or give the "
        "settings of before: --patch-size 32, now 64; --gray-share 0.0, now 0.5; --chroma-subsampling 4:2:0, now both; "
        "and 5 more"
    )
    with pytest.raises(InputError, match="before: generator.finer none, now 8 8$"):
        pretrain_generator(make_run(run.folder, generator=dataclasses.replace(tiny_config.generator, finer=(8, 8))))


def test_other_photographs_and_exclusions_are_told_without_their_hashes(copied_run):
    def tell(**change):
        kept = json.loads(file.read_text())
        change_settings(copied_run, STAGES[0], lambda settings: settings.update(change))
        with pytest.raises(InputError) as raised:
            pretrain_generator(copied_run)
        file.write_text(json.dumps(kept))
        return word_for_terminal(raised.value).partition(" of before: ")[2]

    file = copied_run.folder / "checkpoints" / STAGES[0] / "settings.json"
    data = {**json.loads(file.read_text())["data"], "data": "sample_photos"}
    others = {"photographs": "sample_photos/1.0.0", "content": "0123456789abcdef"}
    assert tell(data=data, **others) == f"--data sample_photos, now {copied_run.config.data.data}"
    assert tell(**others) == "other photographs or graphics"
    assert tell(excluded="0123456789abcdef") == "other pictures to --exclude"


def test_settings_of_other_stages_may_change(finished_run, make_run, tiny_config):
    longer = dataclasses.replace(tiny_config.train_gan, steps=20)
    sharper = dataclasses.replace(tiny_config.gan_loss, adversarial=0.5)
    run = make_run(finished_run.folder, train_gan=longer, gan_loss=sharper)
    assert pretrain_generator(run).manifest["steps"] == 10


def test_a_folder_that_is_no_finished_stage_is_no_result(tmp_path):
    assert find_result(tmp_path, "train_gan") is None
    broken = tmp_path / "saved_models" / "gan" / "1"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text(json.dumps({"stage": "train_gan"})[:-3])
    with pytest.raises(InputError, match="is not an export"):
        find_result(tmp_path, "train_gan")


def test_a_changed_data_set_is_not_gone_on_with(copied_run):
    settings_file = copied_run.folder / "checkpoints" / "pretrain_generator" / "settings.json"
    settings = json.loads(settings_file.read_text())
    yesterday = {**settings, "photographs": "photo_folder/of_yesterday/1.0.0"}
    settings_file.write_text(json.dumps(yesterday))
    assert pretrain_generator(copied_run)  # the same pictures, of other dates
    earlier = {name: value for name, value in yesterday.items() if name != "content"}  # an earlier version kept none
    for changed in ({**yesterday, "content": "0123456789abcdef"}, earlier):
        settings_file.write_text(json.dumps(changed))
        with pytest.raises(InputError, match="settings of before: other photographs or graphics$"):
            pretrain_generator(copied_run)
    settings_file.write_text(json.dumps({**earlier, "photographs": settings["photographs"]}))
    assert pretrain_generator(copied_run)


def test_damaged_settings_are_told_in_one_line(copied_run):
    file = copied_run.folder / "checkpoints" / "pretrain_generator" / "settings.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(InputError, match=rf"^{file} is damaged: choose another workdir$"):
        pretrain_generator(copied_run)


def change_settings(run, stage, change):
    """Makes a stage one that was begun with other settings."""
    file = run.folder / "checkpoints" / stage / "settings.json"
    settings = json.loads(file.read_text())
    change(settings)
    file.write_text(json.dumps(settings))


def test_a_run_remembers_that_a_stage_which_wants_features_was_begun_without(copied_run, tmp_path):
    assert not began_without_features(copied_run.folder)  # none wants any
    change_settings(copied_run, "train_gan", lambda settings: settings["gan_loss"].update(perceptual=0.1))
    assert began_without_features(copied_run.folder)
    change_settings(copied_run, "train_gan", lambda settings: settings.update(perceptual_features=True))
    assert not began_without_features(copied_run.folder)
    assert not began_without_features(tmp_path)


@pytest.mark.parametrize("kept", [True, "vgg19"])  # an earlier version wrote only that there were features
def test_features_are_compared_for_a_stage_that_wants_them(copied_run, make_run, tiny_config, kept):
    loss = dataclasses.replace(tiny_config.generator_loss, perceptual=0.1)
    run = make_run(copied_run.folder, generator_loss=loss)

    def want(settings):
        settings["generator_loss"]["perceptual"] = 0.1
        settings["perceptual_features"] = kept

    change_settings(run, "pretrain_generator", want)
    assert begin_stage(run, "pretrain_generator", {})  # finished, so that it does not matter
    shutil.rmtree(find_result(run.folder, "pretrain_generator").export)
    with pytest.raises(InputError, match="perceptual_features vgg19, now none$"):
        begin_stage(run, "pretrain_generator", {})
    assert not begin_stage(dataclasses.replace(run, perceptual=FEATURES), "pretrain_generator", {})


def test_a_stage_that_wants_no_features_goes_on_whether_there_are_any_or_not(copied_run):
    shutil.rmtree(find_result(copied_run.folder, "pretrain_generator").export)
    assert not begin_stage(copied_run, "pretrain_generator", {})
    assert not begin_stage(dataclasses.replace(copied_run, perceptual=FEATURES), "pretrain_generator", {})


def test_a_run_that_was_begun_from_other_weights_is_not_gone_on_with_without_them(copied_run):
    parents = {"generator": name_export(PUBLISHED.parent, STAGES[0])}
    shutil.rmtree(find_result(copied_run.folder, STAGES[0]).export)
    with pytest.raises(InputError, match="before: init none, now [^;]*pretrain_generator/1$"):
        begin_stage(copied_run, STAGES[0], parents)
    change_settings(copied_run, STAGES[0], lambda settings: settings["parents"].update(generator="../earlier/1"))
    with pytest.raises(InputError, match="before: init ../earlier/1, now none$"):
        begin_stage(copied_run, STAGES[0], {})


def test_a_setting_that_is_newer_than_the_run_had_its_default(copied_run, make_run, tiny_config):
    shutil.rmtree(find_result(copied_run.folder, "pretrain_generator").export)
    change_settings(copied_run, "pretrain_generator", lambda settings: settings["generator_loss"].pop("floor"))
    change_settings(copied_run, "pretrain_generator", lambda settings: settings["generator"].pop("residual_blocks"))
    assert not begin_stage(copied_run, "pretrain_generator", {})
    other = make_run(copied_run.folder, generator_loss=dataclasses.replace(tiny_config.generator_loss, floor=1e-5))
    with pytest.raises(InputError, match="before: generator_loss.floor 0.0001, now 1e-05$"):
        begin_stage(other, "pretrain_generator", {})


def test_a_setting_that_is_no_choice_any_more_must_have_been_what_it_is_now(copied_run):
    shutil.rmtree(find_result(copied_run.folder, "train_gan").export)
    parents = {
        "generator": name_export(copied_run.folder, STAGES[0]),
        "discriminator": name_export(copied_run.folder, STAGES[1]),
    }
    before = {"gate": 0.65, "ema": 0.99, "discriminator_steps": 1, "max_colour_shift": 0.5}  # old spelling
    change_settings(copied_run, "train_gan", lambda settings: settings.update(perceptual_layer="block3_conv4"))
    change_settings(copied_run, "train_gan", lambda settings: settings["train_gan"].update(before))
    assert not begin_stage(copied_run, "train_gan", parents)
    change_settings(copied_run, "train_gan", lambda settings: settings["train_gan"].update(discriminator_steps=2))
    # It cannot be given any more, so that another folder is the only way.
    with pytest.raises(InputError, match=r"settings: choose another workdir: train_gan.discriminator_steps 2, now 1$"):
        begin_stage(copied_run, "train_gan", parents)


def test_a_run_from_before_there_were_crops_looked_at_whole_patches(copied_run, make_run, tiny_config):
    shutil.rmtree(find_result(copied_run.folder, "pretrain_generator").export)

    def begin_before_crops(settings):
        settings["generator_loss"].pop("perceptual_crop")
        settings["generator_loss"]["perceptual"] = 0.5
        settings["data"]["patch_size"] = 160

    change_settings(copied_run, "pretrain_generator", begin_before_crops)
    data = dataclasses.replace(tiny_config.data, patch_size=160)
    loss = dataclasses.replace(tiny_config.generator_loss, perceptual=0.5)
    with pytest.raises(InputError, match="before: generator_loss.perceptual_crop 160, now 128$"):
        begin_stage(make_run(copied_run.folder, data=data, generator_loss=loss), "pretrain_generator", {})
    whole = dataclasses.replace(loss, perceptual_crop=160)
    assert not begin_stage(make_run(copied_run.folder, data=data, generator_loss=whole), "pretrain_generator", {})


def test_a_run_begun_under_the_old_spelling_goes_on(copied_run, make_run, tiny_config):
    strength = tiny_config.data.color_augmentation
    shutil.rmtree(find_result(copied_run.folder, "pretrain_generator").export)

    def spell(settings):
        assert settings["data"].pop("color_augmentation") == strength
        settings["data"]["colour_augmentation"] = strength  # old spelling

    change_settings(copied_run, "pretrain_generator", spell)
    other = make_run(copied_run.folder, data=dataclasses.replace(tiny_config.data, color_augmentation=0.25))
    with pytest.raises(InputError, match=f"before: color_augmentation {strength}, now 0.25$"):
        pretrain_generator(other)
    published = pretrain_generator(copied_run).manifest
    assert published["settings"]["data"]["color_augmentation"] == strength


def test_the_stages_of_the_published_models_say_whether_they_wanted_features():
    manifests = {stage: read_manifest(name_export(PUBLISHED.parent, stage)) for stage in STAGES}
    wanting = [stage for stage, manifest in manifests.items() if wants_features(manifest["settings"])]
    assert wanting == ["train_gan"] and isinstance(manifests["train_gan"]["perceptual_features"], dict)
