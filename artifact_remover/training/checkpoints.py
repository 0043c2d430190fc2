"""Checkpoints: what a stage needs to go on exactly where it was stopped."""

import json
import time
from pathlib import Path

import tensorflow as tf

from artifact_remover.checkpoint_files import DamagedCheckpointError, find_checkpoints, read_checkpoint, step_of
from artifact_remover.model_folder import rename_old_keys
from data_prep.errors import InputError, Option

SECONDS_BETWEEN = 30
"""A killed run loses at most this much work, and what one validation takes."""

_KEPT = 2


class Checkpoints:
    """Keeps a stage's state in a folder: networks, optimizers, the step, and the history of validations.

    A checkpoint that a kill, or a disk, has left damaged is passed over for the one before it.

    Args:
        state: The networks and built optimizers to keep, by name.
        folder: Where; made when the first checkpoint is saved.

    Attributes:
        passed_over: The damaged checkpoints that `restore` found, the newest first.
    """

    def __init__(self, state: dict, folder: Path):
        """Takes the arguments that the class documents."""
        self.folder = folder
        self.passed_over: list[Path] = []
        self._step = tf.Variable(0, dtype=tf.int64)
        self._history = tf.Variable("[]", dtype=tf.string)
        self._state = {"step": self._step, "history": self._history, **state}
        self._saved_at = time.monotonic()

    def restore(self) -> tuple[int, list[dict]]:
        """Loads the last whole checkpoint, if there is one, into the networks and optimizers.

        Returns:
            The step to go on from, 0 where there is no checkpoint, and the validations up to it.

        Raises:
            InputError: If the checkpoint belongs to networks of another size, or none can be read.
        """
        for checkpoint in find_checkpoints(self.folder):
            try:
                read_checkpoint(checkpoint, **self._state)
                break
            except DamagedCheckpointError:
                self.passed_over.append(checkpoint)
            except (ValueError, AssertionError) as error:
                raise InputError(
                    f"the checkpoint {checkpoint} does not fit these networks: use another ", Option("workdir")
                ) from error
        else:
            if self.passed_over:
                raise InputError(f"the checkpoint {self.passed_over[0]} is damaged: use another ", Option("workdir"))
        return int(self._step), rename_old_keys(json.loads(self._history.numpy()))

    def save(self, step: int, history: list[dict]) -> None:
        """Saves the state as it is after `step` steps, and removes all but it and the one before it."""
        self._step.assign(step)
        self._history.assign(json.dumps(history))
        self.folder.mkdir(parents=True, exist_ok=True)
        # Written under other names, which are then changed, the index last.
        tf.train.Checkpoint(**self._state).write(str(self.folder / f"ckpt-{step}"))
        whole = [each for each in find_checkpoints(self.folder) if step_of(each) <= step]
        for checkpoint in {*find_checkpoints(self.folder)} - {*whole[:_KEPT]}:  # those of later steps are damaged
            for file in self.folder.glob(f"{checkpoint.name}.*"):
                file.unlink()
        self._saved_at = time.monotonic()

    def save_when_due(self, step: int, history: list[dict]) -> None:
        """Saves the state if the last checkpoint is older than `SECONDS_BETWEEN`."""
        if time.monotonic() - self._saved_at > SECONDS_BETWEEN:
            self.save(step, history)
