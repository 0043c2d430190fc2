import pickle

import pytest

from data_prep.command_line import word_for_terminal
from data_prep.errors import InputError, Message, Option, to_one_line, word


class MissingError(InputError):
    """An error such as modules derive."""


def test_a_message_reads_in_the_words_of_the_library():
    error = InputError("a.jpg is damaged, give ", Option("allow_truncated"), ": end of file")
    assert str(error) == error.message == "a.jpg is damaged, give allow_truncated: end of file"


def test_options_are_named_as_the_reader_gives_them():
    error = InputError("leave ", Option("max_megapixels"), " out")
    assert word(error, str.upper) == "leave MAX_MEGAPIXELS out"
    assert word_for_terminal(error) == "leave --max-megapixels out"


def test_only_what_is_marked_is_taken_for_an_option():
    assert word_for_terminal(InputError("force.jpg: ", Option("force"))) == "force.jpg: --force"
    assert word_for_terminal("force {force} --force") == "force {force} --force"


def test_a_message_within_a_message_keeps_its_options():
    inner = InputError("empty, give ", Option("force"))
    outer = MissingError("a.jpg is ", inner.message, Message(" or ", Option("tile")))
    assert word_for_terminal(outer) == "a.jpg is empty, give --force or --tile"


def test_an_error_keeps_its_options_on_the_way_between_processes():
    error = pickle.loads(pickle.dumps(MissingError("give ", Option("tile"))))
    assert type(error) is MissingError and word_for_terminal(error) == "give --tile"


@pytest.mark.parametrize(("text", "line"), [("a\nb", "a\\nb"), ("\x1b[1m", "\\x1b[1m"), ("ü", "ü"), (5, "5")])
def test_what_would_break_a_line_is_escaped(text, line):
    assert to_one_line(text) == line
