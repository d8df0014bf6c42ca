"""picjax: pluralistic image completion in JAX.

One masked image in, many plausible completions out:

    import picjax
    model = picjax.load("runs/demo-picmm")
    images = model.complete(image, mask, n=10, seed=0)   # uint8 [n h w 3]
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from picjax.model import Model, load

__all__ = ["Model", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Importing picjax stays cheap: JAX is imported when a model is asked for.
    if name in __all__:
        from picjax import model

        return getattr(model, name)
    raise AttributeError(f"module 'picjax' has no attribute {name!r}")
