"""Writes the options of every command, and the errors of the web API, into the documents.

`python -m tests.option_tables`

Each list stands between `<!-- options: COMMAND -->` and `<!-- end -->`, and is made of the dataclasses of which the
command line is made, so that no option is forgotten and every default is right. The table of errors stands between
`<!-- errors -->` and `<!-- end -->`.
"""

import re
import textwrap
import types
import typing
from pathlib import Path

import docstring_parser
import tyro

from artifact_remover.config import PRESETS, FitConfig
from artifact_remover.options import EvaluateConfig, ExportConfig, RestoreConfig, ServeConfig
from artifact_remover.web.app import ERRORS
from data_prep import command_line
from data_prep.__main__ import PrepareConfig

COMMANDS = {
    "data_prep": PrepareConfig,
    "fit": FitConfig,
    "restore": RestoreConfig,
    "evaluate": EvaluateConfig,
    "serve": ServeConfig,
    "export": ExportConfig,
}
DOCUMENTS = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
LIST = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
TABLE = re.compile(r"(<!-- errors -->\n).*?(<!-- end -->)", re.DOTALL)
_WIDTH = 120


def write_lists(text: str) -> str:
    """Returns a document's text with each list of options, and the table of errors, as they are now."""
    text = TABLE.sub(lambda match: f"{match[1]}{list_errors()}{match[2]}", text)
    return LIST.sub(lambda match: f"{match[1]}{list_options(match[2])}{match[3]}", text)


def list_errors() -> str:
    """Returns a Markdown table of the statuses with which the web API refuses or fails."""
    return "| status | meaning |\n|---|---|\n" + "".join(f"| {status} | {text} |\n" for status, text in ERRORS.items())


def list_options(command: str) -> str:
    """Returns a Markdown list of a command's options: name, values, meaning and default."""
    defaults = PRESETS if command == "fit" else {"": COMMANDS[command]}
    entries = []
    for option in command_line.list_options(COMMANDS[command]):
        values = [_look_up(default, option.path) for default in defaults.values()]
        entries.append(f"- `{_name(option)}`: {_explain(option)}{_tell_default(values, defaults)}")
    wrap = textwrap.TextWrapper(_WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "".join(f"{wrap.fill(entry)}\n" for entry in entries)


def _name(option):
    settings = next(
        (mark for mark in option.marks if getattr(mark, "metavar", None) or getattr(mark, "aliases", None)), None
    )
    values = (settings and settings.metavar) or _values(option.type)
    if tyro.conf.Positional in option.marks:
        return values
    names = ", ".join([*((settings and settings.aliases) or ()), option.name])
    return f"{names} {values}".strip()


def _values(kind):
    """Names what follows an option, such as `INT`, `png|webp` or `INT ...`; nothing after a flag."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return "|".join(_values(each) for each in typing.get_args(kind) if each is not types.NoneType)
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return f"{_values(typing.get_args(kind)[0])} ..."
    return "" if kind is bool else kind.__name__.upper()


def _explain(option):
    """The field's line in the docstring of the class that defines it."""
    for owner in option.owner.__mro__:
        for entry in docstring_parser.parse(owner.__doc__ or "").params:
            if entry.arg_name == option.path[-1]:
                meaning = " ".join(entry.description.split())
                if tyro.conf.UseAppendAction in option.marks and "repeatable" not in meaning:
                    meaning += " Repeatable."
                return meaning
    raise ValueError(f"{option.name} is not explained in a docstring of {option.owner.__name__}")


def _look_up(config, path):
    """A field's default: of an instance its value, of a class that of the field."""
    for name in path:
        config = getattr(config, name, None)
    return config


def _tell_default(values, names):
    shown = [_show(value) for value in values]
    if len(set(shown)) > 1:
        each = ", ".join(f"`{name}` {value or 'none'}" for name, value in zip(names, shown, strict=True))
        return f" Default: {each}."
    return f" Default: {shown[0]}." if shown[0] else ""


def _show(value):
    if value is None or value is False or value == ():
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def main() -> None:
    """Writes the lists and the table into the documents."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        document.write_text(write_lists(text), encoding="utf-8")


if __name__ == "__main__":
    main()
