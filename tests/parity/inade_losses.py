"""Losses of INADE and SPADE, and the learning-rate schedule."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nchw, nhwc
from inade_shared import (
    close,
    scaled,
    vgg_of,
)

from picjax.methods.inade import losses, schedule

# ---- losses ----


def check_losses(fixture: Fixture) -> None:
    hyper, inputs, out = fixture.hyper, fixture.inputs, fixture.outputs
    fake, real = (pyramid(below(inputs, f"pred_{side}/")) for side in ("fake", "real"))
    roles = {"d_fake": ("fake", fake), "d_real": ("real", real)}
    roles["g"] = ("generator", fake)
    for name, expected in out.items():
        match = re.fullmatch(r"gan_([a-z]+)_(d_fake|d_real|g)", name)
        if match is None:
            continue
        part, outputs = roles[match[2]]
        loss = getattr(losses.GAN[match[1]], part)
        check_scalar(
            fixture,
            name,
            lambda x, loss=loss: losses.over_scales(loss, x).mean(),
            outputs,
            expected,
        )
    for mode, first in (("inade", 3), ("spade", 0)):
        name = f"feat_{mode}"
        if name in out:
            check_scalar(
                fixture,
                name,
                lambda x, first=first: (
                    hyper.get("lambda_feat", 10.0)
                    * losses.feature_matching(x, real, first).mean()
                ),
                fake,
                out[name],
            )
    check_kl(fixture)
    check_perceptual(fixture)


def pyramid(arrays: dict) -> list:
    """`<scale>_<layer>` -> array as lists of layers per scale."""
    places = sorted(tuple(map(int, name.split("_"))) for name in arrays)
    return [
        [jnp.asarray(nhwc(arrays[f"{s}_{j}"])) for s, j in places if s == scale]
        for scale in sorted({s for s, _ in places})
    ]


def check_scalar(fixture: Fixture, name: str, fn: Any, x: Any, expected: Any) -> None:
    """A loss of discriminator outputs and its gradients."""
    value, grads = jax.jit(jax.value_and_grad(fn))(x)
    expected = np.asarray(expected)
    close(fixture, name, np.reshape(value, expected.shape), expected)
    for key, array in below(fixture.outputs, f"grad/{name}/").items():
        scale, layer = map(int, key.split("_"))
        fixture.assert_close(key, nchw(grads[scale][layer]), *scaled(array))


def check_kl(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    if "kld" not in out:
        return
    value, grads = jax.value_and_grad(
        lambda mu, log_var: losses.kl_standard_normal(mu, log_var).sum(), (0, 1)
    )(jnp.asarray(inputs["mu"]), jnp.asarray(inputs["logvar"]))
    close(fixture, "kld", value, out["kld"])
    for name, grad in zip(("grad/kld_mu", "grad/kld_logvar"), grads, strict=True):
        if name in out:
            fixture.assert_close(name, grad, *scaled(out[name]))


def check_perceptual(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    if "img_x" not in inputs:
        return
    x, y = (jnp.asarray(nhwc(inputs[name])) for name in ("img_x", "img_y"))
    net, variables = vgg_of(fixture.params, x)
    for index, expected in below(out, "vgg_feat/").items():
        feature = jax.jit(net.apply)(variables, x)[int(index)]
        close(fixture, f"feature {index}", nchw(feature), expected)
    for mode, weights in losses.VGG_WEIGHTS.items():
        name = f"vgg_{mode}"
        if name not in out:
            continue

        @jax.jit
        @jax.value_and_grad
        def loss(x, weights=weights):
            of_x: Any = net.apply(variables, x)
            of_y: Any = net.apply(variables, y)
            return losses.perceptual(of_x, of_y, weights).mean()

        value, grad = loss(x)
        close(fixture, name, value, out[name])
        if f"grad/{name}_x" in out:
            fixture.assert_close(name, nchw(grad), *scaled(out[f"grad/{name}_x"]))


def check_schedule(fixture: Fixture) -> None:
    for case, settings in fixture.inputs.items():
        niter, niter_decay, lr, no_ttur, first = settings
        expected = fixture.outputs[case]
        rates = schedule.ttur(lr, enabled=not no_ttur)
        # The original restarts at the full rate when it resumes; epochs from then on.
        constant = max(int(niter), int(first) - 1)
        factors = [
            schedule.decay_factor(int(first) + i, constant, int(niter_decay))
            for i in range(len(expected))
        ]
        fixture.assert_close(case, np.outer(factors, rates), expected, 1e-12, 1e-16)
