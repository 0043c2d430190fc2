"""From a photograph to a training batch."""
