"""launch/slurm.sh against stand-ins for srun and scontrol; real_slurm.py has Slurm."""

import os
import subprocess

import pytest
from helpers.processes import ROOT

SCRIPT = ROOT / "launch/slurm.sh"


@pytest.fixture
def batch(tmp_path):
    """Run the script as Slurm does: a copy, in another folder than the checkout."""
    programs = {
        "srun": 'printf "%s\\n" "$SRUN_CPUS_PER_TASK" "$@" > srun; exit $EXIT',
        "scontrol": f'[ $1 = show ] || echo "$@" > scontrol\n'
        f"echo '   Command={SCRIPT} --config=a b'",
    }
    for name, lines in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job").mkdir()

    def batch(*words, code=0, **variables):
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "EXIT": str(code)}
        env |= {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8"} | variables
        folder = tmp_path / "job"
        command = ["bash", "-c", SCRIPT.read_text(), "slurm_script", *words]
        done = subprocess.run(command, cwd=folder, env=os.environ | env, check=False)
        asked = folder / "scontrol"
        requeued = asked.read_text() == "requeue 7\n" if asked.exists() else False
        return done.returncode, requeued, (folder / "srun").read_text().splitlines()

    return batch


def test_words_are_kept_and_the_environment_is_the_checkouts(batch):
    words = ("--config.data.masks=('a', 'b')", "$HOME *")
    code, requeued, called = batch(*words)
    assert (code, requeued) == (0, False)
    cpus, option, python, *rest = called
    assert (cpus, option) == ("8", "--kill-on-bad-exit=1")
    assert os.path.normpath(python) == str(ROOT / ".venv/bin/python")
    assert rest == ["-m", "picjax.train", *words]


def test_any_command_and_any_python(batch):
    _, _, called = batch("--module=picjax.eval", "--num=3", PYTHON="apptainer run x")
    assert called[2:] == ["apptainer", "run", "x", "-m", "picjax.eval", "--num=3"]


@pytest.mark.parametrize(
    ("code", "restarts", "expected"),
    [(75, 0, True), (137, 19, True), (75, 20, False), (2, 0, False), (1, 0, False)],
)
def test_what_may_succeed_is_requeued_at_most_20_times(batch, code, restarts, expected):
    exited, requeued, _ = batch(code=code, SLURM_RESTART_COUNT=str(restarts))
    assert (exited, requeued) == (code, expected)
