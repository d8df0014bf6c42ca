"""Intelligent Painter and RePaint: a diffusion model completes holes it never saw.

Training is guided-diffusion's: the network learns the noise in whole images, and masks
play no part. Completion walks the chain back from noise, putting the known pixels in
before every call of the network and jumping back now and then (`sampling.walk`). A
classifier that is to guide learns beside the network, from noised images of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, UInt8

from picjax.cli import UserError
from picjax.legacy import System, first_state, learning_rate
from picjax.methods.painter import losses
from picjax.methods.painter import net as painter
from picjax.methods.painter import process as diffusion
from picjax.methods.painter import resampling as walk
from picjax.methods.painter.losses import History
from picjax.methods.painter.net import Classifier, UNet
from picjax.methods.painter.process import Kind, Tables
from picjax.methods.painter.resampling import PRESETS, Jumps, Preset, Walk
from picjax.system import (
    Batch,
    Config,
    Opt,
    State,
    Tree,
    check_choices,
    draw_many,
    image_shape,
    split_keys,
    update,
)

HEAD_WIDTH = 64  # of every published classifier
PLAIN_CALLS = int(PRESETS["plain"].spacing)  # it has no jumps
EVALUATED = 4  # steps of the chain that `evaluate` looks at


class Hyper(NamedTuple):
    """How the network is trained; the comments of configs/painter.py explain."""

    loss: str = "mse"
    steps: str = "uniform"
    ema: float = 0.9999


class Sampler(NamedTuple):
    """How completions are made.

    Attributes:
      tables: of the chain.
      walk: the network's calls.
      eta: DDIM's; None: ancestral.
      label: which class to make; -1: the image's, or else any.
      guidance: how far the classifier's gradient is followed; 0: it is not asked.
    """

    tables: Tables
    walk: Walk
    eta: float | None
    label: int
    guidance: float


def make(config: Config) -> System:
    """The system of a config (configs/painter.py).

    Raises:
      UserError: for a size, a width, a name or a walk that cannot work.
    """
    check(config)
    nets = networks(config.model, image_shape(config))
    kind = output_kind(config)
    tables = diffusion.tables(config.diffusion.schedule, config.diffusion.steps)
    sampler = make_sampler(config)
    opt = config.opt
    hyper = Hyper(config.loss.kind, config.loss.steps, opt.ema ** (1 / opt.accumulate))
    opts = optimisers(config)
    return System(
        init_=partial(init, nets, hyper, opts, tables.steps),
        step=partial(step, nets, tables, kind, hyper, opts),
        sample=partial(sample, nets, kind, sampler),
        evaluate=partial(evaluate, nets, tables, kind),
        visualize=partial(show, nets, tables, kind),
        mask_warnings=partial(remarks, sampler.walk),
    )


def check(config: Config) -> None:
    """Refuses what cannot work, before anything is compiled.

    Raises:
      UserError: naming the key.
    """
    model, sampler = config.model, config.sampler
    check_choices(
        config,
        {
            "diffusion.schedule": diffusion.SCHEDULES,
            "diffusion.predicts": diffusion.MEANS,
            "diffusion.fixed": ("fixed_large", "fixed_small"),
            "loss.kind": losses.LOSSES,
            "loss.steps": losses.SAMPLERS,
            "model.qkv_order": ("legacy", "new"),
            "model.classifier_pool": get_args(painter.Pool),
            "sampler.preset": (*PRESETS, "own"),
        },
    )
    painter.check_size(*image_shape(config), len(model.mult))
    painter.check_widths(model.width, model.mult, model.head_width, model.heads)
    width, mult = model.classifier_width, model.classifier_mult
    if model.classifier_classes and any(width * m % HEAD_WIDTH for m in mult):
        raise UserError(
            f"config.model.classifier_width {width} makes levels that are no multiple "
            f"of {HEAD_WIDTH} channels, a head's; choose another"
        )
    if model.classifier_classes:
        painter.check_size(*image_shape(config), len(mult), "classifier_mult")
    counts = {
        "config.data.classes": config.data.get("classes", 0),
        "config.model.classes": model.classes,
        "config.model.classifier_classes": model.classifier_classes,
    }
    counts = {key: count for key, count in counts.items() if count}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{key} is {count}" for key, count in counts.items())
        raise UserError(f"{said}; make them equal, or 0 what is not wanted")
    most = max(model.classes, model.classifier_classes)
    if not -1 <= sampler.label < most:
        raise UserError(
            f"config.sampler.label {sampler.label} is none of the {most} classes; give "
            "-1 for any"
        )
    if sampler.eta > 1:
        raise UserError(
            f"config.sampler.eta {sampler.eta} is above 1; give 0 to 1, or -1 for "
            "ancestral steps"
        )


def networks(model: Config, image_size: tuple[int, int]) -> dict[str, Any]:
    """The network, and the classifier that may guide it.

    Raises:
      UserError: for sizes with attention that the image's does not halve to.
    """
    shared: Any = {"dtype": jnp.dtype(model.dtype), "remat": model.remat}
    nets: dict[str, Any] = {
        "unet": UNet(
            width=model.width,
            mult=tuple(model.mult),
            blocks=model.blocks,
            attention=painter.factors(
                image_size[0], model.attention, len(model.mult), "attention"
            ),
            head_width=model.head_width,
            heads=model.heads,
            qkv_order=model.qkv_order,
            scale_shift=model.scale_shift,
            resblock_updown=model.resblock_updown,
            conv_resample=model.conv_resample,
            dropout=model.dropout,
            classes=model.classes or None,
            out_channels=6 if model.learn_sigma else 3,
            **shared,
        )
    }
    if model.classifier_classes:
        sizes, mult = model.classifier_attention, tuple(model.classifier_mult)
        nets["classifier"] = Classifier(
            width=model.classifier_width,
            mult=mult,
            blocks=model.classifier_blocks,
            attention=painter.factors(
                image_size[0], sizes, len(mult), "classifier_attention"
            ),
            classes=model.classifier_classes,
            pool=model.classifier_pool,
            head_width=HEAD_WIDTH,
            **shared,
        )
    return nets


def output_kind(config: Config) -> Kind:
    """What the network's output means."""
    learned = config.model.learn_sigma
    fixed = config.diffusion.fixed
    return Kind(config.diffusion.predicts, "learned_range" if learned else fixed)


def adamw(
    config: Config, lr: float, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW; where the rate falls, it does so one update late, as in the original."""
    opt = config.opt
    fall = learning_rate(lr, config.steps // opt.accumulate, opt.decay)

    def rate(count: Any) -> Any:
        return fall(jnp.maximum(count - 1, 0))

    tx = optax.adamw(rate, b1=opt.b1, b2=opt.b2, weight_decay=weight_decay)
    if opt.accumulate > 1:
        tx = optax.MultiSteps(tx, opt.accumulate).gradient_transformation()
    return tx


def optimisers(config: Config) -> dict[str, Opt]:
    """One for each network; a classifier whose rate is 0 has none."""
    opt = config.opt
    opts = {"adamw": Opt(adamw(config, opt.lr, opt.weight_decay), ("unet",))}
    if config.model.classifier_classes and opt.classifier_lr:
        tx = adamw(config, opt.classifier_lr, opt.classifier_weight_decay)
        opts["classifier"] = Opt(tx, ("classifier",))
    return opts


# ---- the sampler of a config ----


def make_sampler(config: Config) -> Sampler:
    """What `config.sampler` asks for: a preset, or numbers of one's own.

    Raises:
      UserError: when the chain is too short for them.
    """
    given = config.sampler
    preset = own_preset(given) if given.preset == "own" else PRESETS[given.preset]
    schedule = config.diffusion
    try:
        tables = diffusion.tables(schedule.schedule, schedule.steps, preset.spacing)
    except UserError as error:
        raise UserError(f"config.sampler, preset '{given.preset}': {error}") from error
    if schedule.predicts == "previous_x" and tables.steps < schedule.steps:
        raise UserError(
            "config.diffusion.predicts=previous_x needs every step of the chain; set "
            "config.sampler.preset=own and leave config.sampler.spacing empty"
        )
    calls = walk.plan(tables.steps, preset.jumps)
    if preset.jumps.times > 1 and not calls.steps_back:
        raise UserError(
            f"config.sampler.jump_length {preset.jumps.length}, .start and .stop leave "
            f"no jump on {tables.steps} steps, which is what they count; make them "
            "smaller, or set config.sampler.jump_times=1"
        )
    return Sampler(tables, calls, preset.eta, given.label, given.guidance)


def own_preset(given: Config) -> Preset:
    """The numbers of `config.sampler`.

    Raises:
      UserError: for jumps taken less than once.
    """
    if given.jump_times < 1:
        raise UserError(
            f"config.sampler.jump_times is {given.jump_times}; give 1 for no jumps, or "
            "more"
        )
    jumps = Jumps(
        length=given.jump_length,
        times=given.jump_times,
        start=given.start,
        stop=given.stop,
    )
    return Preset(given.spacing, jumps, None if given.eta < 0 else given.eta)


def remarks(calls: Walk, known: UInt8[np.ndarray, "h w"]) -> list[str]:
    """What whoever completes this mask should know."""
    if known.any() or calls.calls <= PLAIN_CALLS:
        return []
    said = (
        f"nothing is known, so this sampler's {calls.steps_back} steps back are not "
        f"needed; --sampler=plain takes {PLAIN_CALLS} calls instead of {calls.calls}"
    )
    return [said]


# ---- init and step ----


def init(
    nets: dict[str, Any],
    hyper: Hyper,
    opts: dict[str, Opt],
    steps: int,
    key: Array,
    batch: Batch,
) -> State:
    """The original's first weights; the average starts as a copy of them."""
    keys = split_keys(key, "unet", "classifier")
    x = batch["image"][:1]
    t = jnp.zeros(1, jnp.int32)
    y = t if nets["unet"].classes else None
    made = {"unet": nets["unet"].init(keys["unet"], x, t, y)}
    if "classifier" in nets:
        made["classifier"] = nets["classifier"].init(keys["classifier"], x, t)
    state = first_state(opts, made)
    if hyper.steps == "loss_second_moment":
        history = losses.no_history(steps)._asdict()
        state = state.replace(stats=state.stats | {"history": history})
    # A copy: the parameters are donated apart from it.
    return state.replace(ema={"unet": jax.tree.map(jnp.copy, state.params["unet"])})


def step(
    nets: dict[str, Any],
    tables: Tables,
    kind: Kind,
    hyper: Hyper,
    opts: dict[str, Opt],
    state: State,
    batch: Batch,
    key: Array,
) -> tuple[State, dict[str, Array]]:
    """One update on noised images, each at a step of its own; then the average.

    Then one of the classifier, where there is one that learns.

    Raises:
      UserError: for networks that learn classes, which the data do not have.
    """
    check_classes(nets, opts, batch)
    keys = split_keys(key, "steps", "noise", "dropout", "classifier")
    image = batch["image"]
    history = state.stats.get("history")
    chances = jnp.full(tables.steps, 1 / tables.steps)
    if history is not None:
        chances = losses.probabilities(History(**history))
    t, weights = losses.draw_steps(keys["steps"], chances, len(image))
    noise = jax.random.normal(keys["noise"], image.shape)
    y = batch["class"] if nets["unet"].classes else None

    def loss(params: Tree) -> tuple[Array, dict[str, Array]]:
        network = look(nets["unet"], params, y, keys["dropout"])
        x, output = noised(network, tables, image, t, noise)
        each = losses.step_losses(tables, kind, hyper.loss, image, x, t, noise, output)
        return (weights * each["loss"]).mean(), each

    grads, each = jax.grad(loss, has_aux=True)(state.params["unet"])
    state = update(opts, "adamw", state, {"unet": grads})
    if history is not None:
        known = losses.remember(History(**history), t, each["loss"])
        state = state.replace(stats=state.stats | {"history": known._asdict()})
    ema = {"unet": average(hyper.ema, state.ema["unet"], state.params["unet"])}
    metrics = {name: (weights * x).mean() for name, x in each.items()}
    if "classifier" in opts:
        state, judged = teach(nets, tables, opts, state, batch, keys["classifier"])
        metrics |= judged
    return state.replace(step=state.step + 1, ema=ema), metrics


def check_classes(nets: dict[str, Any], opts: dict[str, Opt], batch: Batch) -> None:
    """Refuses images without classes where a network learns them.

    Raises:
      UserError: naming the key that asks for them.
    """
    asked = {"config.model.classes": nets["unet"].classes}
    if "classifier" in opts:
        asked["config.model.classifier_classes"] = nets["classifier"].classes
    for name, count in asked.items():
        if count and "class" not in batch:
            raise UserError(
                f"{name} is {count}, but the images come without classes; set "
                "config.data.classes as well, or this to 0"
            )


def teach(
    nets: dict[str, Any],
    tables: Tables,
    opts: dict[str, Opt],
    state: State,
    batch: Batch,
    key: Array,
) -> tuple[State, dict[str, Array]]:
    """One update of the classifier on noised images, at uniform steps (section 2.7)."""
    keys = split_keys(key, "steps", "noise")
    image, y = batch["image"], batch["class"]
    t = jax.random.randint(keys["steps"], (len(image),), 0, tables.steps)
    noise = jax.random.normal(keys["noise"], image.shape)

    def loss(params: Tree) -> tuple[Array, dict[str, Array]]:
        def network(x: Array, t: Array) -> Array:
            return nets["classifier"].apply({"params": params}, x, t)

        _, logits = noised(network, tables, image, t, noise)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        right = logits.argmax(-1) == y
        return each.mean(), {"classifier": each.mean(), "accuracy": right.mean()}

    grads, metrics = jax.grad(loss, has_aux=True)(state.params["classifier"])
    return update(opts, "classifier", state, {"classifier": grads}), metrics


def average(rate: float, mean: Tree, new: Tree) -> Tree:
    """The average moved a little towards the new parameters."""
    return jax.tree.map(lambda a, b: rate * a + (1 - rate) * b, mean, new)


def look(
    net: UNet, params: Tree, y: Array | None, dropout: Array | None = None
) -> Callable[[Array, Array], Array]:
    """The network as a function of x and the original step; in training with a key."""

    def network(x: Array, t: Array) -> Array:
        rngs = None if dropout is None else {"dropout": dropout}
        run: Any = net.apply
        return run({"params": params}, x, t, y, dropout is not None, rngs=rngs)

    return network


def noised(
    network: Callable[[Array, Array], Array],
    tables: Tables,
    image: Float[Array, "b h w 3"],
    t: Int[Array, " b"],
    noise: Float[Array, "b h w 3"],
) -> tuple[Float[Array, "b h w 3"], Float[Array, "b ... o"]]:
    """The images at the steps t, and what the network makes of them."""
    x = diffusion.q_sample(tables, image, t, noise)
    return x, network(x, jnp.asarray(tables.original, jnp.int32)[t])


# ---- sample ----


def sample(
    nets: dict[str, Any],
    kind: Kind,
    sampler: Sampler,
    variables: Tree,
    batch: Batch,
    key: Array,
    n: int,
) -> Float[Array, "b n h w 3"]:
    """n completions an image; each depends on its image, its own key and nothing else."""
    image, mask = batch["image"], batch["mask"]
    b, h, w, _ = image.shape
    keys = split_keys(key, "noise", "label")
    params = variables["params"]

    def draw(i: Array) -> Array:
        own = {
            name: each_image(jax.random.fold_in(k, i), b) for name, k in keys.items()
        }
        y = labels(nets, sampler.label, own["label"], batch)
        start, noise = walk.draw_noise(own["noise"], (h, w))
        images, _ = walk.run(
            look(nets["unet"], params["unet"], y if nets["unet"].classes else None),
            sampler.tables,
            sampler.walk,
            kind,
            start,
            image,
            mask,
            noise,
            eta=sampler.eta,
            guide=guide(nets, sampler, params, y),
            composite=False,
        )
        return images

    return draw_many(draw, n)


def each_image(key: Array, b: int) -> Key[Array, " b"]:
    """A key for each image of a batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(b))


def labels(
    nets: dict[str, Any], label: int, keys: Key[Array, " b"], batch: Batch
) -> Int[Array, " b"] | None:
    """The class of each image to be made; None where the networks know none.

    The one asked for, else the image's own, else any.
    """
    classes = nets["unet"].classes
    if "classifier" in nets:
        classes = classes or nets["classifier"].classes
    if not classes:
        return None
    if label >= 0:
        return jnp.full(len(keys), label)
    if "class" in batch:
        return batch["class"]
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, classes))(keys)


def guide(
    nets: dict[str, Any], sampler: Sampler, params: Tree, y: Array | None
) -> Callable[[Array, Array], Array] | None:
    """The gradient of the class's log-probability, times the scale (section 2.5)."""
    if "classifier" not in nets or not sampler.guidance or y is None:
        return None

    def gradient(x: Array, t: Array) -> Array:
        def log_probability(x: Array) -> Array:
            logits = nets["classifier"].apply({"params": params["classifier"]}, x, t)
            each = jax.nn.log_softmax(logits)
            return jnp.take_along_axis(each, y[:, None], 1).sum()

        return sampler.guidance * jax.grad(log_probability)(x)

    return gradient


# ---- evaluate and show ----


def look_at(
    nets: dict[str, Any], variables: Tree, batch: Batch, key: Array
) -> Callable[[Array, Array], Array]:
    """The network, told the images' classes where it knows any."""
    y = labels(nets, -1, each_image(key, len(batch["image"])), batch)
    y = y if nets["unet"].classes else None
    return look(nets["unet"], variables["params"]["unet"], y)


def evaluate(
    nets: dict[str, Any],
    tables: Tables,
    kind: Kind,
    variables: Tree,
    batch: Batch,
    key: Array,
) -> dict[str, Array]:
    """Losses of whole images at a few steps, one drawn from each part of the chain.

    `mse` of the noise; `bound`: the variational bound in bits a dimension, estimated
    from those steps alone.
    """
    image = batch["image"]
    b = len(image)
    keys = split_keys(key, "steps", "noise", "label")
    network = look_at(nets, variables, batch, keys["label"])

    def part(i: Array) -> tuple[Array, Array]:
        within = jax.random.uniform(jax.random.fold_in(keys["steps"], i), (b,))
        t = ((i + within) / EVALUATED * tables.steps).astype(jnp.int32)
        noise = jax.random.normal(jax.random.fold_in(keys["noise"], i), image.shape)
        x, output = noised(network, tables, image, t, noise)
        vb, x0 = losses.bound_term(tables, kind, image, x, t, output, False)
        guess = diffusion.epsilon_from_x0(tables, x, t, x0)
        return vb, jnp.square(guess - noise).mean((1, 2, 3))

    vb, mse = jax.lax.map(part, jnp.arange(EVALUATED))
    bound = vb.mean(0) * tables.steps + losses.prior_bits(tables, image)
    return {"mse": mse.mean(0), "bound": bound}


def show(
    nets: dict[str, Any],
    tables: Tables,
    kind: Kind,
    variables: Tree,
    batch: Batch,
    key: Array,
) -> dict[str, Array]:
    """What the network makes of the truth under little, much and nearly only noise."""
    image = batch["image"]
    b = len(image)
    keys = split_keys(key, "noise", "label")
    noise = jax.random.normal(keys["noise"], image.shape)
    network = look_at(nets, variables, batch, keys["label"])
    places = [tables.steps * k // 10 for k in (2, 4, 6)]

    def denoised(step: Array) -> Array:
        t = jnp.full(b, step)
        x, output = noised(network, tables, image, t, noise)
        return diffusion.predict(tables, kind, x, t, output, True).x0

    images = jax.lax.map(denoised, jnp.array(places))
    return {f"from {t}": x for t, x in zip(places, images, strict=True)}
