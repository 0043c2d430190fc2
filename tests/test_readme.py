"""The documents are kept true by these, not by memory."""

import importlib
import re
import unicodedata
from pathlib import Path

import pytest

from artifact_remover.config import PRESETS, STAGES
from artifact_remover.web.app import ERRORS
from tests.option_tables import COMMANDS, LIST, TABLE, write_lists

ROOT = Path(__file__).parents[1]
PATHS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "saved_models/README.md")),
    ROOT / "tests" / "pictures" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PATHS}
FOLDERS, KINDS = ("artifact_remover", "data_prep", "saved_models", "tests"), ("py", "html", "js", "css")
_OURS = r"colour|artefact|\bgrey|licence|behaviour|neighbour|favour|labelled|\bcentre"  # the old spelling
_WITH_S = r"(?:normal|quant|recogn|optim|summar|orthogonal|minim|maxim|initial|serial)is(?:e|ing|ation)"
BRITISH = re.compile(f"{_OURS}|{_WITH_S}", re.IGNORECASE)
README, TRAINING, DEVELOPMENT = (DOCUMENTS[name] for name in ("README.md", "docs/training.md", "docs/development.md"))


def without_code(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def read_tree():
    """The modules that the tree of docs/development.md names, with the folders that they are shown in."""
    tree, folders, modules = DEVELOPMENT.split("## Where things are")[1].split("```")[1], [], set()
    for line in tree.splitlines():
        indent, name = re.match(r"( *)(\S*)", line).groups()
        folders = folders[: len(indent) // 4]
        if name.endswith("/"):
            folders.append(name)
        elif name.endswith(".py"):
            modules.add("".join(folders) + name)
    return modules


def test_file_tree_names_every_module_and_none_that_is_gone():
    existing = {
        file.relative_to(ROOT).as_posix()
        for package in ("data_prep", "artifact_remover", "saved_models")
        for file in (ROOT / package).rglob("*.py")
        if file.name != "__init__.py" and "datasets" not in file.parts
    }
    assert read_tree() == existing


def test_every_stage_and_preset_is_explained():
    assert not [name for name in (*STAGES, *PRESETS) if name not in README or name not in TRAINING]


def read_help(command, capsys):
    module = "data_prep.__main__" if command == "data_prep" else f"artifact_remover.{command}"
    with pytest.raises(SystemExit):
        importlib.import_module(module).main(["--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_that_the_documents_use_exists(command, capsys):
    module = "data_prep" if command == "data_prep" else f"artifact_remover.{command}"
    lines = "\n".join(DOCUMENTS.values()).replace("\\\n", " ")
    uses = re.findall(rf"^python -m {re.escape(module)}\b.*$", lines, re.MULTILINE)
    assert uses
    options = {option for use in uses for option in re.findall(r"--[\w.-]+", use)} - {"--help"}
    help_text = read_help(command, capsys)
    assert not [option for option in options if option not in help_text]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_lists_of_options_are_current(document):
    text = DOCUMENTS[document]
    assert text == write_lists(text), "run python -m tests.option_tables"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained_once(command, capsys):
    [list_of_options] = [
        match[0] for text in DOCUMENTS.values() for match in LIST.finditer(text) if match[2] == command
    ]
    listed = re.findall(r"^- `(?:-\w, )?(--[\w.-]+)[^`]*`: \S", list_of_options, re.MULTILINE)
    offered = re.findall(r"^[│ ] (?:-\w[^,]*, )?(--[a-z][\w.-]*)", read_help(command, capsys), re.MULTILINE)
    assert listed and sorted(listed) == sorted(set(offered) - {"--help"})


def test_the_errors_of_the_web_api_are_explained_once():
    assert [name for name, text in DOCUMENTS.items() if TABLE.search(text)] == ["docs/web.md"]
    assert re.findall(r"^\| ([45]\d\d) \| \S", DOCUMENTS["docs/web.md"], re.MULTILINE) == [
        str(status) for status in ERRORS
    ]


def test_defaults_are_told():
    assert re.search(r"`--port INT`:[^`]*Default: 8000\.", DOCUMENTS["docs/web.md"])
    assert re.search(r"`--quality 1\.\.100 \.\.\.`:[^`]*Default: 10 20 30 40\.", DOCUMENTS["docs/evaluating.md"])
    defaults = re.search(
        r"`--patch-size INT`:[^`]*Default:\s+`quick`\s+(\d+),\s+`blind`\s+(\d+),\s+`div2k`\s+(\d+)\.", TRAINING
    )
    expected = [PRESETS[preset].data.patch_size for preset in ("quick", "blind", "div2k")]
    assert [int(number) for number in defaults.groups()] == expected


def name_anchors(text):
    """The anchors that GitHub gives the headings of a document."""
    for heading in re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE):
        kept = [each for each in heading.lower() if each in " -_" or unicodedata.category(each)[0] in "LN"]
        yield "".join(kept).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", without_code(DOCUMENTS[document])):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / document).parent / file if file else ROOT / document
        assert path.exists(), target
        if anchor:
            assert anchor in name_anchors(path.read_text(encoding="utf-8")), target


def test_every_document_is_linked_from_the_readme():
    assert not [name for name in DOCUMENTS if name.startswith("docs/") and f"({name}" not in README]


def test_pictures_that_the_documents_show_are_committed():
    pictures = [
        ((ROOT / name).parent / picture)
        for name, text in DOCUMENTS.items()
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    ]
    assert ROOT / "docs" / "before_after.png" in pictures
    assert all(picture.is_file() for picture in pictures)


def test_the_readme_is_short_and_begins_with_two_commands():
    assert len(README.encode()) <= 9_000
    commands = re.findall(r"^```\n(.*?)\n```", README, re.DOTALL | re.MULTILINE)
    assert commands[0] == "pip install -e . && python -m artifact_remover.fit"
    assert commands[1] == "pip install -e '.[test]' && pytest"
    assert commands[1] in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_lines_are_short(document):
    assert not [line for line in DOCUMENTS[document].splitlines() if len(line) > 120]


def test_words_are_spelled_one_way():
    files = [
        *PATHS,
        ROOT / "setup.cfg",
        *(file for folder in FOLDERS for kind in KINDS for file in (ROOT / folder).rglob(f"*.{kind}")),
    ]
    lines = [(file, line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(lines) > 10_000
    # What reads the names of earlier versions says so in its line.
    other = [f"{file.relative_to(ROOT)}: {line}" for file, line in lines if BRITISH.search(line)]
    assert not [line for line in other if "old spelling" not in line]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_nothing_is_left_to_do_and_nothing_needs_what_a_reader_lacks(document):
    assert "TODO" not in DOCUMENTS[document]
    assert "../shared" not in DOCUMENTS[document]
