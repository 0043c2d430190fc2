"""The speed at which files are restored, beside one plain forward pass of the network on the same pixels.

python -m tests.benchmarks.restoring --model runs/quick

Ours is from file to file: decoding, tiles, encoding as PNG. The plain pass is the same engine's, in the same precision,
on an array that is ready in memory; pictures of more than 12 megapixels do not fit, so theirs is that of 12.
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data as skimage_data

from artifact_remover.engines import load_engine
from artifact_remover.model_folder import choose_exports
from artifact_remover.restoration import Restorer
from data_prep.quiet import quiet_tensorflow

_LARGEST_WHOLE = 12.0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0.25, 1.0, 12.0, 48.0])
    parser.add_argument("--engine", choices=("auto", "tensorflow", "openvino"), default="auto")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with quiet_tensorflow():
        restorer = Restorer.load(options.model, engine=options.engine, precision=options.precision)
        engine = load_engine(restorer.engine, choose_exports(options.model, None)[0], options.precision)
    for megapixels in options.megapixels:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "photo.jpg"
            pixels = write_jpeg(file, megapixels)
            whole = write_jpeg(Path(folder) / "whole.jpg", min(megapixels, _LARGEST_WHOLE))
            plain = plain_pass(engine, whole)
            restore = functools.partial(restorer.restore_file, file, overwrite=True)
            # In turns, so that a machine that changes its speed changes both.
            pairs = [(time_call(restore) / pixels.size, plain()) for _ in range(options.rounds)]
        ours, passes = (statistics.median(each) * 3e6 for each in zip(*pairs, strict=True))
        print(
            json.dumps(
                {
                    "benchmark": "restoring",
                    "model": restorer.description,
                    "engine": restorer.engine,
                    "precision": restorer.precision,
                    "megapixels": megapixels,
                    "megapixels_per_second": round(1 / ours, 2),
                    "seconds_per_megapixel": round(ours, 3),
                    "plain_pass_seconds_per_megapixel": round(passes, 3),
                    "ratio": round(ours / passes, 2),
                }
            ),
            flush=True,
        )


def write_jpeg(file, megapixels):
    """A photograph of this size, made of smaller ones, as a JPEG of quality 10."""
    photo = np.concatenate([skimage_data.coffee()[:300], skimage_data.chelsea()], axis=1)
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    height = round(megapixels * 1e6 / width)
    repeats = (-(-height // photo.shape[0]), -(-width // photo.shape[1]), 1)
    Image.fromarray(np.tile(photo, repeats)[:height, :width]).save(file, quality=10)
    return np.asarray(Image.open(file))


def plain_pass(engine, pixels):
    """Returns a function that runs the network once on the whole picture and returns the seconds per value."""
    degraded = pixels[np.newaxis].astype(np.float32) / 255

    def run():
        return time_call(lambda: engine(degraded)) / pixels.size

    run()
    return run


def time_call(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
