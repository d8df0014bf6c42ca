"""Metrics by name: which exist, which apply, and how they are created."""

from collections.abc import Callable, Sequence

from picjax.cli import UserError, check_choice
from picjax.data.sources import DataConfig
from picjax.evaluation.metrics import (
    backbones,
    features,
    hyperiqa,
    image,
    lpips,
    nima,
    niqe,
)
from picjax.evaluation.metrics.layout import LayoutDiversity
from picjax.evaluation.metrics.likelihood import Likelihood
from picjax.evaluation.metrics.networks import Networks, Settings
from picjax.evaluation.metrics.posterior import Posterior
from picjax.evaluation.metrics.resize import PIPELINES
from picjax.evaluation.metrics.results import Accumulator
from picjax.evaluation.metrics.seam import Seam
from picjax.evaluation.metrics.styles import Styles
from picjax.evaluation.metrics.weights import NoWeights

BASIC: dict[str, Callable[[], Accumulator]] = {
    **image.PIXEL_METRICS,
    "seam": Seam,
    "posterior": Posterior,
    "styles": Styles,
    "class_diversity": lambda: LayoutDiversity("label"),
    "instance_diversity": lambda: LayoutDiversity("instance"),
    "likelihood": Likelihood,
}
NETWORK_METRICS: dict[str, Callable[[Networks], Accumulator]] = {
    "lpips": lpips.Lpips,
    "lpips_diversity": lpips.LpipsDiversity,
    "fid": features.Fid,
    "kid": features.Kid,
    "is": features.InceptionScore,
    "picnet_is": features.PicnetInceptionScore,
    "pr": features.PrecisionRecall,
    "ids": features.Ids,
    "niqe": niqe.Niqe,
    "hyperiqa": hyperiqa.metric,
    "nima": nima.metric,
}
NAMES = (*BASIC, *NETWORK_METRICS)
# PICNet's pipeline is for its Inception Score alone (torchvision's network).
INPUTS = tuple(name for name in PIPELINES if name != "picnet")


def parse_names(text: str, option: str) -> list[str]:
    """The metrics that `l1,psnr`, `all` or `basic` (those without networks) names.

    Args:
      text: names separated by commas.
      option: where the text comes from, such as `--metrics`.

    Raises:
      UserError: if a name is unknown, or there is none.
    """
    if text in ("all", "basic"):
        return list(NAMES if text == "all" else BASIC)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        check_choice(option, name, NAMES)
    if not names:
        raise UserError(f"{option} is empty; give some of {', '.join(NAMES)}")
    return list(dict.fromkeys(names))


def inapplicable(
    data: DataConfig | None,
    has_likelihood: bool,
    size: tuple[int, int],
    num: int,
    images: int,
    net: str = "alex",
) -> dict[str, str]:
    """Metrics that cannot be measured here -> reason.

    Args:
      data: of a run's config; None for files.
      has_likelihood: whether the run's system has a likelihood.
      size: height and width of the images.
      num: completions per image.
      images: number of images.
      net: LPIPS's backbone.
    """
    reasons: dict[str, str] = {}
    has_scenes = data is not None and data.name == "scenes"
    has_maps = data is not None and bool(data.get("maps"))
    masks = [] if data is None else list(data.masks)
    if not has_maps or num < 2:
        reason = "needs a run of inade, and two samples per layout or more"
        reasons |= {"class_diversity": reason, "instance_diversity": reason}
    if not (has_scenes and has_maps) or masks:
        reasons["styles"] = "needs a run of inade on the data set scenes, without masks"
    if not has_scenes or has_maps or masks != ["center"]:
        reasons["posterior"] = "needs a run on the data set scenes with centre masks"
    if not has_likelihood:
        reasons["likelihood"] = "needs a run of a system with one, such as pixelcnn"
    if min(size) < image.SMALLEST_SSIM:
        reasons["ssim"] = f"needs {image.SMALLEST_SSIM} pixels per side"
    if (size[0] // niqe.BLOCK) * (size[1] // niqe.BLOCK) < 2:
        reasons["niqe"] = f"needs two blocks of {niqe.BLOCK} pixels"
    smallest = lpips.SMALLEST[net]
    if min(size) < smallest:
        reason = f"needs {smallest} pixels per side"
        reasons |= {"lpips": reason, "lpips_diversity": reason}
    if num < 2:
        several = "needs two completions per image or more"
        reasons |= {"diversity": several, "lpips_diversity": several}
    for name, fewest in features.FEWEST.items():
        if images < fewest:
            reasons[name] = f"needs {fewest:,} images or more"
    return reasons


def check(settings: Settings) -> None:
    """Refuses unknown settings.

    Raises:
      UserError: naming the setting.
    """
    choices = {
        "pipeline": INPUTS,
        "net": backbones.RELEASED,
        "version": lpips.VERSIONS,
        "luma": niqe.LUMAS,
    }
    for name, values in choices.items():
        check_choice(f"--feature {name}", getattr(settings, name), tuple(values))
    pairs = settings.pairs
    if pairs not in ("all", "consecutive") and not (pairs.isdigit() and int(pairs)):
        raise UserError(
            f"--feature pairs '{pairs}' is neither all, consecutive nor a number; "
            "give one of them"
        )


def create(names: Sequence[str], networks: Networks) -> dict[str, Accumulator]:
    """The named metrics; those that use the same network share it.

    Raises:
      UserError: if a setting is unknown or weights are unavailable.
    """
    check(networks.settings)
    return {name: _create_one(name, networks) for name in names}


def create_available(
    names: Sequence[str], networks: Networks
) -> tuple[dict[str, Accumulator], dict[str, str]]:
    """As `create`; metrics whose weights are unavailable are returned with the reason.

    Raises:
      UserError: if a setting is unknown.
    """
    check(networks.settings)
    metrics: dict[str, Accumulator] = {}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            metrics[name] = _create_one(name, networks)
        except NoWeights as error:
            left_out[name] = f"no weights {error.name}"
    return metrics, left_out


def _create_one(name: str, networks: Networks) -> Accumulator:
    return BASIC[name]() if name in BASIC else NETWORK_METRICS[name](networks)
