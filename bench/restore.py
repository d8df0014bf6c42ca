"""What comparing a checkpoint's checksums costs beside restoring it.

    python -m bench.restore --workdir=runs/demo-picmm
    python -m bench.restore --config=picmm:photos

Restores the newest checkpoint of a run, or the initial state of a config, which is saved
first. Reading follows writing or earlier rounds, so the files are in the page cache:
then the comparison costs relatively most.
"""

import statistics
import tempfile
from pathlib import Path

import jax
from etils import epath

from bench import table
from picjax import checkpoints, checksums, flags, methods, saving, train
from picjax.system import Config


def save_initial(config: Config, workdir: Path) -> None:
    """Save the initial state of a config as a run's step 0."""
    batch = jax.tree.map(
        lambda x: jax.numpy.zeros(x.shape, x.dtype), checkpoints.abstract_batch(config)
    )
    init = jax.jit(methods.make(config).init, **train.fast_compile())
    checkpoints.write_config(workdir, config)
    with saving.Checkpoints(workdir, 1, "") as saved:
        saved.save(init(batch, train.init_key(config.seed)), {})


def measure(workdir: Path, rounds: int) -> list[table.Row]:
    """Time restoring the newest checkpoint, and comparing its checksums."""
    step = checkpoints.saved_steps(workdir)[-1]
    path = epath.Path(workdir) / "checkpoints" / str(step)
    abstract = checkpoints.abstract_state(checkpoints.read_config(workdir))
    if not (path / checksums.FILE).exists():
        checksums.write(path)
    runs = {
        "restore": lambda: jax.block_until_ready(checkpoints.load_step(path, abstract)),
        "compare": lambda: checksums.verify(path),
    }
    seconds = table.interleave(runs, rounds)
    shares = [
        compare / restore
        for compare, restore in zip(*reversed(seconds.values()), strict=True)
    ]
    size = sum(p.stat().st_size for p in Path(path).rglob("*") if p.is_file())
    return [
        {
            "MB": size / 1e6,
            "arrays": len(jax.tree.leaves(abstract)),
            "restore ms": 1000 * statistics.median(seconds["restore"]),
            "compare ms": 1000 * statistics.median(seconds["compare"]),
            "share %": 100 * statistics.median(shares),
        }
    ]


def main() -> None:
    """The command; see the module's docstring."""
    parser = table.parser(__doc__)
    parser.add_argument("--workdir", default="", help="a run")
    parser.add_argument("--config", default="picmm:photos", metavar="NAME[:VARIANT]")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    about = table.machine()
    with tempfile.TemporaryDirectory() as temporary:
        workdir, name = Path(args.workdir), args.workdir
        if not args.workdir:
            workdir, name = Path(temporary), args.config
            system, _, variant = args.config.partition(":")
            save_initial(flags.make_config(system, variant, []), workdir)
        table.report(
            {f"Restoring {name}": measure(workdir, args.rounds)}, about, args.json
        )


if __name__ == "__main__":
    main()
