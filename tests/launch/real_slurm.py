"""launch/slurm.sh under Slurm itself, on two nodes: make test-slurm.

`stand_in` takes the place of Python where only Slurm matters.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest
from helpers import slurm
from helpers.processes import ROOT
from helpers.slurm import wait_for

pytestmark = pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing())
SCRIPT = ROOT / "launch/slurm.sh"
SMALL = ("--nodes=2", "--cpus-per-task=1")
TRAIN = ("--config=pix2pix:tiny", "--config.opt.decay=0", "--config.sample_every=0")


@pytest.fixture(scope="module")
def cluster():
    # munge refuses a folder that others may write to, and long names of sockets.
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        Path(folder).chmod(0o755)
        with slurm.cluster(Path(folder)) as running:
            yield running


@pytest.fixture
def submit(cluster, tmp_path, monkeypatch):
    """Submit launch/slurm.sh from another folder; returns the job's number."""
    monkeypatch.chdir(tmp_path)

    def submit(python, *words, options=SMALL):
        cluster.env["PYTHON"] = str(python)
        return cluster.run("sbatch", "--parsable", *options, SCRIPT, *words).strip()

    return submit


@pytest.fixture
def stand_in(tmp_path):
    """Write a program from lines of bash; `restart` is the number of the restart."""

    def write(*lines):
        path = tmp_path / "stand_in"
        head = ("#!/bin/bash", "restart=${SLURM_RESTART_COUNT:-0}", "echo $restart")
        path.write_text("\n".join([*head, *lines]) + "\n")
        path.chmod(0o755)
        return path

    return write


def log_of(number):
    path = Path(f"picjax-{number}.log")
    return path.read_text().splitlines() if path.exists() else []


def wait_for_end(cluster, number, state):
    ended = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")
    wait_for(lambda: cluster.job(number, "JobState") in ended)
    assert cluster.job(number, "JobState") == state, log_of(number)


def test_75_is_requeued_and_the_log_of_three_restarts_is_whole(
    cluster, submit, stand_in
):
    python = stand_in('printf "<%s>" "$@"; echo', "[ $restart = 3 ] || exit 75")
    words = ("--x=(a, 'b')", "$HOME *")
    number = submit(python, "--module=picjax.eval", *words)
    wait_for_end(cluster, number, "COMPLETED")
    lines = log_of(number)
    assert [lines.count(str(restart)) for restart in range(4)] == [2] * 4
    assert lines.count("<-m><picjax.eval><--x=(a, 'b')><$HOME *>") == 8


def test_the_number_of_restarts_is_bounded(cluster, submit, stand_in, monkeypatch):
    monkeypatch.setitem(cluster.env, "RESTARTS", "1")
    number = submit(stand_in("exit 75"))
    wait_for_end(cluster, number, "FAILED")
    assert cluster.job(number, "Restarts") == "1"


def test_what_the_user_must_mend_is_not_repeated(cluster, submit, stand_in):
    number = submit(stand_in("exit 2"))
    wait_for_end(cluster, number, "FAILED")
    assert cluster.job(number, "Restarts") == "0"


def test_a_killed_task_ends_the_job_which_is_requeued(cluster, submit, stand_in):
    python = stand_in(
        "[ $restart = 0 ] || exit 0", "[ $SLURM_PROCID = 0 ] || kill -9 $$", "sleep 999"
    )
    number = submit(python)
    wait_for_end(cluster, number, "COMPLETED")
    assert cluster.job(number, "Restarts") == "1"


def test_a_time_limit_is_a_signal_and_a_restart(cluster, submit, stand_in):
    python = stand_in(
        "[ $restart = 0 ] || exit 0", "trap 'exit 75' TERM", "sleep 999 & wait"
    )
    options = (*SMALL, "--time=1", "--signal=TERM@30")
    number = submit(python, options=options)
    wait_for_end(cluster, number, "COMPLETED")
    assert cluster.job(number, "Restarts") == "1"


def test_a_lost_node_restarts_the_job(cluster, submit, stand_in, tmp_path):
    python = stand_in(
        "[ $restart = 0 ] || exit 0",
        f"echo $$ > {tmp_path}/$SLURMD_NODENAME.tmp",
        f"mv {tmp_path}/$SLURMD_NODENAME.tmp {tmp_path}/$SLURMD_NODENAME",
        "exec sleep 999",
    )
    number = submit(python)
    wait_for(lambda: (tmp_path / "n1").exists() and (tmp_path / "n2").exists())
    cluster.lose("n2", [int((tmp_path / "n2").read_text())])
    wait_for(lambda: cluster.job(number, "Restarts") == "1")
    cluster.run("slurmd", "-N", "n2")
    wait_for_end(cluster, number, "COMPLETED")


def test_two_nodes_train_one_model_and_resume_bit_for_bit(cluster, submit, tmp_path):
    """SIGTERM comes while they train; an undisturbed job has the same numbers."""
    flags = (*TRAIN, "--config.steps=40", "--config.log_every=1")

    def trace(name):
        path = tmp_path / name / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        timings = {"seconds", "images_per_second", "data_wait"}
        return [
            {k: v for k, v in json.loads(line).items() if k not in timings}
            for line in lines
        ]

    numbers = {}
    for name in ("undisturbed", "stopped"):
        numbers[name] = submit(sys.executable, *flags, f"--workdir={tmp_path / name}")
        if name == "stopped":
            wait_for(lambda: len(trace("stopped")) > 2)
            cluster.run("scancel", "--signal=TERM", numbers[name])
        wait_for_end(cluster, numbers[name], "COMPLETED")
    assert cluster.job(numbers["stopped"], "Restarts") == "1"
    assert any("stopped by SIGTERM and saved" in x for x in log_of(numbers["stopped"]))
    assert trace("stopped") == trace("undisturbed")
    assert len(trace("stopped")) == 40
