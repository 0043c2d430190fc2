"""Draws docs/before_after.png with the published models: `python -m tests.before_after`."""

from pathlib import Path

import numpy as np
from skimage import data

from artifact_remover import Restorer
from artifact_remover.judging.scoring import draw_comparison, judge
from artifact_remover.model_folder import FAITHFUL, PERCEPTUAL, PUBLISHED, find_exports
from data_prep.drawing import draw_graphic

PICTURE = Path(__file__).parents[1] / "docs" / "before_after.png"
QUALITY = 10


def main() -> None:
    """Restores photographs that the models were not trained on, and a drawn chart, and draws them side by side."""
    exports = find_exports(PUBLISHED)
    restorers = {
        "faithful": Restorer.load(exports[FAITHFUL]).restore,
        "perceptual": Restorer.load(exports[PERCEPTUAL]).restore,
    }
    methods = {name: lambda jpeg, restore=restore: restore(jpeg.pixels) for name, restore in restorers.items()}
    pictures = {
        "astronaut": data.astronaut()[:256, 96:352],
        "coffee": data.coffee()[64:320, 128:384],
        "chart": draw_graphic(np.random.default_rng(5), 256, "chart"),
    }
    rows = [judge(name, clean, QUALITY, "4:2:0", methods, {}) for name, clean in pictures.items()]
    draw_comparison(rows, PICTURE)
    for row in rows:
        print(row["name"], {who: round(scores["psnr"], 2) for who, scores in row["scores"].items()})


if __name__ == "__main__":
    main()
