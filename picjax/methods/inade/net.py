"""The generator: SPADE's trunk of residual blocks with a choice of normalisation."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.layers.conv import Conv, upsample
from picjax.methods.inade.layout import Layout
from picjax.methods.inade.norm import XAVIER, XAVIER_DENSE, LabelConv, Noise

Upsampling = Literal["normal", "more", "most"]
# How often each doubles the size of the first feature map.
DOUBLINGS: dict[Upsampling, int] = {"normal": 5, "more": 6, "most": 7}


class ResBlock(nn.Module):
    """Norm, leaky ReLU, 3 x 3 convolution, twice; plus the input or its projection.

    The projection, where the number of features changes, is norm and 1 x 1 convolution
    without activation.
    """

    features: int
    norm: Callable[..., nn.Module]
    spectral: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        layout: Layout,
        noise: Noise | None,
        train: bool,
    ) -> Float[Array, "b h w d"]:
        def normalise(name: str, x: Array) -> Array:
            norm = self.norm(dtype=self.dtype, name=name)
            return norm(x, layout, noise, train)

        features_in = x.shape[-1]
        y = nn.leaky_relu(normalise("norm_0", x), 0.2)
        y = self._conv("conv_0", min(features_in, self.features), 3)(y, int(train))
        y = nn.leaky_relu(normalise("norm_1", y), 0.2)
        y = self._conv("conv_1", self.features, 3)(y, int(train))
        if features_in != self.features:
            shortcut = self._conv("conv_s", self.features, 1)
            x = shortcut(normalise("norm_s", x), int(train))
        return x + y

    def _conv(self, name: str, features: int, kernel: int) -> Conv:
        return Conv(
            features,
            kernel,
            use_bias=kernel > 1,
            spectral=self.spectral,
            kernel_init=XAVIER,
            padding=kernel // 2,
            dtype=self.dtype,
            name=name,
        )


class Generator(nn.Module):
    """Images from a layout, style noise per instance and a latent per image.

    The first features, 16 times `width`, are a linear map of the latent, or where there
    is none a convolution of the label map (SPADE without encoder). Every block reads
    the whole layout and the same style noise.

    Attributes:
      norm: one of `norm.NORMS` with its options, but for `classes`.
      classes: number of classes, don't-care included.
      base_size: height and width of the first feature map.
      upsampling: how often the size doubles; `DOUBLINGS`.
      width: features of the last block before `most`'s additional one.
      spectral: whether the blocks' convolutions are spectrally normalised.
    """

    norm: Callable[..., nn.Module]
    classes: int
    base_size: tuple[int, int]
    upsampling: Upsampling = "normal"
    width: int = 64
    spectral: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        layout: Layout,
        latent: Float[Array, "b d"] | None,
        noise: Noise | None,
        train: bool,
    ) -> Float[Array, "b h w 3"]:
        x = self._first(layout, latent)
        norm = partial(self.norm, classes=self.classes)
        for name, factor, double in self._plan():
            features = factor * self.width // 2
            block = ResBlock(features, norm, self.spectral, self.dtype, name=name)
            x = block(x, layout, noise, train)
            x = upsample(x) if double else x
        last = Conv(
            3,
            spectral=False,
            kernel_init=XAVIER,
            padding=1,
            dtype=self.dtype,
            name="conv_img",
        )
        return jnp.tanh(last(nn.leaky_relu(x, 0.2), 0).astype(jnp.float32))

    def _plan(self) -> list[tuple[str, int, bool]]:
        """Blocks in order: name, features in half `width`s, doubled afterwards."""
        most = self.upsampling == "most"
        plan = [
            ("head_0", 32, True),
            ("G_middle_0", 32, self.upsampling != "normal"),
            ("G_middle_1", 32, True),
            ("up_0", 16, True),
            ("up_1", 8, True),
            ("up_2", 4, True),
            ("up_3", 2, most),
        ]
        return [*plan, ("up_4", 1, False)] if most else plan

    def _first(
        self, layout: Layout, latent: Float[Array, "b d"] | None
    ) -> Float[Array, "b h w c"]:
        features, (h, w) = 16 * self.width, self.base_size
        if latent is None:
            layout = layout.resize(self.base_size)
            conv = LabelConv(features, self.classes, dtype=self.dtype, name="fc")
            return conv(layout.label, layout.edges)
        linear = nn.Dense(
            features * h * w, dtype=self.dtype, kernel_init=XAVIER_DENSE, name="fc"
        )
        # The order of the original's rows: features, then height, then width.
        return linear(latent).reshape(-1, features, h, w).transpose(0, 2, 3, 1)


def base_size(
    crop_size: int, aspect_ratio: float, upsampling: Upsampling
) -> tuple[int, int]:
    """Height and width of the first feature map for images `crop_size` wide."""
    width = crop_size // 2 ** DOUBLINGS[upsampling]
    return round(width / aspect_ratio), width
