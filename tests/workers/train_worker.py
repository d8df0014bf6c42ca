"""Trains in a process of its own, for tests of kills, devices and processes.

python tests/workers/train_worker.py DEVICES --config=... --workdir=...
"""

import sys

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))

from picjax import cli, train

if __name__ == "__main__":
    cli.run(lambda: train.main(sys.argv[2:]))
