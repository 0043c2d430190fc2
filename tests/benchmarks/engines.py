"""Costs and quality of each engine and precision: seconds, processor's seconds, memory, the first picture, PSNR.

python -m tests.benchmarks.engines --megapixels 0.25 1 12 48 --data DIR/live1

Each figure is of a process of its own, the median of several rounds, in which all take turns. Speed and memory are of
a JPEG's bytes restored to a PNG's; it was restored once before, if it has at most two megapixels. The first picture is
that of the command `restore`, from its start to its end. The JPEG's own PSNR stands beside the restored one's, both the
mean over the pictures. Debian's jpegqs, if it is installed, is measured beside, from file to file.
"""

import argparse
import concurrent.futures
import io
import json
import multiprocessing
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from artifact_remover.model_folder import PUBLISHED, choose_exports
from artifact_remover.openvino_engine import INT8
from artifact_remover.restoration import Restorer
from data_prep.quiet import quiet_tensorflow
from tests.benchmarks.restoring import write_jpeg

ENGINES = (
    ("tensorflow", "float32"),
    ("tensorflow", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),  # of the published models
    ("jpegqs", ""),
)
JPEGQS = ("jpegqs", "--quality", "5")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=PUBLISHED)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0.25, 1.0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="folder of clean pictures")
    parser.add_argument("--quality", type=int, nargs="+", default=[10, 30, 60, 90, 95])
    options = parser.parse_args()

    def tell(engine, precision, **figures):
        print(json.dumps({"benchmark": "engines", "engine": engine, "precision": precision, **figures}), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "photo.jpg"
        write_jpeg(file, 0.25)
        for how, seconds in take_turns(options.rounds, time_first_picture, options.model, file):
            tell(*how, first_picture_seconds=round(statistics.median(seconds), 2))
        for megapixels in options.megapixels:
            write_jpeg(file, megapixels)
            for how, rounds in take_turns(options.rounds, measure, options.model, file):
                wall, processor, memory = (statistics.median(each) for each in zip(*rounds, strict=True))
                tell(
                    *how,
                    megapixels=megapixels,
                    seconds_per_megapixel=round(wall, 3),
                    processor_seconds_per_megapixel=round(processor, 3),
                    peak_memory_mb=round(memory),
                )
    for quality in options.quality if options.data else ():
        for how, [(jpeg, restored)] in take_turns(1, score, options.model, options.data, quality):
            tell(*how, quality=quality, jpeg_psnr=round(jpeg, 3), restored_psnr=round(restored, 3))


def take_turns(rounds, measure, *arguments):
    """Yields each engine and precision with what is measured of it, each time in a process of its own."""
    quantized = (choose_exports(arguments[0], None)[0] / INT8).exists()
    missing = {"int8": not quantized, "": not shutil.which(JPEGQS[0])}
    measured = {how: [] for how in ENGINES if not missing.get(how[1])}
    spawn = multiprocessing.get_context("spawn")
    for _ in range(rounds):
        for how, results in measured.items():
            with concurrent.futures.ProcessPoolExecutor(1, spawn) as process:
                results.append(process.submit(measure, *how, *arguments).result())
    yield from measured.items()


def time_first_picture(engine, precision, model, file):
    """Returns seconds."""
    if engine == "jpegqs":
        command = [*JPEGQS, file, file.with_suffix(".smooth.jpg")]
    else:
        command = [sys.executable, "-m", "artifact_remover.restore", file, "--overwrite", "--model", model]
        command += ["--engine", engine, "--precision", precision]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(engine, precision, model, file):
    """Returns seconds and the processor's seconds, each a megapixel, and the most memory in megabytes."""
    width, height = Image.open(file).size
    if engine == "jpegqs":
        seconds = time_first_picture(engine, precision, model, file)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        millions = width * height / 1e6
        return seconds / millions, (used.ru_utime + used.ru_stime) / millions, used.ru_maxrss * 1024 / 1e6
    restorer = load(engine, precision, model)
    content = file.read_bytes()
    if width * height > 2e6:
        restorer.restore(np.zeros([512, 512, 3], np.uint8) + np.arange(3, dtype=np.uint8))
    else:
        restorer.restore_bytes(content)
    began = time.perf_counter(), time.process_time()
    restorer.restore_bytes(content)
    ended = time.perf_counter(), time.process_time()
    seconds = [1e6 * (after - before) / (width * height) for before, after in zip(began, ended, strict=True)]
    # Not `getrusage`, whose figure begins with the parent's.
    return *seconds, int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1e3


def score(engine, precision, model, folder, quality):
    """Returns the PSNR of JPEGs and of what is restored of them, in dB, of RGB, the mean over a folder's pictures."""
    restore = smooth if engine == "jpegqs" else load(engine, precision, model).restore_bytes
    scores = []
    for file in sorted(each for each in folder.iterdir() if each.suffix.lower() in (".png", ".bmp")):
        clean, compressed = np.asarray(Image.open(file).convert("RGB")), io.BytesIO()
        Image.fromarray(clean).save(compressed, "JPEG", quality=quality)
        jpeg = compressed.getvalue()
        pictures = (np.asarray(Image.open(io.BytesIO(each))) for each in (jpeg, restore(jpeg)))
        errors = (np.mean((each.astype(float) - clean) ** 2) for each in pictures)
        scores.append([10 * np.log10(255**2 / error) for error in errors])
    return np.mean(scores, axis=0).tolist()


def smooth(jpeg):
    """Returns what jpegqs makes of a JPEG's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.jpg"), Path(folder, "out.jpg")
        source.write_bytes(jpeg)
        subprocess.run([*JPEGQS, source, target], check=True, capture_output=True)
        return target.read_bytes()


def load(engine, precision, model):
    with quiet_tensorflow():
        return Restorer.load(model, engine=engine, precision=precision)


if __name__ == "__main__":
    main()
