"""Metrics and grids of a run in a project of Weights & Biases (`config.log.wandb`)."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from picjax import files
from picjax.buckets import is_remote
from picjax.cli import require
from picjax.system import Config


class WandbLog:
    """A run of a project; resuming the same workdir continues it.

    Args:
      workdir: the run's folder, which names it.
      config: the run's config, whose `log.wandb` is the project.

    Raises:
      UserError: if wandb is not installed.
    """

    def __init__(self, workdir: epath.Path, config: Config):
        self.wandb: Any = require("wandb", "wandb")
        self.run = self.wandb.init(
            project=config.log.wandb,
            name=workdir.name,
            id=f"{zlib.crc32(str(files.absolute(workdir)).encode()):08x}",
            resume="allow",
            dir=None if is_remote(workdir) else workdir,
            config=config.to_dict(),
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        self.run.log(dict(values), step=step)

    def grid(self, step: int, grid: np.ndarray) -> None:
        """Log a grid of completions, uint8 [h w 3]."""
        self.run.log({"samples": self.wandb.Image(grid)}, step=step)

    def close(self) -> None:
        """Finish the upload."""
        self.run.finish()
