"""Runs in processes of their own, killed for real, must end as if undisturbed."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from picjax import checkpoints

ROOT = Path(__file__).parents[1]
TINY = "--config=configs/picmm.py:tiny"


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A compilation cache that the processes of this file share."""
    return tmp_path_factory.mktemp("xla")


def start(cache, workdir, *flags, devices=1, env=None):
    command = [sys.executable, "tests/train_worker.py", str(devices), TINY]
    shared = {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env=os.environ | shared | (env or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, expected=0):
    _, err = process.communicate()
    assert process.returncode == expected, err
    return err


def trace(workdir):
    """The numbers of every logged step, without the clock's."""
    clock = {"seconds", "images_per_second", "data_wait"}
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in clock} for line in lines
    ]


def leaves(workdir):
    import jax

    _, variables, step = checkpoints.restore_variables(workdir)
    return step, [np.asarray(x) for x in jax.tree.leaves(variables)]


def wait_for_steps(process, workdir, count):
    """Blocks on the run's own console lines until it has logged `count` more steps."""
    lines = []
    while sum("images/s" in line for line in lines) < count:
        line = process.stderr.readline()
        if not line:
            break
        lines.append(line)
    return lines


STEPS = ("--config.steps=12", "--config.save_every=3", "--config.sample_every=12")


@pytest.fixture(scope="session")
def undisturbed(cache, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    finish(start(cache, workdir, *STEPS))
    return workdir


def assert_same_run(workdir, undisturbed):
    assert trace(workdir) == trace(undisturbed)
    (step, ours), (expected_step, theirs) = leaves(workdir), leaves(undisturbed)
    assert step == expected_step == 12
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_killed_run_ends_like_an_undisturbed_one(cache, undisturbed, tmp_path, request):
    rng = random.Random(0)
    for _ in range(request.config.getoption("--kills")):
        process = start(cache, tmp_path, *STEPS)
        wait_for_steps(process, tmp_path, rng.randint(1, 5))
        process.kill()
        process.communicate()
    finish(start(cache, tmp_path, *STEPS))
    assert [line["step"] for line in trace(tmp_path)] == list(range(1, 13))
    assert_same_run(tmp_path, undisturbed)


def test_sigterm_saves_and_says_how_to_go_on(cache, undisturbed, tmp_path):
    process = start(cache, tmp_path, *STEPS)
    wait_for_steps(process, tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    err = finish(process)
    assert "SIGTERM" in err and "goes on from here" in err
    finish(start(cache, tmp_path, *STEPS))
    assert_same_run(tmp_path, undisturbed)


def test_another_config_is_refused_with_its_keys(cache, undisturbed):
    process = start(cache, undisturbed, *STEPS, "--config.opt.lr=0.5")
    err = finish(process, expected=2)
    assert len(err.splitlines()) == 1 and "opt.lr (0.5, was 0.0001)" in err


@pytest.mark.parametrize("mesh", ["data=8", "fsdp=8"])
def test_eight_devices_give_the_numbers_of_one(cache, tmp_path, mesh):
    name, size = mesh.split("=")
    flags = ("--config.batch_size=8", "--config.steps=3", "--config.save_every=3")
    wide = ("--config.model.img_f=32", "--config.model.ngf=32")
    finish(start(cache, tmp_path / "one", *flags, *wide))
    layout = {"data": "-1", "fsdp": "1"} | {name: size}
    mesh_flags = [f"--config.mesh.{axis}={n}" for axis, n in layout.items()]
    finish(start(cache, tmp_path / "many", *flags, *wide, *mesh_flags, devices=8))
    for one, many in zip(
        trace(tmp_path / "one"), trace(tmp_path / "many"), strict=True
    ):
        assert one.keys() == many.keys()
        np.testing.assert_allclose(
            list(one.values()), list(many.values()), rtol=1e-4, atol=1e-5
        )
    # And a run begun on one device goes on on eight.
    finish(
        start(
            cache,
            tmp_path / "one",
            *flags[:1],
            *flags[2:],
            *wide,
            "--config.steps=4",
            *mesh_flags,
            devices=8,
        )
    )
    assert [line["step"] for line in trace(tmp_path / "one")] == [1, 2, 3, 4]


def test_two_processes_give_the_numbers_of_one(cache, tmp_path):
    flags = ("--config.steps=3", "--config.save_every=3")
    finish(start(cache, tmp_path / "one", *flags, devices=2))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    cluster = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    processes = [
        start(cache, tmp_path / "two", *flags, env=cluster | {"JAX_PROCESS_ID": str(i)})
        for i in range(2)
    ]
    for process in processes:
        finish(process)
    for one, two in zip(trace(tmp_path / "one"), trace(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(
            list(one.values()), list(two.values()), rtol=1e-4, atol=1e-5
        )
