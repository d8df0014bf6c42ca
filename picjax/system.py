"""The one abstraction: what a run stores (`State`) and what a method does (`System`).

A method is a frozen dataclass whose networks, optimisers and hyper-parameters are its
fields and whose functions are pure. It never mentions devices, files or logging:
`picjax.train`, `picjax.completion` and `picjax.evaluation` supply those for all.
"""

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from picjax.cli import check_choice
from picjax.layers import backend

Batch = Mapping[str, Array]
Metrics = dict[str, Array]
Tree = Any
Config = Any  # an ml_collections.ConfigDict, whose type does not know its keys

DTYPES = ("float32", "bfloat16")  # of computation, in every method


class State(struct.PyTreeNode):
    """Everything a run needs to resume: one pytree, one checkpoint item.

    Attributes:
      step: int32 scalar, the number of completed steps.
      params: net -> parameters; a net that no `Opt` names is frozen.
      stats: net -> running means, spectral u and v, ...
      opt: optimiser -> optax state.
      ema: net -> averaged parameters; absent for a net without an average.
    """

    # Trees of arrays, shapes or layouts alike: JAX rebuilds a State from any of them.
    step: Tree
    params: Tree
    stats: Tree
    opt: Tree
    ema: Tree


class Opt(NamedTuple):
    """An optimiser and the names of the nets that it owns."""

    tx: optax.GradientTransformation
    nets: tuple[str, ...]


@runtime_checkable
class System(Protocol):
    """What the training loop, completion and evaluation need to know of a method.

    A method subclasses this protocol and implements the four functions without a body;
    the others have defaults. A batch is a dict of `image` (float32 [b h w 3] in
    [-1, 1]), `mask` (float32 [b h w 1], 1 = known) and, where the method uses them,
    `condition` (another picture, like `image`), `class` (int32 [b]), `label` and
    `instance` (int32 [b h w]). Variables are `inference_variables(state)`.

    Attributes:
      has_likelihood: whether `evaluate` returns `bits_per_dim` of the image and
        `bits_per_dim_hole` of its missing pixels.
      counts_draws: whether `sample` draws only the images from `batch["count"][0]` up
        to, not including, `batch["count"][1]`, if that is there (int32 [2]); the others
        may be anything.
      meanings: name of a metric of `step` -> what it is, for logs.
    """

    has_likelihood: ClassVar[bool] = False
    counts_draws: ClassVar[bool] = False
    meanings: ClassVar[Mapping[str, str]] = {}

    @property
    def can_score(self) -> bool:
        """Whether `score` is implemented."""
        return False

    @property
    def walk_calls(self) -> int:
        """Number of calls that a draw can be cut into; 0: it cannot.

        If `batch["walk"]` is there (float32 [b n h w 3]), `sample` takes the n images
        from the number `batch["count"][0]` on, as they are after call `calls[0]`, to
        where they are after call `calls[1]` (`batch["calls"]`, int32 [2]). Before call
        0 they may be anything.
        """
        return 0

    def init(self, batch: Batch, key: PRNGKeyArray) -> State:
        """The state before the first step; the batch gives shapes and may give data."""
        ...

    def step(
        self, state: State, batch: Batch, key: PRNGKeyArray
    ) -> tuple[State, Metrics]:
        """One training step: the next state and scalar metrics."""
        ...

    def sample(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray, n: int
    ) -> Float[Array, "b n h w 3"]:
        """n images per example in [-1, 1] as the networks make them, known pixels too.

        `n` is static; the i-th image does not depend on it.
        """
        ...

    def evaluate(self, variables: Tree, batch: Batch, key: PRNGKeyArray) -> Metrics:
        """The method's own metrics of whole images, one value per example."""
        ...

    def complete(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray, n: int
    ) -> Float[Array, "b n h w 3"]:
        """n completions per example: `sample` with the input's known pixels."""
        return composite_all(batch, self.sample(variables, batch, key, n))

    def visualize(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray
    ) -> dict[str, Float[Array, "b h w 3"]]:
        """Extra columns of a training grid, by title (such as each mixture component)."""
        return {}

    def score(
        self, variables: Tree, images: Float[Array, "n h w 3"]
    ) -> Float[Array, " n"]:
        """How plausible the method considers each image; higher is more plausible."""
        raise TypeError(f"{type(self).__name__} does not score images")

    def sampling_cost(self) -> str:
        """What one completion costs, in words; empty if it is one pass of a network."""
        return ""

    def mask_warnings(self, mask: UInt8[np.ndarray, "h w"]) -> Sequence[str]:
        """Sentences that a user who completes this mask should read."""
        return ()


# ---- state ----


def init_opt(opts: Mapping[str, Opt], params: dict[str, Tree]) -> dict[str, Tree]:
    """The initial state of every optimiser."""
    return {name: o.tx.init({n: params[n] for n in o.nets}) for name, o in opts.items()}


def initial_state(opts: Mapping[str, Opt], variables: Mapping[str, Tree]) -> State:
    """Step 0 of initialised nets: net -> {"params", perhaps "stats"}; no averages."""
    params = {name: v["params"] for name, v in variables.items()}
    return State(
        step=jnp.zeros([], jnp.int32),
        params=params,
        stats={name: v.get("stats", {}) for name, v in variables.items()},
        opt=init_opt(opts, params),
        ema={},
    )


def update(
    opts: Mapping[str, Opt], name: str, state: State, grads: dict[str, Tree]
) -> State:
    """One step of optimiser `name` with `grads`, net -> gradient for each net it owns.

    Raises:
      KeyError: if `grads` lacks a net of this optimiser.
    """
    tx, nets = opts[name]
    owned = {n: state.params[n] for n in nets}
    updates, opt = tx.update({n: grads[n] for n in nets}, state.opt[name], owned)
    new: Tree = optax.apply_updates(owned, updates)
    return state.replace(params=state.params | new, opt=state.opt | {name: opt})


def inference_variables(state: State) -> dict[str, dict[str, Tree]]:
    """What completion needs: averaged parameters where there are any, and stats."""
    return {"params": {**state.params, **state.ema}, "stats": state.stats}


# ---- networks ----


def apply(
    net: nn.Module,
    params: Mapping[str, Tree],
    stats: Mapping[str, Tree],
    *inputs: Any,
    **options: Any,
) -> tuple[Any, dict[str, Tree]]:
    """Run a net in training: its output, and `stats` with the net's new ones.

    Args:
      net: a module whose `name` is its key in `params` and `stats`.
      params: net -> parameters.
      stats: net -> running statistics.
      inputs: positional arguments of the net.
      options: its keyword arguments, such as `power_iterations` or `train`.
    """
    variables = _variables_of(net, params, stats)
    out, new = net.apply(variables, *inputs, mutable=["stats"], **options)
    if "stats" not in new:
        return out, dict(stats)
    return out, {**stats, str(net.name): new["stats"]}


def infer(net: nn.Module, variables: Tree, *inputs: Any, **options: Any) -> Any:
    """Run a net on {"params": {net: ..}, "stats": {net: ..}}; its stats stay."""
    own = _variables_of(net, variables["params"], variables["stats"])
    return net.apply(own, *inputs, **options)


def _variables_of(
    net: nn.Module, params: Mapping[str, Tree], stats: Mapping[str, Tree]
) -> dict[str, Tree]:
    name = str(net.name)
    return {"params": params[name], "stats": stats.get(name, {})}


# ---- randomness ----


def split_keys(key: PRNGKeyArray, *purposes: str) -> dict[str, PRNGKeyArray]:
    """One key per named purpose, whatever the other purposes and their order."""
    return {p: purpose_key(key, p) for p in purposes}


def purpose_key(key: PRNGKeyArray, purpose: str) -> PRNGKeyArray:
    """The key of one named purpose."""
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))


# ---- images ----


def draw_many(
    draw: Callable[[Array], Array], n: int, count: Int[Array, "2"] | None = None
) -> Float[Array, "b n h w 3"]:
    """The images draw(0) .. draw(n - 1) of a batch, each [b h w 3].

    All of them at once would not fit a device: ten side by side fill an accelerator,
    and two are quickest on a CPU (`bench.complete`: 20 of 256 px take 1.34 s by twos,
    1.29 s one by one, 1.94 s by tens; of 64 px 0.063, 0.078 and 0.064 s). Where a mesh
    is set (`jax.set_mesh`), each of its devices makes a share of them.

    Args:
      draw: number -> images.
      n: how many there is room for.
      count: the first one that is drawn, a multiple of `side_by_side(n)`, and the one
        after the last; the others are 0. None: all. One program then serves every count
        up to n.
    """
    if count is not None:
        return _draw_some(draw, n, count)
    mesh = jax.sharding.get_abstract_mesh()
    devices = mesh.size or 1  # where none is set, its size is 0
    each = -(-n // devices)

    def share(numbers: Array) -> Array:
        return jax.lax.map(draw, numbers, batch_size=side_by_side(each))

    if devices > 1:
        split = PartitionSpec(mesh.axis_names)
        # The carries of loops in `draw` begin alike everywhere, which its check refuses.
        share = jax.shard_map(share, in_specs=split, out_specs=split, check_vma=False)
    return share(jnp.arange(each * devices))[:n].swapaxes(0, 1)


def _draw_some(
    draw: Callable[[Array], Array], n: int, count: Int[Array, "2"]
) -> Float[Array, "b n h w 3"]:
    """Groups side by side as in `jax.lax.map`, then the remaining ones singly."""
    each = side_by_side(n)
    shape = jax.eval_shape(draw, jax.ShapeDtypeStruct((), jnp.int32))
    images = jnp.zeros((n, *shape.shape), shape.dtype)

    def group(i: Array, images: Array) -> Array:
        some = jax.vmap(draw)(i * each + jnp.arange(each))
        return jax.lax.dynamic_update_slice_in_dim(images, some, i * each, 0)

    def single(i: Array, images: Array) -> Array:
        one = jax.vmap(draw)(i[None])
        return jax.lax.dynamic_update_slice_in_dim(images, one, i, 0)

    first, stop = count
    groups = stop // each
    images = jax.lax.fori_loop(first // each, groups, group, images)
    return jax.lax.fori_loop(groups * each, stop, single, images).swapaxes(0, 1)


def side_by_side(n: int) -> int:
    """How many of n images are made at once."""
    return min(n, 2 if backend.on_cpu() else 10)


def composite(batch: Batch, image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """The image with the batch's known pixels in it, bit-exactly."""
    known = jnp.broadcast_to(batch["mask"], image.shape) > 0.5
    return jnp.where(known, batch["image"], image)


def composite_all(
    batch: Batch, images: Float[Array, "b n h w 3"]
) -> Float[Array, "b n h w 3"]:
    """`composite` of each of n images per example."""
    return jax.vmap(lambda image: composite(batch, image), 1, 1)(images)


# ---- configs ----


def image_shape(config: Config) -> tuple[int, int]:
    """Height and width of a config's images; `image_size` is one number or two."""
    size = config.image_size
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def check_choices(config: Config, choices: Mapping[str, Collection[str]]) -> None:
    """Refuses values that name nothing; `model.dtype` is looked at of itself.

    Args:
      config: a config.
      choices: dotted key -> the names it may have.

    Raises:
      UserError: naming the key, the names there are, and the nearest.
    """
    for key, names in {"model.dtype": DTYPES, **choices}.items():
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        check_choice(f"config.{key}", value, names)
