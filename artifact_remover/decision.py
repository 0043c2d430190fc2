"""The decision whether a picture is restored; every front door asks here."""

import dataclasses

from artifact_remover.pictures.picture import Picture, Summary
from data_prep.errors import Message, Option

NEARLY_UNCOMPRESSED = 95
"""JPEGs of full or no chroma estimated at or above this quality are left alone by default.

At 4:4:4 the published models make a quarter of the graphics worse there; photographs gain less than 0.4 dB.
"""

NEARLY_UNCOMPRESSED_SUBSAMPLED = 97
"""The same for JPEGs of subsampled chroma: at quality 96 photographs still gain more than 1 dB."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """The choice between restoring a picture and leaving it alone.

    Attributes:
        restore: Whether it is restored. A picture that is left alone keeps its pixels. Its file is handed back byte
            for byte where it has the wanted format and no quality is given.
        why: The reason why it is not restored; empty where it is.
    """

    restore: bool
    why: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes to the user."""
        return () if self.restore else (Message("left alone, as ", self.why),)


def decide(picture: Picture | Summary, force: bool = False) -> Decision:
    """Decides whether a picture is restored.

    Args:
        picture: From `decode_picture`; or from `inspect_picture`, where nothing is decoded.
        force: Whether it is to be restored in any case.

    Returns:
        The decision, and the reason for it.
    """
    if not force and picture.restored_by:
        return Decision(
            restore=False,
            why=Message(f"already restored by {picture.restored_by}, ", Option("force"), " restores it again"),
        )
    header = picture.header
    full = header is None or header.chroma_subsampling in ("4:4:4", "gray")
    if force or header is None or header.quality < (NEARLY_UNCOMPRESSED if full else NEARLY_UNCOMPRESSED_SUBSAMPLED):
        return Decision(restore=True)
    why = Message(f"practically uncompressed: quality {header.quality}, ", Option("force"), " restores it")
    return Decision(restore=False, why=why)
