"""Training speed at the published 256 px width beside the official step in PyTorch.

    python -m bench.train [--system picmm] [--batches 2,8] [--dtypes float32,bfloat16]
    python -m bench.train --quick       # one setting, a few steps
    python -m bench.train --json FILE

Images/s measured alternately with the peer, compile time cold and from JAX's persistent
cache, peak memory, FLOPs, share of the time spent waiting for data (not of `inade`, which
reads label maps), and cost of a save.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median

from bench import data, step, table
from bench.step import Setting


def prepare_environment(cache: Path) -> None:
    """Set JAX's compilation cache for this process and its children, before JAX loads."""
    os.environ.update(
        JAX_COMPILATION_CACHE_DIR=str(cache),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        XLA_PYTHON_CLIENT_PREALLOCATE="false",  # the peer shares the device
    )


def child(framework: str, setting: Setting) -> dict[str, float]:
    """Compile time, FLOPs and peak memory of a step, measured in a separate process."""
    command = [sys.executable, "-m", "bench.step", framework]
    command += [f"--dtype={setting.dtype}", f"--batch={setting.batch}"]
    command += [f"--size={setting.size}", f"--system={setting.system}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@cache
def matmul_rate(dtype: str, size: int = 4096) -> float:
    """FLOP/s of a large matrix product, the device's practical peak."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda x: x @ x)
    run = {"product": lambda: jax.block_until_ready(product(x))}
    return 2 * size**3 / min(table.interleave(run, 3)["product"])


def percent_of_peak(rate: float, dtype: str) -> float | None:
    """A rate in FLOP/s as a share of the first device's stated peak, if that is known."""
    import jax

    from picjax.plan import stated_peak

    peak = stated_peak(jax.devices()[0].device_kind, dtype)
    return 100 * rate / peak if peak else None


def speed(setting: Setting, rounds: int, cost: dict[str, float]) -> table.Row:
    """Images/s of ours and of the peer's, alternating step by step."""
    compiled = step.compile_jax(setting)
    runs: dict[str, Callable[[], object]] = {
        "ours": step.jax_run(compiled),
        "peer": step.torch_run(setting, autocast=False),
    }
    if setting.dtype == "bfloat16":
        runs["peer bf16"] = step.torch_run(setting, autocast=True)
    seconds = table.interleave(runs, rounds, warmup=2)
    flops = cost["GFLOP"] * 1e9 / median(seconds["ours"])
    row = {
        "step": f"{setting.dtype}, batch {setting.batch}",
        "picjax images/s": setting.batch / median(seconds["ours"]),
        "torch float32 images/s": setting.batch / median(seconds["peer"]),
        "x torch float32": table.ratio(seconds["ours"], seconds["peer"]),
        "torch autocast images/s": None,
        "x torch autocast": None,
        "GFLOP/s": flops / 1e9,
        "% of a matmul's": 100 * flops / matmul_rate(setting.dtype),
        "% of peak": percent_of_peak(flops, setting.dtype),
    }
    if "peer bf16" in seconds:
        row["torch autocast images/s"] = setting.batch / median(seconds["peer bf16"])
        row["x torch autocast"] = table.ratio(seconds["ours"], seconds["peer bf16"])
    return row


def costs(setting: Setting, cold: table.Row, cached: table.Row, peer: table.Row):
    """The table row of compile times and memory."""
    return {
        "step": f"{setting.dtype}, batch {setting.batch}",
        "trace s": cold["trace s"],
        "compile s, cold": cold["compile s"],
        "compile s, cached": cached["compile s"],
        "GFLOP": cold["GFLOP"],
        "peak MiB, picjax": cached["peak MiB"],  # without the memory of compilation
        "peak MiB, torch": peer["peak MiB"],
        "XLA temporary MiB": cold["XLA temporary MiB"],
        "device MiB, picjax": cold.get("device peak MiB"),
        "device MiB, torch": peer.get("device peak MiB"),
    }


def across(setting: Setting) -> int:
    """Number of pictures per file of the training data."""
    return 2 if setting.system == "pix2pix" else 1


def waiting(setting: Setting, root: Path, steps: int) -> table.Row:
    """Share of a real run's time spent waiting for data, after its first steps.

    The run is `picjax.train` itself on a folder of JPEG files; it reports the share.
    """
    data.write_jpegs(root / "jpeg", 200, across(setting))
    every = max(steps // 4, 1)
    command = [sys.executable, "-m", "picjax.train"]
    variant = step.VARIANTS[setting.system]
    command += [f"--config=configs/{setting.system}.py:{variant}"]
    command += [f"--workdir={root / 'run'}", f"--config.data.path={root / 'jpeg'}"]
    command += [f"--config.batch_size={setting.batch}", f"--config.steps={steps}"]
    command += [f"--config.log_every={every}", f"--config.image_size={setting.size}"]
    command += [f"--config.model.dtype={setting.dtype}", "--config.samples=1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    lines = (root / "run" / "metrics.jsonl").read_text().splitlines()
    shares = [json.loads(line)["data_wait"] for line in lines]
    return {
        "step": f"{setting.dtype}, batch {setting.batch}",
        "% waiting for data": 100 * median(shares[1:]),
        "highest %": 100 * max(shares[1:]),
        "steps": every * (len(shares) - 1),
    }


def saving(setting: Setting, root: Path, rounds: int, steps: int = 3) -> table.Row:
    """Share of time that background saves add to a run that saves every 1,000 steps."""
    import jax

    from picjax.saving import Checkpoints

    compiled = step.compile_jax(setting)
    state = compiled.state
    blocked = []

    def run(save: bool) -> None:
        nonlocal state
        if save:
            start = time.perf_counter()
            saved.save(state, {})
            blocked.append(time.perf_counter() - start)
        for _ in range(steps):
            state, metrics = compiled.step(state, compiled.batch)
            jax.block_until_ready(metrics)
        saved.wait()

    with Checkpoints(root / "saves", 3, "") as saved:
        runs = {"plain": lambda: run(False), "save": lambda: run(True)}
        seconds = table.interleave(runs, rounds)
    plain = median(seconds["plain"])
    pairs = zip(seconds["save"], seconds["plain"], strict=True)
    added = median(a - b for a, b in pairs)
    return {
        "step": f"{setting.dtype}, batch {setting.batch}",
        "step s": plain / steps,
        "loop held s": median(blocked),
        "added s": added,
        "% at 1,000 steps": 100 * added / (1000 * plain / steps),
    }


def main() -> None:
    parser = table.parser(__doc__)
    parser.add_argument("--batches", default="2,8")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--system", default="picmm", choices=step.PAIRED)
    parser.add_argument("--quick", action="store_true", help="float32, batch 2 only")
    args = parser.parse_args()
    if args.quick:
        args.batches, args.dtypes, args.rounds = "2", "float32", 3
    settings = step.settings(args)
    speeds, prices, first = [], [], settings[0]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        prepare_environment(root / "cache")
        about = table.machine()
        for setting in settings:
            print(f"{setting.dtype}, batch {setting.batch} ..", file=sys.stderr)
            cold, cached = child("jax", setting), child("jax", setting)
            prices.append(costs(setting, cold, cached, child("torch", setting)))
            speeds.append(speed(setting, args.rounds, cold))
        steps = 8 if args.quick else 40
        waits = [] if args.system == "inade" else [waiting(first, root, steps)]
        saves = [saving(first, root, args.rounds)]
    tables = {
        f"Training step of {args.system}, {args.size} px": speeds,
        "Compile time and peak memory": prices,
        "Waiting for data": waits,
        "A save in the background": saves,
    }
    table.report({k: rows for k, rows in tables.items() if rows}, about, args.json)


if __name__ == "__main__":
    main()
