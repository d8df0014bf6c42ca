"""PixelCNN++'s initialisation from data, training steps, and sampling of images."""

import re
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below
from helpers.configs import load_config
from pixelcnn_likelihood import uniforms
from pixelcnn_nets import (
    KEY,
    assert_relative,
    assert_within,
    condition_of,
    dropout_masks,
    float_image,
    from_theirs,
    given_dropout,
    network,
    option,
    place,
    quick,
    to_theirs,
)

from picjax.methods.pixelcnn import cached, official, raster
from picjax.methods.pixelcnn.build import adam
from picjax.methods.pixelcnn.raster import Noise
from picjax.methods.pixelcnn.system import PixelCNNPlusPlus
from picjax.system import Opt, State, init_opt

# ---- first batch ----


def check_data_init(fixture: Fixture) -> None:
    with jax.enable_x64():
        _check_data_init(fixture, jnp.float64, 1e-8)
    _check_data_init(fixture, jnp.float32, 5e-4)


def _check_data_init(fixture: Fixture, dtype: Any, atol: float) -> None:
    net = network(fixture, dtype=dtype)
    x = float_image(fixture.inputs["x_uint8"], dtype)
    condition = condition_of(fixture, dtype)
    tensors = official.dotted(fixture.params)
    # Directions and projections of the class; gains and biases are to be found.
    params = place(
        {
            f"{site.path}/{leaf}": jnp.asarray(tensors[name], dtype)
            for site in official.table(net.blocks)
            for leaf in ("V", "hw")
            if (name := f"{site.names[0]}.{leaf}") in tensors
        }
    )
    masks = dropout_masks(fixture, net)

    def run(params: Any) -> Any:
        with given_dropout(masks, net.dropout):
            return net.apply(
                {"params": params},
                x,
                bool(masks),
                condition,
                mutable=["params"],
                rngs=KEY,
            )

    logits, variables = quick(run)(params)
    expected = official.dotted(fixture.outputs)
    if "logits_init_pass" in expected:
        first = expected.pop("logits_init_pass")
        assert_within("first pass", logits, first, 10 * atol)
    if "logits_eval_after" in expected:
        run_after = quick(lambda variables: net.apply(variables, x, False, condition))
        second = expected.pop("logits_eval_after")
        assert_within("after it", run_after(variables), second, 10 * atol)
    actual = to_theirs(net, variables["params"])
    names = [name for name in expected if name in actual]
    assert names
    for name in names:
        assert_within(name, actual[name], expected[name], atol)


# ---- training steps ----


def make_system(fixture: Fixture) -> PixelCNNPlusPlus:
    """The method with the file's network, Adam, rates and average."""
    config = load_config("pixelcnn", "tiny")
    moments = option(fixture, "adam", {})
    rates: Any = below(fixture.inputs, "lr/")
    first = float(rates.get("step1", config.opt.lr * config.opt.fall))
    fall = float(rates["step2"]) / first if "step2" in rates else config.opt.fall
    decay = re.search(r"0?\.\d+", str(option(fixture, "ema", "")))
    config.steps = 10**9
    config.opt.update(
        lr=first / fall,
        fall=fall,
        decay=0.0,
        b1=moments.get("b1", config.opt.b1),
        b2=moments.get("b2", config.opt.b2),
        ema=float(decay[0]) if decay else config.opt.ema,
    )
    config.loss.form = "official"
    h = fixture.inputs.get("h", fixture.inputs.get("h/step1"))
    return replace(
        PixelCNNPlusPlus.from_config(config),
        net=network(fixture, dtype=jnp.float64),
        opts={"adam": Opt(adam(config), ("net",))},
        classes=0 if h is None else h.shape[-1],
    )


def batch_of(fixture: Fixture, step: str) -> dict[str, Any]:
    """The images of a step, as integers, with their classes."""
    x = float_image(fixture.inputs[f"x_uint8/{step}"], jnp.float64)
    batch = {"image": x, "mask": jnp.ones_like(x[..., :1])}
    h = fixture.inputs.get(f"h/{step}", fixture.inputs.get("h"))
    if h is not None:
        assert ((h == 0) | (h == 1)).all(), "classes are one-hot"
        batch["class"] = jnp.asarray(h.argmax(-1))
    return batch


def check_train_steps(fixture: Fixture) -> None:
    """In float64: likelihood, the effect of the gradients, rate and average."""
    with jax.enable_x64():
        system = make_system(fixture)
        net = system.net
        steps = sorted(below(fixture.inputs, "x_uint8/"))
        assert steps, "the file holds no step"
        x = batch_of(fixture, steps[0])["image"]
        condition = jnp.zeros((len(x), system.classes)) if system.classes else None

        def load(tensors: Any) -> Any:
            exact = {name: np.float64(t) for name, t in tensors.items()}
            return {"net": from_theirs(net, exact, x, condition)}

        params, zero = load(fixture.params), jnp.zeros([], jnp.int32)
        ema = load(below(fixture.inputs, "ema/") or fixture.params)
        state = State(zero, params, {}, init_opt(system.opts, params), ema)
        for step in steps:
            masks = dropout_masks(fixture, net, f"{step}/")
            with given_dropout(masks, net.dropout):
                batch = batch_of(fixture, step)
                state, metrics = quick(system.step)(state, batch, KEY)
            expected = fixture.outputs[f"bits_per_dim/{step}"]
            assert_relative("bits", metrics["bits_per_dim"], expected, 1e-9)
            for name, tree in (("param", state.params), ("ema", state.ema)):
                wanted = official.dotted(below(fixture.outputs, f"{name}_{step}/"))
                check_tensors(fixture, name, to_theirs(net, tree["net"]), wanted)


def check_tensors(fixture: Fixture, kind: str, actual: Any, expected: Any) -> None:
    """Tensors after a step.

    Gradients agree to 1e-9 of the largest element, and Adam divides by the element:
    where it is small, that is 1e-6 of a step.
    """
    grads = official.dotted(fixture.grads)
    for name, value in expected.items():
        error = actual[name] - value
        if name in grads:
            size = np.abs(grads[name])
            error = np.where(size < 1e-2 * size.max(), 0.1, 1.0) * error
        assert_within(f"{kind} {name}", error, 0 * error, 1e-9)


# ---- sampling ----


def check_samples(fixture: Fixture) -> None:
    """Images from given noise: cached, by fixed point, and the logits on the way."""
    net = network(fixture)
    noise = Noise(*uniforms(fixture))
    b, h, w, _ = noise.value.shape
    truth = jnp.zeros_like(noise.value)
    if "image_uint8" in fixture.inputs:
        truth = float_image(fixture.inputs["image_uint8"])
    condition = condition_of(fixture)
    params = from_theirs(net, fixture.params, truth, condition)
    logits = partial(net.apply, {"params": params}, train=False, condition=condition)
    fill = float(option(fixture, "fill", 0) or 0)

    @quick
    def run(known: Any) -> Any:
        image = jnp.where(known, truth, fill)
        each = jax.tree.map(lambda x: x[:, None], noise)
        inputs = cached.Inputs(image, known, each)
        fast = cached.sample(net, params, inputs, condition)[:, 0]
        fixed, passes = raster.jacobi(logits, image, known, noise)
        return fast, fixed, passes, logits(fast)

    masks = below(fixture.inputs, "known/") or {"": np.zeros((h, w), np.uint8)}
    for name, mask in masks.items():
        known = jnp.broadcast_to(mask[None, ..., None] == 1, (b, h, w, 1))
        fast, fixed, passes, out = run(known)
        expected = fixture.outputs[f"image/{name}".rstrip("/")]
        assert_within(f"cached {name}", fast, expected, 1e-4)
        assert_within(f"fixed point {name}", fixed, expected, 1e-4)
        assert int(passes) <= (1 - mask).sum() + 1
        if (key := f"logits/{name}".rstrip("/")) in fixture.outputs:
            out = jnp.where(known, 0, out)
            # Rounding of the pixels before grows with the network's slope.
            assert_within(f"logits {name}", out, fixture.outputs[key], 1e-3)
