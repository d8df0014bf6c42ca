"""Diffusion: tables, single steps, losses, whole chains and walks, one training step."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fixture import Fixture, below, nchw, nhwc
from handlers_painter import (
    assert_gradients,
    assert_near,
    build_classifier,
    build_unet,
    load_classifier,
    load_unet,
)
from ml_collections import ConfigDict

from picjax.methods.painter import losses
from picjax.methods.painter import process as diffusion
from picjax.methods.painter import resampling as walk
from picjax.methods.painter import system as painter
from picjax.methods.painter.official import UNET
from picjax.methods.painter.process import Kind, Prediction, Tables
from picjax.methods.painter.resampling import Jumps, Seen
from picjax.official.mapping import to_official

KEY = jax.random.key(0)
Arrays = Mapping[str, Any]


def image(x: Any) -> jax.Array:
    return jnp.asarray(nhwc(np.asarray(x, np.float32)))


def stream(x: np.ndarray) -> np.ndarray:
    """n b c h w to n b h w c."""
    return x.transpose(0, 1, 3, 4, 2)


def times(x: Any) -> jax.Array:
    return jnp.asarray(x, jnp.int32)


def assert_within(name: str, actual: Any, expected: Any, atol: float) -> None:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected)
    assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
    error = np.abs(actual - expected).max(initial=0)
    assert error <= atol, f"{name}: off by {error:.3g}, {atol:.3g} is allowed"


def toy(x: jax.Array, t: jax.Array) -> jax.Array:
    """The closed-form network of the README; t on the original scale."""
    t = t.astype(jnp.float32)[:, None, None, None]
    c = jnp.arange(3.0)[None, None, None]
    epsilon = 0.6 * x + 0.1 * jnp.roll(x, 1, 2) + 0.3 * jnp.sin(t / 150 + c)
    return jnp.concatenate([epsilon, 0.5 * jnp.tanh(x) + 0.2 * jnp.cos(t / 300)], -1)


# ---- tables and lists ----

TABLES = {
    "betas": lambda t: t.beta,
    "alphas_cumprod": lambda t: t.abar,
    "alphas_cumprod_prev": lambda t: t.abar_prev,
    "alphas_cumprod_next": lambda t: t.abar_next,
    "sqrt_alphas_cumprod": lambda t: np.sqrt(t.abar),
    "sqrt_one_minus_alphas_cumprod": lambda t: np.sqrt(1 - t.abar),
    "log_one_minus_alphas_cumprod": lambda t: np.log(1 - t.abar),
    "sqrt_recip_alphas_cumprod": lambda t: np.sqrt(1 / t.abar),
    "sqrt_recipm1_alphas_cumprod": lambda t: np.sqrt(1 / t.abar - 1),
    "posterior_variance": lambda t: t.variance,
    "posterior_log_variance_clipped": lambda t: t.log_variance,
    "posterior_mean_coef1": lambda t: t.coef_x0,
    "posterior_mean_coef2": lambda t: t.coef_x,
    "timestep_map": lambda t: t.original,
}


def tables_of(about: Mapping[str, Any]) -> Tables:
    return diffusion.tables(
        about["noise_schedule"],
        about["diffusion_steps"],
        about.get("timestep_respacing", ""),
    )


def schedules(fixture: Fixture) -> None:
    for about in fixture.meta["schedules"]:
        ours = tables_of(about)
        found = below(fixture.outputs, f"{about['key']}/")
        assert found.keys() == TABLES.keys()
        for name, expected in found.items():
            np.testing.assert_allclose(
                TABLES[name](ours), expected, 1e-12, err_msg=f"{about['key']} {name}"
            )


FIELDS = {
    "n_sample": "repeats",
    "jump_length": "length",
    "jump_n_sample": "times",
    "jump2_length": "length2",
    "jump2_n_sample": "times2",
    "jump3_length": "length3",
    "jump3_n_sample": "times3",
    "start_resampling": "start",
    "stop_resampling": "stop",
}


def steps_and_jumps(function: str, params: Mapping[str, Any]) -> tuple[int, Jumps]:
    """A list's parameters, with the defaults of the function that made it."""
    defaults: dict[str, Any] = {"paper": {"t_T": 250}, "ip": {"t_T": 250}}.get(
        function, {}
    )
    defaults |= {"jump": {}, "paper": {"jump_length": 10, "jump_n_sample": 10}}.get(
        function, {"jump_length": 10, "jump_n_sample": 2}
    )
    given = defaults | dict(params)
    steps = given.pop("t_T")
    single = {"jump_length": 1, "jump_n_sample": 1}
    return steps, Jumps(**{FIELDS[name]: x for name, x in (single | given).items()})


def resampling_schedules(fixture: Fixture) -> None:
    for about in fixture.meta["cases"]:
        # The original never calls `simple`, which begins one step above the tables.
        if about["function"] == "simple":
            continue
        given = steps_and_jumps(about["function"], about["params"])
        expected = fixture.outputs[about["key"]].tolist()
        assert walk.visits(*given) == expected, about["key"]
        plan = walk.plan(*given)
        assert plan.calls == about["network_evaluations"], about["key"]
        assert plan.steps_back == about["forward_steps"], about["key"]


# ---- single steps ----


def steps(fixture: Fixture) -> None:
    tables, given = tables_of(fixture.meta), fixture.inputs
    t = times(given["t"])
    x0, x, noise, gradient = (
        image(given[name]) for name in ("x_start", "x_t", "noise", "guidance_grad")
    )
    output = image(given["model_output"])
    first, zero = output[..., :3], jnp.zeros_like(x0)
    look = partial(diffusion.at, t=t)
    ours: dict[str, Any] = {
        "q_mean": diffusion.q_sample(tables, x0, t, zero),
        "q_variance": look(1 - tables.abar) + zero,
        "q_log_variance": look(np.log(1 - tables.abar)) + zero,
        "q_sample": diffusion.q_sample(tables, x0, t, noise),
        "posterior_mean": diffusion.posterior_mean(tables, x0, x, t),
        "posterior_variance": look(tables.variance) + zero,
        "posterior_log_variance_clipped": look(tables.log_variance) + zero,
        "predict_xstart_from_eps": diffusion.x0_from_epsilon(tables, x, t, first),
        "predict_xstart_from_xprev": diffusion.x0_from_previous(tables, x, t, first),
        "predict_eps_from_xstart": diffusion.epsilon_from_x0(tables, x, t, x0),
    }

    def predicted(name: str) -> Prediction:
        mean, variance, clip = name.split(".")[:3]
        kind = Kind(mean, variance)
        seen = output if kind.learned else first
        return diffusion.predict(tables, kind, x, t, seen, clip == "clip")

    for name in fixture.outputs:
        part, _, rest = name.partition(".")
        if not rest:
            continue
        step, field = predicted(rest), rest.split(".", 3)[-1]
        score = diffusion.guide_score(tables, x, t, step, gradient)
        guided = diffusion.guide_mean(step, gradient)
        if part == "p":
            ours[name] = {
                "mean": step.mean,
                "log_variance": step.log_variance,
                "variance": jnp.exp(step.log_variance),
                "pred_xstart": step.x0,
                "p_sample": diffusion.ancestral(step, t, noise),
            }[field]
        elif part == "ddim":
            eta = float(field.removeprefix("eta"))
            ours[name] = diffusion.ddim(tables, x, t, step.x0, eta, noise)
        elif part == "condition_score":
            ours[name] = {"pred_xstart": score.x0, "mean": score.mean}[field]
        else:
            ours[name] = {
                "ddim_reverse": diffusion.ddim_reverse(tables, x, t, step.x0),
                "condition_mean": guided.mean,
                "guided_p_sample": diffusion.ancestral(guided, t, noise),
            }[part]
    assert ours.keys() == fixture.outputs.keys()
    for name, expected in fixture.outputs.items():
        assert_near(name, nchw(ours[name]), expected, 1e-5)


def classifier_guidance(fixture: Fixture) -> None:
    """Logits, their gradient, and both ways of following it."""
    given, out = fixture.inputs, fixture.outputs
    words = fixture.meta["diffusion"].split(",")[0].split()
    tables = diffusion.tables(words[0], int(words[1]), words[-1])
    t = times(given["t"])
    original = times(tables.original)[t]
    np.testing.assert_array_equal(original, out["t_model"])
    x, y = image(given["x"]), times(given["y"])
    net = build_classifier(fixture.hyper)
    adaptive = below(fixture.params, "adaptive_pool.")
    whole = {n: p for n, p in fixture.params.items() if n[:8] != "adaptive"}
    variables = load_classifier(net, whole, x, original)
    logits = jax.jit(net.apply)(variables, x, original)
    assert_near("logits", logits, out["logits"], 1e-5)
    scale = fixture.meta["classifier_scale"]
    sampler = painter.Sampler(tables, walk.plan(2, Jumps()), None, -1, scale)
    nets: dict[str, Any] = {"classifier": net}
    params = {"classifier": variables["params"]}
    gradient = painter.guide(nets, sampler, params, y)
    assert gradient is not None
    gradient = jax.jit(gradient)(x, original)
    assert_near("gradient", nchw(gradient), out["guidance_grad"], 5e-5)
    output, noise = image(given["model_output"]), image(given["noise"])
    step = diffusion.predict(tables, Kind(), x, t, output, True)
    guided = diffusion.guide_mean(step, gradient)
    score = diffusion.guide_score(tables, x, t, step, gradient)
    ours = {
        "mean_unguided": step.mean,
        "variance": jnp.exp(step.log_variance),
        "p_sample": diffusion.ancestral(guided, t, noise),
        "ddim_sample_eta0": diffusion.ddim(tables, x, t, score.x0, 0.0, noise),
        "ddim_pred_xstart": score.x0,
    }
    for name, value in ours.items():
        assert_near(name, nchw(value), out[name], 5e-5)
    if adaptive:
        # The same torso under another head.
        net = build_classifier({**fixture.hyper, "pool": "adaptive"})
        shared = {n: p for n, p in whole.items() if not n.startswith("out.")}
        variables = load_classifier(net, shared | adaptive, x, original)
        logits = jax.jit(net.apply)(variables, x, original)
        assert_near("adaptive", logits, out["logits_adaptive_pool"], 1e-5)


# ---- losses ----


def losses_of_steps(fixture: Fixture) -> None:
    given, out, meta = fixture.inputs, fixture.outputs, fixture.meta
    near = partial(assert_near, share=2e-5)
    names = "kl.mean1", "kl.logvar1", "kl.mean2", "kl.logvar2"
    mean_p, log_var_p, mean_q, log_var_q = (jnp.asarray(given[n]) for n in names)
    kl = losses.normal_kl(mean_p, log_var_p, mean_q, log_var_q)
    near("kl", kl, out["normal_kl"])
    zero = jnp.zeros_like(mean_p)
    kl = losses.normal_kl(mean_p, log_var_p, zero, zero)
    near("kl to N(0, 1)", kl, out["normal_kl_vs_std"])
    cdf = jax.jit(losses.normal_cdf)(jnp.asarray(given["cdf.x"]))
    near("cdf", cdf, out["approx_standard_normal_cdf"])
    x0, noise = image(given["x_start"]), image(given["noise"])
    means, scales = image(given["dgl.means"]), image(given["dgl.log_scales"])
    likelihood = jax.jit(losses.discretised_log_likelihood)(x0, means, scales)
    wanted = out["discretized_gaussian_log_likelihood"]
    near("likelihood", nchw(likelihood), wanted)

    output = image(given["model_output"])
    for name in below(out, ""):
        case, _, term = name.rpartition(".")
        if term == "loss":
            check_losses(fixture, case, x0, noise, output)
    for name in {key.split(".")[0] for key in out if key.endswith(".x_t")}:
        tables = chain(meta, name)
        t = times(given[f"{name}.t"])
        x = diffusion.q_sample(tables, x0, t, noise)
        near(f"x_t {name}", nchw(x), out[f"{name}.x_t"])
        for combo, (mean, variance, _) in meta["combos"].items():
            kind = Kind(mean.lower(), variance.lower())
            if f"prior_bpd.{combo}.{name}" not in out:
                continue
            prior = losses.prior_bits(tables, x0)
            near("prior", prior, out[f"prior_bpd.{combo}.{name}"])
            for word in ("clip", "noclip"):
                given_all = tables, kind, x0, x, t
                term = partial(losses.bound_term, *given_all, clip=word == "clip")
                bits, _ = jax.jit(term)(output=output)
                near(word, bits, out[f"vb_terms_bpd.{combo}.{name}.{word}"])
    given_noise = stream(given["bpd.noise"])
    tables = diffusion.tables(
        meta["noise_schedule"], meta["diffusion_steps"], str(len(given_noise))
    )
    images = x0[: given_noise.shape[1]]
    bound = losses.bound(tables, Kind(), toy, images, jnp.asarray(given_noise))
    for name, field in BOUND.items():
        near(name, getattr(bound, field), out[f"bpd.{name}"])


BOUND = {
    "total_bpd": "total",
    "prior_bpd": "prior",
    "vb": "vb",
    "xstart_mse": "x0_mse",
    "mse": "mse",
}


def chain(meta: Mapping[str, Any], name: str) -> Tables:
    """`full` or `resp250`."""
    spacing = "" if name == "full" else name.removeprefix("resp")
    return diffusion.tables(meta["noise_schedule"], meta["diffusion_steps"], spacing)


def check_losses(
    fixture: Fixture, case: str, x0: jax.Array, noise: jax.Array, output: jax.Array
) -> None:
    """Every term of a combination, and the gradient of its mean loss."""
    combo, name = case.split(".")
    mean, variance, loss = (x.lower() for x in fixture.meta["combos"][combo])
    kind, tables = Kind(mean, variance), chain(fixture.meta, name)
    t = times(fixture.inputs[f"{case}.t"])
    output = output if kind.learned else output[..., :3]
    x = diffusion.q_sample(tables, x0, t, noise)

    def mean_loss(output: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        each = losses.step_losses(tables, kind, loss, x0, x, t, noise, output)
        return each["loss"].mean(), each

    grad, each = jax.jit(jax.grad(mean_loss, has_aux=True))(output)
    for term, value in below(fixture.outputs, f"{case}.").items():
        assert_near(f"{case} {term}", each[term], value, 2e-5)
    expected = fixture.grads[f"{case}.model_output"]
    grad = np.asarray(nchw(grad))
    # A fixed variance's half of the output is not there to have a gradient.
    assert_near(f"{case} gradient", grad, expected[:, : grad.shape[1]], 2e-4)
    assert not np.any(expected[:, grad.shape[1] :])


# ---- training ----


def train_step_unet(fixture: Fixture) -> None:
    """The weighted hybrid loss and its gradient in every parameter."""
    given, out = fixture.inputs, fixture.outputs
    tables = tables_of(fixture.meta)
    t = times(given["t"])
    x0, noise = image(given["x_start"]), image(given["noise"])
    net = build_unet(fixture.hyper)
    params = load_unet(net, fixture.params, x0, t)["params"]
    loss = fixture.meta["loss_type"].lower()
    learned = fixture.hyper["out_channels"] == 6
    kind = Kind("epsilon", "learned_range" if learned else "fixed_large")

    def total(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        network = painter.look(net, params, None)
        x, output = painter.noised(network, tables, x0, t, noise)
        each = losses.step_losses(tables, kind, loss, x0, x, t, noise, output)
        return (each["loss"] * given["weights"]).mean(), each

    grad = jax.jit(jax.value_and_grad(total, has_aux=True))
    (scalar, each), grads = grad(params)
    assert_near("loss", scalar, out["loss_scalar"], 1e-5)
    for term in ("loss", "mse", "vb"):
        assert_near(term, each[term], out[term], 1e-5)
    ours = to_official({"params": grads}, UNET)
    assert_gradients(fixture, "", ours, 5e-5)
    norm = optax.tree.norm(grads)
    assert_near("norm of the gradient", norm, out["grad_norm"], 5e-5)


def train_utils(fixture: Fixture) -> None:
    """Which steps are trained, and AdamW with its late rate and its averages."""
    given, out, meta = fixture.inputs, fixture.outputs, fixture.meta
    count = meta["num_timesteps"]
    with jax.enable_x64():
        exactly = partial(np.testing.assert_allclose, rtol=1e-12)
        history = losses.no_history(count, meta["history_per_term"])
        chances = partial(losses.probabilities, uniform=meta["uniform_prob"])
        flat = np.full(count, 1 / count)
        exactly(chances(history), flat)
        cold = out["lsm.weights_cold"]
        exactly(cold / cold.sum(), flat)
        for t, loss, expected in zip(
            given["lsm.ts"], given["lsm.losses"], out["lsm.weights"], strict=True
        ):
            history = losses.remember(history, times(t), jnp.asarray(loss))
            exactly(chances(history), expected / expected.sum())
        exactly(history.losses, out["lsm.history"])
        np.testing.assert_array_equal(history.seen, out["lsm.counts"])
        exactly(chances(history), out["lsm.p"])
        t, weights = losses.draw_steps(KEY, chances(history), 64)
        exactly(weights, out["lsm.importance_weights"][t])
        assert set(np.asarray(t)) == set(range(count))

    assert not meta["resume_step"]  # the rate follows the optimiser's own count
    opt = {"decay": 1.0, "b1": 0.9, "b2": 0.999, "accumulate": 1}
    config = ConfigDict({"steps": meta["lr_anneal_steps"], "opt": opt})
    tx = painter.adamw(config, meta["lr"], meta["weight_decay"])
    params = {name: given[f"opt.{name}"] for name in ("p0", "p1")}
    averages = [params] * len(meta["ema_rates"])
    state = tx.init(params)
    for i in range(len(out["opt.lr_used"])):
        grads = {f"p{j}": given[f"opt.g{j}.step{i}"] for j in (0, 1)}
        updates, state = tx.update(grads, state, params)
        params: Any = optax.apply_updates(params, updates)
        averages = [
            painter.average(rate, mean, params)
            for rate, mean in zip(meta["ema_rates"], averages, strict=True)
        ]
        for name, value in params.items():
            assert_within(name, value, out[f"opt.{name}.step{i}"], 1e-6)
            for k, mean in enumerate(averages):
                expected = out[f"opt.ema{k}.{name}.step{i}"]
                assert_within(f"average of {name}", mean[name], expected, 1e-6)


# ---- whole chains ----


def everything(seen: Seen) -> Seen:
    return seen


def assert_chain(
    name: str, ours: Any, expected: np.ndarray, late: float, early: int
) -> None:
    """The first `early` calls to 2e-5, all to `late`."""
    found = np.asarray(ours).transpose(0, 1, 4, 2, 3)
    assert_within(f"first {name}", found[:early], expected[:early], 2e-5)
    assert_within(name, found, expected, late)


def sampling_loops_toy(fixture: Fixture) -> None:
    """Unconditional chains: ancestral, DDIM, DDIM with noise."""
    for case in {name.split(".")[0] for name in fixture.inputs}:
        given = stream(fixture.inputs[f"{case}.noise"])
        kind, _, eta = case.partition("_eta")
        length = str(len(given) - 1)
        # "ddim25_eta0" is spaced "ddim25", "ddim20_eta05" is spaced "20".
        spacing = kind if eta == "0" else length
        tables = diffusion.tables("linear", 1000, spacing)
        expected = fixture.outputs[f"{case}.timestep_map"]
        np.testing.assert_array_equal(tables.original, expected)
        plan = walk.plan(tables.steps, Jumps(times=1))
        start, draw = walk.given_noise(tables, plan, given, known=False)
        nothing = jnp.zeros_like(start)
        value = None if kind.startswith("anc") else float(f"{eta[0]}.{eta[1:] or 0}")
        _, seen = walk.run(
            toy,
            tables,
            plan,
            Kind(),
            start,
            nothing,
            nothing,
            draw,
            eta=value,
            watch=everything,
        )
        for name, found in (("samples", seen.after), ("pred_xstart", seen.x0)):
            expected = fixture.outputs[f"{case}.{name}"]
            assert_chain(f"{case} {name}", found, expected, 2e-5, 0)


def check_walk(
    network: Any,
    about: Mapping[str, Any],
    given: Arrays,
    out: Arrays,
    late: float,
    early: int,
) -> None:
    """A completion with a given stream of noise, every stored call of it.

    `early`: how many calls count as the first.
    """
    total, jumps = steps_and_jumps(about["schedule"], about["params"])
    tables = diffusion.tables("linear", 1000, str(total))
    assert walk.visits(total, jumps) == given["times"].tolist()
    plan = walk.plan(total, jumps)
    noise = stream(given["noise"])
    start, draw = walk.given_noise(tables, plan, noise)
    truth, known = image(given["gt"]), image(given["mask"])

    def complete(composite: bool) -> Any:
        return walk.run(
            network,
            tables,
            plan,
            Kind(),
            start,
            truth,
            known,
            draw,
            composite=composite,
            watch=everything,
        )

    final, seen = jax.jit(partial(complete, False))()
    each = int(out.get("sample_every", 1))
    for name, found in (("model_in", seen.before), ("samples", seen.after)):
        assert_chain(name, found[::each], out[name], late, early // each)
    # From nearly pure noise, a network's rounding comes a hundred times larger.
    assert_chain("pred_xstart", seen.x0[::each], out["pred_xstart"], late, 0)
    assert_within("final", nchw(final), out["final"], late)
    check_undo(tables, given, out)
    if "final_uint8_nhwc" in out:
        levels = np.trunc(np.clip((np.asarray(final) + 1) * 127.5, 0, 255))
        np.testing.assert_array_equal(levels, out["final_uint8_nhwc"])
        masked = truth * known - (1 - known)
        levels = np.trunc(np.clip((np.asarray(masked) + 1) * 127.5, 0, 255))
        np.testing.assert_array_equal(levels, out["masked_input_uint8_nhwc"])


def check_undo(tables: Tables, given: Arrays, out: Arrays) -> None:
    """Each step back on its own, where the file has all of them."""
    if "undo" not in out:
        return
    visited = given["times"]
    ups = np.flatnonzero(np.diff(visited) > 0)
    np.testing.assert_array_equal(visited[ups + 1], out["undo_beta_index"])
    kinds = given["noise_kind"]
    noises = given["noise"][kinds == 3]
    for i, (place, noise) in enumerate(zip(ups, noises, strict=True)):
        down = int((np.diff(visited[: place + 1]) < 0).sum()) - 1
        before = out["undo"][i - 1] if place - 1 in ups else out["samples"][down]
        t = times(np.full(len(before), visited[place + 1]))
        x = diffusion.undo(tables, image(before), t, image(noise))
        assert_within(f"undo {i}", nchw(x), out["undo"][i], 1e-6)


def repaint_toy_full(fixture: Fixture) -> None:
    for about in fixture.meta["runs"]:
        prefix = f"{about['key']}."
        given, out = below(fixture.inputs, prefix), below(fixture.outputs, prefix)
        check_walk(toy, about, given, out, 1e-4, 100)


def walk_of_unet(fixture: Fixture) -> None:
    given, out, meta = fixture.inputs, fixture.outputs, fixture.meta
    net = build_unet(fixture.hyper)
    x = image(given["gt"])
    params = load_unet(net, fixture.params, x, jnp.zeros(len(x), jnp.int32))["params"]
    about = {"schedule": meta["schedule"], "params": meta["schedule_params"]}
    check_walk(painter.look(net, params, None), about, given, out, 2e-4, 5)


STEMS: dict[str, Callable[[Fixture], None]] = {
    "schedules": schedules,
    "resampling_schedules": resampling_schedules,
    "classifier_guidance": classifier_guidance,
    "losses": losses_of_steps,
    "train_utils": train_utils,
    "train_step_unet": train_step_unet,
    "sampling_loops_toy": sampling_loops_toy,
    "repaint_toy_full": repaint_toy_full,
    "repaint_unet_tiny": walk_of_unet,
    "ip_unet_tiny": walk_of_unet,
    "steps_linear1000": steps,
    "steps_linear1000_250": steps,
    "steps_cosine1000_100": steps,
}
HANDLERS = {("diffusion", stem): handler for stem, handler in STEMS.items()}
