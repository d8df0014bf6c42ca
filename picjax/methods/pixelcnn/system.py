"""PixelCNN++ (arXiv 1701.05517): the exact likelihood of an image, pixel by pixel.

Training maximises the likelihood of whole images, where masks play no part, or that of
the missing pixels given what comes before each. Completion draws the missing pixels in
raster order, each given all before it. That is a draw from the model's own posterior
where no known pixel comes after the hole. `turns` lets one model
learn several orders: it is told how each image is turned, and a completion takes the
turn that puts the least behind the hole.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from picjax.cli import UserError, check_choice
from picjax.legacy import System, learning_rate
from picjax.methods.pixelcnn import cached, logistic, raster
from picjax.methods.pixelcnn.net import NONLINEARITIES, PixelCNN, check_size
from picjax.methods.pixelcnn.raster import TURNS, Noise
from picjax.system import (
    Batch,
    Config,
    Opt,
    State,
    Tree,
    check_choices,
    image_shape,
    init_opt,
    split_keys,
    update,
)


class Hyper(NamedTuple):
    """What is not the network's; the comments of configs/pixelcnn.py explain."""

    form: str = "stable"
    pixels: str = "all"
    ema: float = 0.9995
    turns: tuple[str, ...] = ("upright",)
    classes: int = 0
    label: int = 0
    sampler: str = "cached"
    candidates: int = 1
    rounded: bool = True


def make(config: Config) -> System:
    """The system of a config (configs/pixelcnn.py).

    Raises:
      UserError: for a size, an order or a name that cannot work.
    """
    check(config)
    model, opt = config.model, config.opt
    net = network(model)
    hyper = Hyper(
        form=config.loss.form,
        pixels=config.loss.get("pixels", "all"),
        ema=opt.ema ** (1 / opt.accumulate),
        turns=tuple(model.turns),
        classes=config.data.get("classes", 0),
        label=model.get("label", 0),
        sampler=model.sampler,
        candidates=model.candidates,
        rounded=model.rounded,
    )
    opts = optimisers(adam(config))
    return System(
        init_=partial(init, net, hyper, opts),
        step=partial(step, net, hyper, opts),
        sample=partial(sample, net, hyper),
        evaluate=partial(evaluate, net, hyper),
        visualize=lambda variables, batch, key: {},
        # What was never trained cannot judge whole images.
        score_=partial(score, net, hyper) if hyper.pixels == "all" else None,
        has_likelihood=True,
        mask_warnings=partial(remarks, hyper.turns),
    )


def network(model: Config) -> PixelCNN:
    """The network of a config's `model`."""
    return PixelCNN(
        features=model.features,
        blocks=model.blocks,
        mixtures=model.mixtures,
        channels=model.channels,
        nonlinearity=model.nonlinearity,
        dropout=model.dropout,
        dtype=jnp.dtype(model.dtype),
        remat=model.remat,
    )


def networks(model: Config, size: tuple[int, int]) -> dict[str, PixelCNN]:
    """The one network, which fits any size."""
    del size
    return {"net": network(model)}


def check(config: Config) -> None:
    """Refuses what cannot work, before anything is compiled.

    Raises:
      UserError: naming the key.
    """
    height, width = image_shape(config)
    check_size(height, width)
    model = config.model
    check_choices(
        config,
        {
            "model.nonlinearity": NONLINEARITIES,
            "model.sampler": SAMPLERS,
            "loss.form": logistic.LOG_BIN,
        },
    )
    pixels = config.loss.get("pixels", "all")
    check_choice("config.loss.pixels", pixels, ("all", "missing"))
    check_numbers(config)
    for name in model.turns:
        check_choice("config.model.turns", name, TURNS)
    if model.channels not in (1, 3):
        raise UserError(
            f"config.model.channels is {model.channels}; give 3, or 1: grey"
        )
    classes, label = config.data.get("classes", 0), model.get("label", 0)
    if classes < 0:
        raise UserError(f"config.data.classes is {classes}; 0 says that there are none")
    if not 0 <= label < max(classes, 1):
        raise UserError(
            f"config.model.label {label} is none of config.data.classes, {classes}; "
            "give one below that"
        )
    if not model.turns or model.candidates < 1:
        raise UserError(
            "config.model.turns is empty or config.model.candidates below 1; "
            "give at least one of each"
        )
    if model.candidates > 1 and pixels == "missing":
        raise UserError(
            "config.model.candidates above 1 needs the likelihood of known pixels, which "
            "config.loss.pixels=missing does not teach; train with all"
        )
    if height != width and any(TURNS[t][0] for t in model.turns):
        raise UserError(
            f"config.model.turns has one that exchanges the sides of {height}x{width} "
            "images; use square images, or upright, mirrored, upside_down, half_turn"
        )


def check_numbers(config: Config) -> None:
    """Refuses sizes and rates that no network and no optimiser can have.

    Raises:
      UserError: naming the key.
    """
    model, opt = config.model, config.opt
    counts = {
        "model.features": model.features,
        "model.blocks": model.blocks,
        "model.mixtures": model.mixtures,
        "opt.accumulate": opt.accumulate,
    }
    for key, value in counts.items():
        if value < 1:
            raise UserError(f"config.{key} is {value}; make it at least 1")
    shares = {
        "model.dropout": model.dropout,
        "opt.b1": opt.b1,
        "opt.b2": opt.b2,
        "opt.ema": opt.ema,
    }
    for key, value in shares.items():
        if not 0 <= value < 1:
            raise UserError(f"config.{key} is {value}; give 0 or more, and less than 1")
    if not 0 <= opt.decay <= 1:
        raise UserError(
            f"config.opt.decay is {opt.decay}; give a share of the steps, 0 to 1"
        )
    if not 0 < opt.fall <= 1:
        raise UserError(
            f"config.opt.fall is {opt.fall}; give more than 0, at most 1: no fall"
        )
    if not opt.lr > 0:
        raise UserError(f"config.opt.lr is {opt.lr}; give more than 0")


def adam(config: Config) -> optax.GradientTransformation:
    """Adam with eps inside the root, and a rate that falls a little every step.

    Update t, from 1, has rate lr fall^t, and the run's last share `decay` brings it to 0
    (specification, section 11).
    """
    opt = config.opt
    last = learning_rate(opt.lr, config.steps // opt.accumulate, opt.decay)
    slope = float(np.log(opt.fall))  # a power of fall itself is 3 % off in float32

    def rate(count: Any) -> Any:
        return last(count) * jnp.exp(slope * (count + 1))

    tx = optax.chain(
        optax.scale_by_adam(b1=opt.b1, b2=opt.b2, eps=0.0, eps_root=1e-8),
        optax.scale_by_learning_rate(rate),
    )
    if opt.accumulate > 1:
        tx = optax.MultiSteps(tx, opt.accumulate).gradient_transformation()
    return tx


def optimisers(tx: optax.GradientTransformation) -> dict[str, Opt]:
    """One optimiser, one net."""
    return {"adam": Opt(tx, ("net",))}


# ---- images as the network sees them ----


class Turned(NamedTuple):
    """Images turned for the network.

    Attributes:
      which: of the turns, for each image.
      image: in the network's channels.
      known: what is not missing.
      condition: the turn and the class as the network is told them; None where there is
        one turn only, and no class.
    """

    which: Int[Array, " b"]
    image: Float[Array, "b h w c"]
    known: Bool[Array, "b h w 1"]
    condition: Float[Array, "b t"] | None


def in_channels(
    net: PixelCNN, image: Float[Array, "b h w 3"]
) -> Float[Array, "b h w c"]:
    """Images in the network's channels: colour, or grey on the same 256 values."""
    if net.channels == 3:
        return image
    return logistic.to_grid(image.mean(-1, keepdims=True))


def turned(
    net: PixelCNN,
    turns: tuple[str, ...],
    batch: Batch,
    index: Int[Array, " b"],
    classes: int = 0,
) -> Turned:
    """The batch, with `class` if there are any, each image turned by one of `turns`."""
    image = in_channels(net, batch["image"])

    def choose(x: Array) -> Array:
        return select(index, [raster.turn(x, name) for name in turns])

    known = choose(batch["mask"]) > 0.5
    told = [jax.nn.one_hot(index, len(turns))] if len(turns) > 1 else []
    told += [jax.nn.one_hot(batch["class"], classes)] if classes else []
    condition = jnp.concatenate(told, -1) if told else None
    return Turned(index, choose(image), known, condition)


def select(
    index: Int[Array, " b"], each: Sequence[Float[Array, "b h w c"]]
) -> Float[Array, "b h w c"]:
    """Of several batches, for each image the one that its index says.

    Not by indexing: a gather takes the batch off its devices, and then each of them
    runs the network on all of it.
    """
    chosen = each[0]
    for i, images in enumerate(each[1:], 1):
        chosen = jnp.where((index == i)[:, None, None, None], images, chosen)
    return chosen


def labelled(hyper: Hyper, batch: Batch) -> Batch:
    """The batch with the config's class where it comes without any."""
    b = batch["image"].shape[0]
    return {"class": jnp.full(b, hyper.label, jnp.int32), **batch}


def look(
    net: PixelCNN,
    params: Tree,
    image: Float[Array, "b h w c"],
    condition: Float[Array, "b t"] | None,
    dropout: dict[str, Array] | None = None,
) -> Float[Array, "b h w m"]:
    """The network's logits; in training, when it is given a key for `dropout`."""
    run: Any = net.apply
    return run({"params": params}, image, bool(dropout), condition, rngs=dropout)


def best_turn(turns: tuple[str, ...], mask: Float[Array, "b h w 1"]) -> Array:
    """The turn after which the fewest known pixels come after the hole's first."""
    each = [raster.unused(raster.turn(mask, name) > 0.5) for name in turns]
    return jnp.argmin(jnp.stack(each), 0)


def best_turned(net: PixelCNN, hyper: Hyper, batch: Batch) -> Turned:
    """The batch with each image turned as its mask wants it."""
    index = best_turn(hyper.turns, batch["mask"])
    return turned(net, hyper.turns, labelled(hyper, batch), index, hyper.classes)


def remarks(turns: tuple[str, ...], mask: UInt8[np.ndarray, "h w"]) -> list[str]:
    """What a user should know about completing this mask: nothing if it is exact."""
    known = jnp.asarray(mask, jnp.float32)[None, ..., None]
    least = min(int(raster.unused(raster.turn(known, t) > 0.5)[0]) for t in turns)
    if not least:
        return []
    share = least / max(int(mask.sum()), 1)
    said = (
        f"{share:.0%} of the known pixels come after the hole's first pixel in every "
        f"order that this PixelCNN++ learnt ({', '.join(turns)}), so the completion "
        "does not fit itself to them; a hole at the end, as with --mask=top, is exact"
    )
    return [said]


# ---- init and step ----


def init(
    net: PixelCNN, hyper: Hyper, opts: dict[str, Opt], key: Array, batch: Batch
) -> State:
    """Gains and biases from the first batch; the average starts from what they make."""
    keys = split_keys(key, "params", "dropout", "turn")
    seen = turned_at_random(net, hyper, labelled(hyper, batch), keys.pop("turn"))
    made = net.init(keys, seen.image, True, seen.condition)
    params = {"net": made["params"]}
    return State(
        step=jnp.zeros([], jnp.int32),
        params=params,
        stats={},
        opt=init_opt(opts, params),
        ema=jax.tree.map(jnp.copy, params),  # donated apart from the parameters
    )


def turned_at_random(net: PixelCNN, hyper: Hyper, batch: Batch, key: Array) -> Turned:
    """Each image turned by any of the turns, all equally likely."""
    b = batch["image"].shape[0]
    index = jax.random.randint(key, (b,), 0, len(hyper.turns))
    return turned(net, hyper.turns, batch, index, hyper.classes)


def step(
    net: PixelCNN,
    hyper: Hyper,
    opts: dict[str, Opt],
    state: State,
    batch: Batch,
    key: Array,
) -> tuple[State, dict[str, Array]]:
    """One update on the summed negative log-likelihood, then the average.

    It is that of every pixel, or of the missing ones given all before each.
    """
    if hyper.classes and "class" not in batch:
        raise UserError("the images come without classes; set config.data.classes to 0")
    keys = split_keys(key, "dropout", "turn")
    seen = turned_at_random(net, hyper, batch, keys.pop("turn"))
    counted = jnp.logical_not(seen.known[..., 0]) | (hyper.pixels == "all")

    def loss(params: Tree) -> Array:
        logits = look(net, params, seen.image, seen.condition, keys)
        each = -logistic.log_likelihood(seen.image, logits, hyper.form)
        # Summed, not averaged: eps of Adam is meant for gradients of that size.
        return jnp.where(counted, each, 0).sum()

    nats, grads = jax.value_and_grad(loss)(state.params["net"])
    state = update(opts, "adam", state, {"net": grads})
    ema = jax.tree.map(
        lambda mean, new: hyper.ema * mean + (1 - hyper.ema) * new,
        state.ema,
        state.params,
    )
    bits = logistic.bits(nats) / (jnp.maximum(counted.sum(), 1) * net.channels)
    return state.replace(step=state.step + 1, ema=ema), {"bits_per_dim": bits}


# ---- complete ----


def sample_cached(
    net: PixelCNN, params: Tree, seen: Turned, noise: Noise, rounded: bool
) -> Float[Array, "b n h w c"]:
    """n completions an image, every feature computed once."""
    return cached.sample(
        net, params, seen.image, seen.known, noise, seen.condition, rounded
    )


def sample_fixed_point(
    net: PixelCNN, params: Tree, seen: Turned, noise: Noise, rounded: bool
) -> Float[Array, "b n h w c"]:
    """n completions an image, all pixels again and again until nothing changes."""
    b, n = noise.value.shape[:2]

    def flat(x: Array) -> Array:
        return x.reshape(b * n, *x.shape[2:])

    image, known = (jnp.repeat(x, n, 0) for x in (seen.image, seen.known))
    condition = None if seen.condition is None else jnp.repeat(seen.condition, n, 0)

    def logits(x: Array) -> Array:
        return look(net, params, x, condition)

    flat_noise = Noise(flat(noise.mixture), flat(noise.value))
    drawn, _ = raster.jacobi(logits, image, known, flat_noise, rounded)
    return drawn.reshape(b, n, *drawn.shape[1:])


SAMPLERS = {"cached": sample_cached, "fixed_point": sample_fixed_point}


def sample(
    net: PixelCNN, hyper: Hyper, variables: Tree, batch: Batch, key: Array, n: int
) -> Float[Array, "b n h w 3"]:
    """n completions an image; the i-th does not depend on n.

    Known pixels are the input's already, grey where the network knows no colour.
    """
    keys = split_keys(key, "draws", "choice")
    params, m = variables["params"]["net"], hyper.candidates
    seen = best_turned(net, hyper, batch)
    b, height, width, channels = seen.image.shape

    def uniforms(i: Array) -> Noise:
        own = jax.random.fold_in(keys["draws"], i)
        size = (b, m, height, width)
        return raster.draw_noise(own, size, net.mixtures, channels)

    def flat(x: Array) -> Array:
        """[n b m ..] as [b nm ..]."""
        return x.swapaxes(0, 1).reshape(b, n * m, *x.shape[3:])

    each = jax.vmap(uniforms)(jnp.arange(n))
    noise = Noise(flat(each.mixture), flat(each.value))
    drawn = SAMPLERS[hyper.sampler](net, params, seen, noise, hyper.rounded)
    if m > 1:
        drawn = choose(net, hyper, params, seen, drawn, keys["choice"])
    return jax.vmap(lambda image: turned_back(hyper.turns, image, seen.which), 1, 1)(
        drawn
    )


def turned_back(
    turns: tuple[str, ...], image: Float[Array, "b h w c"], index: Int[Array, " b"]
) -> Float[Array, "b i j 3"]:
    """The inverse of `turned`, in colour."""
    image = select(index, [raster.turn_back(image, name) for name in turns])
    return jnp.broadcast_to(image, (*image.shape[:-1], 3))


def choose(
    net: PixelCNN,
    hyper: Hyper,
    params: Tree,
    seen: Turned,
    drawn: Float[Array, "b nm h w c"],
    key: Array,
) -> Float[Array, "b n h w c"]:
    """One of each m candidates, by how likely it makes the known pixels after the hole.

    With m growing, this becomes a draw from the posterior given all known pixels
    (sampling, importance resampling).
    """
    b, m = len(drawn), hyper.candidates

    def score(images: Float[Array, "b h w c"]) -> Float[Array, " b"]:
        logits = look(net, params, images, seen.condition)
        each = logistic.log_likelihood(images, logits, hyper.form)
        return jnp.where(seen.known[..., 0], each, 0).sum((1, 2))

    scores = jax.lax.map(score, drawn.swapaxes(0, 1)).T.reshape(b, -1, m)
    n = scores.shape[1]

    def pick(i: Array) -> Array:
        own = jax.random.fold_in(key, i)
        return jax.random.categorical(own, scores[:, i])

    picked = jax.vmap(pick)(jnp.arange(n)).T
    groups = drawn.reshape(b, n, m, *drawn.shape[2:])
    return groups[jnp.arange(b)[:, None], jnp.arange(n)[None], picked]


# ---- evaluate ----


def score(
    net: PixelCNN, hyper: Hyper, variables: Tree, images: Float[Array, "n h w 3"]
) -> Float[Array, " n"]:
    """Log-likelihood of whole images, nats; upright, or as the first of the turns."""
    batch = {"image": images, "mask": jnp.ones_like(images[..., :1])}
    first = jnp.zeros(len(images), jnp.int32)
    seen = turned(net, hyper.turns, labelled(hyper, batch), first, hyper.classes)
    logits = look(net, variables["params"]["net"], seen.image, seen.condition)
    return -logistic.nll(seen.image, logits, hyper.form)


def evaluate(
    net: PixelCNN, hyper: Hyper, variables: Tree, batch: Batch, key: Array
) -> dict[str, Array]:
    """Bits per dimension of the whole image and of the missing pixels alone.

    The latter is the negative log-likelihood of the hole given the known pixels where
    these come before it, as `unused` = 0 says; else given the pixels before each.
    """
    seen = best_turned(net, hyper, batch)
    params = variables["params"]["net"]
    logits = look(net, params, seen.image, seen.condition)
    bits = -logistic.bits(logistic.log_likelihood(seen.image, logits, hyper.form))
    bits = bits / net.channels
    missing = jnp.logical_not(seen.known[..., 0])
    return {
        "bits_per_dim": bits.mean((1, 2)),
        "bits_per_dim_hole": jnp.where(missing, bits, 0).sum((1, 2))
        / jnp.maximum(missing.sum((1, 2)), 1),
        "unused": raster.unused(seen.known).astype(jnp.float32),
    }
