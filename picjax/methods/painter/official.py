"""guided-diffusion's checkpoints: parameter names, inferred options, training files.

Names and shapes determine almost every option of a network; they do not determine the
number of attention heads and the order of their rows.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from picjax.cli import UserError
from picjax.methods.painter.classifier import Pool
from picjax.methods.painter.net import Multiplier, channels
from picjax.official.mapping import CONV, LINEAR, Leaf, Site, Table
from picjax.system import Config, State, Tree, image_shape

# Name of an exported file -> net.
FILES = {"unet": "unet", "classifier": "classifier"}

Shapes = Mapping[str, tuple[int, ...]]

# ---- names ----

NORM = {"params/scale": Leaf(".weight"), "params/bias": Leaf(".bias")}
# A convolution of kernel 1 over tokens: (out, in, 1).
TOKENS = {"params/kernel": Leaf(".weight", (2, 1, 0)), "params/bias": Leaf(".bias")}
POSITIONS = {"params/positions": Leaf(".positional_embedding", (1, 0))}


def _module(path: str, name: str) -> Table:
    """Sites of a block's module of any type; a module has those of its own type."""
    return (
        Site(path, (name,), CONV),  # the very first convolution
        Site(f"{path}/norm1", (f"{name}.in_layers.0",), NORM),
        Site(f"{path}/conv1", (f"{name}.in_layers.2",), CONV),
        Site(f"{path}/emb", (f"{name}.emb_layers.1",), LINEAR),
        Site(f"{path}/norm2", (f"{name}.out_layers.0",), NORM),
        Site(f"{path}/conv2", (f"{name}.out_layers.3",), CONV),
        Site(f"{path}/skip", (f"{name}.skip_connection",), CONV),
        Site(f"{path}/norm", (f"{name}.norm",), NORM),
        Site(f"{path}/qkv", (f"{name}.qkv",), TOKENS),
        Site(f"{path}/proj", (f"{name}.proj_out",), TOKENS),
    )


TORSO: Table = (
    Site("time1", ("time_embed.0",), LINEAR),
    Site("time2", ("time_embed.2",), LINEAR),
    *_module(r"in(\d+)_(\d)", r"input_blocks.\1.\2"),
    Site(r"in(\d+)_(\d)/conv", (r"input_blocks.\1.\2.op",), CONV),
    *_module(r"mid_(\d)", r"middle_block.\1"),
)
UNET: Table = (
    *TORSO,
    Site("", ("label_emb",), {"params/labels": Leaf(".weight")}),
    *_module(r"out(\d+)_(\d)", r"output_blocks.\1.\2"),
    Site(r"out(\d+)_(\d)/conv", (r"output_blocks.\1.\2.conv",), CONV),
    Site("norm", ("out.0",), NORM),
    Site("head", ("out.2",), CONV),
)
_POOLS: dict[Pool, Table] = {
    "attention": (
        Site("norm", ("out.0",), NORM),
        Site("head", ("out.2",), POSITIONS),
        Site("head/qkv", ("out.2.qkv_proj",), TOKENS),
        Site("head/proj", ("out.2.c_proj",), TOKENS),
    ),
    "adaptive": (Site("norm", ("out.0",), NORM), Site("head", ("out.3",), CONV)),
    "spatial": (Site("hidden", ("out.0",), LINEAR), Site("head", ("out.2",), LINEAR)),
    "spatial_v2": (
        Site("hidden", ("out.0",), LINEAR),
        Site("hidden_norm", ("out.1",), NORM),
        Site("head", ("out.3",), LINEAR),
    ),
}


def classifier_table(pool: Pool) -> Table:
    """The names of a classifier with this pool."""
    return (*TORSO, *_POOLS[pool])


def tables(config: Config) -> dict[str, Table]:
    """Net -> its table, for a config of the painter."""
    return {"unet": UNET, "classifier": classifier_table(config.model.classifier_pool)}


# ---- options of a checkpoint ----


def fit(config: Config, nets: Mapping[str, Shapes], fixed: Collection[str]) -> Config:
    """The config with the network options of these files.

    Args:
      config: of the run to be written.
      nets: net -> official name -> shape.
      fixed: keys of the config that the user set; the files must agree with them.

    Raises:
      UserError: if a file holds another network or contradicts the user's settings.
    """
    factors, options = unet_options(nets["unet"])
    size = image_shape(config)[0]
    if size % 2 ** (len(options["mult"]) - 1):
        raise UserError(
            f"the file's network halves an image {len(options['mult']) - 1} times, "
            f"which config.image_size {size} does not; give --config.image_size"
        )
    options["attention"] = tuple(size // factor for factor in factors)
    options |= classifier_options(nets.get("classifier"))
    config = config.copy_and_resolve_references()
    for key, value in options.items():
        ours = getattr(config.model, key)
        ours = tuple(ours) if isinstance(value, tuple) else ours
        if ours == value:
            continue
        if f"model.{key}" in fixed:
            raise UserError(
                f"config.model.{key} is {ours!r}, where the file has {value!r}; omit "
                f"--config.model.{key}"
            )
        with config.ignore_type():
            setattr(config.model, key, value)
    return config


def unet_options(shapes: Shapes) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The options of a UNet, inferred from names and shapes.

    Args:
      shapes: official name -> shape.

    Returns:
      The downsampling factors with attention, ascending, and the other keys of a
      config's `model`.

    Raises:
      UserError: if the file is not a UNet of guided-diffusion.
    """
    check_unet(shapes)
    width = _shape(shapes, "time_embed.0.weight", 2)[1]
    inputs = _count(shapes, "input_blocks")
    resizing = _resizing(shapes)
    blocks = resizing.blocks or inputs - 1
    levels = inputs // (blocks + 1)
    if levels * (blocks + 1) != inputs or inputs != _count(shapes, "output_blocks"):
        raise UserError(
            f"the file has {inputs} input blocks, {_count(shapes, 'output_blocks')} "
            f"output blocks and {blocks} residual blocks a level, which no network of "
            "guided-diffusion has; give the file as it was saved"
        )
    firsts = [f"input_blocks.{1 + level * (blocks + 1)}" for level in range(levels)]
    wide = [_shape(shapes, f"{first}.0.in_layers.2.weight", 4)[0] for first in firsts]
    emb = _shape(shapes, f"{firsts[0]}.0.emb_layers.1.weight", 2)[0]
    factors = [
        2**level
        for level, first in enumerate(firsts)
        if f"{first}.1.qkv.weight" in shapes
    ]
    return tuple(factors), {
        "width": width,
        "mult": tuple(_multiplier(width, c) for c in wide),
        "blocks": blocks,
        "scale_shift": emb == 2 * wide[0],
        "resblock_updown": resizing.residual,
        "conv_resample": resizing.convolved,
        "classes": shapes.get("label_emb.weight", (0,))[0],
        "learn_sigma": _shape(shapes, "out.2.weight", 4)[0] == 6,
    }


def check_unet(shapes: Shapes) -> None:
    """Check that a file holds a UNet of guided-diffusion for images.

    Raises:
      UserError: naming what the file holds instead.
    """
    names = " ".join(shapes)
    content = f"no network of guided-diffusion ({', '.join(list(shapes)[:3])}, ...)"
    if "model.diffusion_model." in names:
        content = "a latent diffusion model, which does not generate pixels"
    elif "down_blocks." in names:
        content = "a network of diffusers, which has other names"
    elif "input_blocks.0.0.weight" in shapes and "out.0.weight" in shapes:
        if "output_blocks.0.0.in_layers.0.weight" not in shapes:
            content = "a classifier; name it classifier.pt and give the UNet as well"
        elif _shape(shapes, "input_blocks.0.0.weight", 4)[1] == 6:
            content = "a super-resolution model, which needs a second, small image"
        elif shapes["input_blocks.0.0.weight"][1] != 3:
            content = "a network for images that do not have 3 channels"
        elif _shape(shapes, "out.2.weight", 4)[0] not in (3, 6):
            content = "a network with neither 3 nor 6 output channels"
        else:
            return
    raise UserError(f"the file holds {content}; give a UNet of guided-diffusion")


class _Resizing(NamedTuple):
    """Residual blocks per level (0: there is one level), and how sizes change."""

    blocks: int
    residual: bool
    convolved: bool


def _resizing(shapes: Shapes) -> _Resizing:
    """Inferred from the first output block whose last module upsamples."""
    for i in range(_count(shapes, "output_blocks")):
        for k in (1, 2):
            module = f"output_blocks.{i}.{k}"
            if f"{module}.in_layers.0.weight" in shapes:
                return _Resizing(i, True, True)
            if f"{module}.conv.weight" in shapes:
                return _Resizing(i, False, True)
    # Averaging has no parameters, so its block is missing from the file.
    for i in range(_count(shapes, "input_blocks")):
        if f"input_blocks.{i}.0.in_layers.0.weight" not in shapes and i:
            return _Resizing(i - 1, False, False)
    return _Resizing(0, True, True)


def classifier_options(shapes: Shapes | None) -> dict[str, Any]:
    """The options of a classifier that names and shapes determine.

    Raises:
      UserError: if the file is not a classifier of guided-diffusion.
    """
    if shapes is None:
        return {"classifier_classes": 0}
    pools = {
        "attention": "out.2.c_proj.weight",
        "spatial": "out.2.weight",
        "spatial_v2": "out.1.weight",
        "adaptive": "out.3.weight",
    }
    named = [pool for pool, name in pools.items() if name in shapes]
    if not named or "output_blocks.0.0.in_layers.0.weight" in shapes:
        raise UserError(
            "the classifier's file is not one of guided-diffusion; omit it, or give "
            "256x256_classifier.pt"
        )
    last = "out.3.weight" if named[0] == "spatial_v2" else pools[named[0]]
    return {
        "classifier_classes": shapes[last][0],
        "classifier_width": _shape(shapes, "time_embed.0.weight", 2)[1],
        "classifier_pool": named[0],
    }


def _count(shapes: Shapes, stage: str) -> int:
    """Number of blocks of a stage."""
    found = [re.match(rf"{stage}\.(\d+)\.", name) for name in shapes]
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _shape(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    if len(shapes.get(name, ())) != rank:
        raise UserError(
            f"the file lacks {name} with {rank} dimensions, which every such network "
            "has; give the file as it was saved"
        )
    return shapes[name]


def _multiplier(width: int, c: int) -> Multiplier:
    """The multiplier m for which int(m * width) is c."""
    if c % width == 0:
        return c // width
    exact = c / width
    return exact if channels(width, exact) == c else math.nextafter(exact, math.inf)


# ---- files ----

_ROLES = {
    r"model(\d+)": "unet",
    r"ema_[\d.]+_(\d+)": "ema",
    r"opt(\d+)": "opt",
    r".*classifier.*()": "classifier",
}


def find_files(sources: Sequence[str]) -> dict[str, Path]:
    """The role of each file -> the file.

    `unet` and `classifier` are networks, `ema` the average of a `unet` that is trained
    further, `opt` its optimiser. Of a folder only the last step's files are used. An
    average alone, or a file of any other name, is the network.

    Raises:
      UserError: if a path does not exist or the choice of files is ambiguous.
    """
    found: dict[str, Path] = {}
    steps: dict[str, str] = {}
    for path in (path for source in sources for path in _files_of(Path(source))):
        role, step = _role(path)
        if role in found:
            raise UserError(
                f"'{found[role]}' and '{path}' are both {TITLES[role]}; give one"
            )
        found[role], steps[role] = path, step
    trained = {step for role, step in steps.items() if step}
    if len(trained) > 1:
        raise UserError(
            f"the files are of steps {' and '.join(sorted(trained))}; give those of one"
        )
    if "unet" not in found and "opt" not in found and "ema" in found:
        found["unet"] = found.pop("ema")
    if "unet" not in found:
        raise UserError(
            f"--from {', '.join(map(repr, sources))} holds no network; give a file like "
            "places256_300000.pt or model300000.pt"
        )
    return found


TITLES = {
    "unet": "the network",
    "ema": "its average",
    "opt": "its optimiser",
    "classifier": "the classifier",
}


def _role(path: Path) -> tuple[str, str]:
    """A file's role, and the step in its name."""
    for pattern, role in _ROLES.items():
        if match := re.fullmatch(pattern, path.stem):
            return role, match[1]
    return "unet", ""


def _files_of(source: Path) -> list[Path]:
    """The file itself; of a folder the last step's files and those without a step."""
    if not source.exists():
        raise UserError(f"--from '{source}' does not exist; give a folder or .pt files")
    if not source.is_dir():
        return [source]
    paths = sorted(source.glob("*.pt"))
    steps = {path: _role(path)[1] for path in paths}
    last = max(steps.values(), default="", key=lambda step: int(step or 0))
    return [path for path, step in steps.items() if step in ("", last)]


# ---- resuming the original's training ----


def with_average(state: State, params: Tree) -> State:
    """The state with these averaged parameters of the UNet."""
    return state.replace(ema=state.ema | {"unet": params})


def with_moments(state: State, updates: int, first: Tree, second: Tree) -> State:
    """The state with these first and second moments of the UNet's Adam."""

    def put(node: Any) -> Any:
        if not isinstance(node, optax.ScaleByAdamState):
            return node
        mu, nu = {"unet": first}, {"unet": second}
        return optax.ScaleByAdamState(jnp.int32(updates), mu, nu)

    adamw = jax.tree.map(
        put, state.opt["adamw"], is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState)
    )
    return state.replace(opt=state.opt | {"adamw": adamw})


def by_name(moments: Sequence[np.ndarray], shapes: Shapes) -> dict[str, np.ndarray]:
    """Adam's moments, stored in the order of the parameters, by parameter name.

    16-bit training stores all vectors in one array and all other parameters in another.

    Raises:
      UserError: if their number does not match the parameters.
    """
    names = list(shapes)
    if len(moments) == len(names):
        return dict(zip(names, moments, strict=True))
    groups = [[n for n in names if (len(shapes[n]) > 1) == rest] for rest in (0, 1)]
    sizes = [[math.prod(shapes[n]) for n in group] for group in groups]
    if [m.size for m in moments] != [sum(each) for each in sizes]:
        raise UserError(
            f"the optimiser's file has {len(moments)} parameters, the network's "
            f"{len(names)}; give files of one run"
        )
    return {
        name: part.reshape(shapes[name])
        for moment, group, each in zip(moments, groups, sizes, strict=True)
        for name, part in zip(
            group, np.split(moment.reshape(-1), np.cumsum(each)[:-1]), strict=True
        )
    }
