"""Progress of a stage for a person to watch: TensorBoard, and a progress bar with a line per validation."""

import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboard.compat.proto import event_pb2

_STEPS_BETWEEN_SCALARS = 10


class Monitor:
    """Writes a stage's curves and pictures for TensorBoard and its progress to the terminal.

    TensorBoard overlays curves of one name from several folders: `validation/psnr` is drawn once for the restored
    patches and once, from the folder `jpeg`, for the JPEGs they were made of, so that nobody has to remember what there
    was to beat.

    Args:
        stage: The stage's name.
        folder: TensorBoard's folder of the run.
        steps: Steps of the stage.
        first_step: Steps that an earlier process has done already.
        console: Where progress goes.
    """

    def __init__(self, stage: str, folder: Path, steps: int, first_step: int, console: Console):
        """Takes the arguments that the class documents."""
        self._stage = stage
        self._writers = {
            name: _open_writer(folder / stage / name, first_step) for name in ("train", "validation", "jpeg")
        }
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task(stage, total=steps, completed=first_step, state="")
        self._steps = steps
        self._loss = self._validated = ""

    def __enter__(self):
        """Starts the progress bar."""
        self._progress.start()
        return self

    def __exit__(self, *_):
        """Stops the progress bar and closes TensorBoard's files."""
        self._progress.stop()
        for writer in self._writers.values():
            writer.close()

    def training(self, step: int, scalars: dict[str, float], seconds: float, seconds_waiting: float) -> None:
        """Reports a training step.

        Args:
            step: Steps done, this one included.
            scalars: Loss terms, learning rates, gradient norms; NaN is "not measured".
            seconds: What the step took in all.
            seconds_waiting: What of that was spent waiting for the batch.
        """
        if step % _STEPS_BETWEEN_SCALARS == 0:
            speed = {"steps_per_second": 1 / seconds, "data_wait_share": seconds_waiting / seconds}
            with self._writers["train"].as_default(step):
                for name, value in {**scalars, **speed}.items():
                    if np.isfinite(value):
                        tf.summary.scalar(f"train/{name}", value)
        loss = scalars.get("loss", scalars.get("discriminator_loss", np.nan))
        if np.isfinite(loss):
            self._loss = f"loss {loss:.5f}"
        self._show(step)

    def validation(self, step: int, scores: dict[str, float], jpeg: dict[str, float], pictures: np.ndarray) -> None:
        """Reports a validation.

        Args:
            step: Steps done.
            scores: Measures of the restored validation patches.
            jpeg: The same measures of the JPEGs themselves; those that a JPEG has.
            pictures: uint8 [N, H, W, 3] in 0..255, RGB, to show: before, after and clean side by side.
        """
        for writer, measures in (("validation", scores), ("jpeg", jpeg)):
            with self._writers[writer].as_default(step):
                for name, value in measures.items():
                    tf.summary.scalar(f"validation/{name}", value)
        with self._writers["validation"].as_default(step):
            tf.summary.image("before | after | clean", pictures, max_outputs=len(pictures))
        for writer in self._writers.values():
            writer.flush()
        parts = [f"PSNR {scores['psnr']:.2f} dB ({scores['psnr'] - jpeg['psnr']:+.2f} over the JPEG)"]
        parts += [f"{name.replace('_', ' ')} {scores[name]:.3f}" for name in _shown(scores)]
        parts += [self._loss]
        self._validated = f"{scores['psnr'] - jpeg['psnr']:+.2f} dB over the JPEG"
        self._show(step)
        left = self._progress.tasks[0].time_remaining
        parts += [f"{left / 60:.0f} min left" if left and left >= 60 else ""]
        self._progress.console.print(
            f"{self._stage} {step}/{self._steps}: {', '.join(filter(None, parts))}", highlight=False, soft_wrap=True
        )

    def say(self, sentence: str) -> None:
        """Prints a line above the progress bar."""
        self._progress.console.print(sentence, highlight=False, soft_wrap=True)

    def _show(self, step):
        state = ", ".join(filter(None, (self._loss, self._validated)))
        self._progress.update(self._task, completed=step, state=state)


def _shown(scores):
    return [name for name in ("ssim", "perceptual", "accuracy_clean", "accuracy_restored") if name in scores]


def _open_writer(folder, first_step):
    """Opens a writer, and has TensorBoard forget the later steps of a process that was killed: they come again."""
    if any(folder.glob("*tfevents*")):
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        # The validation before the first step is the only one that comes again at the step that is gone on from.
        step = first_step + 1 if first_step else 0
        event = event_pb2.Event(wall_time=time.time(), step=step, session_log=start)
        # A file of its own. Its name is the beginning of the next one's, so that TensorBoard reads it just before that.
        with tf.io.TFRecordWriter(str(folder / f"events.out.tfevents.{int(time.time()):010d}")) as file:
            file.write(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
            for _ in range(2):  # the first that it sees is to TensorBoard the beginning of all, and no restart
                file.write(event.SerializeToString())
    return tf.summary.create_file_writer(str(folder))
