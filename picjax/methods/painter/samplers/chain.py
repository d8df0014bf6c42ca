"""What all samplers share: the kept steps of a diffusion, the denoiser, its calls.

Notation of every sampler: x_t = alpha_t x_0 + sigma_t noise with alpha_t^2 + sigma_t^2
= 1, t an index into the kept steps; level -1 is the image (alpha 1, sigma 0).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int64

Images = Float[Array, "b h w c"]
Table = Float64[np.ndarray, " t"]


class Chain(NamedTuple):
    """The kept steps of a diffusion, in float64 on the host.

    Attributes:
      timesteps: original step of each, ascending: the time that the network receives.
      alphas_cumprod: the square of alpha_t.
    """

    timesteps: Int64[np.ndarray, " t"]
    alphas_cumprod: Table

    @property
    def alphas_cumprod_prev(self) -> Table:
        """`alphas_cumprod` one kept step nearer to the image; 1 at index 0."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @property
    def betas(self) -> Table:
        """Variance that a kept step adds."""
        return 1 - self.alphas_cumprod / self.alphas_cumprod_prev

    @property
    def posterior_variance(self) -> Table:
        """Variance of q(x_{t-1} | x_t, x_0); 0 at index 0."""
        prev = self.alphas_cumprod_prev
        return self.betas * (1 - prev) / (1 - self.alphas_cumprod)


def strided_chain(alphas_cumprod: Table, steps: int) -> Chain:
    """Keeps the original steps 0, k, 2k, .. with k = len(alphas_cumprod) // steps."""
    timesteps = np.arange(steps) * (len(alphas_cumprod) // steps)
    return Chain(timesteps, alphas_cumprod[timesteps])


class Call(NamedTuple):
    """The scalars of one call of the network; of all calls, stacked on axis 0.

    Attributes:
      number: counts the calls from 0.
      index: kept step at which the network is called.
      alpha, sigma: of x at this step.
      next_alpha, next_sigma: of x after it; 1 and 0 at the last.
      beta: variance that this step of the chain adds.
      coef_x0, coef_x: the mean of q(x_{t-1} | x_t, x_0) is coef_x0 x_0 + coef_x x_t.
      posterior_std: standard deviation of that distribution.
      climbs: whether the walk goes back towards noise before this call.
      climb_alpha, climb_sigma: x becomes climb_alpha x + climb_sigma noise then.
    """

    number: Any
    index: Any
    alpha: Any
    sigma: Any
    next_alpha: Any
    next_sigma: Any
    beta: Any
    coef_x0: Any
    coef_x: Any
    posterior_std: Any
    climbs: Any
    climb_alpha: Any
    climb_sigma: Any

    @property
    def last(self) -> Any:
        """Whether the result is an image."""
        return self.index == 0


def plan_calls(chain: Chain, visits: Sequence[int] | None = None) -> Call:
    """The calls of a walk over the chain, stacked on axis 0.

    Args:
      chain: the kept steps.
      visits: indices that the walk visits, from the last one to -1; neighbours differ
        by 1, and each step down is a call. None: straight down.
    """
    if visits is None:
        visits = range(len(chain.timesteps) - 1, -2, -1)
    levels = np.asarray(visits, np.int64)
    index = levels[:-1][np.diff(levels) < 0]
    reached = np.append(len(chain.timesteps), index[:-1]) - 1
    power, power_next = chain.alphas_cumprod[index], chain.alphas_cumprod_prev[index]
    ratio = power / np.append(1.0, chain.alphas_cumprod)[reached + 1]
    beta = chain.betas[index]
    columns = Call(
        number=np.arange(len(index)),
        index=index,
        alpha=np.sqrt(power),
        sigma=np.sqrt(1 - power),
        next_alpha=np.sqrt(power_next),
        next_sigma=np.sqrt(1 - power_next),
        beta=beta,
        coef_x0=beta * np.sqrt(power_next) / (1 - power),
        coef_x=(1 - power_next) * np.sqrt(1 - beta) / (1 - power),
        posterior_std=np.sqrt(chain.posterior_variance[index]),
        climbs=reached < index,
        climb_alpha=np.sqrt(ratio),
        climb_sigma=np.sqrt(1 - ratio),
    )
    return Call(*(on_device(column) for column in columns))


def on_device(column: np.ndarray) -> Array:
    """A table in the default precision, which a test may set to float64."""
    return jnp.asarray(column, float if column.dtype == np.float64 else None)


# ---- the denoiser ----


class Denoised(NamedTuple):
    """What the network says of x_t.

    Attributes:
      epsilon: noise in x_t.
      x0: the image in x_t, not clipped.
      log_variance: of the ancestral step p(x_{t-1} | x_t).
    """

    epsilon: Images
    x0: Images
    log_variance: Images


Denoiser = Callable[[Images, Array], Denoised]  # (x, kept step, a scalar)


def epsilon_denoiser(
    network: Callable[[Array, Array], Array], chain: Chain
) -> Denoiser:
    """The denoiser of a network that predicts the noise.

    Args:
      network: (x [b h w c], original steps [b]) -> noise [b h w c], or [b h w 2c] with
        the position of the log variance between its two bounds, in [-1, 1].
      chain: the kept steps.
    """
    variance = chain.posterior_variance
    timesteps = jnp.asarray(chain.timesteps, jnp.int32)
    alpha = on_device(np.sqrt(chain.alphas_cumprod))
    sigma = on_device(np.sqrt(1 - chain.alphas_cumprod))
    upper = on_device(np.log(chain.betas))
    # At index 0 the variance is 0; the next one's logarithm stands in.
    lower = on_device(np.log(np.append(variance[1], variance[1:])))

    def denoise(x: Images, index: Array) -> Denoised:
        output = network(x, jnp.full(len(x), timesteps[index]))
        epsilon = output[..., : x.shape[-1]]
        x0 = (x - sigma[index] * epsilon) / alpha[index]
        log_variance = jnp.full_like(x, lower[index])
        if output.shape[-1] > x.shape[-1]:
            share = (output[..., x.shape[-1] :] + 1) / 2
            log_variance = share * upper[index] + (1 - share) * lower[index]
        return Denoised(epsilon, x0, log_variance)

    return denoise


# ---- the measurement ----


class Measurement(NamedTuple):
    """What is known of the image.

    Attributes:
      y: the known pixels, 0 in the hole.
      mask: 1 = known, 0 = hole.
      sigma: standard deviation of the noise in y.
    """

    y: Images
    mask: Float[Array, "b h w m"]
    sigma: float = 0.0


def measure(image: Images, mask: Float[Array, "b h w m"]) -> Measurement:
    """The known pixels of an image, without noise."""
    return Measurement(image * mask, mask)


class Trace(NamedTuple):
    """One call: x before it, the network's x_0 (not clipped), x after the step."""

    x: Images
    x0: Images
    x_next: Images


Record = Callable[[Trace], Any]


def no_record(trace: Trace) -> tuple[()]:
    """Keeps nothing of a trajectory."""
    return ()
