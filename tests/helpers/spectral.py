"""Networks without spectral norm, which is more than half of a step's compilation."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from picjax.layers import conv


@contextmanager
def no_spectral_norm() -> Iterator[None]:
    """Kernels are used as they are in what is traced within."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            conv._SpectralKernel, "_normalise", lambda self, kernel, *_: kernel
        )
        yield
