"""The loop that all three stages share: batches in, steps, validations, checkpoints; stoppable at any step."""

import contextlib
import math
import signal
import time
from collections.abc import Callable

import keras
import tensorflow as tf

from artifact_remover.config import Schedule
from artifact_remover.training.checkpoints import Checkpoints
from artifact_remover.training.devices import ask_all, share_state
from artifact_remover.training.monitoring import Monitor
from artifact_remover.training.optimizers import Adam, Muon
from data_prep.errors import InputError, Option

Batches = Callable[[int, tf.distribute.InputContext], tf.data.Dataset]
"""Gives the batches from a step on, endless: `(degraded, clean)`, float32 [N, H, W, 3] in [0, 1].

The context says among how many devices each is divided: the parts for those of this process, one after the other.
"""


class Interrupted(Exception):
    """A stop that the user, or the system, asked for; the run is saved, and the message says how to go on."""


def make_optimizer(schedule: Schedule) -> keras.optimizers.Optimizer:
    """Adam or Muon with linear warm-up, cosine decay to a hundredth and clipped gradients.

    Args:
        schedule: Steps, warm-up, learning rate, clipping and which of the two.
    """
    highest = schedule.learning_rate
    rate = keras.optimizers.schedules.CosineDecay(
        # Without warm-up Keras decays from the first number, with warm-up from `warmup_target`.
        initial_learning_rate=0.0 if schedule.warmup_steps else highest,
        decay_steps=schedule.steps - schedule.warmup_steps,
        alpha=0.01,
        warmup_target=highest if schedule.warmup_steps else None,
        warmup_steps=schedule.warmup_steps,
    )
    # A shorter memory of squared gradients than Adam's usual one, as in GAN training (Karras et al., 2018).
    optimizer = {"adam": Adam, "muon": Muon}[schedule.optimizer]
    return optimizer(rate, beta_2=0.99, global_clipnorm=schedule.clip_norm)


def train(
    trainer: keras.Model,
    batches: Batches,
    schedule: Schedule,
    checkpoints: Checkpoints,
    open_monitor: Callable[[int], Monitor],
    validate: Callable[[int, Monitor], dict],
) -> list[dict]:
    """Trains to the end of the schedule, from the last checkpoint if there is one.

    Args:
        trainer: A compiled model from `artifact_remover.training.gan`, made in the scope of the devices' strategy.
        batches: Gives the batches.
        schedule: How many steps, and how often to validate.
        checkpoints: Keeps the state.
        open_monitor: Gives the monitor of a stage that goes on from a step.
        validate: Judges the networks after a step and reports to the monitor; called before the first step too.

    Returns:
        What `validate` returned, with `step` and training `seconds`, in order; those of earlier processes included.

    Raises:
        Interrupted: After SIGINT (Ctrl-C) or SIGTERM; the state is saved.
        InputError: If the training diverged; the last checkpoint is from before.
    """
    step, history = checkpoints.restore()
    share_state(trainer.distribute_strategy, _list_state(trainer), step)
    if step == schedule.steps:
        return history
    take_step = _prepare_step(trainer, batches, step)
    seconds_before = history[-1]["seconds"] if history else 0.0
    started = time.perf_counter()

    def validated():
        scores = validate(step, monitor)
        return {"step": step, "seconds": seconds_before + time.perf_counter() - started, **scores}

    with open_monitor(step) as monitor, _noticing_signals() as stopped_by:
        for damaged in checkpoints.passed_over:
            monitor.say(f"{damaged} is damaged, the one before it is used")
        if step:
            monitor.say(f"{trainer.name}: going on from step {step} of {schedule.steps}")
        else:
            history.append(validated())
        while step < schedule.steps:
            scalars, seconds, seconds_waiting = take_step()
            step += 1
            _stop_on_nan(scalars, step)
            monitor.training(step, {**scalars, **_learning_rates(trainer)}, seconds, seconds_waiting)
            if step % schedule.validate_every == 0 or step == schedule.steps:
                history.append(validated())
            stopped = ask_all(trainer.distribute_strategy, bool(stopped_by))
            if stopped or step == schedule.steps:
                checkpoints.save(step, history)
            else:
                checkpoints.save_when_due(step, history)
            if stopped:
                raise _interrupted(step, schedule)
    return history


def follow(trainer: keras.Model, batches: Batches, schedule: Schedule) -> None:
    """Takes the steps that `train` takes on the chief, on a worker that is not.

    Args:
        trainer: Compiled as the chief's; the chief's weights are taken over.
        batches: As for `train`.
        schedule: As for `train`.

    Raises:
        Interrupted: After SIGINT or SIGTERM to any worker; the chief saves the state.
        InputError: If the training diverged.
    """
    strategy = trainer.distribute_strategy
    step = share_state(strategy, _list_state(trainer), 0)
    if step == schedule.steps:
        return
    take_step = _prepare_step(trainer, batches, step)
    with _noticing_signals() as stopped_by:
        while step < schedule.steps:
            scalars, _, _ = take_step()
            step += 1
            _stop_on_nan(scalars, step)
            if ask_all(strategy, bool(stopped_by)):
                raise _interrupted(step, schedule)


def _prepare_step(trainer, batches, first):
    """Makes a function that takes the next step; it returns its scalars, what it took, and the wait in it, in s."""
    strategy = trainer.distribute_strategy
    train_step = tf.function(trainer.train_step, autograph=False, reduce_retracing=True)
    incoming = iter(strategy.distribute_datasets_from_function(lambda context: batches(first, context)))

    def take_step():
        start = time.perf_counter()
        batch = next(incoming)
        received = time.perf_counter()
        with strategy.scope():
            scalars = {name: float(value) for name, value in train_step(batch).items()}
        return scalars, time.perf_counter() - start, received - start

    return take_step


def _interrupted(step, schedule):
    return Interrupted(f"stopped at step {step} of {schedule.steps}, saved; the same command goes on from there")


def _optimizers(trainer):
    names = [name for name in ("optimizer", "discriminator_optimizer") if hasattr(trainer, name)]
    return {name: getattr(trainer, name) for name in names}


def _list_state(trainer):
    return [variable for each in (trainer, *_optimizers(trainer).values()) for variable in each.variables]


def _learning_rates(trainer):
    return {
        name.replace("optimizer", "learning_rate"): float(optimizer.learning_rate)
        for name, optimizer in _optimizers(trainer).items()
    }


def _stop_on_nan(scalars, step):
    names = [name for name in scalars if name.endswith("gradient_norm")]
    if scalars.get("generator_steps") == 0.0:
        names.remove("gradient_norm")  # the generator took no step, so that there is none
    if not all(math.isfinite(scalars[name]) for name in names):
        raise InputError(
            f"training diverged at step {step}, its gradient is not a number: use a new ",
            Option("workdir"),
            " with a lower learning rate or ",
            Option("precision"),
            " float32",
        )


@contextlib.contextmanager
def _noticing_signals():
    """Collects SIGINT and SIGTERM instead of dying of them in the middle of a step."""
    received = []

    def notice(number, _frame):
        received.append(number)
        signal.signal(number, handlers[number])  # so that a second one ends a step that hangs

    handlers = {number: signal.signal(number, notice) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
