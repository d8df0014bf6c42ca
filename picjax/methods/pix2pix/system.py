"""Pix2Pix (CVPR 2017): a conditional GAN with 100 times L1, here for completion.

The condition is the visible part of the image (the hole is mid grey; a mask channel says
which grey is hole), or the other picture of a pair (`aligned` data). The only noise is
dropout, so completions of one image differ little.
"""

from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from picjax.cli import UserError
from picjax.layers.initialisers import Rule
from picjax.legacy import System, apply, by_net, first_state, keep_known, put_stats
from picjax.losses import adversarial
from picjax.losses.reconstruction import multiscale_l1
from picjax.methods.pix2pix import net as pix2pix
from picjax.optim import adam
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

CHOICES = {
    "model.generator": ("unet", "resnet"),
    "model.discriminator": ("patch", "pixel"),
    "model.norm": get_args(pix2pix.Norm),
    "model.dropout": get_args(pix2pix.Dropout),
    "model.padding": get_args(pix2pix.Padding),
    "model.init": get_args(Rule),
    "model.norm_at_test": ("image", "running"),
    "loss.gan_mode": tuple(adversarial.GAN),
}


class Hyper(NamedTuple):
    """How losses and sampling go; the comments of configs/pix2pix.py explain."""

    gan_mode: str = "vanilla"
    l1: float = 100.0
    adversarial: float = 1.0
    pool: int = 0
    mask_channel: bool = False
    dropout_at_test: bool = True
    norm_at_test: str = "image"


def make(config: Config) -> System:
    """The system of a config (configs/pix2pix.py).

    Raises:
      UserError: for an unknown option, or an image size that the networks cannot take.
    """
    check_choices(config, CHOICES)
    model, loss = config.model, config.loss
    nets = networks(model, image_shape(config))
    hyper = Hyper(
        gan_mode=loss.gan_mode,
        l1=loss.l1,
        adversarial=loss.adversarial,
        pool=loss.pool,
        mask_channel=model.mask_channel,
        dropout_at_test=model.dropout_at_test,
        norm_at_test=model.norm_at_test,
    )
    opts = optimisers(adam(config))
    return System(
        init_=partial(init, nets, opts, hyper),
        step=lambda state, batch, key: step(
            nets, opts, hyper, state, batch, draw_noise(nets, hyper, key, batch)
        ),
        sample=partial(sample, nets, hyper),
        evaluate=partial(evaluate, nets, hyper),
        visualize=partial(show_without_dropout, nets, hyper),
    )


def optimisers(tx: optax.GradientTransformation) -> dict[str, Opt]:
    """Which optimiser owns which net."""
    return {name: Opt(tx, (name,)) for name in ("generator", "discriminator")}


def networks(model: Config, image_size: tuple[int, int]) -> dict[str, Any]:
    """Both nets, checked against the image size.

    Raises:
      UserError: when it does not fit.
    """
    shared: Any = {
        "norm": model.norm,
        "bias": model.bias,
        "rule": model.init,
        "gain": model.init_gain,
        "dtype": model.dtype,
    }
    wide: Any = shared | {"width": model.ngf, "dropout": model.dropout}
    if model.generator == "unet":
        levels = unet_levels(model.levels, image_size)
        generator: Any = pix2pix.UnetGenerator(levels=levels, **wide)
    else:
        if image_size[0] % 4 or image_size[1] % 4:
            raise UserError(
                f"config.image_size {image_size} is no multiple of 4, which the ResNet "
                "needs; choose another size"
            )
        generator = pix2pix.ResnetGenerator(
            blocks=model.blocks, padding=model.padding, **wide
        )
    if model.discriminator == "pixel":
        judge: Any = pix2pix.PixelDiscriminator(width=model.ndf, **shared)
    else:
        judge = pix2pix.PatchDiscriminator(
            width=model.ndf, layers=model.patch_layers, **shared
        )
        if judge.map_side(min(image_size)) < 1:
            raise UserError(
                f"config.model.patch_layers {model.patch_layers} leaves no score of an "
                f"image of {image_size}; take fewer layers or a larger image"
            )
    return {"generator": generator, "discriminator": judge}


def unet_levels(asked: int, image_size: tuple[int, int]) -> int:
    """The number of halvings asked for; 0: as many as the size allows, at most 8.

    Raises:
      UserError: when the size does not halve so often, or not 3 times.
    """
    most = pix2pix.halvings(*image_size)
    levels = asked or most
    if levels > most or levels < 3:
        needed = f"{asked} times" if asked else "3 times, as the U-Net needs at least"
        raise UserError(
            f"config.image_size {image_size} does not halve {needed}; take multiples "
            "of 32, or config.model.generator=resnet"
        )
    return levels


# ---- init ----


def init(
    nets: dict[str, Any],
    opts: dict[str, Opt],
    hyper: Hyper,
    key: PRNGKeyArray,
    batch: Batch,
) -> State:
    """Parameters by the config's rule (specification, section 5), an empty pool."""
    keys = split_keys(key, "generator", "discriminator")
    given = condition(hyper, batch)
    pair = jnp.concatenate([given, batch["image"]], -1)
    made = {
        "generator": nets["generator"].init(keys["generator"], given, (), False),
        "discriminator": nets["discriminator"].init(keys["discriminator"], pair, False),
    }
    state = first_state(opts, made)
    if hyper.pool:
        state = put_stats(state, "pool", empty_pool(hyper.pool, pair.shape[1:]))
    return state


def condition(hyper: Hyper, batch: Batch) -> Float[Array, "b h w c"]:
    """What the generator is given: the other picture, or else the visible part.

    The hole is 0, mid grey, which is a legal colour: the mask may follow as a channel.
    """
    mask = batch["mask"]
    given = batch["condition"] if "condition" in batch else batch["image"] * mask
    return jnp.concatenate([given, mask], -1) if hyper.mask_channel else given


# ---- step ----


def draw_noise(
    nets: dict[str, Any], hyper: Hyper, key: PRNGKeyArray, batch: Batch
) -> dict[str, Any]:
    """The noise of one step.

    `keep`: dropout masks; `penalty` [b] uniform in [0, 1); `pool`: what `query` draws.
    """
    keys = split_keys(key, "keep", "penalty", "swap", "index")
    b, h, w, _ = batch["image"].shape
    return {
        "keep": draw_keep(nets, keys["keep"], (b, h, w)),
        "penalty": jax.random.uniform(keys["penalty"], (b,)),
        "swap": jax.random.uniform(keys["swap"], (b,)),
        "index": jax.random.randint(keys["index"], (b,), 0, max(hyper.pool, 1)),
    }


def draw_keep(
    nets: dict[str, Any], key: PRNGKeyArray, size: tuple[int, int, int]
) -> list[Array]:
    """The generator's dropout masks for `size` = (images, height, width)."""
    b, *sides = size
    return [
        jax.random.bernoulli(jax.random.fold_in(key, i), 0.5, (b, *shape)).astype(
            jnp.float32
        )
        for i, shape in enumerate(nets["generator"].keep_shapes(*sides))
    ]


def step(
    nets: dict[str, Any],
    opts: dict[str, Opt],
    hyper: Hyper,
    state: State,
    batch: Batch,
    noise: dict[str, Any],
) -> tuple[State, dict[str, Array]]:
    """One step: discriminator, then generator (specification, section 6).

    The generator runs once; the discriminator that judges for it is the updated one.
    Batch statistics are per call, so the discriminator's running ones move three times.
    """
    given = condition(hyper, batch)
    fake, pull, stats = jax.vjp(
        lambda params: generate(nets, params, state.stats, given, noise["keep"]),
        state.params["generator"],
        has_aux=True,
    )
    state = put_stats(state, "generator", stats)
    state, judged = update_discriminator(
        nets, opts, hyper, state, given, batch["image"], fake, noise
    )
    d_fake, (stats, made) = jax.grad(
        partial(generator_loss, nets, hyper, state, given, batch["image"]),
        has_aux=True,
    )(fake)
    state = put_stats(state, "discriminator", stats)
    (d_params,) = pull(d_fake)
    state = update(opts, "generator", state, {"generator": d_params})
    return state.replace(step=state.step + 1), {**made, **judged}


def generate(
    nets: dict[str, Any],
    params: Tree,
    stats: dict[str, Tree],
    given: Float[Array, "b h w c"],
    keep: list[Array],
) -> tuple[Float[Array, "b h w 3"], Tree]:
    """The generator's image in training, and its stats afterwards."""
    variables = {"generator": {"params": params, "stats": stats["generator"]}}
    return apply(nets, variables, "generator", given, keep, update_stats=True)


def judge(
    nets: dict[str, Any], params: Tree, stats: Tree, pair: Float[Array, "b h w c"]
) -> tuple[Float[Array, "b i j 1"], Tree]:
    """The discriminator's scores of condition and image in training, and its stats."""
    variables = {"discriminator": {"params": params, "stats": stats}}
    return apply(nets, variables, "discriminator", pair, update_stats=True)


def update_discriminator(
    nets: dict[str, Any],
    opts: dict[str, Opt],
    hyper: Hyper,
    state: State,
    given: Float[Array, "b h w c"],
    image: Float[Array, "b h w 3"],
    fake: Float[Array, "b h w 3"],
    noise: dict[str, Any],
) -> tuple[State, dict[str, Array]]:
    """The discriminator's step: fakes, then real images, half the sum of both losses.

    Under wgangp also the penalty that the original leaves out, of the image part alone
    and with running statistics, since those of a batch would tie its examples together.
    """
    gan = adversarial.GAN[hyper.gan_mode]
    fake_pair = jax.lax.stop_gradient(jnp.concatenate([given, fake], -1))
    if hyper.pool:
        pool, shown = query(
            state.stats["pool"], fake_pair, noise["swap"], noise["index"]
        )
        state = put_stats(state, "pool", pool)
    else:
        shown = fake_pair

    def loss(params):
        on_fake, stats = judge(nets, params, state.stats["discriminator"], shown)
        real_pair = jnp.concatenate([given, image], -1)
        on_real, stats = judge(nets, params, stats, real_pair)
        made = {"d_fake": gan.fake(on_fake).mean(), "d_real": gan.real(on_real).mean()}
        total = 0.5 * (made["d_fake"] + made["d_real"])
        if gan.penalty:
            frozen = {"params": params, "stats": stats}
            each = adversarial.gradient_penalty(
                lambda x: nets["discriminator"].apply(
                    frozen, jnp.concatenate([given, x], -1), False
                ),
                image,
                jax.lax.stop_gradient(fake),
                noise["penalty"],
            )
            made["d_penalty"] = gan.penalty * each.mean()
            total += made["d_penalty"]
        return total, (stats, made)

    grads, (stats, made) = jax.grad(loss, has_aux=True)(state.params["discriminator"])
    state = put_stats(state, "discriminator", stats)
    return update(opts, "discriminator", state, {"discriminator": grads}), made


def generator_loss(
    nets: dict[str, Any],
    hyper: Hyper,
    state: State,
    given: Float[Array, "b h w c"],
    image: Float[Array, "b h w 3"],
    fake: Float[Array, "b h w 3"],
) -> tuple[Array, tuple[Tree, dict[str, Array]]]:
    """What the generator's image costs: fooling, and L1 over the whole image."""
    params, stats = state.params["discriminator"], state.stats["discriminator"]
    score, stats = judge(nets, params, stats, jnp.concatenate([given, fake], -1))
    gan = adversarial.GAN[hyper.gan_mode]
    metrics = {
        "g_gan": hyper.adversarial * gan.generator(score).mean(),
        "g_l1": hyper.l1 * multiscale_l1([fake], [image]).mean(),
    }
    return metrics["g_gan"] + metrics["g_l1"], (stats, metrics)


# ---- history of fakes ----


def empty_pool(size: int, shape: tuple[int, ...]) -> dict[str, Array]:
    """Room for `size` pairs, none in it yet."""
    return {"pairs": jnp.zeros((size, *shape)), "count": jnp.zeros([], jnp.int32)}


def query(
    pool: dict[str, Array],
    pairs: Float[Array, "b h w c"],
    swap: Float[Array, " b"],
    index: Int[Array, " b"],
) -> tuple[dict[str, Array], Float[Array, "b h w c"]]:
    """The pool after new fakes, and those that the discriminator is to see.

    Until it is full the pool keeps each new one and shows it. Later, one whose `swap`
    (uniform in [0, 1)) exceeds 1/2 takes the place of the pool's at `index`, which is
    shown instead.
    """
    size = pool["pairs"].shape[0]

    def one(pool, drawn):
        new, swap, index = drawn
        filling = pool["count"] < size
        place = jnp.where(filling, pool["count"], index)
        old = pool["pairs"][place]
        put = filling | (swap > 0.5)
        kept = pool["pairs"].at[place].set(jnp.where(put, new, old))
        shown = jnp.where(put & ~filling, old, new)
        count = jnp.minimum(pool["count"] + 1, size)
        return {"pairs": kept, "count": count}, shown

    return jax.lax.scan(one, pool, (pairs, swap, index))


# ---- sample ----


def sample(
    nets: dict[str, Any],
    hyper: Hyper,
    variables: Tree,
    batch: Batch,
    key: PRNGKeyArray,
    n: int,
) -> Float[Array, "b n h w 3"]:
    """n images of each condition, by dropout; all the same where it is off at test.

    The i-th does not depend on n, nor an image's on the others of its batch.
    """
    given = condition(hyper, batch)
    b, h, w, _ = given.shape

    def draw(i: Array) -> Array:
        keep = []
        if hyper.dropout_at_test:
            keep = draw_keep(nets, jax.random.fold_in(key, i), (b, h, w))
        return infer(nets, hyper, variables, given, keep)

    return draw_many(draw, n)


def infer(
    nets: dict[str, Any],
    hyper: Hyper,
    variables: Tree,
    given: Float[Array, "b h w c"],
    keep: list[Array],
) -> Float[Array, "b h w 3"]:
    """The generator's image outside training; running statistics stay as they are.

    Under batch norm, `image` normalises each image by its own statistics, as the
    original's test does (batches of one, in training mode), `running` by the running
    ones.
    """
    of_net = by_net(variables)
    if nets["generator"].norm != "batch" or hyper.norm_at_test == "running":
        return apply(nets, of_net, "generator", given, keep, update_stats=False)[0]

    def alone(given: Array, keep: list[Array]) -> Array:
        inputs = jax.tree.map(lambda x: x[None], (given, keep))
        return apply(nets, of_net, "generator", *inputs, update_stats=True)[0][0]

    return jax.vmap(alone)(given, keep)


def evaluate(
    nets: dict[str, Any],
    hyper: Hyper,
    variables: Tree,
    batch: Batch,
    key: PRNGKeyArray,
) -> dict[str, Array]:
    """L1 of one completion over the whole image."""
    image = sample(nets, hyper, variables, batch, key, 1)[:, 0]
    image = keep_known(batch, image)
    return {"l1": jnp.abs(image - batch["image"]).mean((1, 2, 3))}


def show_without_dropout(
    nets: dict[str, Any],
    hyper: Hyper,
    variables: Tree,
    batch: Batch,
    key: PRNGKeyArray,
) -> dict[str, Array]:
    """The image that no dropout has touched, with the known pixels put back."""
    del key
    plain = infer(nets, hyper, variables, condition(hyper, batch), [])
    return {"no dropout": keep_known(batch, plain)}
