"""Restoring in place: nothing is lost whatever happens, and a second run changes nothing."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as skimage_data

from artifact_remover import restore
from artifact_remover.pictures.picture import FORMATS, decode_picture
from artifact_remover.restoration import Restorer
from tests.conftest import describe
from tests.sample_pictures import PHOTO, to_file, to_jpeg, with_index

LONG_AGO = 1_000_000_000


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The current folder, new, with two poor JPEGs below `photos`; a restorer that makes pictures brighter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        restore, "_load", lambda config: Restorer(lambda pictures: np.clip(pictures + 8 / 255, 0, 1), 16)
    )
    Path("photos/sub").mkdir(parents=True)
    for number, name in enumerate(("a.jpg", "sub/b.jpeg")):
        Path("photos", name).write_bytes(to_jpeg(np.roll(PHOTO, number)))
        os.utime(Path("photos", name), (LONG_AGO + number, LONG_AGO))
    return Path("photos")


@pytest.fixture
def run(capfd):
    def run(*arguments):
        capfd.readouterr()
        code = restore.main(list(map(str, arguments)))
        return code, *capfd.readouterr()

    return run


IN_PLACE = ("--in-place", "--backup", "kept")


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}


def test_originals_move_to_the_backup_and_their_restorations_take_their_place(photos, run):
    before = contents(photos)
    Path("photos/a.jpg").chmod(0o640)
    code, printed, errors = run("photos", *IN_PLACE)
    assert (code, errors) == (0, "") and "restored 2 (" in printed
    assert "photos/sub/b.jpeg restored, the original is kept/sub/b.jpeg\n" in printed
    assert contents("kept") == before and contents(photos).keys() == before.keys()
    for name, content in before.items():
        restored, original = decode_picture(photos / name), decode_picture(content)
        assert restored.restored_by and restored.format == "JPEG"
        assert (restored.header.quality, restored.header.chroma_subsampling) == (95, "4:4:4")
        assert 4 < (restored.pixels.astype(float) - original.pixels).mean() < 9
        assert (photos / name).stat().st_mtime == Path("kept", name).stat().st_mtime == LONG_AGO
    assert Path("photos/a.jpg").stat().st_mode & 0o777 == 0o640


def test_new_dates_are_of_the_result_alone(photos, run):
    assert run("photos", *IN_PLACE, "--new-dates")[0] == 0
    assert Path("photos/a.jpg").stat().st_mtime > LONG_AGO == Path("kept/a.jpg").stat().st_mtime


def test_a_second_run_changes_nothing(photos, run):
    run("photos", *IN_PLACE)
    before = describe(Path())
    code, printed, errors = run("photos", *IN_PLACE)
    assert (code, errors) == (0, "") and printed.splitlines()[-1] == "left alone 2"
    assert "photos/a.jpg: left alone, as already restored by artifact-remover" in printed
    assert describe(Path()) == before


def test_with_force_they_are_restored_again_into_another_backup(photos, run):
    run("photos", *IN_PLACE)
    once = contents(photos)
    code, _, errors = run("photos", *IN_PLACE, "--force")
    assert code == 2 and errors.count("\n") == 2 and contents(photos) == once
    assert run("photos", "--in-place", "--backup", "kept2", "--force")[0] == 0
    assert contents("kept2") == once and contents(photos) != once


@pytest.mark.parametrize("format", FORMATS)
def test_every_picture_keeps_its_format_and_whatever_name_it_has(photos, run, format):
    content = to_file(PHOTO, format.upper())
    Path("photos/odd.jpg").write_bytes(content)
    assert run("photos/odd.jpg", *IN_PLACE, "--force")[0] == 0
    restored = decode_picture(photos / "odd.jpg")
    assert restored.restored_by and restored.format == format.upper()
    assert contents("kept") == {"odd.jpg": content}
    assert run("photos/odd.jpg", *IN_PLACE)[1].splitlines()[-1] == "left alone 1"


def test_the_quality_is_of_the_formats_that_take_one(photos, run):
    Path("photos/c.png").write_bytes(to_file(PHOTO, "PNG"))
    assert run("photos", *IN_PLACE, "--quality", "80", "--force")[0] == 0
    assert decode_picture(photos / "a.jpg").header.quality == 80
    assert decode_picture(photos / "c.png").restored_by


def pages():
    return to_file(PHOTO, "TIFF", save_all=True, append_images=[Image.fromarray(PHOTO)])


def stereo():
    return to_file(PHOTO, "MPO", save_all=True, append_images=[Image.fromarray(PHOTO)])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("c.bmp", lambda: to_file(PHOTO, "BMP"), "photos/c.bmp: BMP cannot be written, restore it without --in-place"),
        (
            "c.mpo",
            stereo,
            "photos/c.mpo: of its 2 pictures only the first would be left, restore it without --in-place",
        ),
        ("c.tif", pages, "photos/c.tif: of its 2 pictures only the first would be left, restore it without --in-place"),
    ],
)
def test_what_cannot_be_written_as_it_was_is_one_line(photos, run, name, make, message):
    Path(photos, name).write_bytes(make())
    before = contents(photos)
    code, _, errors = run("photos", *IN_PLACE)
    assert code == 1 and errors == f"error: {message}\n"
    assert contents(photos)[name] == before[name] and name not in contents("kept")


def test_a_jpeg_with_a_preview_is_restored(photos, run):
    Path("photos/c.mpo").write_bytes(with_index(to_jpeg(PHOTO), (0x010001, to_jpeg(PHOTO[::2, ::2]))))
    assert run("photos/c.mpo", *IN_PLACE)[0] == 0
    assert decode_picture(photos / "c.mpo").restored_by and decode_picture(Path("kept/c.mpo")).format == "MPO"


def test_what_is_left_alone_is_neither_touched_nor_backed_up(photos, run):
    Path("photos/fine.jpg").write_bytes(to_jpeg(PHOTO, 98))
    os.utime("photos/fine.jpg", (LONG_AGO, LONG_AGO))
    before = describe(photos)
    code, printed, _ = run("photos", *IN_PLACE, "--quality", "60")  # with a quality it would be converted elsewhere
    assert code == 0 and "restored 2, left alone 1 (" in printed
    assert describe(photos)[Path("fine.jpg")] == before[Path("fine.jpg")]
    assert contents("kept").keys() == {"a.jpg", "sub/b.jpeg"}


def test_so_is_what_a_jpeg_could_not_hold(photos, run, monkeypatch):
    """Another JPEG would lose more than a faint restoration gains."""
    monkeypatch.setattr(restore, "_load", lambda config: Restorer(lambda pictures: pictures + [1 / 255, 0, 0], 16))
    before = describe(photos)
    code, printed, _ = run("photos", *IN_PLACE)
    assert code == 0 and printed.splitlines()[-1].startswith("left alone 2")
    assert "photos/a.jpg: left alone, as it would lose as jpeg what restoring gains, --force restores it\n" in printed
    assert describe(photos) == before and contents("kept") == {}


def test_the_backup_may_lie_in_the_folder_and_each_of_several_folders_keeps_its_name(photos, run):
    Path("more").mkdir()
    Path("more/a.jpg").write_bytes(to_jpeg(PHOTO))
    backup = ("--in-place", "--backup", "photos/originals")
    assert run("photos", "more", *backup)[0] == 0
    assert contents("photos/originals").keys() == {"photos/a.jpg", "photos/sub/b.jpeg", "more/a.jpg"}
    assert run("photos", "more", *backup)[1].splitlines()[-1] == "left alone 3"


# Nothing is lost


DIE = """
import os, sys
import numpy as np
from artifact_remover import restore
from artifact_remover.restoration import Restorer
restore._load = lambda config: Restorer(lambda pictures: np.clip(pictures + 8 / 255, 0, 1), 16)
def fail(*_):
    raise OSError(18, "Invalid cross-device link")
if {elsewhere}:
    os.link = fail
calls, call = [], os.{at}
def die(*arguments, **options):
    calls.append(1)
    if len(calls) == {times}:
        os.kill(os.getpid(), 9)
    call(*arguments, **options)
os.{at} = die
sys.exit(restore.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("at", "times", "elsewhere"),
    [
        ("utime", 1, False),  # before the backup is made
        ("replace", 1, True),  # while it is made
        ("replace", 1, False),  # between backup and write
        ("replace", 2, True),
    ],
)
def test_killed_between_backup_and_write_the_next_run_goes_on(photos, run, at, times, elsewhere):
    before = contents(photos)
    command = [sys.executable, "-c", DIE.format(at=at, times=times, elsewhere=elsewhere), "photos/a.jpg", *IN_PLACE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert before.items() <= contents(photos).items()  # beside it there may be what was written under another name
    code, printed, errors = run("photos", *IN_PLACE)
    assert (code, errors) == (0, "") and "restored 2 (" in printed
    assert {name: content for name, content in contents("kept").items() if not name.startswith(".")} == before
    assert all(decode_picture(photos / name).restored_by for name in before)


def edit(file):
    file.write_bytes(to_jpeg(PHOTO[::-1]))


def edit_and_keep_its_dates(file):
    edit(file)
    os.utime(file, (LONG_AGO, LONG_AGO))


def edit_and_rename(file):
    edited = Path("edited")
    edited.write_bytes(file.read_bytes()[::-1])  # of the same size
    os.utime(edited, (LONG_AGO, LONG_AGO))
    os.replace(edited, file)


@pytest.mark.parametrize("change", [edit, edit_and_keep_its_dates, edit_and_rename])
def test_a_picture_that_is_edited_while_it_is_restored_is_left_as_it_is_now(photos, run, monkeypatch, change):
    def restore_slowly(pictures):
        if not edited:
            change(photos / "a.jpg")
            edited.append((photos / "a.jpg").read_bytes())
        return np.clip(pictures + 8 / 255, 0, 1)

    edited: list[bytes] = []
    monkeypatch.setattr(restore, "_load", lambda config: Restorer(restore_slowly, 16))
    code, _, errors = run("photos/a.jpg", *IN_PLACE)
    assert code == 2
    assert errors == "error: cannot write photos/a.jpg: it changed while it was restored, restore it again\n"
    assert (photos / "a.jpg").read_bytes() == edited[0]
    assert contents("kept") == {} and contents(photos).keys() == {"a.jpg", "sub/b.jpeg"}


@pytest.mark.parametrize("change", [edit, edit_and_keep_its_dates, edit_and_rename])
def test_so_is_one_that_is_edited_while_its_backup_is_copied(photos, run, monkeypatch, change):
    def copy_slowly(original, copy, copy_file=shutil.copyfileobj):
        copy_file(original, copy)
        change(photos / "a.jpg")
        edited.append((photos / "a.jpg").read_bytes())

    edited: list[bytes] = []
    monkeypatch.setattr(os, "link", fail_with(errno.EXDEV))
    monkeypatch.setattr(shutil, "copyfileobj", copy_slowly)
    code, _, errors = run("photos/a.jpg", *IN_PLACE)
    assert code == 2 and errors.endswith("a.jpg: it changed while it was restored, restore it again\n")
    assert (photos / "a.jpg").read_bytes() == edited[0]
    assert contents("kept") == {} and contents(photos).keys() == {"a.jpg", "sub/b.jpeg"}


def test_what_is_in_the_backup_is_never_replaced(photos, run):
    Path("kept").mkdir()
    Path("kept/a.jpg").write_bytes(to_jpeg(PHOTO[::-1]))
    Path("kept/sub").symlink_to("nowhere")
    before, kept = contents(photos), contents("kept")
    code, printed, errors = run("photos", *IN_PLACE)
    assert code == 2 and printed.splitlines()[-1] == "failed 2"
    first, second = errors.splitlines()
    assert first == (
        "error: cannot write photos/a.jpg: its backup kept/a.jpg exists and is another file, "
        "move it away or choose another --backup"
    )
    assert second.startswith("error: cannot write photos/sub/b.jpeg: its backup kept/sub/b.jpeg cannot be made (")
    assert contents(photos) == before and contents("kept") == kept


def test_a_link_to_the_picture_in_the_backup_is_no_backup(photos, run):
    Path("kept").mkdir()
    Path("kept/a.jpg").symlink_to(Path("photos/a.jpg").resolve())
    before = contents(photos)
    code, _, errors = run("photos/a.jpg", *IN_PLACE)
    assert code == 2 and "is another file" in errors and contents(photos) == before


def fail_with(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_backup_on_another_file_system_is_a_copy(photos, run, monkeypatch):
    before, owner = contents(photos), 1000 if os.getuid() == 0 else os.getuid()
    os.chown("photos/a.jpg", owner, -1)
    monkeypatch.setattr(os, "link", fail_with(errno.EXDEV))
    assert run("photos", *IN_PLACE)[0] == 0
    assert contents("kept") == before and Path("kept/a.jpg").stat().st_mtime == LONG_AGO
    assert Path("kept/a.jpg").stat().st_uid == Path("photos/a.jpg").stat().st_uid == owner
    assert run("photos", *IN_PLACE)[1].splitlines()[-1] == "left alone 2"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no other file system is known")
def test_a_backup_in_memory_is_a_copy(photos, run, tmp_path_factory):
    backup, before = Path("/dev/shm", f"backup-{os.getpid()}-{os.urandom(4).hex()}"), contents(photos)
    try:
        assert run("photos", "--in-place", "--backup", backup)[0] == 0
        assert contents(backup) == before
    finally:
        for file in sorted(backup.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        backup.rmdir()


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_backup_that_cannot_be_written_is_one_line_for_each_picture(photos, run, monkeypatch, number):
    before = describe(photos)
    from artifact_remover import in_place

    monkeypatch.setattr(os, "link", fail_with(number))
    monkeypatch.setattr(in_place, "open_whole", fail_with(number))
    code, _, errors = run("photos", *IN_PLACE)
    assert code == 2 and errors.splitlines() == [
        f"error: cannot write photos/{name}: its backup kept/{name} cannot be made ({os.strerror(number)})"
        for name in ("a.jpg", "sub/b.jpeg")
    ]
    assert describe(photos) == before and contents("kept") == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_backup_that_may_not_be_written_to_is_told_first(photos, run):
    Path("kept").mkdir(mode=0o555)
    code, printed, errors = run("photos", *IN_PLACE)
    assert code == 2 and errors.startswith("error: cannot write to the backup folder, ") and not printed


def test_a_full_disk_keeps_the_original_where_it_is(photos, run):
    Path("photos/large.png").write_bytes(to_file(skimage_data.astronaut(), "PNG"))
    before = contents(photos)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, unlimited[1]))
    try:
        code, printed, errors = run("photos", *IN_PLACE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert code == 1 and "restored 2, failed 1 (" in printed
    assert errors == "error: cannot write photos/large.png: File too large\n"
    assert contents(photos)["large.png"] == before["large.png"] and "large.png" not in contents("kept")
    assert len(contents(photos)) == 3


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--in-place"], "--in-place needs a --backup, the folder that the originals are moved to"),
        (["--backup", "kept"], "--backup goes with --in-place"),
        ([*IN_PLACE, "-o", "out"], "--in-place and --output exclude each other"),
        ([*IN_PLACE, "--format", "png"], "--in-place and --format exclude each other"),
        ([*IN_PLACE, "--compare"], "--in-place and --compare exclude each other"),
        ([*IN_PLACE, "--overwrite"], "--in-place and --overwrite exclude each other"),
        ([*IN_PLACE, "--resume"], "--in-place and --resume exclude each other"),
    ],
)
def test_a_contradiction_is_one_line(photos, capfd, options, message):
    before = describe(Path())
    with pytest.raises(SystemExit) as stop:
        restore.main(["photos", *options])
    errors = capfd.readouterr().err
    assert stop.value.code == 2 and errors.count("\n") == 1 and message in errors
    assert describe(Path()) == before


@pytest.mark.parametrize(
    ("picture", "backup", "message"),
    [
        ("photos", "photos/../photos", "photos/../photos is itself to be restored: choose another --backup"),
        ("photos/a.jpg", "photos", "photos/a.jpg is the picture itself: choose another --backup"),
        ("link.jpg", "kept", "link.jpg is a link, which --in-place does not follow: give the file itself"),
        (
            "photos/a.jpg",
            "photos/sub/b.jpeg",
            "cannot make the backup folder, choose another: photos/sub/b.jpeg (File exists)",
        ),
    ],
)
def test_no_picture_is_its_own_backup_and_no_link_is_followed(photos, run, picture, backup, message):
    Path("link.jpg").symlink_to("photos/a.jpg")
    before = describe(Path())
    code, _, errors = run(picture, "--in-place", "--backup", backup)
    assert (code, errors) == (2, f"error: {message}\n") and describe(Path()) == before


def test_two_pictures_of_one_name_do_not_share_a_backup(photos, run):
    before = contents(photos)
    Path("photos/sub/a.jpg").write_bytes(before["a.jpg"])
    code, _, errors = run("photos/a.jpg", "photos/sub/a.jpg", *IN_PLACE)
    assert code == 1 and errors == (
        "error: photos/sub/a.jpg: kept/a.jpg is taken by photos/a.jpg, restore it apart to another --backup\n"
    )
    assert Path("photos/sub/a.jpg").read_bytes() == before["a.jpg"]
