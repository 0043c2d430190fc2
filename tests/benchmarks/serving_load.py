"""Many clients at once at the web page's server: what they are answered, how long it takes, and how much memory.

python -m tests.benchmarks.serving_load --model runs/quick

Each client sends the same picture again, as often as it is told to come back, until it has been restored once.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from tests.benchmarks.restoring import write_jpeg


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--megapixels", type=float, default=0.25)
    parser.add_argument("--places", type=int, default=8)
    options = parser.parse_args()
    command = [sys.executable, "-m", "artifact_remover.serve", "--port", "0", "--places", str(options.places)]
    if options.model:
        command += ["--model", str(options.model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        server.stdout.readline()
        url = f"{server.stdout.readline().split()[1]}api/restore"
        with tempfile.TemporaryDirectory() as folder:
            write_jpeg(Path(folder) / "photo.jpg", options.megapixels)
            content = (Path(folder) / "photo.jpg").read_bytes()
        right = ask(url, content).content
        ready = peak_memory(server.pid)
        began = time.perf_counter()
        with ThreadPoolExecutor(options.clients) as clients:
            outcomes = list(clients.map(lambda _: insist(url, content), range(options.clients)))
        seconds = time.perf_counter() - began
        peak = peak_memory(server.pid)
        server.send_signal(signal.SIGINT)
        code = server.wait(600)
    waited = sorted(each["seconds"] for each in outcomes)
    print(
        json.dumps(
            {
                "benchmark": "serving_load",
                "clients": options.clients,
                "places": options.places,
                "megapixels": options.megapixels,
                "right": sum(each["content"] == right for each in outcomes),
                "told_to_come_back": sum(each["refused"] for each in outcomes),
                "other_answers": sum(each["others"] for each in outcomes),
                "megapixels_per_second": round(options.clients * options.megapixels / seconds, 3),
                "seconds_median": round(waited[len(waited) // 2], 1),
                "seconds_longest": round(waited[-1], 1),
                "peak_megabytes_after_one": ready,
                "peak_megabytes": peak,
                "exit_code": code,
            }
        )
    )


def ask(url, content):
    """Sends the picture once."""
    return requests.post(url, data=content, headers={"Content-Type": "image/jpeg"}, timeout=600)


def insist(url, content):
    """Sends the picture until it is restored, as a client should that is told to come back later."""
    began, outcome = time.perf_counter(), {"refused": 0, "others": 0, "content": None}
    while not outcome["content"] and outcome["others"] < 3:
        answer = ask(url, content)
        if answer.status_code == 200:
            outcome["content"] = answer.content
        elif answer.status_code == 429:
            outcome["refused"] += 1
            time.sleep(int(answer.headers["Retry-After"]))
        else:
            outcome["others"] += 1
    return outcome | {"seconds": time.perf_counter() - began}


def peak_memory(process):
    """Megabytes that a process had resident at most; None where that cannot be read."""
    try:
        return round(int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())[1]) * 1024 / 1e6)
    except OSError:
        return None


if __name__ == "__main__":
    main()
