"""A whole training step of INADE."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fixture import Fixture, below, nchw, nhwc
from inade_shared import (
    cancelled,
    close,
    close_gradients,
    discriminator_of,
    encoder_of,
    generator_of,
    maps,
    padded,
    vgg_of,
)

from picjax.methods.inade import losses, schedule
from picjax.methods.inade.build import Vgg
from picjax.methods.inade.noise import Draw
from picjax.methods.inade.system import INADE, LossWeights
from picjax.official import mapping
from picjax.system import Opt, State, initial_state

# ---- training step ----

# The file's losses, and ours.
LOSSES = {
    "g_loss/KLD": "g_kl",
    "g_loss/GAN": "g_gan",
    "g_loss/GAN_Feat": "g_feature",
    "g_loss/VGG": "g_perceptual",
    "d_loss/D_Fake": "d_fake",
    "d_loss/D_real": "d_real",
}


def record() -> optax.GradientTransformation:
    """Keep the gradients of the last update in the optimiser's state."""
    return optax.GradientTransformation(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        update=lambda updates, state, params=None: (updates, updates),
    )


def step_system(
    fixture: Fixture, batch: dict, noise_shape: tuple[int, ...]
) -> tuple[INADE, dict[str, tuple[str, Any]]]:
    """The method of a file, and net -> its prefix in the file and its table."""
    hyper, params, instances = dict(fixture.hyper), fixture.params, noise_shape[1]
    mode = hyper.setdefault("norm_mode", "inade")
    instance_encoder = bool(below(params, "IE/"))
    prefix = "IE/" if instance_encoder else "E/"
    encoded = bool(below(params, prefix))
    prefixes = {"generator": "G/", "discriminator": "D/"}
    prefixes |= {"encoder": prefix} if encoded else {}
    build = {
        "generator": partial(generator_of, hyper),
        "discriminator": lambda tensors: discriminator_of(hyper),
        "encoder": partial(encoder_of, hyper, instances=instances),
    }
    nets: dict[str, Any] = {}
    places = {}
    for name, prefix in prefixes.items():
        net, table = build[name](below(params, prefix))
        nets[name] = net.clone(name=name)
        places[name] = prefix, table
    if tensors := below(params, "vgg/"):
        vgg, variables = vgg_of(tensors, batch["image"])
        found = Vgg(vgg.clone(name="vgg"), variables["params"])
        nets["find_vgg"] = lambda: found
    rates = schedule.ttur(hyper["lr"], not hyper.get("no_TTUR"))
    adams = [optax.adam(r, b1=hyper["beta1"], b2=hyper["beta2"]) for r in rates]
    owned = (
        ("generator", "encoder") if encoded else ("generator",),
        ("discriminator",),
    )
    system = INADE(
        **nets,
        opts={
            name: Opt(optax.chain(record(), adam), own)
            for name, adam, own in zip(
                ("generator", "discriminator"), adams, owned, strict=True
            )
        },
        gan=losses.GAN[hyper.get("gan_mode", "hinge")],
        weights=LossWeights(
            0.0 if hyper.get("no_ganFeat_loss") else hyper["lambda_feat"],
            hyper.get("lambda_vgg", 0.0),
            hyper.get("lambda_kld", 0.0),
        ),
        norm=mode,
        instances=instances,
        noise_nc=noise_shape[3],
        z_dim=hyper.get("z_dim", 256),
        reads_latent=mode == "inade" or encoded,
        # The original counts layers from 3, however many there are.
        first_feature=3 if mode == "inade" else 0,
        edges=not hyper.get("no_instance"),
        kl_reduction="sum",
    )
    return system, places


def check_train_step(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    batch = {
        "image": jnp.asarray(nhwc(inputs["image"])),
        "label": maps(inputs["label"]),
        "instance": maps(inputs["instance"]),
    }
    if "sketch" in inputs:
        batch["sketch"] = jnp.asarray(nhwc(inputs["sketch"]))
    draws = [
        Draw(
            jnp.asarray(inputs[f"{player}_noise_ins"]),
            padded(inputs[f"{player}_noise"]),
        )
        for player in "gd"
    ]
    system, places = step_system(fixture, batch, draws[0].style.shape)
    shapes = jax.eval_shape(system.init, batch, jax.random.key(0))
    loaded = {
        net: mapping.from_official(
            below(fixture.params, prefix),
            {"params": shapes.params[net], "stats": shapes.stats[net]},
            table,
        )
        for net, (prefix, table) in places.items()
    }
    state = initial_state(system.opts, loaded)

    @jax.jit
    def run(state):
        layout = system.layout(batch)
        first, _ = system.generate(
            state.params, state.stats, batch["image"], layout, draws[0]
        )
        after_g, g_metrics = system.update_generator(state, batch, layout, draws[0])
        second, _ = system.generate(
            after_g.params, after_g.stats, batch["image"], layout, draws[1]
        )
        after, d_metrics = system.update_discriminator(after_g, batch, layout, draws[1])
        return first.image, second.image, after_g, after, g_metrics | d_metrics

    first, second, after_g, after, metrics = run(state)
    for name, ours in LOSSES.items():
        if name in out:
            expected = out[name].reshape(())
            fixture.assert_close(name, metrics[ours], expected, 1e-4, 1e-6)
    for player in "gd":
        total = sum(v for k, v in metrics.items() if k.startswith(f"{player}_"))
        if f"{player}_total" in out:
            expected = out[f"{player}_total"].reshape(())
            fixture.assert_close("total", total, expected, 1e-4, 1e-6)
    for name, image in (("fake_g", first), ("fake_d", second)):
        if name in out:
            close(fixture, name, nchw(image), out[name], 1e-4)
    check_updates(fixture, places, after_g, "generator", "after_g/")
    check_updates(fixture, places, after, "discriminator", "after_d/")
    for folder, late in (("after_g_buf/", after_g), ("after_d_buf/", after)):
        check_updates(fixture, places, late, None, folder)


def draw_of(inputs: dict, player: str) -> Draw:
    """A player's noise; of length 1 if the file's networks read none."""
    zeros = np.zeros((len(inputs["label"]), 1, 2, 1), np.float32)
    latent = inputs.get(f"{player}_noise_ins", zeros[:, 0, 0])
    style = inputs.get(f"{player}_noise", zeros)
    return Draw(jnp.asarray(latent), padded(style))


def check_updates(
    fixture: Fixture, places: dict, state: State, player: str | None, folder: str
) -> None:
    """The file's tensors after an update, and the gradients that led there.

    Adam's first step is nearly lr sign(gradient): parameters are compared where the
    gradient is more than rounding noise.
    """
    expected = below(fixture.outputs, folder)
    largest = 0.0
    if player:
        # Recorded gradients are the first part of the optimiser's chained state.
        recorded = state.opt[player][0]
        grads = {}
        for net, tree in recorded.items():
            prefix, table = places[net]
            named = mapping.to_official({"params": tree}, table)
            grads |= {prefix + name: x for name, x in named.items()}
        wanted = {name: fixture.grads[name] for name in grads if name in fixture.grads}
        close_step_gradients(fixture, grads, wanted)
        largest = max(float(np.abs(x).max()) for x in wanted.values())
    for net, (prefix, table) in places.items():
        tree = {"params": state.params[net], "stats": state.stats[net]}
        actual = mapping.to_official(tree, table)
        for name, array in below(expected, prefix).items():
            gradient = fixture.grads.get(prefix + name)
            if gradient is None:
                # A bias that is cancelled walks by up to the rate, and means follow.
                tol = 1e-4 + fixture.hyper["lr"]
                close(fixture, folder + prefix + name, actual[name], array, tol)
                continue
            clear = np.abs(gradient) > 1e-5 * largest
            if cancelled(name, below(fixture.params, prefix)):
                continue
            fixture.assert_close(
                folder + prefix + name, actual[name][clear], array[clear], 1e-6, 2e-6
            )


def close_step_gradients(fixture: Fixture, actual: dict, expected: dict) -> None:
    """`close_gradients` of each net, whose names have no prefix there."""
    for prefix in sorted({name.partition("/")[0] + "/" for name in expected}):
        close_gradients(fixture, below(actual, prefix), below(expected, prefix))
