"""Official weights to a run of picjax, and a run back to PyTorch.

    python -m picjax.convert --system=picmm --from=DIR --out=runs/imported
    python -m picjax.convert --to=pytorch --from=runs/imported --out=DIR

Every tensor of every file is used once and every place of every network filled once, or
nothing is written and both sides are listed.
"""

import argparse
import ast
import hashlib
import importlib
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from picjax import checkpoints as ckpt
from picjax import methods, train
from picjax.cli import Parser, UserError, run
from picjax.files import new_folder
from picjax.methods.painter import official as painter
from picjax.official import files, mapping, replay
from picjax.official.mapping import regroup_by_net
from picjax.official.originals import (
    ORIGINALS,
    Tensors,
    file_names,
    needed,
    official,
    read_files,
)
from picjax.system import Config, State, Tree

# ---- to picjax ----


def read_nets(config: Config, tensors: Mapping[str, Tensors]) -> dict[str, Tree]:
    """Official tensors as the networks' variables.

    Args:
      config: of the run to be.
      tensors: net -> official name -> array.

    Returns:
      net -> {"params", "stats"}, for the nets that were given.

    Raises:
      UserError: when a net does not fit the config, naming it; when one that completion
        needs is missing.
    """
    lacking = needed(config.system) - tensors.keys()
    if lacking:
        raise UserError(
            f"no file holds the {' nor the '.join(sorted(lacking))}, which completion "
            f"needs; add {', '.join(file_names(config.system, lacking))} to --from"
        )
    abstract = ckpt.abstract_state(config)
    tables = official(config.system).tables(config)
    variables = {}
    for net, arrays in tensors.items():
        stats = abstract.stats.get(net, {})
        target = {"params": abstract.params[net], "stats": stats}
        try:
            variables[net] = mapping.from_official(arrays, target, tables[net])
        except UserError as error:
            raise UserError(f"{net}: {error}") from error
    return variables


def first_state(config: Config, given: Mapping[str, Tree]) -> State:
    """Step 0 of a run: the nets given, all else as training would begin with it."""
    system = methods.make(config)

    def init() -> State:
        shapes = ckpt.abstract_batch(config)
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        state = system.init(batch, train.init_key(config.seed))

        # What is left out here is not computed either.
        def rest(trees: Tree) -> Tree:
            return {n: {} if n in given else tree for n, tree in trees.items()}

        return state.replace(
            params=rest(state.params),
            stats=rest(state.stats),
            ema={net: {} for net in state.ema},
        )

    fresh = jax.jit(init, **train.quick())()

    def whole(trees: Tree, kind: str) -> Tree:
        return {n: given[n][kind] if n in given else x for n, x in trees.items()}

    params = whole(fresh.params, "params")
    ema = {net: params[net] for net in fresh.ema}
    return fresh.replace(params=params, stats=whole(fresh.stats, "stats"), ema=ema)


def read_painter(
    config: Config, paths: Mapping[str, Path], settings: Sequence[str]
) -> tuple[Config, dict[str, Tree], State]:
    """Config, networks and first state from the files of guided-diffusion.

    What files tell of the networks goes before the config, but not before `settings`.
    With an average and an optimiser the run goes on where the original's stopped.

    Args:
      config: of the run to be.
      paths: as `official.painter.find_files` gives them.
      settings: the user's `--config.KEY=VALUE`s.

    Raises:
      UserError: when files, settings and network do not belong together.
    """
    given = [net for net in painter.FILES if net in paths]
    nets = {net: mapping.strip_module(files.read(paths[net])) for net in given}
    shapes = {net: {n: x.shape for n, x in nets[net].items()} for net in nets}
    fixed = [setting.removeprefix("--config.").split("=")[0] for setting in settings]
    config = painter.fit(config, shapes, fixed)
    variables = read_nets(config, nets)
    del nets  # As large as the network itself.
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


def write_run(workdir: Path, config: Config, state: State) -> None:
    """A workdir with config and checkpoint, as training writes them."""
    ckpt.write_config(workdir, config)
    context = ocp.Context()
    # Orbax would hold the whole state once more.
    context.memory.write_concurrent_bytes = 2**28
    with context, ckpt.open_checkpoints(workdir, config.keep, "") as saved:
        ckpt.save(saved, state, data=None, metrics={}).result()


# ---- to PyTorch ----


def export(config: Config, variables: Mapping[str, Tree]) -> dict[str, dict[str, Any]]:
    """A run's networks as the original's files: file name -> state_dict."""
    tables = official(config.system).tables(config)
    prefix = ORIGINALS[config.system].prefix
    contents = {}
    for suffix, net in official(config.system).FILES.items():
        if net in variables:
            tensors = mapping.to_official(variables[net], tables[net])
            named = {f"{prefix}{name}": x for name, x in tensors.items()}
            contents[ORIGINALS[config.system].file.format(suffix)] = named
    return contents


# ---- report ----


def describe(
    variables: Mapping[str, Tree], origins: Mapping[str, str]
) -> list[tuple[str, ...]]:
    """A row a net: name, tensors, parameters, checksum, where it came from or went."""
    rows = [("net", "tensors", "parameters", "checksum", "file")]
    for net, tree in variables.items():
        count = len(jax.tree.leaves(tree))
        size = sum(x.size for x in jax.tree.leaves(tree["params"]))
        row = (net, str(count), f"{size:,}", checksum(tree), origins[net])
        rows.append(row)
    return rows


def checksum(tree: Tree) -> str:
    """The first 12 digits of SHA-256 over a net's names and numbers, as picjax has them.

    The same for the same weights, however a file holds them.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:12]


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(w) if 0 < i < 3 else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


# ---- command line ----


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring.

    Raises:
      UserError: for anything the user can mend; nothing is written then.
    """
    args = parse(argv)
    if args.to == "pytorch":
        to_pytorch(args)
    else:
        to_picjax(args)


def to_picjax(args: argparse.Namespace) -> None:
    """Imports."""
    if not args.system:
        raise UserError(
            f"--system is missing; give one of {', '.join(sorted(ORIGINALS))}"
        )
    official(args.system)
    asked = config = make_config(args.system, args.dataset, args.settings)
    with new_folder(args.out) as workdir:
        if args.system == "painter":
            paths = painter.find_files(args.sources)
            config, variables, state = read_painter(config, paths, args.settings)
        else:
            paths, tensors = read_files(config, args.sources)
            variables = read_nets(config, tensors)
            state = first_state(config, variables)
        differences = {}
        if args.check:
            differences = replay.check(config, variables, Path(args.check))
        write_run(workdir, config, state)
    origins = {net: str(path) for net, path in paths.items()}
    print_table(describe(variables, origins))
    for net in sorted(state.params.keys() - variables.keys()):
        print(
            f"no file holds the {net}, which training alone needs: initialised with "
            f"seed {config.seed}"
        )
    if changed := ckpt.differing_keys(config, asked, untrained=True):
        print(f"as the files have it: {', '.join(changed)}")
    if args.system == "painter":
        for role in sorted(paths.keys() - variables.keys()):
            print(f"with {painter.TITLES[role]} from {paths[role]}")
        model = config.model
        print(
            "no file tells how heads are cut: taken are config.model.head_width "
            f"{model.head_width}, .heads {model.heads}, .qkv_order {model.qkv_order}"
        )
    for name, value in differences.items():
        print(f"largest difference of {name} in {args.check}: {value:.2e}")
    print(f"step 0 of a run of {config.system}, ready to complete, in {args.out}")


def to_pytorch(args: argparse.Namespace) -> None:
    """Exports."""
    if len(args.sources) > 1 or args.dataset or args.settings or args.check:
        raise UserError(
            "--to=pytorch takes one run and neither --dataset, --check nor --config.*; "
            "leave them out"
        )
    source = Path(args.sources[0])
    config = ckpt.read_config(source)
    if args.system not in ("", config.system):
        raise UserError(
            f"'{source}' is a run of {config.system}, not of {args.system}; "
            "leave --system out"
        )
    official(config.system)
    if not ORIGINALS[config.system].torch:
        raise UserError(
            f"the original of {config.system} is not PyTorch's, and there is no way "
            "back; a run of picjax itself can be copied as it is"
        )
    config, restored, step = ckpt.restore_variables(source)
    variables = regroup_by_net(restored)
    contents = export(config, variables)
    with new_folder(args.out) as folder:
        for name, tensors in contents.items():
            files.write(folder / name, tensors)
    nets = official(config.system).FILES
    (*names,) = file_names(config.system, nets.values())
    origins = dict(zip(sorted(nets.values()), names, strict=True))
    print_table(describe({n: variables[n] for n in origins if n in variables}, origins))
    print(f"step {step} of {source}, as PyTorch's files in {args.out}")


def make_config(system: str, variant: str, settings: Sequence[str]) -> Config:
    """The config of a variant (empty: the published one), with `--config.KEY=VALUE`s.

    Raises:
      UserError: for an unknown variant or key, or a value of another type.
    """
    module = importlib.import_module(f"configs.{system}")
    try:
        config = module.get_config(variant or ORIGINALS[system].variant)
    except ValueError as error:
        raise UserError(f"--dataset={variant}: {error}") from error
    for setting in settings:
        match = re.fullmatch(r"--config\.([\w.]+)=(.*)", setting)
        if not match or match[1] not in ckpt.flat_keys(config):
            raise UserError(
                f"'{setting}' is no flag; write --config.KEY=VALUE with a key of "
                f"configs/{system}.py, or see python -m picjax.convert --help"
            )
        try:
            is_text = isinstance(reduce(getattr, match[1].split("."), config), str)
            value = match[2] if is_text else _literal(match[2])
            config.update_from_flattened_dict({match[1]: value})
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{setting} does not fit its key ({error}); mend the value"
            ) from error
    return config


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; `settings` are its `--config.KEY=VALUE`s."""
    parser = Parser(
        prog="python -m picjax.convert",
        description="Official weights to a run of picjax, or a run back to PyTorch.",
        epilog="example: python -m picjax.convert --system=picnet "
        "--from=checkpoints/celeba_center --out=runs/picnet-celeba",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--system", default="", metavar="NAME", help=", ".join(sorted(ORIGINALS)))
    add(
        "--from",
        dest="sources",
        required=True,
        nargs="+",
        action="extend",
        metavar="PATH",
        help="a folder of latest_net_E.pth and the like, or such files; for pixelcnn "
        "a TensorFlow checkpoint; with --to=pytorch a run",
    )
    add("--out", required=True, metavar="DIR", help="a new folder")
    add("--to", choices=["picjax", "pytorch"], default="picjax", help="(picjax)")
    add(
        "--dataset",
        default="",
        metavar="VARIANT",
        help="of configs/SYSTEM.py, whose settings the run gets (the published one); "
        "--config.KEY=VALUE changes one",
    )
    add("--check", metavar="FILE", help="an .npz of the original's test, to compare")
    args, rest = parser.parse_known_args(argv)
    args.settings = [word for word in rest if word.startswith("--config.")]
    args.sources += [word for word in rest if not word.startswith("-")]
    unknown = [w for w in rest if w.startswith("-") and w not in args.settings]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


if __name__ == "__main__":
    run(main)
