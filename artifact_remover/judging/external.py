"""Restorers of other people: any command that reads a JPEG and writes a picture is judged beside the models."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from data_prep.errors import InputError, Option, to_one_line
from data_prep.photographs import read_photograph

TIMEOUT = 300
"""Seconds that a command may take for a picture."""


class External:
    """A command that restores JPEG files.

    It is started without a shell. `{input}` is replaced by the path of a JPEG that lies alone in a temporary folder,
    `{output}` by that of `output.png` beside it. The file written there may be of any format that Pillow reads.

    Example:
        >>> quant_smooth = External("jpegqs", "jpegqs --quality 5 {input} {output}")
        >>> pixels = quant_smooth.restore(Path("photo.jpg").read_bytes())
    """

    def __init__(self, name: str, command: str, timeout: float = TIMEOUT):
        """Looks for the command.

        Args:
            name: For reports and errors.
            command: With `{input}` and `{output}`, split into words as a shell splits it.
            timeout: Seconds after which it is ended.

        Raises:
            InputError: If there is no such command, or it does not name both files.
        """
        try:
            self._words = shlex.split(command)
        except ValueError as error:  # a quote without its partner
            raise InputError(Option("external"), f" {name}: not a command line, {error}: {command}") from error
        if not all(any(place in word for word in self._words) for place in ("{input}", "{output}")):
            raise InputError(Option("external"), f" {name}: the command must name {{input}} and {{output}}: {command}")
        if not shutil.which(self._words[0]):
            raise InputError(
                Option("external"), f" {name}: no such command, install it or give its path: {self._words[0]}"
            )
        self._name = name
        self._timeout = timeout

    def restore(self, jpeg: bytes) -> np.ndarray:
        """Has a JPEG restored.

        Args:
            jpeg: The file's content.

        Returns:
            The picture that the command wrote, uint8 [H, W, 3] in 0..255, RGB.

        Raises:
            InputError: If the command fails, takes too long, or writes nothing that can be read.
        """
        with tempfile.TemporaryDirectory(prefix="artifact-remover-") as folder:
            files = {"{input}": Path(folder, "input.jpg"), "{output}": Path(folder, "output.png")}
            files["{input}"].write_bytes(jpeg)
            self._run([_replace(word, files) for word in self._words])
            if not files["{output}"].is_file():
                raise InputError(Option("external"), f" {self._name}: it ended well but wrote nothing to {{output}}")
            try:
                return read_photograph(files["{output}"])
            except InputError as error:
                raise InputError(Option("external"), f" {self._name}: what it wrote is ", error.message) from error

    def _run(self, words):
        # Into a file: a process that the command leaves running would hold a pipe open.
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,  # so that what it starts itself can be ended with it
                )
            except OSError as error:
                raise InputError(
                    Option("external"), f" {self._name}: it cannot be started, {error.strerror}"
                ) from error
            try:
                code = process.wait(self._timeout)
            except subprocess.TimeoutExpired as error:
                raise InputError(
                    Option("external"), f" {self._name}: not done after {self._timeout:g} s, it was ended"
                ) from error
            finally:
                if process.returncode is None:  # too slow, or the user stopped us
                    _kill(process)
                    process.wait()
            if code:
                errors.seek(0)
                said = errors.read().decode(errors="replace").split("\n")
                last = next((line.strip() for line in reversed(said) if line.strip()), "it did not say why")
                raise InputError(
                    Option("external"), f" {self._name}: it failed with exit code {code}: {to_one_line(last)}"
                )


def _kill(process):
    """Ends a process, and where there are groups of processes, what it has started."""
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)


def _replace(word, files):
    for place, file in files.items():
        word = word.replace(place, str(file))
    return word
