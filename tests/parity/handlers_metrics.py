"""Metrics: pixels, resizing, Inception, FID and its kin, LPIPS, NIQE, HyperIQA, NIMA.

The networks' weights are not in the files: a formula makes them (README of the set).
"""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, nchw, nhwc
from PIL import Image

from picjax.evaluation.metrics import (
    bits,
    convnet,
    distribution,
    fid,
    hyperiqa,
    inception,
    lpips,
    nima,
    niqe,
    resize,
)
from picjax.evaluation.metrics import image as metrics

Tensors = dict[str, np.ndarray]


def formula(arch: str, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """The weights of all files: a hash of the name and of the index."""

    def make(name: str, shape: tuple[int, ...]) -> np.ndarray:
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

    return {name: make(name, shape) for name, shape in shapes.items()}


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


# ---- pixels ----


def best_of_many(fixture: Fixture) -> None:
    truth, images = fixture.inputs["gt"], fixture.inputs["pred"]
    truths = np.broadcast_to(truth[:, None], images.shape)
    each = (
        metrics.l1(images, truths),
        metrics.psnr(images, truths),
        metrics.tv(images),
    )
    expected = fixture.outputs
    fixture.assert_close("l1_psnr_tv", np.stack(each, -1), expected["l1_psnr_tv"])
    best = metrics.best_of(images, truth)
    np.testing.assert_array_equal(best, expected["best_correct"])
    # The original's loop never looks at the last sample.
    official = metrics.best_of(images[:, :-1], truth)
    np.testing.assert_array_equal(official, expected["best_official"])


def image_pair(fixture: Fixture) -> None:
    given, expected = fixture.inputs, fixture.outputs
    truth, image, mask = given["gt"], given["pred"], given["mask"][..., None]
    composite = np.where(mask > 0, truth, image)
    luma = [metrics.luma(x) for x in (image, truth)]
    grey = [(x @ metrics.LUMA)[..., None] for x in (image, truth)]
    l1, psnr, ssim = (f(image, truth) for f in (metrics.l1, metrics.psnr, metrics.ssim))
    hole_psnr = metrics.psnr(image, truth, mask)
    exact, single, rounded = 1e-6, 1e-5, 2e-5
    checks = {
        "picnet_l1": (l1, single),
        "picnet_psnr": (psnr, single),
        "picnet_tv": (metrics.tv(image), single),
        "mat_l1": (l1 / 255, exact),
        "mat_psnr": (psnr, exact),
        "mat_ssim": (ssim, exact),
        "skimage_ssim_gaussian": (ssim, exact),
        "skimage_ssim_default": (metrics.ssim_uniform(image, truth), exact),
        "pyiqa_psnr_rgb": (metrics.psnr_eps(image, truth), exact),
        "pyiqa_psnr_y": (metrics.psnr_eps(*grey), exact),
        "pyiqa_ssim_y": (metrics.ssim_luma(image, truth), rounded),
        "pyiqa_ssim_rgb": (ssim, exact),
        "hole_l1_255": (metrics.l1(image, truth, mask), exact),
        "hole_mse_255": (255**2 / 10 ** (hole_psnr / 10), exact),
        "composite_l1_255": (metrics.l1(composite, truth), exact),
    }
    if min(truth.shape[:2]) >= metrics.SMALLEST_MS_SSIM:
        checks["pyiqa_msssim_y"] = metrics.ms_ssim(*luma), rounded
        checks["pyiqa_msssim_rgb"] = metrics.ms_ssim(image, truth), rounded
    assert checks.keys() == expected.keys()
    for name, (actual, rtol) in checks.items():
        fixture.assert_close(name, actual, expected[name].reshape(()), rtol, 0.0)


def bits_per_dim(fixture: Fixture) -> None:
    given, expected = fixture.inputs, fixture.outputs
    for name, scale in (
        ("bpd", "discrete"),
        ("bpd_density_pm1", "density_pm1"),
        ("bpd_density_01", "density_01"),
    ):
        actual = bits.bits_per_dim(given["nll_nats"], int(given["dims"]), scale)
        fixture.assert_close(name, actual, expected[name], 1e-10, 0.0)


def resizing(fixture: Fixture) -> None:
    image, expected = fixture.inputs["image"], dict(fixture.outputs)
    height, width = fixture.meta["hyper"]["to"]
    for name, pillow in (
        ("bicubic", Image.Resampling.BICUBIC),
        ("bilinear", Image.Resampling.BILINEAR),
        ("nearest", Image.Resampling.NEAREST),
    ):
        actual = np.asarray(Image.fromarray(image).resize((width, height), pillow))
        fixture.assert_close(name, actual, expected.pop(f"pil_{name}_uint8"), 0.0, 1.0)
    halved = [niqe.halve(x.astype(np.float64)) for x in image.transpose(2, 0, 1)]
    fixture.assert_close(
        "matlab", np.stack(halved)[None], expected.pop("matlab_half"), 0.0, 1e-4
    )
    assert expected.keys() == resize.RULES.keys()
    for rule, value in expected.items():
        actual = nchw(resize.resize(jnp.asarray(image)[None], (height, width), rule))
        # The file's have float32 weights here, which alone are 2e-4 of 255 off.
        gate = 3e-4 if rule in ("torch_bicubic", "torch_bilinear_antialias") else 1e-4
        fixture.assert_close(rule, actual, value, 0.0, gate)


# ---- Inception ----


def inception_tensors(fixture: Fixture, variant: str) -> Tensors:
    tensors = formula("inception", inception.shapes(variant))
    check_formula(fixture, {"inception": tensors})
    return tensors


def gates(name: str) -> float:
    """Of the mean absolute value, as the file's tolerance has it."""
    return 1e-3 if name in ("2048", "logits", "logits_unbiased") else 3e-4


def inception_fid(fixture: Fixture) -> None:
    listed = {name: tuple(s) for name, s in fixture.meta["released_file"]["keys"]}
    assert listed == inception.shapes("fid")
    tensors = inception_tensors(fixture, "fid") | fixture.params
    params = inception.prepare(tensors)
    images, expected = jnp.asarray(fixture.inputs["images"]), fixture.outputs
    run = jax.jit(inception.features, static_argnames="taps")
    for pipeline in ("pytorch_fid", "tf_legacy", "clean"):
        x = jax.jit(resize.for_inception, static_argnums=1)(images, pipeline)
        corner, end = nchw(x)[..., :12, :12], nchw(x)[..., -12:, -12:]
        for name, actual in (("resized_corner", corner), ("resized_end", end)):
            fixture.assert_close(name, actual, expected[f"{pipeline}/{name}"], 0, 1e-6)
        for name, actual in run(params, x, taps=inception.TAPS).items():
            value = expected[f"{pipeline}/{name}"]
            relative(fixture, f"{pipeline}/{name}", actual, value, gates(name))
    small = jnp.asarray(nhwc(fixture.inputs["small"]))
    found = jax.jit(inception.maps)(params, small)
    for name, actual in found.items():
        actual = nchw(actual)
        for part, some in (
            ("mean", actual.mean((2, 3))),
            ("first3ch", actual[:, :3]),
            ("last2ch", actual[:, -2:]),
        ):
            label = f"small/{name}/{part}"
            relative(fixture, label, some, expected[label], 3e-4)
    heads = inception.TAPS[3:]
    for name, actual in run(params, small, taps=heads).items():
        label = f"small/{name}/mean"
        relative(fixture, label, actual, expected[label], gates(name))


def inception_torchvision(fixture: Fixture) -> None:
    tensors = inception_tensors(fixture, "torchvision")
    statistics = Fixture.load(fixture.path.with_name("inception_fid.npz")).params
    params = inception.prepare(tensors | statistics)
    images, expected = jnp.asarray(fixture.inputs["images"]), fixture.outputs

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        return inception.features(params, x, ("logits",), "torchvision")["logits"]

    x = resize.for_inception(images, "picnet")
    logits = run(params, x)
    relative(fixture, "logits", logits, expected["logits"], 1e-3)
    fixture.assert_close("p", jax.nn.softmax(logits, -1), expected["probs"], 1e-3, 1e-6)
    once = resize.resize(images / 127.5 - 1, (299, 299), "torch_bilinear_align_corners")
    plain = run(params, once)
    relative(fixture, "plain", plain, expected["logits_no_transform_input"], 1e-3)


def inception_score(fixture: Fixture) -> None:
    logits, hyper = fixture.inputs["logits"], fixture.hyper
    expected, splits = fixture.outputs, hyper["splits"]
    order = np.random.RandomState(2020).permutation(len(logits))
    np.testing.assert_array_equal(order, fixture.inputs["permutation_2020"])
    chunk = hyper["picnet_chunk"]
    pieces = [logits[i : i + chunk] for i in range(0, len(logits), chunk)]
    found = {
        "is_noshuffle": distribution.inception_score(logits, splits, None),
        "is_torchfidelity_shuffle2020": distribution.inception_score(logits, splits),
        "is_split1": distribution.inception_score(logits, 1, None),
        "is_picnet_chunks": distribution.picnet_inception_score(logits, chunk, splits),
        "is_picnet_each_chunk": [
            distribution.inception_score(x, splits, None) for x in pieces
        ],
    }
    for name, actual in found.items():
        fixture.assert_close(name, np.array(actual), expected[name], 1e-5, 1e-9)


# ---- sets of features ----


def fid_of_features(fixture: Fixture) -> None:
    a, b = fixture.inputs["features_1"], fixture.inputs["features_2"]
    expected = fixture.outputs
    stats = fid.measure(a), fid.measure(b)
    for i, found in enumerate(stats, 1):
        fixture.assert_close("mu", found.mean, expected[f"mu_{i}"], 1e-9, 1e-9)
        value = expected[f"sigma_{i}"]
        fixture.assert_close("sigma", found.covariance, value, 1e-9, 1e-9)
    for name in ("fid", "fid_eigvals"):
        fixture.assert_close(name, fid.distance(*stats), expected[name], 1e-6, 0)
    same = fid.distance(stats[0], stats[0])
    fixture.assert_close("same", same, expected["fid_same"], 0, 1e-8)
    biased = fid.distance(fid.measure(a, ddof=0), fid.measure(b, ddof=0))
    fixture.assert_close("biased", biased, expected["fid_biased_cov_mat"], 1e-6, 0)


def fid_singular(fixture: Fixture) -> None:
    a, b = (fid.measure(fixture.inputs[f"features_{i}"]) for i in (1, 2))
    expected = fixture.outputs["fid_exact"]
    fixture.assert_close("fid", fid.distance(a, b), expected, 1e-6, 0)


def inade_fid(fixture: Fixture) -> None:
    given, expected = fixture.inputs, fixture.outputs
    a, b, few = (fid.measure(given[name]) for name in ("act1", "act2", "few"))
    for i, found in enumerate((a, b), 1):
        fixture.assert_close("mu", found.mean, expected[f"mu{i}"], 1e-9, 1e-12)
        value = expected[f"sigma{i}"]
        fixture.assert_close("sigma", found.covariance, value, 1e-9, 1e-12)
    fixture.assert_close("fid", fid.distance(a, b), expected["fid"], 1e-6, 0)
    fixture.assert_close("few", fid.distance(few, a), expected["fid_few"], 1e-6, 0)
    fixture.assert_close("self", fid.distance(a, a), expected["fid_self"], 0, 1e-8)
    images = jnp.asarray(given["images"])
    side = int(given["resize_size"])
    wide = resize.resize(images, (side, 2 * side), "torch_bilinear")
    for name, x in (("prep", images), ("prep_resized", wide)):
        actual = nchw(resize.for_inception(x, "pytorch_fid"))[..., ::13, ::13]
        fixture.assert_close(name, actual, expected[name], 0, 1e-5)
    x = jnp.asarray(nhwc(given["pool_x"]))
    smooth, largest = convnet.smooth(x, False), convnet.max_pool(x, 3, 1, 1)
    fixture.assert_close("pool_avg", nchw(smooth), expected["pool_avg"], 1e-5, 1e-6)
    fixture.assert_close("pool_max", nchw(largest), expected["pool_max"], 0, 0)


def kid(fixture: Fixture) -> None:
    given, expected, hyper = fixture.inputs, fixture.outputs, fixture.hyper
    a, b = given["features_1"], given["features_2"]
    drawn = [
        (a[i], b[j]) for i, j in zip(given["subset_1"], given["subset_2"], strict=True)
    ]
    each = np.array([distribution.mmd(x, y) for x, y in drawn])
    rbf = np.array([distribution.mmd(x, y, distribution.rbf) for x, y in drawn])
    found = {
        "kid_each": each,
        "kid_mean_std": np.array([each.mean(), each.std()]),
        "kid_rbf10_each": rbf,
        "kid_stylegan_form": each.mean(),
        "kid_torchfidelity_seed2020": np.array(
            distribution.kid(a, b, hyper["subsets"], hyper["subset_size"])
        ),
    }
    for name, actual in found.items():
        fixture.assert_close(name, actual, expected[name], 1e-8, 1e-10)


def precision_recall(fixture: Fixture) -> None:
    given, expected = fixture.inputs, fixture.outputs
    k, single = fixture.hyper["neighbourhood"], 1e-7  # stored as float32 had them
    found = distribution.precision_recall(given["real"], given["generated"], k)
    fixture.assert_close("precision", found[0], expected["precision"], 0, single)
    fixture.assert_close("recall", found[1], expected["recall"], 0, single)
    harmonic = 2 * found[0] * found[1] / sum(found)
    fixture.assert_close("f_score", harmonic, expected["f_score"], 1e-6, 0)


def pids_uids(fixture: Fixture) -> None:
    given, expected = fixture.inputs, fixture.outputs
    real, fake = given["real"].astype(np.float64), given["fake"].astype(np.float64)
    found = distribution.discriminate(real, fake)
    w, b = found.coefficients, found.intercept
    fixture.assert_close("coef", w, expected["coef"], 1e-6, 1e-7)
    fixture.assert_close("intercept", np.array([b]), expected["intercept"], 1e-6, 1e-7)
    for name, rows in (("real", real), ("fake", fake)):
        value = expected[f"decision_{name}"]
        fixture.assert_close(name, rows @ w + b, value, 1e-5, 1e-6)
    fixture.assert_close("u_ids", found.u_ids, expected["u_ids"], 0, 1e-12)
    fixture.assert_close("p_ids", found.p_ids, expected["p_ids"], 0, 1e-12)
    gaps = [np.clip(1 - t * (x @ w + b), 0, None) for x, t in ((real, 1), (fake, -1))]
    cost = (w @ w + b * b) / 2 + sum((g * g).sum() for g in gaps)
    fixture.assert_close("objective", cost, expected["objective"], 1e-9, 0)


# ---- LPIPS ----


def lpips_model(net: str, version: str) -> tuple[lpips.Lpips, Tensors]:
    tensors = formula(lpips.ARCHITECTURES[net], lpips.shapes(net))
    return lpips.make(tensors, net, version), tensors


def lpips_pair(fixture: Fixture) -> None:
    """Every network and version that the file has."""
    a, b = (lpips.to_float(jnp.asarray(fixture.inputs[f"img{i}"])) for i in (0, 1))
    expected = fixture.outputs
    by_layer, spatial = jax.jit(lpips.by_layer), jax.jit(lpips.spatial)

    @jax.jit
    def activations(model: lpips.Lpips, x: Any) -> lpips.Taps:
        shift, scale = (
            jnp.array(v)[None, None, None] for v in (lpips.SHIFT, lpips.SCALE)
        )
        return lpips.backbone(model.params, (x - shift) / scale, model.net)

    for net in sorted({name.split("/")[0] for name in expected}):
        listed = {name: tuple(s) for name, s in fixture.meta["backbone_keys"][net]}
        assert listed == lpips.shapes(net)
        model, tensors = lpips_model(net, "0.1")
        for version in lpips.VERSIONS:
            if f"{net}/v{version}/total" not in expected:
                continue
            model = lpips.make(tensors, net, version)
            layers, stem = by_layer(model, a, b), f"{net}/v{version}"
            fixture.assert_close(stem, layers, expected[f"{stem}/layers"], 1e-5, 1e-7)
            total = expected[f"{stem}/total"]
            fixture.assert_close(stem, layers.sum(0), total, 1e-5, 1e-7)
            if f"{stem}/spatial" in expected:
                actual, value = (
                    spatial(model, a, b)[:, None],
                    expected[f"{stem}/spatial"],
                )
                fixture.assert_close(f"{stem} spatial", actual, value, 1e-4, 1e-6)
        check_formula(fixture, {lpips.ARCHITECTURES[net]: tensors})
        for i, tap in enumerate(activations(model, a)):
            mean, some = expected[f"{net}/feat_mean/{i}"], nchw(tap)[:, :2]
            relative(fixture, f"{net} {i}", tap.mean((1, 2)), mean, 1e-5)
            value = expected[f"{net}/feat_first2ch/{i}"]
            relative(fixture, f"{net} {i} map", some, value, 1e-4)


def lpips_heads(fixture: Fixture) -> None:
    """The heads that the package carries are the released ones."""
    with np.load(lpips.HEADS) as file:
        assert set(file.files) == set(fixture.params)
        for name, value in fixture.params.items():
            np.testing.assert_array_equal(file[name], value)


def lpips_diversity(fixture: Fixture) -> None:
    samples, expected = fixture.inputs["samples"], fixture.outputs
    n, (start, end) = samples.shape[1], fixture.hyper["centre_hole"]
    embed = jax.jit(lambda model, x: lpips.embed(model, lpips.to_float(x)))
    distances = jax.jit(lpips.pair_distances)

    def of(model: lpips.Lpips, images: np.ndarray, pairs: Any) -> np.ndarray:
        nothing = np.zeros(images.shape[2:4], np.float32)
        return np.stack(
            [
                distances(model, embed(model, x), pairs, nothing)[0]
                for x, pairs in zip(images, pairs, strict=True)
            ]
        )

    pairs = fixture.inputs["random_pairs"]
    for version in lpips.VERSIONS:
        model, _ = lpips_model("alex", version)
        every = of(model, samples, [lpips.all_pairs(n)] * len(samples))
        follow = of(model, samples, [lpips.consecutive(n)] * len(samples))
        found = {
            "consecutive_each": follow,
            "bicyclegan_mean": follow.mean(),
            "all_pairs_mean": every.mean(),
        }
        if version == "0.1":
            full = of(model, samples, pairs)
            mask = np.ones((*samples.shape[2:4], 1), np.uint8)
            mask[start:end, start:end] = 0
            crop = lpips.box(mask)
            assert crop is not None
            part = of(model, samples[:, :, *crop], pairs)
            found |= {
                "random_pairs_full": full,
                "random_pairs_full_mean": full.mean(),
                "random_pairs_centre_crop": part,
                "random_pairs_centre_crop_mean": part.mean(),
            }
        for name, actual in found.items():
            value = expected[f"v{version}/{name}"]
            fixture.assert_close(name, actual, value, 1e-5, 1e-7)


# ---- without reference ----


def niqe_score(fixture: Fixture) -> None:
    image, expected = fixture.inputs["image"], fixture.outputs
    params, block = fixture.params, fixture.hyper["block"]
    model = niqe.Model(params["mu_pris_param"][0], params["cov_pris_param"])
    for kind in niqe.LUMAS:
        grey = niqe.luma(image, kind)
        theirs = expected[f"{kind}/luma"].astype(np.float64)
        # Halves are rounded as the last bit of the sum has it: a few pixels differ.
        assert np.abs(grey - theirs).max() <= 1 and (grey != theirs).mean() < 1e-3
        found, sharpness = niqe.features(theirs, block)
        fixture.assert_close(kind, found, expected[f"{kind}/features"], 1e-4, 1e-4)
        value = expected[f"{kind}/block_sharpness"]
        fixture.assert_close(kind, sharpness, value, 1e-6, 0)
        score = niqe.score(grey, model, block)
        fixture.assert_close(kind, score, expected[f"{kind}/niqe"], 1e-3, 0)
        if kind != "gray":  # pyiqa rounds to float32 on the way
            pyiqa = f"pyiqa_{kind.removesuffix('_y')}"
            fixture.assert_close(pyiqa, score, expected[pyiqa], 2e-3, 0)
    grey = niqe.luma(image, "ycbcr_y")
    rows, columns = (n // block * block for n in grey.shape)
    one, _ = niqe.normalise(grey[:rows, :columns])
    two, _ = niqe.normalise(niqe.halve(grey[:rows, :columns] / 255) * 255)
    for name, actual in (
        ("mscn_scale1_first20", one[:20, :20]),
        ("mscn_scale2_first20", two[:20, :20]),
        ("mscn_scale2_last8", two[-8:, -8:]),
    ):
        fixture.assert_close(name, actual, expected[f"ycbcr_y/{name}"], 0, 1e-4)
    fits = np.stack(niqe.fit_aggd(fixture.inputs["aggd_samples"]), 1)
    fixture.assert_close("aggd", fits, expected["aggd_alpha_betal_betar"], 1e-6, 0)
    eighteen = niqe.block_features(fixture.inputs["feature18_block"][None])[0]
    fixture.assert_close("feature18", eighteen, expected["feature18"], 1e-6, 1e-9)


def niqe_pristine(fixture: Fixture) -> None:
    """The model that the package carries is the released one."""
    model, params = niqe.released(), fixture.params
    np.testing.assert_array_equal(model.mean, params["mu_pris_param"][0])
    np.testing.assert_array_equal(model.covariance, params["cov_pris_param"])


def niqe_refit(fixture: Fixture) -> None:
    given, expected, hyper = fixture.inputs, fixture.outputs, fixture.hyper
    block = hyper["block"]
    sharpness = np.stack([niqe.features(x * 1.0, block)[1] for x in given["pristine"]])
    fixture.assert_close("sharpness", sharpness, expected["block_sharpness"], 1e-6, 0)
    largest = sharpness.max(1, keepdims=True)
    np.testing.assert_array_equal(
        sharpness > niqe.SHARP * largest, expected["selected_blocks"]
    )
    model = niqe.refit([x * 1.0 for x in given["pristine"]], block)
    fixture.assert_close("mu", model.mean, expected["mu"], 1e-4, 1e-5)
    deviation = np.sqrt(np.diag(expected["cov"]))
    scale = np.outer(deviation, deviation)
    correlation = expected["cov"] / scale
    fixture.assert_close("cov", model.covariance / scale, correlation, 0, 1e-3)
    score = niqe.score(given["test"] * 1.0, model, block)
    fixture.assert_close("score", score, expected["test_niqe"], 1e-3, 0)


def hyperiqa_score(fixture: Fixture) -> None:
    listed = {name: tuple(shape) for name, shape in fixture.meta["keys"]}
    assert listed == hyperiqa.shapes()
    tensors = formula("hyperiqa", listed)
    check_formula(fixture, {"hyperiqa": tensors})
    params = hyperiqa.prepare(tensors | fixture.params)
    x = resize.normalise(jnp.asarray(fixture.inputs["images"]))
    expected = fixture.outputs

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        last = hyperiqa.resnet(params, x)[-1].mean((1, 2))
        return hyperiqa.score(params, x), hyperiqa.target_network(params, x), last

    score, (vector, layers), last = run(params, x)
    fixture.assert_close("score", score, expected["score"], 1e-4, 1e-5)
    relative(fixture, "vector", vector, expected["target_in_vec"], 1e-4)
    relative(fixture, "last", last, expected["hyper_in_feat_mean"], 1e-4)
    for k, (weights, bias) in enumerate(layers, 1):
        flat = weights.reshape(len(weights), -1)
        relative(fixture, f"fc{k}b", bias, expected[f"target_fc{k}b"], 1e-4)
        if k == 5:
            relative(fixture, "fc5w", flat, expected["target_fc5w"], 1e-4)
            continue
        first = expected[f"target_fc{k}w_first64"]
        # Sums of 1,008 terms of either sign, four convolutions after the vector's.
        relative(fixture, f"fc{k}w", flat[:, :64], first, 5e-4)
        mean = expected[f"target_fc{k}w_absmean"]
        relative(fixture, f"fc{k}w mean", jnp.abs(flat).mean(1), mean, 1e-4)


def nima_score(fixture: Fixture) -> None:
    vgg = formula("vgg16", lpips.shapes("vgg"))
    shapes = nima.shapes()
    head = formula("nima", {k: v for k, v in shapes.items() if k not in vgg})
    check_formula(fixture, {"vgg16": vgg, "nima": head})
    params = nima.prepare(vgg | head)
    x = resize.normalise(jnp.asarray(fixture.inputs["images"]))
    expected = fixture.outputs

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        p = nima.distribution(params, x)
        return nima.pooled(params, x), p, *nima.moments(p)

    names = ("gap", "dist", "mean_score", "std_score")
    for name, actual in zip(names, run(params, x), strict=True):
        fixture.assert_close(name, actual, expected[name], 1e-5, 1e-6)


HANDLERS: dict[tuple[str, str], Callable[[Fixture], None]] = {
    ("metrics", "picnet_best_of_many"): best_of_many,
    ("metrics", "image_pair_64"): image_pair,
    ("metrics", "image_pair_192"): image_pair,
    ("metrics", "bits_per_dim"): bits_per_dim,
    ("metrics", "resize"): resizing,
    ("metrics", "inception_fid"): inception_fid,
    ("metrics", "inception_torchvision"): inception_torchvision,
    ("metrics", "inception_score"): inception_score,
    ("metrics", "fid"): fid_of_features,
    ("metrics", "fid_singular"): fid_singular,
    ("inade", "fid_arithmetic"): inade_fid,
    ("metrics", "kid"): kid,
    ("metrics", "precision_recall"): precision_recall,
    ("metrics", "pids_uids"): pids_uids,
    ("metrics", "lpips"): lpips_pair,
    ("metrics", "lpips_heads_released"): lpips_heads,
    ("metrics", "lpips_diversity"): lpips_diversity,
    ("metrics", "niqe"): niqe_score,
    ("metrics", "niqe_pristine_released"): niqe_pristine,
    ("metrics", "niqe_refit"): niqe_refit,
    ("metrics", "hyperiqa"): hyperiqa_score,
    ("metrics", "nima_vgg16"): nima_score,
}
