"""Names, and the order of work, with restorers that only add one; `test_restore` runs the real thing."""

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
from artifact_remover.batch import Job, Output, Source, choose_output, find_sources, name_results, restore_all
from artifact_remover.options import RestoreConfig
from artifact_remover.restore_picture import restore_parts
from data_prep.errors import InputError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Makes empty files in a new current folder, in which all paths are short."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()

    return make


def found(*inputs, output=None):
    sources, errors = find_sources([Path(given) for given in inputs], output and Path(output))
    return [str(source.file) for source in sources], errors


def named(*inputs, folder=None, format="png", compare=False):
    sources, errors = find_sources([Path(given) for given in inputs], folder and Path(folder))
    jobs, more = name_results(sources, Output(format, folder=folder and Path(folder)), compare)
    return {str(job.source): " ".join(map(str, job.results)) for job in jobs}, errors + more


# What is found


def test_folders_are_searched_in_order_and_what_is_hidden_or_no_picture_is_passed_over(place):
    place("p/b.JPG", "p/a.png", "p/sub/c.webp", "p/.hidden.jpg", "p/.folder/d.jpg", "p/note.txt", "p/z/e.jpeg")
    assert found("p") == (["p/a.png", "p/b.JPG", "p/sub/c.webp", "p/z/e.jpeg"], [])


def test_a_single_file_is_taken_whatever_it_is_called(place):
    place("photo", ".hidden.jpg", "scan.dat")
    assert found("photo", ".hidden.jpg", "scan.dat") == (["photo", ".hidden.jpg", "scan.dat"], [])


def test_links_into_a_circle_are_not_followed_but_a_link_to_a_picture_is(place):
    place("p/a.jpg", "elsewhere/b.jpg")
    Path("p/loop").symlink_to("..", target_is_directory=True)
    Path("p/b.jpg").symlink_to(Path("elsewhere/b.jpg").resolve())
    Path("p/gone.jpg").symlink_to("nothing")
    assert found("p") == (["p/a.jpg", "p/b.jpg"], [])


def test_the_same_picture_given_again_is_taken_once(place):
    place("p/a.jpg", "p/b.jpg")
    Path("q").symlink_to("p", target_is_directory=True)
    assert found("p/b.jpg", "p", "./p/../p/a.jpg", "q")[0] == ["p/b.jpg", "p/a.jpg"]


def test_results_of_earlier_runs_beside_the_pictures_are_passed_over(place):
    results = ("p/a_restored.png", "p/a_restored.webp", "p/a_compare.png", "p/a_jpg_restored.tiff")
    place("p/a.jpg", *results, "p/other_restored.png", "p/_restored.jpg")
    assert found("p")[0] == ["p/_restored.jpg", "p/a.jpg", "p/other_restored.png"]
    assert len(found("p", output="out")[0]) == 7
    assert found("p/a_restored.png")[0] == ["p/a_restored.png"]  # given by name, it is wanted


def test_the_output_folder_inside_of_an_input_folder_is_passed_over(place):
    place("p/a.jpg", "p/out/a.png", "p/out/sub/b.png", "p/outside/c.jpg")
    assert found("p", output="p/out")[0] == ["p/a.jpg", "p/outside/c.jpg"]
    assert found("p", output="p")[0][0] == "p/a.jpg"


def test_what_is_missing_or_holds_no_picture_is_said_and_the_rest_is_found(place):
    place("a.jpg", "empty/note.txt")
    files, errors = found("nothing.jpg", "a.jpg", "empty", "x" * 300)
    assert files == ["a.jpg"]
    assert (
        errors[:2] == ["no such file or folder: nothing.jpg", "no pictures in the folder: empty"] and len(errors) == 3
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_said_once(place):
    place("p/a.jpg")
    Path("p").chmod(0)
    files, [error] = found("p")
    Path("p").chmod(0o755)
    assert not files and "check its permissions" in error


def test_a_pipe_is_no_file(place):
    os.mkfifo("pipe.jpg")
    assert found("pipe.jpg") == ([], ["cannot be read, or is neither file nor folder: pipe.jpg"])


# What results are called


def test_beside_the_picture_or_below_a_folder(place):
    place("p/a.jpg", "p/sub/b.tar.png", "c.jpg", "bare")
    assert named("p", "c.jpg", "bare")[0] == {
        "p/a.jpg": "p/a_restored.png",
        "p/sub/b.tar.png": "p/sub/b.tar_restored.png",
        "c.jpg": "c_restored.png",
        "bare": "bare_restored.png",
    }
    assert named("p", "c.jpg", folder="out", format="jpeg", compare=True)[0] == {
        "p/a.jpg": "out/a.jpg out/a_compare.png",
        "p/sub/b.tar.png": "out/sub/b.tar.jpg out/sub/b.tar_compare.png",
        "c.jpg": "out/c.jpg out/c_compare.png",
    }


def test_each_of_several_folders_keeps_its_name(place):
    place("100D/a.jpg", "101D/sub/a.jpg", "102D/b.jpg")
    jobs, errors = named("100D", "101D/../101D", "102D/b.jpg", folder="out")
    assert jobs == {
        "100D/a.jpg": "out/100D/a.png",
        "101D/../101D/sub/a.jpg": "out/101D/sub/a.png",
        "102D/b.jpg": "out/b.png",
    }
    assert not errors


def test_names_that_clash_keep_the_extension(place):
    place("p/a.jpg", "p/a.png", "p/b.jpg", "c.jpg", "p/c.png")
    jobs, errors = named("p", "c.jpg", folder="out")
    assert jobs == {
        "p/a.jpg": "out/a_jpg.png",
        "p/a.png": "out/a_png.png",
        "p/b.jpg": "out/b.png",
        "p/c.png": "out/c_png.png",
        "c.jpg": "out/c_jpg.png",
    }
    assert not errors
    assert named("p/a.jpg", "p/a.png")[0]["p/a.png"] == "p/a_png_restored.png"


def test_a_name_made_by_a_clash_may_clash_itself(place):
    place("p/a.jpg", "p/a.png", "p/a_jpg.webp", "p/b.jpg", "p/b_compare.jpg")
    jobs, errors = named("p", folder="out", compare=True)
    results = [name for names in jobs.values() for name in names.split()]
    assert not errors and len(set(results)) == len(results) == 10


def test_a_clash_that_stays_is_an_error_of_the_second(place):
    place("x/a.jpg", "y/a.jpg", "y/b.jpg")
    jobs, [error] = named("x/a.jpg", "y/a.jpg", "y/b.jpg", folder="out")
    assert jobs == {"x/a.jpg": "out/a_jpg.png", "y/b.jpg": "out/b.png"}
    assert error.startswith("y/a.jpg: out/a_jpg.png is taken by x/a.jpg")


def test_no_picture_is_written_over_another_input(place):
    place("p/a.jpg", "p/sub/a.png")
    assert named("p/sub/a.png", "p/a.jpg", folder="p", format="jpeg") == (
        {"p/a.jpg": "p/a_jpg.jpg", "p/sub/a.png": "p/a_png.jpg"},
        [],
    )
    place("q/b.jpg", "q/b_restored.png")
    jobs, [error] = named("q/b.jpg", "q/b_restored.png")
    assert jobs == {"q/b_restored.png": "q/b_restored_restored.png"}
    assert error.startswith("q/b.jpg: q/b_restored.png is taken by q/b_restored.png")


@pytest.mark.parametrize("letter", ["x", "ü", "写", "\udcff", "🖼"])
def test_long_names_are_shortened_and_stay_apart(place, letter):
    longest = letter * (251 // len(os.fsencode(letter)))
    names = [f"{longest[:-1]}{end}.jpg" for end in "ab"]
    place(*names)
    jobs, errors = named(*names, compare=True)
    results = [name for each in jobs.values() for name in each.split()]
    assert not errors and len(set(results)) == 4
    for name in results:
        assert len(os.fsencode(name)) <= 255
        place(name)
    assert {name.rpartition("_")[2] for name in results} == {"restored.png", "compare.png"}
    assert sorted(found(".")[0]) == sorted(names)


@pytest.mark.parametrize(
    ("options", "output"),
    [
        ({}, Output("png")),
        ({"format": "webp"}, Output("webp")),
        ({"output": "b.JPG"}, Output("jpeg", file=Path("b.JPG"))),
        ({"output": "b.tif", "format": "tiff"}, Output("tiff", file=Path("b.tif"))),
        ({"output": "b"}, Output("png", folder=Path("b"))),
        ({"output": "v1.2"}, Output("png", folder=Path("v1.2"))),
        ({"output": "there.png"}, Output("png", folder=Path("there.png"))),
        ({"output": "b", "inputs": "a.jpg c.jpg"}, Output("png", folder=Path("b"))),
        ({"output": "there.png", "inputs": "a.jpg there.png/x"}, Output("png", folder=Path("there.png"))),
        ({"output": "there.png/../there.png", "inputs": "there.png"}, Output("png")),
        ({"output": "b.jpg", "quality": 80}, Output("jpeg", file=Path("b.jpg"))),
    ],
)
def test_output_is_a_file_a_folder_or_beside(place, options, output):
    place("there.png/x")
    assert choose_output(configure(**options)) == output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "b.png", "format": "webp"}, "format webp contradicts .*: b.png"),
        ({"output": "b.bmp"}, "b.bmp names no format that can be written"),
        ({"output": "b.heic"}, "b.heic names no format that can be written"),
        (
            {"output": "b.png", "inputs": "a.jpg c.jpg"},
            "b.png is called like a file, but there may be several pictures",
        ),
        ({"output": "b.png", "inputs": "there.png"}, "b.png is called like a file, but there may be several pictures"),
        ({"output": "there.png", "inputs": "a.jpg there.png"}, "there.png is one of the folders to restore"),
        ({"quality": 80}, "png takes no quality, it is lossless: leave it out or choose webp, jpeg, avif"),
        ({"output": "b.tiff", "quality": 80}, "tiff takes no quality"),
    ],
)
def test_contradictions_are_refused(place, options, message):
    place("there.png/x")
    with pytest.raises(InputError, match=message):
        choose_output(configure(**options))


def configure(inputs="a.jpg", output=None, **options):
    return RestoreConfig(tuple(map(Path, inputs.split())), output and Path(output), **options)


def test_what_is_there_is_replaced_or_passed_over_only_when_asked(place):
    place("a.png", "b.png", "b_compare.png", "c_compare.png")
    jobs = [Job(Path(f"{name}.jpg"), Path(f"{name}.png"), Path(f"{name}_compare.png")) for name in "abcd"]

    def left(**options):
        jobs_left, errors = batch.pass_over_finished(jobs, configure(**options))
        return "".join(job.source.stem for job in jobs_left), errors

    assert left(overwrite=True) == ("abcd", [])
    assert left(resume=True) == ("acd", [])  # of a and c, half is missing
    names, errors = left()
    assert names == "d" and errors[2] == "c.jpg: c_compare.png exists, overwrite replaces it, resume skips it"


def test_a_picture_is_not_offered_to_be_replaced_by_its_own_restoration(place):
    place("a.jpg")
    _, [error] = batch.pass_over_finished([Job(Path("a.jpg"), Path("./a.jpg"))], configure())
    assert error == "a.jpg is the picture itself: choose another output"


# Reading, restoring and writing


class PlusOne:
    """A restorer that adds one to each pixel, after doing what else is wanted."""

    def __init__(self, before=lambda picture: None):
        self.before = before

    def restore_picture(self, picture, strength=1.0, force=False, progress=None):
        self.before(picture)
        progress(picture.pixels[:10, ..., 0].size)
        return restore_parts(picture, lambda pixels: pixels + np.uint8(1), lambda alpha: alpha, force)


@pytest.fixture
def jobs(tmp_path):
    """Five JPEGs, 100 x 100 to 100 x 104, in a folder."""
    for number in range(5):
        crop = skimage_data.astronaut()[:100, 100 * number : 101 * number + 100]
        Image.fromarray(crop).save(tmp_path / f"{number}.jpg", quality=50)
    sources, _ = find_sources([tmp_path], tmp_path / "out")
    named, _ = name_results(sources, Output("png", folder=tmp_path / "out"))
    measured, _ = batch.measure(named)
    return measured


def run(jobs, restorer=None, progress=lambda pixels: None, load=None, **options):
    restorer, outcomes = restorer or PlusOne(), []
    restore_all(jobs, load or (lambda: restorer), configure(**options), "png", progress, outcomes.append)
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
    restore_all(jobs[:1], PlusOne, configure(), "jpeg", lambda pixels: None, outcomes.append)
    assert outcomes[0].left_alone and jobs[0].target.read_bytes() == jobs[0].source.read_bytes()


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
    restore_all(jobs[:2], lambda: restorer, configure(), "png", lambda pixels: None, outcomes.append)
    assert restorer.told == 1 and len(outcomes) == 2


def test_an_interrupted_batch_writes_and_tells_what_is_restored(jobs):
    def before(picture):
        if picture.pixels.shape[1] == 102:
            raise KeyboardInterrupt

    outcomes = []
    with pytest.raises(KeyboardInterrupt):
        restore_all(jobs, lambda: PlusOne(before), configure(), "png", lambda pixels: None, outcomes.append)
    assert [outcome.job for outcome in outcomes] == jobs[:2]
    assert [job.target.exists() for job in jobs] == [True, True, False, False, False]
    assert len(list(jobs[0].target.parent.iterdir())) == 2


@pytest.mark.parametrize("force", [False, True])
def test_a_picture_that_is_left_alone_is_counted_as_such(jobs, force):
    Image.fromarray(skimage_data.astronaut()[:100, :100]).save(jobs[0].source, quality=98)
    [outcome] = run(jobs[:1], PlusOne(), force=force)
    assert outcome.left_alone == (not force)


def test_sources_know_their_place(place):
    place("p/sub/a.jpg")
    assert find_sources([Path("p"), Path("p/sub/a.jpg")], None)[0] == [Source(Path("p/sub/a.jpg"), Path("sub/a.jpg"))]
