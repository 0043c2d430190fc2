"""The photographs to train, validate and test with, for the generator (and the GAN) and for the discriminator.

A part is written in the slicing notation of TensorFlow Datasets (`train[700:800]`), by absolute indices, so
that it never depends on rounding. The three parts of a role never share a photograph, and neither does a
training part with the validation or test part of the other role.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from data_prep.errors import InputError

Role = Literal["generator", "discriminator"]
Part = Literal["train", "validation", "test"]

ROLES: tuple[Role, ...] = ("generator", "discriminator")
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Span:
    """Photographs `start` up to, but not including, `stop` of a prepared split.

    Attributes:
        split: Name of the split as it was prepared.
        start: Index of the first photograph.
        stop: Index after the last photograph.
    """

    split: str
    start: int
    stop: int

    def __str__(self) -> str:
        """The span as TensorFlow Datasets reads it, such as `train[700:800]`."""
        return f"{self.split}[{self.start}:{self.stop}]"

    def __len__(self) -> int:
        """Number of photographs, those included that are excluded from reading."""
        return self.stop - self.start


Splits = Mapping[Role, Mapping[Part, Span]]


def split_div2k() -> Splits:
    """Splits DIV2K's 900 photographs: 700 / 100 / 100 for the generator, 300 / 50 / 50 for the discriminator.

    DIV2K (Agustsson and Timofte, CVPR workshops 2017) is published as 800 `train` and 100 `validation`
    photographs; the published validation photographs are our test part, so that no reported figure comes from
    a photograph that picked a checkpoint.
    """
    return {
        "generator": {
            "train": Span("train", 0, 700),
            "validation": Span("train", 700, 800),
            "test": Span("validation", 0, 100),
        },
        "discriminator": {
            "train": Span("train", 0, 300),
            "validation": Span("train", 700, 750),
            "test": Span("validation", 0, 50),
        },
    }


def split_as_prepared(counts: Mapping[str, int]) -> Splits:
    """Takes the parts as the data set was prepared, the same for both roles.

    Args:
        counts: Number of photographs in each of the splits `train`, `validation` and `test`.
    """
    spans = {part: Span(part, 0, counts[part]) for part in PARTS}
    return {role: spans for role in ROLES}


def split_folder(indices: Sequence[int]) -> Splits:
    """Splits the photographs of a folder 7 : 1 : 1, and 3 : 0.5 : 0.5 of the same nine for the discriminator.

    These are DIV2K's proportions. Every part holds at least one photograph; what does not divide goes to
    training.

    Args:
        indices: Ascending indices of the photographs to share out, in the prepared split `train`; what lies
            between them is excluded, and never read.

    Raises:
        InputError: There are fewer photographs than parts.
    """
    count = len(indices)
    if count < len(PARTS):
        raise InputError(f"{count} usable photographs are too few for training, validation and test: give 3 or more")
    held_out = max(1, count // 9)
    train = count - 2 * held_out
    first = {"train": 0, "validation": train, "test": train + held_out}

    def take(part: Part, taken: int) -> Span:
        last = first[part] + max(1, taken) - 1
        return Span("train", indices[first[part]], indices[last] + 1)

    return {
        "generator": {
            "train": take("train", train),
            "validation": take("validation", held_out),
            "test": take("test", held_out),
        },
        "discriminator": {
            "train": take("train", train * 3 // 7),
            "validation": take("validation", held_out // 2),
            "test": take("test", held_out // 2),
        },
    }
