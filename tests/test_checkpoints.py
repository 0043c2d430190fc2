import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from artifact_remover.checkpoint_files import find_checkpoints
from artifact_remover.config import GanSchedule
from artifact_remover.training import checkpoints
from artifact_remover.training.checkpoints import Checkpoints
from artifact_remover.training.loop import make_optimizer
from data_prep.errors import InputError

SCHEDULE = GanSchedule(steps=10, learning_rate=1e-2, warmup_steps=2)
HISTORY = [{"step": 0, "psnr": 25.5, "seconds": 1.25}]


def make_state(width=3, seed=0):
    """Two networks, the average of one of them, and their optimizers, as the GAN stage keeps them."""
    keras.utils.set_random_seed(seed)
    state = {
        name: keras.Sequential([keras.Input([2]), keras.layers.Dense(width)], name=name)
        for name in ("generator", "averaged_generator", "discriminator")
    }
    for name, network in (("optimizer", "generator"), ("discriminator_optimizer", "discriminator")):
        state[name] = make_optimizer(SCHEDULE)
        state[name].build(state[network].trainable_variables)
    return state


def take_steps(state, count):
    for _ in range(count):
        for name, network in (("optimizer", "generator"), ("discriminator_optimizer", "discriminator")):
            variables = state[network].trainable_variables
            state[name].apply([tf.ones_like(variable) for variable in variables], variables)


def values(state):
    networks = [state[name].weights for name in ("generator", "averaged_generator", "discriminator")]
    optimizers = [state[name].variables for name in ("optimizer", "discriminator_optimizer")]
    return [np.array(variable) for variables in networks + optimizers for variable in variables]


def test_everything_comes_back_bit_equal(tmp_path):
    before, after = make_state(seed=1), make_state(seed=2)
    take_steps(before, 3)
    Checkpoints(before, tmp_path).save(3, HISTORY)
    assert Checkpoints(after, tmp_path).restore() == (3, HISTORY)
    for old, new in zip(values(before), values(after), strict=True):
        np.testing.assert_array_equal(old, new)
    assert int(after["optimizer"].iterations) == 3
    assert float(after["optimizer"].learning_rate) == float(before["optimizer"].learning_rate) > 0


def test_validations_under_the_old_spelling_are_read(tmp_path):
    Checkpoints(make_state(), tmp_path).save(3, [{**HISTORY[0], "colour_shift": 0.5}])  # old spelling
    assert Checkpoints(make_state(), tmp_path).restore() == (3, [{**HISTORY[0], "color_shift": 0.5}])


def test_without_a_checkpoint_nothing_is_done_before(tmp_path):
    assert Checkpoints(make_state(), tmp_path / "new").restore() == (0, [])
    assert not (tmp_path / "new").exists()


def test_networks_of_another_size_are_refused(tmp_path):
    Checkpoints(make_state(width=3), tmp_path).save(1, HISTORY)
    with pytest.raises(InputError, match=r"^[^\n]*ckpt-1 does not fit these networks[^\n]*$"):
        Checkpoints(make_state(width=4), tmp_path).restore()


def test_networks_with_more_weights_are_refused(tmp_path):
    state = make_state()
    Checkpoints({"generator": state["generator"]}, tmp_path).save(1, HISTORY)
    with pytest.raises(InputError, match="does not fit these networks"):
        Checkpoints(state, tmp_path).restore()


def cut(folder, step, suffix, kept):
    file = folder / f"ckpt-{step}.{suffix}"
    if kept is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])


@pytest.mark.parametrize("suffix", ["data-00000-of-00001", "index"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_file_is_refused_where_there_is_no_checkpoint_before_it(tmp_path, suffix, kept):
    Checkpoints(make_state(), tmp_path).save(1, HISTORY)
    cut(tmp_path, 1, suffix, kept)
    with pytest.raises(InputError, match=r"^[^\n]*ckpt-1 is damaged: use another workdir$"):
        Checkpoints(make_state(), tmp_path).restore()


@pytest.mark.parametrize("suffix", ["data-00000-of-00001", "index"])
@pytest.mark.parametrize("kept", [None, 0, 0.5])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(tmp_path, suffix, kept):
    for step in (3, 8):
        Checkpoints(make_state(seed=step), tmp_path).save(step, [{"step": step}])
    cut(tmp_path, 8, suffix, kept)
    state = make_state(seed=5)
    keeper = Checkpoints(state, tmp_path)
    assert keeper.restore() == (3, [{"step": 3}])
    np.testing.assert_array_equal(values(state)[0], values(make_state(seed=3))[0])
    # A checkpoint without an index is one that a kill left unfinished, and none at all.
    assert keeper.passed_over == ([] if (suffix, kept) == ("index", None) else [tmp_path / "ckpt-8"])
    keeper.save(5, HISTORY)
    assert [file.name for file in find_checkpoints(tmp_path)] == ["ckpt-5", "ckpt-3"]
    assert Checkpoints(make_state(), tmp_path).restore() == (5, HISTORY)


@pytest.mark.parametrize("content", [b"", b"nonsense", b'model_checkpoint_path: "ckpt-1"\n'])
def test_tensorflows_list_of_checkpoints_does_not_matter(tmp_path, content):
    for step in (9, 10):
        Checkpoints(make_state(), tmp_path).save(step, HISTORY)
    (tmp_path / "checkpoint").write_bytes(content)
    assert Checkpoints(make_state(), tmp_path).restore()[0] == 10


def test_what_an_earlier_version_saved_is_read(tmp_path):
    state = make_state(seed=1)
    kept = {"step": tf.Variable(7, dtype=tf.int64), "history": tf.Variable(json.dumps(HISTORY))}
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(**kept, **state), str(tmp_path), max_to_keep=2)
    manager.save(checkpoint_number=7)
    after = make_state(seed=2)
    assert Checkpoints(after, tmp_path).restore() == (7, HISTORY)
    np.testing.assert_array_equal(values(after)[0], values(state)[0])


@pytest.mark.parametrize("name", ["br[1]", "a*b?", "m [x]", "back\\slash"])
def test_folders_of_any_name_are_gone_on_in(tmp_path, name):
    state = make_state(seed=1)
    Checkpoints(state, tmp_path / name).save(3, HISTORY)
    after = make_state(seed=2)
    assert Checkpoints(after, tmp_path / name).restore() == (3, HISTORY)
    np.testing.assert_array_equal(values(after)[0], values(state)[0])


def test_the_last_two_are_kept(tmp_path):
    keeper = Checkpoints(make_state(), tmp_path)
    for step in (1, 2, 3):
        keeper.save(step, HISTORY)
    assert sorted(file.name for file in tmp_path.glob("*.index")) == ["ckpt-2.index", "ckpt-3.index"]
    assert Checkpoints(make_state(), tmp_path).restore()[0] == 3


def test_two_are_kept_over_several_processes(tmp_path):
    for step in (1, 2, 3):
        keeper = Checkpoints(make_state(), tmp_path)
        keeper.restore()
        keeper.save(step, HISTORY)
    assert len(list(tmp_path.glob("*.index"))) == 2


def test_saves_when_the_clock_says_so(tmp_path, monkeypatch):
    clock = iter([100.0, 101.0, 129.0, 131.0, 131.0, 150.0, 160.0, 162.0, 162.0])
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: next(clock))
    keeper = Checkpoints(make_state(), tmp_path)
    saved = []
    for step in range(1, 7):
        keeper.save_when_due(step, HISTORY)
        saved.append(len(list(tmp_path.glob("*.index"))))
    assert saved == [0, 0, 1, 1, 1, 2]
