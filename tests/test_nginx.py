"""The proxy of docs/web.md in front of the real application."""

import contextlib
import io
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from artifact_remover.restoration import Restorer
from tests.sample_pictures import to_file
from tests.web_server import JPEG, SMALL, serving

NGINX = shutil.which("nginx")
pytestmark = pytest.mark.skipif(not NGINX, reason="needs the proxy: apt-get install nginx-light")

NAME = "pictures.example.org"
PAGE = (Path(__file__).parents[1] / "docs" / "web.md").read_text(encoding="utf-8")


def is_open(port):
    with socket.socket() as trying:
        return trying.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def proxy(folder, port):
    """Runs the block of docs/web.md, on a port of its own and without encryption; gives the URL and nginx's folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        listening = f"127.0.0.1:{free.getsockname()[1]}"
    (folder / "htpasswd").write_text("me:{PLAIN}secret\n")
    block = re.search(r"```nginx\n(.*?)```", PAGE, re.DOTALL)[1]
    block = re.sub(r"ssl_certificate.*;", "", block).replace("443 ssl", listening)
    block = block.replace("/etc/nginx/pictures.htpasswd", str(folder / "htpasswd")).replace("127.0.0.1:8000", port)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    user = "" if os.geteuid() else "user root;"  # who can read the folder
    main = f"daemon off; {user} pid {folder}/pid; error_log {folder}/errors warn; events {{}}"
    (folder / "conf").write_text(f"{main} http {{ access_log off; {places} {block} }}")
    process = subprocess.Popen([NGINX, "-e", folder / "errors", "-c", folder / "conf"])
    try:
        until = time.monotonic() + 20
        while not is_open(int(listening.rpartition(":")[2])):
            assert process.poll() is None and time.monotonic() < until, (folder / "errors").read_text()
            time.sleep(0.05)
        yield f"http://{listening}/jpeg"
    finally:
        process.terminate()
        process.wait(30)


def test_the_proxy_of_the_documents_lets_large_pictures_through_and_strangers_not(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    large = to_file(noise, "PNG")
    assert len(large) > 3e6
    with (
        serving(Restorer(lambda pictures: pictures, 16), name=(NAME,), root_path="/jpeg") as client,
        proxy(tmp_path, f"127.0.0.1:{client.port}") as url,
    ):
        asked = {"auth": ("me", "secret"), "headers": {**JPEG, "Host": NAME}, "timeout": 60}
        assert requests.post(f"{url}/api/restore", SMALL, headers=asked["headers"]).status_code == 401
        assert "<title>artifact-remover" in requests.get(f"{url}/", **asked).text
        answer = requests.post(f"{url}/api/restore", large, params={"force": "true"}, **asked)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), noise)
        assert requests.post(f"{url}/api/restore", bytes(65 * 10**6), **asked).json()["error"]  # the server's own line
    assert (tmp_path / "errors").read_text() == ""  # where nginx would say that it has written a picture to its disk
