"""What a signal finds, in whatever state a command is."""

import signal
import subprocess
import sys

import pytest
from helpers.processes import start_worker

STOPPED = "picjax: stopped by {}; give the same command again"


def start(state, folder):
    """A process of tests/workers/interrupted.py that has reached a state."""
    process = start_worker("interrupted", state, str(folder), stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def end(process):
    """Its exit status, and the lines of standard error."""
    _, error = process.communicate()
    return process.returncode, error.splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_folder_that_is_not_complete_does_not_appear(tmp_path, number):
    process = start("packing", tmp_path)
    process.send_signal(number)
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert end(process) == (75, [STOPPED.format(name)])
    assert not list(tmp_path.iterdir())


def test_the_files_of_a_set_appear_together(tmp_path):
    process = start("writing", tmp_path)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert not (tmp_path / "a_truth.png").exists()
    (tmp_path / "go").touch()
    assert end(process) == (75, [STOPPED.format("SIGTERM")])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"go", "a_truth.png", "a_grid.png"}


def test_a_second_ctrl_c_ends_at_once_and_in_silence(tmp_path):
    process = start("writing", tmp_path)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, [])
    assert not (tmp_path / "a_truth.png").exists()


def test_a_computation_does_not_hold_up_the_end(tmp_path):
    process = start("computing", tmp_path)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (75, [STOPPED.format("SIGTERM")])


def test_a_signal_during_imports_ends_before_the_command_starts(tmp_path):
    process = start("importing", tmp_path)
    process.send_signal(signal.SIGINT)
    (tmp_path / "go").touch()
    assert end(process) == (75, [STOPPED.format("Ctrl-C")])


def test_handlers_are_there_before_anything_slow_is_imported():
    """While Python imports the package of `python -m picjax.NAME`, argv[0] is "-m"."""
    code = (
        "import sys; sys.argv[0] = '-m'; import picjax, signal\n"
        "assert not {'jax', 'numpy'} & sys.modules.keys()\n"
        "for number in (signal.SIGTERM, signal.SIGINT):\n"
        "    assert signal.getsignal(number).__module__ == 'picjax.signals'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
