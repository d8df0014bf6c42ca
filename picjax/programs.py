"""The programs that complete images: one per shape, each compiled once."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from picjax import sharding
from picjax.completion import Completions, make_draw, visible_part
from picjax.system import System, Tree, side_by_side

ROOM = 16  # completions that a program for any number has room for, at least
CALLS = 10  # of a walk that is shown, in one program


class Request(NamedTuple):
    """How completions of a batch are drawn; all of it is static.

    Attributes:
      n: completions per image.
      num_candidates: how many are drawn, to keep the n that the method scores highest;
        None: n.
      composite: whether known pixels are the input's; otherwise the networks'.
    """

    n: int
    num_candidates: int | None = None
    composite: bool = True


class Stage(NamedTuple):
    """Completions of consecutive numbers on their way.

    Attributes:
      completions: finished, or as they are now.
      progress: share of the way that is behind them; 1: finished.
    """

    completions: Completions
    progress: float = 1.0


class Programs:
    """Draws completions of batches on this process's devices; threads may share it.

    Args:
      system: the method.
      variables: parameters and statistics of its networks.

    Attributes:
      variables: the same on the devices.
      compiled: the programs so far, by their shapes and static arguments.
    """

    def __init__(self, system: System, variables: Tree):
        self.compiled: dict[str, jax.stages.Compiled] = {}
        self._lock = threading.Lock()
        self._counts_draws = system.counts_draws
        self._walk_calls = system.walk_calls
        self._mesh = sharding.local_mesh()
        self.variables = self._replicated(variables)
        self._draw = jax.jit(
            make_draw(system), static_argnames=("n", "num_candidates", "composite")
        )

    def draw(
        self, batch: Mapping[str, Any], request: Request, seed: int
    ) -> Completions:
        """Draw completions of a batch, dispatched asynchronously.

        Args:
          batch: uint8 images and masks, as for `completion.visible_part`.
          request: how many, and which.
          seed: another seed gives other completions.
        """
        program, visible = self.prepare(batch, request)
        key = self._replicated(jax.random.key(seed % 2**32))
        drawn = program(self.variables, visible, key)
        if drawn.pixels.shape[1] == request.n:
            return drawn
        return drawn._replace(pixels=drawn.pixels[:, : request.n])

    def draw_in_parts(
        self, batch: Mapping[str, Any], request: Request, seed: int
    ) -> Iterator[Stage]:
        """Draw what `draw` does, as many completions at a time as are made side by side.

        Walks are shown every CALLS calls. All at once where a program draws a fixed
        number.
        """
        visible, room = self._inputs(batch, request)
        if "count" not in visible:
            yield Stage(self.draw(batch, request, seed))
            return
        key = self._replicated(jax.random.key(seed % 2**32))
        each = side_by_side(ROOM)
        for first in range(0, request.n, each):
            stop = min(first + each, request.n)
            visible["count"] = self._counted(first, stop)
            if self._walk_calls:
                yield from self._walk(visible, stop - first, key)
            else:
                program = self._program(visible, request._replace(n=room))
                drawn = program(self.variables, visible, key)
                yield Stage(drawn._replace(pixels=drawn.pixels[:, first:stop]))

    def _walk(
        self, visible: Mapping[str, Array], n: int, key: Array
    ) -> Iterator[Stage]:
        """The n completions from the number `count[0]` on, a few calls at a time."""
        walk: Any = np.zeros((1, n, *visible["image"].shape[1:]), np.float32)
        for first in range(0, self._walk_calls, CALLS):
            stop = min(first + CALLS, self._walk_calls)
            state = {
                "walk": self._replicated(walk),
                "calls": self._counted(first, stop),
            }
            visible = {**visible, **state}
            drawn = self._program(visible, Request(n))(self.variables, visible, key)
            walk = drawn.walk
            yield Stage(drawn, stop / self._walk_calls)

    def prepare(
        self, batch: Mapping[str, Any], request: Request
    ) -> tuple[jax.stages.Compiled, dict[str, Array]]:
        """The program that draws n completions or more, and what they depend on."""
        visible, room = self._inputs(batch, request)
        return self._program(visible, request._replace(n=room)), visible

    def _inputs(
        self, batch: Mapping[str, Any], request: Request
    ) -> tuple[dict[str, Array], int]:
        """What completions depend on, and how many their program has room for."""
        visible, room = self._place(visible_part(batch)), request.n
        if request.num_candidates is None and self._serves_any_number(visible):
            visible["count"] = self._counted(0, room)
            room = max(ROOM, 1 << (room - 1).bit_length())
        return visible, room

    def _serves_any_number(self, visible: Mapping[str, Array]) -> bool:
        """Whether one program draws any number of completions.

        On a CPU, for single images: compiling takes longer there than drawing, and an
        accelerator draws a fixed number side by side.
        """
        alone = len(visible["image"]) == 1 and self._mesh.size == 1
        return self._counts_draws and alone and jax.default_backend() == "cpu"

    def _program(
        self, visible: Mapping[str, Array], request: Request
    ) -> jax.stages.Compiled:
        """The compiled function that draws completions of a batch of this shape."""
        shape = {name: x.shape for name, x in visible.items()}
        candidates = request.num_candidates or request.n
        static = request._asdict() | {"num_candidates": candidates}
        name = json.dumps([shape, static])
        with self._lock:  # of several threads, the first one compiles
            if name not in self.compiled:
                key = self._replicated(jax.random.key(0))
                # A batch that does not divide over the devices shares out its
                # completions.
                context = (
                    contextlib.nullcontext()
                    if self._divides(visible)
                    else jax.set_mesh(self._mesh)
                )
                with context:
                    lowered = self._draw.lower(self.variables, visible, key, **static)
                    self.compiled[name] = lowered.compile()
            return self.compiled[name]

    # ---- placement ----

    def _divides(self, batch: Mapping[str, Any]) -> bool:
        """Whether a batch can be split evenly over the devices."""
        return len(batch["image"]) % self._mesh.size == 0

    def _place(self, batch: Mapping[str, Any]) -> dict[str, Array]:
        """A batch on the devices, split over them if it can be."""
        divides = self._divides(batch)
        layout = sharding.batch_sharding if divides else sharding.replicated
        return jax.device_put(batch, layout(self._mesh))

    def _counted(self, first: int, stop: int) -> Array:
        """`count` or `calls` of a batch: from the first number up to the other."""
        return self._replicated(np.asarray([first, stop], np.int32))

    def _replicated(self, tree: Tree) -> Tree:
        """Arrays on every device."""
        return jax.device_put(tree, sharding.replicated(self._mesh))
