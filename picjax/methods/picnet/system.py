"""PICNet (CVPR 2019): two paths through one conditional VAE-GAN.

The reconstructive path decodes a draw of the posterior p(z | hole content), the
generative path a draw of the prior q(z | visible part), both with the visible part's
features. `discriminator` judges what the generative path made; `discriminator_rec`
compares the reconstruction with the truth. Completion draws z from q.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from picjax.cli import UserError
from picjax.layers.residual import UPSAMPLE
from picjax.legacy import System, apply, by_net, first_state, keep_known, put_stats
from picjax.losses import adversarial, gaussian, reconstruction
from picjax.methods.picnet import net as picnet
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

Z = Float[Array, "b i j z"]
DISCRIMINATORS = ("discriminator_rec", "discriminator")  # of each half of the images


class Hyper(NamedTuple):
    """How the losses are made and weighted; configs/picnet.py explains."""

    gan_mode: str = "lsgan"
    rec: float = 20.0
    kl: float = 80.0
    adversarial: float = 1.0
    two_paths: bool = True
    kl_rec: str = "prior_to_posterior"
    least_std: float = 0.0


class Latent(NamedTuple):
    """A diagonal Gaussian at every place of the latent map."""

    mu: Z
    std: Z


class Encoded(NamedTuple):
    """Posterior, prior, and the visible part's features that the generator needs."""

    p: Latent
    q: Latent
    f_m: Float[Array, "b i j c"]
    f_e: Float[Array, "b u v e"]


def make(config: Config) -> System:
    """The system of a config (configs/picnet.py).

    Raises:
      UserError: for an unknown name, or a size that does not halve often enough.
    """
    model, loss = config.model, config.loss
    check_choices(
        config,
        {
            "model.discriminator": ("res", "patch"),
            "model.upsample": UPSAMPLE,
            "loss.paths": ("two", "one"),
            "loss.kl_rec": KL_REC,
            "loss.gan_mode": adversarial.GAN,
        },
    )
    nets = networks(model, image_shape(config))
    hyper = Hyper(
        gan_mode=loss.gan_mode,
        rec=loss.rec,
        kl=loss.kl * nets["generator"].output_scale,
        adversarial=loss.adversarial,
        two_paths=loss.paths == "two",
        kl_rec=loss.kl_rec,
        least_std=model.least_std,
    )
    opts = optimisers(adam(config))
    return System(
        init_=partial(init, nets, opts),
        step=lambda state, batch, key: step(
            nets, opts, hyper, state, batch, draw_noise(nets, key, batch)
        ),
        sample=partial(sample, nets, hyper.least_std),
        evaluate=partial(evaluate, nets, hyper.least_std),
        visualize=partial(show_mean, nets, hyper.least_std),
        score_=partial(score, nets),
    )


def optimisers(tx: Any) -> dict[str, Opt]:
    """Which optimiser owns which nets: the official two."""
    return {
        "discriminator": Opt(tx, DISCRIMINATORS),
        "generator": Opt(tx, ("encoder", "generator")),
    }


def check_widths(model: Config) -> None:
    """Refuses nets whose widest part is narrower than their first.

    Raises:
      UserError: naming both keys.
    """
    for key in ("ngf", "ndf"):
        if not 0 < model[key] <= model.img_f:
            raise UserError(
                f"config.model.{key} {model[key]} does not lie between 1 and "
                f"config.model.img_f {model.img_f}; change one of them"
            )


def networks(model: Config, image_size: tuple[int, int]) -> dict[str, Any]:
    """The four nets; how often they halve follows from the image size.

    Raises:
      UserError: for widths or a size that cannot work.
    """
    check_widths(model)
    layers = picnet.halvings(image_size)
    shared: Any = {"layers": layers, "dtype": model.dtype, "remat": model.remat}
    generator = picnet.ResGenerator(
        ngf=model.ngf,
        img_f=model.img_f,
        depth=model.generator_depth,
        output_scale=min(model.output_scale, layers),
        upsample=model.upsample,
        **shared,
    )
    encoder = picnet.Encoder(
        ngf=model.ngf,
        img_f=model.img_f,
        z_nc=model.z_nc,
        depth=model.encoder_depth,
        **shared,
    )
    if model.discriminator == "res":
        judge = picnet.ResDiscriminator(ngf=model.ndf, img_f=model.img_f, **shared)
    else:
        judge = picnet.PatchDiscriminator(
            ngf=model.ndf, img_f=model.img_f, layers=3, dtype=model.dtype
        )
    return {
        "encoder": encoder,
        "generator": generator,
        "discriminator": judge,
        "discriminator_rec": judge,
    }


# ---- init ----


def init(
    nets: dict[str, Any], opts: dict[str, Opt], key: PRNGKeyArray, batch: Batch
) -> State:
    """Parameters as the official code leaves them (specification, section 2.4)."""
    keys = split_keys(key, "encoder", "generator", *DISCRIMINATORS)
    image, mask = batch["image"], batch["mask"]
    encoder = nets["encoder"]
    made = {"encoder": encoder.init(keys["encoder"], image, image, update_stats=False)}
    variables = {"encoder": made["encoder"]}
    (q, _, features), _ = apply(nets, variables, "encoder", image, update_stats=False)
    f_m, f_e = visible_features(nets, features, image.shape[0])
    made["generator"] = nets["generator"].init(
        keys["generator"], q[0], f_m, f_e, attention_mask(mask, f_e), False
    )
    for name in DISCRIMINATORS:
        made[name] = nets[name].init(keys[name], image, False)
    return first_state(opts, made)


def visible_features(
    nets: dict[str, Any], features: list[Array], b: int
) -> tuple[Array, Array]:
    """The visible half's coarsest map, and the one that the generator attends to."""
    attended = features[nets["generator"].layers - 3]
    return features[-1][:b], attended[:b]


def attention_mask(
    mask: Float[Array, "b h w 1"], f_e: Float[Array, "b u v c"]
) -> Float[Array, "b u v 1"]:
    """The mask at the size of the map attended to, fractional at its edges."""
    return reconstruction.resize(mask, (f_e.shape[1], f_e.shape[2]))


# ---- step ----


def latent_shape(
    nets: dict[str, Any], image: Float[Array, "b h w 3"]
) -> tuple[int, int, int, int]:
    """[b i j z] of these images' latent map."""
    b, h, w, _ = image.shape
    halvings = nets["encoder"].layers
    return b, h >> halvings, w >> halvings, nets["encoder"].z_nc


def draw_noise(
    nets: dict[str, Any], key: PRNGKeyArray, batch: Batch
) -> dict[str, Array]:
    """The noise of one step.

    `p` and `q` [b i j z] are standard normal, `penalty` [2b] is uniform in [0, 1).
    """
    keys = split_keys(key, "p", "q", "penalty")
    shape = latent_shape(nets, batch["image"])
    return {
        "p": jax.random.normal(keys["p"], shape),
        "q": jax.random.normal(keys["q"], shape),
        "penalty": jax.random.uniform(keys["penalty"], (2 * shape[0],)),
    }


def step(
    nets: dict[str, Any],
    opts: dict[str, Opt],
    hyper: Hyper,
    state: State,
    batch: Batch,
    noise: dict[str, Array],
) -> tuple[State, dict[str, Array]]:
    """One step: both discriminators, then encoder and generator against the new ones.

    Spectral norm makes as many power iterations as the official code has calls, so that
    with converged vectors the numbers are the same (specification, section 4.4).
    """
    encoded, pull_encoder, stats = jax.vjp(
        lambda params: encode(nets, hyper.least_std, params, state.stats, batch),
        state.params["encoder"],
        has_aux=True,
    )
    state = put_stats(state, "encoder", stats)
    images, pull_generator, stats = jax.vjp(
        lambda params, encoded: generate(
            nets, params, state.stats, batch["mask"], encoded, noise
        ),
        state.params["generator"],
        encoded,
        has_aux=True,
    )
    state = put_stats(state, "generator", stats)

    state, judged = update_discriminators(
        nets, opts, hyper, state, batch["image"], images[-1], noise["penalty"]
    )
    (d_images, d_encoded), (stats, made) = jax.grad(
        partial(generator_loss, nets, hyper, state, batch),
        argnums=(0, 1),
        has_aux=True,
    )(images, encoded)
    state = state.replace(stats=state.stats | stats)
    d_generator, d_through = pull_generator(d_images)
    (d_encoder,) = pull_encoder(jax.tree.map(jnp.add, d_encoded, d_through))
    grads = {"encoder": d_encoder, "generator": d_generator}
    state = update(opts, "generator", state, grads)
    return state.replace(step=state.step + 1), {**made, **judged}


def encode(
    nets: dict[str, Any],
    least_std: float,
    params: Tree,
    stats: dict[str, Tree],
    batch: Batch,
) -> tuple[Encoded, Tree]:
    """Posterior and prior of a batch of images."""
    image, mask = batch["image"], batch["mask"]
    variables = {"encoder": {"params": params, "stats": stats["encoder"]}}
    (q, p, features), new = apply(
        nets,
        variables,
        "encoder",
        image * mask,
        image * (1 - mask),
        update_stats=1,
    )
    f_m, f_e = visible_features(nets, features, image.shape[0])
    p, q = (Latent(mu, std + least_std) for mu, std in (p, q))
    return Encoded(p, q, f_m, f_e), new


def generate(
    nets: dict[str, Any],
    params: Tree,
    stats: dict[str, Tree],
    mask: Float[Array, "b h w 1"],
    encoded: Encoded,
    noise: dict[str, Array],
) -> tuple[list[Array], Tree]:
    """Images, coarse to fine: reconstructed (first half of the batch) and generated."""

    def twice(x: Array) -> Array:
        return jnp.concatenate([x, x])

    p, q = encoded.p, encoded.q
    z = [p.mu + noise["p"] * p.std, q.mu + noise["q"] * q.std]
    variables = {"generator": {"params": params, "stats": stats["generator"]}}
    return apply(
        nets,
        variables,
        "generator",
        jnp.concatenate(z),
        twice(encoded.f_m),
        twice(encoded.f_e),
        twice(attention_mask(mask, encoded.f_e)),
        update_stats=1,
    )


def update_discriminators(
    nets: dict[str, Any],
    opts: dict[str, Opt],
    hyper: Hyper,
    state: State,
    image: Float[Array, "b h w 3"],
    fakes: Float[Array, "n h w 3"],
    mixing: Float[Array, " n"],
) -> tuple[State, dict[str, Array]]:
    """One step of both discriminators, each on real images and its half of the fakes."""
    gan = adversarial.GAN[hyper.gan_mode]
    halves = jnp.split(jax.lax.stop_gradient(fakes), 2)
    alphas = jnp.split(mixing, 2)

    def loss(params: Tree, name: str, fake: Array, alpha: Array):
        variables = {name: {"params": params, "stats": state.stats[name]}}
        both = jnp.concatenate([image, fake])
        scores, stats = apply(nets, variables, name, both, update_stats=2)
        total = adversarial.discriminator_loss(gan, *jnp.split(scores, 2)).mean()
        if gan.penalty:
            penalty = adversarial.gradient_penalty(
                lambda x: nets[name].apply(variables[name], x, False),
                image,
                fake,
                alpha,
            )
            total += gan.penalty * penalty.mean()
        return total, stats

    grads, metrics = {}, {}
    for name, fake, alpha in zip(DISCRIMINATORS, halves, alphas, strict=True):
        (value, stats), grads[name] = jax.value_and_grad(loss, has_aux=True)(
            state.params[name], name, fake, alpha
        )
        state = put_stats(state, name, stats)
        metrics[name.replace("discriminator", "ad_d")] = value
    return update(opts, "discriminator", state, grads), metrics


def generator_loss(
    nets: dict[str, Any],
    hyper: Hyper,
    state: State,
    batch: Batch,
    images: list[Array],
    encoded: Encoded,
) -> tuple[Array, tuple[dict[str, Tree], dict[str, Array]]]:
    """Loss of encoder and generator given their outputs (specification, section 4.3).

    With one path the reconstruction is not learnt, and what the visible part gives is
    compared with the truth everywhere.
    """
    image, mask = batch["image"], batch["mask"]
    b = image.shape[0]
    variables = by_net({"params": state.params, "stats": state.stats})
    rec, made = [x[:b] for x in images], [x[b:] for x in images]
    stats = {}

    def judge(name: str, x: Array, calls: int = 1) -> tuple[Array, Tree]:
        return apply(nets, variables, name, x, update_stats=calls)

    judged, stats["discriminator"] = judge("discriminator", made[-1])
    score, _ = judge("discriminator_rec", rec[-1])
    # On its own, for nothing is learnt from it: the power iterations of both.
    truth, stats["discriminator_rec"] = judge("discriminator_rec", image, 2)
    targets = reconstruction.pyramid(image, len(images))
    masks = reconstruction.pyramid(mask, len(images)) if hyper.two_paths else None
    kl_rec, kl_g = divergences(hyper, mask, encoded)
    metrics = {
        "app_g": hyper.rec * reconstruction.multiscale_l1(made, targets, masks),
        "ad_g": hyper.adversarial * adversarial.GAN[hyper.gan_mode].generator(judged),
        "kl_g": hyper.kl * kl_g,
    }
    if hyper.two_paths:
        match = adversarial.match_loss(score, truth)
        metrics |= {
            "app_rec": hyper.rec * reconstruction.multiscale_l1(rec, targets),
            "ad_rec": hyper.adversarial * match,
            "kl_rec": hyper.kl * kl_rec,
        }
    metrics = {name: value.mean() for name, value in metrics.items()}
    return sum(metrics.values(), jnp.zeros([])), (stats, metrics)


KL_REC = {
    # What the official code does; the released weights come from it.
    "prior_to_posterior": lambda prior, p: gaussian.kl_elementwise(*prior, *p),
    # What the paper says: the posterior is drawn to the prior.
    "posterior_to_prior": lambda prior, p: gaussian.kl_elementwise(*p, *prior),
}


def divergences(
    hyper: Hyper, mask: Float[Array, "b h w 1"], encoded: Encoded
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Of the posterior and the mask's prior N(0, s^2), and of q to what it shall learn:
    the posterior, or with one path that prior. Means over the latent map.
    """
    log_std = jnp.log(gaussian.mask_prior_std(mask))[:, None, None, None]
    prior = jnp.zeros_like(log_std), log_std
    p = encoded.p.mu, jnp.log(encoded.p.std)
    q = encoded.q.mu, jnp.log(encoded.q.std)
    learnt = jax.lax.stop_gradient(p) if hyper.two_paths else prior
    kl_rec = KL_REC[hyper.kl_rec](prior, p)
    kl_g = gaussian.kl_elementwise(*learnt, *q)
    return kl_rec.mean((1, 2, 3)), kl_g.mean((1, 2, 3))


# ---- sample ----


class Visible(NamedTuple):
    """All that completions of one batch share: computed once, whatever their number."""

    q: Latent
    f_m: Float[Array, "b i j c"]
    f_e: Float[Array, "b u v e"]
    attended: Float[Array, "b u v 1"]


def see(
    nets: dict[str, Any], least_std: float, variables: Tree, batch: Batch
) -> Visible:
    """Encodes the visible part."""
    image, mask = batch["image"], batch["mask"]
    (q, _, features), _ = apply(
        nets, by_net(variables), "encoder", image * mask, update_stats=0
    )
    f_m, f_e = visible_features(nets, features, image.shape[0])
    mu, std = q
    return Visible(Latent(mu, std + least_std), f_m, f_e, attention_mask(mask, f_e))


def decode(
    nets: dict[str, Any], variables: Tree, visible: Visible, z: Z
) -> Float[Array, "b h w 3"]:
    """The image that z stands for, known pixels as the generator makes them."""
    images, _ = apply(
        nets,
        by_net(variables),
        "generator",
        z,
        visible.f_m,
        visible.f_e,
        visible.attended,
        update_stats=0,
    )
    return images[-1]


def sample(
    nets: dict[str, Any],
    least_std: float,
    variables: Tree,
    batch: Batch,
    key: PRNGKeyArray,
    n: int,
) -> Float[Array, "b n h w 3"]:
    """n completions an image; the i-th does not depend on n."""
    visible = see(nets, least_std, variables, batch)

    def draw(i: Array) -> Array:
        eps = jax.random.normal(jax.random.fold_in(key, i), visible.q.mu.shape)
        z = visible.q.mu + eps * visible.q.std
        return decode(nets, variables, visible, z)

    return draw_many(draw, n)


def score(
    nets: dict[str, Any], variables: Tree, images: Float[Array, "n h w 3"]
) -> Float[Array, " n"]:
    """How real the discriminator holds each image: its mean score."""
    scores, _ = apply(nets, by_net(variables), "discriminator", images, update_stats=0)
    return adversarial.mean(scores)


def evaluate(
    nets: dict[str, Any],
    least_std: float,
    variables: Tree,
    batch: Batch,
    key: PRNGKeyArray,
) -> dict[str, Array]:
    """L1 of one completion, and the prior's mean standard deviation."""
    image = sample(nets, least_std, variables, batch, key, 1)[:, 0]
    image = keep_known(batch, image)
    visible = see(nets, least_std, variables, batch)
    return {
        "l1": jnp.abs(image - batch["image"]).mean((1, 2, 3)),
        "std": visible.q.std.mean((1, 2, 3)),
    }


def show_mean(
    nets: dict[str, Any],
    least_std: float,
    variables: Tree,
    batch: Batch,
    key: PRNGKeyArray,
) -> dict[str, Array]:
    """The completion that the prior's mean stands for."""
    visible = see(nets, least_std, variables, batch)
    mean = decode(nets, variables, visible, visible.q.mu)
    return {"mean": keep_known(batch, mean)}
