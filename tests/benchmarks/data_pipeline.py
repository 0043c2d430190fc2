"""How fast the training pipeline makes patches: prints one JSON line, asserts nothing.

python -m tests.benchmarks.data_pipeline --quality 5-95 --data-dir /tmp/tfds
"""

import dataclasses
import itertools
import json
import os
import statistics
import time
from pathlib import Path

import tyro

from data_prep.config import DataConfig, DegradationConfig
from data_prep.quiet import quiet_tensorflow


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure the training pipeline.

    Attributes:
        data: Name or folder of the photographs.
        data_dir: Where prepared data sets are kept.
        quality: JPEG quality factor, or a range.
        windows: Number of windows timed; the median is given.
        steps: Batches per window.
    """

    data: str = "sample_photos"
    data_dir: Path | None = None
    quality: str = "10"
    windows: int = 5
    steps: int = 100


def main() -> None:
    """Measure patches of 64 and 96 pixels."""
    options = tyro.cli(Options)
    speeds = {f"patches_per_second_{size}": round(measure(options, size)) for size in (64, 96)}
    print(json.dumps({"data": options.data, "quality": options.quality, "cpus": os.cpu_count(), **speeds}))


def measure(options: Options, patch_size: int) -> float:
    """Time windows of batches after a warm-up; returns the median in patches per second."""
    with quiet_tensorflow():
        from data_prep.pipeline import training_batches
        from data_prep.sources import open_photographs

    config = DataConfig(
        options.data,
        options.data_dir,
        patch_size=patch_size,
        degradation=DegradationConfig(options.quality),
    )
    batches = iter(training_batches(open_photographs(config), "generator", config, seed=0))
    take_steps(batches, options.steps)
    seconds = [take_steps(batches, options.steps) for _ in range(options.windows)]
    return options.steps * config.batch_size / statistics.median(seconds)


def take_steps(batches, steps: int) -> float:
    """Take batches and return the seconds that took."""
    start = time.perf_counter()
    for _ in itertools.islice(batches, steps):
        pass
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
