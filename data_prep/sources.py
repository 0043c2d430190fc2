"""Photographs and graphics, whatever they come from: opened by name, prepared once, read many times."""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf import json_format

from data_prep.config import DataConfig
from data_prep.datasets.drawn_graphics import drawn_graphics_dataset_builder as drawn_graphics
from data_prep.datasets.photo_folder import photo_folder_dataset_builder as photo_folder
from data_prep.datasets.sample_photos import sample_photos_dataset_builder as sample_photos
from data_prep.errors import InputError, Option
from data_prep.files import hold, write_whole
from data_prep.photographs import find_photographs, hash_pixels, read_photograph
from data_prep.splits import Part, Role, Splits, split_as_prepared, split_div2k, split_folder

KNOWN_NAMES = {"photographs": ("sample_photos", "div2k"), "graphics": ("drawn_graphics",)}

# The configuration of TFDS's own builder with the smallest low-resolution pictures, which are never read.
_DIV2K = "div2k/bicubic_x8"
_DIV2K_HOME = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"

_BYTES_AROUND_EXAMPLE = 16  # in a TFRecord: its length, and two checksums

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Entry:
    """The facts about one prepared photograph that need no decoding.

    Attributes:
        name: Its file name, or split and index where TFDS keeps no name (`div2k`).
        height: Height in pixels.
        width: Width in pixels.
        pixels: `photographs.hash_pixels` of it.
    """

    name: str
    height: int
    width: int
    pixels: str


@dataclasses.dataclass(frozen=True)
class Photographs:
    """A prepared data set of photographs (or graphics) and the parts it is split into.

    Attributes:
        name: What the user called it: a known name, or a folder.
        builder: The TFDS builder, prepared.
        feature: Name of the builder's feature that holds the photograph.
        splits: For each role and part, a span of the prepared photographs.
        inventory: For each prepared split, its photographs in the order of their indices.
        excluded: `photographs.hash_pixels` of the pictures that must never be read.
        graphics: What is learned beside the photographs, if anything.
    """

    name: str
    builder: tfds.core.DatasetBuilder
    feature: str
    splits: Splits
    inventory: Mapping[str, tuple[Entry, ...]]
    excluded: frozenset[str] = frozenset()
    graphics: "Photographs | None" = None

    @property
    def full_name(self) -> str:
        """The name, state and version of what was prepared, such as `photo_folder/0123456789abcdef/1.0.0`."""
        own = self.builder.info.full_name
        return f"{own} + {self.graphics.full_name}" if self.graphics else own

    @property
    def content(self) -> str:
        """A hash of all names and pixels, which stays when the same files are copied elsewhere or get new dates."""
        inventories = [pictures.inventory for pictures in (self, self.graphics) if pictures]
        listed = json.dumps(inventories, default=dataclasses.astuple, sort_keys=True)
        return hashlib.sha256(listed.encode()).hexdigest()[:16]

    @property
    def pixels(self) -> frozenset[str]:
        """`photographs.hash_pixels` of all that was prepared, what is excluded included."""
        return frozenset(entry.pixels for entries in self.inventory.values() for entry in entries)

    @property
    def num_bytes(self) -> int:
        """Bytes that the prepared data set takes on disk."""
        return self.builder.info.dataset_size

    def entries(self, role: Role, part: Part, shortest_side: int = 1) -> list[Entry]:
        """Lists the photographs of a part, in the order in which `read` gives them.

        Args:
            role: `generator` (also for the GAN) or `discriminator`.
            part: `train`, `validation` or `test`.
            shortest_side: Smaller photographs are left out, pixels.
        """
        span = self.splits[role][part]
        entries = self.inventory[span.split][span.start : span.stop]
        return [entry for entry in entries if self._is_wanted(entry, shortest_side)]

    def count(self, role: Role, part: Part) -> int:
        """Counts the photographs of a part; arguments as in `entries`."""
        return len(self.entries(role, part))

    def read(self, role: Role, part: Part, shortest_side: int = 1) -> tf.data.Dataset:
        """Reads the photographs of a part in a fixed order, each once, still encoded.

        Args:
            role: `generator` (also for the GAN) or `discriminator`.
            part: `train`, `validation` or `test`.
            shortest_side: Smaller photographs are left out, pixels.

        Returns:
            Dataset of `{"image": string [], "name": string []}`; `image` holds the bytes of a PNG file.
        """
        span = self.splits[role][part]
        entries = self.inventory[span.split][span.start : span.stop]
        names = tf.data.Dataset.from_tensor_slices([entry.name for entry in entries])
        wanted = tf.data.Dataset.from_tensor_slices([self._is_wanted(e, shortest_side) for e in entries])
        return (
            tf.data.Dataset.zip(_read_encoded(self.builder, str(span)), names, wanted)
            .filter(lambda example, name, wanted: wanted)
            .map(lambda example, name, wanted: {"image": example[self.feature], "name": name})
        )

    def decoded(self, role: Role, part: Part) -> Iterator[tuple[str, np.ndarray]]:
        """Iterates over whole photographs, for evaluation.

        Args:
            role: `generator` (also for the GAN) or `discriminator`.
            part: `train`, `validation` or `test`.

        Yields:
            Name and photograph, `uint8 [H, W, 3]`, RGB, 0..255.
        """
        for example in self.read(role, part).as_numpy_iterator():
            yield example["name"].decode(), decode(example["image"]).numpy()

    def _is_wanted(self, entry: Entry, shortest_side: int) -> bool:
        return min(entry.height, entry.width) >= shortest_side and entry.pixels not in self.excluded


def open_photographs(config: DataConfig) -> Photographs:
    """Opens photographs by name, and graphics where there are to be any, preparing them first where they are not.

    Args:
        config: Says which photographs (`data`) and `graphics`, where they are kept prepared (`data_dir`) and which are
            never used (`exclude`).

    Raises:
        InputError: The name is unknown, or the pictures cannot be downloaded, read, or kept.
    """
    excluded = _hash_folder(config.exclude) if config.exclude else frozenset()
    photographs = _open(config.data, "photographs", config, excluded)
    if config.graphics is None:
        return photographs
    graphics = _open(config.graphics, "graphics", config, excluded)
    # Each is split on its own, so that what is in both could be in training and in test.
    if shared := (photographs.pixels & graphics.pixels) - excluded:
        log.warning("left out of the photographs: %d pictures that are graphics, too", len(shared))
        try:
            photographs = _open(config.data, "photographs", config, excluded | shared)
        except InputError as error:
            raise InputError(
                f"of {config.data} too little is left without the pictures that are graphics, choose other ",
                Option("graphics"),
                f": {config.graphics}",
            ) from error
    return dataclasses.replace(photographs, graphics=graphics)


def require_readable(photographs: Photographs) -> None:
    """Reads all that was prepared of photographs, and of their graphics, without decoding it.

    Raises:
        InputError: Something is damaged; names the folder that is to be removed.
    """
    for pictures in filter(None, (photographs, photographs.graphics)):
        for split in pictures.builder.info.splits:
            for _ in _iterate_encoded(pictures.builder, split):
                pass


def decode(image: tf.Tensor | bytes) -> tf.Tensor:
    """Decodes an encoded photograph as `Photographs.read` gives it.

    Args:
        image: Bytes of a PNG file, `string []`.

    Returns:
        Photograph, `uint8 [H, W, 3]`, RGB, 0..255.
    """
    return tf.io.decode_image(image, channels=3, expand_animations=False)


def _open(name: str, kind: str, config: DataConfig, excluded: frozenset[str]) -> Photographs:
    try:
        builder, feature = _find_builder(name, kind, config.data_dir)
    except json_format.ParseError as error:
        raise InputError(
            f"what was prepared of {name} is damaged, choose another ",
            Option("data_dir"),
            f" or remove what is below {config.data_dir or tfds.core.constants.DATA_DIR}: {_first_line(error)}",
        ) from error
    _prepare(builder)
    inventory = _take_inventory(builder, feature)
    try:
        splits = _split(name, inventory, excluded)
    except InputError as error:
        raise InputError(error.message, f": {name}") from error
    pictures = Photographs(
        name=name,
        builder=builder,
        feature=feature,
        splits=splits,
        inventory=inventory,
        excluded=excluded,
    )
    for role, parts in pictures.splits.items():
        for part in parts:
            if not pictures.count(role, part):
                raise InputError(
                    f"no {kind.removesuffix('s')} is left for {part}, ", Option("exclude"), f" fewer: {config.exclude}"
                )
    return pictures


def _find_builder(name: str, kind: str, data_dir: Path | None) -> tuple[tfds.core.DatasetBuilder, str]:
    if name == "sample_photos":
        return sample_photos.Builder(data_dir=data_dir), "image"
    if name == "drawn_graphics":
        return drawn_graphics.Builder(data_dir=data_dir), "image"
    if name == "div2k":
        return tfds.builder(_DIV2K, data_dir=data_dir), "hr"
    folder = Path(name).expanduser()
    if not os.path.exists(folder):  # where it may not be looked at, too
        known = " or ".join(KNOWN_NAMES[kind])
        raise InputError(f"no such {kind}, give {known} or an existing folder: {name}")
    folder_config = photo_folder.FolderConfig.from_folder(folder.resolve())
    return photo_folder.Builder(data_dir=data_dir, config=folder_config), "image"


def _split(name: str, inventory: Mapping[str, tuple[Entry, ...]], excluded: frozenset[str]) -> Splits:
    if name in ("sample_photos", "drawn_graphics"):
        return split_as_prepared({split: len(entries) for split, entries in inventory.items()})
    if name == "div2k":
        return split_div2k()
    return split_folder([i for i, entry in enumerate(inventory["train"]) if entry.pixels not in excluded])


def _prepare(builder: tfds.core.DatasetBuilder) -> None:
    """Prepares a data set unless that was done before and all of it is still there.

    TFDS writes into a temporary folder and renames it at the end, so a killed preparation leaves nothing that
    a later run could take for a prepared data set.
    """
    try:
        if _is_whole(builder):
            return
        if builder.name == "div2k":
            _check_reachable(_DIV2K_HOME)
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()  # in a log it would be hundreds of lines
        place = Path(builder.data_dir).parent
        # Of two processes that prepare the same, TFDS lets the second fail at its end.
        with hold(place / ".lock", lambda holder: log.warning("waiting for %s, which prepares the same", holder)):
            if (builder.data_path / "dataset_info.json").exists():  # from another process, perhaps
                builder.info.read_from_directory(builder.data_dir)
            if _is_whole(builder):
                return
            if builder.data_path.exists():
                log.warning("prepared again, as it is damaged: %s", builder.data_dir)
                shutil.rmtree(builder.data_dir)
            with contextlib.redirect_stdout(io.StringIO()):  # announcements; progress is shown on standard error
                builder.download_and_prepare()
    except (tfds.download.DownloadError, requests.RequestException) as error:
        raise InputError(f"cannot download {builder.name}, try again later: {_first_line(error)}") from error
    except (OSError, tf.errors.OpError) as error:
        reason = _first_line(error)
        raise InputError(
            "cannot keep the prepared photographs, choose another ",
            Option("data_dir"),
            f": {builder.data_dir} ({reason})",
        ) from error


def _is_whole(builder: tfds.core.DatasetBuilder) -> bool:
    """Tells whether all files of a data set are there, as long as they were written."""
    splits = builder.info.splits.values()
    files = [Path(file) for split in splits for file in split.filepaths]
    if not files or not all(file.is_file() for file in files):
        return False
    written = sum(split.num_bytes + _BYTES_AROUND_EXAMPLE * split.num_examples for split in splits)
    return sum(file.stat().st_size for file in files) >= written


def _check_reachable(url: str) -> None:
    # TFDS alone would try eight times with growing pauses, minutes without a word.
    try:
        requests.head(url, timeout=10)
    except requests.RequestException as error:
        raise InputError(f"cannot download div2k, check the connection to the internet: {url}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _read_encoded(builder: tfds.core.DatasetBuilder, split: str) -> tf.data.Dataset:
    """Reads examples in the order of their indices, every feature still encoded: `string []`."""
    return builder.as_dataset(
        split=split,
        decoders={feature: tfds.decode.SkipDecoding() for feature in builder.info.features},
        # One file after the other, or the order would not be that of the indices.
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )


def _iterate_encoded(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[dict]:
    """Iterates over what `_read_encoded` reads."""
    try:
        yield from _read_encoded(builder, split).as_numpy_iterator()
    except tf.errors.DataLossError as error:
        raise InputError(
            "what was prepared is damaged, remove it and give the same command, which prepares it again: "
            f"{builder.data_dir} ({_first_line(error)})"
        ) from error


def _take_inventory(builder: tfds.core.DatasetBuilder, feature: str) -> Mapping[str, tuple[Entry, ...]]:
    """Lists what was prepared: decodes every photograph once, then keeps the list beside the data set."""
    file = Path(builder.data_dir) / "inventory.json"
    # Missing, unreadable or cut off, it is made anew.
    with contextlib.suppress(FileNotFoundError, PermissionError, ValueError, TypeError):
        lists = json.loads(file.read_text(encoding="utf-8"))
        return {split: tuple(Entry(*entry) for entry in entries) for split, entries in lists.items()}
    inventory = {split: _list_split(builder, feature, split) for split in builder.info.splits}
    lists = {split: [dataclasses.astuple(entry) for entry in entries] for split, entries in inventory.items()}
    try:
        write_whole(file, json.dumps(lists).encode())
    except OSError as error:  # a data set that others prepared may be read-only: list it again the next time
        log.info("cannot keep %s: %s", file, error)
    return inventory


def _list_split(builder: tfds.core.DatasetBuilder, feature: str, split: str) -> tuple[Entry, ...]:
    entries = []
    for index, example in enumerate(_iterate_encoded(builder, split)):
        photo = decode(example[feature]).numpy()
        name = example["name"].decode() if "name" in example else f"{split}_{index:04d}"
        height, width, _ = photo.shape
        entries.append(Entry(name, height, width, hash_pixels(photo)))
    return tuple(entries)


def _hash_folder(folder: Path) -> frozenset[str]:
    """Hashes the pictures of a folder; broken ones are passed over with a line of log."""
    hashes = set()
    for file in find_photographs(folder):
        try:
            hashes.add(hash_pixels(read_photograph(file)))
        except InputError as error:
            log.warning("not excluded: %s", error)
    if not hashes:
        raise InputError(f"no picture to exclude in the folder: {folder}")
    return frozenset(hashes)
