"""Converts official weights to a run of picjax, and a run to PyTorch.

    python -m picjax.convert --system=picmm --from=DIR --out=runs/imported
    python -m picjax.convert --to=pytorch --from=runs/imported --out=DIR

Every tensor of every file must be used once and every variable of every network filled
once; otherwise nothing is written and both sides are listed.
"""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from picjax import checkpoints as ckpt
from picjax import flags
from picjax.cli import Parser, UserError, run
from picjax.files import new_folder
from picjax.inputs import translates
from picjax.masks import NAMES
from picjax.methods.painter import official as painter
from picjax.official import files, replay
from picjax.official.mapping import regroup_by_net
from picjax.official.originals import ORIGINALS, file_names, official, read_files
from picjax.official.transfer import (
    describe,
    export,
    first_state,
    moving_spectra,
    print_table,
    read_nets,
    read_painter,
    write_run,
)
from picjax.system import Config


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring.

    Raises:
      UserError: for anything that the user can fix; nothing is written then.
    """
    args = parse(argv)
    if args.to == "pytorch":
        to_pytorch(args)
    else:
        to_picjax(args)


def to_picjax(args: argparse.Namespace) -> None:
    """Import official files as a run."""
    if not args.system:
        raise UserError(
            f"--system is missing; give one of {', '.join(sorted(ORIGINALS))}"
        )
    official(args.system)
    recording = replay.read(Path(args.check), args.system) if args.check else None
    requested = config = make_config(args.system, args.dataset, args.settings)
    with new_folder(args.out) as workdir:
        moving: dict[str, float] = {}
        if args.system == "painter":
            paths = painter.find_files(args.sources)
            config, variables, state = read_painter(config, paths, args.settings)
        else:
            paths, tensors = read_files(config, args.sources)
            variables = read_nets(config, tensors, paths)
            moving = moving_spectra(config, variables)
            state = first_state(config, variables)
        differences = replay.check(config, variables, recording) if recording else {}
        write_run(workdir, config, state)
    origins = {net: str(path) for net, path in paths.items()}
    print_table(describe(variables, origins))
    for net in sorted(state.params.keys() - variables.keys()):
        print(
            f"no file holds the {net}, which only training needs: initialised with "
            f"seed {config.seed}"
        )
    if changed := ckpt.differing_keys(config, requested, untrained=True):
        print(f"set from the files: {', '.join(changed)}")
    if args.system == "painter":
        print_painter(
            config, {role: paths[role] for role in paths.keys() - variables.keys()}
        )
    if moving:
        print_moving(moving)
    for name, value in differences.items():
        print(f"largest difference of {name} in {args.check}: {value:.2e}")
    if differences:
        print(f"the original's test passes (tolerance {replay.TOLERANCE:g})")
    print(f"step 0 of a run of {config.system} in {args.out}; to complete with it:")
    print(f"    {completing_command(config, args.out)}")


def print_painter(config: Config, others: Mapping[str, Path]) -> None:
    """Print which files besides the network's were read, and what none determines."""
    for role in sorted(others):
        print(f"with {painter.TITLES[role]} from {others[role]}")
    model = config.model
    print(
        "no file determines the attention heads; assumed are config.model.head_width "
        f"{model.head_width}, .heads {model.heads}, .qkv_order {model.qkv_order}"
    )


def print_moving(moving: Mapping[str, float]) -> None:
    """Print how far spectral norms have not converged, by layer."""
    name = max(moving, key=lambda layer: moving[layer])
    print(
        f"spectral norm of {len(moving)} layers has not converged: one power "
        f"iteration changes it by up to {moving[name]:.0%} ({name}); picjax completes "
        "with the stored vectors, the original's outputs drift (docs/convert.md)"
    )


def completing_command(config: Config, workdir: str) -> str:
    """The command that completes an image with a run."""
    names = [name for name in config.data.masks if name in NAMES]
    mask = "" if translates(config) else f" --mask={(names or ['center'])[0]}"
    command = f"python -m picjax.complete --workdir={shlex.quote(workdir)}"
    return f"{command} --image=FILE{mask}"


def to_pytorch(args: argparse.Namespace) -> None:
    """Export a run as official PyTorch files."""
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
      UserError: if a variant or key is unknown, or a value has another type.
    """
    return flags.make_config(system, variant or ORIGINALS[system].variant, settings)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; `settings` are its `--config.KEY=VALUE`s."""
    parser = Parser(
        prog="python -m picjax.convert",
        description="Converts official weights to a run of picjax, or a run to PyTorch.",
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
        help="variant of configs/SYSTEM.py (the published one); --config.KEY=VALUE "
        "changes one setting",
    )
    add(
        "--check",
        metavar="FILE",
        help="an .npz of the original's outputs to compare with",
    )
    args, rest = parser.parse_known_args(argv)
    args.settings = [word for word in rest if word.startswith("--config.")]
    args.sources += [word for word in rest if not word.startswith("-")]
    unknown = [w for w in rest if w.startswith("-") and w not in args.settings]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


if __name__ == "__main__":
    run(main)
