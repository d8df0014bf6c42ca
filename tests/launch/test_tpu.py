"""launch/tpu.sh against a stand-in for gcloud, whose worker is a folder."""

import os
import subprocess

import pytest
from helpers.processes import ROOT

SLICE = ("slice", "zone-a", "v5litepod-16")
WORDS = ("--config.data.masks=('center', 'half')", "--workdir=$HOME/a b", "it's")


@pytest.fixture
def cloud(tmp_path):
    """A worker whose Python appends its words to `ran` and exits as `exits` says."""
    local = tmp_path / "home/.local/bin"
    local.mkdir(parents=True)
    environment = tmp_path / "bin"
    environment.mkdir()
    for name, lines in {
        "bin/python3": "exit 0",  # installs uv
        "home/.local/bin/uv": f"mkdir -p .venv/bin; cp {tmp_path}/bin/run .venv/bin/python",
        "bin/run": f'printf "<%s>" "$@" >> {tmp_path}/ran; echo >> {tmp_path}/ran\n'
        f"read -r code < {tmp_path}/exits; sed -i 1d {tmp_path}/exits\n"
        f"[ $code != preempted ] || {{ echo SUSPENDED > {tmp_path}/state; exit 1; }}\n"
        "exit $code",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


@pytest.fixture
def tpu(cloud):
    def tpu(*words, exits=("0",), restarts=20):
        (cloud / "exits").write_text("\n".join(exits) + "\n")
        path = f"{cloud}/bin:{ROOT}/tests/workers/bin:{os.environ['PATH']}"
        env = {"PATH": path, "CLOUD": str(cloud), "RESTARTS": str(restarts)}
        return subprocess.run(
            [ROOT / "launch/tpu.sh", *words],
            env=os.environ | env,
            check=False,
            capture_output=True,
            text=True,
        )

    return tpu


def calls(cloud, verb):
    return [x for x in (cloud / "calls").read_text().splitlines() if verb in x]


def test_every_word_reaches_the_worker_as_it_is(tpu, cloud):
    done = tpu("run", *SLICE, "--module=picjax.eval", *WORDS)
    assert done.returncode == 0, done.stderr
    words = "".join(f"<{word}>" for word in ("-m", "picjax.eval", *WORDS))
    assert (cloud / "ran").read_text() == f"{words}\n"
    assert (cloud / "home/picjax/picjax/train.py").exists()  # the code, at a commit
    (created,) = calls(cloud, "create")
    assert "--accelerator-type=v5litepod-16" in created and "--spot" not in created


def test_the_exit_is_the_commands_and_75_starts_it_again(tpu, cloud):
    assert tpu("run", *SLICE, exits=("75", "2")).returncode == 2
    assert (cloud / "ran").read_text() == "<-m><picjax.train>\n" * 2
    assert len(calls(cloud, "create")) == 1
    assert tpu("attach", *SLICE[:2]).returncode == 2  # the command is over
    assert tpu("run", *SLICE, exits=("75",), restarts=0).returncode == 75


def test_a_preempted_slice_is_made_anew(tpu, cloud):
    assert tpu("run", *SLICE, exits=("preempted", "0")).returncode == 0
    assert (cloud / "ran").read_text() == "<-m><picjax.train>\n" * 2
    assert len(calls(cloud, "create")) == 2 and len(calls(cloud, "delete")) == 1


def test_a_dry_run_prints_everything_and_runs_nothing(tpu, cloud):
    done = tpu("--dry-run", "run", *SLICE, *WORDS)
    assert done.returncode == 0 and not (cloud / "calls").exists()
    lines = [line.split()[3:5] for line in done.stdout.splitlines() if "gcloud" in line]
    verbs = ["create", "scp", *["ssh"] * 4]
    assert [verb for _, verb in lines] == verbs
    assert tpu("fly", *SLICE).returncode == 2 and tpu("run").returncode == 2
