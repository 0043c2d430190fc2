import contextlib
import dataclasses
import functools
import io
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Literal, get_args

import pytest

from artifact_remover import evaluate, export, fit, restore, serve
from artifact_remover.__main__ import COMMANDS
from artifact_remover.config import PRESETS, FitConfig
from artifact_remover.options import EvaluateConfig, ExportConfig, RestoreConfig, ServeConfig
from data_prep import __version__
from data_prep.command_line import list_options, parse_options, run_command
from data_prep.errors import InputError, Option

NAME = r"(?<![\w-])--[a-z][\w.-]*\w"


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
    assert "--quality must lie in 1..100" in line and line.count("\n") == 1


WRONG = [
    (fit, "--train-gan.steps 0", "--train-gan.steps must be above zero: 0"),
    (fit, "--train_gan.steps=10", "--train-gan.warmup-steps must be fewer than --train-gan.steps (10): 20"),
    (fit, "blind --pretrain-generator.clip-norm -1", "--pretrain-generator.clip-norm must be above zero"),
    (fit, "--train-gan.steps 100 --pretrain-generator.steps 0", "--pretrain-generator.steps must be above zero: 0"),
    (
        fit,
        "--pretrain-generator.steps 20 --train-gan.steps 100 --train-gan.validate_every=10",
        "--pretrain-generator.warmup-steps must be fewer than --pretrain-generator.steps (20): 50",
    ),
    (
        fit,
        "--train-gan.steps 100 --pretrain-generator.warmup-steps -1",
        "--pretrain-generator.warmup-steps must be fewer than --pretrain-generator.steps (800): -1",
    ),
    (fit, "--generator.features 0", "--generator.features must be above zero"),
    (fit, "--discriminator.features 0", "--discriminator.features must be above zero"),
    (fit, "--generator.finer 8 8 8 8", "--generator.finer has too many levels"),
    (fit, "--generator.finer 8 0", "--generator.finer must be above zero: 8 0"),
    (fit, "--generator.residual-blocks 1 2", "--generator.residual-blocks must be one number, or one for each of"),
    (fit, "--generator-loss.perceptual-crop 8", "--generator-loss.perceptual-crop must be at least 16"),
    (fit, "--gan-loss.pixel -1", "--gan-loss.pixel must not be negative"),
    (fit, "--gan-loss.drift -1", "--gan-loss.drift must not be negative"),
    (fit, "--devices 0", "--devices must be above zero"),
    (fit, "--seed -1", "--seed must lie in 0..2147483647: -1"),
    (fit, "--batch-size 0", "--batch-size must be above zero"),
    (fit, "--patch-size 20", "--patch-size must be a positive multiple of 16"),
    (fit, "--graphics-share 1", "--graphics-share must lie in 0..1"),
    (fit, "--graphics-clean-share 2", "--graphics-clean-share must lie in 0..1"),
    (fit, "--jpeg-photograph-quality 0", "--jpeg-photograph-quality must lie in 1..100"),
    (fit, "--quality ten", "--quality must be a number such as 10"),
    (fit, "--first-quality 9-5", "--first-quality must lie in 1..100"),
    (fit, "--chroma-subsampling 4:1:1", "--chroma-subsampling must be 4:2:0"),
    (fit, "--clean-share 2", "--clean-share must lie in 0..1"),
    (
        fit,
        "--double-share 0.6 --shifted-share 0.6",
        "--double-share, --shifted-share and --scaled-share must add up to 1 at most",
    ),
    (restore, "", "no pictures: give files or folders"),
    (restore, "a --in-place", "--in-place needs a --backup"),
    (restore, "a --backup b", "--backup goes with --in-place"),
    (restore, "a --in-place --backup b --output c", "--in-place and --output exclude each other"),
    (restore, "a --overwrite --resume", "--overwrite and --resume exclude each other"),
    (restore, "a --report b", "--report must end in .csv or .json: b"),
    (restore, "a --info --watch", "--info and --watch exclude each other"),
    (restore, "a --only-below 0", "--only-below must lie in 1..100: 0"),
    (restore, "a --max-megapixels 0", "--max-megapixels must be above zero"),
    (
        restore,
        "a --format gif",
        "invalid choice 'gif' for argument '--format'. Expected one of ('png', 'webp', 'jpeg', ",
    ),
    (restore, "a --tile many", "Error parsing --tile: invalid literal for int"),
    (restore, "a --tile 1", "--tile must be at least 64"),
    (restore, "a --server http://b --precision float32", "--server and --precision exclude each other"),
    (restore, "s3://a", "s3://a is a URI, which only --cluster reads and writes"),
    (restore, "a --ray-address b", "--ray-address goes with --cluster alone"),
    (restore, "a -o b --cluster --in-place --backup c", "--in-place and --output exclude each other"),
    (restore, "a -o b --cluster --watch", "--cluster and --watch exclude each other"),
    (restore, "a --cluster", "--cluster takes one input, a folder or list, and needs an --output"),
    (restore, "a -o b --cluster --workers 2 1", "--workers must be two numbers"),
    (restore, "a -o b --cluster --cpus-per-worker 0", "--cpus-per-worker must be above zero"),
    (restore, "a -o b --cluster --gpus-per-worker -1", "--gpus-per-worker must not be below zero"),
    (evaluate, "--data a --quality 0", "--quality must lie in 1..100: 0"),
    (evaluate, "--data a --quality", "no --quality: give one or more"),
    (evaluate, "--data a --quality 5 5", "a --quality is given twice: 5 5"),
    (evaluate, "--data a --resave 0", "--resave must lie in 1..100"),
    (evaluate, "--data a --offset 0 16", "--offset must lie in 0..15"),
    (evaluate, "--data a --external b", "--external must be NAME="),
    (
        evaluate,
        "--data a --protocol gray --subsampling 4:4:4",
        "the gray protocol has no chroma to subsample: leave --sub",
    ),
    (evaluate, "--data a --clean --resave 5", "--clean and --resave exclude each other"),
    (evaluate, "--data a --offset 1 1 --external b=c", "--offset and --external exclude each other"),
    (serve, "--port -1", "--port must lie in 0..65535"),
    (serve, "--root-path /a/", "--root-path must begin with a slash"),
    (serve, "--time-limit 0", "--time-limit must be above zero"),
    (serve, "--tile 1", "--tile must be at least 64"),
    (export, "-o a", "--output must end in .onnx or"),
    (export, "-o a.onnx --format litert", "--output must end in .tflite: a.onnx"),
    (export, "-o a.onnx --precision float16", "--precision float16 goes with litert and openvino: onnx"),
    (export, "-o a.onnx --blend 2", "--blend must lie in 0..1"),
    (export, "", "Missing from python -m artifact_remover.export: -o FILE, --output FILE"),
]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (restore, ["", "--in-place", "--backup", "kept"]),
        (restore, ["photos", "-o", ""]),
        (restore, ["photos", "--in-place", "--backup="]),
        (fit, ["--data", ""]),
        (serve, ["--model="]),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(command, arguments, capsys):
    with pytest.raises(SystemExit) as leaving:
        command.main(arguments)
    assert leaving.value.code == 2
    said = "an argument is empty, perhaps of a shell variable that is not set: set it, or leave it out"
    assert capsys.readouterr().err == f"error: {said}\n"


# Each with what must be given, and the options that may be left out, but for texts and paths.
OPTIONAL = [
    (kind, required, option.name)
    for kind, required in (
        (RestoreConfig, "a"),
        (EvaluateConfig, "--data a"),
        (ServeConfig, ""),
        (ExportConfig, "-o a"),
    )
    for option in list_options(kind)
    if type(None) in get_args(option.type) and not {str, Path} & set(get_args(option.type))
]


@pytest.mark.parametrize(("kind", "required", "option"), OPTIONAL)
@pytest.mark.parametrize("value", ["None", "wrong"])
def test_none_is_no_value_of_an_option_that_may_be_left_out(kind, required, option, value, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_options(kind, [*required.split(), option, *[value] * (2 if option == "--workers" else 1)])
    line = capsys.readouterr().err
    assert leaving.value.code == 2 and option in line and value in line
    assert "None" not in line.replace("'None'", "", 2 if value == "None" else 0), line


def test_an_optional_folder_may_be_named_none_and_what_a_preset_has_is_taken_back():
    config = parse_options(FitConfig, ["--workdir", "None", "--graphics", "None"], default=PRESETS["blind"])
    assert config.workdir == Path("None") and config.data.graphics is None


@functools.cache
def find_options(command):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        command.main(["--help"])
    return set(re.findall(NAME, printed.getvalue()))


@pytest.mark.parametrize(("command", "arguments", "said"), WRONG, ids=lambda each: getattr(each, "__name__", each))
def test_a_wrong_command_line_is_answered_with_options_that_it_has(command, arguments, said, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as leaving:
        command.main(arguments.split())
    line = capsys.readouterr().err
    assert leaving.value.code == 2 and line.count("\n") == 1
    assert line.startswith(f"error: {said}") and line.endswith("; --help lists all options\n")
    assert set(re.findall(NAME, line)) <= find_options(command) and "--data" not in find_options(serve)


def test_options_are_listed_by_their_names_and_fields():
    names = {option.name: option.path for option in list_options(FitConfig)}
    assert names["--train-gan.steps"] == ("train_gan", "steps")
    assert names["--quality"] == ("data", "degradation", "quality")
    assert "--generator.scale" not in names  # is no option
    assert next(list_options(RestoreConfig)).name == "inputs"  # given by its position


def test_help_is_no_error(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_options(Options, ["--help"])
    printed = capsys.readouterr()
    assert leaving.value.code == 0 and "--stage" in printed.out and printed.err == ""


@pytest.mark.parametrize("command", ["data_prep", "artifact_remover", *map("artifact_remover.{}".format, COMMANDS)])
def test_help_that_nobody_reads_ends_quietly(command):
    reader, writer = os.pipe()
    os.close(reader)
    process = [sys.executable, "-m", command, "--help"]
    done = subprocess.run(process, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("arguments", "code"), [("--version >&-", 0), ("--help >&-", 0), ("fit none 2>&-", 2)])
def test_closed_streams_do_not_matter(arguments, code):
    command = f"exec {sys.executable} -m artifact_remover {arguments}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_options(Options, ["--steps", "1", "--version"])
    assert leaving.value.code == 0 and capsys.readouterr() == (f"artifact-remover {__version__}\n", "")


def refuse():
    raise InputError("a\nb.jpg is damaged, give ", Option("allow_truncated"))


def stop():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


def stop_in_a_callback():
    kept = Options()
    watched = weakref.ref(kept, lambda _: stop())  # whose exceptions Python drops
    del kept
    assert watched() is None
    time.sleep(5)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (refuse, 2, "error: a\\nb.jpg is damaged, give --allow-truncated\n"),
        (stop, 130, "error: stopped, nothing is written\n"),
        (stop_in_a_callback, 130, "error: stopped, nothing is written\n"),
    ],
)
def test_how_a_command_ends(command, code, said, capsys):
    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    assert run_command(command, stopped="stopped, nothing is written") == code
    assert capsys.readouterr() == ("", said)
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before


def test_a_defect_is_no_mistake_of_the_users():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)
