"""A real Ray on this machine: three nodes, one of which dies, killed commands and workers, and S3 over HTTP."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import requests
from PIL import Image
from skimage import data as skimage_data

pytest.importorskip("ray")

import pyarrow.parquet as pq  # noqa: E402
from pyarrow import fs  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = pytest.mark.slow

PHOTO = skimage_data.astronaut()
SAME = ["--precision", "float32", "--tile", "64"]
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
STORE = {"object_store_memory": 200_000_000}
PICTURES, BAD = 500, 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Many small pictures in two folders, of which some have one name but for their suffix, and some are none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    for number in range(PICTURES):
        row, column = divmod(number, 25)
        crop = Image.fromarray(PHOTO[21 * row : 21 * row + 90, 17 * column : 17 * column + 100])
        name = f"sub/{number}.jpg" if number % 2 else f"{number // 4}{'.jpg' if number % 4 else '.png'}"
        crop.save(folder / name, quality=10 + number % 32)
    for number in range(BAD):
        (folder / f"sub/bad{number}.jpg").write_bytes((folder / "sub/1.jpg").read_bytes()[: 300 * (number + 1)])
    (folder / "notes.txt").write_text("none")
    return folder


def start(model, *arguments, **environment):
    command = [sys.executable, "-m", "artifact_remover.restore", "--model", str(model), *SAME, *map(str, arguments)]
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run(*arguments, **environment):
    process = start(*arguments, **environment)
    printed, errors = process.communicate(timeout=300)
    return process.returncode, printed, only_ours(errors)


def only_ours(errors):
    """Leaves out what Ray itself says on standard error."""
    return "".join(line for line in errors.splitlines(keepends=True) if line.startswith("error: "))


@pytest.fixture(scope="module")
def plain(photos, saved_models, tmp_path_factory):
    """The results of the command without a cluster, and its last line without the speed."""
    folder = tmp_path_factory.mktemp("plain")
    code, printed, _ = run(saved_models, photos, "-o", folder, **ONE_THREAD)
    assert code == 1
    return read(folder), summary(printed)


@pytest.fixture
def nodes():
    """A head without processors, and three nodes of one each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **STORE})
    try:
        yield cluster, [cluster.add_node(num_cpus=1, **STORE) for _ in range(3)]
    finally:
        cluster.shutdown()


def read(folder):
    """The contents of all results, but not what a killed worker has left under a hidden name."""
    files = [file for file in Path(folder).rglob("*") if file.is_file()]
    results = [file for file in files if file.parent.name != "manifest" and not file.name.startswith(".")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in results}


def summary(printed):
    return printed.splitlines()[-1].partition(" (")[0]


def count_rows(folder):
    """Counts how often the manifest has each picture that did not fail, and each that failed."""
    rows = pq.read_table(folder / "manifest").to_pylist()
    return (
        Counter(row["path"] for row in rows if row["decision"] != "failed"),
        Counter(row["path"] for row in rows if row["decision"] == "failed"),
    )


def wait_for(folder, results, process):
    deadline = time.monotonic() + 200
    while not folder.is_dir() or len(read(folder)) < results:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def check(photos, target, plain):
    results, _ = plain
    assert read(target) == results
    done, failed = count_rows(target)
    assert set(done.values()) == {1}
    assert len(done) == len(results) == PICTURES
    assert set(failed) == {str(photos / f"sub/bad{number}.jpg") for number in range(BAD)}
    assert all(Path(row["target"]).stat().st_size == row["bytes"] for row in rows_of(target) if row["bytes"])


def rows_of(folder):
    return pq.read_table(folder / "manifest").to_pylist()


def test_a_node_dies_and_every_picture_is_there_once_and_equal(photos, saved_models, plain, nodes, tmp_path):
    cluster, [first, *_] = nodes
    target = tmp_path / "out"
    arguments = ("-o", target, "--cluster", "--ray-address", cluster.address, "--workers", 3, 3)
    process = start(saved_models, photos, *arguments)
    wait_for(target, 20, process)
    cluster.remove_node(first, allow_graceful=False)
    assert len(read(target)) < PICTURES  # or it died too late
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    check(photos, target, plain)
    assert summary(printed) == plain[1]
    assert only_ours(errors).count("\n") == BAD
    code, _, errors = run(saved_models, photos, *arguments)
    assert (code, errors.count("\n")) == (2, 1)
    assert re.match(r"error: .*out holds something already, --overwrite replaces it, --resume goes on", errors)


def test_the_command_is_killed_and_goes_on(photos, saved_models, plain, nodes, tmp_path):
    cluster, _ = nodes
    target = tmp_path / "out"
    arguments = ("-o", target, "--cluster", "--ray-address", cluster.address, "--workers", 1, 2, "--resume")
    process = start(saved_models, photos, *arguments)
    assert any(" -> " in line for line in process.stdout)  # the first row has come
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(
        r"(error: .*bad.*\n)*error: stopped, \d+ pictures are done; --resume goes on\n", only_ours(errors)
    )
    recorded = len(count_rows(target)[0])
    assert 0 < recorded <= len(read(target)) < PICTURES
    process = start(saved_models, photos, *arguments)
    wait_for(target, len(read(target)) + 5, process)
    process.kill()
    process.wait()
    assert len(read(target)) < PICTURES
    code, printed, errors = run(saved_models, photos, *arguments)
    assert code == 1, errors
    assert int(re.search(r"skipped (\d+)", printed)[1]) == recorded
    check(photos, target, plain)
    code, printed, errors = run(saved_models, photos, *arguments)
    assert (code, summary(printed)) == (1, f"skipped {PICTURES}, failed {BAD}")
    check(photos, target, plain)


def test_a_run_without_faults_says_nothing_on_standard_error(photos, saved_models, tmp_path):
    places = [f"{photos}/sub/{number}.jpg\n" for number in range(1, 9, 2)]
    (tmp_path / "list.txt").write_text("".join(places))
    process = start(saved_models, tmp_path / "list.txt", "-o", tmp_path / "out", "--cluster")
    printed, errors = process.communicate(timeout=300)
    assert (process.returncode, summary(printed), errors) == (0, "restored 4", "")


def test_a_picture_that_kills_its_workers_is_a_row_and_the_others_are_restored(photos, saved_models, tmp_path):
    folder, target = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for number in range(20):
        name = "poison.jpg" if number == 5 else f"{number}.jpg"
        (folder / name).write_bytes((photos / f"sub/{2 * number + 1}.jpg").read_bytes())
    (tmp_path / "sitecustomize.py").write_text(
        "import os, PIL.Image\n"
        "plain = PIL.Image.open\n"
        "def open(file, *arguments, **settings):\n"
        "    if 'poison' in str(getattr(file, 'name', file)):\n"
        "        os._exit(1)\n"
        "    return plain(file, *arguments, **settings)\n"
        "PIL.Image.open = open\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    code, printed, errors = run(saved_models, folder, "-o", target, "--cluster", PYTHONPATH=path)
    assert (code, summary(printed)) == (1, "restored 19, failed 1"), errors
    assert errors == f"error: {folder}/poison.jpg: each worker that tried it has died, maybe for want of memory\n"
    done, failed = count_rows(target)
    assert set(done.values()) == {1} and len(done) == 19
    assert list(failed) == [f"{folder}/poison.jpg"]


def test_the_command_is_stopped_while_it_waits_for_a_cluster_that_says_nothing(photos, saved_models, tmp_path):
    with socket.create_server(("", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        process = start(saved_models, photos, "-o", tmp_path, "--cluster", "--ray-address", address)
        mute.settimeout(60)
        connections = [mute.accept() for _ in range(2)]  # the second one is Ray's
        time.sleep(1)
        process.terminate()
        _, errors = process.communicate(timeout=120)
        for connection, _ in connections:
            connection.close()
    assert process.returncode == 130, errors
    assert only_ours(errors) == "error: stopped, 0 pictures are done; --resume goes on\n"


class Faults:
    """An S3 whose requests fail, the first of each kind and object in one of four ways, others for as long as told.

    Attributes:
        begun: Whether requests fail.
        count: How many failed in each way.
        broken: Words of the requests that fail each time.
    """

    def __init__(self, application):
        self.begun, self.count, self.broken = False, Counter(), ()
        self._application, self._seen = application, set()

    def __call__(self, environ, start_response):
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        if not self.begun:
            return self._application(environ, start_response)
        if any(word in request for word in self.broken):
            return self._refuse(environ, start_response)
        if request in self._seen:
            return self._application(environ, start_response)
        self._seen.add(request)
        ways = (self._refuse, self._slow_down, self._hang_up, self._cut_off)
        return ways[len(self._seen) % len(ways)](environ, start_response)

    def _refuse(self, environ, start_response):
        self.count["refused"] += 1
        start_response("500 Internal Server Error", [("Content-Type", "application/xml")])
        return [b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"]

    def _slow_down(self, environ, start_response):
        self.count["slowed down"] += 1
        start_response("503 Slow Down", [("Content-Type", "application/xml")])
        return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]

    def _hang_up(self, environ, start_response):
        self.count["hung up"] += 1
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError

    def _cut_off(self, environ, start_response):
        self.count["cut off"] += 1
        body = b"".join(self._application(environ, start_response))
        yield body[: len(body) // 2]
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError


@pytest.fixture
def server(monkeypatch):
    """An S3 of its own on this machine, with a bucket, and what makes it fail."""
    moto = pytest.importorskip("moto.server")
    from werkzeug.serving import make_server

    faults = Faults(moto.DomainDispatcherApplication(moto.create_backend_app))
    server = make_server("127.0.0.1", 0, faults, threaded=True, request_handler=moto.MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    store = f"127.0.0.1:{server.server_port}"
    requests.post(f"http://{store}/moto-api/reset", timeout=10).raise_for_status()
    requests.put(f"http://{store}/bucket", timeout=10).raise_for_status()
    yield store, faults
    server.shutdown()
    thread.join()


@pytest.fixture
def store(server):
    """The S3's address."""
    return server[0]


def read_objects(files, folder):
    """The contents of all objects below a folder of a store, but for the manifest's."""
    found = files.get_file_info(fs.FileSelector(folder, recursive=True))
    objects = [each.path for each in found if each.is_file and "/manifest/" not in each.path]
    return {path.removeprefix(f"{folder}/"): files.open_input_stream(path).read() for path in objects}


def test_pictures_of_a_store_are_restored_into_it(photos, saved_models, plain, store, tmp_path, monkeypatch):
    files = fs.S3FileSystem(endpoint_override=store, scheme="http", region="us-east-1")
    places = ["sub/1.jpg", "sub/3.jpg", "0.jpg", "0.png", "sub/bad0.jpg"]
    odd = "sub/ü %20 #1?.jpg"
    for place in [*places, odd]:
        with files.open_output_stream(f"bucket/photos/{place}") as stream:
            stream.write((photos / ("sub/1.jpg" if place == odd else place)).read_bytes())
    settings = f"?endpoint_override={store}&scheme=http&region=us-east-1"
    arguments = (f"s3://bucket/photos{settings}", "-o", f"s3://bucket/out{settings}", "--cluster")
    code, printed, errors = run(saved_models, *arguments)
    assert code == 1, errors
    expected = {name: plain[0][name] for name in ("sub/1.png", "sub/3.png", "0_jpg.png", "0_png.png")}
    assert read_objects(files, "bucket/out") == {**expected, "sub/ü %20 #1?.png": expected["sub/1.png"]}
    assert errors.startswith("error: s3://bucket/photos/sub/bad0.jpg ") and errors.count("\n") == 1
    assert f"s3://bucket/photos/{odd} -> s3://bucket/out/sub/ü %20 #1?.png\n" in printed
    rows = pq.read_table("bucket/out/manifest", filesystem=files).to_pylist()
    assert sorted(row["path"] for row in rows) == sorted(f"s3://bucket/photos/{place}" for place in [*places, odd])
    assert store not in str(rows)
    code, printed, _ = run(saved_models, *arguments, "--resume")
    assert (code, summary(printed)) == (1, "skipped 5, failed 1")
    # A list, in which a local file stands too.
    (tmp_path / "list.txt").write_text(f"s3://bucket/photos/{odd}\n{photos}/0.jpg\ns3://bucket/photos/none.jpg\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{store}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    code, printed, errors = run(saved_models, tmp_path / "list.txt", "-o", "s3://bucket/listed", "--cluster")
    assert (code, summary(printed)) == (1, "restored 2, failed 1"), errors
    local = f"{str(photos).lstrip('/')}/0.png"
    assert read_objects(files, "bucket/listed") == {
        "bucket/photos/sub/ü %20 #1?.png": expected["sub/1.png"],
        local: expected["0_jpg.png"],
    }
    assert "error: s3://bucket/photos/none.jpg cannot be read: " in errors


def test_a_store_that_fails_loses_nothing(photos, saved_models, plain, server, tmp_path):
    store, faults = server
    files = fs.S3FileSystem(endpoint_override=store, scheme="http", region="us-east-1")
    numbers = range(1, 40, 2)
    for number in numbers:
        with files.open_output_stream(f"bucket/photos/sub/{number}.jpg") as stream:
            stream.write((photos / f"sub/{number}.jpg").read_bytes())
    expected = {f"sub/{number}.png": plain[0][f"sub/{number}.png"] for number in numbers}
    settings = f"?endpoint_override={store}&scheme=http&region=us-east-1"
    arguments = (f"s3://bucket/photos{settings}", "-o", f"s3://bucket/out{settings}", "--cluster")

    faults.begun = True
    faults.broken = ("GET /bucket/photos/sub/5.jpg", "PUT /bucket/out/sub/9.png", "POST /bucket/out/sub/9.png")
    code, printed, errors = run(saved_models, *arguments)
    assert (code, summary(printed)) == (1, f"restored {len(numbers) - 2}, failed 2"), errors
    assert min(faults.count[way] for way in ("refused", "slowed down", "hung up", "cut off")) > 5, faults.count
    assert re.search(r"^error: s3://bucket/photos/sub/5.jpg cannot be read: ", errors, re.MULTILINE)
    assert re.search(r"^error: cannot write s3://bucket/out/sub/9.png: ", errors, re.MULTILINE)
    assert errors.count("\n") == 2
    faults.begun = False
    there = read_objects(files, "bucket/out")
    assert there == {name: content for name, content in expected.items() if name not in ("sub/5.png", "sub/9.png")}

    faults.begun, faults.broken = True, ()
    code, printed, errors = run(saved_models, *arguments, "--resume")
    assert (code, summary(printed)) == (0, f"restored 2, skipped {len(numbers) - 2}"), errors
    faults.begun = False
    assert read_objects(files, "bucket/out") == expected
