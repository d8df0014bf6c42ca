"""A whole training step of PICNet: losses, outputs, gradients, the state after."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nchw, nhwc
from vae_gan import (
    KEY,
    Compile,
    check_update,
    discriminator,
    first_batch,
    first_state,
    in_either_order,
    recording_adam,
    zero_grads,
)

from picjax.layers.interleave import separate
from picjax.methods.picnet.divergence import mask_prior_std
from picjax.methods.picnet.official import TABLE
from picjax.methods.picnet.system import OWNED, Outputs, PICNet
from picjax.methods.vae_gan import optimisers
from picjax.system import Batch, State

NETS = {
    "E": "encoder",
    "G": "generator",
    "D": "discriminator",
    "D_rec": "discriminator_rec",
}
TABLES = dict.fromkeys(NETS, TABLE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pinned(PICNet):
    """PICNet with the file's noise."""

    noise: Mapping[str, Any]

    def draw_noise(self, state: State, batch: Batch, key: Any) -> dict[str, Any]:
        return dict(self.noise)


def noise_of(fixture: Fixture) -> dict[str, jax.Array]:
    """Noise of both latents, and of the gradient penalty where the file has any.

    A penalty's `alpha` of both discriminators is in the official order, D then D_rec.
    """
    inputs, b = fixture.inputs, len(fixture.inputs["img"])
    noise = {n: jnp.asarray(nhwc(inputs[f"eps_{n}"])) for n in "pq"}
    alphas = {n: x.reshape(-1) for n, x in inputs.items() if n.startswith("alpha")}
    of_rec = [x for n, x in alphas.items() if n.endswith("rec")]
    others = [x for n, x in alphas.items() if not n.endswith("rec")]
    d = np.concatenate(others) if others else np.zeros(b, np.float32)
    rec = of_rec[0] if of_rec else (d[b:] if len(d) > b else d)
    noise["penalty"] = jnp.asarray(np.stack([rec, d[:b]]))
    return noise


def make_system(
    fixture: Fixture, make_encoder: Callable, make_generator: Callable
) -> Pinned:
    """The file's networks, whatever our rule of halvings says of the image size."""
    h = fixture.hyper
    params = {net: below(fixture.params, f"{net}/") for net in NETS}
    generator = make_generator(params["G"]).clone(name="generator")
    return Pinned(
        encoder=make_encoder(params["E"]).clone(name="encoder"),
        generator=generator,
        discriminator=discriminator(params["D"], "discriminator"),
        discriminator_rec=discriminator(params["D_rec"], "discriminator_rec"),
        opts=optimisers(recording_adam(fixture), **OWNED),
        gan_mode=h["gan_mode"],
        rec_weight=float(h["lambda_rec"]),
        adversarial_weight=float(h["lambda_g"]),
        kl_weight=float(h["lambda_kl"] * generator.output_scale),
        fill=False,
        two_paths=h["train_paths"] == "two",
        kl_rec="prior_to_posterior",
        least_std=0.0,
        noise=noise_of(fixture),
    )


def check_step(
    fixture: Fixture, make_encoder: Callable, make_generator: Callable
) -> None:
    """Both training strategies and every GAN mode, as the file's `hyper` says."""
    system = make_system(fixture, make_encoder, make_generator)
    in_either_order(lambda compiled: check_run(fixture, system, compiled))


def check_run(fixture: Fixture, system: Pinned, compiled: Compile) -> None:
    """Losses, outputs, gradients and the state after, of one program."""
    batch = first_batch(fixture)
    start = first_state(fixture, NETS, system, TABLES)

    @compiled
    def run(start: State, batch: Batch) -> Any:
        forward = system.forward(start.params, start.stats, batch, system.noise)
        return system.step(start, batch, KEY), forward

    (_, metrics), (out, _) = run(start, batch)
    metrics |= {"img_d": metrics["ad_d"], "img_d_rec": metrics["ad_d_rec"]}
    rtol = fixture.tolerance("losses")
    # The updated discriminators score. Where the gradient of a bias is 0 in exact
    # arithmetic, ours is 1e-9 of rounding, which Adam's first step turns into 4e-5.
    rounded = any(name.startswith("grad/D") for name in zero_grads(fixture))
    scored = {"ad_g": 1e-5, "ad_rec": 1e-5} if rounded else {}
    for name, expected in below(fixture.outputs, "loss_").items():
        if name == "G_total":
            parts = ("kl_rec", "kl_g", "app_rec", "app_g", "ad_g", "ad_rec")
            ours = sum(metrics.get(part, 0.0) for part in parts)
        else:
            ours = metrics.get(name, 0.0)  # one path has no reconstruction to learn
        fixture.assert_close(name, ours, expected, rtol, scored.get(name, 1e-6))
    check_outputs(fixture, out, batch)
    check_update(fixture, NETS, system, TABLES, lambda b: run(start, b)[0][0])


def check_outputs(fixture: Fixture, out: Outputs, batch: Batch) -> None:
    """Posterior, learnt prior and images of the step's forward pass."""
    prior = mask_prior_std(batch["mask"])[:, None, None, None]
    ours: dict[str, Any] = {
        "u_m": jnp.zeros_like(out.q.mu),
        "sigma_m": jnp.broadcast_to(prior, out.q.mu.shape),
        "u_post": out.p.mu,
        "sigma_post": out.p.std,
        "u_prior": out.q.mu,
        "sigma_prior": out.q.std,
    }
    for i, image in enumerate(out.images):
        ours[f"img_rec{i}"], ours[f"img_g{i}"] = separate(image, 2)
    atol = fixture.tolerance("outputs")
    for name, expected in fixture.outputs.items():
        if not name.startswith("loss_"):
            fixture.assert_close(name, nchw(ours[name]), expected, 1e-4, atol)
