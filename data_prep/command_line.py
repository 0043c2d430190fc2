"""The common parts of all commands: options from a dataclass, errors in one line, and exit codes."""

import _thread
import contextlib
import dataclasses
import functools
import io
import logging
import os
import re
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from data_prep import __version__
from data_prep.errors import InputError, to_one_line, word

Options = TypeVar("Options")

_RULES = tyro.constructors.ConstructorRegistry()


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
        SystemExit: After `--help` or `--version` (0), or a wrong option or an empty argument (2), which is explained
            in one line on standard error.
    """
    _open_closed_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--version" in arguments:
        print_version()
        sys.exit(0)
    if any(not argument or re.fullmatch("--[^=]*=", argument) for argument in arguments):
        # As a path it would be the current folder.
        complain("an argument is empty, perhaps of a shell variable that is not set: set it, or leave it out")
        sys.exit(2)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.ExitStack() as printed:
            printed.callback(sys.stdout.flush)  # what is left of the help, as Python would say that nobody reads it
            return _parse(kind, arguments, settings)
    except OSError:
        if not {"-h", "--help"} & {*arguments}:
            raise
        _silence("stdout")  # `head` has read enough of the help
        sys.exit(0)
    except SystemExit as leaving:
        if leaving.code:
            complain(f"{_unbox(errors.getvalue())}; --help lists all options")
        raise
    except InputError as error:
        complain(f"{word(error, _name_options(kind, arguments, error, settings))}; --help lists all options")
        sys.exit(2)


def _parse(kind, arguments, settings):
    with _RULES:
        return tyro.cli(kind, args=arguments, **settings)


@_RULES.primitive_rule
def _parse_optional(asked):
    """Parses an option that may be left out as one that is given: `None` is no value of it.

    Texts stay as they are, as `--graphics None` takes back what a preset has.
    """
    kinds = set(get_args(asked.type)) - {type(None)}
    if asked.type_origin not in (Union, types.UnionType) or len(kinds) != 1 or str in kinds:
        return None
    info = tyro.constructors.PrimitiveTypeInfo.make(kinds.pop(), asked.markers)
    spec = tyro.constructors.ConstructorRegistry.get_primitive_spec(info)
    assert isinstance(spec, tyro.constructors.PrimitiveConstructorSpec)
    return dataclasses.replace(
        spec,
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else spec.str_from_instance(value),
    )


def print_version() -> None:
    """Prints the project's name and version, as all commands answer `--version`."""
    say(f"artifact-remover {__version__}")


def run_command(command: Callable[[], int | None], stopped: str = "stopped") -> int:
    """Runs a command and turns what ends it early into one line on standard error and an exit code.

    SIGTERM ends it as Ctrl-C does, so that it leaves nothing unfinished behind either way.

    Args:
        command: Does the work; returns the exit code, or `None` for 0.
        stopped: What is said when the user stops it, unless the `KeyboardInterrupt` says more.

    Returns:
        Exit code: the command's own, 2 after an `InputError`, 130 if the user stopped it.
    """
    # Before TensorFlow Datasets has one made whose lines begin with the names of modules.
    logging.basicConfig(format="%(message)s", handlers=[_LoggedLines(logging.WARNING)])
    with _interruptible():
        try:
            return command() or 0
        except InputError as error:
            complain(error)
            return 2
        except KeyboardInterrupt as stop:
            complain(str(stop) or stopped)
            return 130


class _LoggedLines(logging.Handler):
    """Prints what is logged as commands print their own lines."""

    def emit(self, record):
        say(self.format(record), "stderr")


@contextlib.contextmanager
def _interruptible():
    """Lets SIGTERM interrupt as Ctrl-C does, and neither of them get lost.

    Python drops an interrupt that comes while a destructor or the callback of a weak reference runs, as where a pool of
    threads ends.
    """
    previous, hook = signal.signal(signal.SIGTERM, signal.default_int_handler), sys.unraisablehook
    timers: list[threading.Timer] = []

    def interrupt_again(dropped):
        if dropped.exc_type is not KeyboardInterrupt:
            hook(dropped)
            return
        # From a thread, as what this hook raises is dropped, too. On Windows `os.kill` ends the process at once.
        again = _thread.interrupt_main if sys.platform == "win32" else functools.partial(os.kill, os.getpid())
        timers.append(threading.Timer(0.05, again, (signal.SIGTERM,)))
        timers[-1].start()

    sys.unraisablehook = interrupt_again
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, previous)


def complain(said: str | InputError) -> None:
    """Prints an error on standard error, in one line."""
    say(f"error: {word_for_terminal(said)}", "stderr")


def say(said: str, stream: Literal["stdout", "stderr"] = "stdout") -> None:
    """Prints one line, whatever it holds, and whether or not anybody still reads it."""
    if getattr(sys, stream) is None:
        _open_closed_streams()
    line = to_one_line(word_for_terminal(said))
    encoding = getattr(sys, stream).encoding or "utf-8"
    try:
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=getattr(sys, stream), flush=True)
    except OSError:  # `head` has read enough, or a disk is full: no reason to stop working
        _silence(stream)


def word_for_terminal(said: str | InputError) -> str:
    """Names the options of a message as the command line has them, such as `--allow-truncated`."""
    return word(said, lambda name: f"--{_hyphenate(name)}")


class ListedOption(NamedTuple):
    """An option that a command line has of a dataclass.

    Attributes:
        name: Such as `--train-gan.steps`; without dashes before it where it is given by its position.
        path: Field that holds it, and before it those that hold that field's dataclass.
        owner: Dataclass of the field.
        type: Of the field.
        marks: What tyro is told of it.
    """

    name: str
    path: tuple[str, ...]
    owner: type
    type: Any
    marks: list[Any]


def list_options(kind: Any, prefix: str = "", path: tuple[str, ...] = ()) -> Iterator[ListedOption]:
    """Lists the options of a dataclass and of those nested in it, named as tyro names them.

    Args:
        kind: Dataclass of the options.
        prefix: What stands before the names.
        path: Fields that hold the dataclass.
    """
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        type, *marks = get_args(hint) if get_origin(hint) is Annotated else [hint]
        name, here = f"{prefix}{_hyphenate(field.name)}", (*path, field.name)
        if dataclasses.is_dataclass(type):
            # What is under a field without prefix has none either.
            plain = tyro.conf.OmitArgPrefixes in marks or (path and not prefix)
            yield from list_options(type, "" if plain else f"{name}.", here)
        elif tyro.conf.Suppress not in marks:
            dashes = "" if tyro.conf.Positional in marks else "--"
            yield ListedOption(f"{dashes}{name}", here, kind, type, marks)


def _name_options(kind, arguments, error, settings):
    """Returns what names a field as an option of this command line, on which it fails with an error.

    Several nested dataclasses may have the field. The wrong one is that whose options fail alone in the same way. Where
    there is none, the field is named alone, without dashes before it.
    """
    names = [option.name for option in list_options(kind)]

    def name_option(field):
        plain = _hyphenate(field)
        found = [name for name in names if name.removeprefix("--").rpartition(".")[2] == plain]
        if len(found) > 1:
            found = [each for each in found if _fails_alone(kind, _options_beside(each, arguments), error, settings)]
        return found[0] if found else plain

    return name_option


def _options_beside(name, arguments):
    """Picks the options of the same nested dataclass from a command line, with their values."""
    beside, is_beside = [], False
    for argument in arguments:
        if argument.startswith("--"):
            is_beside = _hyphenate(argument.partition("=")[0]).rpartition(".")[0] == name.rpartition(".")[0]
        if is_beside:
            beside.append(argument)
    return beside


def _fails_alone(kind, arguments, error, settings):
    try:
        _parse(kind, arguments, settings)
    except InputError as other:
        return str(other) == str(error)
    return False


def _hyphenate(name):
    return name.replace("_", "-")


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
    return "\n".join(lines).strip("\n").partition("\n\n")[0].replace("\n", " ").removesuffix(".")
