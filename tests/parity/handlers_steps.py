"""Whole training steps: losses, outputs, gradients of every net, the state after."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fixture import Fixture, below, nchw, nhwc

from picjax.losses import gaussian
from picjax.models import picmm as models
from picjax.official import mapping
from picjax.official.picmm import TABLE
from picjax.system import State, init_opt
from picjax.systems import picmm

NETS = {"E": "encoder", "G": "generator", "D": "discriminator", "GMM": "mixture"}


def record() -> optax.GradientTransformation:
    """Keeps the gradients that an optimiser was given in its state."""
    return optax.GradientTransformation(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        update=lambda updates, state, params=None: (updates, updates),
    )


class Case:
    """A fixture's nets, batch and noise, and the state before the step."""

    def __init__(self, fixture: Fixture, **hyper: Any):
        h = fixture.hyper
        image = fixture.inputs["img"] * 2 - 1
        size = image.shape[-2:]
        layers = models.picnet.halvings(size)
        grid: Any = {"layers": layers, "poolings": models.picnet.poolings(size)}
        width: Any = {"ngf": h["ngf"], "img_f": h["img_f"]}
        self.nets = {
            "encoder": models.Encoder(**width, **grid),
            "generator": models.Generator(
                **width, **grid, output_scale=h["output_scale"]
            ),
            "discriminator": models.Discriminator(
                ngf=h["ndf"], img_f=h["img_f_d"], layers=layers
            ),
            "mixture": models.DynamicGMM(k=h["k"]),
        }
        self.hyper = picmm.Hyper(
            gan_mode=h["gan_mode"],
            rec=h["lambda_rec"],
            adversarial=h["lambda_g"],
            clamp=(),
            **hyper,
        )
        tx = optax.chain(record(), optax.adam(h["lr"], b1=0.0, b2=0.999))
        self.opts = picmm.optimisers(tx)
        self.batch = {
            "image": jnp.asarray(nhwc(image)),
            "mask": jnp.asarray(nhwc(fixture.inputs["mask"][:, :1])),
        }
        fresh = jax.eval_shape(
            partial(picmm.init, self.nets, self.opts), jax.random.key(0), self.batch
        )
        loaded = {
            ours: mapping.from_official(
                below(fixture.params, f"{theirs}/"),
                {"params": fresh.params[ours], "stats": fresh.stats[ours]},
                TABLE,
            )
            for theirs, ours in NETS.items()
        }
        params = {
            net: jax.tree.map(jnp.asarray, v["params"]) for net, v in loaded.items()
        }
        stats = {
            net: jax.tree.map(jnp.asarray, v["stats"]) for net, v in loaded.items()
        }
        zero = jnp.zeros([], jnp.int32)
        self.state = State(zero, params, stats, init_opt(self.opts, params), {})
        eps = jnp.asarray(fixture.inputs["eps_encoder"])
        self.noise = {"encoder": eps, "penalty": jnp.zeros(len(eps))}

    def step(self) -> tuple[State, dict[str, jax.Array]]:
        run = partial(picmm.step, self.nets, self.opts, self.hyper)
        # The suite compiles without optimisation, whose order of sums costs the one
        # number of attn1.alpha's gradient 1.2e-3 of itself.
        options = {"xla_backend_optimization_level": 2}
        step = jax.jit(run, compiler_options=options)
        return step(self.state, self.batch, self.noise)


def check_losses(fixture: Fixture, metrics: dict[str, jax.Array]) -> None:
    rtol = fixture.tolerance("losses")
    for name in ("rec", "ad_g", "ad_d", "freq", "bm"):
        expected = fixture.outputs[f"loss_{name}"]
        fixture.assert_close(name, metrics[name], expected, rtol, 1e-6)


def check_outputs(fixture: Fixture, case: Case, rule: str) -> None:
    """The latents, the chosen component and the images on the way through a step."""
    state, noise = case.state, case.noise
    encoded, _ = picmm.encode(
        case.nets, state.params["encoder"], state.stats, case.batch, noise["encoder"]
    )
    mixture, _ = picmm.mix(
        case.nets, case.hyper, state.params["mixture"], state.stats, encoded
    )
    z_hat = gaussian.sample(mixture, noise["components"])
    j = gaussian.SELECTION[rule](mixture, encoded.q_c, encoded.z_c, z_hat)
    chosen = gaussian.take(z_hat, j)
    images, _ = picmm.generate(
        case.nets,
        state.params["generator"],
        state.stats,
        case.batch["mask"],
        encoded,
        chosen,
    )
    b = case.batch["image"].shape[0]
    ours: dict[str, Any] = {
        "z_m": encoded.z_m,
        "z_c": encoded.z_c,
        "z_c_mu": encoded.q_c.mu,
        "z_c_logsigma": encoded.q_c.log_std,
        "alpha": jnp.exp(mixture.log_alpha),
        "mu_hat": mixture.mu,
        "logsigma_hat": mixture.log_std,
        "z_hat_all": z_hat,
        "j": j,
    }
    for i, image in enumerate(images):
        ours[f"img_g{i}"], ours[f"img_g_hat{i}"] = nchw(image[:b]), nchw(image[b:])
    atol = fixture.tolerance("outputs")
    for name, expected in fixture.outputs.items():
        if not name.startswith("loss_"):
            fixture.assert_close(name, ours[name], expected, 1e-4, atol)


def check_gradients(fixture: Fixture, state: State) -> None:
    """What each optimiser was given, against the file's, by official names."""
    for theirs, ours in NETS.items():
        expected = below(fixture.grads, f"{theirs}/")
        optimiser = {"encoder": "generator"}.get(ours, ours)
        grads = mapping.to_official({"params": state.opt[optimiser][0][ours]}, TABLE)
        for name, value in expected.items():
            fixture.assert_grad(f"{theirs}/{name}", grads[name], value)


def check_after(fixture: Fixture, case: Case, state: State) -> None:
    """Parameters and statistics after the step.

    The first Adam step is lr times the sign of the gradient wherever that is more than
    rounding; where it is rounding, two right answers may differ by 2 lr.
    """
    lr, zero = fixture.hyper["lr"], set(fixture.meta["err"]["zero_grads"])
    for theirs, ours in NETS.items():
        variables = {"params": state.params[ours], "stats": state.stats[ours]}
        after = mapping.to_official(variables, TABLE)
        for name, expected in below(fixture.after, f"{theirs}/").items():
            full = f"grad/{theirs}/{name}"
            if full in zero:
                continue
            grad = fixture.raw.get(full)
            sure = np.abs(grad) > 1e-5 if grad is not None else np.ones(expected.shape)
            allowed = np.where(sure, 2e-6, 2 * lr) + 1e-5 * np.abs(expected)
            error = np.abs(np.asarray(after[name], np.float64) - expected)
            assert np.all(error <= allowed), (theirs, name, error.max())


def corrected(fixture: Fixture) -> None:
    """The repaired step, in both directions of the component's loss."""
    for loss, suffix in (
        ("component_to_posterior", ""),
        ("posterior_to_component", "_posterior_to_component"),
    ):
        case = Case(fixture, loss=loss)
        case.noise["components"] = jnp.asarray(fixture.inputs["eps_components"])
        state, metrics = case.step()
        if not suffix:
            check_losses(fixture, metrics)
            check_outputs(fixture, case, "sampled")
            check_gradients(fixture, state)
            check_after(fixture, case, state)
            continue
        expected = fixture.outputs[f"loss_bm{suffix}"]
        fixture.assert_close(f"bm{suffix}", metrics["bm"], expected, 1e-5, 1e-6)
        grads = mapping.to_official(
            {"params": state.opt["mixture"][0]["mixture"]}, TABLE
        )
        for name, value in below(fixture.grads, f"GMM{suffix}/").items():
            fixture.assert_grad(f"GMM{suffix}/{name}", grads[name], value)


def official(fixture: Fixture) -> None:
    """The step as the official code runs it: the mixture's parameters stay."""
    case = Case(
        fixture, select="official", loss="published", trained=False, extra_calls=True
    )
    b, d = fixture.inputs["eps_hat"].shape
    eps = jnp.asarray(fixture.inputs["eps_hat"])[:, None]
    case.noise["components"] = jnp.broadcast_to(eps, (b, fixture.hyper["k"], d))
    state, metrics = case.step()
    check_losses(fixture, metrics)
    check_outputs(fixture, case, "official")
    check_gradients(fixture, state)
    check_after(fixture, case, state)
    check_gradient_that_is_lost(fixture, case, state)


def check_gradient_that_is_lost(fixture: Fixture, case: Case, after: State) -> None:
    """What reaches the mixture through z_hat, and is wiped before its own step."""
    start = case.state
    encoded, _ = picmm.encode(
        case.nets,
        start.params["encoder"],
        start.stats,
        case.batch,
        case.noise["encoder"],
    )
    judged = start.replace(params=after.params)

    def loss(params):
        mixture, _ = picmm.mix(case.nets, case.hyper, params, start.stats, encoded)
        z_hat = gaussian.sample(mixture, case.noise["components"])
        j = gaussian.SELECTION["official"](mixture, encoded.q_c, encoded.z_c, z_hat)
        images, _ = picmm.generate(
            case.nets,
            start.params["generator"],
            start.stats,
            case.batch["mask"],
            encoded,
            gaussian.take(z_hat, j),
        )
        value, _ = picmm.generator_loss(
            case.nets, case.hyper, judged, case.batch, images, encoded
        )
        return value

    grads = jax.jit(jax.grad(loss))(start.params["mixture"])
    ours = mapping.to_official({"params": grads}, TABLE)
    for name, value in below(fixture.grads, "GMM_via_generator_loss/").items():
        fixture.assert_grad(f"GMM_via_generator_loss/{name}", ours[name], value)


HANDLERS = {
    ("picmm", "train_step_official"): official,
    ("picmm", "train_step_corrected"): corrected,
}
