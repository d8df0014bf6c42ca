"""Runs a command on the CPU in a process of its own, for tests of kills.

python tests/workers/command_worker.py COMMAND OPTIONS
"""

import importlib
import sys

import jax

jax.config.update("jax_platforms", "cpu")

from picjax import cli

if __name__ == "__main__":
    command = importlib.import_module(f"picjax.{sys.argv[1]}")
    cli.run(lambda: command.main(sys.argv[2:]))
