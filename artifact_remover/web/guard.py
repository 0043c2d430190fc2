"""What stands before the web page's application: keeps other web sites out, and has early answers arrive."""

import asyncio
import ipaddress
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse

DOCS = "/docs"

_PATIENCE = 30  # seconds
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
_CLOSED = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Swagger's page starts itself by a script of its own and draws with styles of its own.
_POLICY_OF_DOCS = _POLICY.replace("-src 'self';", "-src 'self' 'unsafe-inline';", 2)


class ReadToEnd:
    """Keeps an early answer back until the client has sent its picture; most read no answer before."""

    def __init__(self, app: Callable, most: int):
        """Wraps an ASGI application.

        Args:
            app: The application.
            most: Bytes after which it is answered all the same.
        """
        self._app, self._most = app, most

    async def __call__(self, scope, receive, send):
        """Answers a request, late if need be."""
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
    """Keeps other web sites out, and tells browsers to be as strict.

    A site can neither send a picture from a visitor's browser, as that needs a Content-Type that browsers ask about
    first, nor, by pointing a name of its own here (DNS rebinding), pass for this server.
    """

    def __init__(self, app: Callable, names: set[str]):
        """Wraps an ASGI application.

        Args:
            app: The application.
            names: What the server is called, beside any address.
        """
        self._app, self._names = app, names

    async def __call__(self, scope, receive, send):
        """Answers a request, or refuses it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        policy = _POLICY_OF_DOCS if scope["path"] == DOCS else _POLICY
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
            refusal = JSONResponse({"error": "this server is not called that: --name adds a name"}, 400)
        elif given.get(b"sec-fetch-site") in (b"cross-site", b"same-site") and scope["path"].startswith("/api/"):
            refusal = JSONResponse({"error": "requests from other web sites are refused"}, 403)
        await (refusal or self._app)(scope, receive, send_strictly)

    def _is_ours(self, host):
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ipaddress.ip_address(name))
        except ValueError:
            return False
