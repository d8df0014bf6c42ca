"""The official test procedures, and every name in the official checkpoints."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nchw, nhwc
from handlers_networks import choose, widths

from picjax.losses.reconstruction import resize
from picjax.models import picmm, picnet
from picjax.official import picmm as picmm_names
from picjax.official import picnet as picnet_names
from picjax.official.mapping import Table, from_official, official_names, to_official

KEY = jax.random.key(0)


class Net:
    """A module with its variables, whose statistics go on from call to call."""

    def __init__(
        self, module: Any, fixture: Fixture, name: str, table: Table, *inputs: Any
    ) -> None:
        target = abstract(module, *inputs)
        params = below(fixture.params, f"{name}/")
        self.module = module
        self.variables = from_official(params, target, table)
        self.apply = jax.jit(
            partial(module.apply, update_stats=True, mutable=["stats"])
        )

    def __call__(self, *inputs: Any) -> Any:
        """Spectral norm iterates, as the original does in its test mode too."""
        outputs, state = self.apply(self.variables, *inputs)
        self.variables = self.variables | state
        return outputs

    def frozen(self, *inputs: Any) -> Any:
        return self.module.apply(self.variables, *inputs, update_stats=False)


def abstract(module: Any, *inputs: Any) -> Any:
    """The shapes of the module's variables for these inputs (arrays or shapes)."""
    inputs = tuple(
        jax.ShapeDtypeStruct(x, jnp.float32) if isinstance(x, tuple) else x
        for x in inputs
    )
    return jax.eval_shape(partial(module.init, update_stats=False), KEY, *inputs)


def split_image(fixture: Fixture) -> tuple[Any, Any]:
    """The image in [-1, 1] and the mask, b h w 3."""
    image, mask = (jnp.asarray(nhwc(fixture.inputs[n])) for n in ("img", "mask"))
    return 2 * image - 1, mask


def composite(image: Any, mask: Any, generated: Any) -> Any:
    return (1 - mask) * generated + mask * image


def check_png(fixture: Fixture, name: str, image: Any) -> None:
    """As the original saves: truncated to uint8, which rounding can move by one."""
    levels = np.trunc((np.asarray(image)[0] + 1) / 2 * 255)
    fixture.assert_close(name, levels, fixture.outputs[name], 0.0, 1.0)


def picnet_test(fixture: Fixture) -> None:
    hyper, out, table = fixture.hyper, fixture.outputs, picnet_names.TABLE
    image, mask = split_image(fixture)
    encoder = picnet.Encoder(z_nc=hyper["z_nc"], depth=hyper["L"], **widths(hyper))
    net_e = Net(encoder, fixture, "E", table, image)
    (mu, std), _, features = net_e(image * mask)
    f_m, f_e = features[-1], features[-3]
    small = resize(mask, f_e.shape[1:3])[..., :1]
    generator = picnet.ResGenerator(
        depth=hyper["LG"], output_scale=hyper["output_scale"], **widths(hyper)
    )
    net_g = Net(generator, fixture, "G", table, mu, f_m, f_e, small)
    judge = picnet.ResDiscriminator(**widths(hyper, "_d"))
    net_d = Net(judge, fixture, "D", table, image)
    fixture.assert_close("q_mu", nchw(mu), out["q_mu"])
    fixture.assert_close("q_sigma", nchw(std), out["q_sigma"])
    for i, eps in below(fixture.inputs, "eps").items():
        generated = net_g(mu + nhwc(eps) * std, f_m, f_e, small)[-1]
        sample = composite(image, mask, generated)
        fixture.assert_close(f"sample{i}", nchw(sample), out[f"sample{i}"])
        fixture.assert_close(f"score{i}", nchw(net_d(sample)), out[f"score{i}"])
        check_png(fixture, f"png{i}", sample)
    check_png(fixture, "png_truth", image)
    check_png(fixture, "png_mask", image * mask)


def picmm_test(fixture: Fixture) -> None:
    hyper, out, table = fixture.hyper, fixture.outputs, picmm_names.TABLE
    given = fixture.inputs
    image, mask = split_image(fixture)
    parts = jnp.concatenate([image * mask, image * (1 - mask)])
    side = image.shape[1] >> hyper.get("layers", 5)
    poolings = round(np.log2(side / hyper["latent_grid"]))
    encoder = picmm.Encoder(poolings=poolings, **widths(hyper))
    net_e = Net(encoder, fixture, "E", table, parts)
    mu, log_std, features = net_e(parts)
    z = mu + given["eps_encoder"] * jnp.exp(log_std)
    b = len(image)
    z_m, f_m, f_e = z[:b], features[-1][:b], features[-3][:b]
    small = resize(mask, f_e.shape[1:3])[..., :1]
    mixture = picmm.DynamicGMM(k=hyper["k"])
    net_m = Net(mixture, fixture, "GMM", table, z_m)
    generator = picmm.Generator(
        poolings=poolings, output_scale=hyper["output_scale"], **widths(hyper)
    )
    net_g = Net(generator, fixture, "G", table, z_m, z_m, f_m, f_e, small)
    fixture.assert_close("z_m", z_m, out["z_m"])
    fixture.assert_close("z_m_mu", mu[:b], out["z_m_mu"])
    logits, mu_hat, log_std_hat = net_m.frozen(z_m)
    fixture.assert_close("alpha", jax.nn.softmax(logits), out["alpha"])
    for i, eps in below(given, "eps_components").items():
        z_c = choose(mu_hat + eps * jnp.exp(log_std_hat), given[f"index{i}"])
        sample = composite(image, mask, net_g(z_m, z_c, f_m, f_e, small)[-1])
        fixture.assert_close(f"sample{i}", nchw(sample), out[f"sample{i}"])
        check_png(fixture, f"png{i}", sample)


def manifest(fixture: Fixture, nets: Mapping[str, tuple[Any, Table]]) -> None:
    """Every name, shape, type and alias of the published networks."""
    listed = below(fixture.raw, "manifest/")
    assert listed.keys() == nets.keys()
    for net, (target, table) in nets.items():
        zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), target)
        ours = to_official(zeros, table)
        entries = json.loads(str(listed[net]))
        described = {name: (x.shape, str(x.dtype)) for name, x in ours.items()}
        assert described == {n: (tuple(s), dtype) for n, s, dtype, _ in entries}, net
        for path, _ in jax.tree_util.tree_leaves_with_path(dict(target)):
            names, _ = official_names("/".join(key.key for key in path), table)
            aliases = [n for n, _, _, first in entries if first == names[0]]
            assert sorted(aliases) == sorted(names[1:]), (net, names[0])
        filled = from_official(
            {f"module.{n}": x for n, x in ours.items()}, zeros, table
        )
        assert jax.tree.structure(filled) == jax.tree.structure(zeros)


IMAGE = (1, 256, 256, 3)
COARSE, ENCODED, SMALL_MASK = (1, 8, 8, 128), (1, 32, 32, 128), (1, 32, 32, 1)


def picnet_manifest(fixture: Fixture) -> None:
    table = picnet_names.TABLE
    generator = picnet.ResGenerator()
    judge = abstract(picnet.ResDiscriminator(), IMAGE), table
    nets = {
        "E": (abstract(picnet.Encoder(), IMAGE), table),
        "G": (abstract(generator, COARSE, COARSE, ENCODED, SMALL_MASK), table),
        "D": judge,
        "D_rec": judge,
    }
    manifest(fixture, nets)


def picmm_manifest(fixture: Fixture) -> None:
    table, z = picmm_names.TABLE, (1, 256)
    generator = picmm.Generator()
    nets = {
        "E": (abstract(picmm.Encoder(), IMAGE), table),
        "G": (abstract(generator, z, z, COARSE, ENCODED, SMALL_MASK), table),
        "D": (abstract(picmm.Discriminator(), IMAGE), table),
        "GMM": (abstract(picmm.DynamicGMM(), z), table),
    }
    manifest(fixture, nets)


HANDLERS: dict[tuple[str, str], Callable[[Fixture], None]] = {
    ("picnet", "state_dict_manifest"): picnet_manifest,
    ("picnet", "test_sampling"): picnet_test,
    ("picmm", "state_dict_manifest"): picmm_manifest,
    ("picmm", "test_sampling"): picmm_test,
}
