import dataclasses
import io
import math
import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from artifact_remover.config import GeneratorConfig, LossConfig, Schedule
from artifact_remover.generator import build_generator
from artifact_remover.training.checkpoints import Checkpoints
from artifact_remover.training.gan import GeneratorPretraining
from artifact_remover.training.loop import Interrupted, make_optimizer, train
from artifact_remover.training.monitoring import Monitor
from data_prep.errors import InputError

SIX = Schedule(steps=6, learning_rate=1e-2, warmup_steps=2, validate_every=2)
FOURS = dataclasses.replace(SIX, validate_every=4)  # validates after the last step too


def batches(step, _context=None):
    """Batches that depend on their number alone."""

    def make(number):
        clean = tf.random.stateless_uniform([2, 32, 32, 3], [7, number])
        return tf.round(clean * 8) / 8, clean

    return tf.data.Dataset.range(step, 1000).map(make)


class Stage:
    """Stage 1 of a tiny generator in a folder, as a new process would set it up."""

    def __init__(self, folder, schedule=SIX):
        keras.utils.set_random_seed(0)
        self.generator = build_generator(GeneratorConfig(features=8, growth=4, blocks=1))
        self.trainer = GeneratorPretraining(self.generator, LossConfig(perceptual=0), None)
        self.trainer.compile(optimizer=make_optimizer(schedule))
        self.trainer.optimizer.build(self.generator.trainable_variables)
        self.folder, self.schedule, self.printed = folder, schedule, io.StringIO()
        state = {"generator": self.generator, "optimizer": self.trainer.optimizer}
        self.checkpoints = Checkpoints(state, folder / "checkpoints")

    def train(self, batches=batches, at=lambda step: None):
        def validate(step, monitor):
            at(step)
            return {"psnr": float(step)}

        def open_monitor(step):
            console = Console(file=self.printed, width=200)
            return Monitor("stage", self.folder / "tensorboard", self.schedule.steps, step, console)

        return train(self.trainer, batches, self.schedule, self.checkpoints, open_monitor, validate)


def signal_at(step, number=signal.SIGINT):
    return lambda now: os.kill(os.getpid(), number) if now == step else None


def test_learning_rate_rises_then_falls_to_a_hundredth():
    optimizer = make_optimizer(Schedule(steps=110, learning_rate=4e-4, warmup_steps=10))
    rates = [float(optimizer._learning_rate(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(rates, [0, 2e-4, 4e-4, 4e-4 * (1 + 0.01) / 2, 4e-6], rtol=1e-5)


def test_without_warm_up_the_learning_rate_starts_at_the_top():
    optimizer = make_optimizer(Schedule(steps=100, learning_rate=1e-4))
    rates = [float(optimizer._learning_rate(step)) for step in (0, 50, 100)]
    np.testing.assert_allclose(rates, [1e-4, 1e-4 * (1 + 0.01) / 2, 1e-6], rtol=1e-5)


def test_gradients_are_clipped_together():
    variables = [keras.Variable([0.0]), keras.Variable([0.0])]
    optimizer = make_optimizer(Schedule(steps=10, learning_rate=1.0, clip_norm=0.5))
    optimizer.build(variables)
    optimizer.apply([tf.constant([3.0]), tf.constant([4.0])], variables)
    momentums = [float(each[0]) for each in optimizer._momentums]
    np.testing.assert_allclose(momentums, [0.1 * 0.3, 0.1 * 0.4], rtol=1e-5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match="stopped at step 4 of 6, saved; the same command goes on from there"):
        Stage(tmp_path).train(at=signal_at(4, number))
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    step, history = Stage(tmp_path).checkpoints.restore()
    assert (step, [entry["step"] for entry in history]) == (4, [0, 2, 4])


def test_a_signal_in_the_last_step_stops_before_the_next_stage(tmp_path):
    with pytest.raises(Interrupted, match="step 6 of 6, saved"):
        Stage(tmp_path, FOURS).train(at=signal_at(6))
    history = Stage(tmp_path, FOURS).train(batches=lambda *_: pytest.fail("asked for batches"))  # all steps are done
    assert [entry["step"] for entry in history] == [0, 4, 6]
    assert all(a["seconds"] < b["seconds"] for a, b in zip(history, history[1:], strict=False))


@pytest.mark.parametrize("optimizer", [pytest.param("adam", marks=pytest.mark.slow), "muon"])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, optimizer):
    schedule = dataclasses.replace(SIX, optimizer=optimizer)
    expected = (whole := Stage(tmp_path / "whole", schedule)).train()
    with pytest.raises(Interrupted):
        Stage(tmp_path / "parts", schedule).train(at=signal_at(2))
    history = (resumed := Stage(tmp_path / "parts", schedule)).train()
    assert "pretrain_generator: going on from step 2 of 6" in resumed.printed.getvalue()
    assert [entry["step"] for entry in history] == [entry["step"] for entry in expected] == [0, 2, 4, 6]
    seconds = [entry["seconds"] for entry in history]
    assert seconds == sorted(seconds)
    for a, b in zip(whole.generator.get_weights(), resumed.generator.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(whole.trainer.optimizer.variables, resumed.trainer.optimizer.variables, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))


def test_divergence_is_reported_and_never_saved(tmp_path):
    def spoilt(step, _context):
        numbers = tf.data.Dataset.range(step, 1000)
        poison = numbers.map(lambda number: tf.where(number == 3, math.nan, 0.0))
        return tf.data.Dataset.zip(batches(step), poison).map(lambda batch, nan: (batch[0] + nan, batch[1]))

    stage = Stage(tmp_path)
    with pytest.raises(InputError, match="diverged at step 4, .* new workdir .* lower learning rate") as raised:
        stage.train(batches=spoilt)
    assert "\n" not in str(raised.value)
    assert Stage(tmp_path).checkpoints.restore()[0] < 4
