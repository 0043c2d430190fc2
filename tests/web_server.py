"""The web application behind a real server, and a client of it."""

import contextlib
import socket
import threading
import time

import requests
from skimage import data as skimage_data

from artifact_remover.options import ServeConfig
from artifact_remover.web.app import Server, create_app
from tests.sample_pictures import to_jpeg

PHOTO = skimage_data.astronaut()
JPEG = {"Content-Type": "image/jpeg"}
SMALL = to_jpeg(PHOTO[:96, :100])


class Client:
    """A server's client, and the queue behind it."""

    def __init__(self, port, app, server):
        self.port, self.url, self.queue = port, f"http://127.0.0.1:{port}", app.state.queue
        self.server = server

    def post(self, content=SMALL, path="/api/restore", headers=JPEG, **query):
        return requests.post(self.url + path, data=content, headers=headers, params=query, timeout=60)

    def send(self, content=SMALL, length=None, query=""):
        """Sends a picture, or its beginning, and leaves the answer to the caller."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        head = f"POST /api/restore?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        connection.sendall(f"{head}Content-Length: {length or len(content)}\r\n\r\n".encode() + content)
        return connection

    def wait(self, taken):
        until = time.monotonic() + 20
        while self.queue.taken != taken:
            assert time.monotonic() < until, f"{self.queue.taken} places are taken"
            time.sleep(0.01)


@contextlib.contextmanager
def serving(restorer, **options):
    """The application behind a real server, in a thread."""
    app = create_app(restorer, ServeConfig(**options))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Client(listening.getsockname()[1], app, server)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


class Gate:
    """A network that gives back what it gets, once it is let."""

    def __init__(self):
        self.calls, self.entered, self.open = 0, threading.Event(), threading.Semaphore(0)

    def __call__(self, pictures):
        self.calls += 1
        self.entered.set()
        assert self.open.acquire(timeout=60)
        return pictures
