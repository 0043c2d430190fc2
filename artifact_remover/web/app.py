"""The web page and the HTTP API behind it, which restores pictures and keeps nothing of them.

A request's body is the picture itself. A form would be spooled to disk, and would carry the name of the file.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException as StarletteHTTPException

from artifact_remover.options import Format, ServeConfig
from artifact_remover.pictures.picture import check_format
from artifact_remover.restoration import Restorer
from artifact_remover.web.guard import DOCS, Guard, ReadToEnd
from artifact_remover.web.queue import HeldPlace, Inspection, RestoreParameters, RestoreQueue, word_for_api
from data_prep import __version__
from data_prep.errors import InputError

_PAGE = Path(__file__).parent / "page"
_CHUNK = 2**18

_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_BODY = {"requestBody": {"required": True, "content": {"image/*": _PICTURE, "application/octet-stream": _PICTURE}}}
ERRORS = {
    400: "The picture is damaged, or the Host is none of the server's names.",
    403: "The request comes from another web site.",
    404: "There is nothing of this name, or no more.",
    405: "The path does not take this method.",
    408: "The picture took too long to arrive.",
    413: "The file or the picture is too large.",
    415: "The body is not in a format that can be read, or is not sent as a picture.",
    422: "An option is wrong, or does not go with another one.",
    429: "All places are taken; Retry-After says for about how many seconds.",
    500: "A defect.",
    503: "The server is stopping or short of memory, or its model is damaged.",
    504: "The picture was not restored in time.",
}
"""The meaning of each status of a refusal or failure; the documents' table is made of it."""
_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}


def create_app(restorer: Restorer, config: ServeConfig) -> FastAPI:
    """Makes the application.

    Args:
        restorer: Loaded with a `blend` if the model folder holds both models.
        config: All options.

    Returns:
        An ASGI application, whose `state.queue` is to be closed when it ends.
    """
    app = FastAPIOffline(
        docs_url=DOCS,
        redoc_url=None,
        title="artifact-remover",
        version=__version__,
        description="Restores JPEGs. The picture is the request's body; nothing of it is kept or logged.",
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.queue = queue = RestoreQueue(restorer, config)
    app.add_middleware(ReadToEnd, most=2 * int(config.max_megabytes * 1e6))
    names = {"localhost", *map(str.lower, (config.host, socket.gethostname(), *config.name))}
    app.add_middleware(Guard, names=names, prefix=config.root_path)
    app.add_exception_handler(StarletteHTTPException, _answer_refusal)
    app.add_exception_handler(RequestValidationError, _answer_wrong_option)

    async def take_place(
        job: Annotated[str | None, Query(pattern=r"^[\w-]{16,64}$", description="For GET /api/jobs/{job}.")] = None,
    ) -> AsyncIterator[HeldPlace]:
        async with queue.take_place(job) as place:
            yield place

    Place = Annotated[HeldPlace, Depends(take_place)]

    async def refuse_unknown_options(request: Request):
        """Refuses what is misspelled, as its default would be taken instead."""
        known = app.openapi()["paths"][request.scope["route"].path]["post"].get("parameters", [])
        if unknown := request.query_params.keys() - {each["name"] for each in known}:
            raise HTTPException(422, f"no such option: {', '.join(sorted(unknown))}")

    errors = _describe_errors(ERRORS.keys() - {404, 405})
    options_are_known = [Depends(refuse_unknown_options)]

    @app.post(
        "/api/restore",
        dependencies=options_are_known,
        openapi_extra=_BODY,
        response_class=Response,
        responses={200: {"description": "The restored picture.", "content": {"image/*": _PICTURE}}, **errors},
    )
    async def restore(
        request: Request,
        place: Place,
        strength: Annotated[float, Query(ge=0, le=1, description="0 is the picture as it is, 1 all.")] = 1.0,
        blend: Annotated[float, Query(ge=0, le=1, description="From the faithful model to the perceptual one.")] = 0.0,
        format: Annotated[Format, Query(description="What is returned.")] = "png",
        quality: Annotated[int | None, Query(ge=1, le=100, description="Of webp, jpeg and avif.")] = None,
        force: Annotated[bool, Query(description="Also what would be left alone.")] = False,
        allow_truncated: Annotated[bool, Query(description="A broken-off picture as far as it goes.")] = False,
    ):
        """Restores a picture; X-Quality-Estimate is what its quality was, X-Notes what there is to say."""
        if blend and not restorer.blends:
            raise HTTPException(422, "this server has one model only: leave blend out")
        try:
            check_format(format, quality)
        except InputError as error:
            raise HTTPException(422, word_for_api(error)) from error
        await queue.read(request, place)
        parameters = RestoreParameters(strength, blend, format, quality, force, allow_truncated)
        answer = await queue.restore(request, place, parameters)
        headers = {"Content-Length": str(len(answer.content))}
        if answer.quality_estimate:
            headers["X-Quality-Estimate"] = str(answer.quality_estimate)
        if answer.notes:
            headers["X-Notes"] = "; ".join(map(word_for_api, answer.notes)).encode("ascii", "replace").decode()
        return _Delivery(config.time_limit, answer.content, headers, f"image/{format}")

    @app.post("/api/inspect", dependencies=options_are_known, openapi_extra=_BODY, responses=errors)
    async def inspect(request: Request, place: Place) -> Inspection:
        """Tells what a picture says of itself and of its compression."""
        await queue.read(request, place)
        return await queue.inspect(request, place)

    @app.get("/api/jobs/{job}", responses=_describe_errors({404}))
    async def describe(job: str):
        """Tells how far a request is: how many are `before` it, and how much of it is `done`, 0 to 1."""
        state = queue.describe(job)
        if not state:
            raise HTTPException(404, "there is no such job, or it is finished")
        return state

    @app.get("/healthz")
    async def health():
        """Tells that the server is up, and its limits."""
        return {
            "status": "ok",
            "version": __version__,
            "blends": restorer.blends,
            "trained_quality": restorer.trained_quality,
            "places": config.places,
            "taken": queue.taken,
            "max_megabytes": config.max_megabytes,
            "max_megapixels": config.max_megapixels,
            "time_limit": config.time_limit,
        }

    @app.get("/", include_in_schema=False)
    async def page():
        return FileResponse(_PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=_PAGE))
    return app


class Server(uvicorn.Server):
    """A server that logs no requests; when it ends, those that are not finished are answered with status 503."""

    def __init__(self, app: FastAPI):
        """Prepares the server, which `run` starts.

        Args:
            app: From `create_app`.
        """
        super().__init__(
            uvicorn.Config(
                app,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=5,
            )
        )
        self._queue = app.state.queue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the server."""
        self._queue.close()
        await super().shutdown(sockets)


class _Delivery(StreamingResponse):
    """Sends a picture piece by piece, and gives up on a client that does not receive it in time."""

    def __init__(self, time_limit, content, headers, media_type):
        super().__init__(_in_pieces(content), headers=headers, media_type=media_type)
        self._time_limit = time_limit

    async def stream_response(self, send):
        with suppress(TimeoutError):  # the connection is closed, as the answer is incomplete
            async with asyncio.timeout(self._time_limit):
                await super().stream_response(send)


def _describe_errors(statuses) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": ERRORS[status], "content": _ERROR} for status in sorted(statuses)}


async def _in_pieces(content):
    view = memoryview(content)
    for start in range(0, len(view), _CHUNK):
        yield view[start : start + _CHUNK]


async def _answer_refusal(_, error):
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _answer_wrong_option(_, error):
    wrong = [f"{each['loc'][-1]}: {each['msg']}" for each in error.errors()]
    return JSONResponse({"error": "; ".join(wrong)}, 422)
