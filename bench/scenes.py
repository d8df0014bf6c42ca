"""How close each variant of a method comes to the true posterior of `scenes`.

    python -m bench.scenes --variants scenes,scenes-paper --seeds 3 --out runs/scenes

Trains every variant with every seed by the commands that users run, evaluates it on
held-out scenes and prints one row per variant: share of modes found, total variation from
the true probabilities, share of valid completions (docs/scenes.md). Finished runs are only
read, so a table can be extended.
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
    config: str, variant: str, seed: int, out: Path, extra: list[str], core: int | None
) -> dict[str, float]:
    """Metrics of one run, which is trained and evaluated if it does not exist yet."""
    workdir = out / f"{Path(config).stem}-{variant}-{seed}"
    found = workdir / "eval" / "metrics.json"
    if not found.exists():
        command(
            "picjax.train",
            f"--config={config}:{variant}",
            f"--config.seed={seed}",
            f"--workdir={workdir}",
            *extra,
            core=core,
        )
        command(
            "picjax.eval",
            f"--workdir={workdir}",
            "--num=50",
            "--images=192",
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


def row(variant: str, runs: list[dict[str, float]]) -> table.Row:
    """Mean, least and greatest value over the seeds."""
    columns: table.Row = {"variant": variant, "seeds": len(runs)}
    for name in runs[0]:
        values = [r[name] for r in runs]
        mean = statistics.fmean(values)
        columns[name] = (
            f"{mean:.3f} ({min(values):.3f}..{max(values):.3f})"
            if name in ("modes_found", "total_variation", "valid")
            else round(mean, 3)
        )
    return columns


def main() -> None:
    """The command; see the module's docstring."""
    parser = table.parser(__doc__)
    parser.add_argument("--config", default="configs/picmm.py")
    parser.add_argument(
        "--variants",
        default="scenes,scenes-paper,scenes-elbo,scenes-official,scenes-published",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="runs/scenes", help="folder of the runs")
    parser.add_argument(
        "--pin", action="store_true", help="one run per core, in parallel"
    )
    parser.add_argument(
        "extra", nargs=argparse.REMAINDER, help="-- further flags of picjax.train"
    )
    args = parser.parse_args()
    extra = [flag for flag in args.extra if flag != "--"]
    cores: Queue[int | None] = Queue()
    for core in sorted(os.sched_getaffinity(0)) if args.pin else [None]:
        cores.put(core)

    def work(job: tuple[str, int]) -> dict[str, float]:
        core = cores.get()
        try:
            return run(args.config, *job, Path(args.out), extra, core)
        finally:
            cores.put(core)

    variants = args.variants.split(",")
    jobs = [(variant, seed) for seed in range(args.seeds) for variant in variants]
    with ThreadPoolExecutor(cores.qsize()) as pool:
        done = dict(zip(jobs, pool.map(work, jobs), strict=True))
    rows = [row(v, [done[v, s] for s in range(args.seeds)]) for v in variants]
    title = f"scenes, held out: 192 images, 50 completions each, {args.config}"
    table.report({title: rows}, table.machine(), args.json)


if __name__ == "__main__":
    main()
