"""PICMM (NeurIPS 2022): a VAE-GAN whose hidden latent is a mixture given the visible.

z_m is the latent of the visible part, z_c that of its complement. Training decodes z_c
itself and z_hat, a draw from the chosen component of p(z_c | z_m); the mixture learns
from its own losses alone. Completion draws z_c from the mixture.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from picjax.layers.residual import UPSAMPLE
from picjax.legacy import System, apply, by_net, first_state, keep_known, put_stats
from picjax.losses import adversarial, gaussian, reconstruction
from picjax.losses.gaussian import Gaussian, Mixture
from picjax.methods.picmm import net as picmm
from picjax.methods.picnet import net as picnet
from picjax.methods.picnet.system import (
    attention_mask,
    check_widths,
    score,
    visible_features,
)
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


class Hyper(NamedTuple):
    """How the losses are made and weighted; the comments of configs/picmm.py explain.

    `select`, `loss` and `gate` name entries of `gaussian.SELECTION`, `BM` and `GATE`;
    `clamp` holds the bounds of log std in the mixture's loss, or is empty.
    """

    gan_mode: str = "lsgan"
    rec: float = 20.0
    adversarial: float = 1.0
    kl: float = 0.0
    prior: float = 0.0
    hole: bool = False
    given: str = "sample"
    select: str = "sampled"
    loss: str = "posterior_to_component"
    gate: str = "frequency"
    clamp: tuple[float, ...] = (-5.0, 2.0)
    trained: bool = True
    extra_calls: bool = False


class Latents(NamedTuple):
    """What the encoder says of both parts, and the visible part's feature maps."""

    z_m: Float[Array, "b d"]
    z_c: Float[Array, "b d"]
    q_m: Gaussian
    q_c: Gaussian
    f_m: Float[Array, "b h w c"]
    f_e: Float[Array, "b u v e"]


def make(config: Config) -> System:
    """The system of a config (configs/picmm.py).

    Raises:
      UserError: for an unknown name, or a size that does not halve often enough.
    """
    check_choices(
        config,
        {
            "model.upsample": UPSAMPLE,
            "model.mixture.norm": ("batch", "layer"),
            "model.mixture.select": gaussian.SELECTION,
            "model.mixture.loss": gaussian.BM,
            "model.mixture.gate": gaussian.GATE,
            "model.mixture.given": ("mean", "sample"),
            "loss.gan_mode": adversarial.GAN,
        },
    )
    nets = networks(config.model, image_shape(config))
    mixture = config.model.mixture
    hyper = Hyper(
        gan_mode=config.loss.gan_mode,
        rec=config.loss.rec,
        adversarial=config.loss.adversarial,
        kl=config.loss.kl,
        prior=config.loss.prior,
        hole=config.loss.hole,
        given=mixture.given,
        select=mixture.select,
        loss=mixture.loss,
        gate=mixture.gate,
        clamp=tuple(mixture.clamp),
        trained=mixture.trained,
        extra_calls=mixture.extra_calls,
    )
    opts = optimisers(adam(config))
    return System(
        init_=partial(init, nets, opts),
        step=lambda state, batch, key: step(
            nets, opts, hyper, state, batch, draw_noise(nets, state, key, batch)
        ),
        sample=partial(sample, nets, hyper.given),
        evaluate=partial(evaluate, nets, hyper.given),
        visualize=partial(show_components, nets, hyper.given),
        score_=partial(score, nets),
    )


def optimisers(tx: optax.GradientTransformation) -> dict[str, Opt]:
    """Which optimiser owns which nets: the official three."""
    return {
        "discriminator": Opt(tx, ("discriminator",)),
        "generator": Opt(tx, ("encoder", "generator")),
        "mixture": Opt(tx, ("mixture",)),
    }


def networks(model: Config, image_size: tuple[int, int]) -> dict[str, Any]:
    """The four nets; how often they halve follows from the image size.

    Raises:
      UserError: for widths or a size that cannot work.
    """
    check_widths(model)
    layers = picnet.halvings(image_size)
    poolings = picnet.poolings(image_size)
    shared: Any = {"layers": layers, "dtype": model.dtype, "remat": model.remat}
    return {
        "encoder": picmm.Encoder(
            ngf=model.ngf,
            img_f=model.img_f,
            poolings=poolings,
            log_std_start=model.log_std_start,
            **shared,
        ),
        "generator": picmm.Generator(
            ngf=model.ngf,
            img_f=model.img_f,
            poolings=poolings,
            output_scale=min(model.output_scale, layers),
            upsample=model.upsample,
            **shared,
        ),
        "discriminator": picmm.Discriminator(
            ngf=model.ndf, img_f=model.img_f, **shared
        ),
        "mixture": picmm.DynamicGMM(
            k=model.mixture.k,
            norm=model.mixture.norm,
            log_std_start=model.log_std_start,
        ),
    }


# ---- init ----


def init(
    nets: dict[str, Any], opts: dict[str, Opt], key: PRNGKeyArray, batch: Batch
) -> State:
    """Parameters as the official code leaves them (specification, section 2.5)."""
    keys = split_keys(key, "encoder", "generator", "discriminator", "mixture")
    image, mask = batch["image"], batch["mask"]
    both = jnp.concatenate([image, image])
    made = {"encoder": nets["encoder"].init(keys["encoder"], both, False)}
    (mu, _, features), _ = apply(nets, made, "encoder", both, update_stats=False)
    z, _ = jnp.split(mu, 2)
    f_m, f_e = visible_features(nets, features, image.shape[0])
    attended = attention_mask(mask, f_e)
    made["generator"] = nets["generator"].init(
        keys["generator"], z, z, f_m, f_e, attended, False
    )
    made["discriminator"] = nets["discriminator"].init(
        keys["discriminator"], image, False
    )
    made["mixture"] = nets["mixture"].init(keys["mixture"], z, False)
    return first_state(opts, made)


# ---- step ----


def draw_noise(
    nets: dict[str, Any], state: State, key: PRNGKeyArray, batch: Batch
) -> dict[str, Array]:
    """The noise of one step.

    `encoder` [2b d] and `components` [b k d] are standard normal, `penalty` [2b] is
    uniform in [0, 1).
    """
    keys = split_keys(key, "encoder", "components", "penalty")
    b, k = batch["image"].shape[0], nets["mixture"].k
    d = state.params["encoder"]["down_fc"]["bias"].shape[0] // 2
    return {
        "encoder": jax.random.normal(keys["encoder"], (2 * b, d)),
        "components": jax.random.normal(keys["components"], (b, k, d)),
        "penalty": jax.random.uniform(keys["penalty"], (2 * b,)),
    }


def step(
    nets: dict[str, Any],
    opts: dict[str, Opt],
    hyper: Hyper,
    state: State,
    batch: Batch,
    noise: dict[str, Array],
) -> tuple[State, dict[str, Array]]:
    """One step: discriminator, then encoder and generator, then mixture.

    The generator runs once, on z_c and z_hat side by side, where the official code
    makes 2 calls, and the discriminator 1 + 2 times instead of 4 + 3.
    Spectral norm makes as many power iterations as there, so that with converged
    vectors the numbers are the same (specification, section 3).
    """
    encoded, pull_encoder, stats = jax.vjp(
        lambda params: encode(nets, params, state.stats, batch, noise["encoder"]),
        state.params["encoder"],
        has_aux=True,
    )
    state = put_stats(state, "encoder", stats)

    mixture, pull_mixture, stats = jax.vjp(
        lambda params, encoded: mix(nets, hyper, params, state.stats, encoded),
        state.params["mixture"],
        encoded,
        has_aux=True,
    )
    state = put_stats(state, "mixture", stats)
    z_hat = gaussian.sample(mixture, noise["components"])
    j = gaussian.SELECTION[hyper.select](mixture, encoded.q_c, encoded.z_c, z_hat)
    z_hat = jax.lax.stop_gradient(gaussian.take(z_hat, j))

    images, pull_generator, stats = jax.vjp(
        lambda params, encoded: generate(
            nets, params, state.stats, batch["mask"], encoded, z_hat
        ),
        state.params["generator"],
        encoded,
        has_aux=True,
    )
    state = put_stats(state, "generator", stats)

    state, judged = update_discriminator(
        nets, opts, hyper, state, batch["image"], images[-1], noise["penalty"]
    )
    (d_images, d_encoded), (stats, made) = jax.grad(
        partial(generator_loss, nets, hyper, state, batch),
        argnums=(0, 1),
        has_aux=True,
    )(images, encoded)
    state = put_stats(state, "discriminator", stats)
    d_generator, d_through = pull_generator(d_images)
    d_encoded = jax.tree.map(jnp.add, d_encoded, d_through)

    (d_mixture, d_q_c), learnt = jax.grad(
        partial(mixture_loss, hyper, j), argnums=(0, 1), has_aux=True
    )(mixture, encoded.q_c)
    d_params, d_given = pull_mixture(d_mixture)
    if hyper.prior:
        d_given = d_given._replace(q_c=jax.tree.map(jnp.add, d_given.q_c, d_q_c))
        d_encoded = jax.tree.map(lambda a, b: a + hyper.prior * b, d_encoded, d_given)

    (d_encoder,) = pull_encoder(d_encoded)
    grads = {"encoder": d_encoder, "generator": d_generator}
    state = update(opts, "generator", state, grads)
    if hyper.trained:
        state = update(opts, "mixture", state, {"mixture": d_params})
    metrics = {**made, **judged, **learnt}
    return state.replace(step=state.step + 1), metrics


def encode(
    nets: dict[str, Any],
    params: Tree,
    stats: dict[str, Tree],
    batch: Batch,
    eps: Float[Array, "n d"],
) -> tuple[Latents, Tree]:
    """Both parts of the images through the encoder; the visible half goes first."""
    image, mask = batch["image"], batch["mask"]
    parts = jnp.concatenate([image * mask, image * (1 - mask)])
    variables = {"encoder": {"params": params, "stats": stats["encoder"]}}
    (mu, log_std, features), new = apply(
        nets, variables, "encoder", parts, update_stats=True
    )
    z_m, z_c = jnp.split(mu + eps * jnp.exp(log_std), 2)
    mu_m, mu_c = jnp.split(mu, 2)
    log_std_m, log_std_c = jnp.split(log_std, 2)
    f_m, f_e = visible_features(nets, features, image.shape[0])
    q_m, q_c = Gaussian(mu_m, log_std_m), Gaussian(mu_c, log_std_c)
    return Latents(z_m, z_c, q_m, q_c, f_m, f_e), new


def mix(
    nets: dict[str, Any],
    hyper: Hyper,
    params: Tree,
    stats: dict[str, Tree],
    encoded: Latents,
) -> tuple[Mixture, Tree]:
    """The mixture given what the encoder says of the visible part."""

    def run(stats: Tree, z: Array, method: str = "__call__") -> tuple[Any, Tree]:
        variables = {"params": params, "stats": stats}
        mixture = nets["mixture"]
        out, new = mixture.apply(variables, z, True, method=method, mutable=["stats"])
        return out, new.get("stats", stats)

    given = encoded.q_m.mu if hyper.given == "mean" else encoded.z_m
    out, new = run(stats["mixture"], given)
    if hyper.extra_calls:
        # The official code runs two heads on z_c as well, and all of it twice, so
        # that the running statistics become a blend of both latents.
        _, new = run(new, encoded.z_c, "advance")
        _, new = run(new, given)
        _, new = run(new, encoded.z_c, "advance")
    logits, mu, log_std = out
    return Mixture(jax.nn.log_softmax(logits), mu, log_std), new


def generate(
    nets: dict[str, Any],
    params: Tree,
    stats: dict[str, Tree],
    mask: Float[Array, "b h w 1"],
    encoded: Latents,
    z_hat: Float[Array, "b d"],
) -> tuple[list[Array], Tree]:
    """Images, coarse to fine, from z_c (first half of the batch) and from z_hat."""

    def twice(x: Array) -> Array:
        return jnp.concatenate([x, x])

    variables = {"generator": {"params": params, "stats": stats["generator"]}}
    return apply(
        nets,
        variables,
        "generator",
        twice(encoded.z_m),
        jnp.concatenate([encoded.z_c, z_hat]),
        twice(encoded.f_m),
        twice(encoded.f_e),
        twice(attention_mask(mask, encoded.f_e)),
        update_stats=2,
    )


def update_discriminator(
    nets: dict[str, Any],
    opts: dict[str, Opt],
    hyper: Hyper,
    state: State,
    image: Float[Array, "b h w 3"],
    fakes: Float[Array, "n h w 3"],
    mixing: Float[Array, " n"],
) -> tuple[State, dict[str, Array]]:
    """The discriminator's step on real images and both kinds of fakes.

    Its loss is 1/2 (real + fake) for the images from z_c and again for those from
    z_hat, so real counts once and each fake half.
    """
    b = image.shape[0]
    fakes = jax.lax.stop_gradient(fakes)
    gan = adversarial.GAN[hyper.gan_mode]

    def loss(params):
        variables = {
            "discriminator": {"params": params, "stats": state.stats["discriminator"]}
        }
        score, stats = apply(
            nets,
            variables,
            "discriminator",
            jnp.concatenate([image, fakes]),
            update_stats=4,
        )
        total = gan.real(score[:b]).mean() + gan.fake(score[b:]).mean()
        if gan.penalty:
            penalty = adversarial.gradient_penalty(
                lambda x: nets["discriminator"].apply(
                    variables["discriminator"], x, False
                ),
                jnp.concatenate([image, image]),
                fakes,
                mixing,
            )
            total += 2 * gan.penalty * penalty.mean()  # one for each kind of fake
        return total, stats

    (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(
        state.params["discriminator"]
    )
    state = put_stats(state, "discriminator", stats)
    state = update(opts, "discriminator", state, {"discriminator": grads})
    return state, {"ad_d": value}


def generator_loss(
    nets: dict[str, Any],
    hyper: Hyper,
    state: State,
    batch: Batch,
    images: list[Array],
    encoded: Latents,
) -> tuple[Array, tuple[Tree, dict[str, Array]]]:
    """Loss of encoder and generator given their outputs.

    The images from z_c are judged whole; those from z_hat by their known pixels, and by
    how close the discriminator scores them to the real image.
    """
    image, mask = batch["image"], batch["mask"]
    b = image.shape[0]

    def judge(x: Array, stats: Tree, calls: int) -> tuple[Array, Tree]:
        params = state.params["discriminator"]
        variables = {"discriminator": {"params": params, "stats": stats}}
        return apply(nets, variables, "discriminator", x, update_stats=calls)

    score, stats = judge(images[-1], state.stats["discriminator"], 2)
    score_real, stats = judge(image, stats, 1)  # on its own: nothing is learnt from it
    score_c, score_hat = jnp.split(score, 2)
    ad_g = adversarial.GAN[hyper.gan_mode].generator(score_c).mean()
    ad_g += adversarial.match_loss(score_hat, score_real).mean()

    from_c = [x[:b] for x in images]
    from_hat = [x[b:] for x in images]
    targets = reconstruction.pyramid(image, len(images))
    masks = reconstruction.pyramid(mask, len(images))
    rec = reconstruction.multiscale_l1(from_c, targets).mean()
    rec += reconstruction.multiscale_l1(
        from_hat, targets, None if hyper.hole else masks
    ).mean()
    metrics = {"rec": hyper.rec * rec, "ad_g": hyper.adversarial * ad_g}
    if hyper.kl:
        kl = gaussian.kl_standard_normal(*encoded.q_m).mean()
        kl += gaussian.kl_standard_normal(*encoded.q_c).mean()
        metrics["kl"] = hyper.kl * kl
    return sum(metrics.values(), jnp.zeros([])), (stats, metrics)


def mixture_loss(
    hyper: Hyper, j: Array, mixture: Mixture, q_c: Gaussian
) -> tuple[Array, dict[str, Array]]:
    """Distance of component j to the posterior of z_c, and loss of the weights."""
    if hyper.clamp:
        mixture = gaussian.clamp(mixture, *hyper.clamp)
        q_c = gaussian.clamp(q_c, *hyper.clamp)
    component = gaussian.component(mixture, j)
    bm = gaussian.BM[hyper.loss](component, q_c).mean()
    freq = gaussian.GATE[hyper.gate](mixture.log_alpha, j).mean()
    usage = jax.nn.one_hot(j, mixture.mu.shape[1]).mean(0)
    return bm + freq, {"bm": bm, "freq": freq, "usage_max": usage.max()}


# ---- sample ----


class Visible(NamedTuple):
    """All that completions of one batch share: computed once, whatever their number."""

    z_m: Float[Array, "b d"]
    f_m: Float[Array, "b h w c"]
    f_e: Float[Array, "b u v e"]
    attended: Float[Array, "b u v 1"]
    mixture: Mixture


def see(
    nets: dict[str, Any],
    given: str,
    variables: Tree,
    batch: Batch,
    key: PRNGKeyArray,
) -> Visible:
    """Encodes the visible part; z_m is drawn once, as the official test does."""
    image, mask = batch["image"], batch["mask"]
    run = partial(apply, nets, by_net(variables), update_stats=False)
    (mu, log_std, features), _ = run("encoder", image * mask)
    z_m = mu + jax.random.normal(key, mu.shape) * jnp.exp(log_std)
    (logits, mu_hat, log_std_hat), _ = run("mixture", mu if given == "mean" else z_m)
    f_m, f_e = visible_features(nets, features, image.shape[0])
    mixture = Mixture(jax.nn.log_softmax(logits), mu_hat, log_std_hat)
    return Visible(z_m, f_m, f_e, attention_mask(mask, f_e), mixture)


def decode(
    nets: dict[str, Any],
    variables: Tree,
    visible: Visible,
    z_c: Float[Array, "b d"],
) -> Float[Array, "b h w 3"]:
    """The image that z_c stands for, known pixels as the generator makes them."""
    images, _ = apply(
        nets,
        by_net(variables),
        "generator",
        visible.z_m,
        z_c,
        visible.f_m,
        visible.f_e,
        visible.attended,
        update_stats=False,
    )
    return images[-1]


def sample(
    nets: dict[str, Any],
    given: str,
    variables: Tree,
    batch: Batch,
    key: PRNGKeyArray,
    n: int,
) -> Float[Array, "b n h w 3"]:
    """n completions an image; the i-th does not depend on n."""
    keys = split_keys(key, "visible", "draws")
    visible = see(nets, given, variables, batch, keys["visible"])

    def draw(i: Array) -> Array:
        which, noise = jax.random.split(jax.random.fold_in(keys["draws"], i))
        j = jax.random.categorical(which, visible.mixture.log_alpha)
        chosen = gaussian.component(visible.mixture, j.astype(jnp.int32))
        eps = jax.random.normal(noise, chosen.mu.shape)
        z_c = chosen.mu + eps * jnp.exp(chosen.log_std)
        return decode(nets, variables, visible, z_c)

    return draw_many(draw, n)


def evaluate(
    nets: dict[str, Any],
    given: str,
    variables: Tree,
    batch: Batch,
    key: PRNGKeyArray,
) -> dict[str, Array]:
    """L1 of one completion, and how many components the weights really use.

    `components` is exp(entropy of alpha): 1 when one has all the weight, K when all
    have the same.
    """
    keys = split_keys(key, "visible", "complete")
    visible = see(nets, given, variables, batch, keys["visible"])
    image = sample(nets, given, variables, batch, keys["complete"], 1)[:, 0]
    image = keep_known(batch, image)
    log_alpha = visible.mixture.log_alpha
    entropy = -(jnp.exp(log_alpha) * log_alpha).sum(-1)
    return {
        "l1": jnp.abs(image - batch["image"]).mean((1, 2, 3)),
        "components": jnp.exp(entropy),
    }


def show_components(
    nets: dict[str, Any],
    given: str,
    variables: Tree,
    batch: Batch,
    key: PRNGKeyArray,
) -> dict[str, Array]:
    """The completion that each component's mean stands for, with its mean weight."""
    visible = see(nets, given, variables, batch, key)
    means = visible.mixture.mu
    return {
        f"component {i}": keep_known(batch, decode(nets, variables, visible, mean))
        for i, mean in enumerate(means.swapaxes(0, 1))
    }
