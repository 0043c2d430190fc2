"""Photographs that scikit-image carries inside its package: training data with no download."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import skimage
import tensorflow_datasets as tfds
from PIL import Image

from data_prep.photographs import read_photograph


@dataclasses.dataclass(frozen=True)
class SamplePhoto:
    """One photograph of `skimage/data`.

    Attributes:
        file: File name inside `skimage/data`.
        split: The part it belongs to: `train`, `validation` or `test`.
        reduce: Whole number by which the sides are reduced (area average), where the file shows JPEG's grid.
        source: Who made it, or where scikit-image took it from.
        license: Its license, as stated by scikit-image.
    """

    file: str
    split: str
    reduce: int
    source: str
    license: str


# Sources and licenses are those given by the docstrings of `skimage.data`. Left out: drawings and
# measurements (cell, color, horse, logo, phantom, chessboard), text (page, text), a blur (clock_motion), a
# fragment (microaneurysms), and moon, which is enlarged by repeating pixels.
PHOTOS = (
    SamplePhoto("astronaut.png", "train", 1, "NASA Great Images, flic.kr/p/r9qvLn", "public domain"),
    # A stereo pair: always in the same part.
    SamplePhoto("motorcycle_left.png", "train", 1, "Middlebury 2014 stereo benchmark", "not stated"),
    SamplePhoto("motorcycle_right.png", "train", 1, "Middlebury 2014 stereo benchmark", "not stated"),
    SamplePhoto("hubble_deep_field.jpg", "train", 2, "NASA, HubbleSite 2012/37", "public domain"),
    SamplePhoto("ihc.png", "train", 2, "CMMI, micrograph of colonic glands", "no known restrictions"),
    SamplePhoto("brick.png", "train", 1, "CC0Textures, Bricks25", "CC0"),
    SamplePhoto("grass.png", "train", 1, "DeviantArt, linolafett", "CC0"),
    SamplePhoto("gravel.png", "train", 1, "CC0Textures, Gravel04", "CC0"),
    SamplePhoto("retina.jpg", "validation", 3, "Mikael Häggström, Wikimedia Commons", "CC0"),
    SamplePhoto("coins.png", "validation", 2, "Brooklyn Museum, archives 51611", "no known restrictions"),
    SamplePhoto("chelsea.png", "test", 1, "Stefan van der Walt", "CC0"),
    SamplePhoto("coffee.png", "test", 1, "Rachel Michetti, Pikolo Espresso Bar", "CC0"),
    SamplePhoto("camera.png", "test", 1, "Lav Varshney", "CC0"),
    SamplePhoto("rocket.jpg", "test", 2, "SpaceX, flickr 16511594820", "public domain"),
)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Eight photographs for training, two for validation, four for testing; `PHOTOS` names the licenses.

    Features: `image`, `uint8 [H, W, 3]`, RGB, 0..255, kept as PNG; `name`, the file's name without extension.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    # Nothing is downloaded, so there is no file of checksums to look for.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=self.__doc__,
            homepage="https://scikit-image.org/docs/stable/api/skimage.data.html",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "name": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in ("train", "validation", "test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        for photo in PHOTOS:
            if photo.split == split:
                name = Path(photo.file).stem
                yield name, {"image": _read(photo), "name": name}


def _read(photo: SamplePhoto) -> np.ndarray:
    pixels = read_photograph(Path(skimage.__file__).parent / "data" / photo.file)
    return np.asarray(Image.fromarray(pixels).reduce(photo.reduce))
