import hashlib
import importlib.metadata

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from artifact_remover.config import PRESETS
from data_prep import pipeline
from data_prep.config import DataConfig, DegradationConfig
from data_prep.errors import InputError
from data_prep.pipeline import training_batches, validation_batches
from data_prep.sources import open_photographs

CONFIG = DataConfig(patch_size=32, patches_per_photo=2, batch_size=4)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return open_photographs(DataConfig("sample_photos", tmp_path_factory.mktemp("tfds")))


@pytest.fixture(scope="module")
def flat_photographs(tmp_path_factory):
    """Seven photographs for training, each of one level, so that a patch tells its photograph."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(9):
        Image.new("RGB", (64, 64), (number * 20,) * 3).save(folder / f"{number}.png")
    return open_photographs(DataConfig(str(folder), tmp_path_factory.mktemp("tfds")))


FLAT = DataConfig(patch_size=32, patches_per_photo=2, batch_size=1, colour_augmentation=0)


def take(batches, count):
    return [tuple(part.numpy() for part in batch) for batch in batches.take(count)]


def levels(photographs, config, count, start_step=0):
    batches = take(training_batches(photographs, "generator", config, 1, start_step), count)
    return [round(float(level) * 255) for _, clean in batches for level in clean[:, 0, 0, 0]]


def test_batches_have_the_stated_shape_type_and_range(photographs):
    batches = training_batches(photographs, "generator", CONFIG, 1)
    assert batches.element_spec == (tf.TensorSpec([4, 32, 32, 3], tf.float32),) * 2
    degraded, clean = take(batches, 1)[0]
    for part in (degraded, clean):
        assert 0 <= part.min() < part.max() <= 1


def test_degraded_differs_from_clean_but_not_much(photographs):
    for degraded, clean in take(training_batches(photographs, "generator", CONFIG, 1), 4):
        assert 0 < abs(degraded - clean).mean() < 0.1


def test_clean_is_never_compressed(photographs):
    config = DataConfig(patch_size=32, degradation=DegradationConfig(clean_share=1.0))
    degraded, clean = take(training_batches(photographs, "generator", config, 1), 1)[0]
    np.testing.assert_array_equal(degraded, clean)


def test_same_seed_gives_equal_batches_and_another_gives_others(photographs):
    tf.random.set_seed(1)
    first = take(training_batches(photographs, "generator", CONFIG, 3), 6)
    tf.random.set_seed(2)  # TensorFlow's global seed must not matter
    np.testing.assert_array_equal(first, take(training_batches(photographs, "generator", CONFIG, 3), 6))
    assert (np.array(first) != take(training_batches(photographs, "generator", CONFIG, 4), 6)).any()


@pytest.mark.parametrize("memory", [2**30, 20_000], ids=["in memory", "from disk"])
@pytest.mark.parametrize("step", [1, 4, 7, 13, 20])
def test_resumed_run_sees_the_same_batches(photographs, monkeypatch, memory, step):
    monkeypatch.setattr(pipeline, "_SHUFFLED_BYTES", memory)
    config = DataConfig(patch_size=32, patches_per_photo=3, batch_size=5, degradation=DegradationConfig("20-30"))
    whole = take(training_batches(photographs, "generator", config, 3), step + 3)
    resumed = take(training_batches(photographs, "generator", config, 3, start_step=step), 3)
    np.testing.assert_array_equal(whole[step:], resumed)


@pytest.mark.parametrize("memory", [2**30, 0], ids=["in memory", "from disk"])
def test_an_epoch_contains_every_photograph_once(flat_photographs, monkeypatch, memory):
    monkeypatch.setattr(pipeline, "_SHUFFLED_BYTES", memory)
    seen = levels(flat_photographs, FLAT, 2 * 7)
    names = flat_photographs.entries("generator", "train")
    expected = sorted(int(entry.name.removesuffix(".png")) * 20 for entry in names)
    assert sorted(seen[::2]) == expected
    assert seen[::2] == seen[1::2]  # two patches of each


def test_two_epochs_differ_in_order(flat_photographs):
    seen = levels(flat_photographs, FLAT, 4 * 7)[::2]
    assert sorted(seen[:7]) == sorted(seen[7:])
    assert seen[:7] != seen[7:]


def test_a_batch_shows_different_photographs(flat_photographs):
    config = DataConfig(patch_size=32, patches_per_photo=4, batch_size=7, colour_augmentation=0)
    seen = levels(flat_photographs, config, 4)
    assert all(len(set(seen[first : first + 7])) == 7 for first in range(0, 28, 7))


def test_batch_larger_than_the_data_is_refused(flat_photographs):
    config = DataConfig(patch_size=32, patches_per_photo=2, batch_size=15)
    with pytest.raises(InputError, match="7 photographs of 2 patches do not fill a batch, .*: 15"):
        training_batches(flat_photographs, "generator", config, 1)


def test_batch_may_hold_every_patch_of_an_epoch(flat_photographs):
    config = DataConfig(patch_size=32, patches_per_photo=2, batch_size=14, colour_augmentation=0)
    assert len(levels(flat_photographs, config, 1)) == 14


@pytest.mark.parametrize("make", [training_batches, validation_batches])
def test_patch_larger_than_every_photograph_is_refused(flat_photographs, make):
    with pytest.raises(InputError, match="a patch of 80 pixels is larger than every photograph"):
        make(flat_photographs, "generator", DataConfig(patch_size=80), 1)


def test_smaller_photographs_are_passed_over(photographs):
    config = DataConfig(patch_size=448, patches_per_photo=1, batch_size=1, colour_augmentation=0)
    assert len(take(training_batches(photographs, "generator", config, 1), 8)) == 8


def test_validation_is_the_same_in_every_iteration(photographs):
    config = DataConfig(patch_size=32, batch_size=6, degradation=DegradationConfig("5-95"))
    batches = validation_batches(photographs, "generator", config, 1)
    assert [len(clean) for _, clean in take(batches, 99)] == [6, 6, 4]
    again = validation_batches(photographs, "generator", config, 1)
    for first, *others in zip(take(batches, 99), take(batches, 99), take(again, 99), strict=True):
        for other in others:
            np.testing.assert_array_equal(first, other)


def test_validation_is_not_augmented(photographs):
    config = DataConfig(patch_size=32, patches_per_photo=1)
    photo = dict(photographs.decoded("generator", "validation"))["coins"]
    middle = photo[60:92, 80:112].astype(np.float32) / 255
    patches = [
        patch for _, clean in take(validation_batches(photographs, "generator", config, 1), 9) for patch in clean
    ]
    assert any((patch == middle).all() for patch in patches)


def test_validation_has_at_most_64_patches(photographs):
    config = DataConfig(patch_size=32, patches_per_photo=100, batch_size=100)
    [(_, clean)] = take(validation_batches(photographs, "generator", config, 1), 99)
    assert len(clean) == 64


# What these configurations gave before there were graphics; a run that was begun then goes on with the same batches.
as_recorded = pytest.mark.skipif(
    importlib.metadata.version("albumentations") != "2.0.8", reason="another albumentations draws other patches"
)
TWICE = DegradationConfig("5-95,5-40", "both", clean_share=0.06, double_share=0.15)


def first_batch(photographs, config, step=0):
    [pair] = take(training_batches(photographs, "generator", config, 0, step), 1)
    return (np.stack(pair) * 255).round().astype(np.uint8)


@as_recorded
@pytest.mark.parametrize(
    ("config", "step", "expected"),
    [
        (DataConfig(colour_augmentation=0), 0, "be8d3b223dd03844"),
        (DataConfig(colour_augmentation=0, patch_size=160, degradation=TWICE), 5, "cfb4ac9b02916b75"),
    ],
    ids=["default", "blind quality"],
)
def test_first_batch_is_the_recorded_one(photographs, config, step, expected):
    assert hashlib.sha256(first_batch(photographs, config, step).tobytes()).hexdigest()[:16] == expected


@as_recorded
def test_first_batch_of_quick_is_recoloured_as_recorded(photographs):
    # The means alone: mixed colours are rounded from floating point, which differs between processors.
    _, clean = first_batch(photographs, PRESETS["quick"].data).mean(axis=(2, 3, 4))
    expected = [129.5, 169.35, 100.62, 102.28, 139.81, 124.98, 49.84, 132.75]
    np.testing.assert_allclose(clean, expected, atol=0.02)
