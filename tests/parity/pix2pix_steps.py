"""Whole training steps of Pix2Pix against the original's."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fixture import Fixture, below, nchw, nhwc
from helpers.configs import load_config
from pix2pix_nets import assert_near, build, load, parse, wrong_gradients

from picjax.losses.adversarial import GAN
from picjax.methods.pix2pix.official import table
from picjax.methods.pix2pix.system import Noise, Pix2Pix
from picjax.official.mapping import to_official
from picjax.system import Opt, State, apply, init_opt

NETS = {"G": "generator", "D": "discriminator"}


def record() -> optax.GradientTransformation:
    """Keeps the gradients that an optimiser receives in its state."""
    return optax.GradientTransformation(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        update=lambda updates, state, params=None: (updates, updates),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenDropout(Pix2Pix):
    """Takes the dropout masks of a step from its batch."""

    def draw_noise(self, batch: Any, key: Any) -> Noise:
        zeros = jnp.zeros(len(batch["image"]))
        return Noise(list(batch["keep"]), zeros, zeros, zeros.astype(jnp.int32))


def nets_of(fixture: Fixture) -> dict[str, Any]:
    """From "UnetGenerator num_downs=5 ngf=2 batch norm" and "pixel ndf=8 ..."."""
    hyper = fixture.hyper
    names = fixture.inputs
    generator = parse(hyper["netG"])
    generator["use_dropout"] = any("/keep_mask_" in name for name in names)
    generator["output_nc"] = names["step1/real_B"].shape[1]
    discriminator = hyper["netD"].split()[0]
    kinds = {"pixel": "PixelDiscriminator", "PixelDiscriminator": "PixelDiscriminator"}
    kind = kinds.get(discriminator, "NLayerDiscriminator")
    return {
        "generator": build(hyper["netG"], generator),
        "discriminator": build(kind, parse(hyper["netD"])),
    }


def make_system(fixture: Fixture) -> Pix2Pix:
    """The method with the file's networks, losses and Adam, recording gradients.

    The original's wgangp mode has no gradient penalty.
    """
    h = fixture.hyper
    nets = nets_of(fixture)
    adam = optax.adam(h["lr"], *h["betas"], eps=h["eps"])
    tx = optax.chain(record(), adam)
    system = GivenDropout.from_config(load_config("pix2pix", "tiny"))
    return dataclasses.replace(
        system,
        **nets,
        opts={name: Opt(tx, (name,)) for name in nets},
        gan=GAN[h["gan_mode"]]._replace(penalty=0.0),
        l1_weight=h["lambda_L1"],
        adversarial_weight=1.0,
        pool_size=0,
        mask_channel=False,
    )


def first_state(fixture: Fixture, system: Pix2Pix) -> State:
    a, b = (fixture.inputs[f"step1/real_{x}"].shape for x in "AB")
    channels = {"generator": a[1], "discriminator": a[1] + b[1]}
    loaded = {
        ours: load(
            getattr(system, ours),
            below(fixture.params, f"{theirs}."),
            (a[0], *a[2:], channels[ours]),
        )
        for theirs, ours in NETS.items()
    }
    params = {net: variables["params"] for net, variables in loaded.items()}
    stats = {net: variables["stats"] for net, variables in loaded.items()}
    return State(jnp.int32(0), params, stats, init_opt(system.opts, params), {})


def batch_of(fixture: Fixture, i: int) -> dict[str, Any]:
    """The batch of step i, with its dropout masks."""
    arrays = below(fixture.inputs, f"step{i}/")
    image, condition = (jnp.asarray(nhwc(arrays[f"real_{x}"])) for x in "BA")
    keep = below(arrays, "keep_mask_")
    return {
        "image": image,
        "condition": condition,
        "mask": jnp.zeros((*image.shape[:3], 1)),
        "keep": [
            jnp.asarray(nhwc(keep[str(j)]), jnp.float32) for j in range(len(keep))
        ],
    }


def check_steps(fixture: Fixture) -> None:
    """Losses, outputs, gradients and the state after each step."""
    h = fixture.hyper
    system, key = make_system(fixture), jax.random.key(0)
    state, step = first_state(fixture, system), jax.jit(system.step)
    numbers = {
        int(n) for n in re.findall(r"step(\d+)/real_A", " ".join(fixture.inputs))
    }
    assert numbers, "the file holds no step"
    reliable = dict.fromkeys(fixture.params, np.bool_(True))
    for i in sorted(numbers):
        batch = batch_of(fixture, i)
        after, metrics = step(state, batch, key)
        out = below(fixture.outputs, f"step{i}/")
        grads = below(fixture.grads, f"step{i}/")
        check_outputs(system, state, after, batch, out | {"metrics": metrics})
        for name, yes in reliable.items():
            reliable[name] = yes & is_reliable(name, grads, system)
        check_state(system, after, out, grads)
        check_parameters(system, after, out, reliable, 2 * h["lr"] * i)
        state = after


def check_outputs(
    system: Pix2Pix, before: State, after: State, batch: Any, out: Mapping[str, Any]
) -> None:
    """Losses and what the networks returned on the way."""
    metrics = out["metrics"]
    values = {
        "loss_D_fake": metrics["d_fake"],
        "loss_D_real": metrics["d_real"],
        "loss_D": 0.5 * (metrics["d_fake"] + metrics["d_real"]),
        "loss_G_GAN": metrics["g_gan"],
        "loss_G_L1": metrics["g_l1"],
        "loss_G": metrics["g_gan"] + metrics["g_l1"],
    }
    condition = batch["condition"]
    inputs = condition, batch["keep"], True
    fake, _ = apply(system.generator, before.params, before.stats, *inputs)
    values["fake_B"] = nchw(fake)
    for name, state, image in (
        ("pred_fake_D", before, fake),
        ("pred_real_D", before, batch["image"]),
        ("pred_fake_G", after, fake),
    ):
        pair = jnp.concatenate([condition, image], -1)
        score, _ = apply(system.discriminator, state.params, state.stats, pair, True)
        values[name] = nchw(score)
    assert values.keys() & out.keys()
    for name in values.keys() & out.keys():
        assert_near(name, values[name], out[name], 1e-5)


def is_reliable(name: str, grads: Mapping[str, Any], system: Pix2Pix) -> Any:
    """Where a gradient is not rounding, so that the first Adam step has its sign.

    In front of an instance norm, the gradient of a bias is nothing but rounding.
    """
    if name not in grads:
        return np.bool_(True)
    theirs, _, tensor = name.partition(".")
    largest = 0.0
    if getattr(system, NETS[theirs]).norm == "instance" and tensor.endswith(".bias"):
        own = below(grads, f"{theirs}.").values()
        largest = max(float(np.abs(x).max()) for x in own)
    return np.abs(grads[name]) > max(1e-6, 1e-4 * largest)


def check_state(
    system: Pix2Pix, state: State, out: Mapping[str, Any], grads: Mapping[str, Any]
) -> None:
    """The gradients that Adam received."""
    for theirs, ours in NETS.items():
        net = getattr(system, ours)
        actual = to_official({"params": state.opt[ours][0][ours]}, table(net))
        assert not wrong_gradients(below(grads, f"{theirs}."), actual, net.norm)


def check_parameters(
    system: Pix2Pix,
    state: State,
    out: Mapping[str, Any],
    reliable: Mapping[str, Any],
    moved: float,
) -> None:
    """The state after a step.

    Adam's first steps are lr times the sign of the gradient: where that is rounding,
    two correct answers may differ by `moved`.
    """
    for theirs, ours in NETS.items():
        variables = {"params": state.params[ours], "stats": state.stats[ours]}
        for name, value in to_official(variables, table(getattr(system, ours))).items():
            full = f"{theirs}.{name}"
            allowed = np.where(reliable[full], 2e-6, moved) + 1e-6 * np.abs(out[full])
            assert np.all(np.abs(value - out[full]) <= allowed), full
