"""Completions on disk, so that an interrupted evaluation does not draw them again."""

import contextlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from picjax import files
from picjax.buckets import AnyPath, is_remote
from picjax.cli import UserError, say

FREE_SHARE = 0.5  # of the disk's free space that completions may take


class CompletionStore:
    """`<key>.npz`, uint8 [n h w 3], for each image, beside `task.json`.

    A key contains a checksum of what the image's completions depend on, so a replaced
    image or mask is completed anew; everything else that they depend on is in the task.
    A file whose own checksum or shape is wrong is deleted, and drawn again.

    Args:
      folder: of the files.
      task: what the completions depend on, ready for JSON.
      checkpoint: must not be newer than `task.json`.
      shape: of one image's completions, (n, h, w, 3).

    Attributes:
      enabled: whether completions are kept.
      share: indices of the images that this process completes; None: of all.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        task: Mapping[str, Any],
        checkpoint: AnyPath,
        shape: tuple[int, ...],
    ):
        self.folder, self.task = epath.Path(folder), task
        self.checkpoint, self.shape = checkpoint, shape
        self.enabled = False
        self.share: range | None = None

    def open(self, images: int) -> None:
        """Keeps the completions of this task that are there, and drops all others.

        Nothing is written if the disk is too small for this many images.
        """
        folder, path = self.folder, self.folder / "task.json"
        if folder.exists() and not is_current(path, self.task, [self.checkpoint]):
            say(f"'{folder}' belongs to another evaluation; starting anew")
            folder.rmtree()
        make_folder(folder.parent)
        size = images * math.prod(self.shape)
        self.enabled = is_remote(folder) or (
            size < FREE_SHARE * shutil.disk_usage(folder.parent).free
        )
        if not self.enabled:
            say(
                f"the completions need {size / 1e9:.0f} GB, too much for "
                f"the disk of '{folder}'; they are not kept, so an interruption starts anew"
            )
        elif not path.exists():
            files.write_text(path, json.dumps(self.task, indent=2) + "\n")
        elif count := len(list(folder.glob("*.npz"))):
            say(f"resuming with the completions of {count} images in '{folder}'")

    def load(self, keys: Sequence[str]) -> UInt8[np.ndarray, "b n h w 3"] | None:
        """The completions of these keys; None unless all are there."""
        stacks = []
        for key in keys:
            stack = self._read(self.folder / f"{key}.npz")
            if stack is None:
                return None
            stacks.append(stack)
        return np.stack(stacks)

    def _read(self, path: epath.Path) -> UInt8[np.ndarray, "n h w 3"] | None:
        if not path.exists():
            return None
        try:
            samples = files.read_npz(path)["samples"]
            if samples.shape == self.shape and samples.dtype == np.uint8:
                return samples
            reason = f"'{path}' holds {samples.dtype} of shape {samples.shape}"
        except (ValueError, KeyError) as error:
            reason = str(error)
        say(f"{reason}; drawn again")
        path.unlink()
        return None

    def save(
        self, keys: Sequence[str], samples: UInt8[np.ndarray, "b n h w 3"]
    ) -> None:
        """Writes the completions of one image per key."""
        for key, stack in zip(keys, samples, strict=False):
            if self.enabled:
                with files.open_atomic(self.folder / f"{key}.npz") as file:
                    np.savez(file, samples=stack)

    def remove(self) -> None:
        """Deletes everything."""
        with contextlib.suppress(OSError):
            self.folder.rmtree(missing_ok=True)


def is_current(
    path: AnyPath, task: Mapping[str, Any], inputs: Sequence[AnyPath]
) -> bool:
    """Whether a JSON file has every entry of the task and is newer than its inputs."""
    try:
        content = files.read_json(path)
        written = files.modified(path)
        newest = max(map(files.modified, inputs), default=0)
    except (OSError, ValueError):
        return False
    entries = json.loads(json.dumps(task))
    same = isinstance(content, dict) and entries.items() <= content.items()
    return same and newest <= written


def make_folder(folder: AnyPath) -> None:
    """Creates a folder of outputs.

    Raises:
      UserError: if that is impossible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out '{folder}' cannot be written to ({error.strerror}); give another "
            "folder"
        ) from error
