"""One of several processes that share the work of three commands, with one result.

python tests/workers/cluster_worker.py FOLDER, whose `images` are packed and completed; the
system has no networks.
"""

import sys

import jax

jax.config.update("jax_platforms", "cpu")

from helpers.evaluation import held_out
from helpers.fake_system import make_model

from picjax import cli, complete, eval
from picjax.data import pack, packing
from picjax.evaluation import examples, tasks


def main() -> None:
    folder = sys.argv[1]
    complete.load = tasks.load = lambda *_: make_model()
    examples.pipeline.eval_batches = held_out
    packing.SHARD = 2
    images = f"{folder}/images"
    run = f"--workdir={folder}"
    pack.main([images, f"--out={folder}/packed", "--size=32"])
    complete.main([run, f"--image={images}", "--mask=center", "--num=2"])
    eval.main([run, "--num=2", "--images=20", "--metrics=l1", "--baselines=none"])


if __name__ == "__main__":
    cli.run(main)
