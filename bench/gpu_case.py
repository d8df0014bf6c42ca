"""One case of bench.gpu, in the process that is started for it.

python -m bench.gpu_case JSON    # prints what `measure` returns, or of {} `machine`
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from statistics import median, quantiles
from typing import Any, NamedTuple

from bench import step, table

COMMIT = "$Format:%H$"  # filled in by `git archive`
NUM = 10  # completions of an image
SECONDS = 5.0  # of timed rounds in a case
OUT_OF_MEMORY = "out of memory"


class Case(NamedTuple):
    """What one process measures.

    Attributes:
      what: a key of BUILDERS.
      method: picjax's name of it.
      dtype: float32, or bfloat16 (PyTorch: autocast).
      batch: images; 0: as many as fit.
      runs: what is timed in alternation: picjax, naive (PixelCNN++ pixel by pixel), eager
        and compiled (PyTorch).
      tiny: whether networks and images are small.
    """

    what: str
    method: str
    dtype: str
    batch: int
    runs: tuple[str, ...]
    tiny: bool = False

    @property
    def name(self) -> str:
        """Unique among the cases."""
        batch = self.batch or "largest"
        runs = ", ".join(self.runs)
        return f"{self.what} {self.method} {self.dtype} {batch}: {runs}"

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Case":
        """A case from JSON."""
        return cls(**{**values, "runs": tuple(values["runs"])})

    @property
    def setting(self) -> step.Setting:
        """The same for bench.step and bench.complete."""
        size = 32 if self.method == "pixelcnn" else 256
        if self.tiny:
            least = {"picmm": 128, "picnet": 128, "inade": 64, "pixelcnn": 8}
            size = least.get(self.method, 32)
        return step.Setting(self.dtype, self.batch, size, self.method, self.tiny)


# ---- what is timed ----


class Run(NamedTuple):
    """A compiled call that returns when its result is ready.

    Attributes:
      call: the call.
      number: of images or completions per call.
      flops: per call; 0: not known.
      mib: memory of its arguments and temporary memory, by XLA's count.
    """

    call: Callable[[], object]
    number: float
    flops: float = 0.0
    mib: tuple[float, float] | None = None


def build_step(case: Case, who: str) -> Run:
    """A training step."""
    if who != "picjax":
        autocast = case.dtype == "bfloat16"
        run = step.torch_run(case.setting, autocast, who == "compiled")
        return Run(run, case.batch)
    made = step.compile_jax(case.setting)
    mib = made.cost["XLA arguments MiB"], made.cost["XLA temporary MiB"]
    return Run(step.jax_run(made), case.batch, 1e9 * made.cost["GFLOP"], mib)


def build_complete(case: Case, who: str) -> Run:
    """NUM completions of each image."""
    from bench import complete

    if who == "picjax":
        made = complete.compile_completions(complete.prepare(case.setting), NUM)
        return Run(made.run, NUM * case.batch)
    run = complete.torch_completing(case.setting, NUM, who == "compiled")
    return Run(run, NUM * case.batch)


def build_sample(case: Case, who: str) -> Run:
    """PixelCNN++: whole images, with cached activations or by a pass for each pixel."""
    runs = pixel_runs(case)
    if who == "picjax":
        return Run(runs.cached, runs.drawn)
    return Run(lambda: runs.redraw(runs.start), runs.passed / runs.missing)


@cache
def pixel_runs(case: Case) -> Any:
    """Both samplers, which share compiled programs."""
    from bench import pixelcnn

    model = step.jax_config(case.setting).model
    network = pixelcnn.fresh_network(model.features, model.blocks)
    return pixelcnn.make_runs(*network, case.batch, most=8 * 2**30)["image"]


def build_network(case: Case, who: str) -> Run:
    """A pass of the painter's network."""
    from bench import unet

    config = step.jax_config(case.setting)
    if who == "picjax":
        made = unet.compile_forward(unet.prepare(config))
        return Run(made.run, case.batch, made.flops)
    net = unet.peer_network("guided", config)
    if who == "compiled":
        net.compile()
    return Run(unet.torch_calls(net, config).forward, case.batch)


def build_walk(case: Case, who: str) -> Run:
    """A completion of each image by the painter, in bench.unet's 15 calls."""
    from bench import unet

    del who  # picjax
    config = step.jax_config(case.setting)
    unet.shorten_walk(config)
    return Run(unet.compile_walk(unet.prepare(config)).run, case.batch)


def build_features(case: Case, who: str) -> Run:
    """Inception's features for FID of images in the host's memory."""
    from bench import metrics
    from picjax.evaluation.metrics import inception, layers

    tensors = layers.random_tensors(inception.shapes())
    images = metrics.pictures(case.batch)
    if who == "picjax":
        run = metrics.our_inception(tensors, "pytorch_fid", case.batch)
    else:
        run = metrics.pytorch_fid_inception(tensors, who == "compiled")
    return Run(lambda: run(images), case.batch)


BUILDERS: dict[str, Callable[[Case, str], Run]] = {
    "step": build_step,
    "complete": build_complete,
    "sample": build_sample,
    "network": build_network,
    "walk": build_walk,
    "features": build_features,
}


# ---- one case, in a process of its own ----


def measure(case: Case) -> table.Row:
    """Time a case's runs in alternation, 3 to 30 rounds; one that fails is left out.

    Returns:
      `case`; `runs`, each with its numbers or an `error`; and `x`, how many times as
      fast as each run the first one is, the median of the rounds' ratios.
    """
    found: dict[str, table.Row] = {}
    runs: dict[str, Run] = {}
    for who in case.runs:
        held, _ = memory(who)
        start = time.perf_counter()
        try:
            run = BUILDERS[case.what](case, who)
            run.call()
        except Exception as error:  # noqa: BLE001 (of several libraries)
            found[who] = {"error": sentence(f"{type(error).__name__}: {error}")}
            continue
        runs[who] = run
        ready = time.perf_counter() - start
        found[who] = {"ready s": ready, "peak MiB": (memory(who)[1] - held) / 2**20}
        if run.mib:
            found[who] |= {"arguments MiB": run.mib[0], "temporary MiB": run.mib[1]}
    calls = {who: run.call for who, run in runs.items()}
    once = table.interleave(calls, 1)  # the second call warms up
    each = sum(x[0] for x in once.values())
    rounds = 3 if case.tiny else min(max(int(SECONDS / each), 3), 30)
    timed = table.interleave(calls, rounds, warmup=0)
    for who, run in runs.items():
        found[who] |= speed(run, case.dtype, timed[who])
    first = next(iter(runs), "")
    ratios = {who: table.ratio(timed[first], x) for who, x in timed.items()}
    return {"case": case._asdict(), "runs": found, "x": ratios}


def speed(run: Run, dtype: str, seconds: Sequence[float]) -> table.Row:
    """Rate, seconds of a call, and share of the peak if both numbers are known."""
    from bench.train import percent_of_peak

    middle = median(seconds)
    low, _, high = quantiles(seconds, n=4)
    row = {
        "per s": run.number / middle,
        "seconds": middle,
        "quartiles": [low, high],
        "rounds": len(seconds),
    }
    if run.flops:
        row["% of peak"] = percent_of_peak(run.flops / middle, dtype)
        row["GFLOP"] = run.flops / 1e9
    return row


def memory(who: str) -> tuple[int, int]:
    """Bytes of the device that a framework holds now, and held at most; 0: not known.

    At most since the last call of this function; in JAX, since the process began.
    """
    if who in ("picjax", "naive"):
        import jax

        stats = jax.devices()[0].memory_stats() or {}
        return stats.get("bytes_in_use", 0), stats.get("peak_bytes_in_use", 0)
    import torch  # pyright: ignore[reportMissingImports]

    if not torch.cuda.is_available():
        return 0, 0
    found = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return found


def sentence(text: str) -> str:
    """OUT_OF_MEMORY, or an error's message in one line."""
    if "RESOURCE_EXHAUSTED" in text or OUT_OF_MEMORY in text.lower():
        return OUT_OF_MEMORY
    return " ".join(text.split())[:300]


def machine() -> table.Row:
    """Device, versions and commit."""
    import jax

    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    peers = "absent"
    if find_spec("torch"):
        import torch  # pyright: ignore[reportMissingImports]

        cuda = torch.version.cuda if torch.cuda.is_available() else None
        if cuda or device.platform == "cpu":
            peers = f"PyTorch {torch.__version__}, CUDA {cuda}"
    return {
        **table.machine(),
        "platform": device.platform,
        "memory MiB": limit / 2**20,
        "peers": peers,
        "commit": commit(),
    }


def commit() -> str:
    """The commit of this tree, also of one copied by `git archive`."""
    if not COMMIT.startswith("$"):
        return COMMIT
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def main() -> None:
    """The command; see the module's docstring."""
    values = json.loads(sys.argv[1])
    print(json.dumps(measure(Case.read(values)) if values else machine()))


if __name__ == "__main__":
    main()
