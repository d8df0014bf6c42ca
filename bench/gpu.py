"""Everything that docs/speed.md wants from a GPU, in one command.

    python -m bench.gpu [--json runs/gpu.json] [--minutes 8]
    python -m bench.gpu --only "step picmm,network"  # cases whose name has one of these
    python -m bench.gpu --tiny                       # a rehearsal on a CPU
    python -m bench.gpu --table runs/gpu.json        # its tables, as Markdown

Each case is a process of its own, one at a time: memory is free again after it, a failure
is one line of the result, and both frameworks choose their kernels undisturbed. The most
important cases come first. The result is written after each; the same command goes on
with what is missing when it is started again. PyTorch is measured where it is installed
with CUDA: alternating with picjax, except at the largest batch, which leaves no room.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import step, table
from bench.gpu_case import OUT_OF_MEMORY, Case, sentence
from picjax import cli, files
from picjax.cli import UserError

FEWEST = {"picmm": 2}  # images in a step; its official batch norm takes no single one
LARGEST = 256  # where the search for the largest batch stops
LIMIT = 180.0  # seconds that a case may take


def make_cases(peers: bool, tiny: bool = False) -> list[Case]:
    """All cases, the most important ones first.

    Args:
      peers: whether PyTorch is there.
      tiny: whether networks and images are small.
    """
    ours, eager, pair = ("picjax",), ("eager",), ("picjax", "eager")
    compiled = "eager", "compiled"
    single, half = "float32", "bfloat16"
    methods = [(method, FEWEST.get(method, 1)) for method in step.VARIANTS]
    others = [
        *(("complete", method, single, 1) for method in step.PAIRED),
        ("network", "painter", half, 1),
        ("features", "inception", single, 64),
        *(("complete", method, half, 1) for method in step.PAIRED),
        ("network", "painter", half, 8),
        ("network", "painter", single, 1),
    ]
    cases = [
        *(Case("step", m, single, b, pair) for m, b in methods),
        *(Case("step", m, half, 0, ours) for m, _ in methods),
        Case("sample", "pixelcnn", single, 16, ("picjax", "naive")),
        Case("walk", "painter", half, 1, ours),
        *(Case(*other, pair) for other in others),
        *(Case("step", m, half, 0, eager) for m, _ in methods),
        *(Case("step", m, half, b, pair) for m, b in methods),
        *(Case("step", m, single, 0, ours) for m, _ in methods),
        *(Case("step", m, single, b, compiled) for m, b in methods),
        *(Case("step", m, half, 0, ("compiled",)) for m, _ in methods),
        *(Case(*other, compiled) for other in others),
        *(Case("step", m, half, b, compiled) for m, b in methods),
        *(Case("step", m, single, 0, eager) for m, _ in methods),
        *(Case("step", m, single, 0, ("compiled",)) for m, _ in methods),
        Case("walk", "painter", half, 8, ours),
        Case("sample", "pixelcnn", single, 1, ("picjax", "naive")),
    ]
    if not peers:
        cases = [c._replace(runs=without(c.runs, compiled)) for c in cases]
        cases = [case for case in cases if case.runs]
    if tiny:
        cases = [c._replace(batch=min(c.batch, 2), tiny=True) for c in cases]
    return list({case.name: case for case in cases}.values())


def without(runs: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """The runs that are not among the others."""
    return tuple(run for run in runs if run not in others)


# ---- all cases ----


def ask(values: Mapping[str, Any], limit: float) -> table.Row:
    """What bench.gpu_case prints, or an `error`.

    Args:
      values: a case, or none: the machine.
      limit: seconds.
    """
    environment = {  # JAX leaves the peer its memory; one card is measured
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95",
        "CUDA_VISIBLE_DEVICES": "0",
        **os.environ,
    }
    command = [sys.executable, "-m", "bench.gpu_case", json.dumps(values)]
    options: Any = {"capture_output": True, "text": True, "env": environment}
    try:
        done = subprocess.run(command, check=False, timeout=limit, **options)
    except subprocess.TimeoutExpired:
        return {"error": f"stopped after {limit:.0f} s"}
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        known = sentence(done.stderr) == OUT_OF_MEMORY
        return {"error": OUT_OF_MEMORY if known else sentence(last[0])}
    return json.loads(done.stdout.splitlines()[-1])


def ask_case(case: Case, results: Mapping[str, Any], limit: float) -> table.Row:
    """The result of a case; if it is for the largest batch, of the first that fits."""
    stop = time.monotonic() + limit
    batch = case.batch or first_batch(case, results)
    while True:
        values = case._replace(batch=batch)._asdict()
        entry = ask(values, max(stop - time.monotonic(), 1))
        errors = [run.get("error") for run in (entry, *entry.get("runs", {}).values())]
        if case.batch or batch == 1 or OUT_OF_MEMORY not in errors:
            return entry
        batch //= 2


def first_batch(case: Case, results: Mapping[str, Any]) -> int:
    """The batch with which the search for the largest begins, a power of two.

    PyTorch's begins with ours. Ours begins with twice the number of images that fit for
    sure, by XLA's count for the smallest batch in float32; bfloat16 takes half of that.
    """
    if case.tiny:
        return 2
    for entry in results["cases"].values():
        other = Case.read(entry["case"])
        run = entry.get("runs", {}).get("picjax", {})
        if "per s" not in run or (other.what, other.method) != (case.what, case.method):
            continue
        if "picjax" not in case.runs and other.dtype == case.dtype and entry["largest"]:
            return other.batch
        if "picjax" in case.runs and other.dtype == "float32" and not entry["largest"]:
            free = results["machine"]["memory MiB"] - run["arguments MiB"]
            images = other.batch * free / run["temporary MiB"]
            images *= 2 if case.dtype == "float32" else 4
            return 2 ** (int(min(max(images, 1), LARGEST)).bit_length() - 1)
    return 32


def measure_all(
    cases: Sequence[Case], results: dict[str, Any], path: Path, minutes: float
) -> None:
    """Measure the cases that `results` lacks, and write it to a file after each.

    Args:
      cases: the most important first.
      results: `machine` and `cases`, name -> result; changed.
      path: of the file.
      minutes: after which no case begins; one that has begun is stopped.
    """
    stop = time.monotonic() + 60 * minutes
    path.parent.mkdir(parents=True, exist_ok=True)
    for case in cases:
        if "skipped" not in results["cases"].get(case.name, {"skipped": ""}):
            continue
        start = time.monotonic()
        left = stop - start
        entry: table.Row = {"skipped": "no time left"}
        if left > 1:
            entry = ask_case(case, results, min(left, LIMIT))
            if left < LIMIT and str(entry.get("error")).startswith("stopped after"):
                entry = {"skipped": f"no time left ({entry['error']})"}
        taken = time.monotonic() - start
        entry = {"case": case._asdict(), **entry, "largest": not case.batch}
        results["cases"][case.name] = {**entry, "wall s": taken}
        files.write_text(path, json.dumps(results, indent=1))
        said = entry.get("skipped") or entry.get("error") or brief(entry)
        print(f"{taken:5.0f} s  {case.name}: {said}", file=sys.stderr, flush=True)


def brief(entry: Mapping[str, Any]) -> str:
    """A result in a line."""
    return ", ".join(
        f"{who} {table.text(run['per s'])}/s" if "per s" in run else run["error"]
        for who, run in entry["runs"].items()
    )


def load(path: Path, about: table.Row) -> dict[str, Any]:
    """The results in a file, to be added to; none if it is not there.

    Raises:
      UserError: if they are of another device, version or commit.
    """
    if not path.exists():
        return {"machine": about, "cases": {}}
    results = json.loads(path.read_text())
    for key in ("device", "jax", "peers", "commit", "tiny"):
        if results["machine"][key] != about[key]:
            raise UserError(
                f"--json '{path}' holds results with another {key} "
                f"({results['machine'][key]}, now {about[key]}); use another file"
            )
    return results


# ---- tables ----

TABLES = {
    "Training step, images/s": ("step",),
    "Completions/s": ("complete", "sample", "walk"),
    "Networks, images/s": ("network", "features"),
}
PEERS = {"eager": "x eager", "compiled": "x compiled", "naive": "x naive"}


def markdown(results: Mapping[str, Any]) -> str:
    """The tables of docs/speed.md, and what was not measured."""
    rows: dict[tuple[Any, ...], dict[str, table.Row]] = {}
    missing = []
    for name, entry in results["cases"].items():
        case = Case.read(entry["case"])
        batch = "largest" if entry["largest"] else case.batch
        key = case.what, case.method, case.dtype, batch
        for who, run in entry.get("runs", {"": entry}).items():
            if "per s" in run:
                own = rows.setdefault(key, {})
                own.setdefault(who, {**run, "batch": case.batch})
            else:
                said = run.get("skipped") or run.get("error")
                missing.append(f"- {name}{f' ({who})' if who else ''}: {said}")
    about = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    lines = [f"Measured on: {about}.", ""]
    for title, whats in TABLES.items():
        chosen = {key: runs for key, runs in rows.items() if key[0] in whats}
        lines += [f"### {title}", "", *table_lines(chosen), ""] if chosen else []
    return "\n".join(lines + (["Not measured:", "", *missing] if missing else []))


def table_lines(rows: Mapping[tuple[Any, ...], Mapping[str, table.Row]]) -> list[str]:
    """One table: (what, method, dtype, batch) -> run -> its numbers."""
    heads = ["case", "picjax", "% of peak", *PEERS.values(), "ready s", "peak MiB"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (what, method, dtype, batch), runs in rows.items():
        ours = runs.get("picjax", {})
        if batch == "largest":
            batch = f"{ours.get('batch', '-')} (largest)"
        cells = [f"`{method}` {what}, {dtype}, batch {batch}"]
        cells += [table.text(ours.get(name)) for name in ("per s", "% of peak")]
        cells += [versus(ours, runs.get(who)) for who in PEERS]
        cells += [table.text(ours.get(name)) for name in ("ready s", "peak MiB")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def versus(ours: table.Row, peer: table.Row | None) -> str:
    """Our rate over a peer's, with the peer's batch if it is another."""
    if not ours or not peer:
        return ""
    at = "" if peer["batch"] == ours["batch"] else f" (batch {peer['batch']})"
    return f"{ours['per s'] / peer['per s']:.2f}{at}"


# ---- command line ----


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = table.parser(__doc__)
    parser.set_defaults(json="runs/gpu.json")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--only", default="", metavar="WORDS,..")
    parser.add_argument("--tiny", action="store_true", help="on a CPU")
    parser.add_argument("--table", metavar="FILE", help="print its tables, and no more")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring.

    Raises:
      UserError: if there is no GPU, or the file is of another one.
    """
    args = make_parser().parse_args(argv)
    if args.table:
        print(markdown(json.loads(Path(args.table).read_text())))
        return
    about = {**ask({}, LIMIT), "tiny": args.tiny}
    if about.get("error"):
        raise UserError(
            f"JAX finds no device ({about['error']}); mend its installation"
        )
    if about["platform"] == "cpu" and not args.tiny:
        raise UserError(
            "there is no GPU for bench.gpu; pip install -e '.[cuda]' where one is, "
            "or rehearse with --tiny"
        )
    path = Path(args.json)
    results = load(path, about)
    words = [word.strip() for word in args.only.split(",")]
    cases = make_cases(about["peers"] != "absent", args.tiny)
    chosen = [case for case in cases if any(word in case.name for word in words)]
    if not chosen:
        raise UserError(
            f"--only '{args.only}' is in the name of no case; use words such as "
            f"'{cases[0].name}'"
        )
    measure_all(chosen, results, path, args.minutes)
    print(markdown(results))


if __name__ == "__main__":
    cli.run(main)
