"""The speed at which a cluster of this machine restores a folder, beside the plain command on as many processors.

python -m tests.benchmarks.cluster --data DIR/live1

Whole commands in processes of their own: the plain one with two threads, a cluster of one worker with two threads, and
one of two workers with a thread each. `start` is what one picture takes, `each` what each further one takes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

_COMMANDS = {
    "plain": [],
    "one worker of two threads": ["--cluster", "--workers", "1", "1", "--cpus-per-worker", "2"],
    "two workers of one thread": ["--cluster", "--workers", "2", "2", "--cpus-per-worker", "1"],
}


def main() -> None:
    """Prints a JSON line for each command, with its ratio to the plain one's `each`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of clean photographs")
    parser.add_argument("--pictures", type=int, default=160)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as top:
        folders = {
            count: write_jpegs(arguments.data, Path(top, str(count)), count) for count in (1, arguments.pictures)
        }
        plain = None
        for name, options in _COMMANDS.items():
            start, whole = (
                time_command(folder, Path(top, "out", name, folder.name), options) for folder in folders.values()
            )
            each = (whole - start) / (arguments.pictures - 1)
            plain = plain or each
            figures = {"start": start, "whole": whole, "each": each, "times_plain": each / plain}
            print(json.dumps({"command": name} | {key: round(value, 3) for key, value in figures.items()}), flush=True)


def write_jpegs(data: Path, folder: Path, count: int) -> Path:
    """Writes so many JPEGs of quality 30, each photograph as often as needed."""
    folder.mkdir()
    photographs = sorted(data.iterdir())
    for number in range(count):
        with Image.open(photographs[number % len(photographs)]) as photograph:
            photograph.convert("RGB").save(folder / f"{number}.jpg", quality=30)
    return folder


def time_command(source: Path, output: Path, options: list[str]) -> float:
    """Measures the seconds that the command takes."""
    command = [sys.executable, "-m", "artifact_remover.restore", str(source), "-o", str(output)]
    same = ["--precision", "float32", "--tile", "2048"]
    began = time.perf_counter()
    subprocess.run(
        [*command, *same, *options], check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "2"}
    )
    seconds = time.perf_counter() - began
    written, wanted = (
        sum(1 for _ in folder.rglob(f"*.{suffix}")) for folder, suffix in ((output, "png"), (source, "jpg"))
    )
    if written != wanted:
        raise SystemExit(f"{written} of {wanted} pictures were written")
    return seconds


if __name__ == "__main__":
    main()
