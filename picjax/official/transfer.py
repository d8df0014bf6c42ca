"""Conversion of official tensors to a run of picjax and back."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict
from orbax.checkpoint import v1 as ocp

from picjax import checkpoints as ckpt
from picjax import methods, saving, train
from picjax.cli import UserError
from picjax.methods.painter import official as painter
from picjax.official import files, mapping
from picjax.official.originals import (
    ORIGINALS,
    Tensors,
    file_names,
    needed,
    official,
)
from picjax.system import Config, State, Tree

MOVING = 0.01  # relative change of a spectral norm by one power iteration


def read_nets(
    config: Config,
    tensors: Mapping[str, Tensors],
    paths: Mapping[str, Path] | None = None,
) -> dict[str, Tree]:
    """Convert official tensors to the networks' variables.

    Args:
      config: the config of the new run.
      tensors: net -> official name -> array.
      paths: net -> its file, for errors.

    Returns:
      net -> {"params", "stats"}, for the nets in `tensors`.

    Raises:
      UserError: if a net does not fit the config, naming it, its file and the settings
        that the file has, or one that completion needs is missing.
    """
    lacking = needed(config.system) - tensors.keys()
    if lacking:
        raise UserError(
            f"no file holds the {' nor the '.join(sorted(lacking))}, which completion "
            f"needs; add {', '.join(file_names(config.system, lacking))} to --from"
        )
    abstract = ckpt.abstract_state(config)
    module = official(config.system)
    tables = module.tables(config)
    loaded = getattr(module, "as_loaded", lambda config, arrays: arrays)
    variables = {}
    for net, arrays in tensors.items():
        if net not in abstract.params:
            raise UserError(
                f"a file holds the {net}, which a run of this config lacks; leave it out "
                "of --from, or correct --dataset"
            )
        stats = abstract.stats.get(net, {})
        target = {"params": abstract.params[net], "stats": stats}
        try:
            own = loaded(config, arrays)
            variables[net] = mapping.from_official(own, target, tables[net])
        except UserError as error:
            name = f"'{paths[net]}' ({net})" if paths and net in paths else net
            raise UserError(f"{name}: {error}{_fitting(config, tensors)}") from error
    return variables


def _fitting(config: Config, tensors: Mapping[str, Tensors]) -> str:
    """The settings that the files have and the config does not, if any is known."""
    read = getattr(official(config.system), "settings_of", lambda shapes: {})
    shapes = {
        net: {name: x.shape for name, x in mapping.strip_module(arrays).items()}
        for net, arrays in tensors.items()
    }
    other = [
        f"--config.{key}={value}"
        for key, value in read(shapes).items()
        if functools.reduce(getattr, key.split("."), config) != value
    ]
    return f"; the files have {' '.join(other)}" if other else ""


def moving_spectra(config: Config, variables: Mapping[str, Tree]) -> dict[str, float]:
    """Layers whose spectral norm one power iteration changes by more than MOVING.

    Returns:
      "net/layer" -> relative change.
    """
    changes = {}
    for net, table in official(config.system).tables(config).items():
        tree = variables.get(net, {"params": {}, "stats": {}})
        params, stats = (flatten_dict(tree[x], sep="/") for x in ("params", "stats"))
        for path in stats:
            layer, _, kind = path.rpartition("/")
            if kind != "u":
                continue
            _, leaf = mapping.official_names(f"params/{layer}/kernel", table)
            kernel = leaf.to_official(np.asarray(params[f"{layer}/kernel"], np.float64))
            matrix = kernel.reshape(len(kernel), -1)
            u, v = (np.asarray(stats[f"{layer}/{x}"]) for x in "uv")
            before, new = u @ matrix @ v, matrix.T @ u
            after = np.linalg.norm(matrix @ new) / max(np.linalg.norm(new), 1e-30)
            change = abs(after / before - 1) if before else np.inf
            if change > MOVING:
                changes[f"{net}/{layer}"] = float(change)
    return changes


def first_state(config: Config, variables: Mapping[str, Tree]) -> State:
    """Step 0 of a run: these variables of its nets, all else as initialised by
    training.

    Args:
      config: the config of the run.
      variables: net -> {"params", "stats"}, for any of its nets.
    """
    system = methods.make(config)

    def init() -> State:
        shapes = ckpt.abstract_batch(config)
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        state = system.init(batch, train.init_key(config.seed))

        # XLA does not compute what is left out here.
        def rest(trees: Tree) -> Tree:
            return {n: {} if n in variables else tree for n, tree in trees.items()}

        return state.replace(
            params=rest(state.params),
            stats=rest(state.stats),
            ema={net: {} for net in state.ema},
        )

    fresh = jax.jit(init, **train.fast_compile())()

    def merge(trees: Tree, kind: str) -> Tree:
        return {
            n: variables[n][kind] if n in variables else x for n, x in trees.items()
        }

    params = merge(fresh.params, "params")
    ema = {net: params[net] for net in fresh.ema}
    return fresh.replace(params=params, stats=merge(fresh.stats, "stats"), ema=ema)


def read_painter(
    config: Config, paths: Mapping[str, Path], settings: Sequence[str]
) -> tuple[Config, dict[str, Tree], State]:
    """Read config, networks and first state from the files of guided-diffusion.

    Properties of the networks that the files determine override the config, but not
    `settings`. With an average and an optimiser, the run resumes where the original's
    stopped.

    Args:
      config: the config of the new run.
      paths: files by role, from `painter.find_files`.
      settings: the user's `--config.KEY=VALUE`s.

    Raises:
      UserError: if files, settings and network do not fit together.
    """
    present = [net for net in painter.FILES if net in paths]
    nets = {net: mapping.strip_module(files.read(paths[net])) for net in present}
    shapes = {net: {n: x.shape for n, x in nets[net].items()} for net in nets}
    fixed = [setting.removeprefix("--config.").split("=")[0] for setting in settings]
    config = painter.fit(config, shapes, fixed)
    variables = read_nets(config, nets)
    del nets  # as large as the network itself
    state = first_state(config, variables)

    def read_like_unet(tensors: Tensors) -> Tree:
        return read_nets(config, {"unet": tensors})["unet"]["params"]

    if "ema" in paths:
        average = read_like_unet(files.read(paths["ema"]))
        state = painter.with_average(state, average)
    if "opt" in paths:
        moments = []
        for name in ("exp_avg", "exp_avg_sq"):
            updates, arrays = files.read_adam(paths["opt"], name)
            moments.append(read_like_unet(painter.by_name(arrays, shapes["unet"])))
        state = painter.with_moments(state, updates, *moments)
    return config, variables, state


def write_run(workdir: epath.PathLike, config: Config, state: State) -> None:
    """Write a workdir with config and checkpoint, as training does."""
    ckpt.write_config(workdir, config)
    context = ocp.Context()
    # By default Orbax would hold a second copy of the whole state.
    context.memory.write_concurrent_bytes = 2**28
    with saving.Checkpoints(workdir, config.keep, "", context) as saved:
        saved.save(state, metrics={})


def export(config: Config, variables: Mapping[str, Tree]) -> dict[str, dict[str, Any]]:
    """Convert a run's networks to official files: file name -> state_dict."""
    tables = official(config.system).tables(config)
    prefix = ORIGINALS[config.system].prefix
    contents = {}
    for suffix, net in official(config.system).FILES.items():
        if net in variables:
            tensors = mapping.to_official(variables[net], tables[net])
            if to_port := getattr(official(config.system), "to_port", None):
                tensors = to_port(tensors, config)
            named = {f"{prefix}{name}": x for name, x in tensors.items()}
            contents[ORIGINALS[config.system].file.format(suffix)] = named
    return contents


# ---- report ----


def describe(
    variables: Mapping[str, Tree], origins: Mapping[str, str]
) -> list[tuple[str, ...]]:
    """Table rows, one per net: name, tensors, parameters, checksum, file."""
    rows = [("net", "tensors", "parameters", "checksum", "file")]
    for net, tree in variables.items():
        count = len(jax.tree.leaves(tree))
        size = sum(x.size for x in jax.tree.leaves(tree["params"]))
        row = (net, str(count), f"{size:,}", checksum(tree), origins[net])
        rows.append(row)
    return rows


def checksum(tree: Tree) -> str:
    """The first 12 digits of SHA-256 over a net's names and arrays in picjax's layout.

    It depends on the weights only, not on the format of their file.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:12]


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print aligned columns, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(w) if 0 < i < 3 else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
