"""Reference files of losses, the optimiser, the pyramid and image metrics."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fixture import Fixture, below, nchw, nhwc

from picjax.evaluation.metrics import image as metrics
from picjax.losses import gaussian
from picjax.losses.adversarial import GAN, gradient_penalty
from picjax.losses.gaussian import BM, SELECTION, Gaussian, Mixture
from picjax.losses.reconstruction import pyramid, resize
from picjax.methods.picnet.net import ResDiscriminator
from picjax.methods.picnet.official import TABLE
from picjax.official.mapping import from_official, to_official


def value_and_slope(loss: Callable[..., jax.Array], x: Any) -> tuple[jax.Array, Any]:
    """The mean of a per-example loss and its gradient."""
    return jax.value_and_grad(lambda x: loss(x).mean())(x)


def bm_loss(fixture: Fixture) -> None:
    with jax.enable_x64():
        _bm_loss(fixture, "f64_", jnp.float64, 1e-12)
    _bm_loss(fixture, "", jnp.float32, 1e-5)


def _bm_loss(fixture: Fixture, prefix: str, dtype: type, rtol: float) -> None:
    given = {name: jnp.asarray(x, dtype) for name, x in fixture.inputs.items()}
    component = Gaussian(given["mu_hat_j"], given["logsigma_hat_j"])
    posterior = Gaussian(given["mu"], given["logsigma"])

    def signfix_logvar(component: Gaussian, posterior: Gaussian) -> jax.Array:
        halved = (g._replace(log_std=g.log_std / 2) for g in (component, posterior))
        return BM["component_to_posterior"](*halved)

    losses = {
        "bm_published": BM["published"],
        "bm_signfix_logvar": signfix_logvar,
        "kl_component_to_posterior": BM["component_to_posterior"],
        "kl_posterior_to_component": BM["posterior_to_component"],
    }
    for name, loss in losses.items():
        value, slope = value_and_slope(partial(loss, posterior=posterior), component)
        assert value.dtype == dtype
        for part, actual in (
            (name, value),
            (f"dmu_{name}", slope.mu),
            (f"dlogsigma_{name}", slope.log_std),
        ):
            expected = fixture.outputs[prefix + part]
            atol = rtol * float(np.abs(expected).max())
            fixture.assert_close(prefix + part, actual, expected, rtol, atol)
    equal = BM["published"](posterior, posterior).mean()
    name = f"{prefix}bm_published_at_equality"
    fixture.assert_close(name, equal, fixture.outputs[name], rtol, 0.0)


def component_selection(fixture: Fixture) -> None:
    given, expected = fixture.inputs, fixture.outputs
    mixture = Mixture(
        jnp.log(given["alpha"]),
        jnp.asarray(given["mu_hat"]),
        jnp.asarray(given["logsigma_hat"]),
    )
    z_c, eps = jnp.asarray(given["z_c"]), jnp.asarray(given["eps"])
    z_hat = gaussian.sample(mixture, eps)
    posterior = Gaussian(z_c, jnp.zeros_like(z_c))  # none of these rules reads it
    fixture.assert_close("z_hat_all", z_hat, expected["z_hat_all"])
    for rule in ("official", "sampled", "mean", "responsibility"):
        j = SELECTION[rule](mixture, posterior, z_c, z_hat)
        np.testing.assert_array_equal(j, expected[f"j_{rule}"])
        if rule == "sampled":
            chosen = gaussian.take(z_hat, j)
            fixture.assert_close("z_hat_j", chosen, expected["z_hat_j"])
    name = "log_responsibility_unnormalised"
    actual = gaussian.component_log_prob(mixture, z_c)
    fixture.assert_close(name, actual, expected[name])


def freq_loss(fixture: Fixture) -> None:
    j = jnp.asarray(fixture.inputs["j"], jnp.int32)

    def loss(logits: jax.Array) -> jax.Array:
        return gaussian.frequency_loss(jax.nn.log_softmax(logits), j)

    logits = jnp.asarray(fixture.inputs["logits"])
    value, slope = value_and_slope(loss, logits)
    fixture.assert_close("loss", value, fixture.outputs["loss"])
    fixture.assert_close("alpha", jax.nn.softmax(logits), fixture.outputs["alpha"])
    fixture.assert_close("gradient", slope, fixture.input_grads["logits"])


def gan_losses(fixture: Fixture) -> None:
    score = jnp.asarray(nhwc(fixture.inputs["pred"]))
    cases = {name for name in fixture.outputs if not name.startswith("dpred_")}
    assert cases
    for name in sorted(cases):
        mode, truth, side = name.split("_")
        gan = GAN[mode]
        loss = gan.real if truth == "real" else gan.fake
        if side == "g" and (truth == "real" or mode in ("hinge", "wgangp")):
            loss = gan.generator  # these two modes take no notice of the target
        value, slope = value_and_slope(loss, score)
        fixture.assert_close(name, value, fixture.outputs[name])
        expected = fixture.outputs[f"dpred_{name}"]
        fixture.assert_close(f"dpred_{name}", nchw(slope), expected)


def gradient_penalty_of_discriminator(fixture: Fixture) -> None:
    hyper, given = fixture.hyper, fixture.inputs
    real, fake = (jnp.asarray(nhwc(given[name])) for name in ("real", "fake"))
    alpha = jnp.asarray(given["alpha"][:, 0])
    net = ResDiscriminator(hyper["ndf"], hyper["img_f"], hyper["layers"])
    target = jax.eval_shape(lambda: net.init(jax.random.key(0), real, True))
    variables = jax.tree.map(jnp.asarray, from_official(fixture.params, target, TABLE))

    def penalty(params: Mapping) -> tuple[jax.Array, jax.Array]:
        def score_of(x: jax.Array) -> jax.Array:
            stats = {"params": params, "stats": variables["stats"]}
            return net.apply(stats, x, True, mutable=["stats"])[0]

        each = gradient_penalty(score_of, real, fake, alpha)
        return hyper["lambda_gp"] * each.mean(), each

    (value, each), slope = jax.jit(jax.value_and_grad(penalty, has_aux=True))(
        variables["params"]
    )
    rtol = 1e-4
    fixture.assert_close("penalty", value, fixture.outputs["penalty"], rtol)
    norm = fixture.outputs["grad_norm"]
    fixture.assert_close("penalty each", each, np.square(norm - 1), rtol)
    gradients = to_official({"params": slope}, TABLE)
    for name, expected in fixture.grads.items():
        fixture.assert_grad(name, gradients[name], expected)


def kl_prior(fixture: Fixture) -> None:
    given, expected = fixture.inputs, fixture.outputs
    std = gaussian.mask_prior_std(jnp.asarray(nhwc(given["mask"])))
    fixture.assert_close("m_sigma", std[:, None, None, None], expected["m_sigma"])
    log_prior = jnp.log(std)[:, None, None, None]
    zero = jnp.zeros_like(log_prior)
    weight = fixture.hyper["lambda_kl"] * fixture.hyper["output_scale"]

    def kls(given: Mapping[str, jax.Array], paths: str) -> dict[str, jax.Array]:
        p, q = ((given[f"{name}_mu"], jnp.log(given[f"{name}_sigma"])) for name in "pq")
        prior = (zero, log_prior)
        start = jax.lax.stop_gradient(p) if paths == "two" else prior
        return {
            "kl_rec": gaussian.kl_elementwise(*prior, *p),
            "kl_g": gaussian.kl_elementwise(*start, *q),
        }

    def total(given: Mapping[str, jax.Array], paths: str) -> jax.Array:
        kl_rec, kl_g = kls(given, paths).values()
        return weight * (kl_rec.mean() + kl_g.mean())

    latents = {n: jnp.asarray(x) for n, x in given.items() if n != "mask"}
    for paths in ("one", "two"):
        for name, value in kls(latents, paths).items():
            fixture.assert_close(name, value, expected[f"{paths}_{name}"])
            loss = f"{paths}_loss_{name}"
            fixture.assert_close(loss, weight * value.mean(), expected[loss])
        slopes = jax.grad(total)(latents, paths)
        for name, value in below(fixture.input_grads, f"{paths}_").items():
            fixture.assert_close(name, slopes[name], value)


def adam(fixture: Fixture) -> None:
    hyper = fixture.hyper
    b1, b2 = hyper["betas"]
    optimiser = optax.adam(hyper["lr"], b1, b2, hyper["eps"])
    p = jnp.asarray(fixture.inputs["p0"])
    state = optimiser.init(p)
    for i, gradient in enumerate(fixture.inputs["grads"]):
        updates, state = optimiser.update(jnp.asarray(gradient), state)
        p = optax.apply_updates(p, updates)
        fixture.assert_close(f"step {i}", p, fixture.outputs["p"][i])


def scale_pyramid(fixture: Fixture) -> None:
    for name, x in fixture.inputs.items():
        levels = below(fixture.outputs, f"{name}_")
        feature = levels.pop("feat", None)
        x = jnp.asarray(nhwc(x))
        for i, level in enumerate(pyramid(x, len(levels))):
            fixture.assert_close(f"{name}_{i}", nchw(level), levels[str(i)])
        if feature is not None:
            size = feature.shape[2], feature.shape[3]
            fixture.assert_close(f"{name}_feat", nchw(resize(x, size)), feature)


def eval_metrics(fixture: Fixture) -> None:
    images, expected = fixture.inputs["pred"], fixture.outputs
    truth = np.broadcast_to(fixture.inputs["gt"], images.shape)
    fixture.assert_close("l1", metrics.l1(images, truth), expected["l1"])
    fixture.assert_close("psnr", metrics.psnr(images, truth), expected["psnr"])
    fixture.assert_close("tv", metrics.tv(images), expected["tv"])
    assert metrics.best_of(images, fixture.inputs["gt"]) == expected["best"]


HANDLERS: dict[tuple[str, str], Callable[[Fixture], None]] = {
    ("picmm", "bm_loss"): bm_loss,
    ("picmm", "component_selection"): component_selection,
    ("picmm", "freq_loss"): freq_loss,
    ("picnet", "gan_losses"): gan_losses,
    ("picnet", "gradient_penalty"): gradient_penalty_of_discriminator,
    ("picnet", "kl_prior"): kl_prior,
    ("picnet", "adam"): adam,
    ("picnet", "scale_pyramid"): scale_pyramid,
    ("picnet", "eval_metrics"): eval_metrics,
}
