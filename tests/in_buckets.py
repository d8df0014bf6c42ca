"""Runs, data and outputs in a bucket, against an emulator: make test-buckets."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import jax
import numpy as np
import pytest
from etils import epath
from helpers.configs import load_config
from helpers.pictures import picture
from helpers.processes import cluster, finish, free_port
from helpers.runs import (
    NO_SAMPLES,
    assert_close,
    start,
    trace,
    wait_for_steps,
    whole_state,
)
from PIL import Image

from picjax import buckets, checkpoints, cli, complete, train
from picjax import eval as evaluation
from picjax.data import pack, packing, pipeline

PACKAGES = ("gcsfs", "gcp_storage_emulator")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed"),
    pytest.mark.filterwarnings("default"),  # of the packages
]
BUCKET = "gs://bucket"
STEPS = ("--config.steps=6", "--config.save_every=2", *NO_SAMPLES)


@pytest.fixture(scope="module", autouse=True)
def emulator():
    """An empty bucket in a process of its own, which this one and its children use."""
    port = free_port()
    address = f"http://localhost:{port}"
    os.environ |= {
        "STORAGE_EMULATOR_HOST": address,  # gcsfs
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks Google what a bucket is
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,  # array_record
    }
    words = [
        "start",
        f"--port={port}",
        "--default-bucket=bucket",
        "--in-memory",
        "--quiet",
    ]
    command = [sys.executable, "-m", PACKAGES[1], *words]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_until_it_answers(process, address)
        yield
        process.terminate()


def wait_until_it_answers(process, address):
    while process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(address).close()
            return
        time.sleep(0.1)
    raise AssertionError("the emulator has ended")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("xla")


@pytest.fixture(scope="module")
def undisturbed(cache, tmp_path_factory):
    """A run on the disk."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    finish(start(cache, workdir, *STEPS))
    return workdir


@pytest.fixture(scope="module")
def killed(cache):
    """The same run in the bucket, killed, and resumed where half a save is left."""
    workdir = epath.Path(f"{BUCKET}/runs/killed")
    process = start(cache, workdir, *STEPS)
    wait_for_steps(process, 5)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    buckets.check(workdir, "")
    saved = checkpoints.saved_steps(workdir)
    assert saved
    (workdir / "checkpoints" / str(saved[-1]) / checkpoints.COMMITTED).unlink()
    assert checkpoints.saved_steps(workdir) == saved[:-1]
    finish(start(cache, workdir, *STEPS))
    return workdir


def test_a_killed_run_resumes_bit_for_bit(killed, undisturbed):
    assert trace(killed) == trace(undisturbed)
    jax.tree.map(
        np.testing.assert_array_equal, whole_state(killed), whole_state(undisturbed)
    )
    events = list((killed / "tensorboard").iterdir())
    assert events and all(path.stat().length > 0 for path in events)
    left = set(buckets.find(killed))
    assert not [name for name in left if "tmp" in name or "lock" in name]


def test_two_processes_train_in_the_bucket_and_one_resumes(cache, undisturbed):
    workdir = epath.Path(f"{BUCKET}/runs/two")
    flags = ("--config.steps=2", "--config.save_every=2", *NO_SAMPLES)
    processes = [start(cache, workdir, *flags, env=env) for env in cluster(2)]
    for process in processes:
        finish(process)
    assert checkpoints.saved_steps(workdir) == [2]
    finish(start(cache, workdir, *flags, "--config.steps=4"))
    assert_close(trace(workdir), trace(undisturbed)[:4])


def test_completions_of_a_run_in_the_bucket_are_written_there(
    killed, undisturbed, tmp_path
):
    Image.fromarray(picture(0, 32, 32)).save(tmp_path / "a.png")
    for workdir in (killed, undisturbed):
        words = [f"--image={tmp_path}/a.png", "--mask=center", "--num=2"]
        complete.main([f"--workdir={workdir}", *words])
    ours, theirs = killed / "completions", epath.Path(undisturbed) / "completions"
    names = {f"a_{name}.png" for name in ("truth", "mask", "out_0", "out_1", "grid")}
    assert set(buckets.find(ours)) == names == {path.name for path in theirs.iterdir()}
    for name in names:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def test_an_evaluation_of_a_run_in_the_bucket_is_written_there(killed, undisturbed):
    contents = []
    for workdir in (killed, epath.Path(undisturbed)):
        evaluation.main([f"--workdir={workdir}", "--images=3", "--num=2"])
        assert not (workdir / "eval" / "completions").exists()
        contents.append(json.loads((workdir / "eval" / "metrics.json").read_text()))
    assert contents[0]["results"] == contents[1]["results"]
    written = set(buckets.find(killed / "eval"))
    assert written == {path.name for path in (undisturbed / "eval").iterdir()}


def test_data_in_the_bucket_give_the_batches_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD", 8)
    images = tmp_path / "images"
    for i in range(21):
        path = images / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i, 40, 48)).save(path)
    (images / "b" / "broken.png").write_bytes(b"no picture")
    pack.main([str(images), f"--out={tmp_path / 'packed'}", "--size=40"])
    for kind, name in (("images", "folder"), ("packed", "arrayrecord")):
        upload(tmp_path / kind, epath.Path(f"{BUCKET}/{kind}"))
        config = load_config("pix2pix", "tiny").data
        config.update(name=name, path=str(tmp_path / kind))
        expected = batches(config)
        config.path = f"{BUCKET}/{kind}"
        for ours, theirs in zip(batches(config), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    pack.main([f"--check={BUCKET}/packed"])
    epath.Path(f"{BUCKET}/packed/images-00001.array_record").unlink()
    with pytest.raises(cli.UserError, match="lacks images-00001.array_record"):
        batches(config)


def upload(folder, target):
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            (target / name).write_bytes(path.read_bytes())


def batches(config):
    """The images of some batches for training, and of those held out."""
    trained = pipeline.train_batches(config, 32, 4, seed=0)
    held_out = pipeline.eval_batches(config, 32, 1, 1, seed=0)
    return [next(trained)["image"] for _ in range(6)] + [next(held_out)["image"]]


@pytest.mark.parametrize("path", ["gs://absent/x", "gs://absent"])
def test_a_bucket_that_is_absent_is_named_before_anything_is_compiled(path):
    with pytest.raises(cli.UserError, match="there is no such bucket"):
        train.main(["--config=configs/pix2pix.py:tiny", f"--workdir={path}"])
