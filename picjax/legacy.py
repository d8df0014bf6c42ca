"""Transitional: the functional form of a system. Deleted when no method imports it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxtyping import Array, Float, PRNGKeyArray

from picjax.optim import linear_decay as learning_rate
from picjax.system import Batch, State, Tree, composite_all
from picjax.system import composite as keep_known
from picjax.system import initial_state as first_state

__all__ = ["first_state", "keep_known", "learning_rate"]


class System(NamedTuple):
    """Functions closed over modules and hyper-parameters."""

    init_: Callable[..., State]
    step: Callable[..., tuple[State, dict[str, Array]]]
    sample: Callable[..., Float[Array, "b n h w 3"]]
    evaluate: Callable[..., dict[str, Array]]
    visualize: Callable[..., dict[str, Array]]
    score_: Callable[..., Float[Array, " n"]] | None = None
    has_likelihood: bool = False
    mask_warnings: Callable[..., Sequence[str]] = lambda mask: ()

    @property
    def can_score(self) -> bool:
        return self.score_ is not None

    def score(self, variables, images):
        assert self.score_ is not None
        return self.score_(variables, images)

    def init(self, batch, key):
        return self.init_(key, batch)

    def complete(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray, n: int
    ) -> Float[Array, "b n h w 3"]:
        return composite_all(batch, self.sample(variables, batch, key, n))


def by_net(variables: Tree) -> dict[str, Tree]:
    """{params: {net: ..}, stats: {net: ..}} turned inside out."""
    params, stats = variables["params"], variables["stats"]
    return {n: {"params": params[n], "stats": stats.get(n, {})} for n in params}


def apply(
    nets: dict[str, Any],
    variables: dict[str, Tree],
    name: str,
    *inputs: Any,
    update_stats: int,
) -> tuple[Any, Tree]:
    """Runs a net: its output and its stats after the call.

    `update_stats` is the number of power iterations that spectral norm makes.
    """
    stats = variables[name].get("stats", {})
    if not update_stats:
        return nets[name].apply(variables[name], *inputs, update_stats=0), stats
    out, new = nets[name].apply(
        variables[name], *inputs, update_stats=update_stats, mutable=["stats"]
    )
    return out, new.get("stats", stats)


def put_stats(state: State, net: str, stats: Tree) -> State:
    """The state with the stats of one net replaced."""
    return state.replace(stats=state.stats | {net: stats})
