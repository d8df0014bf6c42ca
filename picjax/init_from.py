"""Starts a run from another one's weights: `picjax.train --init-from=RUN`.

Arrays are taken by name where their shapes agree; everything else keeps its initial
value, and both are listed. Optimisers start anew.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from picjax.cli import UserError
from picjax.system import State, Tree

Arrays = dict[str, Any]  # names such as `encoder/conv/kernel` -> array


class Source(NamedTuple):
    """The weights of another run.

    Attributes:
      name: where they are from.
      variables: "params" and "stats" of its inference variables.
      step: of its checkpoint.
    """

    name: str
    variables: Tree
    step: int


def compare(state: State, source: Source) -> list[str]:
    """Describe what `take` takes and what keeps its initial value, net by net.

    Args:
      state: arrays, or their shapes.
      source: the weights.

    Raises:
      UserError: if nothing fits.
    """
    ours, theirs = flatten(state.params), flatten(source.variables["params"])
    taken = {name for name, x in ours.items() if fits(x, theirs.get(name))}
    if not taken:
        raise UserError(
            f"--init-from '{source.name}' has no array of this run's networks "
            f"({', '.join(state.params)}); use a run of the same method and widths"
        )
    lines = [f"initial weights from step {source.step} of {source.name}:"]
    for net in state.params:
        names = [name for name in ours if name.split("/")[0] == net]
        left = [name for name in names if name not in taken]
        why = [difference(name, ours, theirs) for name in left[:3]]
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        listed = f"; left at their initial values: {'; '.join(why)}{more}"
        count = f"{len(names) - len(left)} of {len(names)} arrays"
        lines.append(f"  {net}: {count}{listed if left else ''}")
    unused = sorted({name.split("/")[0] for name in theirs} - set(state.params))
    return [*lines, f"  not used: {', '.join(unused)}"] if unused else lines


def take(state: State, source: Source) -> State:
    """Replace initial values by those of another run.

    Averages start from the source's inference weights, which are its averages if it has
    any.
    """
    params = flatten(source.variables["params"])
    return state.replace(
        params=overlay(state.params, params),
        stats=overlay(state.stats, flatten(source.variables["stats"])),
        ema=overlay(state.ema, params),
    )


def flatten(tree: Tree) -> Arrays:
    """The arrays of a tree by name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name_of(path): x for path, x in leaves}


def name_of(path: Any) -> str:
    """The name of a leaf, such as `encoder/conv/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def fits(ours: Any, theirs: Any) -> bool:
    """Whether an array can take the other's values."""
    return theirs is not None and ours.shape == theirs.shape


def overlay(tree: Tree, arrays: Mapping[str, Any]) -> Tree:
    """The tree with every array that fits, in its own dtype and layout."""

    def replaced(path: Any, x: jax.Array) -> jax.Array:
        theirs = arrays.get(name_of(path))
        if theirs is None or not fits(x, theirs):
            return x
        return jax.device_put(theirs.astype(x.dtype), x.sharding)

    return jax.tree_util.tree_map_with_path(replaced, tree)


def difference(name: str, ours: Arrays, theirs: Arrays) -> str:
    """Why an array was not taken."""
    if name not in theirs:
        return f"{name} is absent there"
    return f"{name} is {theirs[name].shape} there, {ours[name].shape} here"
