"""PixelCNN++'s likelihood and draws of given logits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, nhwc
from pixelcnn_nets import assert_relative, assert_within, float_image

from picjax.methods.pixelcnn import logistic


def uniforms(fixture: Fixture) -> tuple[jax.Array, jax.Array]:
    """The noise of the component and of the values, [b h w k] and [b h w c]."""
    u_mix, u_logistic = (fixture.inputs[n] for n in ("u_mix", "u_logistic"))
    return jnp.asarray(u_mix), jnp.asarray(u_logistic)


def check_loss(fixture: Fixture) -> None:
    with jax.enable_x64():
        _check_loss_f64(fixture)
    _check_loss_f32(fixture)


def _check_loss_f64(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    x = float_image(inputs["x_uint8"], jnp.float64)
    logits = jnp.asarray(inputs["logits"], jnp.float64)
    images = logistic.nll(x, logits, "official")
    mixture = logistic.unpack(logits, x.shape[-1])
    values = {
        "nll_sum": images.sum(),
        "nll_per_image": images,
        "pixel_loglik": logistic.log_likelihood(x, logits, "official"),
        "component_logprob": logistic.component_log_prob(x, mixture, "official"),
    }
    found = {name for name in values if f"{name}_f64" in out}
    assert found
    for name in found:
        expected = out[f"{name}_f64"]
        fixture.assert_close(name, values[name], expected, 1e-9, 1e-12)
    if "logits_f64" in fixture.grads:
        grad = jax.grad(lambda z: logistic.nll(x, z, "official").sum())(logits)
        assert_relative("gradient", grad, fixture.grads["logits_f64"], 1e-9)
    if "bits_per_dim_f64" in out:
        bits = logistic.bits(images.sum()) / x.size
        fixture.assert_close("bits", bits, out["bits_per_dim_f64"], 1e-9, 0.0)


def _check_loss_f32(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    x, logits = float_image(inputs["x_uint8"]), jnp.asarray(inputs["logits"])
    images = logistic.nll(x, logits, "official")
    if "nll_sum_f32" in out:
        fixture.assert_close("nll_sum", images.sum(), out["nll_sum_f32"], 2e-5, 0.0)
    if not {"component_logprob_f32", "branch"} <= out.keys():
        return
    mixture = logistic.unpack(logits, x.shape[-1])
    each = logistic.component_log_prob(x, mixture, "official")
    # The difference of sigmoids cancels in float32, differently in each library.
    cancels = out["branch"] == 2
    expected = out["component_logprob_f32"]
    stable, unstable = (
        (np.where(chosen, each, 0), np.where(chosen, expected, 0))
        for chosen in (~cancels, cancels)
    )
    fixture.assert_close("stable", *stable, 1e-5, 1e-6)
    fixture.assert_close("cancelling", *unstable, 0.0, 2e-2)


def check_port_loss(fixture: Fixture) -> None:
    """The port's likelihood and sampler: logits and images NCHW."""
    logits = jnp.asarray(nhwc(fixture.inputs["logits"]))
    if "sample" in fixture.outputs:
        drawn = logistic.draw(logits, *uniforms(fixture))
        assert_within("sample", drawn, nhwc(fixture.outputs["sample"]), 1e-5)
    with jax.enable_x64():
        x = jnp.asarray(nhwc(float_image(fixture.inputs["x_uint8"], jnp.float64)))

        def loss(z: Any) -> Any:
            return logistic.nll(x, z, "official").sum()

        total, grad = jax.value_and_grad(loss)(jnp.asarray(logits, jnp.float64))
        assert_relative("nll", total, fixture.outputs["nll_sum"], 1e-9)
        if "logits" in fixture.grads:
            expected = nhwc(fixture.grads["logits"])
            assert_relative("gradient", grad, expected, 1e-9)


def check_draw(fixture: Fixture) -> None:
    logits = jnp.asarray(fixture.inputs["logits"])
    u_mix, u_logistic = uniforms(fixture)
    drawn = logistic.draw(logits, u_mix, u_logistic)
    assert_within("sample", drawn, fixture.outputs["sample"], 1e-5)
    if "component" in fixture.outputs:
        mixture = logistic.unpack(logits, u_logistic.shape[-1])
        chosen = logistic.component(mixture.logits, u_mix)
        np.testing.assert_array_equal(chosen, fixture.outputs["component"])


def check_released_logits(fixture: Fixture) -> None:
    """Likelihood and a draw from the released model's logits."""
    x = jnp.asarray(float_image(fixture.inputs["x_uint8"]))
    logits = jnp.asarray(fixture.outputs["logits"])
    bits = logistic.bits(logistic.nll(x, logits, "official")) / x[0].size
    assert_relative("bits", bits, fixture.outputs["bits_per_dim"], 2e-5)
    if "sample" in fixture.outputs:
        drawn = logistic.draw(logits, *uniforms(fixture))
        assert_within("sample", drawn, fixture.outputs["sample"], 1e-5)
