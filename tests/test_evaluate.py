import csv
import json
import os
import re
import shlex
import shutil
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from skimage import data as skimage_data

from artifact_remover import evaluate
from artifact_remover.__main__ import COMMANDS
from artifact_remover.config import GeneratorConfig
from artifact_remover.generator import build_generator
from artifact_remover.judging import scoring
from artifact_remover.model_folder import PUBLISHED, name_export
from artifact_remover.options import EvaluateConfig
from artifact_remover.saved_model import export_generator
from data_prep.command_line import parse_options

TINY = GeneratorConfig(features=8, growth=4, blocks=1)
PHOTO = skimage_data.astronaut()
COPY = f"{shlex.quote(sys.executable)} -c 'import shutil, sys; shutil.copy(*sys.argv[1:])' {{input}} {{output}}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run's folder with both generators: the first returns its input, the second does it harm."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    for stage, change in (("pretrain_generator", 0.0), ("train_gan", 0.05)):
        keras.utils.set_random_seed(0)
        generator = build_generator(TINY)
        [kernel] = generator.get_layer("correction").weights
        kernel.assign(change * np.random.default_rng(0).standard_normal(kernel.shape))
        export_generator(generator, TINY, name_export(folder, stage), {"stage": stage})
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, new, with two small pictures of one name in `data`, and no learned distances."""
    monkeypatch.chdir(tmp_path)
    fake = types.SimpleNamespace(find_distances=lambda weights: ({}, ["LPIPS is left out"]))
    monkeypatch.setitem(sys.modules, "artifact_remover.judging.perceptual_distances", fake)
    monkeypatch.setattr(evaluate, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr("artifact_remover.model_folder.PUBLISHED", tmp_path / "published")
    (tmp_path / "data" / "sub").mkdir(parents=True)
    Image.fromarray(PHOTO[:64, 200:280]).save("data/<b>.png")
    Image.fromarray(PHOTO[100:150, 200:270]).save("data/sub/<b>.png")
    return tmp_path


@pytest.fixture
def run(folder, capfd):
    """Runs the command; returns its exit code, what it printed, and the errors."""

    def run(*arguments):
        capfd.readouterr()
        code = evaluate.main(
            ["--data", "data", "--quality", "10", "30", "--precision", "float32", *map(str, arguments)]
        )
        return code, *capfd.readouterr()

    return run


def refused(outcome):
    """The one line of a mistake of the user's."""
    code, printed, errors = outcome
    assert code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
    assert not list(Path().rglob("evaluation.*"))
    return errors


def test_it_is_a_subcommand():
    assert COMMANDS["evaluate"] is evaluate.main


def test_everything_is_measured_and_written(model, run):
    code, printed, errors = run("--model", model, "--external", f"copy={COPY}", "-o", "out/here")
    assert (code, errors) == (0, "")
    names = [scoring.JPEG, "tiny faithful", "tiny perceptual", "copy"]
    assert sorted(os.listdir("out/here")) == ["evaluation.csv", "evaluation.html", "evaluation.json"]
    assert max(len(line) for line in printed.splitlines() if "does not beat" not in line) <= 120
    for word in (*names, "least at", "sub/<b>.png", "0/2", "LPIPS is left out", "written: out/here/evaluation.html"):
        assert word in printed, printed
    assert "tiny perceptual does not beat the JPEG at quality 30 on 2 of 2: " in printed
    assert "copy does not beat the JPEG at quality 30 on 2 of 2 (2 equal within 0.02 dB): <b>.png (+0.00 dB)" in printed

    report = json.loads(Path("out/here/evaluation.json").read_text())
    assert list(report["qualities"]) == ["10", "30"]
    assert report["machine"]["cores"]
    assert (report["machine"]["engine"], report["machine"]["precision"]) == ("tensorflow", "float32")
    assert report["models"] == {
        f"tiny {kind}": str(name_export(model, stage))
        for kind, stage in (("faithful", "pretrain_generator"), ("perceptual", "train_gan"))
    }
    for each in report["qualities"].values():
        summary = each["summary"]
        assert list(summary) == names and each["pictures"] == 2
        assert summary["copy"]["mean"] == summary["tiny faithful"]["mean"] == summary[scoring.JPEG]["mean"]
        assert summary["copy"]["psnr_gain"] == {"mean": 0, "least": 0} and summary["copy"]["better_on"] == 0
        assert summary["copy"]["equal_on"] == summary["copy"]["unchanged_on"] == 2
        assert [loss["picture"] for loss in summary["copy"]["not_beaten"]] == ["<b>.png", "sub/<b>.png"]
        assert summary["tiny perceptual"]["equal_on"] == summary["tiny perceptual"]["unchanged_on"] == 0
        assert summary["tiny perceptual"]["psnr_gain"]["least"] < 0
        assert all(summary[name]["seconds_per_megapixel"] > 0 for name in names[1:])
        assert [picture["name"] for picture in each["each"]] == ["<b>.png", "sub/<b>.png"]

    with open("out/here/evaluation.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 2 * len(names)
    for line in lines:
        [picture] = [each for each in report["qualities"][line["quality"]]["each"] if each["name"] == line["picture"]]
        scores = picture["scores"][line["method"]]
        assert float(line["psnr"]) == pytest.approx(scores["psnr"], rel=1e-5)
        assert float(line["psnr_gain"]) == pytest.approx(
            scores["psnr"] - picture["scores"][scoring.JPEG]["psnr"], rel=1e-4, abs=1e-9
        )
        assert float(line["blue_shift"]) == pytest.approx(scores["color_shifts"][2], rel=1e-5)
        assert bool(line["seconds"]) == (line["method"] != scoring.JPEG)
        assert line["unchanged"] == str(int(line["method"] != "tiny perceptual"))

    page = Path("out/here/evaluation.html").read_text()
    HTMLParser().feed(page)
    assert page.count("<img ") == 2 * 2 * (len(names) + 1) and "<b>" not in page and "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page)


def test_gray_is_compressed_and_measured_as_one_channel(model, run):
    assert run("--model", model, "--external", f"copy={COPY}", "--protocol", "gray")[0] == 0
    report = json.loads(Path("evaluation/evaluation.json").read_text())
    first = report["qualities"]["10"]["each"][0]
    clean = scoring.to_gray(PHOTO[:64, 200:280])
    scores = scoring.score(clean, scoring.encode_jpeg(clean, 10).pixels)
    for name in (scoring.JPEG, "copy", "tiny faithful"):
        assert first["scores"][name] == scores and len(scores["color_shifts"]) == 1
    assert report["chroma_subsampling"] is None


def read_report():
    return json.loads(Path("evaluation/evaluation.json").read_text())


def test_kinds_of_pictures_have_a_block_each_and_one_together(model, run):
    (Path("data") / "other").mkdir()
    Image.fromarray(PHOTO[200:264, 300:380]).save("data/other/c.webp", lossless=True)
    code, printed, _ = run("--model", model, "--quality", "10")
    assert code == 0 and re.findall(r"^ *(?:10)? +(\.|sub|other|all) +JPEG itself", printed, re.MULTILINE) == [
        *(".", "other", "sub", "all")
    ]
    entry = read_report()["qualities"]["10"]
    assert {kind: each["pictures"] for kind, each in entry["kinds"].items()} == {".": 1, "other": 1, "sub": 1}
    assert entry["pictures"] == 3
    for number, name in enumerate(["<b>.png", "other/c.webp", "sub/<b>.png"]):
        kind = name.rpartition("/")[0] or "."
        summary = entry["kinds"][kind]["summary"]["tiny perceptual"]
        assert summary["worst"] == name and entry["each"][number]["name"] == name
        assert summary["mean"]["psnr"] == entry["each"][number]["scores"]["tiny perceptual"]["psnr"]
    page = Path("evaluation/evaluation.html").read_text()
    assert '<td class="name">other</td>' in page and '<td class="name">all</td>' in page


def test_pictures_of_one_kind_need_no_blocks(run):
    shutil.rmtree("data/sub")
    code, printed, _ = run("--external", f"copy={COPY}")
    assert code == 0 and " kind " not in printed and read_report()["qualities"]["10"]["kinds"] == {}


def test_clean_pictures_are_put_in_uncompressed(model, run, capfd):
    arguments = ["--data", "data", "--clean", "--precision", "float32", "--model", str(model)]
    assert evaluate.main(arguments) == 0
    summary = read_report()["qualities"]["clean"]["summary"]
    assert [each["unchanged_on"] for each in summary.values()] == [2, 2]  # left alone
    capfd.readouterr()
    assert evaluate.main([*arguments, "--force"]) == 0
    printed = capfd.readouterr().out
    report = read_report()
    assert report["clean"] is True and list(report["qualities"]) == ["clean"]
    summary = report["qualities"]["clean"]["summary"]
    assert list(summary) == ["tiny faithful", "tiny perceptual"]
    assert summary["tiny faithful"]["unchanged_on"] == 2 and summary["tiny faithful"]["changed"] == []
    changed = summary["tiny perceptual"]["changed"]
    assert summary["tiny perceptual"]["unchanged_on"] == 0 and len(changed) == 2
    psnr = [each["scores"]["tiny perceptual"]["psnr"] for each in report["qualities"]["clean"]["each"]]
    assert [each["psnr"] for each in changed] == sorted(psnr) and max(psnr) < 60
    assert summary["tiny perceptual"]["least_psnr"] == {"psnr": min(psnr), "picture": changed[0]["picture"]}
    assert summary["tiny perceptual"]["worst"] == changed[0]["picture"]
    assert "2 pictures of data, color protocol, uncompressed" in printed and "JPEG itself" not in printed
    assert f"tiny perceptual changes 2 of 2 clean pictures: {changed[0]['picture']} ({min(psnr):.2f} dB)" in printed
    with open("evaluation/evaluation.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {(line["quality"], line["psnr_gain"], line["method"], line["unchanged"]) for line in lines} == {
        ("clean", "", "tiny faithful", "1"),
        ("clean", "", "tiny perceptual", "0"),
    }
    page = Path("evaluation/evaluation.html").read_text()
    HTMLParser().feed(page)
    assert "<h2>Uncompressed</h2>" in page and page.count("<img ") == 2 * 3 and "own PSNR is infinite" in page


def test_clean_gray_pictures_are_put_in_gray(model, run):
    assert evaluate.main(["--data", "data", "--clean", "--protocol", "gray", "--model", str(model)]) == 0
    assert read_report()["qualities"]["clean"]["summary"]["tiny faithful"]["unchanged_on"] == 2


@pytest.mark.parametrize("protocol", ["color", "gray"])
def test_resaved_jpegs_are_those_that_are_restored_and_beaten(model, run, protocol):
    code, printed, _ = run("--model", model, "--resave", "70", "--external", f"copy={COPY}", "--protocol", protocol)
    assert code == 0 and "saved again at 70" in printed
    report = read_report()
    assert report["resave"] == 70
    clean = PHOTO[:64, 200:280]
    if protocol == "gray":
        clean = scoring.to_gray(clean)
    once = scoring.encode_jpeg(clean, 10)
    twice = scoring.encode_jpeg(once.pixels[..., : clean.shape[2]], 70)
    scores = report["qualities"]["10"]["each"][0]["scores"]
    for name in (scoring.JPEG, "tiny faithful", "copy"):
        assert scores[name] == scoring.score(clean, twice.pixels) != scoring.score(clean, once.pixels)


def test_a_jpeg_that_is_cut_and_saved_again_is_one_for_others_too(model, run):
    code, printed, _ = run("--model", model, "--offset", "4", "4", "--resave", "70", "--external", f"copy={COPY}")
    assert code == 0 and "cut at (4, 4), saved again at 70" in printed
    once = scoring.encode_jpeg(PHOTO[:64, 200:280], 10).pixels[4:, 4:]
    expected = scoring.score(PHOTO[4:64, 204:280], scoring.encode_jpeg(once, 70).pixels)
    scores = read_report()["qualities"]["10"]["each"][0]["scores"]
    assert all(scores[name] == expected for name in (scoring.JPEG, "tiny faithful", "copy"))


def test_models_are_judged_in_eight_orientations(model, run):
    scores = []
    for options in ((), ("--self-ensemble",)):
        assert run("--model", model, *options)[0] == 0
        page = Path("evaluation/evaluation.html").read_text()
        assert ("in float32, each picture in eight orientations" in page) == bool(options)
        assert read_report()["self_ensemble"] == bool(options)
        scores.append(read_report()["qualities"]["10"]["each"][0]["scores"])
    alone, together = scores
    assert together["tiny faithful"] == alone["tiny faithful"]  # its input
    assert together["tiny perceptual"]["psnr"] > alone["tiny perceptual"]["psnr"] + 0.1


@pytest.mark.parametrize("protocol", ["color", "gray"])
def test_a_jpeg_is_cut_off_its_grid(model, run, protocol):
    code, printed, _ = run("--model", model, "--offset", "3", "10", "--protocol", protocol)
    assert code == 0 and "cut at (3, 10)" in printed
    report = read_report()
    assert report["offset"] == [3, 10]
    clean = PHOTO[:64, 200:280]
    if protocol == "gray":
        clean = scoring.to_gray(clean)
    jpeg = scoring.encode_jpeg(clean, 10).pixels
    picture = report["qualities"]["10"]["each"][0]
    assert picture["pixels"] == 61 * 70
    whole, cut = scoring.score(clean, jpeg), scoring.score(clean[3:, 10:], jpeg[3:, 10:], corner=(5, 6))
    for name in (scoring.JPEG, "tiny faithful"):
        assert picture["scores"][name] == cut
    assert cut["psnr"] != whole["psnr"] and cut["psnr_b"] < cut["psnr"] - 1  # the blocks are found where they are


def test_pictures_may_be_webp_and_avif(run):
    Image.fromarray(PHOTO[200:264, 300:380]).save("data/c.webp", lossless=True)
    Image.fromarray(PHOTO[300:364, 300:380]).save("data/d.avif")
    assert run("--external", f"copy={COPY}")[0] == 0
    names = [each["name"] for each in read_report()["qualities"]["10"]["each"]]
    assert names == ["<b>.png", "c.webp", "d.avif", "sub/<b>.png"]


def test_a_model_is_judged_by_what_users_get_which_leaves_the_best_jpegs_alone(model, run):
    assert run("--model", model, "--quality", "100")[0] == 0
    summary = read_report()["qualities"]["100"]["summary"]["tiny perceptual"]
    assert summary["unchanged_on"] == summary["equal_on"] == 2 and summary["psnr_gain"] == {"mean": 0, "least": 0}


def test_learned_distances_are_in_every_report(model, run, monkeypatch):
    seen = []

    def find_distances(weights):
        seen.append(weights)
        return {"LPIPS": lambda clean, restored: np.float32([0.25])}, []

    fake = types.SimpleNamespace(find_distances=find_distances)
    monkeypatch.setitem(sys.modules, "artifact_remover.judging.perceptual_distances", fake)
    code, printed, _ = run("--model", model, "--perceptual-weights", "weights")
    assert code == 0 and "LPIPS" in printed and "0.2500" in printed and seen == [Path("weights")]
    for kind in ("json", "csv"):
        assert "lpips" in Path(f"evaluation/evaluation.{kind}").read_text()
    code, printed, _ = run("--model", model, "--pixels-only")
    assert code == 0 and "LPIPS" not in printed and len(seen) == 1
    assert "lpips" not in Path("evaluation/evaluation.csv").read_text()


def test_a_large_picture_is_judged_by_its_middle_and_a_line_says_so(run, monkeypatch):
    monkeypatch.setattr(scoring, "LARGEST_PICTURE", 4000)
    code, printed, _ = run("--external", f"copy={COPY}")
    assert code == 0 and "only the middle is judged of <b>.png (64x48 of 80x64)" in printed
    report = json.loads(Path("evaluation/evaluation.json").read_text())
    assert [each["pixels"] for each in report["qualities"]["10"]["each"]] == [64 * 48, 50 * 70]


def test_only_the_worst_pictures_are_shown(run, monkeypatch):
    monkeypatch.setattr(scoring, "SHOWN", 1)
    harm = "from PIL import Image, ImageOps; import sys; i = Image.open(sys.argv[1]); "
    harm += "(ImageOps.invert(i) if i.height == 50 else i).save(sys.argv[2])"
    assert run("--external", f"harm={shlex.quote(sys.executable)} -c '{harm}' {{input}} {{output}}")[0] == 0
    shown = re.findall(r"<h3>(.*?)</h3>", Path("evaluation/evaluation.html").read_text())
    assert shown == ["sub/&lt;b&gt;.png"] * 2


def test_names_tell_models_apart(model, tmp_path):
    export = name_export(model, "train_gan")
    assert evaluate.name_models((export,)) == {"tiny perceptual": export}
    other = tmp_path / "other" / "tiny"
    shutil.copytree(model, other)
    named = evaluate.name_models((model, other))
    assert list(named) == [f"{folder} {kind}" for folder in (model, other) for kind in ("faithful", "perceptual")]


@pytest.mark.parametrize("folders", [(), (PUBLISHED / "gan", PUBLISHED / "pretrain_generator" / "1")])
def test_published_models_are_named_so_wherever_the_checkout_lies(folders):
    assert set(evaluate.name_models(folders)) == {"published faithful", "published perceptual"}


# Mistakes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--quality", "0"], "--quality must lie in 1..100: 0"),
        (["--quality", "10", "10"], "a --quality is given twice"),
        (["--external", "cp {input} {output}"], "--external must be NAME="),
        (["--protocol", "gray", "--subsampling", "4:4:4"], "no chroma to subsample: leave --subsampling out"),
        (["--resave", "101"], "--resave must lie in 1..100: 101"),
        (["--offset", "0", "16"], "--offset must lie in 0..15"),
        (["--offset", "-1", "0"], "--offset must lie in 0..15"),
        (["--offset", "3", "3", "--external", "a=cp {input} {output}"], "--offset and --external exclude each other"),
        (["--pixels-only", "--perceptual-weights", "w"], "--pixels-only and --perceptual-weights exclude each other"),
        (["--clean", "--external", "a=cp {input} {output}"], "--clean and --external exclude each other"),
        (["--clean", "--quality", "30"], "--clean and --quality exclude each other"),
        (["--clean", "--resave", "30"], "--clean and --resave exclude each other"),
        (["--clean", "--offset", "3", "3"], "--clean and --offset exclude each other"),
        (["--clean", "--subsampling", "4:4:4"], "--clean and --subsampling exclude each other"),
    ],
)
def test_wrong_options_are_answered_in_one_line(options, said, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_options(EvaluateConfig, ["--data", "data", *options])
    line = capsys.readouterr().err
    assert leaving.value.code == 2 and said in line and line.count("\n") == 1


def test_without_a_published_model_one_must_be_given(run):
    assert "no model is published with this version" in refused(run())


def test_a_folder_without_a_model_is_refused(run):
    assert "data holds no model" in refused(run("--model", "data", "--external", f"copy={COPY}"))


def test_the_same_model_twice_is_refused(model, run):
    export = name_export(model, "pretrain_generator")
    assert "the same model twice" in refused(run("--model", model, "--model", export))


@pytest.mark.parametrize("name", [scoring.JPEG, "tiny faithful", "copy"])
def test_a_name_is_given_once(model, run, name):
    externals = ("--external", f"copy={COPY}", "--external", f"{name}={COPY}")
    assert f"--external {name}: the name is taken" in refused(run("--model", model, *externals))


def test_an_external_that_fails_is_told_with_the_picture(run):
    line = refused(run("--external", "fails=ls {input} {output}/"))
    assert "fails" in line and "exit code" in line and "(restoring <b>.png at quality 10)" in line


def test_an_external_that_fails_later_is_left_out_and_the_others_are_written(run):
    code = "import shutil, sys; from PIL import Image; s, t = sys.argv[1:]; "
    code += "Image.open(s).height == 64 and shutil.copy(s, t)"
    half = f"half={shlex.quote(sys.executable)} -c '{code}' {{input}} {{output}}"
    code, printed, errors = run("--external", half, "--external", f"copy={COPY}")
    said = "--external half: it ended well but wrote nothing to {output} (restoring sub/<b>.png at quality 10)"
    assert (code, errors) == (1, f"error: {said}\n") and "written: evaluation/evaluation.html" in printed
    assert read_report()["notes"][-1] == f"left out, as it failed: {said}"
    for each in read_report()["qualities"].values():
        assert list(each["summary"]) == [scoring.JPEG, "copy"] and each["pictures"] == 2
    with open("evaluation/evaluation.csv", newline="") as file:
        assert {line["method"] for line in csv.DictReader(file)} == {scoring.JPEG, "copy"}


def test_an_external_that_changes_the_size_is_told(run):
    code = "from PIL import Image; import sys; Image.open(sys.argv[1]).resize((9, 8)).save(sys.argv[2])"
    line = refused(run("--external", f"half={shlex.quote(sys.executable)} -c '{code}' {{input}} {{output}}"))
    assert "half made 9x8 of <b>.png, which is 80x64" in line


def test_a_picture_that_the_cut_leaves_too_small_is_told_beforehand(model, run):
    Image.fromarray(PHOTO[300:332, 300:380]).save("data/c.png")
    line = refused(run("--model", model, "--offset", "0", "4"))
    assert "too small to be judged, remove it or give one of 36 pixels a side or more: data/c.png (80x32)" in line


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda: Path("data/c.png").write_bytes(b"no picture"), "not a usable picture, mend or remove it: data/c.png"),
        (lambda: Image.new("RGB", (40, 31)).save("data/c.png"), "too small to be judged"),
        (lambda: Image.open("data/<b>.png").save("data/c.webp", lossless=True), "the same picture twice"),
        (lambda: os.rename("data", "moved"), "no such folder, check the path: data"),
        (lambda: [file.unlink() for file in Path("data").rglob("*.png")], "no pictures there"),
        (lambda: Path("evaluation").write_text(""), "cannot write there, choose another --output: evaluation"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is_loaded(run, monkeypatch, spoil, said):
    monkeypatch.setitem(sys.modules, "artifact_remover.restoration", None)  # cannot be imported
    spoil()
    assert said in refused(run("--external", f"copy={COPY}"))


def test_a_full_disk_is_told(run, monkeypatch):
    def fail(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    assert "cannot write the report, make room: evaluation (No space left on device)" in refused(
        run("--external", f"copy={COPY}")
    )
