import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

import data_prep.__main__
from artifact_remover import evaluate, fit, restore, serve
from artifact_remover.config import (
    PRESETS,
    STAGES,
    DiscriminatorConfig,
    FitConfig,
    GanLossConfig,
    GanSchedule,
    GeneratorConfig,
    LossConfig,
    Schedule,
)
from data_prep.errors import InputError

OLD_OPTIONS = ["--colour-augmentation", "--colour_augmentation"]  # old spelling


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (GeneratorConfig(), "features", 0),
        (GeneratorConfig(), "growth", -1),
        (GeneratorConfig(), "blocks", 0),
        (GeneratorConfig(), "scale", 0),
        (DiscriminatorConfig(), "features", 0),
        (LossConfig(), "pixel", -1.0),
        (LossConfig(), "perceptual", -0.1),
        (GanLossConfig(), "adversarial", -1e-9),
        (GanLossConfig(), "perceptual", -0.1),
        (LossConfig(), "perceptual_patches", 0),
        (LossConfig(), "perceptual_crop", 15),
        (LossConfig(), "floor", 0.0),
        (Schedule(10, 1e-3), "steps", 0),
        (Schedule(10, 1e-3), "learning_rate", 0.0),
        (Schedule(10, 1e-3), "clip_norm", 0.0),
        (Schedule(10, 1e-3), "validate_every", 0),
        (Schedule(10, 1e-3), "warmup_steps", 10),
        (Schedule(10, 1e-3), "warmup_steps", -1),
        (GanSchedule(10, 1e-3), "warmup_steps", 10),
    ],
)
def test_wrong_value_is_refused_by_name_and_value(config, field, value):
    with pytest.raises(InputError, match=rf"^{field} must .*: {value}$"):
        dataclasses.replace(config, **{field: value})


def test_levels_without_channels_are_refused():
    with pytest.raises(InputError, match=r"^finer must be above zero: 48 0$"):
        GeneratorConfig(finer=(48, 0))


@pytest.mark.parametrize("blocks", [(), (2, 0), (1, 2, 3)], ids=str)
def test_residual_blocks_are_one_number_or_one_for_each_level(blocks):
    with pytest.raises(InputError, match=r"^residual_blocks must be "):
        GeneratorConfig(finer=(48, 96), residual_blocks=blocks)
    assert GeneratorConfig(finer=(48, 96), residual_blocks=(3,)).residual_blocks_of_levels == (3, 3)
    assert GeneratorConfig(finer=(48, 96), residual_blocks=(4, 3)).residual_blocks_of_levels == (4, 3)
    assert GeneratorConfig().residual_blocks_of_levels == ()


@pytest.mark.parametrize(("scale", "finer"), [(2, (8, 8, 8, 8)), (4, (8, 8, 8)), (3, (8,))])
def test_levels_that_do_not_fit_the_grid_of_tiles_are_refused(scale, finer):
    with pytest.raises(InputError, match=r"^finer has too many levels, .*: 8"):
        GeneratorConfig(scale=scale, finer=finer)
    GeneratorConfig(scale=2, finer=(8, 8, 8))


def test_levels_are_an_option():
    arguments = "--generator.finer 48 96 --generator.residual-blocks 4 3"
    config = tyro.cli(FitConfig, args=arguments.split(), default=PRESETS["quick"])
    assert (config.generator.finer, config.generator.residual_blocks) == ((48, 96), (4, 3))


@pytest.mark.parametrize(("quality", "ends"), [("10", (10, 10)), ("5-95", (5, 95))])
def test_quality_is_an_option_without_a_prefix(quality, ends):
    config = tyro.cli(FitConfig, args=["--quality", quality], default=PRESETS["quick"])
    assert config.data.degradation.quality_range == ends


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_hold_a_schedule_for_every_stage_and_a_short_gan(preset):
    schedules = {stage: getattr(PRESETS[preset], stage) for stage in STAGES}
    assert all(isinstance(schedule, Schedule) for schedule in schedules.values())
    assert schedules["train_gan"].steps <= schedules["pretrain_generator"].steps / 5  # what makes it NoGAN


def test_blind_weighs_the_terms_as_the_script_that_trained_the_published_models():
    script = (Path(__file__).parents[1] / "saved_models" / "train_with_jax.py").read_text(encoding="utf-8")
    blind, terms = PRESETS["blind"], ast.literal_eval(re.search(r"^TERMS = (.*)$", script, re.MULTILINE)[1])
    assert terms == {name: getattr(blind.gan_loss, name) for name in terms}
    assert (blind.gan_loss.pixel_loss, blind.perceptual_features) == ("l1", "lpips")
    assert blind.generator_loss == LossConfig(pixel=0.06, pixel_loss="rmse", floor=1e-5, perceptual=0.0)
    assert {PRESETS[preset].perceptual_features for preset in ("quick", "div2k")} == {"vgg19"}


def test_each_network_of_the_gan_stage_has_its_own_optimizer():
    schedule = GanSchedule(10, 1e-4, optimizer="adam", discriminator_optimizer="muon")
    assert (schedule.optimizer, schedule.of_discriminator.optimizer) == ("adam", "muon")
    assert (schedule.learning_rate, schedule.of_discriminator.learning_rate) == (1e-4, 2e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_pass_the_command_line_unchanged(preset):
    assert tyro.cli(FitConfig, args=[], default=PRESETS[preset]) == PRESETS[preset]


def test_options_of_the_command_line_reach_their_fields():
    arguments = "--data photos --stage train_gan --init old --precision float32 --workdir new --vgg-weights vgg.npz"
    config = tyro.cli(FitConfig, args=arguments.split(), default=PRESETS["quick"])
    assert (config.data.data, config.stage, config.precision) == ("photos", "train_gan", "float32")
    assert (config.init, config.workdir, config.vgg_weights) == (Path("old"), Path("new"), Path("vgg.npz"))


def test_the_stages_have_losses_of_their_own():
    arguments = "--generator-loss.pixel-loss rmse --gan-loss.perceptual 0.5 --gan-loss.blocking 2"
    config = tyro.cli(FitConfig, args=arguments.split(), default=PRESETS["quick"])
    before = PRESETS["quick"]
    assert config.generator_loss == dataclasses.replace(before.generator_loss, pixel_loss="rmse")
    assert config.gan_loss == dataclasses.replace(before.gan_loss, perceptual=0.5, blocking=2.0)


def test_help_shows_the_options_by_their_plain_names(capsys):
    with pytest.raises(SystemExit) as stop:
        fit.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out.split()
    assert {"--data", "--quality", "--vgg-weights", "--perceptual-features"} <= set(shown)
    assert {"--stage", "--init", "--precision", "--workdir", "--seed", "--batch-size"} <= set(shown)


@pytest.mark.parametrize("option", ["--color-augmentation", *OLD_OPTIONS])
def test_an_option_is_read_under_its_old_spelling_too(option, monkeypatch, capsys):
    fitted = []
    monkeypatch.setattr(fit, "_fit_or_explain", lambda config, folder: fitted.append(config.data.color_augmentation))
    assert fit.main([option, "0.25"]) == fit.main(["blind", f"{option}=0.125"]) == 0
    assert fitted == [0.25, 0.125]
    with pytest.raises(SystemExit):
        fit.main(["--help"])
    assert "colour" not in capsys.readouterr().out  # old spelling


@pytest.mark.parametrize("command", [fit, restore, evaluate, serve, data_prep.__main__])
def test_help_reads_well(command, capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "None" not in shown and "(default: )" not in shown
    if command is fit:
        assert "`blind` is the preset of the published models" in shown


@pytest.mark.parametrize(
    "arguments", ["--stage pretrain", "--precision float16", "--qualty 10", "--quality 200", "--generator.blocks 0"]
)
def test_wrong_option_is_exit_code_2_without_a_traceback(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        fit.main(arguments.split())
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert "Traceback" not in printed.err and arguments.split()[-1] in printed.err + printed.out


@pytest.mark.parametrize("module", ["artifact_remover.config", "data_prep.config"])
def test_configuration_needs_neither_tensorflow_nor_keras(module):
    code = f"import sys, {module}; assert not {{'tensorflow', 'keras', 'numpy'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
