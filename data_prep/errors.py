"""The one error a user can mend, and its one line."""


class InputError(Exception):
    """Something the user gave cannot be used; the message is one line: what is wrong, where, and what to do.

    Command lines print it and exit with code 2; any other exception is a defect of ours.
    """


def to_one_line(text: object) -> str:
    """Escapes what would break or garble a line: file names and other people's messages may hold anything."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(text))
