"""Removes JPEG artifacts: training, judging and running the networks.

`Restorer` restores pictures, `InputError` is what it raises where the user gave something that cannot be used. Both are
imported when they are first asked for, so that importing the package loads nothing heavy.
"""

import importlib

from data_prep import __version__ as __version__

_HANDED_ON = {"InputError": "data_prep.errors", "Restorer": "artifact_remover.restoration"}


def __getattr__(name):
    if name in _HANDED_ON:
        return getattr(importlib.import_module(_HANDED_ON[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*globals(), *_HANDED_ON]
