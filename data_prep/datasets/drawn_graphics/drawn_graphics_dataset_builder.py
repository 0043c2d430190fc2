"""Graphics that this package draws: text, charts, pixel art and the like, to train on with no download."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from data_prep.drawing import KINDS, draw_graphic
from data_prep.photographs import encode_photograph

SIDE = 320
COUNTS = {"train": 1120, "validation": 56, "test": 56}

# Pixel art is what a restorer damages most: four of fourteen pictures.
_TURNS = (*KINDS, *["pixel_art"] * 3)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Drawn graphics, always the same, the kinds of `data_prep.drawing` in turns.

    Features: `image`, `uint8 [320, 320, 3]`, RGB, 0..255, kept as PNG; `name`, kind and number.
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
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        for number in range(COUNTS[split]):
            kind = _TURNS[number % len(_TURNS)]
            name = f"{kind}_{number:04d}"
            rng = np.random.default_rng([list(COUNTS).index(split), number])
            yield name, {"image": encode_photograph(draw_graphic(rng, SIDE, kind)), "name": name}
