"""Holds the import rule of CONTRIBUTING.md, whose table is read here."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    "data_prep",
    "artifact_remover.pictures",
    "artifact_remover.judging",
    "artifact_remover.training",
    "artifact_remover.web",
)
COMMANDS = [f"artifact_remover.{name}" for name in ("fit", "restore", "evaluate", "serve", "export")]
FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for package in ("artifact_remover", "data_prep")
    for file in (ROOT / package).rglob("*.py")
}


def room_of(module):
    if module in (*COMMANDS, "artifact_remover.__main__"):
        return "commands"
    return next((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), "artifact_remover")


def imports_of(module):
    """Yields every project module that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import"
            names = [full if (full := f"{node.module}.{alias.name}") in FILES else node.module for alias in node.names]
        yield from (name for name in names if name in FILES)


def read_rule():
    rows = re.findall(r"^\| `([\w.]+)`[^|]*\|([^|]*)\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return {room: set(re.findall(r"`([\w.]+)`", allowed)) | {room} for room, allowed in rows}


def test_modules_import_only_what_their_room_may():
    rule = read_rule()
    forbidden = [
        (module, name)
        for module in FILES
        if room_of(module) != "commands"
        for name in imports_of(module)
        if room_of(name) not in rule[room_of(module)]
    ]
    assert forbidden == []


@pytest.mark.parametrize("command", COMMANDS)
def test_command_lines_are_imported_by_main_alone(command):
    importers = [module for module in FILES if command in imports_of(module)]
    assert importers == ["artifact_remover.__main__"]


def test_no_test_imports_another_test():
    importing = re.compile(r"^\s*(from|import) tests(\.| import .*\b)test_", re.MULTILINE)
    assert [file for file in (ROOT / "tests").rglob("*.py") if importing.search(file.read_text())] == []


def test_no_import_goes_round_in_a_circle():
    graph = {module: set(imports_of(module)) - {module} for module in FILES}
    while leaves := [module for module, needed in graph.items() if not needed & graph.keys()]:
        for leaf in leaves:
            del graph[leaf]
    assert graph == {}


def test_pictures_reach_no_tensorflow():
    modules = [module for module in FILES if room_of(module) == "artifact_remover.pictures"]
    code = f"import sys; sys.modules.update(tensorflow=None, keras=None); import {', '.join(modules)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
