import contextlib
import gzip
import io
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from PIL import Image, PngImagePlugin
from skimage import data as skimage_data

from artifact_remover import restore, serve
from artifact_remover.__main__ import COMMANDS
from artifact_remover.options import ServeConfig
from artifact_remover.restoration import Restorer
from artifact_remover.web import app, guard, queue
from tests.conftest import running
from tests.sample_pictures import to_file
from tests.web_server import JPEG, PHOTO, SMALL, Gate, serving

LARGE = to_file(PHOTO, quality=10)
WIDE = to_file(np.zeros((8, 20000, 3), np.uint8), quality=10)


@pytest.fixture(scope="module")
def client(saved_models):
    restorer = Restorer.load(saved_models, blend=0.0, precision="float32")
    with serving(restorer, places=4, max_megabytes=3, max_megapixels=2) as client:
        yield client


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.release(10_000)


@contextlib.contextmanager
def serving_gate(gate, **options):
    with serving(Restorer(gate, 16, tile=64), **options) as client:
        try:
            yield client
        finally:
            gate.open.release(10_000)


# What is answered


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        ({}, ["-o", "x.png"]),
        ({"strength": 0.5, "blend": 0.25}, ["-o", "x.png", "--strength", "0.5", "--blend", "0.25"]),
        ({"blend": 1, "format": "webp", "quality": 80}, ["-o", "x.webp", "--blend", "1", "--quality", "80"]),
        ({"format": "jpeg", "force": "true"}, ["-o", "x.jpg", "--force"]),
    ],
)
@pytest.mark.parametrize("quality", [10, 97])
def test_the_answer_is_the_file_that_the_command_writes(
    client, saved_models, tmp_path, monkeypatch, query, arguments, quality
):
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "a camera"
    Path("a.jpg").write_bytes(to_file(PHOTO[:96, :100], quality=quality, exif=exif, dpi=(300, 300)))
    answer = client.post(Path("a.jpg").read_bytes(), **query)
    assert answer.status_code == 200 and answer.headers["X-Quality-Estimate"] == str(quality)
    assert restore.main(["a.jpg", "--model", str(saved_models), "--precision", "float32", *arguments]) == 0
    assert answer.content == Path(arguments[1]).read_bytes()
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (96, 100) and image.getexif()[0x10F] == "a camera"
        assert answer.headers["Content-Type"] == f"image/{image.format.lower()}"


def test_what_is_left_alone_is_said_and_a_jpeg_comes_back_as_it_is(client):
    fine = to_file(PHOTO[:96, :100], quality=98)
    answer = client.post(fine, format="jpeg")
    assert answer.content == fine
    assert answer.headers["X-Notes"] == "left alone, as practically uncompressed: quality 98, force restores it"


def test_a_jpeg_of_which_nothing_is_changed_comes_back_as_it_is(client):
    poor = to_file(PHOTO[:96, :100], quality=50)
    answer = client.post(poor, format="jpeg", strength=0.001)
    assert answer.content == poor
    assert answer.headers["X-Notes"] == "left alone, as nothing of it is changed"


def test_a_picture_is_inspected(client):
    found = client.post(to_file(PHOTO, quality=80, dpi=(300, 300)), "/api/inspect").json()
    assert (found["format"], found["quality"], found["left_alone"]) == ("JPEG", 80, False)
    assert found["colour"] == "RGB"  # old spelling
    assert (found["writable_as"], found["metadata"]) == ("jpeg", ["300 dpi"])
    assert found["found"] == "Q80"
    clean = client.post(to_file(PHOTO, "BMP"), "/api/inspect").json()
    assert (clean["writable_as"], clean["found"], clean["left_alone"]) == (None, "no trace of JPEG", True)


def test_what_the_pixels_tell_is_found(client):
    photo = skimage_data.astronaut()[:200, :200]
    once = np.array(Image.open(io.BytesIO(to_file(photo, quality=20))))
    again = client.post(to_file(np.ascontiguousarray(once[3:, 5:]), quality=98), "/api/inspect").json()
    assert (again["quality"], again["found"]) == (98, "Q20, grid at 5, 3, saved again at Q98")
    assert not again["left_alone"]


def test_what_is_too_large_to_be_decoded_is_inspected_by_its_header():
    with serving(Restorer(lambda pictures: pictures, 16), max_megapixels=0.08) as client:
        jpeg = client.post(to_file(np.tile(PHOTO, (2, 1, 1)), quality=80), "/api/inspect").json()
        webp = client.post(to_file(PHOTO, "WEBP"), "/api/inspect").json()  # which takes twice the memory
    assert (jpeg["quality"], jpeg["found"], jpeg["left_alone"]) == (80, None, False)
    assert (webp["format"], webp["found"], webp["left_alone"]) == ("WEBP", None, False)


def test_a_picture_with_a_damaged_header_is_inspected(client):
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "A title")
    damaged = to_file(PHOTO, "PNG", pnginfo=info).replace(b"A title", b"a title")
    assert client.post(damaged).status_code == 400
    assert client.post(damaged, "/api/inspect").json()["format"] == "PNG"


NOISE = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)


@pytest.mark.parametrize(
    ("content", "query", "status", "said"),
    [
        (b"this is no picture", {}, 415, "not in a format that can be read"),
        (b"", {}, 415, "empty"),
        (LARGE[:-3000], {}, 400, "mend it or use allow_truncated: "),
        (
            to_file(NOISE, quality=10),
            {},
            413,
            "2.25 megapixels, more than the limit of 2: raise it with --max-megapixels of serve",
        ),
        (bytes(10_000_000), {}, 413, "more than 3 megabytes"),
        (SMALL, {"strength": 1.5}, 422, "strength: "),
        (SMALL, {"strength": "nan"}, 422, "strength: "),
        (SMALL, {"strenght": 0.5, "strength": 0.5, "foo": 1}, 422, "no such option: foo, strenght"),
        (SMALL, {"format": "gif"}, 422, "format: "),
        (SMALL, {"quality": 80}, 422, "png takes no quality"),
        (WIDE, {"format": "webp"}, 422, "20000x8 pixels are more"),
        (SMALL, {"job": "../../etc"}, 422, "job: "),
    ],
)
def test_a_mistake_is_one_line_and_its_status(client, content, query, status, said):
    for body in (content, iter([content]) if content else content):  # with its length, and in chunks without
        answer = client.post(body, **query)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
        assert list(answer.json()) == ["error"] and said in answer.json()["error"]
    assert client.queue.taken == 0


def test_a_broken_off_picture_is_restored_as_far_as_it_goes_when_that_is_asked(client):
    assert client.post(SMALL[:-100]).status_code == 400
    answer = client.post(SMALL[:-100], allow_truncated=True)
    assert answer.status_code == 200 and answer.headers["X-Notes"] == "truncated or damaged, taken as far as it goes"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "application/octet-stream; charset=utf-8"}, 200),
        ({"Content-Type": "application/octet-streams"}, 415),
        ({**JPEG, "Host": "evil.example"}, 400),
        ({**JPEG, "Host": "evil.example:80@localhost"}, 200),  # names us, whatever comes before
        ({**JPEG, "Sec-Fetch-Site": "cross-site"}, 403),
        ({**JPEG, "Sec-Fetch-Site": "same-origin", "Host": "192.168.1.2:8000"}, 200),
        ({"Content-Type": "application/octet-stream", "Host": "[::1]:8000"}, 200),
    ],
)
def test_other_web_sites_are_kept_out(client, headers, status):
    answer = client.post(headers=headers)
    assert answer.status_code == status and "Access-Control-Allow-Origin" not in answer.headers
    assert requests.options(client.url + "/api/restore", timeout=9).status_code == 405


def test_a_compressed_body_is_refused_with_the_name_of_its_encoding(client):
    answer = client.post(gzip.compress(SMALL), headers={**JPEG, "Content-Encoding": "gzip"})
    assert answer.status_code == 415 and "Content-Encoding: gzip" in answer.json()["error"]
    assert client.post(headers={**JPEG, "Content-Encoding": "Identity"}).status_code == 200


def test_unknown_paths_and_methods_are_json_too(client):
    answer = requests.get(client.url + "/api/restore", timeout=9)
    assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})
    assert {404, 405} <= app.ERRORS.keys()
    for path in ("/nothing", "/api/jobs/0123456789abcdef", "/page/../serve.py", "/page/%2e%2e/serve.py"):
        answer = requests.get(client.url + path, timeout=9)
        assert answer.status_code == 404 and list(answer.json()) == ["error"]


def test_every_status_of_an_error_is_explained():
    sources = "".join(Path(module.__file__).read_text(encoding="utf-8") for module in (app, guard, queue))
    assert set(map(int, re.findall(r"\b[45]\d\d\b", sources))) - {queue._GONE} == app.ERRORS.keys()


def test_health_tells_the_limits(client):
    health = requests.get(client.url + "/healthz", timeout=9).json()
    assert health.items() >= {"status": "ok", "places": 4, "taken": 0, "max_megabytes": 3, "blends": True}.items()


def test_one_model_does_not_blend(gate):
    with serving_gate(gate) as client:
        answer = client.post(blend=0.5)
    assert answer.status_code == 422 and "leave blend out" in answer.json()["error"]


def test_pages_need_no_other_site(client):
    page, docs = (requests.get(client.url + path, timeout=9) for path in ("/", "/docs"))
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "://" not in page.text and "://" not in docs.text and "swagger-ui-bundle.js" in docs.text
    assert requests.get(client.url + "/static-offline-docs/swagger-ui-bundle.js", timeout=9).status_code == 200
    assert {"/api/restore", "/healthz"} <= requests.get(client.url + "/openapi.json", timeout=9).json()["paths"].keys()


def test_head_is_answered_as_get_without_the_body(client):
    for path in ("/", "/healthz", "/docs", "/page/page.js", "/openapi.json"):
        head, get = (requests.request(method, client.url + path, timeout=9) for method in ("HEAD", "GET"))
        assert (head.status_code, head.content) == (200, b"") and get.content
        assert head.headers["Content-Length"] == str(len(get.content))
    assert requests.head(client.url + "/api/restore", timeout=9).status_code == 405


@pytest.mark.parametrize("seen", ["", "/jpeg"], ids=["cut off", "left"])
def test_a_proxy_may_show_the_server_under_a_path(gate, seen):
    with serving_gate(gate, root_path="/jpeg") as client:
        for path in ("/", "/page/page.js", "/healthz", "/static-offline-docs/swagger-ui-bundle.js"):
            assert requests.get(client.url + seen + path, timeout=9).status_code == 200, path
        docs = requests.get(client.url + seen + "/docs", timeout=9)
        assert "'unsafe-inline'" in docs.headers["Content-Security-Policy"]
        assert "/jpeg/openapi.json" in docs.text and '"/jpeg/static-offline-docs/swagger-ui-bundle.js"' in docs.text
        described = requests.get(client.url + seen + "/openapi.json", timeout=9).json()
        assert described["servers"] == [{"url": "/jpeg"}] and "/api/restore" in described["paths"]
        assert client.post(path=f"{seen}/api/inspect").status_code == 200
        foreign = {**JPEG, "Sec-Fetch-Site": "cross-site"}
        assert client.post(path=f"{seen}/api/restore", headers=foreign).status_code == 403


# Places, and those who hold them


def test_when_all_places_are_taken_the_next_is_told_to_come_back(gate):
    with serving_gate(gate, places=2) as client, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.post) for _ in range(2)]
        client.wait(2)
        refused = client.post(bytes(20_000_000))  # which it gets to know although it is still sending
        assert refused.status_code == 429 and 1 <= int(refused.headers["Retry-After"]) <= 60
        gate.open.release(10_000)
        assert [each.result().status_code for each in waiting] == [200, 200]
        assert client.post().status_code == 200


def test_progress_is_told_to_who_knows_the_name(gate):
    with serving_gate(gate) as client, client.send(LARGE, query="job=first-0123456789"):
        assert gate.entered.wait(20)
        with client.send(query="job=second-0123456789"):
            client.wait(2)
            time.sleep(0.2)
            gate.open.release()
            time.sleep(0.5)
            first, second = (
                requests.get(f"{client.url}/api/jobs/{each}-0123456789", timeout=9).json()
                for each in ("first", "second")
            )
    assert first["before"] == 0 and 0 < first["done"] < 1
    assert second == {"before": 1, "done": 0}


def test_a_client_that_leaves_frees_its_place_and_is_not_worked_for(gate):
    with serving_gate(gate) as client:
        running = client.send(LARGE)
        assert gate.entered.wait(20)
        queued, sending = client.send(), client.send(SMALL[:100], len(SMALL))
        client.wait(3)
        for connection, left in ((queued, 2), (sending, 1), (running, 0)):
            connection.close()
            client.wait(left)
        assert gate.calls == 1
        gate.open.release(100)  # the one that is running ends with its step, the queued one is never begun
        assert client.post(strength=0).status_code == 200  # nothing to do, but it waits for its turn
        assert gate.calls == 1


def test_the_pictures_of_clients_that_left_take_no_memory(gate):
    """Although their places in the thread's queue stay until it gets there."""
    large = LARGE + bytes(3_000_000)
    with serving_gate(gate) as client, client.send(LARGE):
        assert gate.entered.wait(20)
        tracemalloc.start()
        try:
            for number in range(5):
                with client.send(large, query=f"job=picture-{number:010}"):
                    until = time.monotonic() + 20
                    while (client.queue.describe(f"picture-{number:010}") or {}).get("before") is None:
                        assert time.monotonic() < until
                        time.sleep(0.01)
                client.wait(1)
            assert tracemalloc.get_traced_memory()[0] < 2 * len(large)
        finally:
            tracemalloc.stop()


def test_who_takes_too_long_is_told_so(gate, monkeypatch):
    monkeypatch.setattr(guard, "_PATIENCE", 1)
    with serving_gate(gate, time_limit=1) as client, client.send(LARGE), client.send(SMALL[:100], len(SMALL)) as slow:
        answer = client.post()
        assert answer.status_code == 504 and "1 seconds" in answer.json()["error"]
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
        client.wait(0)
        assert gate.calls == 1


def test_a_client_that_never_reads_loses_its_place(gate):
    with serving_gate(gate, time_limit=3) as client, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", client.port))
        content = to_file(np.tile(NOISE, (2, 1, 1)), "BMP")
        head = "POST /api/restore?strength=0&format=tiff HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/bmp\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        client.wait(1)
        client.wait(0)


def test_when_it_stops_everybody_is_told(gate):
    with serving_gate(gate) as client, client.send(LARGE) as running, client.send() as queued:
        client.wait(2)
        assert gate.entered.wait(20)
        client.server.should_exit = True
        for connection in (running, queued):
            connection.settimeout(20)
            assert connection.recv(100).startswith(b"HTTP/1.1 503 ")


def test_a_network_that_gives_no_numbers_is_unavailable():
    with serving(Restorer(lambda pictures: pictures * np.nan, 16)) as client:
        answer = client.post()
    assert answer.status_code == 503 and "weights are damaged" in answer.json()["error"]


def test_a_defect_is_named_and_nothing_of_the_picture(capfd):
    def fail(pictures):
        raise RuntimeError("the picture's secret")

    with serving(Restorer(fail, 16)) as client:
        answer = client.post()
    assert answer.status_code == 500 and answer.json() == {"error": "a defect, RuntimeError: please report it"}
    said = capfd.readouterr()
    assert said.err.count("\n") == 1 and "RuntimeError in " in said.err and "secret" not in said.err + said.out


_opened = None


@pytest.fixture
def opened():
    """Every file that Python opens to write to."""
    global _opened

    def watch(event, arguments):
        if (
            _opened is not None
            and event == "open"
            and isinstance(arguments[1], str)
            and set(arguments[1]) & set("wax+")
        ):
            _opened.append(arguments[0])

    sys.addaudithook(watch)
    _opened = []
    yield _opened
    _opened = None


def test_nothing_is_written_to_disk(client, capfd, tmp_path, monkeypatch, opened):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    content = to_file(NOISE[:1300], quality=95)
    assert len(content) > 2_000_000
    opened.clear()  # of what pytest needs to capture
    for format in ("png", "tiff", "webp"):
        assert client.post(content, format=format).status_code == 200
    assert opened == [] and list(tmp_path.iterdir()) == [] and capfd.readouterr() == ("", "")


def test_twenty_at_once_are_restored_or_told_to_come_back(client):
    right = client.post().content
    before = psutil.Process().memory_info().rss
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.post(), range(60)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) <= {200, 429} and codes.count(200) >= 4
    assert all(answer.content == right for answer in answers if answer.status_code == 200)
    assert client.queue.taken == 0 and psutil.Process().memory_info().rss - before < 300e6


# The command


def test_it_is_a_subcommand():
    assert COMMANDS["serve"] is serve.main


@pytest.fixture
def command(saved_models):
    """The command, once it is ready, and its URL."""
    command = [sys.executable, "-m", "artifact_remover.serve", "--port", "0", "--model", str(saved_models)]
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert "blended by 0 with" in process.stdout.readline()
        yield process, process.stdout.readline().split()[1]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_it_is_and_ends_when_asked(command, stop):
    process, url = command
    answer = requests.post(url + "api/restore", data=SMALL, headers=JPEG, timeout=300)
    assert answer.status_code == 200
    process.send_signal(stop)
    assert process.communicate(timeout=120) == ("stopped\n", "") and process.returncode == 0


def test_a_port_that_is_taken_is_one_line(saved_models, capfd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve.main(["--port", str(port), "--model", str(saved_models)]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith(f"error: cannot listen on 127.0.0.1 port {port}") and errors.count("\n") == 1


WITHOUT_EXTRA = """
import sys
sys.modules.update(fastapi_offline=None, tensorflow=None)
from artifact_remover import serve
sys.exit(serve.main(sys.argv[1:]))
"""


def test_what_is_not_installed_is_one_line():
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRA], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "artifact-remover[web]" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "--port must lie in 0..65535"),
        (["--places", "0"], "--places must be above zero"),
        (["--tile", "8"], "--tile must be at least 64"),
        (["--root-path", "jpeg/"], "--root-path must begin with a slash"),
    ],
)
def test_a_wrong_option_is_one_line(capfd, arguments, message):
    with pytest.raises(SystemExit) as stop:
        serve.main(arguments)
    errors = capfd.readouterr().err
    assert stop.value.code == 2 and errors.count("\n") == 1 and message in errors


@pytest.mark.parametrize("arguments", [["--model", "nothing"], ["--host", "no.such.host.invalid"]])
def test_what_cannot_be_served_is_one_line(capfd, arguments):
    assert serve.main(arguments) == 2
    errors = capfd.readouterr().err
    assert errors.startswith("error: ") and errors.count("\n") == 1


def test_what_nobody_waits_for_is_inspected_alone(monkeypatch):
    """Or pictures of clients that have left would fill the memory."""
    gate, at_once, most = threading.Event(), threading.Semaphore(1), []

    def inspect(place, config):
        most.append(at_once.acquire(blocking=False))
        gate.wait(30)
        at_once.release()

    monkeypatch.setattr(queue, "_inspect", inspect)
    with serving(Restorer(lambda pictures: pictures, 16), time_limit=0.2) as client:
        assert [client.post(path="/api/inspect").status_code for _ in range(3)] == [504] * 3
        assert client.queue.taken == 0
        gate.set()
    assert most and all(most)


@pytest.mark.parametrize("leaves_at", ["start", "first look"])
def test_inspecting_ends_when_the_client_has_left(monkeypatch, leaves_at):
    """Before the pixels are decoded."""
    place, look, done = queue.HeldPlace(0), queue.inspect_picture, []
    place.content = SMALL

    def inspect(*arguments, **options):
        summary = look(*arguments, **options)
        place.stop()
        return summary

    monkeypatch.setattr(queue, "inspect_picture", inspect)
    monkeypatch.setattr(queue, "decide_from_file", lambda *_, **__: done.append("decoded"))
    if leaves_at == "start":
        place.stop()
    with pytest.raises(queue._StoppedError):
        queue._inspect(place, ServeConfig())
    assert done == []
