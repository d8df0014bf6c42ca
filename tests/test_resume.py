"""Runs in processes of their own, killed at any moment, end like an undisturbed run."""

import random
import shutil
import signal
import time
from typing import Any

import jax
import numpy as np
import pytest
from helpers.pictures import picture
from helpers.processes import cluster, finish, start_worker
from helpers.runs import (
    NO_SAMPLES,
    assert_close,
    cache_settings,
    start,
    trace,
    wait_for_steps,
    whole_state,
)
from PIL import Image

from picjax import checkpoints
from picjax.evaluation import monitor
from picjax.evaluation.examples import Sampling, model_examples
from picjax.evaluation.metrics import backbones, catalog, layers, weights
from picjax.evaluation.metrics.networks import Networks, Settings
from picjax.model import load
from picjax.official import digests


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A compilation cache that the processes of this file share."""
    return tmp_path_factory.mktemp("xla")


STEPS = ("--config.steps=12", "--config.save_every=3", *NO_SAMPLES)


@pytest.fixture(scope="session")
def undisturbed(cache, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    finish(start(cache, workdir, *STEPS))
    return workdir


def assert_same_run(workdir, undisturbed):
    assert trace(workdir) == trace(undisturbed)
    state, expected = map(whole_state, (workdir, undisturbed))
    assert state.step == expected.step == 12
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def kill_when(process, condition):
    """Kill a process when a condition holds; returns whether it still ran."""
    while process.poll() is None and not condition():
        time.sleep(0.002)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_killed_run_ends_like_an_undisturbed_one(cache, undisturbed, tmp_path, request):
    """Half of the kills: as many after a random step as while a checkpoint is saved."""
    rng = random.Random(0)
    partial = "checkpoints/*.orbax-checkpoint-tmp"
    for i in range(max(2, request.config.getoption("--kills") // 2)):
        if checkpoints.saved_steps(tmp_path)[-1:] == [12]:  # begin again
            assert_same_run(tmp_path, undisturbed)
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
        process = start(cache, tmp_path, *STEPS)
        if i % 2:
            wait_for_steps(process, rng.randint(1, 5))
            kill_when(process, lambda: True)
        else:  # what an earlier kill left goes when a run starts
            wait_for_steps(process, 1)
            kill_when(process, lambda: any(tmp_path.glob(partial)))
    finish(start(cache, tmp_path, *STEPS))
    assert [line["step"] for line in trace(tmp_path)] == list(range(1, 13))
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.parametrize("command", ["complete", "eval"])
def test_killed_commands_leave_whole_files_only(
    command, cache, undisturbed, tmp_path, request
):
    """A quarter of the kills each; `make test` has none, so that it does not run this."""
    kills = request.config.getoption("--kills") // 4
    if not kills:
        pytest.skip("few kills")
    for i in range(4):
        Image.fromarray(picture(i, 32, 32)).save(tmp_path / f"{i}.png")
    words = ["--num=3", f"--workdir={undisturbed}"]
    if command == "complete":
        words += [f"--image={tmp_path}", "--mask=center"]
    else:
        words += ["--images=40"]

    def run(out):
        env = cache_settings(cache)
        return start_worker("command_worker", command, *words, f"--out={out}", env=env)

    def whole_files(folder):
        paths = (path for path in folder.rglob("*") if path.is_file())
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in paths
            if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        }

    finish(run(tmp_path / "expected"))
    expected = comparable(whole_files(tmp_path / "expected"))
    rng, killed = random.Random(0), 0
    for i in range(kills):
        out = tmp_path / f"out{i}"
        count = rng.randint(1, 12)
        killed += kill_when(run(out), lambda: len([*out.rglob("*")]) >= count)  # noqa: B023
        left = comparable(whole_files(out))
        assert left.items() <= expected.items()
        if i % 5 == 0:
            finish(run(out))
            assert comparable(whole_files(out)) == expected
    assert killed > kills / 2


def comparable(files):
    """What does not depend on the folder or the clock.

    Fills of a baseline that an interrupted evaluation keeps go when it is resumed.
    """
    names = [name for name in files if name.endswith((".png", ".csv"))]
    return {name: files[name] for name in names if not name.startswith("baselines/")}


def test_sigterm_saves_and_tells_how_to_resume(cache, undisturbed, tmp_path):
    process = start(cache, tmp_path, *STEPS)
    wait_for_steps(process, 2)
    process.send_signal(signal.SIGTERM)
    error = finish(process, expected=75)
    assert "stopped by SIGTERM and saved at step" in error.splitlines()[-1]
    assert "resumes from here" in error and not (tmp_path / "train.lock").exists()
    finish(start(cache, tmp_path, *STEPS))
    assert_same_run(tmp_path, undisturbed)


def test_another_config_is_refused_with_the_differing_keys(cache, undisturbed):
    process = start(cache, undisturbed, *STEPS, "--config.opt.lr=0.5")
    error = finish(process, expected=2)
    assert len(error.splitlines()) == 1 and "opt.lr (0.5, was 0.0002)" in error


def test_eight_devices_give_the_numbers_of_one(cache, tmp_path):
    """Data parallel and FSDP together; a run on one device resumes on eight."""
    flags = ("--config.batch_size=8", "--config.save_every=2", *NO_SAMPLES)
    wide = ("--config.model.ndf=32", "--config.model.ngf=32")
    mesh = ("--config.mesh.data=2", "--config.mesh.fsdp=4")
    one, many = tmp_path / "one", tmp_path / "many"
    finish(start(cache, one, *flags, *wide, "--config.steps=2"))
    more = (*flags, *wide, *mesh, "--config.steps=4")
    finish(start(cache, many, *more, devices=8))
    assert_close(trace(one), trace(many)[:2])
    finish(start(cache, one, *more, devices=8))
    assert_close(trace(one), trace(many))


def test_two_processes_give_the_numbers_of_one(
    cache, undisturbed, tmp_path, monkeypatch
):
    """In every step, and in an evaluation during training with a pretrained network.

    One process resumes what two have begun.
    """
    (tmp_path / "weights").mkdir()
    tensors: Any = layers.random_tensors(backbones.shapes("alex"))
    kept = tensors | {
        weights.SOURCE: np.array(digests.KNOWN["alexnet-owt-7be5be79.pth"]),
        weights.CONTENT: np.array(weights.digest(tensors)),
    }
    np.savez(tmp_path / "weights/alexnet-owt-7be5be79.npz", **kept)
    monkeypatch.setenv("PICJAX_WEIGHTS", str(tmp_path / "weights"))
    flags = ("--config.steps=3", "--config.save_every=3", *NO_SAMPLES)
    metrics = ["l1", "lpips", "lpips_diversity"]
    evaluation = {"every": 3, "images": 3, "num": 2, "metrics": ",".join(metrics)}
    flags += tuple(f"--config.eval.{key}={value}" for key, value in evaluation.items())
    processes = [start(cache, tmp_path, *flags, env=env) for env in cluster(2)]
    for process in processes:
        finish(process)
    lines = trace(tmp_path)
    logged = {k: lines[-1].pop(k) for k in [*lines[-1]] if k.startswith("eval/")}
    assert_close(lines, trace(undisturbed)[:3])
    made = catalog.create(metrics, Networks(Settings()))
    for example in model_examples(load(tmp_path), Sampling(2), 3, batch_size=3):
        for metric in made.values():
            metric.add(example)
    found = monitor.columns([r for m in made.values() for r in m.results()])
    assert found.keys() == logged.keys() >= {"eval/lpips", "eval/lpips_diversity"}
    # A grey level here and there is another, up to the order of sums.
    assert logged == pytest.approx(found, rel=1e-2)
    finish(start(cache, tmp_path, *flags, "--config.steps=5", "--config.eval.every=0"))
    assert_close(trace(tmp_path)[3:], trace(undisturbed)[3:5])
