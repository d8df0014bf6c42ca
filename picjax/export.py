"""Writes a run's model as one file for other programs, or reads such a file.

    python -m picjax.export --workdir=runs/picmm --out=picmm.safetensors
    python -m picjax.export --workdir=runs/picmm --out=picmm.stablehlo --num=4

`.safetensors` holds the weights with the config as metadata; `picjax.load` reads it.
`.stablehlo` holds the compiled function with its weights for any batch, written by
`jax.export`; it needs JAX alone (docs/python.md).
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array, UInt8, UInt32

from picjax import methods
from picjax.cli import Parser, UserError, check_choice, require, run
from picjax.completion import make_draw, visible_part
from picjax.files import write_bytes
from picjax.inputs import translates
from picjax.system import Config, Tree, image_shape

PLATFORMS = ("cpu", "cuda", "tpu")
SUFFIXES = (".safetensors", ".stablehlo")


# ---- weights ----


def write_weights(
    path: Path, config: Config, variables: Tree, step: int, half: bool = False
) -> None:
    """Write variables as safetensors, with config and step as metadata.

    Args:
      path: the file.
      config: of the run.
      variables: kind ("params" or "stats") -> net -> arrays.
      step: of the checkpoint.
      half: float32 arrays are rounded to float16.
    """

    def stored(x: Array) -> np.ndarray:
        array = np.asarray(x)
        return array.astype(np.float16) if half and array.dtype == np.float32 else array

    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="/"): stored(x)
        for path, x in jax.tree_util.tree_leaves_with_path(variables)
    }
    metadata = {"format": "picjax", "config": config.to_json(), "step": str(step)}
    write_bytes(path, safetensors.numpy.save(arrays, metadata))


def read_weights(path: Path) -> tuple[Config, Tree, int]:
    """The config, variables and step of a file that `write_weights` wrote.

    Raises:
      UserError: if it is no such file, or lacks an array of its config's networks.
    """
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"'{path}' cannot be read ({error}); use a file that picjax.export wrote"
        ) from error
    if metadata.get("format") != "picjax":
        raise UserError(
            f"'{path}' was not written by picjax (no config in its metadata); import "
            "official weights by picjax.convert"
        )
    config = methods.saved_config(json.loads(metadata["config"]))
    return config, unflatten(config, arrays, path), int(metadata["step"])


def unflatten(config: Config, arrays: Mapping[str, np.ndarray], path: Path) -> Tree:
    """The variables of a config, from names such as `params/encoder/conv/kernel`.

    Raises:
      UserError: if a name or a shape differs.
    """
    from picjax.checkpoints import abstract_state
    from picjax.system import inference_variables

    wanted = inference_variables(abstract_state(config))
    leaves, structure = jax.tree_util.tree_flatten_with_path(wanted)
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves]
    ours = {name: x.shape for name, (_, x) in zip(names, leaves, strict=True)}
    theirs = {name: x.shape for name, x in arrays.items()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"'{path}' does not fit its config: {name} is "
                f"{theirs.get(name, 'absent')}, not {ours.get(name, 'absent')}; export "
                "the run again with this version of picjax"
            )
    dtypes = [x.dtype for _, x in leaves]
    restored = [
        jnp.asarray(arrays[name], dtype)
        for name, dtype in zip(names, dtypes, strict=True)
    ]
    return jax.tree.unflatten(structure, restored)


# ---- the compiled function ----


def write_function(
    path: Path, config: Config, variables: Tree, num: int, platforms: Sequence[str]
) -> None:
    """Write the function that draws completions, with its weights, for any batch.

    Its arguments are `image` uint8 [b h w 3], `mask` uint8 [b h w 1] (1 = known), `seed`
    uint32 and `salt` uint32 [b], which is folded into the seed of each image; a run that
    translates has no mask. It returns uint8 [b num h w 3].

    Args:
      path: the file.
      config: of the run.
      variables: of its networks.
      num: completions per image.
      platforms: which it can run on, some of PLATFORMS.

    Raises:
      UserError: for a run on label maps.
    """
    if config.data.get("maps"):
        raise UserError(
            "the run synthesises from label maps, which this function does not take; "
            "export its weights as .safetensors"
        )
    draw = make_draw(methods.make(config))
    names = inputs(config)

    def complete(arrays: dict[str, Array], seed: Array, salt: Array) -> Array:
        batch = {**as_batch(arrays), "checksum": salt}
        key = jax.random.key(seed)
        return draw(variables, batch, key, n=num, num_candidates=num).pixels

    require("flatbuffers", "export")
    (b,) = jax.export.symbolic_shape("b")
    height, width = image_shape(config)
    channels = {"image": 3, "mask": 1}
    shapes = {
        name: jax.ShapeDtypeStruct((b, height, width, channels[name]), jnp.uint8)
        for name in names
    }
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    salt = jax.ShapeDtypeStruct((b,), jnp.uint32)
    exported = jax.export.export(jax.jit(complete), platforms=list(platforms))
    write_bytes(path, bytes(exported(shapes, seed, salt).serialize()))


def inputs(config: Config) -> tuple[str, ...]:
    """Names of the arrays that a config's exported function takes."""
    return ("image",) if translates(config) else ("image", "mask")


def as_batch(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """A batch as methods know it; without a mask, `image` is what is translated."""
    if "mask" in arrays:
        return dict(arrays)
    nothing = 0 * arrays["image"]
    return {
        "image": nothing,
        "mask": nothing[..., :1],
        "condition": arrays["image"],
    }


def read_function(path: str | Path) -> Callable[..., UInt8[np.ndarray, "b n h w 3"]]:
    """The function in a file, called as `complete(arrays, seed)`.

    `arrays` are `image` and, unless it translates, `mask`, at the model's size. For
    equal inputs and seeds it draws what the run's model draws.

    Raises:
      UserError: if the file holds no such function.
    """
    require("flatbuffers", "export")
    try:
        exported = jax.export.deserialize(bytearray(Path(path).read_bytes()))
    except Exception as error:  # the reader raises many types on damaged files
        raise UserError(
            f"'{path}' holds no exported function ({error}); write one by picjax.export"
        ) from error
    call = jax.jit(exported.call)

    def complete(arrays: Mapping[str, np.ndarray], seed: int = 0) -> np.ndarray:
        visible = visible_part(as_batch(arrays))
        shown = dict(arrays)
        if "mask" in shown:  # what the hole hides has no influence
            shown["image"] = visible["image"]
        salt: UInt32[np.ndarray, " b"] = visible["checksum"]
        return np.asarray(call(shown, np.uint32(seed % 2**32), salt))

    return complete


# ---- command ----


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m picjax.export",
        description="Writes a run's model as one file.",
        epilog="example: "
        "python -m picjax.export --workdir=runs/picmm --out=picmm.safetensors",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="a run of picjax.train")
    add("--out", required=True, metavar="FILE", help=" or ".join(SUFFIXES))
    add(
        "--num", type=int, default=4, metavar="N", help="of .stablehlo: completions (4)"
    )
    add("--half", action="store_true", help="of .safetensors: as float16")
    add("--checkpoint", default="newest", metavar="C", help="newest, best or a step")
    everywhere = ",".join(PLATFORMS)
    add("--platforms", default=everywhere, metavar="P,..", help=f"({everywhere})")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring.

    Raises:
      UserError: for anything that the user can fix.
    """
    from picjax.checkpoints import restore_variables

    args = parse(argv)
    out = Path(args.out)
    check_choice("--out's extension", out.suffix, SUFFIXES)
    if args.num < 1:
        raise UserError(f"--num is {args.num}; ask for 1 completion or more")
    platforms = args.platforms.split(",")
    for name in platforms:
        check_choice("--platforms", name, PLATFORMS)
    config, variables, step = restore_variables(args.workdir, args.checkpoint)
    if out.suffix == ".safetensors":
        write_weights(out, config, variables, step, args.half)
    else:
        write_function(out, config, variables, args.num, platforms)
    size = out.stat().st_size / 2**20
    print(f"step {step} of {args.workdir} in {out} ({size:.1f} MiB)")


if __name__ == "__main__":
    run(main)
