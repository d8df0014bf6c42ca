"""What metrics that ask a trained network share: settings, weights, the networks."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from picjax.cli import UserError, check_choice
from picjax.evaluation.metrics import lpips, niqe, resize, weights

# The pipeline of PICNet is for its Inception Score alone (torchvision's network).
INPUTS = tuple(name for name in resize.PIPELINES if name != "picnet")
Made = TypeVar("Made")


class Settings(NamedTuple):
    """How metrics with networks are measured.

    Attributes:
      weights: folder of weights (see `weights.load`).
      allow_random: measure with networks that were never trained where there are no
        weights; every number is branded.
      pipeline: Inception's input, one of INPUTS.
      reference: file of FID statistics to compare with instead of the truths'.
      net: LPIPS's backbone: alex, vgg or squeeze.
      version: LPIPS's, 0.1 or 0.0.
      pairs: LPIPS diversity's: `all`, `consecutive`, or a number of random ones.
      luma: NIQE's, a key of `niqe.LUMAS`.
      batch: images a pass of Inception.
      seed: of random pairs.
    """

    weights: str | None = None
    allow_random: bool = False
    pipeline: str = "tf_legacy"
    reference: str | None = None
    net: str = "alex"
    version: str = "0.1"
    pairs: str = "all"
    luma: str = "gray"
    batch: int = 16
    seed: int = 0


class Shared:
    """What metrics share: each network is loaded when a metric first asks for it."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._failed: dict[str, UserError] = {}
        self._made: dict[str, Any] = {}

    def load(self, network: str) -> weights.Loaded:
        """A network's weights; see `weights.load`. What failed is not tried again."""
        given = self.settings
        if network in self._failed:
            raise self._failed[network]
        try:
            return weights.load(network, given.weights, given.allow_random)
        except UserError as error:
            self._failed[network] = error
            raise

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What `make` gives, made when it is first asked for by this name."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


def check(settings: Settings) -> None:
    """Refuses settings that are none.

    Raises:
      UserError: naming it.
    """
    known = {
        "pipeline": INPUTS,
        "net": lpips.ARCHITECTURES,
        "version": lpips.VERSIONS,
        "luma": niqe.LUMAS,
    }
    for name, values in known.items():
        check_choice(f"--feature {name}", getattr(settings, name), tuple(values))
    pairs = settings.pairs
    if pairs not in ("all", "consecutive") and not (pairs.isdigit() and int(pairs)):
        raise UserError(
            f"--feature pairs '{pairs}' is neither all, consecutive nor a number; "
            "give one of them"
        )


def branded(unit: str, source: str) -> str:
    """The unit, which says so when no trained network stands behind the number."""
    return f"{unit} ({weights.RANDOM})" if source == weights.RANDOM else unit
