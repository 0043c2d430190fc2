"""Speed of two models on the same picture, measured in turns.

python -m tests.benchmarks.models --before saved_models/pretrain_generator/1 --after runs/div2k

Seconds a megapixel from pixels to pixels, the median of several rounds. Each round restores the picture once with
either model, so that a machine that changes its speed changes both; a first round is not counted.
"""

import argparse
import functools
import json
import statistics
import tempfile
from pathlib import Path

from artifact_remover.restoration import Restorer
from data_prep.quiet import quiet_tensorflow
from tests.benchmarks.restoring import time_call, write_jpeg


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True, metavar="EXPORT")
    parser.add_argument("--after", type=Path, required=True, metavar="EXPORT")
    parser.add_argument("--megapixels", type=float, default=1.0)
    parser.add_argument("--engine", choices=("auto", "tensorflow", "openvino"), default="auto")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pixels = write_jpeg(Path(folder) / "photo.jpg", options.megapixels)
    with quiet_tensorflow():
        restorers = [
            Restorer.load(model, engine=options.engine, precision=options.precision)
            for model in (options.before, options.after)
        ]
    calls = [functools.partial(restorer.restore, pixels) for restorer in restorers]
    _, *rounds = [[time_call(call) for call in calls] for _ in range(1 + options.rounds)]
    before, after = (1e6 * statistics.median(each) / (pixels.size / 3) for each in zip(*rounds, strict=True))
    print(
        json.dumps(
            {
                "benchmark": "models",
                "before": restorers[0].description,
                "after": restorers[1].description,
                "engine": restorers[0].engine,
                "precision": restorers[0].precision,
                "megapixels": options.megapixels,
                "rounds": options.rounds,
                "before_seconds_per_megapixel": round(before, 3),
                "after_seconds_per_megapixel": round(after, 3),
                "ratio": round(after / before, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
