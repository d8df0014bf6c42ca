"""Conversion between official state_dicts and picjax's variables, by one table a net.

A table is a tuple of `Site`: a layer of picjax (a regular expression on its path), its
names in the official file, and the names of its tensors there.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from picjax.cli import UserError
from picjax.system import Config, Tree


class Leaf(NamedTuple):
    """A tensor of a layer.

    Attributes:
      name: its official name.
      axes: permutation from the official axes to ours, or None.
      default: its value if the file lacks it; None: the file must have it.
    """

    name: str
    axes: tuple[int, ...] | None = None
    default: int | None = None

    def to_ours(self, x: np.ndarray) -> np.ndarray:
        return x if self.axes is None else x.transpose(self.axes)

    def to_official(self, x: np.ndarray) -> np.ndarray:
        return x if self.axes is None else x.transpose(np.argsort(self.axes))


class Site(NamedTuple):
    """A layer.

    Attributes:
      path: regular expression that matches its path in picjax.
      names: its official names, which may refer to groups of `path`; all but the first
        are aliases.
      leaves: "collection/name" -> `Leaf`.
    """

    path: str
    names: tuple[str, ...]
    leaves: Mapping[str, Leaf]


Table = tuple[Site, ...]
Shapes = Mapping[str, tuple[int, ...]]  # official name -> shape

_CONV, _TRANSPOSED = (2, 3, 1, 0), (2, 3, 0, 1)


def _spectral(axes: tuple[int, ...]) -> dict[str, Leaf]:
    return {
        "params/kernel": Leaf(".module.weight_bar", axes),
        "params/bias": Leaf(".module.bias"),
        "stats/u": Leaf(".module.weight_u"),
        "stats/v": Leaf(".module.weight_v"),
    }


SPECTRAL = _spectral(_CONV)
SPECTRAL_TRANSPOSED = _spectral(_TRANSPOSED)
CONV = {"params/kernel": Leaf(".weight", _CONV), "params/bias": Leaf(".bias")}
CONV_TRANSPOSED = CONV | {"params/kernel": Leaf(".weight", _TRANSPOSED)}
LINEAR = {"params/kernel": Leaf(".weight", (1, 0)), "params/bias": Leaf(".bias")}
NORM = {
    "params/scale": Leaf(".weight"),
    "params/bias": Leaf(".bias"),
    "stats/mean": Leaf(".running_mean"),
    "stats/var": Leaf(".running_var"),
    # PyTorch counts batches since 0.4.1; no output depends on it.
    "stats/count": Leaf(".num_batches_tracked", default=0),
}


def official_names(path: str, table: Table) -> tuple[tuple[str, ...], Leaf]:
    """The official names and the `Leaf` of "collection/layer/.../tensor".

    Raises:
      KeyError: if no row of the table matches the path.
    """
    collection, *layers, tensor = path.split("/")
    site = "/".join(layers)
    for row in table:
        match = re.fullmatch(row.path, site)
        leaf = row.leaves.get(f"{collection}/{tensor}")
        if match and leaf:
            names = (match.expand(name) + leaf.name for name in row.names)
            return tuple(name.replace("/", ".").lstrip(".") for name in names), leaf
    raise KeyError(f"{path} is in no row of the table")


def check_original(config: Config, settings: Mapping[str, Any]) -> None:
    """Refuse a config whose networks the original does not have.

    Args:
      config: the run's config.
      settings: dotted key -> its value in the original.

    Raises:
      UserError: naming the key and both values.
    """
    for key, value in settings.items():
        ours = functools.reduce(getattr, key.split("."), config)
        if ours != value:
            raise UserError(
                f"config.{key} is {ours!r}, where the original has {value!r}; only a "
                "run with the original's networks can be converted"
            )


def strip_module(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the prefix `module.` that PyTorch's DataParallel adds to every name."""
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): x for name, x in tensors.items()}
    return dict(tensors)


def from_official(
    tensors: Mapping[str, np.ndarray], target: Mapping[str, Any], table: Table
) -> dict[str, Any]:
    """Convert official tensors to variables.

    Args:
      tensors: official name -> array; aliases may be missing.
      target: {"params", "stats"} of arrays or `jax.ShapeDtypeStruct`.
      table: the net's table.

    Returns:
      Variables with the structure, shapes and types of the target.

    Raises:
      UserError: if tensors or variables remain unmatched, a shape differs, or aliases
        disagree; both sides are listed.
    """
    unused = strip_module(tensors)
    missing, problems = [], []

    def take(path: str, like: Any) -> Array:
        names, leaf = official_names(path, table)
        if names[0] not in unused:
            if leaf.default is None:
                missing.append(names[0])
            return jnp.full(like.shape, leaf.default or 0, like.dtype)
        first = np.asarray(unused.pop(names[0]))
        for alias in names[1:]:
            if alias in unused and not np.array_equal(unused.pop(alias), first):
                problems.append(
                    f"{names[0]} and {alias} should be one tensor, but differ"
                )
        ours = leaf.to_ours(first) if first.ndim == len(leaf.axes or ()) else first
        if ours.shape != like.shape:
            problems.append(f"{names[0]} is {ours.shape} here, {like.shape} in the net")
            return jnp.zeros(like.shape, like.dtype)
        return jnp.asarray(ours, like.dtype)

    variables = _map_paths(take, target)
    if missing:
        problems.append(f"the net wants {_listed(missing)} that the file lacks")
    if unused:
        problems.append(f"the file has {_listed(unused)} that the net has no place for")
    if problems:
        raise UserError(
            f"the official file does not fit this network: {'; '.join(problems)};"
            " check that file, network and widths belong together"
        )
    return variables


def to_official(variables: Mapping[str, Any], table: Table) -> dict[str, np.ndarray]:
    """Convert variables to official tensors, aliases included."""
    tensors = {}
    for path, array in _paths(variables):
        names, leaf = official_names(path, table)
        official = np.array(leaf.to_official(np.asarray(array)), order="C")
        if official.dtype.kind == "i":  # PyTorch counts in 64 bits, JAX in 32.
            official = official.astype(np.int64)
        tensors |= dict.fromkeys(names, official)
    return tensors


def _paths(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield "/".join(key.key for key in keys), leaf


def _map_paths(fn: Any, tree: Mapping[str, Any]) -> dict[str, Any]:
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: fn("/".join(key.key for key in keys), leaf), dict(tree)
    )


def _listed(names: Any, most: int = 8) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} tensor(s) ({', '.join(names[:most])}{more})"


def regroup_by_net(variables: Tree) -> dict[str, Tree]:
    """Regroup {"params": {net: ..}, ..} to {net: {"params": .., "stats": ..}}."""
    params, stats = variables["params"], variables["stats"]
    return {n: {"params": params[n], "stats": stats.get(n, {})} for n in params}
