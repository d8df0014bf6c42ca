"""PICMM's reference files: networks, the mixture's losses, the test, a training step."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nchw, nhwc
from patterns import Patterns
from picmm_step import check_step
from vae_gan import (
    KEY,
    check,
    check_discriminator,
    check_manifest,
    check_procedure,
    discriminator,
    encoder_sizes,
    generator_sizes,
    load,
    manifest_shapes,
)

from picjax.layers.encoder_decoder import VisibleFeatures
from picjax.methods.picmm import mixture as mixtures
from picjax.methods.picmm.mixture import (
    ASSIGNMENTS,
    COMPONENT_LOSSES,
    Gaussian,
    Mixture,
)
from picjax.methods.picmm.net import (
    DynamicGMM,
    Encoder,
    Generator,
    UpConv,
    unflatten,
)
from picjax.methods.picmm.official import TABLE
from picjax.official import replay
from picjax.official.mapping import CONV, Site, from_official

# ---- networks ----


def poolings(size: tuple[int, int], channels: int, flat: int) -> int:
    """How often a map of this size is pooled, if `flat` values are left."""
    for times in range(1 + min(size).bit_length()):
        if channels * (size[0] >> times) * (size[1] >> times) == flat:
            return times
    raise ValueError(f"{channels} x {size} cannot be pooled to {flat} values")


def make_encoder(
    params: Any, size: tuple[int, int], name: str | None = None
) -> Encoder:
    """The encoder of these parameters for images of this size."""
    sizes = encoder_sizes(params)
    coarse = size[0] >> sizes["layers"], size[1] >> sizes["layers"]
    flat = params["down_fc.0.weight"].shape[1]
    return Encoder(poolings=poolings(coarse, sizes["img_f"], flat), name=name, **sizes)


def make_generator(
    params: Any, coarse: tuple[int, int], flat: int, name: str | None = None
) -> Generator:
    """The generator of these parameters; `flat` is the size of both latents."""
    sizes = generator_sizes(params)
    times = poolings(coarse, sizes["img_f"], flat)
    return Generator(poolings=times, name=name, **sizes)


def make_mixture(params: Any, name: str | None = None) -> DynamicGMM:
    return DynamicGMM(k=params["alpha.3.weight"].shape[0], name=name)


def encoder(fixture: Fixture) -> None:
    size = fixture.inputs["img"].shape[2:]

    def forward(module: Any, img: Any, mask: Any, eps: Any) -> dict[str, Any]:
        x = nhwc(jnp.concatenate([img * mask, img * (1 - mask)]))
        mu, log_std, maps = module(x, 1)
        out = {f"f{i}": nchw(f) for i, f in enumerate(maps)}
        z = mu + eps * jnp.exp(log_std)
        return out | {"z": z, "mu": mu, "logsigma": log_std}

    check(fixture, make_encoder(fixture.params, size), forward, TABLE)


def generator(fixture: Fixture) -> None:
    coarse = fixture.inputs["x_fm"].shape[2:]
    flat = fixture.inputs["x_z"].shape[1]

    def forward(module: Any, x_z: Any, x_fm: Any, x_fe: Any, mask: Any) -> Any:
        z_m, z_c = jnp.split(x_z, 2, -1)
        visible = VisibleFeatures(nhwc(x_fm), nhwc(x_fe), nhwc(mask)[..., :1])
        images = module(z_m, z_c, visible, 1)
        return {f"img{i}": nchw(image) for i, image in enumerate(images)}

    check(fixture, make_generator(fixture.params, coarse, flat), forward, TABLE)


def res_discriminator(fixture: Fixture) -> None:
    check_discriminator(discriminator(fixture.params), TABLE, fixture)


def up_conv(fixture: Fixture) -> None:
    """`step1` doubles the latent grid once, `y` as often as the file says."""
    once = fixture.outputs["step1"].shape[2:]
    times = (fixture.outputs["y"].shape[2] // once[0]).bit_length()

    def forward(module: Any, x: Any) -> dict[str, Any]:
        x = unflatten(x, once[0] // 2, once[1] // 2)
        y = module(x)
        step1 = UpConv(times=1).apply({"params": module.variables["params"]}, x)
        return {"step1": nchw(step1), "y": nchw(y)}

    table = (Site("conv", ("0",), CONV),)
    check(fixture, UpConv(times=times), forward, table)


def mixture_in_training(fixture: Fixture) -> None:
    """The official trainer also runs the heads of mu and sigma, not alpha, on z_c."""

    def forward(module: Any, x_zm: Any, x_zc: Any = None) -> dict[str, Any]:
        logits, mu, log_std = module(x_zm, True)
        alpha = jax.nn.softmax(logits)
        if x_zc is None:
            return {"alpha": alpha, "mu": mu, "logsigma": log_std}
        mu_c, log_std_c = module.advance(x_zc, True)
        out = {"alpha": alpha, "z_c_mu_hat": mu, "z_c_logsigma_hat": log_std}
        return out | {"z_m_mu_hat": mu_c, "z_m_logsigma_hat": log_std_c}

    check(fixture, make_mixture(fixture.params), forward, TABLE)


def mixture_in_eval(fixture: Fixture) -> None:
    def forward(module: Any, x_zm: Any, eps: Any, index: Any) -> dict[str, Any]:
        logits, mu, log_std = module(x_zm)
        log_alpha = jax.nn.log_softmax(logits)
        z = mixtures.sample(Mixture(log_alpha, mu, log_std), eps)
        j = jnp.asarray(index, jnp.int32)
        return {
            "z_all": z,
            "alpha": jnp.exp(log_alpha),
            "z_selected": mixtures.take(z, j),
        }

    module = make_mixture(fixture.params)
    inputs = {name: jnp.asarray(x) for name, x in fixture.inputs.items()}
    variables = load(fixture, module, forward, inputs, TABLE)
    outputs = nn.apply(forward, module)(variables, **inputs)
    for name, expected in fixture.outputs.items():
        fixture.assert_close(name, outputs[name], expected)


def manifest(fixture: Fixture) -> None:
    shapes = manifest_shapes(fixture)
    sizes = encoder_sizes(shapes["E"])
    flat = shapes["E"]["down_fc.0.weight"].shape[1]
    grid = round((flat / sizes["img_f"]) ** 0.5)
    side = grid << (sizes["layers"] + 2)  # pooled twice, as at the published 256 pixels
    nets: dict[str, Any] = {
        "E": make_encoder(shapes["E"], (side, side)),
        "D": discriminator(shapes["D"]),
        "GMM": make_mixture(shapes["GMM"]),
    }
    image = jnp.zeros((1, side, side, 3))
    variables = {"E": jax.eval_shape(nets["E"].init, KEY, image)}
    mu, _, maps = jax.eval_shape(nets["E"].apply, variables["E"], image)
    nets["G"] = make_generator(shapes["G"], maps[-1].shape[1:3], flat)
    variables["G"] = jax.eval_shape(nets["G"].init, KEY, mu, mu, visible_of(nets, maps))
    variables["D"] = jax.eval_shape(nets["D"].init, KEY, image)
    variables["GMM"] = jax.eval_shape(nets["GMM"].init, KEY, mu)
    check_manifest(fixture, variables, dict.fromkeys(variables, TABLE))


def visible_of(nets: Any, maps: Any) -> VisibleFeatures:
    """The shapes that the generator reads."""
    f_e = maps[nets["G"].layers - 3]
    return VisibleFeatures(maps[-1], f_e, jnp.zeros((*f_e.shape[:3], 1)))


def official_test(fixture: Fixture) -> None:
    params = {net: below(fixture.params, f"{net}/") for net in ("E", "G", "GMM")}
    b, _, h, w = fixture.inputs["img"].shape
    image = jnp.zeros((b, h, w, 3))
    nets: dict[str, Any] = {
        "E": make_encoder(params["E"], (h, w)),
        "GMM": make_mixture(params["GMM"]),
    }
    targets = {"E": jax.eval_shape(nets["E"].init, KEY, image)}
    mu, _, maps = jax.eval_shape(nets["E"].apply, targets["E"], image)
    nets["G"] = make_generator(params["G"], maps[-1].shape[1:3], 2 * mu.shape[1])
    targets["G"] = jax.eval_shape(nets["G"].init, KEY, mu, mu, visible_of(nets, maps))
    targets["GMM"] = jax.eval_shape(nets["GMM"].init, KEY, mu)
    names = {"E": "encoder", "G": "generator", "GMM": "mixture"}
    variables = {
        ours: from_official(params[theirs], targets[theirs], TABLE)
        for theirs, ours in names.items()
    }
    renamed = {ours: nets[theirs] for theirs, ours in names.items()}
    check_procedure(fixture, replay.picmm, renamed, variables)


# ---- losses ----


def bm_loss(fixture: Fixture) -> None:
    if any(name.startswith("f64_") for name in fixture.outputs):
        with jax.enable_x64():
            check_bm_loss(fixture, "f64_", jnp.float64, 1e-12)
    check_bm_loss(fixture, "", jnp.float32, 1e-5)


def check_bm_loss(fixture: Fixture, prefix: str, dtype: type, rtol: float) -> None:
    inputs = {name: jnp.asarray(x, dtype) for name, x in fixture.inputs.items()}
    component = Gaussian(inputs["mu_hat_j"], inputs["logsigma_hat_j"])
    posterior = Gaussian(inputs["mu"], inputs["logsigma"])

    def signfix_logvar(component: Gaussian, posterior: Gaussian) -> jax.Array:
        halved = (g._replace(log_std=g.log_std / 2) for g in (component, posterior))
        return COMPONENT_LOSSES["component_to_posterior"](*halved)

    losses = {
        "bm_published": COMPONENT_LOSSES["published"],
        "bm_signfix_logvar": signfix_logvar,
        "kl_component_to_posterior": COMPONENT_LOSSES["component_to_posterior"],
        "kl_posterior_to_component": COMPONENT_LOSSES["posterior_to_component"],
    }
    for name in losses.keys() & {n.removeprefix(prefix) for n in fixture.outputs}:
        loss = partial(losses[name], posterior=posterior)
        value, slope = jax.value_and_grad(lambda c, loss=loss: loss(c).mean())(
            component
        )
        assert value.dtype == dtype
        for part, actual in (
            (name, value),
            (f"dmu_{name}", slope.mu),
            (f"dlogsigma_{name}", slope.log_std),
        ):
            expected = fixture.outputs[prefix + part]
            atol = rtol * float(np.abs(expected).max())
            fixture.assert_close(prefix + part, actual, expected, rtol, atol)
    equal = COMPONENT_LOSSES["published"](posterior, posterior).mean()
    name = f"{prefix}bm_published_at_equality"
    fixture.assert_close(name, equal, fixture.outputs[name], rtol, 0.0)


def assignment(fixture: Fixture) -> None:
    inputs, expected = fixture.inputs, fixture.outputs
    mixture = Mixture(
        jnp.log(inputs["alpha"]),
        jnp.asarray(inputs["mu_hat"]),
        jnp.asarray(inputs["logsigma_hat"]),
    )
    z_c, eps = jnp.asarray(inputs["z_c"]), jnp.asarray(inputs["eps"])
    z_hat = mixtures.sample(mixture, eps)
    posterior = Gaussian(z_c, jnp.zeros_like(z_c))  # none of these rules reads it
    fixture.assert_close("z_hat_all", z_hat, expected["z_hat_all"])
    rules = [rule for rule in ASSIGNMENTS if f"j_{rule}" in expected]
    assert rules
    for rule in rules:
        j = ASSIGNMENTS[rule](mixture, posterior, z_c, z_hat)
        np.testing.assert_array_equal(j, expected[f"j_{rule}"])
        if rule == "sampled":
            drawn = mixtures.take(z_hat, j)
            fixture.assert_close("z_hat_j", drawn, expected["z_hat_j"])
    name = "log_responsibility_unnormalised"
    actual = mixtures.component_log_prob(mixture, z_c)
    fixture.assert_close(name, actual, expected[name])


def frequency_loss(fixture: Fixture) -> None:
    j = jnp.asarray(fixture.inputs["j"], jnp.int32)

    def loss(logits: jax.Array) -> jax.Array:
        return mixtures.frequency_loss(jax.nn.log_softmax(logits), j).mean()

    logits = jnp.asarray(fixture.inputs["logits"])
    value, slope = jax.value_and_grad(loss)(logits)
    fixture.assert_close("loss", value, fixture.outputs["loss"])
    fixture.assert_close("alpha", jax.nn.softmax(logits), fixture.outputs["alpha"])
    fixture.assert_close("gradient", slope, fixture.input_grads["logits"])


CHECKS = Patterns(
    {
        "bm loss": bm_loss,
        "choice of the component": assignment,
        "frequency loss": frequency_loss,
        "DynamicGMM.*eval mode": mixture_in_eval,
        "DynamicGMM": mixture_in_training,
        "ResEncoder": encoder,
        "ResGenerator": generator,
        "ResDiscriminator": res_discriminator,
        "up_convfc": up_conv,
        "full published width": manifest,
        r"test\(\)": official_test,
        "one training step": partial(
            check_step,
            make_encoder=make_encoder,
            make_generator=make_generator,
            make_mixture=make_mixture,
        ),
    }
)
