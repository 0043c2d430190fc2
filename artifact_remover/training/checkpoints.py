"""Checkpoints: what a stage needs to go on exactly where it was stopped."""

import json
import time
from pathlib import Path

import tensorflow as tf

from artifact_remover.model_folder import rename_old_keys
from data_prep.errors import InputError, Option

SECONDS_BETWEEN = 30
"""A killed run loses at most this much work, and what one validation takes."""


class Checkpoints:
    """Keeps a stage's state in a folder: networks, optimizers, the step, and the history of validations.

    `tf.train.CheckpointManager` writes files under new names and then renames the index that points to them, so that a
    kill at any moment leaves the checkpoint before it in place.

    Args:
        state: The networks and built optimizers to keep, by name.
        folder: Where; made when the first checkpoint is saved.
    """

    def __init__(self, state: dict, folder: Path):
        """Takes the arguments that the class documents."""
        self.folder = folder
        self._step = tf.Variable(0, dtype=tf.int64)
        self._history = tf.Variable("[]", dtype=tf.string)
        self._checkpoint = tf.train.Checkpoint(step=self._step, history=self._history, **state)
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=2)
        self._saved_at = time.monotonic()

    def restore(self) -> tuple[int, list[dict]]:
        """Loads the last checkpoint, if there is one, into the networks and optimizers.

        Returns:
            The step to go on from, 0 where there is no checkpoint, and the validations up to it.

        Raises:
            InputError: If the checkpoint belongs to networks of another size, or cannot be read.
        """
        path = self._manager.latest_checkpoint
        if path:
            try:
                self._checkpoint.restore(path).assert_existing_objects_matched()
            except (ValueError, AssertionError, IndexError, tf.errors.OpError) as error:
                raise InputError(
                    f"the checkpoint {path} does not fit these networks, or is damaged: use another ",
                    Option("workdir"),
                ) from error
        return int(self._step), rename_old_keys(json.loads(self._history.numpy()))

    def save(self, step: int, history: list[dict]) -> None:
        """Saves the state as it is after `step` steps."""
        self._step.assign(step)
        self._history.assign(json.dumps(history))
        self._manager.save(checkpoint_number=step)
        self._saved_at = time.monotonic()

    def save_when_due(self, step: int, history: list[dict]) -> None:
        """Saves the state if the last checkpoint is older than `SECONDS_BETWEEN`."""
        if time.monotonic() - self._saved_at > SECONDS_BETWEEN:
            self.save(step, history)
