"""Refusing arrays that no memory of this machine holds, before they are made."""

import math
import os
from typing import Any

import jax

from picjax.cli import UserError
from picjax.system import Tree

# An estimate is refused above so many times the memory: it is rough, and systems promise
# more memory than they have.
MANY = 4


def check_memory(what: str, size: float, how: str) -> None:
    """Refuse what is many times larger than the memory.

    Args:
      what: is made, such as `a batch`.
      size: its bytes, at least.
      how: to make it smaller.

    Raises:
      UserError: with the estimate.
    """
    limit = total_memory()
    if size > MANY * limit:
        raise UserError(
            f"{what} needs {gigabytes(size)} or more, and this machine has "
            f"{gigabytes(limit)}; {how}"
        )


def total_memory() -> float:
    """Bytes of the host or of all devices, whichever is more; infinite if unknown."""
    try:
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf
    stats = jax.local_devices()[0].memory_stats() or {}
    return float(max(host, stats.get("bytes_limit", 0) * jax.device_count()))


def gigabytes(size: float) -> str:
    """`1,234 GB`, or `0.5 GB`."""
    return f"{size / 1e9:,.0f} GB" if size >= 1e10 else f"{size / 1e9:.1f} GB"


def tree_bytes(tree: Tree) -> int:
    """Bytes of all arrays of a tree, which may be abstract."""
    return sum(array_bytes(leaf) for leaf in jax.tree.leaves(tree))


def array_bytes(array: Any) -> int:
    """Bytes of an array, or of its description; 0 for anything else."""
    try:
        return math.prod(array.shape) * array.dtype.itemsize
    except (AttributeError, TypeError):  # a token, or a random key
        return 0


def largest_array(jaxpr: Any) -> int:
    """Bytes of the largest array that a program computes, inner programs included."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    sizes = [array_bytes(x.aval) for equation in inner.eqns for x in equation.outvars]
    for equation in inner.eqns:
        sizes += map(largest_array, inner_programs(equation))
    return max(sizes, default=0)


def inner_programs(equation: Any) -> list[Any]:
    """The jaxprs that an equation of a jaxpr calls, such as a loop's body."""
    params = list(equation.params.values())
    values = jax.tree.leaves(params, is_leaf=lambda x: hasattr(x, "eqns"))
    return [x for x in values if hasattr(x, "eqns") or hasattr(x, "jaxpr")]
