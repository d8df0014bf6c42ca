"""guided-diffusion's training: losses, the step's gradients, samplers, optimiser."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from diffusion_networks import assert_gradients, assert_near, build_unet, load_unet
from diffusion_process import (
    KEY,
    RELEASED,
    assert_within,
    image,
    recorded,
    schedule_of,
    times,
    toy_network,
)
from fixture import Fixture, below, nchw
from ml_collections import ConfigDict

from picjax.methods.painter import losses, process, settings, timesteps
from picjax.methods.painter.official import UNET
from picjax.methods.painter.process import (
    Denoiser,
    Noised,
    Parameterization,
    Schedule,
)
from picjax.official.mapping import to_official

near = partial(assert_near, share=2e-5)


# ---- losses ----


def check_losses(fixture: Fixture) -> None:
    check_gaussians(fixture)
    for name in fixture.outputs:
        case, _, term = name.rpartition(".")
        if term == "loss":
            check_case(fixture, case)
        if name.startswith(("vb_terms_bpd.", "prior_bpd.")):
            check_bits(fixture, name)
        if term == "x_t":
            noised = noised_images(fixture, case, times(fixture.inputs[f"{case}.t"]))
            near(name, nchw(noised.x), fixture.outputs[name])
    if "bpd.noise" in fixture.inputs:
        check_bound(fixture)


def check_gaussians(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    names = "kl.mean1", "kl.logvar1", "kl.mean2", "kl.logvar2"
    mean_p, log_var_p, mean_q, log_var_q = (jnp.asarray(inputs[n]) for n in names)
    kl = losses.normal_kl(mean_p, log_var_p, mean_q, log_var_q)
    near("kl", kl, out["normal_kl"])
    zero = jnp.zeros_like(mean_p)
    kl = losses.normal_kl(mean_p, log_var_p, zero, zero)
    near("kl to N(0, 1)", kl, out["normal_kl_vs_std"])
    cdf = jax.jit(losses.normal_cdf)(jnp.asarray(inputs["cdf.x"]))
    near("cdf", cdf, out["approx_standard_normal_cdf"])
    x0, means = image(inputs["x_start"]), image(inputs["dgl.means"])
    log_scales = image(inputs["dgl.log_scales"])
    likelihood = jax.jit(losses.discretized_log_likelihood)(x0, means, log_scales)
    expected = out["discretized_gaussian_log_likelihood"]
    near("likelihood", nchw(likelihood), expected)


def chain_schedule(meta: Mapping[str, Any], chain: str) -> Schedule:
    """The schedule of `full` or of such as `resp250`."""
    spacing = "" if chain == "full" else chain.removeprefix("resp")
    return process.make_schedule(
        meta["noise_schedule"], meta["diffusion_steps"], spacing
    )


def noised_images(fixture: Fixture, chain: str, t: jax.Array) -> Noised:
    x0, noise = image(fixture.inputs["x_start"]), image(fixture.inputs["noise"])
    return process.add_noise(chain_schedule(fixture.meta, chain), x0, t, noise)


def model_output(fixture: Fixture, parameterization: Parameterization) -> jax.Array:
    """The network's constant output, without a variance where that is fixed."""
    output = image(fixture.inputs["model_output"])
    return output if parameterization.learns_variance else output[..., :3]


def check_bits(fixture: Fixture, name: str) -> None:
    """Bits per dimension of the prior, or of each step's term of the bound."""
    function, combo, chain, *clip = name.split(".")
    schedule = chain_schedule(fixture.meta, chain)
    noised = noised_images(fixture, chain, times(fixture.inputs[f"{chain}.t"]))
    mean, variance, _ = fixture.meta["combos"][combo]
    parameterization = Parameterization(mean.lower(), variance.lower())
    if function == "prior_bpd":
        bits = losses.prior_bits(schedule, noised.x0)
    else:
        term = partial(losses.bound_term, schedule, parameterization, noised)
        term = partial(term, clip=clip == ["clip"])
        bits, _ = jax.jit(term)(model_output(fixture, parameterization))
    near(name, bits, fixture.outputs[name])


def check_case(fixture: Fixture, case: str) -> None:
    """Every term of a combination, and the gradient of its mean loss."""
    combo, chain = case.split(".")
    mean, variance, loss = (x.lower() for x in fixture.meta["combos"][combo])
    parameterization = Parameterization(mean, variance)
    schedule = chain_schedule(fixture.meta, chain)
    noised = noised_images(fixture, chain, times(fixture.inputs[f"{case}.t"]))

    def mean_loss(output: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        values = losses.step_losses(schedule, parameterization, loss, noised, output)
        return values["loss"].mean(), values

    grad = jax.jit(jax.grad(mean_loss, has_aux=True))
    grad, values = grad(model_output(fixture, parameterization))
    for term, value in below(fixture.outputs, f"{case}.").items():
        near(f"{case} {term}", values[term], value)
    expected = fixture.grads[f"{case}.model_output"]
    grad = np.asarray(nchw(grad))
    # With a fixed variance, the second half of the output has no gradient.
    assert_near(f"{case} gradient", grad, expected[:, : grad.shape[1]], 2e-4)
    assert not np.any(expected[:, grad.shape[1] :])


BOUND = {
    "total_bpd": "total",
    "prior_bpd": "prior",
    "vb": "vb",
    "xstart_mse": "x0_mse",
    "mse": "mse",
}


def check_bound(fixture: Fixture) -> None:
    """The whole bound of a respaced process with the toy network."""
    meta, noise = fixture.meta, recorded(fixture.inputs["bpd.noise"])
    name = meta.get("bpd_noise_schedule", meta["noise_schedule"])
    schedule = process.make_schedule(name, meta["diffusion_steps"], str(len(noise)))
    denoiser = Denoiser(toy_network, schedule, RELEASED)
    images = image(fixture.inputs["x_start"])[: noise.shape[1]]
    bound = losses.bound(denoiser, images, jnp.asarray(noise))
    for name, field in BOUND.items():
        near(name, getattr(bound, field), fixture.outputs[f"bpd.{name}"])


# ---- the training step ----


def check_training_step(fixture: Fixture) -> None:
    """The weighted loss and its gradient with respect to every parameter."""
    inputs, out, meta = fixture.inputs, fixture.outputs, fixture.meta
    schedule = schedule_of(meta)
    t = times(inputs["t"])
    noised = process.add_noise(
        schedule, image(inputs["x_start"]), t, image(inputs["noise"])
    )
    net = build_unet(fixture.hyper)
    condition = (times(inputs["y"]),) if "y" in inputs else ()
    params = load_unet(net, fixture.params, noised.x, t, *condition)["params"]
    learned = fixture.hyper["out_channels"] == 6
    parameterization = Parameterization(
        meta.get("mean_type", "epsilon").lower(),
        meta.get("var_type", "learned_range" if learned else "fixed_large").lower(),
    )

    def total(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        def network(x: jax.Array, t: jax.Array) -> Any:
            return net.apply({"params": params}, x, t, *condition)

        denoiser = Denoiser(network, schedule, parameterization)
        values = losses.step_losses(
            schedule,
            parameterization,
            meta["loss_type"].lower(),
            noised,
            denoiser.output(noised.x, t),
        )
        return (values["loss"] * inputs["weights"]).mean(), values

    grad = jax.jit(jax.value_and_grad(total, has_aux=True))
    (scalar, values), grads = grad(params)
    assert_near("loss", scalar, out["loss_scalar"], 1e-5)
    for term, value in values.items():
        assert_near(term, value, out[term], 1e-5)
    ours = to_official({"params": grads}, UNET)
    assert_gradients(fixture, "", ours, 5e-5)
    norm = optax.tree.norm(grads)
    assert_near("norm of the gradient", norm, out["grad_norm"], 5e-5)


# ---- samplers of steps, optimiser, averages ----


def check_training_utilities(fixture: Fixture) -> None:
    with jax.enable_x64():
        check_timestep_samplers(fixture)
    check_optimizer(fixture)


def check_timestep_samplers(fixture: Fixture) -> None:
    inputs, out, meta = fixture.inputs, fixture.outputs, fixture.meta
    steps = meta["num_timesteps"]
    exactly = partial(np.testing.assert_allclose, rtol=1e-12)
    history = timesteps.empty_history(steps, meta["history_per_term"])
    probabilities = partial(timesteps.probabilities, uniform=meta["uniform_prob"])
    uniform = np.full(steps, 1 / steps)
    exactly(probabilities(history), uniform)
    for name in ("uniform.weights", "lsm.weights_cold"):
        exactly(out[name] / out[name].sum(), uniform)
    for t, loss, expected in zip(
        inputs["lsm.ts"], inputs["lsm.losses"], out["lsm.weights"], strict=True
    ):
        history = timesteps.record_losses(history, times(t), jnp.asarray(loss))
        exactly(probabilities(history), expected / expected.sum())
    exactly(history.losses, out["lsm.history"])
    np.testing.assert_array_equal(history.seen, out["lsm.counts"])
    p = probabilities(history)
    exactly(p, out["lsm.p"])
    t, weights = timesteps.sample_timesteps(KEY, p, 64 * steps)
    exactly(weights, out["lsm.importance_weights"][t])
    assert set(np.asarray(t)) >= set(np.flatnonzero(np.asarray(p) > 0.5 / steps))


def check_optimizer(fixture: Fixture) -> None:
    """AdamW with linear annealing, and averaged parameters."""
    inputs, out, meta = fixture.inputs, fixture.outputs, fixture.meta
    anneal = meta["lr_anneal_steps"]
    opt = {"decay": float(anneal > 0), "b1": 0.9, "b2": 0.999, "accumulate": 1}
    config = ConfigDict({"steps": anneal or 1, "opt": opt})
    tx = settings.adamw(config, meta["lr"], meta["weight_decay"])
    names = [m[1] for name in inputs if (m := re.fullmatch(r"opt\.(p\d+)", name))]
    params = {name: inputs[f"opt.{name}"] for name in names}
    averages: list[Any] = [params] * len(meta["ema_rates"])
    state = tx.init(params)
    for i in range(len(out["opt.lr_used"])):
        grads = {name: inputs[f"opt.g{name[1:]}.step{i}"] for name in names}
        updates, state = tx.update(grads, state, params)
        params: Any = optax.apply_updates(params, updates)
        if i == 0:  # a resumed run anneals from the steps that were completed before
            state = advance_schedule(state, meta.get("resume_step", 0))
        averages = [
            optax.incremental_update(params, mean, 1 - rate)
            for rate, mean in zip(meta["ema_rates"], averages, strict=True)
        ]
        for name, value in params.items():
            assert_within(name, value, out[f"opt.{name}.step{i}"], 1e-6)
            for k, mean in enumerate(averages):
                expected = out[f"opt.ema{k}.{name}.step{i}"]
                assert_within(f"average of {name}", mean[name], expected, 1e-6)


def advance_schedule(state: Any, steps: int) -> Any:
    """The optimiser's state with the count of its learning-rate schedule advanced."""

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def advance(node: Any) -> Any:
        return node._replace(count=node.count + steps) if is_schedule(node) else node

    return jax.tree.map(advance, state, is_leaf=is_schedule)


CHECKS = {
    "UNetModel + hybrid loss": check_training_step,
    "loss primitives, VLB terms, training_losses, calc_bpd_loop": check_losses,
    "timestep samplers, AdamW, EMA, lr anneal": check_training_utilities,
}
