"""Shared by the benchmarks: alternating timing, machine, table and JSON."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

Row = dict[str, Any]


def interleave(
    runs: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each run, alternating A B A B .., so that other load affects all alike.

    Each run must return only when its result is ready; `warmup` rounds are discarded.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(warmup + rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if i >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(ours: Sequence[float], peer: Sequence[float]) -> float:
    """Our speed relative to the peer: the median over rounds of peer / ours."""
    return statistics.median(p / o for o, p in zip(ours, peer, strict=True))


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Least-squares slope: seconds per additional x."""
    x0, y0 = statistics.fmean(xs), statistics.fmean(ys)
    pairs = list(zip(xs, ys, strict=True))
    return sum((x - x0) * (y - y0) for x, y in pairs) / sum((x - x0) ** 2 for x in xs)


def machine() -> Row:
    """Processor, cores, their load, device and versions, on which results depend."""
    import jax

    packages = {}
    for name in ("jax", "torch"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "absent"
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load before": round(os.getloadavg()[0], 2),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        **packages,
    }


def processor() -> str:
    """The processor's name if the system reports it, else its architecture."""
    try:
        with open("/proc/cpuinfo") as lines:
            names = [x.split(":")[1].strip() for x in lines if x.startswith("model n")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the module's docstring, with `--json`."""
    result = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--json", metavar="FILE", help="also write the numbers here")
    return result


def text(value: object) -> str:
    """A number to three digits, a missing one as a dash."""
    if isinstance(value, bool) or not isinstance(value, float | int | None):
        return str(value)
    if value is None:
        return "-"
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def show(title: str, rows: Sequence[Row]) -> None:
    """Prints rows as a table; columns are the keys in order of appearance."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column, justify="right" if column != columns[0] else "left")
    for row in rows:
        table.add_row(*(text(row.get(column)) for column in columns))
    # A file has room for every column.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def report(
    tables: dict[str, list[Row]], about: Row, json_path: str | None = None
) -> None:
    """Prints the machine and the tables; writes the same numbers to `json_path`."""
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    for title, rows in tables.items():
        show(title, rows)
    if json_path:
        with open(json_path, "w") as file:
            json.dump({"machine": about, "tables": tables}, file, indent=1)
