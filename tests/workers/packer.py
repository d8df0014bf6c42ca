"""Packs FOLDER/images two per shard; with `kill`, dies when its first shard is complete.

python tests/workers/packer.py FOLDER [kill]
"""

import os
import signal
import sys

from picjax import cli
from picjax.data import pack, packing

folder, *words = sys.argv[1:]
packing.SHARD = 2
write_shard = packing.write_shard


def write_and_die(*args):
    write_shard(*args).result()
    os.kill(os.getpid(), signal.SIGKILL)


if words:
    packing.write_shard = write_and_die
cli.run(lambda: pack.main([f"{folder}/images", f"--out={folder}/out", "--size=16"]))
