"""The queue of the server: a few places for requests, and one thread that restores their pictures in turn.

A request holds a place from before its body is read until its answer is sent. That bounds the memory, with the one
picture that is restored and the one that is inspected for clients that have left. More threads would restore no faster,
as the network uses all cores for one picture.
"""

import asyncio
import dataclasses
import io
import math
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from artifact_remover.decision import decide_from_file
from artifact_remover.options import ServeConfig
from artifact_remover.pictures.picture import (
    decode_picture,
    inspect_picture,
    matching_format,
)
from artifact_remover.pictures.readers import DamagedError, TooLargeError
from artifact_remover.restoration import Restorer
from artifact_remover.restore_picture import check_target, fit_to_format, write_restored
from data_prep.errors import InputError, to_one_line, word

_GONE = 499  # nginx's status for a client that left before the answer; nobody receives it


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The facts about a picture that its file states.

    Attributes:
        format: Such as "JPEG" or "PNG".
        width: In pixels, as stored.
        height: In pixels, as stored.
        bits: Bits per channel.
        colour: Such as "RGB" or "gray"; the old spelling stays, as clients of the API read it.
        metadata: Names of what is there, such as "EXIF" or "300 dpi".
        quality: Of a JPEG, the estimated quality factor, 1..100.
        standard_tables: Of a JPEG, whether its tables are exactly those of that quality.
        chroma_subsampling: Of a JPEG, such as "4:2:0".
        found: What its pixels tell of its compression, such as "Q20, saved again at Q95"; None where they were not
            looked at.
        left_alone: Whether it is not restored, unless `force` is given, or a sample of it shows artifacts.
        writable_as: The `format` that gives the picture's own format again; None where that cannot be written.
    """

    format: str
    width: int
    height: int
    bits: int
    colour: str  # old spelling
    metadata: tuple[str, ...]
    quality: int | None
    standard_tables: bool | None
    chroma_subsampling: str | None
    found: str | None
    left_alone: bool
    writable_as: str | None


@dataclasses.dataclass(frozen=True)
class RestoreParameters:
    """The query parameters of a request to restore a picture; they mean what the options of `restore` mean."""

    strength: float
    blend: float
    format: str
    quality: int | None
    force: bool
    allow_truncated: bool


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to a request to restore a picture.

    Attributes:
        content: The picture as a file.
        quality_estimate: Of a JPEG, the estimated quality factor before restoring, 1..100.
        notes: What the user should be told, each a short clause.
    """

    content: bytes
    quality_estimate: int | None
    notes: tuple[str, ...]


class _StoppedError(Exception):
    """A picture that need not be restored: the client has left, or time has run out."""


class HeldPlace:
    """A place in the queue, held by one request.

    Attributes:
        deadline: When the request must be answered, in seconds of the event loop's clock.
        content: The picture as a file, from when it is received; dropped when the place is given up.
        total: Pixels of its picture; 0 until they are known.
        done: How many of them are restored.
    """

    def __init__(self, deadline: float):
        """Begins to hold it."""
        self.deadline = deadline
        self.content = b""
        self.total = self.done = 0
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ends the restoring of the picture after the step that is running."""
        self._stopped.set()
        self.content = b""  # what waits for the thread holds the place until its turn

    def advance(self, pixels: int) -> None:
        """Counts pixels that are restored.

        Raises:
            _StoppedError: After `stop`.
        """
        if self._stopped.is_set():
            raise _StoppedError
        self.done += pixels


class RestoreQueue:
    """The places, and the thread that restores.

    Attributes:
        taken: How many places are taken.
    """

    def __init__(self, restorer: Restorer, config: ServeConfig):
        """Starts with all places free.

        Args:
            restorer: Loaded with a `blend` if there are two models.
            config: All options.
        """
        self.taken = 0
        self._restorer, self._config = restorer, config
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="restoring")
        self._inspecting = ThreadPoolExecutor(1, thread_name_prefix="inspecting")
        self._waiting: list[HeldPlace] = []  # what the thread has to do, in order
        self._named: dict[str, HeldPlace] = {}
        self._closing = asyncio.Event()
        self._seconds = 1.0  # that a picture takes, as a running average

    @asynccontextmanager
    async def take_place(self, name: str | None) -> AsyncIterator[HeldPlace]:
        """Holds a place while the context lasts.

        Args:
            name: A name that the client chose, with which it asks how far its picture is.

        Raises:
            HTTPException: If all places are taken, or the server is stopping.
        """
        self._check_open()
        if self.taken >= self._config.places:
            seconds = min(60, math.ceil(self._seconds))
            raise HTTPException(429, "all places are taken: try again later", {"Retry-After": str(seconds)})
        place = HeldPlace(asyncio.get_running_loop().time() + self._config.time_limit)
        self.taken += 1
        if name:
            self._named[name] = place
        try:
            yield place
        finally:
            place.stop()
            self.taken -= 1
            if name and self._named.get(name) is place:
                del self._named[name]

    async def read(self, request: Request, place: HeldPlace) -> None:
        """Receives the content of a place.

        Raises:
            HTTPException: If it is too large, too slow, or not sent as a picture.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not kind.startswith("image/") and kind != "application/octet-stream":
            raise HTTPException(
                415, "send the picture as the body, with a Content-Type such as image/jpeg or application/octet-stream"
            )
        packed = request.headers.get("content-encoding", "identity")
        if packed.strip().lower() != "identity":
            raise HTTPException(415, f"send the picture as it is, without Content-Encoding: {packed}")
        most = int(self._config.max_megabytes * 1e6)
        too_large = HTTPException(413, f"the file has more than {self._config.max_megabytes:g} megabytes")
        if int(request.headers.get("content-length", 0)) > most:
            raise too_large
        content = bytearray()
        try:
            async with asyncio.timeout_at(place.deadline), aclosing(request.stream()) as stream:
                async for chunk in stream:
                    content += chunk
                    if len(content) > most:
                        raise too_large
        except TimeoutError:
            raise HTTPException(408, "the picture took too long to arrive") from None
        except ClientDisconnect:
            raise HTTPException(_GONE) from None
        place.content = bytes(content)

    async def restore(self, request: Request, place: HeldPlace, parameters: RestoreParameters) -> Answer:
        """Restores a picture when it is its turn, unless the client leaves or time runs out.

        Raises:
            HTTPException: With a status, and a line that says why it is not restored.
        """
        self._check_open()
        self._waiting.append(place)
        work = asyncio.wrap_future(self._thread.submit(self._work, place, parameters))
        work.add_done_callback(lambda _: self._waiting.remove(place))
        return await self._finish(request, place, work)

    async def inspect(self, request: Request, place: HeldPlace) -> Inspection:
        """Reads what a picture says of itself.

        Raises:
            HTTPException: As of `restore`.
        """
        self._check_open()
        work = asyncio.wrap_future(self._inspecting.submit(_inspect, place, self._config))
        return await self._finish(request, place, work)

    def describe(self, name: str) -> dict | None:
        """Tells how far a request is: how many are before it, and how much of it is done.

        Args:
            name: As given to `take_place`.

        Returns:
            None where no request has that name; otherwise `before`, None while the picture is being received, and
            `done`, 0 to 1.
        """
        place = self._named.get(name)
        if not place:
            return None
        before = self._waiting.index(place) if place in self._waiting else None
        return {"before": before, "done": min(1.0, place.done / place.total) if place.total else 0.0}

    def close(self) -> None:
        """Answers all requests that the server is stopping; to be called in the event loop."""
        self._closing.set()
        for each in (self._thread, self._inspecting):
            each.shutdown(wait=False, cancel_futures=True)

    def _check_open(self):
        if self._closing.is_set():
            raise HTTPException(503, "the server is stopping")

    async def _finish(self, request, place, work):
        others = [asyncio.ensure_future(each) for each in (_wait_until_gone(request), self._closing.wait())]
        left = place.deadline - asyncio.get_running_loop().time()
        try:
            await asyncio.wait([work, *others], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            self._check_open()
            if work.done():
                return work.result()
            if others[0].done():
                raise HTTPException(_GONE)
            raise HTTPException(504, f"not done within {self._config.time_limit:g} seconds: try a smaller picture")
        except HTTPException:
            raise
        except Exception as error:
            raise _to_answer(error) from error
        finally:
            place.stop()
            for each in (work, *others):
                each.cancel()

    def _work(self, place, parameters):
        began = time.monotonic()
        try:
            return _restore(self._restorer, place, parameters, self._config)
        finally:
            self._seconds += (time.monotonic() - began - self._seconds) / 4


def _restore(restorer, place, wanted, config) -> Answer:
    """Restores a picture as the command `restore` does; in int8, which that may take, values differ by a few levels."""
    content = place.content
    place.advance(0)  # ends here if the client has left meanwhile
    before = decode_picture(content, max_megapixels=config.max_megapixels, allow_truncated=wanted.allow_truncated)
    place.total = before.pixels.shape[0] * before.pixels.shape[1]
    try:
        check_target(before, wanted.format)
    except InputError as error:  # of a parameter, not of the picture
        raise HTTPException(422, word_for_api(error)) from error
    if restorer.blends:
        restorer.reblend(wanted.blend)
    try:
        after = restorer.restore_picture(before, wanted.strength, wanted.force, place.advance)
    except InputError as error:  # of the memory or the model
        raise HTTPException(503, word_for_api(error)) from error
    place.advance(0)
    after = fit_to_format(before, after, wanted.format, wanted.quality, wanted.force)
    file = io.BytesIO()
    notes = write_restored(after, content, file, wanted.format, wanted.quality)
    return Answer(file.getvalue(), before.header.quality if before.header else None, notes)


def _inspect(place, config) -> Inspection:
    content = place.content
    place.advance(0)
    # What is damaged is told when it is to be restored.
    summary = inspect_picture(io.BytesIO(content), max_megapixels=config.max_megapixels, allow_truncated=True)
    header = summary.header
    place.advance(0)
    decision = decide_from_file(content, summary, False, config.max_megapixels, allow_truncated=True)
    return Inspection(
        summary.format,
        summary.width,
        summary.height,
        summary.bits,
        summary.color,
        summary.metadata,
        header.quality if header else None,
        header.standard_tables if header else None,
        header.chroma_subsampling if header else None,
        (decision.found or None) if decision else None,
        bool(decision and not decision.restore),
        matching_format(summary.format),
    )


def _to_answer(error) -> HTTPException:
    """Turns an error into a status and one line."""
    if isinstance(error, InputError):
        status = {TooLargeError: 413, DamagedError: 400}.get(type(error), 415)
        return HTTPException(status, word_for_api(error))
    if isinstance(error, MemoryError):
        return HTTPException(503, "not enough memory: try again later, or a smaller picture")
    # Where it happened, without the message, which may hold something of the picture.
    [*_, last] = traceback.extract_tb(error.__traceback__)
    print(f"error: {type(error).__name__} in {last.filename}:{last.lineno}", file=sys.stderr, flush=True)
    return HTTPException(500, f"a defect, {type(error).__name__}: please report it")


def word_for_api(said: str | InputError) -> str:
    """Names a message's options as query parameters, and those that the API lacks as options of the command `serve`.

    The page words the parameters as its controls.
    """
    parameters = {field.name for field in dataclasses.fields(RestoreParameters)}

    def name_option(name):
        return name if name in parameters else f"--{name.replace('_', '-')} of serve"

    return to_one_line(word(said, name_option))


async def _wait_until_gone(request):
    while (await request.receive())["type"] != "http.disconnect":
        pass
