"""make fuzz: tries many cases, chunk by chunk, and resumes where it was stopped.

    python tests/workers/run_fuzz.py --cases 10000 --seed 0 --out runs/fuzz.json

A chunk has cases of every kind and a seed of its own, so a failure is found again by
`--chunk N`. After each chunk the figures are written; the same command goes on from there.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import hypothesis
from helpers.fuzz.kinds import KINDS, QUIET

from picjax.files import write_text

CHUNK = 100  # cases, of every kind by its share


def run_chunk(kind: str, count: int, seed: int) -> tuple[Counter[str], str]:
    """Try cases of one kind.

    Returns:
      Numbers of tried, refused, right and wrong cases, and the smallest failing case.
    """
    cases, check, _ = KINDS[kind]
    counts: Counter[str] = Counter()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=QUIET,
        report_multiple_bugs=False,
    )
    @hypothesis.given(cases)
    def holds(case: Any) -> None:
        counting = not counts["wrong"]  # afterwards the failure is made smaller
        try:
            outcome = check(case)
        except Exception:
            counts.update(["wrong", "tried"] if counting else [])
            raise
        counts.update([outcome, "tried"] if counting else [])

    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            holds()
    except Exception as error:  # noqa: BLE001 (the failure, as hypothesis reports it)
        notes = "\n".join(getattr(error, "__notes__", ()))
        return counts, f"{type(error).__name__}: {error}\n{notes}"
    return counts, ""


def main() -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/fuzz.json")
    parser.add_argument("--chunk", type=int, help="only this one, of every kind")
    args = parser.parse_args()
    out = Path(args.out)
    state: dict[str, Any] = {"seed": args.seed, "chunks": 0, "seconds": 0.0}
    state |= {"counts": {kind: {} for kind in KINDS}, "failures": []}
    if out.exists() and args.chunk is None:
        earlier = json.loads(out.read_text())
        state = earlier if earlier["seed"] == args.seed else state
    while args.chunk is not None or tried(state) < args.cases:
        chunk = state["chunks"] if args.chunk is None else args.chunk
        start = time.perf_counter()
        for kind, (_, _, share) in KINDS.items():
            seed = args.seed * 10**6 + chunk
            counts, failure = run_chunk(kind, CHUNK * share // 100, seed)
            state["counts"][kind] = dict(Counter(state["counts"][kind]) + counts)
            if failure:
                state["failures"].append(
                    {"kind": kind, "chunk": chunk, "what": failure}
                )
                print(f"\n{kind}, --chunk {chunk}: {failure}\n", flush=True)
        state["chunks"] = chunk + 1
        state["seconds"] += time.perf_counter() - start
        if args.chunk is None:
            write_text(out, json.dumps(state, indent=2) + "\n")
        print(summary(state), flush=True)
        if args.chunk is not None:
            break
    sys.exit(1 if state["failures"] else 0)


def tried(state: dict[str, Any]) -> int:
    """The number of cases so far."""
    return sum(counts.get("tried", 0) for counts in state["counts"].values())


def summary(state: dict[str, Any]) -> str:
    """One line: tried, refused, right, wrong."""
    total = sum((Counter(counts) for counts in state["counts"].values()), Counter())
    names = ("tried", "refused", "right", "wrong")
    numbers = "  ".join(f"{name} {total[name]:,}" for name in names)
    return f"{numbers}  ({state['seconds']:.0f} s)"


if __name__ == "__main__":
    main()
