"""The devices that share a training: several of one machine, or those of several machines.

A training on several machines is one process on each, a worker. All take the same steps on the same weights, each with
its own part of a batch. The first worker is the chief: it alone reads and writes the run's folder and judges, and the
others learn from it what they need to know.
"""

import hashlib
import json
import os
import signal
from collections.abc import Mapping
from typing import Literal

import numpy as np
import tensorflow as tf

from data_prep.command_line import say
from data_prep.errors import InputError, Option, to_one_line

LOST_ERRORS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
"""The errors that TensorFlow raises where another worker has ended, or cannot be reached."""


def open_devices(wanted: int | Literal["all"]) -> tf.distribute.Strategy:
    """Opens the devices to train on: this machine's GPUs, or its processor where it has none.

    Where the environment variable `TF_CONFIG` names several workers, it also waits until all of them are there. Then
    it comes before anything else that TensorFlow is to do.

    Args:
        wanted: How many of each machine.

    Returns:
        The strategy by which they share a batch; TensorFlow's default for one device of one machine.

    Raises:
        InputError: If there are not as many, or `TF_CONFIG` cannot be used.
    """
    workers = _list_workers()
    gpus = tf.config.get_visible_devices("GPU")
    if len(workers) > 1:
        tf.config.set_visible_devices(gpus[: _count(wanted, gpus)], "GPU")
        say(f"waiting for the workers of TF_CONFIG: {' '.join(workers)}", "stderr")
        return _open_workers()
    # A processor is one device, but TensorFlow may have been told to make several of it.
    devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
    count = _count(wanted, devices)
    if count == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([device.name for device in devices[:count]])


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Tells whether this process is the one that reads and writes the run's folder."""
    return strategy.extended.should_checkpoint


def name_worker(strategy: tf.distribute.Strategy) -> str:
    """Names this process among several workers, such as `worker 1`."""
    resolver = strategy.cluster_resolver
    return f"{resolver.task_type} {resolver.task_id}"


def tell_all(strategy: tf.distribute.Strategy, values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Tells all workers what the chief has; every worker must call it at the same point.

    Args:
        strategy: The devices.
        values: Tensors of numbers that a float64 holds, which all workers have in the same shapes.

    Returns:
        The chief's.
    """
    if not _has_several_workers(strategy):
        return values
    return _add_up(strategy, values, of_chief=True)


def share_state(strategy: tf.distribute.Strategy, variables: list, step: int) -> int:
    """Gives all workers the chief's weights, and returns the step that the chief is at."""
    if not _has_several_workers(strategy):
        return step
    *values, chiefs_step = tell_all(strategy, [*map(tf.convert_to_tensor, variables), tf.constant(step)])
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return int(chiefs_step)


def ask_all(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Tells whether any worker says yes; every worker must call it at the same point."""
    if not _has_several_workers(strategy):
        return flag
    [votes] = _add_up(strategy, [tf.constant(float(flag))], of_chief=False)
    return bool(votes > 0)


def require_the_chiefs(strategy: tf.distribute.Strategy, facts: Mapping[str, object]) -> None:
    """Makes sure that this worker was started as the chief was; every worker must call it at the same point.

    Args:
        strategy: The devices.
        facts: By what they are called, plain JSON values that must be the same everywhere.

    Raises:
        InputError: On a worker that differs.
    """
    digests = [
        hashlib.sha256(json.dumps(fact, sort_keys=True, default=str).encode()).digest() for fact in facts.values()
    ]
    ours = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1).astype(np.int32)
    [chiefs] = tell_all(strategy, [tf.constant(ours)])
    different = [name for name, same in zip(facts, np.all(ours == chiefs, axis=1), strict=True) if not same]
    if different:
        raise InputError(f"{name_worker(strategy)} has other {' and '.join(different)} than the first worker")


@tf.function
def _add_up(strategy, values, of_chief):
    """Adds up the values of all devices, or takes those of the chief's first."""

    def add_up():
        context = tf.distribute.get_replica_context()
        counts = not of_chief or context.replica_id_in_sync_group == 0
        # As numbers of one type, which holds all of them and which GPUs can add up.
        ours = [tf.cast(value, tf.float64) for value in values]
        sums = context.all_reduce("SUM", [tf.where(counts, value, tf.zeros_like(value)) for value in ours])
        return [tf.cast(total, value.dtype) for total, value in zip(sums, values, strict=True)]

    return [strategy.experimental_local_results(value)[0] for value in strategy.run(add_up)]


def _has_several_workers(strategy):
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _list_workers() -> list[str]:
    """Lists the addresses of the workers that TF_CONFIG names, if any."""
    if not os.environ.get("TF_CONFIG"):
        return []
    try:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        cluster, task, index = resolver.cluster_spec().as_dict(), resolver.task_type, resolver.task_id
    except (ValueError, TypeError) as error:
        raise InputError(
            f"TF_CONFIG in the environment is not what TensorFlow takes: {to_one_line(str(error))}"
        ) from error
    if other := cluster.keys() - {"chief", "worker"}:
        raise InputError(f"TF_CONFIG in the environment names a {min(other)}, only chief and worker can train together")
    if cluster and not (task in cluster and index is not None and 0 <= index < len(cluster[task])):
        raise InputError(
            f"TF_CONFIG in the environment says that this is task {index} of {task}, which its cluster lacks"
        )
    return [address for addresses in cluster.values() for address in addresses]


def _count(wanted, devices):
    there = max(1, len(devices))
    if wanted == "all":
        return there
    if wanted > there:
        raise InputError(
            f"this machine has {there} of {wanted} devices to train on: choose a smaller ", Option("devices")
        )
    return wanted


def _open_workers():
    # While it waits for the others, which may be for ever, TensorFlow lets no handler of ours run; and then it leaves
    # one of its own.
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        reason = to_one_line(error.message)
        raise InputError(f"the workers that TF_CONFIG in the environment names cannot meet: {reason}") from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
