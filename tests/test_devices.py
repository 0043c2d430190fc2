"""Devices that share each batch, of one machine and of several, take the steps that one would take."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from artifact_remover.checkpoint_files import find_checkpoints, step_of
from artifact_remover.training import devices
from artifact_remover.training.run import find_result
from data_prep.errors import InputError
from tests.conftest import STAGES
from tests.steps_on_devices import CLIP
from tests.tiny_models import load_generator

FIT = ["-m", "artifact_remover.fit"]
LOST = "error: another worker has ended, or cannot be reached; the same commands go on from the last checkpoint"


def start(*arguments, **environment):
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def start_workers(*commands):
    """Starts a worker for each command line, the chief first."""
    sockets = [socket.create_server(("localhost", 0)) for _ in commands]
    addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    environments = [
        {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})}
        for index in range(len(commands))
    ]
    return [start(*command, **each) for command, each in zip(commands, environments, strict=True)]


def end(process, seconds=240):
    """Waits for a process; its exit code, what it printed, and the last line of its errors."""
    try:
        printed, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, printed, (errors.splitlines() or [""])[-1]


def check_steps(folder, name):
    """Compares what a number of devices, or a worker, has trained with what one device has."""
    one, several = np.load(folder / "1.npz"), np.load(folder / f"{name}.npz")
    assert set(several.files) == set(one.files)
    for each in one.files:
        np.testing.assert_allclose(several[each], one[each], rtol=1e-4, atol=3e-6, err_msg=each)
    # The case is one in which all that could go wrong would.
    assert set(one["train_gan/scalars/generator_steps"]) == {0.0, 1.0}
    for stage, norm in zip(STAGES, ("gradient_norm", "discriminator_gradient_norm", "gradient_norm"), strict=True):
        assert np.nanmin(one[f"{stage}/scalars/{norm}"]) > CLIP


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_devices_take_the_steps_of_one(tmp_path, count):
    code, _, error = end(start("-m", "tests.steps_on_devices", tmp_path, count))
    assert code == 0, error
    check_steps(tmp_path, count)


@pytest.mark.slow
def test_workers_take_the_steps_of_one(tmp_path):
    script = ["-m", "tests.steps_on_devices", tmp_path]
    for process in [*start_workers([*script, 1], [*script, 1]), start(*script, 1)]:
        code, _, error = end(process)
        assert code == 0, error
    for index in (0, 1):
        check_steps(tmp_path, f"worker {index}")


@pytest.mark.slow
def test_a_run_on_two_devices_ends_as_on_one(tiny_options, finished_run, make_run, tmp_path):
    options = [*tiny_options, "--workdir", tmp_path / "run", "--devices", "2"]
    code, printed, error = end(start("-m", "tests.fit_on_processors", 2, *options))
    assert code == 0, error
    assert "computing in float32 on 2 devices, each a processor" in " ".join(printed.split())
    assert (tmp_path / "run" / "report.json").exists()
    for stage in STAGES:
        one, two = (find_result(folder, stage) for folder in (finished_run.folder, tmp_path / "run"))
        assert (one.manifest["devices"], two.manifest["devices"]) == (1, 2)
        assert one.manifest["validation"]["psnr"] == pytest.approx(two.manifest["validation"]["psnr"], abs=1e-3)
    run = make_run(finished_run.folder)
    weights = [
        load_generator(run, find_result(folder, STAGES[0]).export).get_weights()
        for folder in (finished_run.folder, tmp_path / "run")
    ]
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-4)


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_and_the_same_commands_go_on(tiny_options, tmp_path):
    endless = ["--stage", "pretrain_generator", "--pretrain-generator.steps", "100000"]
    commands = [[*FIT, *tiny_options, *endless, "--workdir", tmp_path / name] for name in ("run", "nothing")]
    folder = tmp_path / "run" / "checkpoints" / "pretrain_generator"

    def read_last():
        return max((step_of(each) for each in find_checkpoints(folder)), default=0)

    def wait_for_more(step):
        deadline = time.monotonic() + 200
        while read_last() <= step:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    chief, worker = start_workers(*commands)
    wait_for_more(0)
    worker.kill()
    code, _, error = end(chief, seconds=60)
    assert (code, error) == (1, LOST)
    worker.communicate()
    last = read_last()

    chief, worker = start_workers(*commands)
    wait_for_more(last)
    worker.send_signal(signal.SIGTERM)
    code, printed, error = end(chief)
    assert code == 130 and f"going on from step {last} of 100000" in printed
    assert re.fullmatch(r"error: stopped at step \d+ of 100000, saved; the same command goes on from there", error)
    assert end(worker)[::2] == (130, error)

    chief, worker = start_workers(*commands)
    wait_for_more(read_last())
    chief.kill()
    code, _, error = end(worker, seconds=60)
    assert (code, error) == (1, LOST)
    chief.communicate()
    assert not (tmp_path / "nothing").exists()


@pytest.mark.slow
def test_a_worker_with_other_options_is_told_so(tiny_options, tmp_path):
    command = [*FIT, *tiny_options, "--workdir", tmp_path / "run"]
    chief, worker = start_workers(command, [*command, "--seed", "5"])
    assert end(worker)[::2] == (2, "error: worker 1 has other options than the first worker")
    assert end(chief)[::2] == (1, LOST)


def test_more_devices_than_there_are_is_told():
    with pytest.raises(InputError, match="this machine has 1 of 9 devices to train on: choose a smaller devices"):
        devices.open_devices(9)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("{worker", "is not what TensorFlow takes: Expecting property name"),
        ('{"cluster": {"worker": "a:1"}}', "is not what TensorFlow takes: The tasks for job 'worker' must be a list"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}', "names a ps, only chief and worker can train together"),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
            "is task 2 of worker, which",
        ),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "is task None of None, which its cluster lacks"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker"}}', "is task None of worker, which"),
    ],
)
def test_a_wrong_tf_config_is_told(monkeypatch, setting, said):
    monkeypatch.setenv("TF_CONFIG", setting)
    with pytest.raises(InputError, match=f"^TF_CONFIG in the environment .*{said}"):
        devices.open_devices(1)
