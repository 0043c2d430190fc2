import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import artifact_remover
import data_prep

PACKAGES = [Path(package.__file__).parent for package in (artifact_remover, data_prep)]
MODULES = {
    ".".join(path.relative_to(package.parent).with_suffix("").parts): path
    for package in PACKAGES
    for path in sorted(package.rglob("*.py"))
}
COMMANDS = [name for name, path in MODULES.items() if '__name__ == "__main__"' in path.read_text()]
# Modules whose tests lie in another file than `test_<module>.py`, and where.
TESTED_IN = {
    "artifact_remover.__main__": "test_package",
    "artifact_remover.checkpoint_files": "test_checkpoints",
    "artifact_remover.openvino_engine": "test_engines",
    "artifact_remover.options": "test_restore",
    "artifact_remover.pictures.metadata": "test_picture",
    "artifact_remover.pictures.readers": "test_picture",
    "artifact_remover.pictures.writers": "test_picture",
    "artifact_remover.tensorflow_engine": "test_engines",
    "artifact_remover.web.app": "test_serve",
    "artifact_remover.web.guard": "test_serve",
    "artifact_remover.web.queue": "test_serve",
    "data_prep.__main__": "test_data_prep_cli",
    "data_prep.config": "test_data_config",  # both packages have a `config`
    "data_prep.photographs": "test_datasets",
    "data_prep.png": "test_datasets",
    "data_prep.sources": "test_datasets",
    "data_prep.quiet": "test_data_prep_cli",
}
# First words of clauses, where a docstring begins with a verb in the third person or a noun.
CLAUSES = {"As", "How", "If", "Of", "What", "When", "Where", "Whether", "Which", "Why"}
IMPERATIVES = """
    Apply Ask Build Change Check Choose Code Compress Compute Convert Count Create Cut Decide Decode Describe Draw
    Encode Find Gather Get Give Hash Iterate Limit List Load Make Measure Name Open Pick Prepare Print Read Refuse
    Repeat Restore Return Run Save Scale See Serve Set Show Split Take Tell Train Turn Use Write Yield
""".split()  # noqa: SIM905


def public_definitions(tree):
    """Yields public functions, classes and their public methods, with their qualified names."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                yield from ((f"{node.name}.{name}", method) for name, method in public_definitions(node))


def test_public_names_have_docstrings():
    trees = {module: ast.parse(path.read_text()) for module, path in MODULES.items()}
    bare = [module for module, tree in trees.items() if not ast.get_docstring(tree)]
    bare += [
        f"{module}.{name}"
        for module, tree in trees.items()
        for name, node in public_definitions(tree)
        if not ast.get_docstring(node)
    ]
    assert bare == []


def docstrings(path):
    """Yields every docstring of a module with its line, those below variables too, and whether it is a function's."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    of_functions = {id(node.body[0]) for node in functions}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield f"{path}:{node.lineno}", node.value.value, id(node) in of_functions


def test_docstrings_begin_with_a_verb_in_the_third_person_or_a_noun():
    checkout = Path(__file__).parents[1]
    others = [*(checkout / "tests").rglob("*.py"), *(checkout / "saved_models").glob("*.py")]
    offenders = []
    for path in [*MODULES.values(), *others]:
        for place, text, of_function in docstrings(path):
            first = re.match(r"\W*(\w*)", text)[1]
            if first in CLAUSES or (of_function and first in IMPERATIVES):
                offenders.append(f"{place}: {text.splitlines()[0]}")
    assert offenders == []


def test_modules_have_a_test_file():
    modules = [name for name in MODULES if "__init__" not in name and "datasets" not in name]
    files = {module: f"{TESTED_IN.get(module, 'test_' + module.rpartition('.')[2])}.py" for module in modules}
    assert {module: file for module, file in files.items() if not (Path(__file__).parent / file).exists()} == {}


@pytest.mark.parametrize("module", COMMANDS)
def test_help_needs_no_tensorflow(module):
    code = f"""
import runpy, sys
sys.modules.update(tensorflow=None, keras=None)
sys.argv = ["command", "--help"]
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout and done.stderr == ""


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_tells_the_version(module):
    command = [sys.executable, "-m", module.removesuffix(".__main__"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"artifact-remover {artifact_remover.__version__}\n", "")


def test_what_the_package_hands_on_is_imported_when_asked_for():
    code = """
import sys
import artifact_remover
from artifact_remover import InputError
assert "InputError" in dir(artifact_remover) and InputError.__module__ == "data_prep.errors"
assert not {"tensorflow", "keras", "numpy"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Restorerer'"):
        artifact_remover.Restorerer  # noqa: B018


@pytest.fixture
def artifact_remover_command(monkeypatch):
    """The installed command `artifact-remover`: arguments in, exit code out."""
    [entry] = importlib.metadata.entry_points(group="console_scripts", name="artifact-remover")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["artifact-remover", *arguments])
        return entry.load()()

    return run


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_command_shows_its_subcommands(artifact_remover_command, capsys, option):
    assert artifact_remover_command(option) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("usage: artifact-remover {fit") and printed.err == ""


@pytest.mark.parametrize("arguments", [[], ["fitt"], ["--quality", "10"]])
def test_command_without_a_known_subcommand_is_exit_code_2(artifact_remover_command, capsys, arguments):
    assert artifact_remover_command(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("usage: artifact-remover {fit") and printed.out == ""


def test_command_hands_arguments_to_the_subcommand(artifact_remover_command, capsys):
    with pytest.raises(SystemExit) as stop:
        artifact_remover_command("fit", "--help")
    assert stop.value.code == 0 and "--quality" in capsys.readouterr().out


@pytest.mark.parametrize("name", [file.stem for file in Path(__file__).parent.joinpath("benchmarks").glob("[!_]*.py")])
def test_every_benchmark_can_be_started(name):
    assert callable(importlib.import_module(f"tests.benchmarks.{name}").main)
