"""Reads compiled programs: collectives, and bytes that a device moves.

The text is XLA's HLO after compilation. A type such as `f32[4,8]{1,0:T(8,128)S(1)}` has the
order of the axes in memory, the last one first, the tile that they are padded to, and the
memory: none is the device's main one, 1 and above lie on the chip.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_COMPUTATION = re.compile(r"(?:ENTRY )?%?(\S+) .*\{$")
# An asynchronous one is two operations, of which `-start` names the arrays.
_COLLECTIVE = re.compile(
    rf"\s*(?:ROOT )?\S+ = (.*?) ({'|'.join(KINDS)})(-start)?\((.*)$"
)
_OPERATION = re.compile(r"\s*(?:ROOT )?%?(\S+) = (.*?) ([a-z][a-z\d-]*)\((.*)$")
_ARRAY = re.compile(r"\b(?:pred|[a-z]+?(\d+)\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.-]+)")
_LOOP = re.compile(r"condition=%?([\w.-]+), body=%?([\w.-]+)")
_CALLED = re.compile(r"(?:to_apply|_computations?)=\{?((?:%[\w.-]+(?:, )?)+)")
_TRIPS = re.compile(r" constant\((\d+)\)")
_TILE = re.compile(r"T\(([\d,]+)\)")
_ON_CHIP = re.compile(r"S\([1-9]")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_GROUP = re.compile(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)\})")
_AXES = re.compile(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\S+)? \{(.*?)\}")
_DEVICES = re.compile(r"^HloModule .*\bnum_partitions=(\d+)")


class Collectives(NamedTuple):
    """The collectives of one kind.

    Attributes:
      number: of operations; those in a loop's body count once.
      bytes: of their results on one device.
      sent: bytes that each device sends at least.
    """

    number: int
    bytes: int
    sent: float


def collectives(program: str) -> dict[str, Collectives]:
    """Kind -> its collectives, of a compiled program's text in HLO."""
    header = _DEVICES.match(program)
    devices = int(header[1]) if header else 1
    found: dict[str, Collectives] = {}
    channels, computation = set(), ""
    for line in program.splitlines():
        if opened := _COMPUTATION.match(line):
            computation = opened[1]
        operation, channel = _COLLECTIVE.match(line), _CHANNEL.search(line)
        # Overlapped with several fusions, one collective is a part of each.
        if not operation or (channel and channel[1] in channels):
            continue
        channels.add(channel and channel[1])
        result, kind, start, attributes = operation.groups()
        pairs = bool(start) and kind in ("all-gather", "collective-permute")
        size, n = result_bytes(result, pairs), group_size(attributes, devices)
        if computation.startswith("all-reduce-scatter"):  # a TPU's reduce-scatter
            kind, size = "reduce-scatter", size // n
        number, total, sent = found.get(kind, (0, 0, 0.0))
        sent += size * sent_share(kind, n)
        found[kind] = Collectives(number + 1, total + size, sent)
    return {kind: found[kind] for kind in KINDS if kind in found}


def result_bytes(result: str, pairs: bool = False) -> int:
    """Bytes of a result's type, such as `f32[4,8]{1,0}` or a tuple of them.

    Args:
      result: the type.
      pairs: whether it lists the operands, too, before the results and scalar contexts.
    """
    found = arrays(result)
    if pairs:
        found = [x for x in found if x.shape]
        found = found[len(found) // 2 :]
    return sum(x.bytes for x in found)


def group_size(attributes: str, devices: int) -> int:
    """How many devices take part in a collective; all if no groups are named."""
    if axes := _AXES.search(attributes):
        lengths = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        # Of an axis, a part may take part: 'axis':(2)4 is one of length 4.
        named = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", axes[2])
        return math.prod(int(part or lengths[name]) for name, part in named)
    group = _GROUP.search(attributes)
    if group is None:
        return devices
    return int(group[1]) if group[1] else group[2].count(",") + 1


def sent_share(kind: str, n: int) -> float:
    """Bytes that each of n devices sends at least, per byte of the result on one.

    References:
      Chan et al., "Collective communication: theory, practice, and experience", 2007,
      section 4: the lower bounds for bandwidth, which rings attain.
    """
    return {
        "all-reduce": 2 * (n - 1) / n,
        "all-gather": (n - 1) / n,
        "reduce-scatter": n - 1.0,
        "all-to-all": (n - 1) / n,
        "collective-permute": 1.0,
    }[kind]


# ---- traffic ----


class TypedArray(NamedTuple):
    """The type of an array.

    Attributes:
      bits: of an element.
      shape: its shape.
      layout: the order of its axes, tile and memory; may be empty.
    """

    bits: int
    shape: tuple[int, ...]
    layout: str

    @property
    def bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.bits // 8

    @property
    def traffic(self) -> int:
        """Bytes that move if it is read or written: padded, and 0 if it is on the chip."""
        if _ON_CHIP.search(self.layout):
            return 0
        order, _, rest = self.layout.partition(":")
        tile = _TILE.search(rest)
        if not tile or not self.shape or not order:
            return self.bytes
        lengths = [self.shape[int(axis)] for axis in order.split(",")]
        sides = [int(side) for side in reversed(tile[1].split(","))]
        lengths += [1] * (len(sides) - len(lengths))
        padded = [-(-n // side) * side for n, side in zip(lengths, sides)]
        return math.prod(padded + lengths[len(sides) :]) * self.bits // 8


def arrays(kind: str) -> list[TypedArray]:
    """The arrays of a type, which may be a tuple."""
    return [
        TypedArray(
            int(bits or 8), tuple(map(int, filter(None, shape.split(",")))), rest
        )
        for bits, shape, rest in _ARRAY.findall(kind)
    ]


# What moves nothing; the bodies of loops and calls are counted by themselves.
FREE = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "iota")
FREE += ("after-all", "opt-barrier", "partition-id", "replica-id")
CALLS = ("conditional", "call")
SLICES = ("slice", "dynamic-slice", "slice-start", "dynamic-slice-start")


def memory_traffic(program: str) -> float:
    """Bytes that a device reads from its main memory and writes to it, padding included.

    Every operation reads its operands and writes its results once. The body of a loop
    counts as often as it runs, if its condition compares with a constant, otherwise once;
    of branches, all count.
    """
    computations: dict[str, list[str]] = {}
    lines, entry = [], ""
    for line in program.splitlines():
        if opened := _COMPUTATION.match(line):
            lines = computations.setdefault(opened[1], [])
            entry = opened[1] if line.startswith("ENTRY") else entry
        else:
            lines.append(line)

    def traffic(name: str) -> float:
        total, types = 0.0, {}
        for match in filter(None, map(_OPERATION.match, computations.get(name, ()))):
            result, kind, operation, rest = match.groups()
            types[result] = kind
            if loop := _LOOP.search(rest):
                total += trips(computations.get(loop[1], ())) * traffic(loop[2])
            elif operation in CALLS:
                names = _NAME.findall(" ".join(_CALLED.findall(rest)))
                total += sum(map(traffic, names))
            elif operation not in FREE:
                names = _NAME.findall(rest.partition("), ")[0])
                total += moved(operation, kind, [types[n] for n in names if n in types])
        return total

    return traffic(entry)


def trips(condition: Sequence[str]) -> int:
    """How often a loop runs whose counter starts at 0; 1 if its condition hides it."""
    constants = [int(x[1]) for x in map(_TRIPS.search, condition) if x]
    return constants[0] if len(constants) == 1 else 1


def moved(operation: str, result: str, operands: Sequence[str]) -> int:
    """Bytes that an operation moves, from the types of its result and operands.

    An asynchronous one reads in its `-start`, and writes in its `-done`.
    """
    read = sum(x.traffic for operand in operands for x in arrays(operand))
    written = sum(x.traffic for x in arrays(result))
    if operation in SLICES and read:
        parts = [x for x in arrays(result) if x.shape]
        read = min(read, parts[-1]._replace(layout="").bytes)
    if operation.endswith("-start"):
        return read
    return written if operation.endswith("-done") else read + written
