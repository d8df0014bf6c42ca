"""PICNet's reference files of losses, the optimiser, the pyramid and image metrics."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fixture import Fixture, below, nchw, nhwc
from vae_gan import KEY, discriminator

from picjax.evaluation.metrics import image as metrics
from picjax.losses.adversarial import GAN, gradient_penalty
from picjax.losses.gaussian import kl_elementwise
from picjax.losses.reconstruction import pyramid, resize
from picjax.methods.picnet.divergence import mask_prior_std
from picjax.methods.picnet.official import TABLE
from picjax.official.mapping import from_official, to_official


def value_and_slope(loss: Callable[..., jax.Array], x: Any) -> tuple[jax.Array, Any]:
    """The mean of a per-example loss and its gradient."""
    return jax.value_and_grad(lambda x: loss(x).mean())(x)


def gan_losses(fixture: Fixture) -> None:
    score = jnp.asarray(nhwc(fixture.inputs["pred"]))
    cases = {name for name in fixture.outputs if not name.startswith("dpred_")}
    assert cases
    for name in sorted(cases):
        mode, truth, side = name.rsplit("_", 2)
        gan = GAN[mode]
        loss = gan.real if truth == "real" else gan.fake
        if side == "g" and (truth == "real" or mode in ("hinge", "wgangp", "wgan-gp")):
            loss = gan.generator  # these modes ignore the target
        value, slope = value_and_slope(loss, score)
        fixture.assert_close(name, value, fixture.outputs[name])
        if f"dpred_{name}" in fixture.outputs:
            expected = fixture.outputs[f"dpred_{name}"]
            fixture.assert_close(f"dpred_{name}", nchw(slope), expected)


def penalty(fixture: Fixture) -> None:
    """`type` says where: on real or generated images, or mixed; `constant` the norm."""
    hyper, inputs = fixture.hyper, fixture.inputs
    real, fake = (jnp.asarray(nhwc(inputs[name])) for name in ("real", "fake"))
    kind, constant = hyper.get("type", "mixed"), hyper.get("constant", 1.0)
    alpha = {
        "real": jnp.ones(len(real)),
        "fake": jnp.zeros(len(real)),
        "mixed": jnp.asarray(inputs.get("alpha", np.zeros(len(real)))).reshape(-1),
    }[kind]
    net = discriminator(fixture.params)
    target = jax.eval_shape(net.init, KEY, real)
    variables = jax.tree.map(jnp.asarray, from_official(fixture.params, target, TABLE))

    def total(params: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
        def score_of(x: jax.Array) -> jax.Array:
            own = {"params": params, "stats": variables["stats"]}
            return net.apply(own, x, 1, mutable=["stats"])[0] / constant

        each = constant**2 * gradient_penalty(score_of, real, fake, alpha)
        return hyper["lambda_gp"] * each.mean(), each

    (value, each), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(
        variables["params"]
    )
    rtol = 1e-4
    fixture.assert_close("penalty", value, fixture.outputs["penalty"], rtol)
    norm = fixture.outputs["grad_norm"]
    fixture.assert_close("penalty each", each, np.square(norm - constant), rtol)
    gradients = to_official({"params": slope}, TABLE)
    for name, expected in fixture.grads.items():
        fixture.assert_grad(name, gradients[name], expected)


def kl_prior(fixture: Fixture) -> None:
    inputs, expected = fixture.inputs, fixture.outputs
    std = mask_prior_std(jnp.asarray(nhwc(inputs["mask"])))
    fixture.assert_close("m_sigma", std[:, None, None, None], expected["m_sigma"])
    log_prior = jnp.log(std)[:, None, None, None]
    prior = jnp.zeros_like(log_prior), log_prior
    weight = fixture.hyper["lambda_kl"] * fixture.hyper["output_scale"]

    def kls(latents: Mapping[str, jax.Array], paths: str) -> dict[str, jax.Array]:
        p, q = (
            (latents[f"{name}_mu"], jnp.log(latents[f"{name}_sigma"])) for name in "pq"
        )
        target = jax.lax.stop_gradient(p) if paths == "two" else prior
        return {
            "kl_rec": kl_elementwise(*prior, *p),
            "kl_g": kl_elementwise(*target, *q),
        }

    def total(latents: Mapping[str, jax.Array], paths: str) -> jax.Array:
        return weight * sum(x.mean() for x in kls(latents, paths).values())

    latents = {n: jnp.asarray(x) for n, x in inputs.items() if n != "mask"}
    strategies = {name.split("_")[0] for name in expected} & {"one", "two"}
    assert strategies
    for paths in sorted(strategies):
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
