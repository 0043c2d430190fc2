"""Any folder of photographs as a data set, prepared once and again only when the folder has changed."""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from data_prep.errors import InputError
from data_prep.photographs import encode_photograph, find_photographs, hash_pixels, read_photograph

log = logging.getLogger(__name__)

# A picture with a shorter side is an icon or a thumbnail, not a photograph.
SHORTEST_SIDE = 64


@dataclasses.dataclass(eq=False)
class FolderConfig(tfds.core.BuilderConfig):
    """A folder in the state in which it is found.

    Attributes:
        folder: The folder of photographs.
    """

    folder: Path = Path()

    @classmethod
    def from_folder(cls, folder: Path) -> "FolderConfig":
        """Names the configuration after the folder's content, so that a changed folder is prepared anew.

        Args:
            folder: A folder of photographs.

        Raises:
            InputError: The folder cannot be read, or holds no file that looks like a photograph.
        """
        digest = hashlib.sha256()
        files = list(find_photographs(folder))
        for file in files:
            status = file.stat()
            state = f"{file.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\0"
            digest.update(os.fsencode(state))
        if not files:
            raise InputError(f"no PNG, JPEG, WebP, AVIF or TIFF file in the folder: {folder}")
        return cls(name=digest.hexdigest()[:16], description="Photographs of a folder.", folder=folder)


class Builder(tfds.core.GeneratorBasedBuilder):
    """The photographs of a folder, all in one split, `train`, in an order that depends on their names only.

    Features: `image`, `uint8 [H, W, 3]`, RGB, 0..255, kept as PNG; `name`, the file's path inside the folder.
    Files that are broken, too small or a repetition are left out, with one line of log each.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    # Nothing is downloaded, so there is no file of checksums to look for.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "name": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {"train": self._generate_examples(self.builder_config.folder)}

    def _generate_examples(self, folder: Path) -> Iterator[tuple[str, dict]]:
        seen: dict[str, Path] = {}
        for file in find_photographs(folder):
            try:
                photo = read_photograph(file)
            except InputError as error:
                log.warning("left out: %s", error)
                continue
            if min(photo.shape[:2]) < SHORTEST_SIDE:
                log.warning("left out: a side is shorter than %d pixels: %s", SHORTEST_SIDE, file)
                continue
            # The same picture twice could end up both in training and in test.
            first = seen.setdefault(hash_pixels(photo), file)
            if first is not file:
                log.warning("left out: the same picture as %s: %s", first, file)
                continue
            name = file.relative_to(folder).as_posix().encode(errors="backslashreplace").decode()
            yield name, {"image": encode_photograph(photo), "name": name}
        if not seen:
            raise InputError(f"no usable photograph in the folder, see the lines above: {folder}")
