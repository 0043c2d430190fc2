"""How fast files are restored, beside one plain forward pass of the network on the same pixels.

python -m tests.benchmarks.restoring --model runs/quick

Ours is from file to file: decoding, tiles, encoding as PNG. The plain pass is the SavedModel's signature, in the same
precision, on an array that is ready in memory; pictures of more than 12 megapixels do not fit, so theirs is that of 12.
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

from data_prep.quiet import quiet_tensorflow

with quiet_tensorflow():
    import tensorflow as tf

from artifact_remover.model_folder import choose_exports
from artifact_remover.precision import choose_dtype
from artifact_remover.restoration import Restorer

_LARGEST_WHOLE = 12.0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0.25, 1.0, 12.0, 48.0])
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    restorer = Restorer.load(options.model, precision=options.precision)
    dtype = choose_dtype(options.precision)
    for megapixels in options.megapixels:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "photo.jpg"
            pixels = write_jpeg(file, megapixels)
            whole = write_jpeg(Path(folder) / "whole.jpg", min(megapixels, _LARGEST_WHOLE))
            plain = plain_pass(options.model, dtype, whole)
            restore = functools.partial(restorer.restore_file, file, overwrite=True)
            # In turns, so that a machine that changes its speed changes both.
            pairs = [(time_call(restore) / pixels.size, plain()) for _ in range(options.rounds)]
        ours, passes = (statistics.median(each) * 3e6 for each in zip(*pairs, strict=True))
        print(
            json.dumps(
                {
                    "benchmark": "restoring",
                    "model": restorer.description,
                    "dtype": dtype,
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


def plain_pass(model, dtype, pixels):
    """Returns a function that runs the network once on the whole picture and returns the seconds per value."""
    exported = tf.saved_model.load(str(choose_exports(model, None)[0]))
    degraded = tf.constant(pixels[np.newaxis], tf.float32) / 255.0

    def run():
        # A setting of the process, which must not reach the other of the two that are compared.
        name = "auto_mixed_precision_onednn_bfloat16"
        tf.config.optimizer.set_experimental_options({name: dtype == "mixed_bfloat16"})
        seconds = time_call(lambda: exported.signatures["serving_default"](degraded=degraded)["restored"].numpy())
        tf.config.optimizer.set_experimental_options({name: False})
        return seconds / pixels.size

    run()
    return run


def time_call(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
