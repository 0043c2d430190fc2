"""The common parts of all commands: options from a dataclass, errors in one line, and exit codes."""

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Literal, TypeVar

import tyro

from data_prep import __version__
from data_prep.errors import InputError, to_one_line, word

Options = TypeVar("Options")


def optional(metavar: str) -> object:
    """Makes the annotation of an option whose default is None: its help text says what that means.

    Args:
        metavar: What the help puts behind the option, such as `DIR`.
    """
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


def parse_options(kind: type[Options], arguments: list[str] | None, **settings) -> Options:
    """Parses a command line with tyro.

    Args:
        kind: Dataclass of the options.
        arguments: What follows the command's name; what the process was started with when `None`.
        **settings: Of `tyro.cli`, such as `prog` and `default`.

    Returns:
        The options.

    Raises:
        SystemExit: After `--help` or `--version` (0), or a wrong option (2), which is explained in one line on standard
            error.
    """
    _open_closed_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--version" in arguments:
        print_version()
        sys.exit(0)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(kind, args=arguments, **settings)
    except SystemExit as leaving:
        if leaving.code:
            complain(f"{_unbox(errors.getvalue())}; --help lists all options")
        raise


def print_version() -> None:
    """Prints the project's name and version, as all commands answer `--version`."""
    say(f"artifact-remover {__version__}")


def run_command(command: Callable[[], int | None], stopped: str = "stopped") -> int:
    """Runs a command and turns what ends it early into one line on standard error and an exit code.

    SIGTERM ends it as Ctrl-C does, so that it leaves nothing unfinished behind either way.

    Args:
        command: Does the work; returns the exit code, or `None` for 0.
        stopped: What is said when the user stops it.

    Returns:
        Exit code: the command's own, 2 after an `InputError`, 130 if the user stopped it.
    """
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return command() or 0
    except InputError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        complain(stopped)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def complain(said: str | InputError) -> None:
    """Prints an error on standard error, in one line."""
    say(f"error: {word_for_terminal(said)}", "stderr")


def say(said: str, stream: Literal["stdout", "stderr"] = "stdout") -> None:
    """Prints one line, whatever it holds, and whether or not anybody still reads it."""
    line = to_one_line(word_for_terminal(said))
    encoding = getattr(sys, stream).encoding or "utf-8"
    try:
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=getattr(sys, stream), flush=True)
    except OSError:  # `head` has read enough, or a disk is full: no reason to stop working
        _silence(stream)


def word_for_terminal(said: str | InputError) -> str:
    """Names the options of a message as the command line has them, such as `--allow-truncated`."""
    return word(said, lambda name: f"--{name.replace('_', '-')}")


def _open_closed_streams():
    """Opens what whoever started the process has closed, `2>&-`: other files would get the numbers of these streams."""
    for number, stream in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free
        if getattr(sys, stream) is None and stream != "stdin":
            _silence(stream)


def _silence(stream):
    setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115


def _unbox(message):
    """Takes the error itself out of tyro's frame, which holds a title, the error, a rule, and hints."""
    lines = [line.strip("╭╮╰╯│─ ") for line in message.splitlines()[1:]]
    # Where the terminal lacks these signs, rules are of hyphens, and one stands under the title.
    lines = ["" if set(line) == {"-"} else line for line in lines]
    message = "\n".join(lines).strip("\n").partition("\n\n")[0].replace("\n", " ").removesuffix(".")
    return re.sub(r"^Error parsing \w+: ", "", message)  # the name of a class says nothing to a user
