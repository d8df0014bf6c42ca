"""guided-diffusion's process: schedules, single steps, guidance, losses, training."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from diffusion_networks import (
    assert_near,
    build_classifier,
    load_classifier,
)
from fixture import Fixture, below, nchw, nhwc

from picjax.methods.painter import classifier, process
from picjax.methods.painter.process import (
    Parameterization,
    Prediction,
    Schedule,
)

KEY = jax.random.key(0)
RELEASED = Parameterization("epsilon", "learned_range")


def image(x: Any) -> jax.Array:
    return jnp.asarray(nhwc(np.asarray(x, np.float32)))


def times(x: Any) -> jax.Array:
    return jnp.asarray(x, jnp.int32)


def recorded(x: np.ndarray) -> np.ndarray:
    """Recorded noise, n b c h w to n b h w c."""
    return x.transpose(0, 1, 3, 4, 2)


def assert_within(name: str, actual: Any, expected: Any, atol: float) -> None:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected)
    assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
    error = np.abs(actual - expected).max(initial=0)
    assert error <= atol, f"{name}: off by {error:.3g}, {atol:.3g} is allowed"


def toy_network(x: jax.Array, t: jax.Array) -> jax.Array:
    """The closed-form network that `meta["toy"]` describes; t on the original scale."""
    t = t.astype(jnp.float32)[:, None, None, None]
    c = jnp.arange(3.0)[None, None, None]
    epsilon = 0.6 * x + 0.1 * jnp.roll(x, 1, 2) + 0.3 * jnp.sin(t / 150 + c)
    return jnp.concatenate([epsilon, 0.5 * jnp.tanh(x) + 0.2 * jnp.cos(t / 300)], -1)


def described_schedule(text: str) -> tuple[str, int, str]:
    """Name, steps and spacing from words such as "linear 1000 betas respaced to 8"."""
    name = re.search(r"(linear|cosine) (\d+)", text)
    spacing = re.search(r"respaced to (\w+(,\w+)*)", text)
    assert name, text
    return name[1], int(name[2]), spacing[1] if spacing else ""


def described_parameterization(text: str) -> Parameterization:
    """From words such as "epsilon + learned range"; by default those two."""
    text = text.lower().replace(" ", "_")
    means = {"start_x": "start_x", "x_start": "start_x", "xstart": "start_x"}
    means |= {"previous_x": "previous_x", "xprev": "previous_x"}
    mean = next((value for word, value in means.items() if word in text), "epsilon")
    variances = (v for v in process.VARIANCES if v in text)  # "learned_range" first
    return Parameterization(mean, next(variances, "learned_range"))


# ---- schedules ----

COEFFICIENTS = {
    "betas": lambda s: s.betas,
    "alphas_cumprod": lambda s: s.alphas_cumprod,
    "alphas_cumprod_prev": lambda s: s.alphas_cumprod_prev,
    "alphas_cumprod_next": lambda s: s.alphas_cumprod_next,
    "sqrt_alphas_cumprod": lambda s: np.sqrt(s.alphas_cumprod),
    "sqrt_one_minus_alphas_cumprod": lambda s: np.sqrt(1 - s.alphas_cumprod),
    "log_one_minus_alphas_cumprod": lambda s: np.log(1 - s.alphas_cumprod),
    "sqrt_recip_alphas_cumprod": lambda s: np.sqrt(1 / s.alphas_cumprod),
    "sqrt_recipm1_alphas_cumprod": lambda s: np.sqrt(1 / s.alphas_cumprod - 1),
    "posterior_variance": lambda s: s.posterior_variance,
    "posterior_log_variance_clipped": lambda s: s.posterior_log_variance,
    "posterior_mean_coef1": lambda s: s.posterior_mean_coef_x0,
    "posterior_mean_coef2": lambda s: s.posterior_mean_coef_xt,
    "timestep_map": lambda s: s.timesteps,
}


def schedule_of(options: Mapping[str, Any]) -> Schedule:
    respacing = options.get("timestep_respacing", "")
    if isinstance(respacing, list | tuple):
        respacing = ",".join(map(str, respacing))
    return process.make_schedule(
        options["noise_schedule"], options["diffusion_steps"], str(respacing)
    )


def check_schedules(fixture: Fixture) -> None:
    for options in fixture.meta["schedules"]:
        key, schedule = options["key"], schedule_of(options)
        arrays = below(fixture.outputs, f"{key}/")
        assert arrays.keys() == COEFFICIENTS.keys()
        for name, expected in arrays.items():
            ours = COEFFICIENTS[name](schedule)
            np.testing.assert_allclose(ours, expected, 1e-12, err_msg=f"{key} {name}")


# ---- single steps ----


def check_steps(fixture: Fixture) -> None:
    schedule, inputs = schedule_of(fixture.meta), fixture.inputs
    t = times(inputs["t"])
    x0, x, noise = (image(inputs[name]) for name in ("x_start", "x_t", "noise"))
    output, zero = image(inputs["model_output"]), jnp.zeros_like(x0)
    epsilon = output[..., :3]

    def table(values: np.ndarray) -> jax.Array:
        return process.extract(values, t) + zero

    ours: dict[str, Any] = {
        "q_mean": process.q_sample(schedule, x0, t, zero),
        "q_variance": table(1 - schedule.alphas_cumprod),
        "q_log_variance": table(np.log(1 - schedule.alphas_cumprod)),
        "q_sample": process.q_sample(schedule, x0, t, noise),
        "posterior_mean": process.posterior_mean(schedule, x0, x, t),
        "posterior_variance": table(schedule.posterior_variance),
        "posterior_log_variance_clipped": table(schedule.posterior_log_variance),
        "predict_xstart_from_eps": process.x0_from_epsilon(schedule, x, t, epsilon),
        "predict_xstart_from_xprev": process.x0_from_previous(schedule, x, t, epsilon),
        "predict_eps_from_xstart": process.epsilon_from_x0(schedule, x, t, x0),
    }
    for name, expected in fixture.outputs.items():
        if name not in ours:
            # Such as p.epsilon.learned_range.clip.mean.
            function, mean, variance, clip, *field = name.split(".", 4)
            parameterization = Parameterization(mean, variance)
            used = output if parameterization.learns_variance else epsilon
            step = process.predict(
                schedule, parameterization, x, t, used, clip=clip == "clip"
            )
            ours[name] = step_field(fixture, schedule, step, function, "".join(field))
        assert_near(name, nchw(ours[name]), expected, 1e-5)
    assert ours.keys() == fixture.outputs.keys()


def step_field(
    fixture: Fixture, schedule: Schedule, step: Prediction, function: str, field: str
) -> Any:
    """The result of one of the original's functions for a predicted step."""
    t, x = times(fixture.inputs["t"]), image(fixture.inputs["x_t"])
    noise = image(fixture.inputs["noise"])
    gradient = image(fixture.inputs["guidance_grad"])
    if function == "p":
        return {
            "mean": step.mean,
            "log_variance": step.log_variance,
            "variance": jnp.exp(step.log_variance),
            "pred_xstart": step.x0,
            "p_sample": process.ancestral_step(step, t, noise),
        }[field]
    if function == "ddim":
        eta = float(field.removeprefix("eta"))
        return process.ddim_step(schedule, x, t, step.x0, noise, eta=eta)
    if function == "ddim_reverse":
        return process.ddim_reverse_step(schedule, x, t, step.x0)
    if function == "condition_score":
        score = classifier.condition_score(schedule, x, t, step, gradient)
        return {"pred_xstart": score.x0, "mean": score.mean}[field]
    guided = classifier.condition_mean(step, gradient)
    return {
        "condition_mean": guided.mean,
        "guided_p_sample": process.ancestral_step(guided, t, noise),
    }[function]


def check_classifier_guidance(fixture: Fixture) -> None:
    """Logits, their gradient, and guided ancestral and DDIM steps."""
    inputs, out, text = fixture.inputs, fixture.outputs, fixture.meta["diffusion"]
    schedule = process.make_schedule(*described_schedule(text))
    t = times(inputs["t"])
    original = times(schedule.timesteps)[t]
    np.testing.assert_array_equal(original, out["t_model"])
    x, y = image(inputs["x"]), times(inputs["y"])
    net = build_classifier(fixture.hyper)
    other_heads = {n: p for n, p in fixture.params.items() if "_pool." in n}
    own = {n: p for n, p in fixture.params.items() if n not in other_heads}
    variables = load_classifier(net, own, x, original)
    logits = jax.jit(net.apply)(variables, x, original)
    assert_near("logits", logits, out["logits"], 1e-5)

    def classify(x: jax.Array, t: jax.Array) -> Any:
        return net.apply(variables, x, t)

    scale = float(fixture.meta["classifier_scale"])
    gradient = jax.jit(classifier.class_guidance(classify, y, scale))(x, original)
    assert_near("gradient", nchw(gradient), out["guidance_grad"], 5e-5)
    check_guided_steps(fixture, schedule, gradient)
    torso = {n: p for n, p in own.items() if not n.startswith("out.")}
    for pool in {name.partition("_pool.")[0] for name in other_heads}:
        head = below(fixture.params, f"{pool}_pool.")
        net = build_classifier({**fixture.hyper, "pool": pool})
        variables = load_classifier(net, torso | head, x, original)
        logits = jax.jit(net.apply)(variables, x, original)
        assert_near(pool, logits, out[f"logits_{pool}_pool"], 1e-5)


def check_guided_steps(
    fixture: Fixture, schedule: Schedule, gradient: jax.Array
) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    x, t, noise = image(inputs["x"]), times(inputs["t"]), image(inputs["noise"])
    parameterization = described_parameterization(fixture.meta["diffusion"])
    output = image(inputs["model_output"])
    output = output if parameterization.learns_variance else output[..., :3]
    step = process.predict(schedule, parameterization, x, t, output, clip=True)
    guided = classifier.condition_mean(step, gradient)
    score = classifier.condition_score(schedule, x, t, step, gradient)
    ours = {
        "mean_unguided": step.mean,
        "variance": jnp.exp(step.log_variance),
        "p_sample": process.ancestral_step(guided, t, noise),
        "ddim_pred_xstart": score.x0,
    }
    for name in (name for name in out if name.startswith("ddim_sample_eta")):
        eta = parse_eta(name.removeprefix("ddim_sample_eta"))
        ours[name] = process.ddim_step(schedule, x, t, score.x0, noise, eta=eta)
    for name, value in ours.items():
        assert_near(name, nchw(value), out[name], 5e-5)


def parse_eta(digits: str) -> float:
    """DDIM's eta from "0", "1", "0.5" or "05"."""
    if "." in digits or len(digits) == 1:
        return float(digits)
    return float(f"{digits[0]}.{digits[1:]}")


CHECKS = {
    "GaussianDiffusion single-step functions": check_steps,
    "beta schedules and all derived coefficient arrays": check_schedules,
}
# The name of this kind contains an option.
CHECKS |= {
    f"EncoderUNetModel (pool={pool}) + classifier guidance": check_classifier_guidance
    for pool in ("attention", "adaptive", "spatial", "spatial_v2")
}
