"""The order of work, with restorers that only add one; `test_restore` runs the real thing."""

import dataclasses
import errno
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as skimage_data

from artifact_remover import batch
from artifact_remover.batch import restore_all
from artifact_remover.batch_plan import (
    Output,
    find_sources,
    measure,
    name_results,
)
from artifact_remover.options import RestoreConfig
from artifact_remover.restore_picture import restore_parts
from data_prep.errors import InputError


def configure(inputs="a.jpg", output=None, **options):
    return RestoreConfig(tuple(map(Path, inputs.split())), output and Path(output), **options)


class PlusOne:
    """A restorer that adds one to each pixel, after doing what else is wanted."""

    def __init__(self, before=lambda picture: None):
        self.before = before

    def restore_picture(self, picture, strength=1.0, force=False, progress=None):
        self.before(picture)
        progress(picture.pixels[:10, ..., 0].size)
        return restore_parts(picture, lambda pixels: pixels + np.uint8(1), lambda sample: sample, force)


@pytest.fixture
def jobs(tmp_path):
    """Five JPEGs, 100 x 100 to 100 x 104, in a folder."""
    for number in range(5):
        crop = skimage_data.astronaut()[:100, 100 * number : 101 * number + 100]
        Image.fromarray(crop).save(tmp_path / f"{number}.jpg", quality=50)
    output = Output("png", folder=tmp_path / "out")
    named, _ = name_results(find_sources([tmp_path], output).sources, output)
    measured, _ = measure(named, configure())
    return measured


def run(jobs, restorer=None, progress=lambda pixels: None, load=None, **options):
    restorer, outcomes = restorer or PlusOne(), []
    restore_all(jobs, load or (lambda: restorer), configure(**options), progress, outcomes.append)
    return outcomes


def test_pictures_are_restored_in_order(jobs):
    outcomes = run(jobs)
    assert [outcome.job for outcome in outcomes] == jobs
    for job in jobs:
        np.testing.assert_array_equal(
            np.asarray(Image.open(job.target)), np.asarray(Image.open(job.source)) + np.uint8(1)
        )


def test_each_stage_may_fail_and_fails_one_picture_only(jobs, monkeypatch):
    jobs[0].source.write_bytes(jobs[0].source.read_bytes()[:-500])
    jobs[3].target.mkdir(parents=True)

    def before(picture):
        if picture.pixels.shape[1] == 101:
            raise InputError("not enough memory for a tile")
        if picture.pixels.shape[1] == 102:
            raise ZeroDivisionError("a defect\nof ours")

    done = []
    outcomes = run(jobs, PlusOne(before), done.append)
    errors = [outcome.error for outcome in sorted(outcomes, key=lambda outcome: outcome.job.source)]
    assert "0.jpg is truncated" in errors[0]
    assert errors[1] == f"{jobs[1].source}: not enough memory for a tile"
    assert errors[2] == f"{jobs[2].source}: ZeroDivisionError: a defect"
    assert errors[3] == f"cannot write {jobs[3].target}: File exists"
    assert errors[4] is None and jobs[4].target.exists()
    assert sorted(file.name for file in jobs[4].target.parent.iterdir()) == ["3.png", "4.png"]
    assert sum(done) == sum(job.pixels for job in jobs)  # or progress would not end


def test_a_disk_that_is_full_halfway_leaves_nothing_of_the_picture(jobs, monkeypatch):
    def fill(picture, source, file, format, quality):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(batch, "write_restored", fill)
    outcomes = run(jobs[:2])
    assert [outcome.error for outcome in outcomes] == [
        f"cannot write {job.target}: No space left on device" for job in jobs[:2]
    ]
    assert not list(jobs[0].target.parent.iterdir())


def test_the_model_is_loaded_while_the_first_picture_is_read(jobs, monkeypatch):
    began = threading.Event()
    decode = batch.decode_picture
    monkeypatch.setattr(batch, "decode_picture", lambda *args, **options: (began.set(), decode(*args, **options))[1])

    def load():
        assert began.wait(10)
        return PlusOne()

    assert not any(outcome.error for outcome in run(jobs, load=load))


def test_the_next_is_read_and_the_last_is_written_while_one_is_restored(jobs, monkeypatch):
    read, written = [], threading.Event()
    decode, encode = batch.decode_picture, batch.write_restored

    def reading(source, **options):
        read.append(source)
        return decode(source, **options)

    def writing(*args):
        notes = encode(*args)
        written.set()
        return notes

    def restoring(picture):
        number = picture.pixels.shape[1] - 100
        if number == 1:
            assert written.wait(10)
        while number < 3 and len(read) < number + 2:
            assert threading.Event().wait(0.001) is False

    monkeypatch.setattr(batch, "decode_picture", reading)
    monkeypatch.setattr(batch, "write_restored", writing)
    assert not any(outcome.error for outcome in run(jobs, PlusOne(restoring)))


@pytest.mark.parametrize("most", [1, 25_000, 1_000_000])
def test_few_pixels_are_held_at_a_time(jobs, monkeypatch, most):
    monkeypatch.setattr(batch, "_PIXELS_IN_FLIGHT", most)
    lock, held, seen = threading.Lock(), 0, []
    decode, encode = batch.decode_picture, batch.write_restored

    def count(pixels):
        nonlocal held
        with lock:
            held += pixels
            seen.append(held)

    def reading(source, **options):
        picture = decode(source, **options)
        count(picture.pixels[..., 0].size)
        return picture

    def writing(picture, *args):
        notes = encode(picture, *args)
        count(-picture.pixels[..., 0].size)
        return notes

    monkeypatch.setattr(batch, "decode_picture", reading)
    monkeypatch.setattr(batch, "write_restored", writing)
    assert len(run(jobs)) == 5
    assert max(seen) <= max(most, max(job.pixels for job in jobs)) and held == 0


def test_a_model_that_cannot_be_loaded_ends_all(jobs):
    def load():
        raise InputError("no model")

    with pytest.raises(InputError, match="no model"):
        run(jobs, load=load)
    assert not jobs[0].target.exists()


def test_a_file_that_appears_meanwhile_is_not_replaced(jobs):
    class Meddling(PlusOne):
        def restore_picture(self, *arguments):
            jobs[0].target.parent.mkdir(exist_ok=True)
            jobs[0].target.write_text("mine")
            return super().restore_picture(*arguments)

    [outcome] = run(jobs[:1], Meddling())
    assert outcome.error == f"cannot write {jobs[0].target}: File exists"
    assert jobs[0].target.read_text() == "mine" and len(list(jobs[0].target.parent.iterdir())) == 1
    [outcome] = run(jobs[:1], Meddling(), overwrite=True)
    assert not outcome.error


def test_a_jpeg_that_is_left_alone_is_copied_to_a_jpeg(jobs):
    Image.fromarray(skimage_data.astronaut()[:100, :100]).save(jobs[0].source, quality=98)
    outcomes = []
    job = dataclasses.replace(jobs[0], format="jpeg")
    restore_all([job], PlusOne, configure(), lambda pixels: None, outcomes.append)
    assert outcomes[0].state == "left alone" and jobs[0].target.read_bytes() == jobs[0].source.read_bytes()


def test_few_pictures_are_held_at_a_time_however_small_they_are(jobs, monkeypatch):
    held, most = [], []
    read, write = batch._read, batch._write
    monkeypatch.setattr(batch, "_read", lambda *arguments: (held.append(1), read(*arguments))[1])
    monkeypatch.setattr(batch, "_write", lambda *arguments: (most.append(len(held)), held.pop(), write(*arguments))[2])
    monkeypatch.setattr(batch, "_PICTURES_IN_FLIGHT", 2)
    assert len(run(jobs)) == len(jobs) and max(most) <= 2


def test_what_is_written_is_told_while_a_large_picture_is_restored(jobs):
    outcomes = []

    class Slow(PlusOne):
        def restore_picture(self, picture, strength, force, progress):
            until = time.monotonic() + 10
            while picture.pixels.shape[1] == 101 and not outcomes and time.monotonic() < until:
                progress(1)
                time.sleep(0.01)
            self.told = len(outcomes)
            return super().restore_picture(picture, strength, force, progress)

    restorer = Slow()
    restore_all(jobs[:2], lambda: restorer, configure(), lambda pixels: None, outcomes.append)
    assert restorer.told == 1 and len(outcomes) == 2


def test_an_interrupted_batch_writes_and_tells_what_is_restored(jobs):
    def before(picture):
        if picture.pixels.shape[1] == 102:
            raise KeyboardInterrupt

    outcomes = []
    with pytest.raises(KeyboardInterrupt):
        restore_all(jobs, lambda: PlusOne(before), configure(), lambda pixels: None, outcomes.append)
    assert [outcome.job for outcome in outcomes] == jobs[:2]
    assert [job.target.exists() for job in jobs] == [True, True, False, False, False]
    assert len(list(jobs[0].target.parent.iterdir())) == 2


def test_what_is_being_told_when_the_user_stops_is_told_again(jobs):
    told = []

    def tell(outcome):
        told.append(outcome.job)
        if len(told) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_all(jobs[:1], PlusOne, configure(), lambda pixels: None, tell)
    assert told == 2 * jobs[:1]


@pytest.mark.parametrize("force", [False, True])
def test_a_picture_that_is_left_alone_is_counted_as_such(jobs, force):
    Image.fromarray(skimage_data.astronaut()[:100, :100]).save(jobs[0].source, quality=98)
    [outcome] = run(jobs[:1], PlusOne(), force=force)
    assert outcome.state == ("restored" if force else "left alone")
