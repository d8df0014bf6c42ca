"""A whole training step of PICMM: losses, outputs, gradients, the state after."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nchw
from vae_gan import (
    KEY,
    Compile,
    check_update,
    discriminator,
    first_batch,
    first_state,
    in_either_order,
    recording_adam,
)

from picjax.layers.interleave import separate
from picjax.methods.picmm import mixture as mixtures
from picjax.methods.picmm.official import TABLE
from picjax.methods.picmm.system import OWNED, PICMM, Outputs
from picjax.methods.vae_gan import optimisers
from picjax.official.mapping import to_official
from picjax.system import Batch, State

NETS = {"E": "encoder", "G": "generator", "D": "discriminator", "GMM": "mixture"}
TABLES = dict.fromkeys(NETS, TABLE)
# The official step, and the corrected one in both directions of the component's loss.
OFFICIAL: dict[str, Any] = {
    "assignment": "official",
    "component_loss": "published",
    "train_mixture": False,
    "extra_calls": True,
}
CORRECTED: dict[str, Any] = {
    "assignment": "sampled",
    "component_loss": "component_to_posterior",
    "train_mixture": True,
    "extra_calls": False,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Pinned(PICMM):
    """PICMM with the file's noise."""

    noise: Mapping[str, Any]

    def draw_noise(self, state: State, batch: Batch, key: Any) -> dict[str, Any]:
        return dict(self.noise)


def noise_of(fixture: Fixture, k: int) -> dict[str, jax.Array]:
    """The file's noise; the official code draws one component, already assigned."""
    inputs = fixture.inputs
    encoder = jnp.asarray(inputs["eps_encoder"])
    if "eps_components" in inputs:
        components = jnp.asarray(inputs["eps_components"])
    else:
        b, d = inputs["eps_hat"].shape
        components = jnp.broadcast_to(
            jnp.asarray(inputs["eps_hat"])[:, None], (b, k, d)
        )
    alphas = [x.reshape(-1) for n, x in sorted(inputs.items()) if n.startswith("alpha")]
    penalty = np.concatenate(alphas) if alphas else np.zeros(len(encoder), np.float32)
    return {
        "encoder": encoder.reshape(2, -1, encoder.shape[-1]),
        "components": components,
        "penalty": jnp.asarray(penalty).reshape(2, -1),
    }


def make_system(
    fixture: Fixture,
    make_encoder: Callable,
    make_generator: Callable,
    make_mixture: Callable,
) -> Pinned:
    """The file's networks and weights of losses, with the corrected step's choices."""
    h = fixture.hyper
    params = {net: below(fixture.params, f"{net}/") for net in NETS}
    size = fixture.inputs["img"].shape[2:]
    encoder = make_encoder(params["E"], size, "encoder")
    coarse = size[0] >> encoder.layers, size[1] >> encoder.layers
    flat = params["E"]["down_fc.0.weight"].shape[0]
    mixture = make_mixture(params["GMM"], "mixture")
    return Pinned(
        encoder=encoder,
        generator=make_generator(params["G"], coarse, flat, "generator"),
        discriminator=discriminator(params["D"], "discriminator"),
        mixture=mixture,
        opts=optimisers(recording_adam(fixture), **OWNED),
        gan_mode=h["gan_mode"],
        rec_weight=float(h["lambda_rec"]),
        adversarial_weight=float(h["lambda_g"]),
        kl_weight=float(h.get("lambda_kl", 0.0)),
        fill=False,
        condition="sample",
        weight_loss="frequency",
        clamp=(),
        hole_weight=0.0,
        prior_weight=0.0,
        temperature=1.0,
        least_weight=0.0,
        noise=noise_of(fixture, mixture.k),
        **CORRECTED,
    )


def check_step(fixture: Fixture, **make: Callable) -> None:
    """The step as the official code runs it, or corrected, by the noise in the file."""
    system = make_system(fixture, **make)
    official = "eps_hat" in fixture.inputs
    if official:
        system = dataclasses.replace(system, **OFFICIAL)
    in_either_order(lambda compiled: check_run(fixture, system, compiled))


def check_run(fixture: Fixture, system: Pinned, compiled: Compile) -> None:
    """Losses, outputs, gradients and the state after, of one program."""
    start = first_state(fixture, NETS, system, TABLES)
    batch = first_batch(fixture)

    @compiled
    def run(start: State, batch: Batch) -> Any:
        forward = system.forward(start.params, start.stats, batch, system.noise)
        return system.step(start, batch, KEY), forward

    (state, metrics), (out, (j, _)) = run(start, batch)
    check_losses(fixture, metrics)
    check_outputs(fixture, system, out, j)
    check_update(fixture, NETS, system, TABLES, lambda b: run(start, b)[0][0])
    if below(fixture.grads, "GMM_via_generator_loss/"):
        check_lost_gradient(fixture, system, start, state)
    if "loss_bm_posterior_to_component" in fixture.outputs:
        check_other_direction(fixture, system, start, compiled)


def check_losses(fixture: Fixture, metrics: Mapping[str, jax.Array]) -> None:
    rtol = fixture.tolerance("losses")
    for name in ("rec", "ad_g", "ad_d", "freq", "bm"):
        expected = fixture.outputs[f"loss_{name}"]
        fixture.assert_close(name, metrics[name], expected, rtol, 1e-6)


def check_outputs(fixture: Fixture, system: Pinned, out: Outputs, j: Any) -> None:
    """The latents, the assigned component and the images of the forward pass."""
    latents = out.latents
    ours: dict[str, Any] = {
        "z_m": latents.z_m,
        "z_c": latents.z_c,
        "z_c_mu": latents.q_c.mu,
        "z_c_logsigma": latents.q_c.log_std,
        "alpha": jnp.exp(out.mixture.log_alpha),
        "mu_hat": out.mixture.mu,
        "logsigma_hat": out.mixture.log_std,
        "z_hat_all": mixtures.sample(out.mixture, system.noise["components"]),
        "j": j,
    }
    for i, image in enumerate(out.images):
        ours[f"img_g{i}"], ours[f"img_g_hat{i}"] = map(nchw, separate(image, 2))
    atol = fixture.tolerance("outputs")
    for name, expected in fixture.outputs.items():
        if not name.startswith("loss_"):
            fixture.assert_close(name, ours[name], expected, 1e-4, atol)


def check_other_direction(
    fixture: Fixture, system: Pinned, start: State, compiled: Compile
) -> None:
    """The corrected step with KL(posterior || component): its loss and gradient."""
    suffix = "_posterior_to_component"
    system = dataclasses.replace(system, component_loss=suffix[1:])
    state, metrics = compiled(system.step)(start, first_batch(fixture), KEY)
    expected = fixture.outputs[f"loss_bm{suffix}"]
    fixture.assert_close(f"bm{suffix}", metrics["bm"], expected, 1e-5, 1e-6)
    grads = to_official({"params": state.opt["mixture"][0]["mixture"]}, TABLE)
    for name, value in below(fixture.grads, f"GMM{suffix}/").items():
        fixture.assert_grad(f"GMM{suffix}/{name}", grads[name], value)


def check_lost_gradient(
    fixture: Fixture, system: Pinned, start: State, after: State
) -> None:
    """The gradient that reaches the official mixture through z_hat and is then wiped."""
    batch, noise = first_batch(fixture), system.noise
    updated = start.replace(params=after.params)

    def loss(mixture_params: Any) -> jax.Array:
        params = start.params | {"mixture": mixture_params}
        latents, visible, stats = system.encode(
            params, start.stats, batch, noise["encoder"]
        )
        mixture, stats = system.mix(params, stats, latents)
        z_hat, _ = system.assign(mixture, latents, noise["components"])
        images, _ = system.generate(params, stats, latents, z_hat, visible)
        return system.generator_loss(updated, batch, images, latents)[0]

    grads = jax.jit(jax.grad(loss))(start.params["mixture"])
    ours = to_official({"params": grads}, TABLE)
    for name, value in below(fixture.grads, "GMM_via_generator_loss/").items():
        fixture.assert_grad(f"GMM_via_generator_loss/{name}", ours[name], value)
