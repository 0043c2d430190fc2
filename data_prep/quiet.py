"""Importing TensorFlow without its start-up messages."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Keeps TensorFlow's start-up messages off the terminal while it is first imported.

    Some of them are written to standard error before a log level can be set, so that it is redirected meanwhile.
    Exceptions are raised as usual.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
        from absl import logging

        logging.set_verbosity(logging.ERROR)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
