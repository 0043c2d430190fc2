"""The one error a user can mend."""


class InputError(Exception):
    """Something the user gave cannot be used; the message is one line: what is wrong, where, and what to do.

    Command lines print it and exit with code 2; any other exception is a defect of ours.
    """
