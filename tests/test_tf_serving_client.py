import dataclasses
import http.server
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from skimage import data as skimage_data

from artifact_remover import restore, tf_serving_client
from artifact_remover.pictures.picture import decode_picture
from artifact_remover.restoration import Restorer
from artifact_remover.saved_model import export_discriminator
from artifact_remover.tf_serving_client import RemoteRestorer
from data_prep.errors import InputError
from tests.model_server import ServedModel, serve_grpc, serve_rest
from tests.sample_pictures import levels, to_cmyk_jpeg, to_file, to_jpeg

grpc = pytest.importorskip("grpc")
PHOTO = skimage_data.coffee()[:75, :97]
MODEL = "pretrain_generator"


@pytest.fixture(scope="module")
def export(saved_models):
    return saved_models / MODEL / "1"


@pytest.fixture(scope="module")
def restorer(export):
    return Restorer.load(export, precision="float32")


@pytest.fixture(scope="module")
def model(export):
    return ServedModel(export, MODEL)


@pytest.fixture(scope="module")
def rest(model):
    with serve_rest(model) as url:
        yield url


@pytest.fixture(scope="module", params=[serve_rest, serve_grpc])
def url(request, model):
    with request.param(model) as url:
        yield url


@pytest.fixture(autouse=True)
def healthy(model):
    model.failures.clear()
    model.requests = 0


@pytest.fixture
def hasty(monkeypatch):
    """A client that does not wait long between its attempts."""
    monkeypatch.setattr(tf_serving_client, "_BACKOFF_SECONDS", 0.01)


def with_exif():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    return to_jpeg(PHOTO, exif=exif)


PICTURES = {
    "photo.jpg": to_jpeg(PHOTO),
    "turned.jpg": with_exif(),
    "gray.jpg": to_jpeg(PHOTO[:, :, 0]),
    "neutral.jpg": to_jpeg(np.repeat(PHOTO[:, :, :1], 3, axis=2)),
    "cmyk.jpg": to_cmyk_jpeg(PHOTO[:16, :16]),
    "photo.png": to_file(PHOTO, "PNG"),
    "photo.webp": to_file(PHOTO, "WEBP", quality=20),
    "transparent.png": to_file(np.dstack([PHOTO, PHOTO[:, :, 0]]), "PNG"),
}


@pytest.mark.parametrize("strength", ["1", "0.5", "0"])
def test_the_command_writes_what_it_writes_without_a_server(url, export, tmp_path, strength):
    for name, content in PICTURES.items():
        (tmp_path / name).write_bytes(content)
    options = [str(tmp_path), "--strength", strength, "-o"]
    local = [str(tmp_path / "local"), "--model", str(export), "--precision", "float32"]
    assert restore.main([*options, str(tmp_path / "remote"), "--server", url]) == 0
    (tmp_path / "remote").rename(tmp_path / ".remote")  # not to be restored as well
    assert restore.main([*options, *local]) == 0
    results = sorted((tmp_path / "local").iterdir())
    assert len(results) == len(PICTURES)
    for result in results:
        remote, expected = (decode_picture(file) for file in (tmp_path / ".remote" / result.name, result))
        assert levels(remote.pixels, expected.pixels) <= 1
        assert remote.metadata == expected.metadata
        assert (remote.alpha is None) == (expected.alpha is None)
        assert remote.alpha is None or levels(remote.alpha, expected.alpha) <= 1


def test_jpegs_are_sent_as_they_are_without_what_lies_behind_their_picture():
    sent = []

    def send(content):
        sent.append(content)
        return to_file(PHOTO, "PNG")

    remote = RemoteRestorer(send, "a server")
    behind = b"\0\0\0\x18ftypmp42" + bytes(1000)
    for content in (
        PICTURES["photo.jpg"],
        PICTURES["photo.png"],
        PICTURES["turned.jpg"],
        PICTURES["photo.jpg"] + behind,
    ):
        remote.restore_picture(decode_picture(content), force=True)
    assert [sent[0], *sent[2:]] == [PICTURES[name] for name in ("photo.jpg", "turned.jpg", "photo.jpg")]
    np.testing.assert_array_equal(decode_picture(sent[1]).pixels, PHOTO)


def test_what_is_moved_onto_its_block_grid_is_sent_as_a_png():
    pixels = skimage_data.astronaut()[:200, :200]
    cut = decode_picture(to_file(pixels, quality=20)).pixels[2:, 3:]
    again = decode_picture(to_file(np.ascontiguousarray(cut), quality=98))
    sent = []

    def send(content):
        sent.append(decode_picture(content))
        return content

    restored = RemoteRestorer(send, "a server").restore_picture(again)
    assert [(each.format, each.pixels.shape) for each in sent] == [("PNG", (200, 200, 3))]
    np.testing.assert_array_equal(restored.pixels, again.pixels)


def test_sixteen_bits_are_refused_rather_than_lost(url):
    picture = decode_picture(to_file(PHOTO[:, :, 0].astype(np.uint16) * 257, "PNG"))
    with pytest.raises(InputError, match="16 bits per channel, of which a server would keep 8: leave server out"):
        RemoteRestorer.connect(url).restore_picture(picture, force=True)


def test_clean_pictures_of_sixteen_bits_are_left_alone():
    pixels = skimage_data.astronaut()[:200, :200].astype(np.uint16) * 257
    picture = dataclasses.replace(decode_picture(to_file(PHOTO, "PNG")), pixels=pixels)
    restored = RemoteRestorer(lambda content: content, "a server").restore_picture(picture)
    assert not restored.decision.restore and restored.pixels is pixels


def test_a_large_request_is_sent_and_answered(url, restorer):
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8)  # gRPC's own limit is 4 MiB
    picture = decode_picture(to_file(noise, "PNG", compress_level=0))
    restored = RemoteRestorer.connect(url).restore_picture(picture, force=True)
    assert levels(restored.pixels[:64, :64], restorer.restore(noise[:128, :128])[:64, :64]) <= 1


@pytest.mark.usefixtures("hasty")
def test_a_busy_server_is_asked_again(url, model):
    remote = RemoteRestorer.connect(url)
    model.failures[:] = [grpc.StatusCode.UNAVAILABLE if url.startswith("grpc") else 503] * 3
    picture = decode_picture(to_file(np.tile(PHOTO, (8, 8, 1)), "PNG"))  # more than gRPC keeps unasked
    before = model.requests
    restored = remote.restore_picture(picture, force=True)
    assert levels(restored.pixels, picture.pixels) > 2 and model.requests - before == 4


@pytest.mark.usefixtures("hasty")
def test_a_dropped_connection_is_tried_again(rest, model):
    remote = RemoteRestorer.connect(rest)
    model.failures[:] = ["drop"]
    assert remote.restore_picture(decode_picture(PICTURES["photo.jpg"])).pixels.shape == PHOTO.shape


def test_a_server_that_takes_too_long_is_asked_once(url, model, monkeypatch):
    remote = RemoteRestorer.connect(url)
    monkeypatch.setattr(tf_serving_client, "_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(model, "run", lambda *_: time.sleep(1))
    before = model.requests
    with pytest.raises(InputError, match="no answer in time, the picture may be too large for the server"):
        remote.restore_picture(decode_picture(PICTURES["photo.jpg"]))
    assert model.requests - before == 1


@pytest.mark.usefixtures("hasty")
def test_a_server_that_stays_busy_is_given_up(url, model):
    remote = RemoteRestorer.connect(url)
    model.failures[:] = [grpc.StatusCode.UNAVAILABLE if url.startswith("grpc") else 503] * 9
    with pytest.raises(InputError, match="made to fail"):
        remote.restore_picture(decode_picture(PICTURES["photo.jpg"]))


def test_what_the_server_says_is_told_in_one_line(url):
    with pytest.raises(InputError) as error:
        RemoteRestorer.connect(url)._send(b"no picture")
    line = str(error.value)
    assert line.startswith(f"{url}/v1/models/{MODEL} says: ") and line.isprintable()
    assert "neither a JPEG nor a PNG" in line and "node" not in line


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_nobody_there(scheme, tmp_path, capfd, caplog):
    (tmp_path / "photo.jpg").write_bytes(PICTURES["photo.jpg"])
    assert restore.main([str(tmp_path / "photo.jpg"), "--server", f"{scheme}://127.0.0.1:9"]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: {scheme}://127.0.0.1:9/v1/models/{MODEL} cannot be reached: start the server")
    assert said.count("\n") == 1
    assert not [each for each in caplog.records if each.name.startswith("urllib3")]  # the command would print them


def test_another_model_is_asked_for_by_name(url):
    with pytest.raises(InputError, match="/v1/models/gan says: Servable not found"):
        RemoteRestorer.connect(f"{url}/v1/models/gan")
    assert RemoteRestorer.connect(f"{url}/v1/models/{MODEL}/").description == f"{url}/v1/models/{MODEL}"


@pytest.mark.parametrize("serve", [serve_rest, serve_grpc])
def test_a_model_without_the_signature_is_refused(serve, tmp_path):
    from artifact_remover.config import DiscriminatorConfig
    from artifact_remover.discriminator import build_discriminator

    config, folder = DiscriminatorConfig(features=4), tmp_path / "pretrain_discriminator" / "1"
    export_discriminator(build_discriminator(config), config, folder, {})
    with serve(ServedModel(folder, MODEL)) as url, pytest.raises(InputError, match="has no signature restore_jpeg"):
        RemoteRestorer.connect(url)


@pytest.mark.parametrize(
    "url", ["photo.jpg", "ftp://host", "http://", "http://host/gan", "grpc://host:x", "http://[::1"]
)
def test_what_is_no_server_is_refused(url):
    with pytest.raises(InputError, match="is no server: give http://HOST:8501 or grpc://HOST:8500"):
        RemoteRestorer.connect(url)


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}"])
def test_another_kind_of_server_is_told(answer):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match="does not answer like TF Serving, status 200: check the URL"):
            RemoteRestorer.connect(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.mark.parametrize(
    "option",
    [
        ["--model", "runs/a"],
        ["--blend", "1"],
        ["--tile", "64"],
        ["--engine", "openvino"],
        ["--precision", "float32"],
        ["--self-ensemble"],
    ],
)
def test_options_of_the_local_model_are_refused(option, capsys):
    with pytest.raises(SystemExit) as leaving:
        restore.main(["photo.jpg", "--server", "http://host:8501", *option])
    assert leaving.value.code == 2
    assert f"--server and {option[0]} exclude each other" in capsys.readouterr().err


def run_without(modules, url, file):
    code = f"""
import sys
sys.modules.update({", ".join(f"{name}=None" for name in modules)})
from artifact_remover.restore import main
sys.exit(main([{str(file)!r}, "--server", {url!r}]))
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_rest_needs_no_tensorflow(rest, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(PICTURES["photo.jpg"])
    done = run_without(["tensorflow", "keras", "grpc"], rest, tmp_path / "photo.jpg")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert decode_picture(tmp_path / "photo_restored.png").pixels.shape == PHOTO.shape


def test_grpc_without_its_extra_is_told(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(PICTURES["photo.jpg"])
    done = run_without(["tensorflow_serving"], "grpc://127.0.0.1:9", tmp_path / "photo.jpg")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "pip install 'artifact-remover[serving]'" in done.stderr
