import io
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from skimage import data as skimage_data

from artifact_remover.judging.external import External
from data_prep.errors import InputError
from tests.conftest import running

PHOTO = skimage_data.astronaut()[:48, 100:164]


@pytest.fixture(scope="module")
def jpeg():
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "JPEG", quality=10)
    return file.getvalue()


@pytest.fixture
def script(tmp_path):
    """Writes a Python program that can use `source` and `target`; returns the command that runs it."""

    def write(code):
        file = tmp_path / "a restorer.py"
        file.write_text(f"import sys, time\nsource, target = sys.argv[-2:]\n{code}\n")
        return f"{shlex.quote(sys.executable)} '{file}' {{input}} {{output}}"

    return write


def refuse(command, jpeg, **options):
    """The one line that is said of it."""
    with pytest.raises(InputError) as error:
        External("mine", command, **options).restore(jpeg)
    line = str(error.value)
    assert line.startswith("external mine: ") and "\n" not in line
    return line


def test_it_gets_the_jpeg_and_what_it_writes_is_read(script, jpeg):
    copy = External("copy", script("open(target, 'wb').write(open(source, 'rb').read())"))
    with Image.open(io.BytesIO(jpeg)) as decoded:  # a JPEG, though its name says PNG
        np.testing.assert_array_equal(copy.restore(jpeg), np.asarray(decoded))


def test_the_files_are_named_within_words_too_and_lie_alone_in_a_folder_that_is_removed(tmp_path, jpeg):
    code = "import os, shutil, sys; s, t = (a[5:] for a in sys.argv[1:]); shutil.copy(s, t); print(os.listdir(s[:-9]))"
    log = tmp_path / "log"
    code += f"; open({str(log)!r}, 'w').write(s + ' ' + t)"
    External("mine", f'{sys.executable} -c "{code}" from={{input}} into={{output}}').restore(jpeg)
    source, target = map(Path, log.read_text().split())
    assert (source.name, target.name, source.parent) == ("input.jpg", "output.png", target.parent)
    assert not source.parent.exists()


def test_no_shell_reads_the_command(tmp_path, jpeg):
    touched = tmp_path / "touched"
    assert "exit code" in refuse(f"cp {{input}} {{output}} ; touch {touched}", jpeg)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-command {input} {output}", "no such command"),
        ("cp {input} there", "must name {input} and {output}"),
        ("cp 'open {input} {output}", "not a command line"),
        ("/dev/null {input} {output}", "no such command"),
    ],
)
def test_a_command_that_cannot_be_is_refused_before_it_is_run(command, said):
    with pytest.raises(InputError, match=said):
        External("mine", command)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('one\\ntwo\\a', file=sys.stderr); sys.exit(3)", "failed with exit code 3: two\\x07"),
        ("sys.exit(1)", "exit code 1: it did not say why"),
        ("pass", "wrote nothing"),
        ("open(target, 'w').write('no picture')", "what it wrote is not a usable picture"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(script, jpeg, code, said):
    assert said in refuse(script(code), jpeg)


def test_what_is_too_slow_is_ended_with_all_that_it_started(script, jpeg, tmp_path):
    pid = tmp_path / "pid"
    code = f"""
import subprocess
child = subprocess.Popen(["sleep", "60"])
open({str(pid)!r}, "w").write(str(child.pid))
time.sleep(60)
"""
    began = time.monotonic()
    assert "not done after 1.5 s" in refuse(script(code), jpeg, timeout=1.5)
    assert time.monotonic() - began < 10
    assert is_gone(int(pid.read_text()))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_evaluation_ends_the_command(script, tmp_path, stop):
    pid = tmp_path / "pid"
    command = script(f"import os; open({str(pid)!r}, 'w').write(str(os.getpid()) + '.'); time.sleep(60)")
    (tmp_path / "data").mkdir()
    Image.fromarray(PHOTO).save(tmp_path / "data" / "a.png")
    # What is stopped needs no TensorFlow, which takes long to load.
    code = f"""
import sys
from artifact_remover import evaluate
from artifact_remover.judging.external import External
evaluate.evaluate = lambda config: External("slow", {command!r}).restore(b"")
sys.exit(evaluate.main(["--data", "data"]))
"""
    with running([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not (pid.exists() and pid.read_text().endswith(".")):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        os.kill(process.pid, stop)
        assert process.stderr.read() == "error: stopped, nothing is written\n"
        process.wait(timeout=60)
    assert process.returncode == 130 and is_gone(int(pid.read_text()[:-1]))


def is_gone(pid):
    """Tells whether a process has ended; where nobody collects it, it may still be listed."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False
