"""From a photograph to a training batch."""

__version__ = "0.2.0"  # of the whole project; here, as this package knows no other
