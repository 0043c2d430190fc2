"""Middleware of the web page: refuses requests from other web sites, and delays answers until they can be read."""

import asyncio
import ipaddress
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse

from artifact_remover.web.queue import word_for_api
from data_prep.errors import Message, Option

DOCS = "/docs"

_PATIENCE = 30  # seconds
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
_CLOSED = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Swagger's page holds an inline script and inline styles.
_POLICY_OF_DOCS = _POLICY.replace("-src 'self';", "-src 'self' 'unsafe-inline';", 2)


class ReadToEnd:
    """Delays an answer until the client has sent its whole picture.

    A picture may be refused after its first bytes. Most clients read an answer only after they have sent everything.
    """

    def __init__(self, app: Callable, most: int):
        """Wraps an ASGI application.

        Args:
            app: The application.
            most: Bytes of a request's body after which it is answered without waiting for more.
        """
        self._app, self._most = app, most

    async def __call__(self, scope, receive, send):
        """Answers a request as the application does, but not before its body has arrived."""
        if scope["type"] != "http" or (b"expect", b"100-continue") in scope["headers"]:
            return await self._app(scope, receive, send)
        more, left = True, self._most

        async def receive_on():
            nonlocal more, left
            message = await receive()
            more, left = message.get("more_body", False), left - len(message.get("body", b""))
            return message

        async def send_late(message):
            if message["type"] == "http.response.start":
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PATIENCE):
                        while more and left > 0:
                            await receive_on()
            await send(message)

        await self._app(scope, receive_on, send_late)


class Guard:
    """Refuses requests that other web sites cause, and sets the headers that make browsers refuse them too.

    Two attacks are prevented. A site may have its visitor's browser send a picture here: the browser says so in
    Sec-Fetch-Site, and asks first (CORS preflight), as the Content-Type is none of a form's. A site may point its own
    name to this machine (DNS rebinding): the Host of such a request is not among the server's names.
    """

    def __init__(self, app: Callable, names: set[str], prefix: str = ""):
        """Wraps an ASGI application.

        Args:
            app: The application.
            names: Host names that the server is reached by, in lower case; addresses are always accepted.
            prefix: Path under which a proxy shows the application, such as `/jpeg`.
        """
        self._app, self._names, self._prefix = app, names, prefix

    async def __call__(self, scope, receive, send):
        """Answers a request, or refuses it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["method"] == "HEAD":  # answered as GET; the server leaves out the body (RFC 9110, 9.3.2)
            scope = {**scope, "method": "GET"}
        path = scope["path"]
        if path.startswith(f"{self._prefix}/"):  # the proxy has left it
            path = path.removeprefix(self._prefix)
        scope = {**scope, "root_path": self._prefix, "path": self._prefix + path}  # as ASGI wants them
        policy = _POLICY_OF_DOCS if path == DOCS else _POLICY
        headers = [
            (b"content-security-policy", (policy + _CLOSED).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cache-control", b"no-store"),
        ]

        async def send_strictly(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        given = dict(scope["headers"])
        refusal = None
        if not self._is_ours(given.get(b"host", b"").decode("latin-1")):
            said = Message("this server is not called that: ", Option("name"), " adds a name")
            refusal = JSONResponse({"error": word_for_api(said)}, 400)
        elif given.get(b"sec-fetch-site") in (b"cross-site", b"same-site") and path.startswith("/api/"):
            refusal = JSONResponse({"error": "requests from other web sites are refused"}, 403)
        await (refusal or self._app)(scope, receive, send_strictly)

    def _is_ours(self, host):
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ipaddress.ip_address(name))
        except ValueError:
            return False
