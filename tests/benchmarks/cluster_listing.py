"""Memory that the command takes on a cluster for very many names: `python -m tests.benchmarks.cluster_listing`.

The names are listed, named, and streamed through a worker that does nothing to this process.
"""

import argparse
import contextlib
import json
import resource
import tempfile
import threading
import time
from pathlib import Path

import psutil
import ray

from artifact_remover import cluster
from artifact_remover.options import RestoreConfig


class PassOn:
    """A worker that does nothing."""

    def __call__(self, packs):
        """Returns what it is handed."""
        return packs


def main() -> None:
    """Prints one JSON line; memory is resident, in MB of a million bytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--folder", action="store_true", help="make that many files, not a list of them")
    arguments = parser.parse_args()
    this, others = psutil.Process(), []

    def watch():
        while True:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in this.children(recursive=True):
                    if "_list_packs" in " ".join(child.cmdline()):
                        others.append(child.memory_info().rss)
            time.sleep(0.2)

    with tempfile.TemporaryDirectory() as top:
        places = (f"photograph_{number:08}.jpg" for number in range(arguments.names))
        source = Path(top, "photos" if arguments.folder else "photos.txt")
        if arguments.folder:
            source.mkdir()
            for place in places:
                (source / place).touch()
        else:
            with source.open("w") as file:
                file.writelines(f"s3://bucket/photos/{place}\n" for place in places)
        config = cluster.fix_results(RestoreConfig((str(source),), f"{top}/out", cluster=True))
        with cluster.connected(config):
            before, began, names = this.memory_info().rss, time.perf_counter(), 0
            threading.Thread(target=watch, daemon=True).start()
            packs = cluster.stream_packs(config).map_batches(
                PassOn, batch_size=1, batch_format="pyarrow", compute=ray.data.ActorPoolStrategy(size=1)
            )
            for table in packs.iter_batches(batch_size=None, batch_format="pyarrow"):
                names += sum(len(each["pictures"]) for each in table.to_pylist())
            seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert names == arguments.names
    figures = {"before": before, "command": peak, "more": peak - before, "listing_task": max(others, default=0)}
    megabytes = {name: round(value / 1e6) for name, value in figures.items()}
    print(json.dumps({"names": names, "seconds": round(seconds, 1), "MB": megabytes}))


if __name__ == "__main__":
    main()
