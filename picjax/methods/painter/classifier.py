"""The classifier of guided-diffusion, and sampling that its gradient guides.

Dhariwal and Nichol, arXiv 2105.05233, section 4: algorithm 1 (ancestral) and
algorithm 2 (DDIM).
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from picjax.layers.norm import GroupNorm
from picjax.methods.painter import process
from picjax.methods.painter.layers import PlainConv, qkv_attention
from picjax.methods.painter.net import GROUPS, Time, Torso
from picjax.methods.painter.process import Images, Prediction, Schedule, Times

Pool = Literal["attention", "adaptive", "spatial", "spatial_v2"]
# (x, original steps) -> gradient of a log-likelihood with respect to x.
Guidance = Callable[[Array, Array], Array]


# ---- the network ----


class AttentionPool(nn.Module):
    """Attention of the mean token over all tokens, projected to `features` values."""

    features: int
    heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b d"]:
        c = x.shape[-1]
        x = jnp.concatenate([x.mean(1, keepdims=True), x], 1)
        normal = nn.initializers.normal(c**-0.5)
        x = x + self.param("positions", normal, x.shape[1:])[None]
        qkv = PlainConv(3 * c, (1,), name="qkv")(x)
        y = qkv_attention(qkv, self.heads, "new")
        return PlainConv(self.features, (1,), name="proj")(y[:, 0])


class Classifier(Torso):
    """Logits of a noised image's class: the UNet's encoder and middle, and a pool.

    Attributes:
      classes: number of classes.
      pool: how features become one vector. "attention" fixes the image size to that of
        initialisation.
    """

    classes: int = 1000
    pool: Pool = "attention"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], t: Time, train: bool = False
    ) -> Float[Array, "b k"]:
        emb = self._embed(t)
        outputs = self._encode(x, emb, train)
        outputs.append(self._middle(outputs[-1], emb, train))
        if self.pool in ("spatial", "spatial_v2"):
            means = [x.astype(jnp.float32).mean((1, 2)) for x in outputs]
            h = PlainConv(2048, (), name="hidden")(jnp.concatenate(means, -1))
            if self.pool == "spatial_v2":
                h = nn.silu(GroupNorm(GROUPS, name="hidden_norm")(h))
            else:
                h = nn.relu(h)
            return PlainConv(self.classes, (), name="head")(h)
        h = nn.silu(GroupNorm(GROUPS, name="norm")(outputs[-1]))
        b, _, _, c = h.shape
        h = h.reshape(b, -1, c)
        if self.pool == "attention":
            heads = self._head_count(c)
            return AttentionPool(self.classes, heads, name="head")(h)
        head = PlainConv(self.classes, (1, 1), zero=True, name="head")
        return head(h.mean(1))


# ---- guidance ----


def class_guidance(
    classify: Callable[[Array, Array], Array], y: Int[Array, " b"], scale: float
) -> Guidance:
    """The gradient of `scale` times the log-probability of the classes y.

    Args:
      classify: (x, original steps) -> logits [b k].
      y: the class of each image.
      scale: of the gradient.
    """

    def gradient(x: Array, t: Array) -> Array:
        def log_probability(x: Array) -> Array:
            logits = jax.nn.log_softmax(classify(x, t))
            return jnp.take_along_axis(logits, y[:, None], 1).sum()

        return scale * jax.grad(log_probability)(x)

    return gradient


def condition_mean(prediction: Prediction, gradient: Images) -> Prediction:
    """The mean shifted by the variance times the gradient at x_t (algorithm 1)."""
    mean = prediction.mean + jnp.exp(prediction.log_variance) * gradient
    return prediction._replace(mean=mean)


def condition_score(
    schedule: Schedule, x: Images, t: Times, prediction: Prediction, gradient: Images
) -> Prediction:
    """The noise shifted against the gradient (algorithm 2).

    x_0 and the mean follow from it, without clipping again.
    """
    epsilon = process.epsilon_from_x0(schedule, x, t, prediction.x0)
    epsilon -= process.extract(np.sqrt(1 - schedule.alphas_cumprod), t) * gradient
    x0 = process.x0_from_epsilon(schedule, x, t, epsilon)
    mean = process.posterior_mean(schedule, x0, x, t)
    return prediction._replace(x0=x0, mean=mean)
