"""Runs of the tiniest config in processes of their own, and what they leave."""

import json

import jax
import numpy as np
from etils import epath

from helpers.processes import start_worker
from picjax import checkpoints, checksums

# The method that compiles fastest; a rate that does not depend on the number of steps.
TINY = ("--config=configs/pix2pix.py:tiny", "--config.opt.decay=0")
NO_SAMPLES = ("--config.sample_every=0",)


def cache_settings(cache):
    return {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }


def start(cache, workdir, *flags, devices=1, env=None):
    words = (str(devices), *TINY, f"--workdir={workdir}", *flags)
    return start_worker("train_worker", *words, env=cache_settings(cache) | (env or {}))


def trace(workdir):
    """The metrics of every logged step, without timings."""
    timings = {"seconds", "images_per_second", "data_wait"}
    lines = (epath.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in timings}
        for line in lines
    ]


def assert_close(ours, theirs):
    """Two traces are equal up to the order of sums."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_allclose(
            list(one.values()), list(other.values()), rtol=1e-4, atol=1e-5
        )


def whole_state(workdir):
    """Everything that the newest checkpoint holds: step, parameters, optimisers."""
    step = checkpoints.saved_steps(workdir)[-1]
    path = epath.Path(workdir) / "checkpoints" / str(step)
    assert checksums.verify(path)
    config = checkpoints.read_config(workdir)
    state = checkpoints.load_step(path, checkpoints.abstract_state(config))
    return jax.tree.map(np.asarray, state)


def wait_for_steps(process, count):
    """Read the run's console until it has logged `count` more steps, or ends."""
    logged = 0
    while logged < count and (line := process.stderr.readline()):
        logged += "images/s" in line
