"""One case of a file of posterior samplers, and batches joined into one image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below
from helpers.mixture import denoise_by, mixture_network, with_variance

from picjax.methods.painter import process
from picjax.methods.painter.process import Schedule
from picjax.methods.painter.samplers.interface import Denoise, Measurement
from picjax.methods.painter.spacing import space_timesteps


@dataclass(frozen=True)
class Case:
    """One case of a file: its options and arrays, images as [.. h w c]."""

    fixture: Fixture
    name: str
    options: Mapping[str, Any]

    def input(self, name: str) -> np.ndarray:
        return channels_last(self.fixture.inputs[f"{self.name}.{name}"]).astype(float)

    def output(self, name: str) -> np.ndarray:
        return channels_last(self.outputs[name])

    @property
    def outputs(self) -> dict[str, np.ndarray]:
        return below(self.fixture.outputs, f"{self.name}.")

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """Of the original schedule."""
        meta = self.fixture.meta
        return process.make_schedule(
            meta["noise_schedule"], meta["diffusion_steps"]
        ).alphas_cumprod

    def schedule(self) -> Schedule:
        """The respaced schedule of the options."""
        steps = len(self.alphas_cumprod)
        kept = np.array(space_timesteps(steps, self.options["respacing"]))
        return self.keep(kept)

    def keep(self, timesteps: np.ndarray) -> Schedule:
        """The schedule that keeps these original steps."""
        return process.keep_timesteps(self.alphas_cumprod, timesteps)

    def denoise(self, schedule: Schedule) -> Denoise:
        params = below(self.fixture.params, f"{self.name}.")
        network = mixture_network(
            channels_last(params["templates"]),
            params["probs"],
            float(self.options["width"]),
            self.alphas_cumprod,
        )
        return denoise_by(with_variance(network), schedule, "learned_range")

    def measurement(self, b: int, sigma: float = 0.0) -> Measurement:
        """The file's y, or the truth's known pixels, for b images."""
        mask = self.input("mask")
        try:
            y = self.input("y")
        except KeyError:
            y = self.input("gt") * mask
        shape = (b, *y.shape[1:])
        y, mask = (jnp.asarray(np.broadcast_to(a, shape)) for a in (y, mask))
        return Measurement(y, mask, sigma)

    def assert_close(self, name: str, actual: Any, tol: str = "atol") -> None:
        """An array of images, or of numbers, against the file's."""
        expected = channels_last(self.outputs[name])
        atol = self.fixture.tolerance(tol, self.fixture.tolerance("atol"))
        label = f"{self.name} {name}"
        self.fixture.assert_close(label, actual, expected, 0.0, atol)

    def assert_log_weights(self, name: str, actual: Any) -> None:
        """Log weights by the file's relative tolerance, and its absolute one."""
        tolerance = self.fixture.tolerance
        rtol = tolerance("rtol_log_w", tolerance("rtol"))
        atol = tolerance("atol_log_w", tolerance("atol"))
        expected = self.outputs[name]
        self.fixture.assert_close(f"{self.name} {name}", actual, expected, rtol, atol)


def channels_last(x: np.ndarray) -> np.ndarray:
    """[.. c h w] to [.. h w c]; arrays of fewer dimensions stay."""
    return np.moveaxis(x, -3, -1) if x.ndim >= 4 else x


def each_case(check: Callable[[Case], None]) -> Callable[[Fixture], None]:
    """A check of all cases of a file, in float64.

    A network's error grows 150-fold in x_0 at the noisiest step, so that in float32 two
    ways to round would differ by more than the files allow.
    """

    def check_all(fixture: Fixture) -> None:
        with jax.enable_x64(True):
            for name, options in fixture.meta["cases"].items():
                check(Case(fixture, name, options))

    return check_all


def joined(denoise: Denoise, b: int) -> Denoise:
    """The denoiser of b images as one, since some originals couple a whole batch."""

    def of_one(x: jax.Array, index: jax.Array) -> Any:
        parts = denoise(x.reshape(b, -1, *x.shape[2:]), index)
        return jax.tree.map(lambda a: a.reshape(x.shape), parts)

    return of_one


def join(x: Any) -> jax.Array:
    """[.. b h w c] to [.. 1 b*h w c]."""
    x = jnp.asarray(x)
    return x.reshape(*x.shape[:-4], 1, -1, *x.shape[-2:])


def join_measurement(measurement: Measurement) -> Measurement:
    y, mask, sigma = measurement
    return Measurement(join(y), join(mask), sigma)


def merge_climbs(
    visited: np.ndarray, normals: np.ndarray, alphas_cumprod: np.ndarray
) -> np.ndarray:
    """One normal per climb, from one per single true step up, in order.

    The steps of a climb add Gaussians, whose sum is one.
    """
    power = np.append(1.0, alphas_cumprod)  # of level - 1
    merged = []
    first = 0
    for climb in climbs_of(visited):
        low, top = power[visited[climb[0]] + 1], power[visited[climb[-1] + 1] + 1]
        before, after = power[visited[climb] + 1], power[visited[climb + 1] + 1]
        weights = np.sqrt((1 - after / before) * top / after / (1 - top / low))
        own = normals[first : first + len(climb)]
        merged.append(np.tensordot(weights, own, 1))
        first += len(climb)
    shape = 0, *normals.shape[1:]
    return np.stack(merged).astype(normals.dtype) if merged else np.empty(shape)


def climbs_of(visited: np.ndarray) -> list[np.ndarray]:
    """The transitions of each run of steps up."""
    ups = np.flatnonzero(np.diff(visited) > 0)
    runs = np.split(ups, np.flatnonzero(np.diff(ups) > 1) + 1)
    return [run for run in runs if len(run)]
