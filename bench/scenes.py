"""How close each method comes to the true posterior of `scenes`.

    python -m bench.scenes --configs picmm:scenes,picnet:scenes --seeds 3 --out runs/scenes

Trains every config with every seed by the commands that users run, evaluates it on
held-out scenes and prints one row per config: share of modes found, total variation from
the true probabilities, share of valid completions (docs/scenes.md). Finished runs are only
read, so a table can be extended. INADE's scenes are measured by `bench.styles`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from bench import table

METRICS = (
    "modes_found",
    "total_variation",
    "total_variation_floor",
    "image_total_variation",
    "image_total_variation_floor",
    "valid",
)


def command(module: str, *flags: str, core: int | None) -> None:
    """Run a command of picjax, on one core if `core` is given.

    Raises:
      RuntimeError: with the end of the command's error output, if it fails.
    """
    pin = ["taskset", "-c", str(core)] if core is not None else []
    done = subprocess.run(
        [*pin, sys.executable, "-m", module, *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(flags)}: {done.stderr[-2000:]}")


def run(
    config: str, seed: int, args: argparse.Namespace, core: int | None
) -> dict[str, float]:
    """Metrics of one run, which is trained and evaluated if it does not exist yet."""
    workdir = Path(args.out) / f"{config.replace(':', '-')}-{seed}"
    found = workdir / "eval" / "metrics.json"
    if not found.exists():
        command(
            "picjax.train",
            f"--config={config}",
            f"--config.seed={seed}",
            f"--workdir={workdir}",
            *[flag for flag in args.extra if flag != "--"],
            core=core,
        )
        command(
            "picjax.eval",
            f"--workdir={workdir}",
            f"--num={args.num}",
            f"--images={args.images}",
            "--metrics=posterior",
            core=core,
        )
    results = json.loads(found.read_text())["results"]
    numbers = {name: results[f"posterior/{name}"] for name in METRICS}
    last = (workdir / "metrics.jsonl").read_text().splitlines()[-1]
    values = {name: _only(_only(tree))["value"] for name, tree in numbers.items()}
    return values | {"minutes": json.loads(last)["seconds"] / 60}


def _only(tree: dict) -> dict:
    """The value of a dict with one entry."""
    (value,) = tree.values()
    return value


def row(config: str, runs: list[dict[str, float]]) -> table.Row:
    """Mean, least and greatest value over the seeds."""
    columns: table.Row = {"config": config, "seeds": len(runs)}
    for name in runs[0]:
        values = [r[name] for r in runs]
        columns[name] = f"{statistics.fmean(values):.3f}"
        if len(runs) > 1 and not name.endswith("_floor"):
            columns[name] += f" ({min(values):.3f}..{max(values):.3f})"
    return columns


def main() -> None:
    """The command; see the module's docstring."""
    parser = table.parser(__doc__)
    parser.add_argument(
        "--configs",
        default="picmm:scenes,picnet:scenes,pix2pix:scenes,pixelcnn:scenes,painter:scenes",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--num", type=int, default=50, help="completions of each")
    parser.add_argument("--out", default="runs/scenes", help="folder of the runs")
    parser.add_argument(
        "--pin", action="store_true", help="one run per core, in parallel"
    )
    parser.add_argument(
        "extra", nargs=argparse.REMAINDER, help="-- further flags of picjax.train"
    )
    args = parser.parse_args()
    cores: Queue[int | None] = Queue()
    for core in sorted(os.sched_getaffinity(0)) if args.pin else [None]:
        cores.put(core)

    def work(job: tuple[str, int]) -> dict[str, float]:
        core = cores.get()
        try:
            return run(*job, args, core)
        finally:
            cores.put(core)

    configs = args.configs.split(",")
    jobs = [(config, seed) for seed in range(args.seeds) for config in configs]
    with ThreadPoolExecutor(cores.qsize()) as pool:
        done = dict(zip(jobs, pool.map(work, jobs), strict=True))
    rows = [row(c, [done[c, s] for s in range(args.seeds)]) for c in configs]
    title = f"scenes, held out: {args.images} images, {args.num} completions each"
    table.report({title: rows}, table.machine(), args.json)


if __name__ == "__main__":
    main()
