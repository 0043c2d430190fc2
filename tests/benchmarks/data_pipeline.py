"""The speed at which the data pipeline makes patches, beside that of a training step, which uses them, in one process.

python -m tests.benchmarks.data_pipeline --preset div2k --data FOLDER_OF_LARGE_PHOTOGRAPHS
"""

import dataclasses
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Literal

import tyro

from artifact_remover.config import PRESETS
from data_prep.quiet import quiet_tensorflow


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the training pipeline beside the training step.

    Attributes:
        preset: Whose patches and generator.
        data: Name or folder of the photographs, if not the preset's.
        data_dir: Where prepared data sets are kept.
        quality: JPEG quality factor, or a range, if not the preset's.
        rounds: Pipeline and step are timed in turns, this many times; medians are given.
    """

    preset: Literal["quick", "blind", "div2k"] = "quick"
    data: str | None = None
    data_dir: Path | None = None
    quality: str | None = None
    rounds: int = 5


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    with quiet_tensorflow():
        from artifact_remover.precision import choose_dtype
        from data_prep.pipeline import training_batches
        from data_prep.sources import open_photographs
        from tests.benchmarks.training_step import time_calls, training_step

    preset = PRESETS[options.preset]
    degradation = preset.data.degradation
    config = dataclasses.replace(
        preset.data,
        data=options.data or preset.data.data,
        data_dir=options.data_dir,
        degradation=dataclasses.replace(degradation, quality=options.quality or degradation.quality),
    )
    shape = [config.batch_size, config.patch_size, config.patch_size, 3]
    *_, step, _ = training_step(preset, shape, choose_dtype("auto"))
    batches = iter(training_batches(open_photographs(config), "generator", config, seed=0))
    steps = max(100, 4 * config.patches_per_photo)
    _take(batches, steps)
    pairs = [(_take(batches, steps) / steps, time_calls(step)) for _ in range(options.rounds)]
    made, used = (config.batch_size / statistics.median(each) for each in zip(*pairs, strict=True))
    print(
        json.dumps(
            {
                "benchmark": "data_pipeline",
                "preset": options.preset,
                "data": config.data,
                "quality": config.degradation.quality,
                "patches_made_per_second": round(made),
                "patches_used_per_second": round(used, 1),
                "ratio": round(made / used, 1),
            }
        )
    )


def _take(batches, steps):
    start = time.perf_counter()
    for _ in itertools.islice(batches, steps):
        pass
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
