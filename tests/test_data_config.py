import subprocess
import sys

import pytest

from data_prep.config import DataConfig, DegradationConfig
from data_prep.errors import InputError


@pytest.mark.parametrize(("quality", "ends"), [("10", (10, 10)), ("5-95", (5, 95)), (" 1-100 ", (1, 100))])
def test_quality_is_a_number_or_a_range(quality, ends):
    assert DegradationConfig(quality).quality_range == ends
    assert DegradationConfig(quality).quality_ranges == [ends]


def test_several_qualities_are_drawn_from():
    config = DegradationConfig("5-40, 30-95,10")
    assert config.quality_ranges == [(5, 40), (30, 95), (10, 10)]
    assert config.quality_range == (5, 95)


@pytest.mark.parametrize("quality", ["0", "101", "95-5", "5-95,", "5-95,40-5", "ten", "10-", "-10", "", "10.5"])
def test_wrong_quality_is_refused_by_its_value(quality):
    with pytest.raises(InputError, match="quality must") as error:
        DegradationConfig(quality)
    assert str(error.value).endswith(quality)


def test_first_quality_is_that_of_quality_when_not_given():
    assert DegradationConfig("5-40,10").first_quality_ranges == [(5, 40), (10, 10)]
    config = DegradationConfig("20-95", first_quality="5-80")
    assert (config.first_quality_ranges, config.quality_range, config.lowest_and_highest) == (
        [(5, 80)],
        (20, 95),
        (5, 95),
    )
    with pytest.raises(InputError, match="first_quality must lie in 1..100, the lower end first: 80-5"):
        DegradationConfig(first_quality="80-5")


def test_several_subsamplings_are_drawn_from():
    assert DegradationConfig(chroma_subsampling="both").subsamplings == ["4:2:0", "4:4:4"]
    assert DegradationConfig(chroma_subsampling="4:2:0, 4:2:0,4:2:2").subsamplings == ["4:2:0", "4:2:0", "4:2:2"]


@pytest.mark.parametrize("text", ["4:1:1", "both,4:4:4", "", "4:2:0,"])
def test_unknown_subsampling_is_refused(text):
    with pytest.raises(InputError, match=f"chroma_subsampling must be .*: {text}$"):
        DegradationConfig(chroma_subsampling=text)


def test_several_programs_are_drawn_from():
    assert DegradationConfig().drawn_programs == ["libjpeg"]
    assert DegradationConfig(programs="libjpeg, libjpeg,mozjpeg").drawn_programs == ["libjpeg", "libjpeg", "mozjpeg"]


@pytest.mark.parametrize("text", ["guetzli", "", "libjpeg,"])
def test_an_unknown_program_is_refused(text):
    with pytest.raises(InputError, match=f"programs must be libjpeg, mozjpeg, jpegli, or several .*: {text}$"):
        DegradationConfig(programs=text)


@pytest.mark.parametrize("program", ["mozjpeg", "jpegli"])
def test_a_program_whose_package_is_missing_is_told_with_what_to_install(program, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert DegradationConfig().programs == "libjpeg"
    with pytest.raises(InputError, match=rf"programs {program} needs other packages: pip install '.*\[programs\]'"):
        DegradationConfig(programs=f"libjpeg,{program}")


def test_shares_of_one_draw_do_not_exceed_1():
    with pytest.raises(InputError, match="must add up to 1 at most: 0.6, 0.3, 0.2"):
        DegradationConfig(double_share=0.6, shifted_share=0.3, scaled_share=0.2)


@pytest.mark.parametrize("field", ["clean_share", "double_share", "shifted_share", "scaled_share"])
def test_share_outside_its_range_is_refused(field):
    with pytest.raises(InputError, match=f"{field} must lie in 0..1: 1.5"):
        DegradationConfig(**{field: 1.5})


@pytest.mark.parametrize(
    ("field", "value"),
    [("patch_size", 0), ("patch_size", 100), ("batch_size", 0), ("patches_per_photo", 0)],
)
def test_wrong_number_is_refused(field, value):
    with pytest.raises(InputError, match=f"{field} must be .*: {value}"):
        DataConfig(**{field: value})


def test_color_augmentation_outside_its_range_is_refused():
    with pytest.raises(InputError, match="color_augmentation must lie in 0..1: -0.1"):
        DataConfig(color_augmentation=-0.1)


@pytest.mark.parametrize(
    "field", ["graphics_clean_share", "enlarged_share", "processed_share", "complementary_share", "gray_share"]
)
def test_share_of_data_outside_its_range_is_refused(field):
    with pytest.raises(InputError, match=f"{field} must lie in 0..1: -1"):
        DataConfig(**{field: -1})


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_all_or_nothing_is_no_share_of_graphics(share):
    with pytest.raises(InputError, match=f"graphics_share must lie in 0..1, both excluded: {share}"):
        DataConfig(graphics_share=share)


def test_graphics_are_degraded_evenly_from_the_whole_range():
    config = DataConfig(
        graphics_clean_share=0.2, degradation=DegradationConfig("5-100,5-40", clean_share=0.05, double_share=0.1)
    )
    assert config.graphics_degradation == DegradationConfig("5-100", clean_share=0.2, double_share=0.1)


def test_photographs_from_jpeg_files_are_degraded_below_a_quality_and_never_left_clean():
    config = DegradationConfig("5-100,80-90,5-40", clean_share=0.05, first_quality="5-80")
    limited = config.limit(75)
    assert limited == DegradationConfig("5-75,5-40", first_quality="5-75")
    assert DegradationConfig("90").limit(75).quality_range == (75, 75)
    with pytest.raises(InputError, match="jpeg_photograph_quality must lie in 1..100: 0"):
        DataConfig(jpeg_photograph_quality=0)


def test_configuration_needs_no_tensorflow():
    code = "import sys, data_prep.config, data_prep.splits; assert 'tensorflow' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
