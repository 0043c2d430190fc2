"""The one error that a user can mend, and lines of text that name options."""

from collections.abc import Callable


class Option(str):
    """The name of an argument, as it is written in Python.

    A command line writes `allow_truncated` as `--allow-truncated`, a web API as a query parameter.
    """


class Message(str):
    """A line of text in a library's words, which remembers where it names options.

    Example:
        >>> message = Message("damaged, mend it or use ", Option("allow_truncated"))
        >>> str(message)
        'damaged, mend it or use allow_truncated'
        >>> word(message, lambda name: f"?{name}=true")
        'damaged, mend it or use ?allow_truncated=true'

    Attributes:
        parts: The pieces of the line in order; options are instances of `Option`.
    """

    parts: tuple[str, ...]

    def __new__(cls, *parts: str) -> "Message":
        """Joins pieces to a line; a piece that is a message itself gives its own pieces."""
        flat = tuple(piece for part in parts for piece in (part.parts if isinstance(part, Message) else (part,)))
        message = super().__new__(cls, "".join(flat))
        message.parts = flat
        return message


class InputError(Exception):
    """A mistake of the user's; the message says in one line what is wrong, where, and what to do.

    Command lines print it and exit with code 2; any other exception is a defect of ours.

    Attributes:
        message: The line, in the library's words.
    """

    def __init__(self, *parts: str):
        """Joins the pieces of the message, of which those that name an option are instances of `Option`."""
        self.message = Message(*parts)
        super().__init__(self.message)


def word(said: str | InputError, name_option: Callable[[str], str]) -> str:
    """Names the options of a message or an error the way that its readers give them.

    Args:
        said: What is to be told.
        name_option: From an argument's name to what the readers call it.

    Returns:
        The line; text that names no option is returned as it is.
    """
    message = said.message if isinstance(said, InputError) else said
    if not isinstance(message, Message):
        return message
    return "".join(name_option(part) if isinstance(part, Option) else part for part in message.parts)


def to_one_line(text: object) -> str:
    """Escapes what would break or garble a line: file names and other people's messages may hold anything."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(text))
