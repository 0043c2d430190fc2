"""Importing TensorFlow without its start-up messages, and Keras on it."""

import contextlib
import os
import sys
from collections.abc import Iterator

from data_prep.command_line import say


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Keeps TensorFlow's start-up messages off the terminal while it is first imported, if it is.

    Some of them are written to standard error before a log level can be set, so that it is redirected meanwhile.
    Exceptions are raised as usual. TensorFlow is told, too, to take memory of a GPU as it needs it, not all at once.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    with quiet_stderr():
        yield
        if "tensorflow" in sys.modules:
            from absl import logging

            logging.set_verbosity(logging.ERROR)


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keeps off the terminal what libraries write to standard error past Python; exceptions are raised as usual."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def quiet_keras() -> Iterator[None]:
    """Imports Keras for a command, on TensorFlow and with its defaults, whatever the user's own programs run it with.

    Where the environment names another backend, a line on standard error says that it is passed over. What
    `~/.keras/keras.json` says of data formats counts for other programs.
    """
    wanted = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if wanted != "tensorflow":
        say(f"this runs on TensorFlow, KERAS_BACKEND={wanted} is passed over", "stderr")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with quiet_tensorflow():
        import keras

        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
        yield
