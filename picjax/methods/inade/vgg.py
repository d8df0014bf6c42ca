"""VGG19's features for the perceptual loss (Simonyan and Zisserman, 2015)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.layers.conv import Conv

# Index of each convolution in torchvision's `features`, and its width in units of the
# first; a number that follows a gap of 3 comes after a 2 x 2 max pool.
CONVS = {0: 1, 2: 1, 5: 2, 7: 2, 10: 4, 12: 4, 14: 4, 16: 4}
CONVS |= {19: 8, 21: 8, 23: 8, 25: 8, 28: 8}
_TAPS = (0, 5, 10, 19, 28)


class Vgg19(nn.Module):
    """relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 of images in [-1, 1].

    As in the original, images are not normalised by ImageNet's mean and deviation.
    """

    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> list[Float[Array, "b _ _ _"]]:
        features, previous = [], 0
        for index, factor in CONVS.items():
            if index - previous == 3:
                x = nn.max_pool(x, (2, 2), (2, 2))
            conv = Conv(
                factor * self.width,
                spectral=False,
                kernel_init=nn.initializers.he_normal(),
                padding=1,
                dtype=self.dtype,
                name=f"conv{index}",
            )
            x = nn.relu(conv(x, 0))
            previous = index
            if index in _TAPS:
                features.append(x)
        return features

    def shapes(self) -> Any:
        """The structure, shapes and types of its variables."""
        image = jnp.zeros((1, 32, 32, 3))
        return jax.eval_shape(self.init, jax.random.key(0), image)
