"""What metrics that use a trained network share: settings, weights, the networks."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax

from picjax.cli import UserError
from picjax.evaluation.metrics import weights
from picjax.evaluation.metrics.layers import Params, fold
from picjax.evaluation.metrics.weights import Released

Shared = TypeVar("Shared")


class Settings(NamedTuple):
    """How metrics with networks are measured; `catalog.check` validates them.

    Attributes:
      weights: folder of weights (see `weights.load`).
      allow_random: use untrained networks if there are no weights; every number then
        says so.
      pipeline: Inception's input, one of `catalog.INPUTS`.
      reference: file of FID statistics to compare with instead of the truths'.
      net: LPIPS's backbone: alex, vgg or squeeze.
      version: LPIPS's, 0.1 or 0.0.
      pairs: LPIPS diversity's: `all`, `consecutive`, or a number of random ones.
      luma: NIQE's, a key of `niqe.LUMAS`.
      batch: images per pass of Inception and device.
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


class Networks:
    """The networks of one evaluation, each loaded when a metric first asks for it."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._errors: dict[str, UserError] = {}
        self._shared: dict[str, Any] = {}

    def load(self, released: Released) -> weights.Loaded:
        """A network's weights (`weights.load`); a failed load is not repeated."""
        name = released.names[0]
        if name in self._errors:
            raise self._errors[name]
        try:
            return weights.load(
                released, self.settings.weights, self.settings.allow_random
            )
        except UserError as error:
            self._errors[name] = error
            raise

    def share(self, name: str, create: Callable[["Networks"], Shared]) -> Shared:
        """The object of this name, created with these networks on the first request."""
        if name not in self._shared:
            self._shared[name] = create(self)
        return self._shared[name]

    def scorer(
        self,
        released: Released,
        function: Callable[[Params, jax.Array], jax.Array],
    ) -> "Scorer":
        """A compiled function of a network's parameters, shared by all who ask."""

        def create(networks: Networks) -> Scorer:
            loaded = networks.load(released)
            params = fold(loaded.tensors)
            return Scorer(partial(jax.jit(function), params), loaded.source)

        return self.share(released.names[0], create)


class Scorer(NamedTuple):
    """A network with its parameters, and the source of these."""

    score: Callable[[jax.Array], jax.Array]
    source: str
