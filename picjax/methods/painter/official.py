"""guided-diffusion's networks: their official names, their files, what these tell.

A file's names and shapes tell almost every option of a network (specification, sections
5 and 9); how many heads there are and how their rows are ordered they do not.
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

# What we call a net's file, and the net.
FILES = {"unet": "unet", "classifier": "classifier"}

Shapes = Mapping[str, tuple[int, ...]]

# ---- names ----

NORM = {"params/scale": Leaf(".weight"), "params/bias": Leaf(".bias")}
# A convolution of kernel 1 over tokens: (out, in, 1).
TOKENS = {"params/kernel": Leaf(".weight", (2, 1, 0)), "params/bias": Leaf(".bias")}


def _module(path: str, name: str) -> Table:
    """The sites of any one module of a block; a path has those of its kind."""
    return (
        Site(path, (name,), CONV),  # the first convolution of all
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
        Site(
            "head",
            ("out.2",),
            {"params/positions": Leaf(".positional_embedding", (1, 0))},
        ),
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
    """The official names of a classifier with this pool."""
    return (*TORSO, *_POOLS[pool])


def tables(config: Config) -> dict[str, Table]:
    """Net -> its table, for a config of the painter."""
    return {"unet": UNET, "classifier": classifier_table(config.model.classifier_pool)}


# ---- what a file tells ----


def fit(config: Config, nets: Mapping[str, Shapes], fixed: Collection[str]) -> Config:
    """The config with the networks that these files hold.

    Args:
      config: of the run to be.
      nets: net -> official name -> shape.
      fixed: keys of the config that the user gave; they must be what the file has.

    Raises:
      UserError: when a file holds another network, or one unlike the user's settings.
    """
    factors, found = unet_options(nets["unet"])
    size = image_shape(config)[0]
    if size % 2 ** (len(found["mult"]) - 1):
        raise UserError(
            f"the file's network halves an image {len(found['mult']) - 1} times, which "
            f"config.image_size {size} does not; give --config.image_size"
        )
    found["attention"] = tuple(size // factor for factor in factors)
    found |= classifier_options(nets.get("classifier"))
    config = config.copy_and_resolve_references()
    for key, value in found.items():
        ours = getattr(config.model, key)
        ours = tuple(ours) if isinstance(value, tuple) else ours
        if ours == value:
            continue
        if f"model.{key}" in fixed:
            raise UserError(
                f"config.model.{key} is {ours!r}, where the file has {value!r}; leave "
                f"--config.model.{key} out"
            )
        with config.ignore_type():
            setattr(config.model, key, value)
    return config


def unet_options(shapes: Shapes) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Downsampling factors with attention, and what else the names and shapes tell.

    Args:
      shapes: official name -> shape, of a UNet.

    Returns:
      the factors, ascending, and the keys of a config's `model` but `attention`.

    Raises:
      UserError: when the file is no UNet of guided-diffusion.
    """
    refuse_strangers(shapes)
    width = _shape(shapes, "time_embed.0.weight", 2)[1]
    inputs = _count(shapes, "input_blocks")
    ways = _resampling(shapes)
    blocks = ways.blocks or inputs - 1
    levels = inputs // (blocks + 1)
    if levels * (blocks + 1) != inputs or inputs != _count(shapes, "output_blocks"):
        raise UserError(
            f"the file has {inputs} input blocks, {_count(shapes, 'output_blocks')} "
            f"output blocks and {blocks} residual blocks a level, which no network of "
            "guided-diffusion has; give the file as it was saved"
        )
    firsts = [f"input_blocks.{1 + level * (blocks + 1)}" for level in range(levels)]
    wide = [_shape(shapes, f"{first}.0.in_layers.2.weight", 4)[0] for first in firsts]
    told = _shape(shapes, f"{firsts[0]}.0.emb_layers.1.weight", 2)[0]
    factors = [
        2**level
        for level, first in enumerate(firsts)
        if f"{first}.1.qkv.weight" in shapes
    ]
    return tuple(factors), {
        "width": width,
        "mult": tuple(_multiplier(width, c) for c in wide),
        "blocks": blocks,
        "scale_shift": told == 2 * wide[0],
        "resblock_updown": ways.residual,
        "conv_resample": ways.convolved,
        "classes": shapes.get("label_emb.weight", (0,))[0],
        "learn_sigma": _shape(shapes, "out.2.weight", 4)[0] == 6,
    }


def refuse_strangers(shapes: Shapes) -> None:
    """Refuses what is no UNet of guided-diffusion for images.

    Raises:
      UserError: saying what it is instead.
    """
    names = " ".join(shapes)
    what = f"no network of guided-diffusion ({', '.join(list(shapes)[:3])}, ...)"
    if "model.diffusion_model." in names:
        what = "a latent diffusion model, which paints no pixels"
    elif "down_blocks." in names:
        what = "a network of diffusers, which has other names"
    elif "input_blocks.0.0.weight" in shapes and "out.0.weight" in shapes:
        if "output_blocks.0.0.in_layers.0.weight" not in shapes:
            what = "a classifier; name it classifier.pt and give the UNet as well"
        elif _shape(shapes, "input_blocks.0.0.weight", 4)[1] == 6:
            what = "a super-resolution model, which wants a small image beside"
        elif shapes["input_blocks.0.0.weight"][1] != 3:
            what = "a network for images without 3 channels"
        elif _shape(shapes, "out.2.weight", 4)[0] not in (3, 6):
            what = "a network with neither 3 nor 6 channels of output"
        else:
            return
    raise UserError(f"the file holds {what}; give a UNet of guided-diffusion")


class _Ways(NamedTuple):
    """How sizes change, and the residual blocks a level; 0: there is one level."""

    blocks: int
    residual: bool
    convolved: bool


def _resampling(shapes: Shapes) -> _Ways:
    """From the first output block that grows: its last module does it."""
    for i in range(_count(shapes, "output_blocks")):
        for k in (1, 2):
            module = f"output_blocks.{i}.{k}"
            if f"{module}.in_layers.0.weight" in shapes:
                return _Ways(i, True, True)
            if f"{module}.conv.weight" in shapes:
                return _Ways(i, False, True)
    # Averaging has no parameters: the file skips the number of its block.
    for i in range(_count(shapes, "input_blocks")):
        if f"input_blocks.{i}.0.in_layers.0.weight" not in shapes and i:
            return _Ways(i - 1, False, False)
    return _Ways(0, True, True)


def classifier_options(shapes: Shapes | None) -> dict[str, Any]:
    """The keys of a config's `model` that a classifier's names and shapes tell.

    Raises:
      UserError: when the file is no classifier of guided-diffusion.
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
            "the classifier's file holds none of guided-diffusion; leave it out, or "
            "give 256x256_classifier.pt"
        )
    last = "out.3.weight" if named[0] == "spatial_v2" else pools[named[0]]
    return {
        "classifier_classes": shapes[last][0],
        "classifier_width": _shape(shapes, "time_embed.0.weight", 2)[1],
        "classifier_pool": named[0],
    }


def _count(shapes: Shapes, stage: str) -> int:
    """Blocks of a stage: one more than the highest number."""
    found = [re.match(rf"{stage}\.(\d+)\.", name) for name in shapes]
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _shape(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    if len(shapes.get(name, ())) != rank:
        raise UserError(
            f"the file lacks {name} with {rank} dimensions, which every network of its "
            "kind has; give the file as it was saved"
        )
    return shapes[name]


def _multiplier(width: int, c: int) -> Multiplier:
    """What times the width, cut off, makes c."""
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
    """What a file is for -> the file.

    `unet` and `classifier` are networks, `ema` the average of a `unet` that is trained
    on, `opt` its optimiser. Of a folder the files of the last step count. An average
    alone, or a file of any other name, is the network.

    Raises:
      UserError: when a path does not exist or it is unclear what to take.
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
    """What a file is for, and the step in its name."""
    for pattern, role in _ROLES.items():
        if match := re.fullmatch(pattern, path.stem):
            return role, match[1]
    return "unet", ""


def _files_of(source: Path) -> list[Path]:
    """A file itself; of a folder those of the last step, and those without."""
    if not source.exists():
        raise UserError(f"--from '{source}' does not exist; give a folder or .pt files")
    if not source.is_dir():
        return [source]
    paths = sorted(source.glob("*.pt"))
    last = max(
        (_role(path)[1] for path in paths), default="", key=lambda s: int(s or 0)
    )
    return [path for path in paths if _role(path)[1] in ("", last)]


# ---- going on with the original's training ----


def with_average(state: State, params: Tree) -> State:
    """The state with these parameters as the average of the network's."""
    return state.replace(ema=state.ema | {"unet": params})


def with_moments(state: State, updates: int, first: Tree, second: Tree) -> State:
    """The state whose UNet's Adam has made so many updates, to these moments."""

    def put(node: Any) -> Any:
        if not isinstance(node, optax.ScaleByAdamState):
            return node
        return optax.ScaleByAdamState(
            count=jnp.int32(updates), mu={"unet": first}, nu={"unet": second}
        )

    def is_adam(node: Any) -> bool:
        return isinstance(node, optax.ScaleByAdamState)

    mine = jax.tree.map(put, state.opt["adamw"], is_leaf=is_adam)
    return state.replace(opt=state.opt | {"adamw": mine})


def by_name(moments: Sequence[np.ndarray], shapes: Shapes) -> dict[str, np.ndarray]:
    """Adam's moments, in the order of the parameters, under the parameters' names.

    Training in 16 bits keeps all vectors in one array and all else in a second.

    Raises:
      UserError: when they are not as many numbers as the parameters.
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
