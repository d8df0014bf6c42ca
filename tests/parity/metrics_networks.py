"""Networks that measure: Inception, LPIPS, HyperIQA, NIMA.

Their weights are not in the files: a formula makes them (README of the set).
"""

import math
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nchw, nhwc

from picjax.evaluation.metrics import (
    backbones,
    hyperiqa,
    inception,
    layers,
    lpips,
    nima,
    resize,
)

Tensors = dict[str, np.ndarray]
ARCHITECTURES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
# Inception's batch-norm statistics of the public set, which files without any use.
STATISTICS = Path(__file__).parent / "inception_statistics.npz"


def formula(arch: str, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Weights of all files: a hash of the parameter's name and the element's index."""

    def one(name: str, shape: tuple[int, ...]) -> np.ndarray:
        with np.errstate(over="ignore"):
            x = np.arange(math.prod(shape), dtype=np.uint32)
            x += np.uint32(zlib.crc32(f"{arch}/{name}".encode()))
            x ^= x >> np.uint32(16)
            x *= np.uint32(0x85EBCA6B)
            x ^= x >> np.uint32(13)
            x *= np.uint32(0xC2B2AE35)
            x ^= x >> np.uint32(16)
        u = (x >> np.uint32(8)).astype(np.float32) * np.float32(2**-23) - np.float32(1)
        if len(shape) > 1:
            u = u * np.float32(2.0 ** (1 - math.prod(shape[1:]).bit_length() // 2))
        else:
            u = 1 + u / 4 if name.endswith(".weight") else u / 16
        return u.reshape(shape).astype(np.float32)

    return {name: one(name, shape) for name, shape in shapes.items()}


def check_formula(fixture: Fixture, tensors: Mapping[str, Tensors]) -> None:
    """`check/ARCH/first8/NAME` and `check/ARCH/sum/NAME` of a file."""
    for key, expected in fixture.raw.items():
        if not key.startswith("check/"):
            continue
        _, arch, kind, name = key.split("/")
        if arch not in tensors:
            continue
        found = tensors[arch][name].reshape(-1)
        if kind == "first8":
            np.testing.assert_array_equal(found[:8], expected)
        else:
            total = found.astype(np.float64).sum()
            fixture.assert_close(key, total, expected, 1e-9, 1e-9)


def relative(fixture: Fixture, name: str, actual: Any, expected: Any, gate: float):
    """To `gate` of the mean absolute value of the expected array."""
    expected = np.asarray(expected)
    atol = gate * float(np.abs(expected).mean())
    fixture.assert_close(name, actual, expected, 0.0, atol)


def match(pattern: str, text: str) -> tuple[Any, ...]:
    """The groups of a pattern that the whole text matches."""
    found = re.fullmatch(pattern, text)
    assert found is not None, text
    return found.groups()


# ---- Inception ----


def inception_tensors(fixture: Fixture, variant: str) -> Tensors:
    tensors = formula("inception", inception.shapes(variant))
    check_formula(fixture, {"inception": tensors})
    return tensors


def gate(tap: str) -> float:
    """Of the mean absolute value, as the files' tolerance has it."""
    return 1e-3 if tap in ("2048", "logits", "logits_unbiased") else 3e-4


def check_inception_fid(fixture: Fixture) -> None:
    if "released_file" in fixture.meta:
        listed = {name: tuple(s) for name, s in fixture.meta["released_file"]["keys"]}
        assert listed == inception.shapes("fid")
    params = inception.prepare(inception_tensors(fixture, "fid") | fixture.params)
    run = jax.jit(inception.features, static_argnames="taps")
    for pipeline in sorted(
        {name.split("/")[0] for name in fixture.outputs} - {"small"}
    ):
        images = jnp.asarray(fixture.inputs["images"])
        x = jax.jit(resize.for_inception, static_argnums=1)(images, pipeline)
        expected = below(fixture.outputs, f"{pipeline}/")
        taps = tuple(name for name in expected if name in inception.TAPS)
        rows = run(params, x, taps=taps)
        for name, value in expected.items():
            label, (height, width) = f"{pipeline}/{name}", value.shape[-2:]
            if name in rows:
                relative(fixture, label, rows[name], value, gate(name))
            elif name == "resized_corner":
                fixture.assert_close(
                    label, nchw(x)[..., :height, :width], value, 0, 1e-6
                )
            else:
                assert name == "resized_end"
                end = nchw(x)[..., -height:, -width:]
                fixture.assert_close(label, end, value, 0, 1e-6)
    if "small" in fixture.inputs:
        check_inception_maps(fixture, params)


def check_inception_maps(fixture: Fixture, params: Any) -> None:
    """Every stage of an image that is fed as it is."""
    small = jnp.asarray(nhwc(fixture.inputs["small"]))
    maps = jax.jit(inception.maps)(params, small)
    heads = jax.jit(inception.features, static_argnames="taps")(
        params, small, taps=inception.TAPS[3:]
    )
    for label, expected in below(fixture.outputs, "small/").items():
        name, part = label.split("/")
        if name in heads:
            relative(fixture, label, heads[name], expected, gate(name))
            continue
        actual = nchw(maps[name])
        if part == "mean":
            actual = actual.mean((2, 3))
        else:
            side, count = match(r"(first|last)(\d+)ch", part)
            actual = (
                actual[:, : int(count)] if side == "first" else actual[:, -int(count) :]
            )
        relative(fixture, label, actual, expected, 3e-4)


def check_inception_torchvision(fixture: Fixture) -> None:
    """With the file's batch-norm statistics, or those that its set shares."""
    tensors = inception_tensors(fixture, "torchvision")
    errors = []
    for statistics in shared_statistics(fixture):
        try:
            check_torchvision_logits(fixture, inception.prepare(tensors | statistics))
            return
        except AssertionError as error:
            errors.append(error)
    raise errors[0]


def shared_statistics(fixture: Fixture) -> Iterator[Tensors]:
    """The file's own, the public set's, and those of other Inception files around."""
    if fixture.params:
        yield fixture.params
        return
    with np.load(STATISTICS) as file:
        yield dict(file)
    for path in sorted(fixture.path.parent.rglob("*.npz")):
        other = Fixture.load(path)
        if other.system == fixture.system and "Conv2d_1a_3x3.bn.running_mean" in (
            other.params
        ):
            yield other.params


def check_torchvision_logits(fixture: Fixture, params: Any) -> None:
    images, expected = jnp.asarray(fixture.inputs["images"]), fixture.outputs

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        return inception.features(params, x, ("logits",), "torchvision")["logits"]

    logits = run(params, resize.for_inception(images, "picnet"))
    relative(fixture, "logits", logits, expected["logits"], 1e-3)
    if "probs" in expected:
        p = jax.nn.softmax(logits, -1)
        fixture.assert_close("p", p, expected["probs"], 1e-3, 1e-6)
    if "logits_no_transform_input" in expected:
        rule = "torch_bilinear_align_corners"
        once = resize.resize(images / 127.5 - 1, (299, 299), rule)
        plain = expected["logits_no_transform_input"]
        relative(fixture, "plain", run(params, once), plain, 1e-3)


# ---- LPIPS ----


def lpips_model(net: str, version: str) -> tuple[lpips.Model, Tensors]:
    tensors = formula(ARCHITECTURES[net], backbones.shapes(net))
    return lpips.make_model(tensors, net, version), tensors


def check_lpips(fixture: Fixture) -> None:
    """Every network, version and array that the file has."""
    a, b = (lpips.to_float(jnp.asarray(fixture.inputs[f"img{i}"])) for i in (0, 1))
    by_layer, spatial = jax.jit(lpips.by_layer), jax.jit(lpips.spatial)
    activations = jax.jit(
        lambda model, x: backbones.activations(
            model.params, lpips.scale_input(x), model.net
        )
    )
    for net in sorted({name.split("/")[0] for name in fixture.outputs}):
        expected = below(fixture.outputs, f"{net}/")
        if net in fixture.meta.get("backbone_keys", {}):
            listed = {name: tuple(s) for name, s in fixture.meta["backbone_keys"][net]}
            assert listed == backbones.shapes(net)
        model, tensors = lpips_model(net, "0.1")
        check_formula(fixture, {ARCHITECTURES[net]: tensors})
        taps, layers = activations(model, a), {}
        for name, value in expected.items():
            label, (head, *rest) = f"{net}/{name}", name.split("/")
            if head.startswith("v"):
                model, _ = lpips_model(net, head.removeprefix("v"))
                if rest[0] == "spatial":
                    actual = spatial(model, a, b)[:, None]
                    fixture.assert_close(label, actual, value, 1e-4, 1e-6)
                    continue
                if head not in layers:
                    layers[head] = by_layer(model, a, b)
                actual = layers[head] if rest[0] == "layers" else layers[head].sum(0)
                fixture.assert_close(label, actual, value, 1e-5, 1e-7)
            elif head == "feat_mean":
                relative(fixture, label, taps[int(rest[0])].mean((1, 2)), value, 1e-5)
            else:
                count = int(head.removeprefix("feat_first").removesuffix("ch"))
                actual = nchw(taps[int(rest[0])])[:, :count]
                relative(fixture, label, actual, value, 1e-4)


def check_lpips_heads(fixture: Fixture) -> None:
    """The heads that the package carries are the released ones."""
    with np.load(lpips.HEADS) as file:
        assert set(file.files) >= set(fixture.params)
        for name, value in fixture.params.items():
            np.testing.assert_array_equal(file[name], value)


def check_lpips_diversity(fixture: Fixture) -> None:
    samples, given = fixture.inputs["samples"], fixture.inputs
    n, size = samples.shape[1], samples.shape[2:4]
    named = re.search(r"\((alex|vgg|squeeze)\)", fixture.kind)
    net = fixture.hyper.get("net", named[1] if named else "alex")
    embed = jax.jit(lambda model, x: lpips.embed(model, lpips.to_float(x)))
    distances = jax.jit(lpips.pair_distances)

    def each(model: lpips.Model, images: np.ndarray, pairs: Any) -> np.ndarray:
        nowhere = np.zeros(images.shape[2:4], np.float32)
        return np.stack(
            [
                distances(model, embed(model, x), jnp.asarray(p), nowhere)[0]
                for x, p in zip(images, pairs, strict=True)
            ]
        )

    def centre_crop(images: np.ndarray) -> np.ndarray:
        hole = [int(x) for x in fixture.hyper["centre_hole"]]
        top, bottom, left, right = hole if len(hole) == 4 else (*hole, *hole)
        mask = np.ones((*size, 1), np.uint8)
        mask[top:bottom, left:right] = 0
        box = lpips.hole_box(mask)
        assert box is not None
        return images[:, :, *box]

    pairs = {
        "consecutive": [lpips.consecutive(n)] * len(samples),
        "bicyclegan": [lpips.consecutive(n)] * len(samples),
        "all_pairs": [lpips.all_pairs(n)] * len(samples),
        "random_pairs_full": given.get("random_pairs"),
        "random_pairs_centre_crop": given.get("random_pairs"),
    }
    measured: dict[tuple[str, str], np.ndarray] = {}
    for name, expected in fixture.outputs.items():
        version, protocol = name.split("/")
        kind = protocol.removesuffix("_mean").removesuffix("_each")
        if (version, kind) not in measured:
            model, _ = lpips_model(net, version.removeprefix("v"))
            images = centre_crop(samples) if kind.endswith("crop") else samples
            measured[version, kind] = each(model, images, pairs[kind])
        actual = measured[version, kind]
        actual = actual if np.ndim(expected) else actual.mean()
        fixture.assert_close(name, actual, expected, 1e-5, 1e-7)


# ---- networks without reference ----


def check_hyperiqa(fixture: Fixture) -> None:
    shapes = hyperiqa.shapes()
    if "keys" in fixture.meta:
        assert {name: tuple(s) for name, s in fixture.meta["keys"]} == shapes
    tensors = formula("hyperiqa", shapes)
    check_formula(fixture, {"hyperiqa": tensors})
    params = layers.fold(tensors | fixture.params)
    x = resize.normalise(jnp.asarray(fixture.inputs["images"]))

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        return hyperiqa.score(params, x), hyperiqa.target_network(params, x)

    score, target = run(params, x)
    for name, expected in fixture.outputs.items():
        if name == "score":
            fixture.assert_close("score", score, expected, 1e-4, 1e-5)
        elif name in ("target_in_vec", "hyper_in_feat_mean"):
            in_vec = name == "target_in_vec"
            actual = target.vector if in_vec else target.features.mean((1, 2))
            relative(fixture, name, actual, expected, 1e-4)
        else:
            pattern = r"target_fc(\d)(w|b)(_first(\d+)|_absmean)?"
            layer, part, form, count = match(pattern, name)
            weights, bias = target.layers[int(layer) - 1]
            actual = bias if part == "b" else weights.reshape(len(weights), -1)
            if form == "_absmean":
                actual = jnp.abs(actual).mean(1)
            elif count:
                actual = actual[:, : int(count)]
            # Generated weights sum 1,008 terms of either sign.
            relative(fixture, name, actual, expected, 5e-4 if count else 1e-4)


def check_nima(fixture: Fixture) -> None:
    vgg, shapes = formula("vgg16", backbones.shapes("vgg")), nima.shapes()
    head = formula("nima", {k: v for k, v in shapes.items() if k not in vgg})
    check_formula(fixture, {"vgg16": vgg, "nima": head})
    params = layers.fold(vgg | head)
    x = resize.normalise(jnp.asarray(fixture.inputs["images"]))

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        pooled, p = layers.apply(nima.Network(), params, x)
        return pooled, p, *nima.moments(p)

    names = ("gap", "dist", "mean_score", "std_score")
    actual: dict[str, Any] = dict(zip(names, run(params, x), strict=True))
    for name, expected in fixture.outputs.items():
        fixture.assert_close(name, actual[name], expected, 1e-5, 1e-6)


CHECKS = {
    "InceptionV3, FID variant": check_inception_fid,
    "InceptionV3, torchvision variant (PICNet Inception Score)": (
        check_inception_torchvision
    ),
    "LPIPS": check_lpips,
    "LPIPS linear heads": check_lpips_heads,
    "HyperIQA network": check_hyperiqa,
    "NIMA, VGG16 variant as in pyiqa": check_nima,
    **{
        f"LPIPS diversity protocols ({x})": check_lpips_diversity for x in ARCHITECTURES
    },
}
