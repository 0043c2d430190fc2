"""Options from a dataclass, and a wrong one answered in one line like every other mistake."""

import contextlib
import io
import re
import sys
from typing import TypeVar

import tyro

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
        SystemExit: After `--help` (0), or a wrong option (2), which is explained in one line on standard error.
    """
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(kind, args=arguments, **settings)
    except SystemExit as leaving:
        if leaving.code:
            print(f"error: {_unbox(errors.getvalue())}; --help lists all options", file=sys.stderr)
        raise


def _unbox(message):
    """Tyro frames an error: a title, the error itself, a rule, and hints."""
    lines = [line.strip("╭╮╰╯│─ ") for line in message.splitlines()[1:]]
    message = " ".join(lines[: lines.index("")] if "" in lines else lines).removesuffix(".")
    return re.sub(r"^Error parsing \w+: ", "", message)  # the name of a class says nothing to a user
