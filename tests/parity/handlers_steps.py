"""Whole training steps: losses, outputs, gradients of every net, the state after."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fixture import Fixture, below, nchw, nhwc

from picjax.losses import gaussian
from picjax.methods.picmm import net as models
from picjax.methods.picmm import system as picmm
from picjax.methods.picmm.official import TABLE
from picjax.methods.picnet import system as picnet
from picjax.official import mapping
from picjax.system import Opt, State, init_opt

Names = dict[str, str]  # a net's name in the file -> ours
NETS = {"E": "encoder", "G": "generator", "D": "discriminator", "GMM": "mixture"}
PICNET_NETS = {
    "E": "encoder",
    "G": "generator",
    "D": "discriminator",
    "D_rec": "discriminator_rec",
}


def record() -> optax.GradientTransformation:
    """Keeps the gradients that an optimiser was given in its state."""
    return optax.GradientTransformation(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        update=lambda updates, state, params=None: (updates, updates),
    )


def first_batch(fixture: Fixture) -> dict[str, jax.Array]:
    """The file's images and masks, as ours."""
    image = fixture.inputs["img"] * 2 - 1
    return {
        "image": jnp.asarray(nhwc(image)),
        "mask": jnp.asarray(nhwc(fixture.inputs["mask"][:, :1])),
    }


def first_state(
    fixture: Fixture, names: Names, fresh: State, opts: dict[str, Opt]
) -> State:
    """The state before the step; `fresh` holds its shapes."""
    loaded = {
        ours: mapping.from_official(
            below(fixture.params, f"{theirs}/"),
            {"params": fresh.params[ours], "stats": fresh.stats[ours]},
            TABLE,
        )
        for theirs, ours in names.items()
    }
    params = {net: variables["params"] for net, variables in loaded.items()}
    stats = {net: variables["stats"] for net, variables in loaded.items()}
    return State(jnp.zeros([], jnp.int32), params, stats, init_opt(opts, params), {})


def optimiser(fixture: Fixture) -> optax.GradientTransformation:
    """The file's Adam, which remembers its gradients."""
    return optax.chain(record(), optax.adam(fixture.hyper["lr"], b1=0.0, b2=0.999))


def compiled(step: Any) -> Any:
    """The suite compiles without optimisation, whose order of sums costs the one number
    of attn1.alpha's gradient 1.2e-3 of itself."""
    return jax.jit(step, compiler_options={"xla_backend_optimization_level": 2})


class Case:
    """A fixture's nets, batch and noise, and the state before the step."""

    def __init__(self, fixture: Fixture, **hyper: Any):
        h = fixture.hyper
        size = fixture.inputs["img"].shape[-2:]
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
        self.opts = picmm.optimisers(optimiser(fixture))
        self.batch = first_batch(fixture)
        fresh = jax.eval_shape(
            partial(picmm.init, self.nets, self.opts), jax.random.key(0), self.batch
        )
        self.state = first_state(fixture, NETS, fresh, self.opts)
        eps = jnp.asarray(fixture.inputs["eps_encoder"])
        self.noise = {"encoder": eps, "penalty": jnp.zeros(len(eps))}

    def step(self) -> tuple[State, dict[str, jax.Array]]:
        run = compiled(partial(picmm.step, self.nets, self.opts, self.hyper))
        return run(self.state, self.batch, self.noise)


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


def check_gradients(
    fixture: Fixture, names: Names, opts: dict[str, Opt], state: State
) -> None:
    """What each optimiser was given, against the file's, by official names."""
    owner = {net: name for name, opt in opts.items() for net in opt.nets}
    for theirs, ours in names.items():
        grads = mapping.to_official({"params": state.opt[owner[ours]][0][ours]}, TABLE)
        for name, value in below(fixture.grads, f"{theirs}/").items():
            fixture.assert_grad(f"{theirs}/{name}", grads[name], value)


def check_after(fixture: Fixture, names: Names, state: State) -> None:
    """Parameters and statistics after the step.

    The first Adam step is lr times the sign of the gradient wherever that is more than
    rounding; where it is rounding, two right answers may differ by 2 lr.
    """
    lr, zero = fixture.hyper["lr"], set(fixture.meta["err"]["zero_grads"])
    for theirs, ours in names.items():
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
            check_gradients(fixture, NETS, case.opts, state)
            check_after(fixture, NETS, state)
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
    check_gradients(fixture, NETS, case.opts, state)
    check_after(fixture, NETS, state)
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


# PICNet ------------------------------------------------------------------------------


def picnet_step(fixture: Fixture) -> None:
    """Both strategies of training, every GAN mode: what the file's `hyper` says."""
    h, out = fixture.hyper, fixture.outputs
    layers = h.get("layers", 5)  # at 96 pixels too, where ours would halve 4 times
    width: Any = {"ngf": h["ngf"], "img_f": h["img_f"], "layers": layers}
    judge = models.picnet.ResDiscriminator(
        ngf=h["ndf"], img_f=h["img_f_d"], layers=layers
    )
    nets: dict[str, Any] = {
        "encoder": models.picnet.Encoder(z_nc=h["z_nc"], depth=h["L"], **width),
        "generator": models.picnet.ResGenerator(
            depth=h["LG"], output_scale=h["output_scale"], **width
        ),
        "discriminator": judge,
        "discriminator_rec": judge,
    }
    hyper = picnet.Hyper(
        gan_mode=h["gan_mode"],
        rec=h["lambda_rec"],
        kl=h["lambda_kl"] * h["output_scale"],
        adversarial=h["lambda_g"],
        two_paths=h["train_paths"] == "two",
    )
    opts = picnet.optimisers(optimiser(fixture))
    batch = first_batch(fixture)
    init = partial(picnet.init, nets, opts)
    fresh = jax.eval_shape(init, jax.random.key(0), batch)
    start = first_state(fixture, PICNET_NETS, fresh, opts)
    noise = {n: jnp.asarray(nhwc(fixture.inputs[f"eps_{n}"])) for n in "pq"}
    noise["penalty"] = jnp.asarray(
        fixture.inputs.get("alpha", np.zeros(2 * len(batch["image"]), np.float32))
    )
    state, metrics = compiled(partial(picnet.step, nets, opts, hyper))(
        start, batch, noise
    )
    metrics |= {"img_d": metrics["ad_d"], "img_d_rec": metrics["ad_d_rec"]}
    rtol = fixture.tolerance("losses")
    # The updated discriminators judge. With hinge the gradient of two biases is 0 in
    # exact arithmetic; ours is 1e-9 of rounding, which Adam's first step makes 4e-5.
    judged = {"ad_g": 1e-5, "ad_rec": 1e-5} if h["gan_mode"] == "hinge" else {}
    for name, expected in below(out, "loss_").items():
        if name == "G_total":
            parts = ("kl_rec", "kl_g", "app_rec", "app_g", "ad_g", "ad_rec")
            ours = sum(metrics.get(part, 0.0) for part in parts)
        else:
            ours = metrics.get(name, 0.0)  # one path has no reconstruction to learn
        fixture.assert_close(name, ours, expected, rtol, judged.get(name, 1e-6))
    check_picnet_outputs(fixture, nets, start, batch, noise)
    check_gradients(fixture, PICNET_NETS, opts, state)
    check_after(fixture, PICNET_NETS, state)


def check_picnet_outputs(
    fixture: Fixture, nets: Any, state: State, batch: Any, noise: Any
) -> None:
    """Prior, posterior and images on the way through a step."""
    params, stats = state.params, state.stats
    encoded, _ = picnet.encode(nets, 0.0, params["encoder"], stats, batch)
    images, _ = picnet.generate(
        nets, params["generator"], stats, batch["mask"], encoded, noise
    )
    b = batch["image"].shape[0]
    prior = gaussian.mask_prior_std(batch["mask"])[:, None, None, None]
    ours: dict[str, Any] = {
        "u_m": jnp.zeros_like(encoded.q.mu),
        "sigma_m": jnp.broadcast_to(prior, encoded.q.mu.shape),
        "u_post": encoded.p.mu,
        "sigma_post": encoded.p.std,
        "u_prior": encoded.q.mu,
        "sigma_prior": encoded.q.std,
    }
    for i, image in enumerate(images):
        ours[f"img_rec{i}"], ours[f"img_g{i}"] = image[:b], image[b:]
    atol = fixture.tolerance("outputs")
    for name, expected in fixture.outputs.items():
        if not name.startswith("loss_"):
            fixture.assert_close(name, nchw(ours[name]), expected, 1e-4, atol)


HANDLERS = {
    ("picnet", "train_step_one_hinge"): picnet_step,
    ("picnet", "train_step_two_lsgan"): picnet_step,
    ("picmm", "train_step_official"): official,
    ("picmm", "train_step_corrected"): corrected,
}
