"""Reads compiled programs: which collectives one holds, and how many bytes they move."""

import re
from typing import NamedTuple

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_COLLECTIVE = re.compile(
    rf"^\s*(?:ROOT )?\S+ = (.*?) ({'|'.join(KINDS)})(?:-start)?\(", re.MULTILINE
)
_ARRAY = re.compile(r"\b(pred|[a-z]+?(\d+)\w*)\[([\d,]*)\]")


class Collectives(NamedTuple):
    """The collectives of one kind.

    Attributes:
      number: of operations; those in a loop's body count once.
      bytes: of their results on one device.
    """

    number: int
    bytes: int


def collectives(program: str) -> dict[str, Collectives]:
    """Kind -> its collectives, of a compiled program's text in HLO."""
    found = dict.fromkeys(KINDS, Collectives(0, 0))
    for result, kind in _COLLECTIVE.findall(program):
        number, size = found[kind]
        found[kind] = Collectives(number + 1, size + result_bytes(result))
    return {kind: value for kind, value in found.items() if value.number}


def result_bytes(result: str) -> int:
    """Bytes of a result's type, such as `f32[4,8]{1,0}` or a tuple of them."""
    total = 0
    for _, bits, shape in _ARRAY.findall(result):
        size = 1
        for length in shape.split(",") if shape else ():
            size *= int(length)
        total += size * int(bits or 8) // 8
    return total
