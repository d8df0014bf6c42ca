"""The official test procedures, and every name in the official checkpoints."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nchw, nhwc
from handlers_networks import widths

from picjax.methods.picmm import net as picmm
from picjax.methods.picmm import official as picmm_names
from picjax.methods.picnet import net as picnet
from picjax.methods.picnet import official as picnet_names
from picjax.official import replay
from picjax.official.mapping import Table, from_official, official_names, to_official

KEY = jax.random.key(0)


def shapes(module: Any, variables: Any, image: tuple[int, ...]) -> Any:
    """The shapes of what the module puts out for images of this shape."""
    apply = partial(module.apply, update_stats=False)
    return jax.eval_shape(apply, variables, jax.ShapeDtypeStruct(image, jnp.float32))


def abstract(module: Any, *inputs: Any) -> Any:
    """The shapes of the module's variables for these inputs (arrays or shapes)."""
    inputs = tuple(
        jax.ShapeDtypeStruct(x, jnp.float32) if isinstance(x, tuple) else x
        for x in inputs
    )
    return jax.eval_shape(partial(module.init, update_stats=False), KEY, *inputs)


def read(fixture: Fixture, name: str, module: Any, table: Table, *inputs: Any) -> Any:
    """The module's variables, from the file's parameters of the net called `name`."""
    params = below(fixture.params, f"{name}/")
    return from_official(params, abstract(module, *inputs), table)


def check_procedure(
    fixture: Fixture, procedure: Callable[..., Any], nets: Any, variables: Any
) -> dict[str, Any]:
    """Compares all that the procedure returns; pictures as the original saves them.

    Those are truncated to uint8, which rounding can move by one.
    """
    ours = procedure(nets, variables, fixture.inputs)
    for name, array in ours.items():
        fixture.assert_close(name, array, fixture.outputs[name])
    image = 2 * fixture.inputs["img"] - 1
    pictures = {"png_truth": image, "png_mask": image * fixture.inputs["mask"]}
    pictures |= {name.replace("sample", "png"): x for name, x in ours.items()}
    for name in fixture.outputs:
        if name.startswith("png"):
            levels = np.trunc((np.asarray(nhwc(pictures[name]))[0] + 1) / 2 * 255)
            fixture.assert_close(name, levels, fixture.outputs[name], 0.0, 1.0)
    return ours


def picnet_test(fixture: Fixture) -> None:
    hyper, table = fixture.hyper, picnet_names.TABLE
    nets = {
        "encoder": picnet.Encoder(
            z_nc=hyper["z_nc"], depth=hyper["L"], **widths(hyper)
        ),
        "generator": picnet.ResGenerator(
            depth=hyper["LG"], output_scale=hyper["output_scale"], **widths(hyper)
        ),
    }
    judge = picnet.ResDiscriminator(**widths(hyper, "_d"))
    b, _, h, w = fixture.inputs["img"].shape
    image = b, h, w, 3
    variables = {"encoder": read(fixture, "E", nets["encoder"], table, image)}
    (mu, _), _, features = shapes(nets["encoder"], variables["encoder"], image)
    f_m, f_e = features[-1].shape, features[-3].shape
    small = (*f_e[:3], 1)
    variables["generator"] = read(
        fixture, "G", nets["generator"], table, mu.shape, f_m, f_e, small
    )
    ours = check_procedure(fixture, replay.picnet, nets, variables)
    score = replay.stateful(
        {"D": judge}, {"D": read(fixture, "D", judge, table, image)}, "D"
    )
    for name, expected in below(fixture.outputs, "score").items():
        found = score("D", nhwc(ours[f"sample{name}"]))
        fixture.assert_close(f"score{name}", nchw(found), expected)


def picmm_test(fixture: Fixture) -> None:
    hyper, table = fixture.hyper, picmm_names.TABLE
    b, _, h, w = fixture.inputs["img"].shape
    poolings = round(np.log2((h >> hyper.get("layers", 5)) / hyper["latent_grid"]))
    nets = {
        "encoder": picmm.Encoder(poolings=poolings, **widths(hyper)),
        "generator": picmm.Generator(
            poolings=poolings, output_scale=hyper["output_scale"], **widths(hyper)
        ),
        "mixture": picmm.DynamicGMM(k=hyper["k"]),
    }
    image = b, h, w, 3
    variables = {"encoder": read(fixture, "E", nets["encoder"], table, image)}
    mu, _, features = shapes(nets["encoder"], variables["encoder"], image)
    z, f_m, f_e = mu.shape, features[-1].shape, features[-3].shape
    small = (*f_e[:3], 1)
    variables["generator"] = read(
        fixture, "G", nets["generator"], table, z, z, f_m, f_e, small
    )
    variables["mixture"] = read(fixture, "GMM", nets["mixture"], table, z)
    check_procedure(fixture, replay.picmm, nets, variables)


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
