import json

import pytest

from artifact_remover import model_folder
from artifact_remover.config import PRESETS, STAGES
from artifact_remover.generator import memory_per_pixel
from artifact_remover.model_folder import (
    choose_exports,
    find_exports,
    name_export,
    read_manifest,
    read_memory_per_pixel,
    read_overlap,
    read_trained_quality,
)
from data_prep.errors import InputError


def make_export(folder, stage):
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").touch()
    (folder / "manifest.json").write_text(json.dumps({"stage": stage}))
    return folder


@pytest.fixture
def run_folder(tmp_path):
    for stage in STAGES:
        make_export(name_export(tmp_path / "run", stage), stage)
    return tmp_path / "run"


@pytest.mark.parametrize("place", ["", "saved_models"])
def test_run_holds_both_models(run_folder, place):
    root = run_folder / "saved_models"
    both = {"pretrain_generator": root / "pretrain_generator" / "1", "gan": root / "gan" / "1"}
    assert find_exports(run_folder / place) == both


@pytest.mark.parametrize("stage", ["pretrain_generator", "gan"])
@pytest.mark.parametrize("version", ["", "1"])
def test_stage_and_export_folders_hold_their_own(run_folder, stage, version):
    export = run_folder / "saved_models" / stage / "1"
    assert find_exports(export.parent / version) == {stage: export}


def test_highest_version_is_taken(tmp_path):
    for version in ("2", "10", ".11.partial"):
        make_export(tmp_path / version, "pretrain_generator")
    assert find_exports(tmp_path) == {"pretrain_generator": tmp_path / "10"}


def test_faithful_model_is_chosen_where_there_is_one(run_folder):
    root = run_folder / "saved_models"
    assert choose_exports(run_folder, None) == (root / "pretrain_generator" / "1", None)
    assert choose_exports(root / "gan", None) == (root / "gan" / "1", None)


def test_blend_takes_both(run_folder):
    root = run_folder / "saved_models"
    assert choose_exports(run_folder, 0.5) == (root / "pretrain_generator" / "1", root / "gan" / "1")


@pytest.mark.parametrize(("stage", "missing"), [("pretrain_generator", "gan"), ("gan", "pretrain_generator")])
def test_blend_needs_both(run_folder, stage, missing):
    with pytest.raises(InputError, match=f"holds no {missing}, and blend mixes both"):
        choose_exports(run_folder / "saved_models" / stage, 0.0)


@pytest.mark.parametrize("name", ["", "missing", "file"])
def test_folder_without_a_model_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"^{tmp_path / name} holds no model: give the folder of a finished run"):
        find_exports(tmp_path / name)


def test_saved_model_of_another_project_is_refused(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(InputError, match=r"not an export of this project, its manifest.json is missing"):
        find_exports(tmp_path)


def test_published_models_are_the_default(run_folder, monkeypatch):
    monkeypatch.setattr(model_folder, "PUBLISHED", run_folder / "saved_models")
    assert choose_exports(None, None)[0] == run_folder / "saved_models" / "pretrain_generator" / "1"


def test_without_a_published_model_the_way_to_one_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(model_folder, "PUBLISHED", tmp_path)
    with pytest.raises(InputError, match=r"no model is published .* folder, such as runs/quick"):
        choose_exports(None, None)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", b"\xff"])
def test_damaged_manifest_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match="missing or damaged"):
        read_manifest(tmp_path)


def test_manifest_under_the_old_spelling_is_read(tmp_path):
    before = {"settings": {"data": {"colour_augmentation": 0.1}}, "curve": [{"colour_shift": 0.5}]}  # old spelling
    (tmp_path / "manifest.json").write_text(json.dumps(before))
    after = {"settings": {"data": {"color_augmentation": 0.1}}, "curve": [{"color_shift": 0.5}]}
    assert read_manifest(tmp_path) == after


@pytest.mark.parametrize("place", ["", "saved_models/gan"])
def test_damaged_manifest_is_told_before_anything_is_loaded(run_folder, place):
    (run_folder / "saved_models" / "gan" / "1" / "manifest.json").write_text("[1]")
    with pytest.raises(InputError, match="missing or damaged"):
        choose_exports(run_folder / place, None)


def test_overlap_is_what_the_manifest_says_or_enough():
    assert read_overlap({"overlap": 32}) == 32
    assert read_overlap({}) == 160


@pytest.mark.parametrize("overlap", [0, 7, -16, "16", None, 16.5])
def test_overlap_that_cannot_be_is_refused(overlap):
    with pytest.raises(InputError, match="overlap must be a multiple of 16"):
        read_overlap({"overlap": overlap})


def test_memory_is_what_the_manifest_says_or_enough():
    assert read_memory_per_pixel({"memory_per_pixel": 240}) == 240
    assert read_memory_per_pixel({}) == max(memory_per_pixel(preset.generator) for preset in PRESETS.values())


@pytest.mark.parametrize("memory", [0, -1, "240", None, True, float("nan")])
def test_memory_that_cannot_be_is_refused(memory):
    with pytest.raises(InputError, match="memory_per_pixel must be above zero"):
        read_memory_per_pixel({"memory_per_pixel": memory})


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({"data": {"degradation": {"quality": "5-95"}}}, (5, 95)),
        ({"data": {"degradation": {"quality": "10"}}}, (10, 10)),
        ({"data": {"degradation": {"quality": "poor"}}}, None),
        ({"data": {"degradation": {"quality": 10}}}, None),
        ({"data": None}, None),
        ({}, None),
        (None, None),
    ],
)
def test_trained_quality_is_told_where_it_is_known(settings, trained):
    assert read_trained_quality({"settings": settings}) == trained
    assert read_trained_quality({}) is None
