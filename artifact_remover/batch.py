"""Restoring many pictures: reading, restoring and writing at the same time."""

import contextlib
import dataclasses
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from artifact_remover.batch_plan import Job, Outcome, explain
from artifact_remover.in_place import replace_original
from artifact_remover.options import RestoreConfig
from artifact_remover.pictures.before_after import draw_before_after
from artifact_remover.pictures.picture import QUALITY_FORMATS, Picture, decode_picture
from artifact_remover.restore_picture import check_target, fit_to_format, write_restored
from data_prep.errors import InputError
from data_prep.files import open_whole
from data_prep.quiet import quiet_tensorflow

_PIXELS_IN_FLIGHT = 64_000_000
_PICTURES_IN_FLIGHT = 16  # small ones may have large metadata


def load_restorer(config: RestoreConfig):
    """Loads the `Restorer` that the options ask for.

    Raises:
        InputError: If there is no such model.
    """
    with quiet_tensorflow():
        from artifact_remover.restoration import Restorer

        return Restorer.load(
            config.model,
            blend=config.blend,
            engine=config.engine,
            precision=config.precision,
            tile=config.tile,
            self_ensemble=config.self_ensemble,
        )


def restore_all(
    jobs: list[Job],
    load: Callable,
    config: RestoreConfig,
    progress: Callable[[int], None],
    report: Callable[[Outcome], None],
) -> None:
    """Restores pictures, while the next is read and the one before is written.

    A picture that fails does not stop the others. When interrupted, the pictures that are restored are still written.

    Args:
        jobs: From `artifact_remover.batch_plan.plan`.
        load: Returns the `Restorer` or `RemoteRestorer`; called after reading of the first picture has begun.
        config: All options.
        progress: Called with the number of pixels that are restored since the last call.
        report: Called with the outcome of each picture as soon as it is known.
    """
    waiting, in_flight, restorer = deque(jobs), 0, None
    reading: deque[tuple[Job, Future[tuple[Picture, os.stat_result]]]] = deque()
    writing: deque[tuple[Job, Future[Outcome]]] = deque()

    def report_written():
        nonlocal in_flight
        while writing and writing[0][1].done():
            job, written = writing[0]
            report(_conclude(job, written))  # where the user stops it meanwhile, it is told again, not lost
            writing.popleft()
            in_flight -= job.pixels

    def advance(pixels):
        progress(pixels)
        report_written()

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        try:
            while waiting or reading or writing:
                # A picture that is too large for the limit goes alone.
                while (
                    waiting
                    and len(reading) + len(writing) < _PICTURES_IN_FLIGHT
                    and (not in_flight or in_flight + waiting[0].pixels <= _PIXELS_IN_FLIGHT)
                ):
                    job = waiting.popleft()
                    in_flight += job.pixels
                    reading.append((job, reader.submit(_read, job, config)))
                restorer = restorer or load()
                if reading:
                    job, read = reading.popleft()
                    written, left = _restore(job, read, restorer, config, advance, writer)
                    writing.append((job, written))
                    del read  # the picture's memory
                    progress(left)
                else:
                    wait([writing[0][1]])
                report_written()
        except KeyboardInterrupt:
            for job, written in writing:
                report(_conclude(job, written))
            raise
        finally:
            reader.shutdown(cancel_futures=True)


def _read(job, config):
    stat = os.stat(job.source)
    if job.stat and job.stat.st_mtime_ns == stat.st_mtime_ns:
        stat = job.stat  # whose date of access is that before anything was read
    limits = {"max_megapixels": config.max_megapixels, "allow_truncated": config.allow_truncated}
    return decode_picture(job.source, **limits), stat


def _restore(job, read, restorer, config, progress, writer) -> tuple[Future[Outcome], int]:
    """Restores one picture and hands it to the writer.

    Returns:
        What becomes of it, and its pixels that `progress` was not told of.
    """
    left = job.pixels

    def advance(pixels):
        nonlocal left
        left -= pixels
        progress(pixels)

    written: Future[Outcome] = Future()
    try:
        before, stat = read.result()
        began = time.perf_counter()
        after = _restore_picture(before, job, restorer, config, advance)
        after = fit_to_format(before, after, job.format, _quality_of(job, config), config.force)
        outcome = Outcome(
            job,
            "restored" if after.decision.restore else "left alone",
            found=after.decision.found,
            why=after.decision.why,
            seconds=time.perf_counter() - began,
        )
        written = writer.submit(_write, outcome, after, before if job.compare in job.missing else None, stat, config)
    except Exception as error:
        written.set_exception(error)
    return written, left


def _restore_picture(picture, job, restorer, config, advance):
    try:
        check_target(picture, job.format)
        return restorer.restore_picture(picture, config.strength, config.force, advance)
    except InputError as error:  # about the format, the memory or the model, so that it names no file
        raise InputError(f"{job.source}: ", error.message) from error


def _write(outcome, after, before, stat, config):
    job = outcome.job
    if job.backup and not after.decision.restore:
        return dataclasses.replace(outcome, notes=after.decision.notes)
    notes = after.notes
    if job.target in job.missing:
        with _open(job.target, config, job.backup, dates=None if config.new_dates else stat) as file:
            notes = write_restored(after, job.source, file, job.format, _quality_of(job, config))
            if job.backup:
                replace_original(job.source, stat, job.backup, file)
                if config.new_dates:
                    os.utime(file.name)
    if before:
        with _open(job.compare, config) as file:
            draw_before_after(before, after, file)
    return dataclasses.replace(outcome, notes=notes)


def _quality_of(job, config) -> int | None:
    return config.quality if job.format in QUALITY_FORMATS else None  # in place there may be others among them


@contextlib.contextmanager
def _open(file, config, backup=None, dates=None):
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open_whole(file, replace=config.overwrite or backup is not None, dates=dates) as opened:
            yield opened
    except (InputError, OSError) as error:
        reason = error.message if isinstance(error, InputError) else error.strerror or str(error)
        raise InputError(f"cannot write {file}: ", reason) from error


def _conclude(job, written):
    try:
        return written.result()
    except Exception as error:
        return Outcome(job, "failed", error=explain(job.source, error))
