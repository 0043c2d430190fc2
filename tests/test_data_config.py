import subprocess
import sys

import pytest

from data_prep.config import DataConfig, DegradationConfig


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
    with pytest.raises(ValueError, match="quality must") as error:
        DegradationConfig(quality)
    assert str(error.value).endswith(quality)


@pytest.mark.parametrize("field", ["clean_share", "double_share"])
def test_share_outside_its_range_is_refused(field):
    with pytest.raises(ValueError, match=f"{field} must lie in 0..1: 1.5"):
        DegradationConfig(**{field: 1.5})


@pytest.mark.parametrize(
    ("field", "value"),
    [("patch_size", 0), ("patch_size", 100), ("batch_size", 0), ("patches_per_photo", 0)],
)
def test_wrong_number_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be .*: {value}"):
        DataConfig(**{field: value})


def test_colour_augmentation_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="colour_augmentation must lie in 0..1: -0.1"):
        DataConfig(colour_augmentation=-0.1)


def test_configuration_needs_no_tensorflow():
    code = "import sys, data_prep.config, data_prep.splits; assert 'tensorflow' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
