import dataclasses
import io
import os
import re
import signal
import sys
import time
from typing import Literal

import pytest

from artifact_remover.config import PRESETS, FitConfig
from data_prep import __version__
from data_prep.command_line import parse_options, run_command
from data_prep.errors import InputError, Option


@dataclasses.dataclass
class Options:
    """Does something."""

    stage: Literal["one", "two"] = "one"
    steps: int = 3


def test_options_are_parsed():
    assert parse_options(Options, ["--stage", "two"]) == Options("two", 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stage", "three"], "'three'"),
        (["--steps", "many"], "many"),
        (["--unheard-of", "1"], "--unheard-of"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_wrong_option_is_answered_in_one_line(arguments, said, encoding, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))  # tyro draws frames that it can show
    with pytest.raises(SystemExit) as leaving:
        parse_options(Options, arguments)
    line = capsys.readouterr().err
    assert leaving.value.code == 2
    assert line.startswith("error: ") and line.count("\n") == 1 and said in line
    assert re.match(r"error: \w", line) and "Value error" not in line


def test_a_refused_value_is_explained_in_one_line(capsys):
    with pytest.raises(SystemExit):
        parse_options(FitConfig, ["--quality", "120"], default=PRESETS["quick"])
    line = capsys.readouterr().err
    assert "quality must lie in 1..100" in line and line.count("\n") == 1


def test_help_is_no_error(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_options(Options, ["--help"])
    printed = capsys.readouterr()
    assert leaving.value.code == 0 and "--stage" in printed.out and printed.err == ""


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_options(Options, ["--steps", "1", "--version"])
    assert leaving.value.code == 0 and capsys.readouterr() == (f"artifact-remover {__version__}\n", "")


def refuse():
    raise InputError("a\nb.jpg is damaged, give ", Option("allow_truncated"))


def stop():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (refuse, 2, "error: a\\nb.jpg is damaged, give --allow-truncated\n"),
        (stop, 130, "error: stopped, nothing is written\n"),
    ],
)
def test_how_a_command_ends(command, code, said, capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert run_command(command, stopped="stopped, nothing is written") == code
    assert capsys.readouterr() == ("", said)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_defect_is_no_mistake_of_the_users():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)
