"""Packing and reading 200,000 JPEG files beside torch's DataLoader.

    python -m bench.large [--images 200000] [--seconds 15] [--rounds 5] [--json FILE]

The 256 px files are hard links to 2,000 different ones. They are decoded at a quarter of
their size by all loaders, cropped to 56 at random, flipped, combined with a centre mask
and batched as floats. Each loader runs in a process of its own, and they take turns.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from bench import table
from bench.data import Folder, our_batches, torch_batches, write_jpegs

LOAD_SIZE, SIZE, BATCH = 64, 56, 32
DRAINED = 16  # batches that may have been waiting when a turn begins
PEER = "torch DataLoader, folder"
LOADERS = {PEER: "torch", "picjax, folder": "folder", "picjax, packed": "arrayrecord"}


def write_links(folder: Path, count: int, distinct: int) -> None:
    """Write `count` files in folders of 1,000, of which only `distinct` differ."""
    write_jpegs(folder.with_name("distinct"), distinct, quality=85)
    originals = sorted(folder.with_name("distinct").iterdir())
    for i in range(count):
        path = folder / f"{i // 1000:04}" / f"{i:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(originals[i % distinct], path)


def usage(process: psutil.Process | None = None) -> dict[str, float]:
    """Memory in MB of a process and its children together, and their CPU seconds."""
    own = process or psutil.Process()
    both = [own, *own.children(recursive=True)]
    times = [one.cpu_times() for one in both]
    return {
        "memory": sum(one.memory_full_info().pss for one in both) / 2**20,
        "cpu": sum(one.user + one.system for one in times),
    }


# ---- packing ----


def pack(folder: Path, out: Path) -> list[table.Row]:
    """Pack by the command that users run, and verify the shards; the two rows."""
    words = (str(folder), f"--out={out}", f"--size={LOAD_SIZE}")
    return [timed("pack", *words), timed("pack --check", f"--check={out}")]


def timed(name: str, *words: str) -> table.Row:
    """Time and largest memory of one command."""
    start, most = time.perf_counter(), 0.0
    command = [sys.executable, "-m", "picjax.data.pack", *words]
    with psutil.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        last: dict[str, float] = {}
        while process.poll() is None:
            time.sleep(0.5)
            try:
                last = usage(process)
            except psutil.NoSuchProcess:
                break
            most = max(most, last["memory"])
        process.wait()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    seconds = time.perf_counter() - start
    return {
        "command": name,
        "seconds": seconds,
        "CPU seconds": last["cpu"],
        "largest memory, MB": most,
    }


# ---- reading ----


def load(name: str, path: Path) -> None:
    """The process of a loader: reports its first batch, then one turn for each line."""
    start = time.perf_counter()
    batches = open_loader(name, path)
    next(batches)
    report(seconds=time.perf_counter() - start, images=BATCH)
    for line in sys.stdin:
        for _ in range(DRAINED):
            next(batches)
        before, start, count = usage()["cpu"], time.perf_counter(), 0
        while time.perf_counter() - start < float(line):
            next(batches)
            count += 1
        report(before, seconds=time.perf_counter() - start, images=count * BATCH)


def open_loader(name: str, path: Path) -> Iterator:
    """The batches of one of LOADERS."""
    if name == "torch":
        cores = len(os.sched_getaffinity(0))
        return torch_batches(Folder(path, SIZE, LOAD_SIZE), BATCH, cores, "fork")
    return our_batches(name, path, BATCH, SIZE, LOAD_SIZE)


def report(cpu_before: float = 0.0, **values: float) -> None:
    """Print a line of JSON with what this process uses."""
    found = usage()
    print(json.dumps(values | found | {"cpu": found["cpu"] - cpu_before}), flush=True)


class Loader:
    """A loader in a process of its own."""

    def __init__(self, name: str, path: Path):
        command = [sys.executable, "-m", "bench.large", "--loader", name, str(path)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.first = self.answer()
        self.turns: list[dict[str, float]] = []

    def answer(self) -> dict[str, float]:
        """What the process reports next."""
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def turn(self, seconds: float) -> None:
        """Let it read for some seconds."""
        assert self.process.stdin
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        self.turns.append(self.answer())

    @property
    def rates(self) -> list[float]:
        """Images/s of each turn."""
        return [turn["images"] / turn["seconds"] for turn in self.turns]


def read(paths: dict[str, Path], seconds: float, rounds: int) -> list[table.Row]:
    """Rates and memory of the loaders, which take turns."""
    loaders = {name: Loader(LOADERS[name], path) for name, path in paths.items()}
    for _ in range(rounds):
        for loader in loaders.values():
            loader.turn(seconds)
    for loader in loaders.values():
        loader.process.terminate()
        loader.process.wait()
    return [row(name, loader, loaders[PEER]) for name, loader in loaders.items()]


def row(name: str, loader: Loader, peer: Loader) -> table.Row:
    """A loader's row of the table."""
    images = sum(turn["images"] for turn in loader.turns)
    ratios = [a / b for a, b in zip(loader.rates, peer.rates, strict=True)]
    return {
        "source": name,
        "first batch, s": loader.first["seconds"],
        "images/s": median(loader.rates),
        "x torch": median(ratios),
        "CPU ms/image": 1e3 * sum(turn["cpu"] for turn in loader.turns) / images,
        "images": int(images),
        "MB at first": loader.first["memory"],
        "after a turn": loader.turns[0]["memory"],
        "at the end": loader.turns[-1]["memory"],
    }


def main() -> None:
    parser = table.parser(__doc__)
    parser.add_argument("--images", type=int, default=200_000, help="files (200000)")
    parser.add_argument(
        "--distinct", type=int, default=2000, help="different files (2000)"
    )
    parser.add_argument(
        "--seconds", type=float, default=15, help="length of a turn (15)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loader", nargs=2, metavar=("NAME", "PATH"), help="internal")
    args: Any = parser.parse_args()
    if args.loader:
        load(args.loader[0], Path(args.loader[1]))
        return
    about = table.machine()
    with tempfile.TemporaryDirectory() as root:
        folder, shards = Path(root, "jpeg"), Path(root, "packed")
        write_links(folder, args.images, args.distinct)
        packing = pack(folder, shards)
        paths = {PEER: folder, "picjax, folder": folder, "picjax, packed": shards}
        reading = read(paths, args.seconds, args.rounds)
    tables = {f"Packing {args.images:,} files": packing, "Reading": reading}
    table.report(tables, about, args.json)


if __name__ == "__main__":
    main()
