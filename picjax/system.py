"""The one abstraction: what a run keeps (`State`) and what a system does (`System`).

A system is a set of pure functions closed over its modules and hyper-parameters. It
never mentions devices, files or logging: `picjax.train` supplies those for all.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from picjax.cli import check_choice

Batch = Mapping[str, Array]
Tree = Any
Config = Any  # an ml_collections.ConfigDict, whose type does not know its keys

DTYPES = ("float32", "bfloat16")  # of computation, in every system


class State(struct.PyTreeNode):
    """Everything a run needs to go on: one pytree, one checkpoint item.

    Attributes:
      step: int32 scalar: the number of steps done.
      params: net -> parameters; a net that no `Opt` names is frozen.
      stats: net -> running means, spectral u and v, ...
      opt: optimiser -> optax state.
      ema: net -> averaged parameters; a net without an average is absent.
    """

    # Trees of arrays, shapes or layouts alike: JAX rebuilds a State from any of them.
    step: Tree
    params: Tree
    stats: Tree
    opt: Tree
    ema: Tree


class Opt(NamedTuple):
    """An optimiser and the nets that it owns."""

    tx: optax.GradientTransformation
    nets: tuple[str, ...]


class System(NamedTuple):
    """The verbs of a system, all pure.

    A batch is a dict of `image` (float32 [b h w 3] in [-1, 1]), `mask`
    (float32 [b h w 1], 1 = known) and, where the image is to be made from another
    picture, `condition` (as `image`). Variables are `inference_variables(state)`.

    Attributes:
      init: (key, batch) -> State.
      step: (state, batch, key) -> (State, {name: scalar}).
      sample: (variables, batch, key, n) -> float32 [b n h w 3] in [-1, 1]: whole
        images as the networks make them, known pixels too; `complete` is this with the
        input's known pixels in it. `n` is static.
      evaluate: (variables, batch, key) -> {name: one number an example}.
      show: (variables, batch, key) -> {title: images [b h w 3]}, the columns of a grid
        that are particular to the system (such as each component of a mixture).
      score: (variables, images [n h w 3]) -> float32 [n], higher for what the system
        itself holds more plausible; None where it cannot say.
      likelihood: whether `evaluate` gives `bits_per_dim` of the image and
        `bits_per_dim_hole` of its missing pixels.
      remarks: (mask uint8 [h w]) -> sentences that whoever completes it should read.
    """

    init: Callable[[PRNGKeyArray, Batch], State]
    step: Callable[[State, Batch, PRNGKeyArray], tuple[State, dict[str, Array]]]
    sample: Callable[[Tree, Batch, PRNGKeyArray, int], Float[Array, "b n h w 3"]]
    evaluate: Callable[[Tree, Batch, PRNGKeyArray], dict[str, Array]]
    show: Callable[[Tree, Batch, PRNGKeyArray], dict[str, Array]]
    score: Callable[[Tree, Float[Array, "n h w 3"]], Float[Array, " n"]] | None = None
    likelihood: bool = False
    remarks: Callable[[UInt8[np.ndarray, "h w"]], Sequence[str]] = lambda mask: ()

    def complete(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray, n: int
    ) -> Float[Array, "b n h w 3"]:
        """n completions an image; known pixels are the input's to the last bit."""
        return keep_known_in_all(batch, self.sample(variables, batch, key, n))


def init_opt(opts: Mapping[str, Opt], params: dict[str, Tree]) -> dict[str, Tree]:
    """The first state of every optimiser."""
    return {name: o.tx.init({n: params[n] for n in o.nets}) for name, o in opts.items()}


def first_state(opts: Mapping[str, Opt], made: Mapping[str, Tree]) -> State:
    """Step 0 of nets just made: net -> {"params", perhaps "stats"}; no averages."""
    params = {name: variables["params"] for name, variables in made.items()}
    return State(
        step=jnp.zeros([], jnp.int32),
        params=params,
        stats={name: variables.get("stats", {}) for name, variables in made.items()},
        opt=init_opt(opts, params),
        ema={},
    )


def update(
    opts: Mapping[str, Opt], name: str, state: State, grads: dict[str, Tree]
) -> State:
    """One step of optimiser `name` with `grads`, net -> gradient for each net it owns.

    Raises:
      KeyError: when `grads` lacks a net of this optimiser.
    """
    tx, nets = opts[name]
    owned = {n: state.params[n] for n in nets}
    updates, opt = tx.update({n: grads[n] for n in nets}, state.opt[name], owned)
    new: Tree = optax.apply_updates(owned, updates)
    return state.replace(params=state.params | new, opt=state.opt | {name: opt})


def adam(config: Config) -> optax.GradientTransformation:
    """Adam as `config.opt` says: rate, decay, moments, accumulation of gradients."""
    opt = config.opt
    lr = learning_rate(opt.lr, config.steps // opt.accumulate, opt.decay)
    tx = optax.adam(lr, b1=opt.b1, b2=opt.b2)
    if opt.accumulate > 1:
        tx = optax.MultiSteps(tx, opt.accumulate).gradient_transformation()
    return tx


def learning_rate(lr: float, updates: int, decay: float) -> optax.Schedule:
    """Constant, then falling to 0 in a straight line over the last share `decay`."""
    last = max(1, round(updates * decay))
    return optax.schedules.linear_schedule(
        lr, 0.0 if decay else lr, last, updates - last
    )


def inference_variables(state: State) -> dict[str, dict[str, Tree]]:
    """What completion needs: averaged parameters where there are any, and stats."""
    return {"params": {**state.params, **state.ema}, "stats": state.stats}


def by_net(variables: Tree) -> dict[str, Tree]:
    """{params: {net: ..}, stats: {net: ..}} turned inside out."""
    params, stats = variables["params"], variables["stats"]
    return {n: {"params": params[n], "stats": stats.get(n, {})} for n in params}


def split_keys(key: PRNGKeyArray, *purposes: str) -> dict[str, PRNGKeyArray]:
    """One key a purpose; adding a purpose at the end leaves the others' draws alone."""
    return {p: jax.random.fold_in(key, i) for i, p in enumerate(purposes)}


def apply(
    nets: dict[str, Any],
    variables: dict[str, Tree],
    name: str,
    *inputs: Any,
    update_stats: int,
) -> tuple[Any, Tree]:
    """Runs a net: its output and its stats after the call.

    `update_stats` is the number of power iterations that spectral norm makes.
    """
    stats = variables[name].get("stats", {})
    if not update_stats:
        return nets[name].apply(variables[name], *inputs, update_stats=0), stats
    out, new = nets[name].apply(
        variables[name], *inputs, update_stats=update_stats, mutable=["stats"]
    )
    return out, new.get("stats", stats)


def put_stats(state: State, net: str, stats: Tree) -> State:
    """The state with the stats of one net replaced."""
    return state.replace(stats=state.stats | {net: stats})


def draw_many(draw: Callable[[Array], Array], n: int) -> Float[Array, "b n h w 3"]:
    """The images draw(0) .. draw(n - 1) of a batch, each [b h w 3].

    All of them at once would not fit a device: ten side by side fill an accelerator,
    and two are quickest on a CPU (`bench.complete`: 20 of 256 px take 1.34 s by twos,
    1.29 s one by one, 1.94 s by tens; of 64 px 0.063, 0.078 and 0.064 s). Where a mesh
    is set (`jax.set_mesh`), each of its devices makes a share of them.
    """
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


def side_by_side(n: int) -> int:
    """How many of n images are made at once."""
    return min(n, 2 if jax.default_backend() == "cpu" else 10)


def keep_known(batch: Batch, image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """The image with the batch's known pixels in it, to the last bit."""
    known = jnp.broadcast_to(batch["mask"], image.shape) > 0.5
    return jnp.where(known, batch["image"], image)


def keep_known_in_all(
    batch: Batch, images: Float[Array, "b n h w 3"]
) -> Float[Array, "b n h w 3"]:
    """`keep_known` of each of n images of an example."""
    return jax.vmap(lambda image: keep_known(batch, image), 1, 1)(images)


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
