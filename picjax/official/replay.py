"""The official test procedures with recorded noise, to verify imported weights.

Images and masks have the originals' layout, PyTorch's [b 3 h w]; `img` lies in [0, 1]
and the mask is 1 where the image is known. Spectral norm makes one power iteration per
call, as it does in the originals also at test time.
"""

import importlib
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jaxtyping import Array, Float

from picjax.cli import UserError
from picjax.layers.encoder_decoder import VisibleFeatures
from picjax.losses.reconstruction import resize
from picjax.methods.inade.replay import replay as inade
from picjax.methods.painter import settings
from picjax.methods.pixelcnn import logistic
from picjax.system import Config, Tree, image_shape

TOLERANCE = 1e-3  # of the largest value of an output, or of 1; rounding is below 1e-4
Arrays = Mapping[str, Any]
Nets = Mapping[str, Any]
Variables = Mapping[str, Any]  # net -> {"params", "stats"}


class Recording(NamedTuple):
    """A test of the original: the file, its inputs and its outputs."""

    path: Path
    given: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]


def read(path: Path, system: str) -> Recording:
    """Read a test of the original.

    Args:
      path: an .npz with the original's inputs (`in/img`, `in/mask`, its noise) and
        outputs (`out/sample0`, ...), as the procedures below define; other entries are
        ignored.
      system: the method.

    Raises:
      UserError: if the file cannot be read, or holds no output of a whole network.
    """
    if system not in PROCEDURES:
        raise UserError(
            f"--check knows no test of {system}, only of "
            f"{', '.join(sorted(PROCEDURES))}; leave it out"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if "/" in name}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--check '{path}' cannot be read ({error}); use an .npz"
        ) from error
    recording = Recording(path, below(arrays, "in/"), below(arrays, "out/"))
    if not any(name.startswith(RESULTS) for name in recording.expected):
        raise UserError(
            f"--check '{path}' has none of {', '.join(f'out/{x}' for x in RESULTS)}; "
            "see docs/convert.md"
        )
    return recording


def check(
    config: Config, variables: Mapping[str, Tree], recording: Recording
) -> dict[str, float]:
    """Replay the original's test.

    Args:
      config: the run's config.
      variables: net -> {"params", "stats"}.
      recording: of the original.

    Returns:
      The largest absolute difference of each output.

    Raises:
      UserError: if the recording does not fit the run, or an output differs by more
        than TOLERANCE of its largest value.
    """
    path, given, expected = recording
    try:
        found = PROCEDURES[config.system](networks(config), variables, given)
        differences = {
            name: float(np.abs(np.asarray(found[name]) - expected[name]).max())
            for name in sorted(found.keys() & expected.keys())
        }
    except (KeyError, TypeError, ValueError, FlaxError) as error:
        raise UserError(
            f"--check '{path}' does not fit this run ({str(error)[:200]}); record it "
            "with the same weights, sizes and noise"
        ) from error
    if not any(name.startswith(RESULTS) for name in differences):
        raise UserError(
            f"--check '{path}' lacks the inputs of its outputs for {config.system}; "
            "see docs/convert.md"
        )
    for name, difference in differences.items():
        largest = max(1.0, float(np.abs(expected[name]).max()))
        if not difference <= TOLERANCE * largest:  # nor if it is NaN
            raise UserError(
                f"--check '{path}': {name} differs by {difference:.2g} from the "
                f"original's (of at most {largest:.2g}), where {TOLERANCE:g} of that is "
                "accepted; give the weights and settings that the file was recorded with"
            )
    return differences


def networks(config: Config) -> Nets:
    """The networks of a run by name."""
    if config.system == "painter":
        nets = {"unet": settings.make_unet(config)}
        classifier = settings.make_classifier(config)
        return nets | ({"classifier": classifier} if classifier else {})
    module = importlib.import_module(f"picjax.methods.{config.system}.system")
    return module.networks(config.model, image_shape(config))


def below(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The arrays whose names start with the prefix, which is removed."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


# ---- procedures ----


def picnet(nets: Nets, variables: Variables, given: Arrays) -> dict[str, Array]:
    """PICNet's test.

    Args:
      nets: encoder, generator.
      variables: theirs.
      given: `img`, `mask`, and `eps<i>` [b z i j] for each sample.

    Returns:
      `q_mu`, `q_sigma` [b z i j]; `sample<i>` [b 3 h w] in [-1, 1], the image in its
      known pixels.
    """
    call = stateful(nets, variables, "encoder", "generator")
    image, mask = _image(given)
    (mu, std), _, features = call("encoder", image * mask)
    visible = _visible(nets, features, mask)
    out = {"q_mu": nchw(mu), "q_sigma": nchw(std)}
    for i, eps in _numbered(given, "eps"):
        images = call("generator", mu + nhwc(eps) * std, visible)
        out[f"sample{i}"] = nchw(_composite(image, mask, images[-1]))
    return out


def picmm(nets: Nets, variables: Variables, given: Arrays) -> dict[str, Array]:
    """PICMM's test; one draw of z_m serves all samples.

    Args:
      nets: encoder, generator, mixture.
      variables: theirs.
      given: `img`, `mask`, `eps_encoder` [2b d] (the second half, the complement's, is
        of no use), and for each sample `eps_components<i>` [b k d], `index<i>` [b].

    Returns:
      `z_m`, `z_m_mu` [b d], `alpha` [b k]; `sample<i>` [b 3 h w] in [-1, 1], the image
      in its known pixels.
    """
    call = stateful(nets, variables, "encoder", "generator")
    image, mask = _image(given)
    mu, log_std, features = call("encoder", image * mask)
    z_m = mu + given["eps_encoder"][: len(mu)] * jnp.exp(log_std)
    logits, mu_hat, log_std_hat = nets["mixture"].apply(variables["mixture"], z_m)
    visible = _visible(nets, features, mask)
    out = {"z_m": z_m, "z_m_mu": mu, "alpha": jax.nn.softmax(logits)}
    for i, eps in _numbered(given, "eps_components"):
        z = mu_hat + eps * jnp.exp(log_std_hat)
        index = jnp.asarray(given[f"index{i}"]).reshape(-1, 1, 1)
        z_c = jnp.take_along_axis(z, index, 1)[:, 0]
        images = call("generator", z_m, z_c, visible)
        out[f"sample{i}"] = nchw(_composite(image, mask, images[-1]))
    return out


def pixelcnn(nets: Nets, variables: Variables, given: Arrays) -> dict[str, Array]:
    """One pass of PixelCNN++ over whole images.

    Args:
      nets: net.
      variables: its.
      given: `x_uint8` [b h w 3], TensorFlow's layout; optionally uniform numbers for a
        draw of each pixel from its logits, `u_mix` [b h w k] and `u_logistic` [b h w
        3].

    Returns:
      `logits` [b h w 10k]; `bits_per_dim` [b]; with uniforms `sample` [b h w 3].
    """
    image = (2 * jnp.asarray(given["x_uint8"], jnp.float32) - 255) / 255
    logits = _logits(nets["net"], variables["net"]["params"], image)
    bits = logistic.bits(logistic.nll(image, logits, "official")) / image[0].size
    out = {"logits": logits, "bits_per_dim": bits}
    if "u_mix" in given:
        mixture, value = jnp.asarray(given["u_mix"]), jnp.asarray(given["u_logistic"])
        out["sample"] = logistic.draw(logits, mixture, value)
    return out


def pix2pix(nets: Nets, variables: Variables, given: Arrays) -> dict[str, Array]:
    """The generator in both of its modes.

    Args:
      nets: generator.
      variables: its.
      given: `x` [b c h w] in [-1, 1], the condition; `keep_mask_<i>` [b c i j] for each
        dropout layer in the order of execution, 1 = kept.

    Returns:
      `eval` [b 3 h w]: running statistics and no dropout, the original's `--eval`;
      `train`: the batch's own statistics and dropout, its usual test, if there is a
      mask for every dropout layer.
    """
    net, own = nets["generator"], variables["generator"]
    x = nhwc(given["x"])
    masks = _numbered(given, "keep_mask_")
    keep = [nhwc(mask).astype(jnp.float32) for _, mask in masks]
    out = {"eval": nchw(_generate(net, own, x, [], False))}
    if len(keep) == len(net.keep_shapes(*x.shape[1:3])):
        out["train"] = nchw(_generate(net, own, x, keep, True))
    return out


def painter(nets: Nets, variables: Variables, given: Arrays) -> dict[str, Array]:
    """One call of guided-diffusion's networks, without dropout.

    Args:
      nets: unet, and perhaps classifier.
      variables: theirs.
      given: `x` [b 3 h w], `t` [b], the steps of the whole process (what the network
        gets, before respacing), and `y` [b] of a network that knows classes.

    Returns:
      `unet` [b c h w], the network's output; `classifier` [b classes], its logits.
    """
    x, t = nhwc(given["x"]), jnp.asarray(given["t"])
    condition = (jnp.asarray(given["y"]),) if "y" in given else ()

    def run(net: str, *inputs: Any) -> Array:
        return jax.jit(nets[net].apply)({"params": variables[net]["params"]}, *inputs)

    out = {"unet": nchw(run("unet", x, t, *condition))}
    if "classifier" in nets and "classifier" in variables:
        out["classifier"] = run("classifier", x, t)
    return out


@partial(jax.jit, static_argnums=(0, 4))
def _generate(
    net: Any, variables: Any, x: Array, keep: list[Array], training: bool
) -> Array:
    return net.apply(variables, x, keep, training, mutable=["stats"])[0]


@partial(jax.jit, static_argnums=0)
def _logits(net: Any, params: Any, image: Array) -> Array:
    return net.apply({"params": params}, image, False)


PROCEDURES = {
    "inade": inade,
    "painter": painter,
    "picmm": picmm,
    "picnet": picnet,
    "pix2pix": pix2pix,
    "pixelcnn": pixelcnn,
}
# Prefixes of outputs of a whole network.
RESULTS = ("sample", "logits", "eval", "train", "unet", "classifier")


# ---- what they share ----


def stateful(nets: Nets, variables: Variables, *names: str) -> Callable[..., Any]:
    """Calls a net by its name; each call makes one power iteration on its statistics."""
    now = {name: variables[name] for name in names}
    apply = {
        name: jax.jit(partial(nets[name].apply, power_iterations=1, mutable=["stats"]))
        for name in names
    }

    def call(name: str, *inputs: Any) -> Any:
        out, new = apply[name](now[name], *inputs)
        now[name] = {**now[name], **new}
        return out

    return call


def nhwc(x: Any) -> Array:
    """PyTorch's b c h w to b h w c."""
    return jnp.asarray(x).transpose(0, 2, 3, 1)


def nchw(x: Any) -> Array:
    """b h w c to PyTorch's b c h w."""
    return jnp.asarray(x).transpose(0, 3, 1, 2)


def _image(given: Arrays) -> tuple[Float[Array, "b h w 3"], Float[Array, "b h w 3"]]:
    return 2 * nhwc(given["img"]) - 1, nhwc(given["mask"])


def _visible(
    nets: Nets, features: list[Array], mask: Float[Array, "b h w 3"]
) -> VisibleFeatures:
    """What the generator reads of the visible part."""
    f_e = features[nets["generator"].layers - 3]
    small = resize(mask, (f_e.shape[1], f_e.shape[2]))[..., :1]
    return VisibleFeatures(features[-1], f_e, small)


def _composite(image: Array, mask: Array, generated: Array) -> Array:
    return (1 - mask) * generated + mask * image


def _numbered(given: Arrays, prefix: str) -> list[tuple[int, Any]]:
    """`prefix0`, `prefix1`, ... as (number, array), in order."""
    numbers = (name.removeprefix(prefix) for name in given if name.startswith(prefix))
    return [
        (i, given[f"{prefix}{i}"])
        for i in sorted(int(n) for n in numbers if n.isdigit())
    ]
