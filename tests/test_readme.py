"""The README is kept true by these, not by memory."""

import dataclasses
import re
from pathlib import Path

import pytest

from artifact_remover import evaluate, fit, restore, serve
from artifact_remover.config import PRESETS, STAGES
from artifact_remover.options import EvaluateConfig, RestoreConfig, ServeConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", ["data_prep", "artifact_remover"])
def test_file_tree_names_every_module(package):
    missing = [file.name for file in (ROOT / package).glob("[!_]*.py") if f" {file.name}" not in README]
    assert not missing


def test_file_tree_names_no_module_that_is_gone():
    tree = README.split("## Where things are")[1].split("```")[1]
    named = set(re.findall(r"\b(\w+\.py)\b", tree))
    existing = {file.name for package in ("data_prep", "artifact_remover") for file in (ROOT / package).glob("*.py")}
    assert named <= existing


def test_every_stage_and_preset_is_explained():
    assert not [name for name in (*STAGES, *PRESETS) if name not in README]


@pytest.mark.parametrize("command", [fit, restore, evaluate, serve])
def test_every_option_that_the_readme_uses_exists(command, capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    help_text = capsys.readouterr().out
    uses = re.findall(rf"^python -m {command.__name__} .*$", README, re.MULTILINE)
    options = {option for use in uses for option in re.findall(r"--[\w.-]+", use)} - {"--help"}
    assert options
    assert not [option for option in options if option not in help_text]


def test_every_option_of_restore_is_explained():
    options = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(RestoreConfig)} - {"--inputs"}
    table = README.split("## Restoring pictures")[1].split("**What belongs to a picture is kept.**")[0]
    assert not [option for option in options if option not in table]


def test_every_option_of_evaluate_is_explained():
    table = README.split("## Measuring it yourself")[1].split("Measured are PSNR")[0]
    options = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(EvaluateConfig)]
    assert not [option for option in options if option not in table]


def test_every_option_of_serve_is_explained():
    table = README.split("## In the browser")[1].split("The HTTP API")[0]
    options = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(ServeConfig)]
    assert not [option for option in options if option not in table]


def test_pictures_that_the_readme_shows_are_committed():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_nothing_is_left_to_do():
    assert "TODO" not in README
