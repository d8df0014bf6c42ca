"""Makes the folder `configs/` of a checkout importable as `picjax.configs`.

An installed wheel has no such module: it holds the folder itself, as `picjax/configs/`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs import common  # noqa: F401

__path__ = [str(Path(__file__).parents[1] / "configs")]
