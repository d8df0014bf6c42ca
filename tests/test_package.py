"""The built package holds picjax alone, with its configs and data files."""

import os
import subprocess
import sys

import pytest
from helpers.processes import ROOT

from picjax.__main__ import COMMANDS


def test_only_picjax_is_installed(tmp_path):
    pytest.importorskip("setuptools", "77")
    lib = tmp_path / "lib"
    command = [sys.executable, "setup.py", "-q", "egg_info", f"--egg-base={tmp_path}"]
    command += ["build", f"--build-base={tmp_path}"]
    subprocess.run(command, check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    assert os.listdir(lib) == ["picjax"]
    files = {str(path.relative_to(lib)) for path in lib.rglob("*") if path.is_file()}
    assert {"picjax/configs/common.py", "picjax/configs/picmm.py"} <= files
    assert "picjax/configs.py" not in files  # for a checkout only
    assert any(name.startswith("picjax/evaluation/metrics/data/") for name in files)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_console_script_exists(command):
    path = ROOT / "picjax" / command.replace(".", "/")
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_the_console_script_lists_its_commands_and_names_unknown_ones():
    def picjax(*words):
        return subprocess.run(
            [sys.executable, "-m", "picjax", *words],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )

    done = picjax("--help")
    assert done.returncode == 0 and all(name in done.stdout for name in COMMANDS)
    done = picjax("trian")
    assert done.returncode == 2 and "did you mean 'train'" in done.stderr
    done = picjax("complete", "--image=x")
    assert done.returncode == 2 and done.stderr.startswith("picjax: ")
