"""Which settings a slice trains fastest with, by compiling them: picjax.plan --search.

Tried are the precision of computation, recomputation in the backward pass, sharding of the
state, and the images of a step; only the last changes what is learnt, apart from rounding.
If not even the config's own batch fits, gradients of smaller ones are averaged.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from picjax.aot import Program
from picjax.system import Config

DOUBLINGS = 3  # of the batch, or halvings
DTYPES = ("bfloat16", "float32")

Changes = Mapping[str, Any]  # key of the config -> value


class Trial(NamedTuple):
    """A compiled step.

    Attributes:
      changes: from the config.
      program: what it costs each device.
      rate: images per second, as estimated; 0: it does not fit.
    """

    changes: Changes
    program: Program
    rate: float


Compile = Callable[[Changes], Trial]


def search(
    config: Config, chips: int, lengths: Iterable[int], compile_step: Compile
) -> Iterator[Trial]:
    """Yield trials of all combinations; of batches, growing ones until one does not fit.

    Args:
      config: to start from.
      chips: of the slice.
      lengths: of the mesh's axis `fsdp`.
      compile_step: makes a trial.
    """
    for changes in combinations(config, lengths):
        larger = trials(changes, batches(config), False, compile_step)
        first = next(larger)
        yield first
        yield from larger
        if not first.rate:
            yield from trials(changes, parts(config, chips), True, compile_step)


def combinations(config: Config, lengths: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Precision, recomputation and sharding, as far as the method has them."""
    choices: dict[str, Sequence[Any]] = {
        "model.dtype": DTYPES if "dtype" in config.model else (),
        "model.remat": (False, True) if "remat" in config.model else (),
        "mesh.data": () if config.mesh.data == -1 else (-1,),
        "mesh.fsdp": tuple(lengths),
    }
    choices = {key: values for key, values in choices.items() if values}
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def batches(config: Config) -> list[dict[str, int]]:
    """The config's batch, and larger ones."""
    sizes = [config.batch_size * 2**i for i in range(DOUBLINGS + 1)]
    return [{"batch_size": size} for size in sizes]


def parts(config: Config, chips: int) -> list[dict[str, int]]:
    """Parts of the config's batch that split over the chips, for as many steps."""
    numbers = [2**i for i in range(1, DOUBLINGS + 1)]
    return [
        {
            "batch_size": config.batch_size // n,
            "opt.accumulate": config.opt.accumulate * n,
        }
        for n in numbers
        if config.batch_size % (n * chips) == 0
    ]


def trials(
    changes: Changes, sizes: Iterable[Changes], until: bool, compile_step: Compile
) -> Iterator[Trial]:
    """Yield trials up to the first that fits, or, with `until` false, does not fit."""
    for size in sizes:
        trial = compile_step({**changes, **size})
        yield trial
        if bool(trial.rate) == until:
            return


def describe_trial(trial: Trial) -> str:
    """A trial as a line of text."""
    settings = " ".join(f"{key}={value}" for key, value in trial.changes.items())
    if not trial.rate:
        return f"{settings}: does not fit"
    memory = trial.program.memory.peak / 1e9
    return f"{settings}: {memory:,.3f} GB per chip, about {trial.rate:,.0f} images/s"


def describe_best(trials: Iterable[Trial]) -> str:
    """The quickest trial as flags of the command line."""
    best = max(trials, key=lambda trial: trial.rate)
    if not best.rate:
        return "nothing fits; take a slice with more chips, or smaller images"
    flags = " ".join(f"--config.{key}={value}" for key, value in best.changes.items())
    return f"quickest         {flags}"
