"""Metrics by name: which there are, which can be measured, and how they are made."""

from collections.abc import Callable, Sequence

from picjax.cli import UserError, check_choice
from picjax.data.sources import DataConfig
from picjax.evaluation.metrics import image, lpips, niqe
from picjax.evaluation.metrics import inception_suite as inception
from picjax.evaluation.metrics import no_reference_suite as no_reference
from picjax.evaluation.metrics.lpips_suite import Lpips, LpipsDiversity
from picjax.evaluation.metrics.networks import Settings, Shared, check
from picjax.evaluation.metrics.suite import METRICS, Metric
from picjax.evaluation.metrics.weights import NoWeights

FEATURE_METRICS: dict[str, Callable[[Shared], Metric]] = {
    "lpips": Lpips,
    "lpips_diversity": LpipsDiversity,
    "fid": inception.Fid,
    "kid": inception.Kid,
    "is": inception.InceptionScore,
    "picnet_is": inception.PicnetInceptionScore,
    "pr": inception.PrecisionRecall,
    "ids": inception.Ids,
    "niqe": no_reference.make_niqe,
    "hyperiqa": no_reference.make_hyperiqa,
    "nima": no_reference.make_nima,
}
NAMES = (*METRICS, *FEATURE_METRICS)


def parse_names(text: str, what: str) -> list[str]:
    """The metrics that `l1,psnr` or `all` names; `basic` are those without networks.

    Args:
      text: names with commas between.
      what: where it was said, such as `--metrics`.

    Raises:
      UserError: for a name that is none, and when there is none.
    """
    if text in ("all", "basic"):
        return list(NAMES if text == "all" else METRICS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        check_choice(what, name, NAMES)
    if not names:
        raise UserError(f"{what} is empty; give some of {', '.join(NAMES)}")
    return list(dict.fromkeys(names))


def not_applying(
    data: DataConfig | None,
    likelihood: bool,
    size: tuple[int, int],
    num: int,
    images: int,
    net: str = "alex",
) -> dict[str, str]:
    """Metrics that cannot be measured here, and why.

    Args:
      data: of a run's config; None for files.
      likelihood: whether its system has one.
      size: height and width of the images.
      num: completions of each.
      images: how many there are.
      net: LPIPS's backbone.
    """
    missing: dict[str, str] = {}
    if data is None or data.name != "scenes" or list(data.masks) != ["center"]:
        missing["posterior"] = "needs a run on the data set scenes with centre masks"
    if not likelihood:
        missing["likelihood"] = "needs a run of a system that has one, such as pixelcnn"
    if min(size) < len(image.WINDOW):
        missing["ssim"] = f"needs {len(image.WINDOW)} pixels a side"
    if (size[0] // niqe.BLOCK) * (size[1] // niqe.BLOCK) < 2:
        missing["niqe"] = f"needs two blocks of {niqe.BLOCK} pixels"
    smallest = lpips.SMALLEST[net]
    if min(size) < smallest:
        why = f"needs {smallest} pixels a side"
        missing |= {"lpips": why, "lpips_diversity": why}
    if num < 2:
        missing["lpips_diversity"] = "needs two completions an image or more"
    for name, fewest in inception.FEWEST.items():
        if images < fewest:
            missing[name] = f"needs {fewest:,} images or more"
    return missing


def make(names: Sequence[str], settings: Settings) -> dict[str, Metric]:
    """The metrics named; those of one network share it.

    Raises:
      UserError: for a setting that is none, or weights that are not to be had.
    """
    check(settings)
    shared = Shared(settings)
    return {name: _make_one(name, shared) for name in names}


def make_available(
    names: Sequence[str], settings: Settings
) -> tuple[dict[str, Metric], dict[str, str]]:
    """As `make`, and why others of these are left out: their weights are not there.

    Raises:
      UserError: for anything else.
    """
    check(settings)
    shared = Shared(settings)
    made: dict[str, Metric] = {}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            made[name] = _make_one(name, shared)
        except NoWeights as error:
            left_out[name] = f"no weights {error.name}"
    return made, left_out


def _make_one(name: str, shared: Shared) -> Metric:
    return METRICS[name]() if name in METRICS else FEATURE_METRICS[name](shared)
