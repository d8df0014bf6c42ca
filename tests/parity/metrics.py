"""Metrics: pixels, resizing, features, NIQE; networks are in metrics_networks.py."""

import re
from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import metrics_networks
import numpy as np
from fixture import Fixture, nchw, nhwc
from PIL import Image

from picjax.evaluation.metrics import (
    distribution,
    fid,
    image,
    layers,
    likelihood,
    niqe,
    resize,
)

# ---- pixels ----


def check_best_of_many(fixture: Fixture) -> None:
    truth, images = fixture.inputs["gt"], fixture.inputs["pred"]
    truths = np.broadcast_to(truth[:, None], images.shape)
    measures = image.l1(images, truths), image.psnr(images, truths), image.tv(images)
    expected = fixture.outputs
    fixture.assert_close("measures", np.stack(measures, -1), expected["l1_psnr_tv"])
    best = image.best_of(images, truth)
    np.testing.assert_array_equal(best, expected["best_correct"])
    # The original's loop never considers the last sample.
    official = image.best_of(images[:, :-1], truth)
    np.testing.assert_array_equal(official, expected["best_official"])


def check_image_pair(fixture: Fixture) -> None:
    """Each measure that the file has."""
    truth, pred = fixture.inputs["gt"], fixture.inputs["pred"]
    mask = fixture.inputs.get("mask", np.ones(truth.shape[:2], np.uint8))[..., None]
    grey = [(x @ image.LUMA)[..., None] for x in (pred, truth)]
    exact, single, rounded = 1e-6, 1e-5, 2e-5  # relative

    def mat_psnr() -> np.ndarray:
        equal = (pred == truth).all()  # MAT reports infinity, PICNet 100
        return np.array(np.inf) if equal else image.psnr(pred, truth)

    def hole_mse() -> np.ndarray:
        difference = pred.astype(np.float64) - truth
        return image.hole_mean(np.square(difference), mask)

    composite = np.where(mask > 0, truth, pred)
    measures: dict[str, tuple[Callable[[], np.ndarray], float]] = {
        "picnet_l1": (lambda: image.l1(pred, truth), single),
        "picnet_psnr": (lambda: image.psnr(pred, truth), single),
        "picnet_tv": (lambda: image.tv(pred), single),
        "mat_l1": (lambda: image.l1(pred, truth) / 255, exact),
        "mat_psnr": (mat_psnr, exact),
        "mat_ssim": (lambda: image.ssim(pred, truth), exact),
        "skimage_ssim_gaussian": (lambda: image.ssim(pred, truth), exact),
        "skimage_ssim_default": (lambda: image.ssim_uniform(pred, truth), exact),
        "pyiqa_psnr_rgb": (lambda: image.psnr_eps(pred, truth), exact),
        "pyiqa_psnr_y": (lambda: image.psnr_eps(*grey), exact),
        "pyiqa_ssim_y": (lambda: image.ssim_luma(pred, truth), rounded),
        "pyiqa_ssim_rgb": (lambda: image.ssim(pred, truth), exact),
        "pyiqa_msssim_y": (
            lambda: image.ms_ssim(image.luma(pred), image.luma(truth)),
            rounded,
        ),
        "pyiqa_msssim_rgb": (lambda: image.ms_ssim(pred, truth), rounded),
        "hole_l1_255": (lambda: image.l1(pred, truth, mask), exact),
        "hole_mse_255": (hole_mse, exact),
        "composite_l1_255": (lambda: image.l1(composite, truth), exact),
    }
    for name, expected in fixture.outputs.items():
        measure, rtol = measures[name]
        actual, value = measure(), expected.reshape(())
        if np.isinf(value):
            assert actual == value, name
        else:
            fixture.assert_close(name, actual, value, rtol, 0.0)
    # PSNR in the hole is that of the error in the hole.
    if (mask == 0).any() and (pred != truth).any():
        psnr = 10 * np.log10(255**2 / hole_mse())
        fixture.assert_close("hole", image.psnr(pred, truth, mask), psnr, exact, 0.0)


def check_bits_per_dim(fixture: Fixture) -> None:
    nats, dims = fixture.inputs["nll_nats"], int(fixture.inputs["dims"])
    for name, expected in fixture.outputs.items():
        scale = "discrete" if name == "bpd" else name.removeprefix("bpd_")
        actual = likelihood.bits_per_dim(nats, dims, scale)
        fixture.assert_close(name, actual, expected, 1e-10, 0.0)


def check_resizing(fixture: Fixture) -> None:
    """Each rule that the file has."""
    pixels = fixture.inputs["image"]
    for name, expected in fixture.outputs.items():
        pillow = re.fullmatch(r"pil_(\w+)_uint8", name)
        if pillow:
            height, width = expected.shape[:2]
            method = Image.Resampling[pillow[1].upper()]
            actual = np.asarray(Image.fromarray(pixels).resize((width, height), method))
            fixture.assert_close(name, actual, expected, 0.0, 1.0)
        elif name == "matlab_half":
            halved = [
                resize.halve(x.astype(np.float64)) for x in pixels.transpose(2, 0, 1)
            ]
            fixture.assert_close(name, np.stack(halved)[None], expected, 0.0, 1e-4)
        else:
            height, width = expected.shape[2:]
            actual = nchw(
                resize.resize(jnp.asarray(pixels)[None], (height, width), name)
            )
            # The file's have float32 weights here, which alone are 2e-4 of 255 off.
            single = name in ("torch_bicubic", "torch_bilinear_antialias")
            fixture.assert_close(name, actual, expected, 0.0, 3e-4 if single else 1e-4)


# ---- sets of logits and features ----


def check_inception_score(fixture: Fixture) -> None:
    logits, hyper = fixture.inputs["logits"], fixture.hyper
    splits, chunk = hyper["splits"], hyper["picnet_chunk"]
    for name, order in fixture.inputs.items():
        if seed := re.fullmatch(r"permutation_(\d+)", name):
            drawn = np.random.RandomState(int(seed[1])).permutation(len(logits))
            np.testing.assert_array_equal(drawn, order)
    score = distribution.inception_score
    for name, expected in fixture.outputs.items():
        if name == "is_noshuffle":
            actual = score(logits, splits, None)
        elif shuffled := re.fullmatch(r"is_torchfidelity_shuffle(\d+)", name):
            actual = score(logits, splits, int(shuffled[1]))
        elif count := re.fullmatch(r"is_split(\d+)", name):
            actual = score(logits, int(count[1]), None)
        elif name == "is_picnet_chunks":
            actual = distribution.picnet_inception_score(logits, chunk, splits)
        else:
            assert name == "is_picnet_each_chunk"
            starts = range(0, chunk * len(expected), chunk)
            actual = [score(logits[i : i + chunk], splits, None) for i in starts]
        fixture.assert_close(name, np.array(actual), expected, 1e-5, 1e-9)


def check_fid(fixture: Fixture) -> None:
    a, b = fixture.inputs["features_1"], fixture.inputs["features_2"]
    stats = {"1": fid.measure(a), "2": fid.measure(b)}
    distance = fid.distance(stats["1"], stats["2"])
    biased = fid.distance(fid.measure(a, ddof=0), fid.measure(b, ddof=0))
    # A matrix square root is inexact for singular covariances.
    rtol = 1e-6 if min(len(a), len(b)) > a.shape[1] else 1e-3
    for name, expected in fixture.outputs.items():
        kind, _, index = name.rpartition("_")
        if kind == "mu":
            fixture.assert_close(name, stats[index].mean, expected, 1e-9, 1e-9)
        elif kind == "sigma":
            fixture.assert_close(name, stats[index].covariance, expected, 1e-9, 1e-9)
        elif name == "fid_same":
            same = fid.distance(stats["1"], stats["1"])
            fixture.assert_close(name, same, expected, 0, 1e-8)
        elif name == "fid_exact":
            fixture.assert_close(name, distance, expected, 1e-6, 0)
        elif name == "fid_biased_cov_mat":
            fixture.assert_close(name, biased, expected, rtol, 0)
        else:
            assert name in ("fid", "fid_eigvals")
            fixture.assert_close(name, distance, expected, rtol, 0)


def check_inade_frechet(fixture: Fixture) -> None:
    given, expected = fixture.inputs, fixture.outputs
    a, b, few = (fid.measure(given[name]) for name in ("act1", "act2", "few"))
    for i, stats in enumerate((a, b), 1):
        fixture.assert_close("mu", stats.mean, expected[f"mu{i}"], 1e-9, 1e-12)
        value = expected[f"sigma{i}"]
        fixture.assert_close("sigma", stats.covariance, value, 1e-9, 1e-12)
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
    smooth, largest = layers.smooth(x, False), layers.max_pool(x, 3, 1, 1)
    fixture.assert_close("pool_avg", nchw(smooth), expected["pool_avg"], 1e-5, 1e-6)
    fixture.assert_close("pool_max", nchw(largest), expected["pool_max"], 0, 0)


def check_kid(fixture: Fixture) -> None:
    given, hyper = fixture.inputs, fixture.hyper
    a, b = given["features_1"], given["features_2"]
    gamma = hyper.get("gamma", "1/d")
    kernel = partial(
        distribution.polynomial,
        degree=hyper.get("degree", 3),
        gamma=1 / a.shape[1] if gamma == "1/d" else float(gamma),
        coef0=float(hyper.get("coef0", 1)),
    )
    drawn = [
        (a[i], b[j]) for i, j in zip(given["subset_1"], given["subset_2"], strict=True)
    ]
    each = np.array([distribution.mmd(x, y, kernel) for x, y in drawn])
    for name, expected in fixture.outputs.items():
        if rbf := re.fullmatch(r"kid_rbf([\d.]+)_each", name):
            wide = partial(distribution.rbf, sigma=float(rbf[1]))
            actual = np.array([distribution.mmd(x, y, wide) for x, y in drawn])
        elif seed := re.fullmatch(r"kid_torchfidelity_seed(\d+)", name):
            subsets, size = hyper["subsets"], hyper["subset_size"]
            spread = distribution.kid(a, b, subsets, size, int(seed[1]), kernel)
            actual = np.array(spread)
        else:
            mean_std = np.array([each.mean(), each.std()])
            actual = {
                "kid_each": each,
                "kid_mean_std": mean_std,
                "kid_stylegan_form": each.mean(),
            }[name]
        fixture.assert_close(name, actual, expected, 1e-8, 1e-10)


def check_precision_recall(fixture: Fixture) -> None:
    given, expected = fixture.inputs, fixture.outputs
    k, single = fixture.hyper["neighbourhood"], 1e-7  # stored as float32 had them
    found = distribution.precision_recall(given["real"], given["generated"], k)
    fixture.assert_close("precision", found[0], expected["precision"], 0, single)
    fixture.assert_close("recall", found[1], expected["recall"], 0, single)
    if "f_score" in expected and sum(found):
        harmonic = 2 * found[0] * found[1] / sum(found)
        fixture.assert_close("f_score", harmonic, expected["f_score"], 1e-6, 0)


def check_pids_uids(fixture: Fixture) -> None:
    given, expected = fixture.inputs, fixture.outputs
    real, fake = given["real"].astype(np.float64), given["fake"].astype(np.float64)
    c = float(fixture.hyper.get("C", 1))
    separation = distribution.discriminate(real, fake, c=c)
    w, b = separation.coefficients, separation.intercept
    fixture.assert_close("coef", w, expected["coef"], 1e-6, 1e-7)
    fixture.assert_close("intercept", np.array([b]), expected["intercept"], 1e-6, 1e-7)
    for name, rows in (("real", real), ("fake", fake)):
        if f"decision_{name}" in expected:
            value = expected[f"decision_{name}"]
            fixture.assert_close(name, rows @ w + b, value, 1e-5, 1e-6)
    fixture.assert_close("u_ids", separation.u_ids, expected["u_ids"], 0, 1e-12)
    fixture.assert_close("p_ids", separation.p_ids, expected["p_ids"], 0, 1e-12)
    if "objective" in expected:
        sides = ((real, 1), (fake, -1))
        gaps = [np.clip(1 - t * (x @ w + b), 0, None) for x, t in sides]
        cost = (w @ w + b * b) / 2 + c * sum((g * g).sum() for g in gaps)
        fixture.assert_close("objective", cost, expected["objective"], 1e-9, 0)


# ---- NIQE ----


def niqe_model(fixture: Fixture) -> niqe.Model:
    params = fixture.params
    if "mu_pris_param" not in params:
        return niqe.released()
    return niqe.Model(params["mu_pris_param"].reshape(-1), params["cov_pris_param"])


def check_niqe(fixture: Fixture) -> None:
    """Each luma, patch and fit that the file has."""
    given, block = fixture.inputs, fixture.hyper.get("block", niqe.BLOCK)
    model = niqe_model(fixture)
    pyiqa = {"pyiqa_yiq": "yiq_y", "pyiqa_ycbcr": "ycbcr_y", "pyiqa_gray": "gray"}
    for name, expected in fixture.outputs.items():
        luma = name.split("/")[0]
        if luma in niqe.LUMAS:
            check_niqe_luma(fixture, name, model, block)
        elif name == "aggd_alpha_betal_betar":
            fits = np.stack(niqe.fit_aggd(given["aggd_samples"]), 1)
            fixture.assert_close(name, fits, expected, 1e-6, 0)
        elif name == "feature18":
            eighteen = niqe.block_features(given["feature18_block"][None])[0]
            fixture.assert_close(name, eighteen, expected, 1e-6, 1e-9)
        else:  # pyiqa rounds to float32 on the way
            score = niqe.score(niqe.luma(given["image"], pyiqa[name]), model, block)
            fixture.assert_close(name, score, expected, 2e-3, 0)


def check_niqe_luma(fixture: Fixture, name: str, model: niqe.Model, block: int) -> None:
    """One array of one luma."""
    luma, part = name.split("/")
    expected = fixture.outputs[name]
    grey = niqe.luma(fixture.inputs["image"], luma)
    theirs = fixture.outputs.get(f"{luma}/luma", grey).astype(np.float64)
    if part == "luma":
        # Halves are rounded as the last bit of the sum has it: a few pixels differ.
        assert np.abs(grey - theirs).max() <= 1 and (grey != theirs).mean() < 1e-3
    elif part == "features":
        features, _ = niqe.image_features(theirs, block)
        fixture.assert_close(name, features, expected, 1e-4, 1e-4)
    elif part == "block_sharpness":
        _, sharpness = niqe.image_features(theirs, block)
        fixture.assert_close(name, sharpness, expected, 1e-6, 0)
    elif part == "niqe":
        fixture.assert_close(name, niqe.score(grey, model, block), expected, 1e-3, 0)
    else:
        patch = re.fullmatch(r"mscn_scale(\d)_(first|last)(\d+)", part)
        assert patch is not None, name
        rows, columns = (n // block * block for n in theirs.shape)
        x = theirs[:rows, :columns]
        if patch[1] == "2":
            x = resize.halve(x / 255) * 255
        normal, size = niqe.normalise(x)[0], int(patch[3])
        corner = slice(None, size) if patch[2] == "first" else slice(-size, None)
        fixture.assert_close(name, normal[corner, corner], expected, 0, 1e-4)


def check_niqe_pristine(fixture: Fixture) -> None:
    """The model that the package carries is the released one."""
    model, params = niqe.released(), fixture.params
    np.testing.assert_array_equal(model.mean, params["mu_pris_param"].reshape(-1))
    np.testing.assert_array_equal(model.covariance, params["cov_pris_param"])


def check_niqe_refit(fixture: Fixture) -> None:
    given, expected, hyper = fixture.inputs, fixture.outputs, fixture.hyper
    block, sharp = hyper["block"], hyper.get("sharpness_threshold", niqe.SHARP)
    greys = [x * 1.0 for x in given["pristine"]]
    sharpness = np.stack([niqe.image_features(x, block)[1] for x in greys])
    fixture.assert_close("sharpness", sharpness, expected["block_sharpness"], 1e-6, 0)
    selected = sharpness > sharp * sharpness.max(1, keepdims=True)
    np.testing.assert_array_equal(selected, expected["selected_blocks"])
    if "n_blocks" in expected:
        assert selected.sum() == expected["n_blocks"]
    model = niqe.refit(greys, block, sharp)
    fixture.assert_close("mu", model.mean, expected["mu"], 1e-4, 1e-5)
    deviation = np.sqrt(np.diag(expected["cov"]))
    scale = np.outer(deviation, deviation)
    correlation = expected["cov"] / scale
    fixture.assert_close("cov", model.covariance / scale, correlation, 0, 1e-3)
    if "test" in given:
        score = niqe.score(given["test"] * 1.0, model, block)
        fixture.assert_close("score", score, expected["test_niqe"], 1e-3, 0)


INADE_FRECHET = "Frechet distance and Inception input preparation"  # of system inade
CHECKS = {
    "PICNet best-of-many selection": check_best_of_many,
    "L1, PSNR, TV, SSIM, MS-SSIM": check_image_pair,
    "bits per dimension": check_bits_per_dim,
    "image resizing rules": check_resizing,
    "Inception Score from logits": check_inception_score,
    "FID from features": check_fid,
    "FID when samples < dimensions (singular covariance)": check_fid,
    "KID": check_kid,
    "improved precision and recall": check_precision_recall,
    "P-IDS / U-IDS": check_pids_uids,
    "NIQE": check_niqe,
    "NIQE pristine model": check_niqe_pristine,
    "NIQE pristine model refit": check_niqe_refit,
    INADE_FRECHET: check_inade_frechet,
    **metrics_networks.CHECKS,
}
