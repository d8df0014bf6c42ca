"""What one browser tab has done: its pictures, its job, its choice."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from picjax.app.painting import Painting
from picjax.app.requests import GenerationRequest
from picjax.app.worker import Job, Worker
from picjax.cli import UserError

HISTORY = 20  # pictures that can be gone back to
POLL = 0.5  # seconds between lines of progress


@dataclass
class Session:
    """The state of a tab.

    Attributes:
      painting: what the present completions are of.
      job: the present one.
      chosen: number of the chosen completion.
      history: what was painted before, oldest first.
      archive: folder of the ZIP file of the present completions.
    """

    painting: Painting | None = None
    job: Job | None = None
    chosen: int = 0
    history: list[Painting] = field(default_factory=list)
    archive: Path | None = None

    def start(
        self, worker: Worker, request: GenerationRequest, painting: Painting | None
    ) -> Job:
        """Submit a request, in place of the present one.

        Raises:
          UserError: if it is refused.
        """
        self.close()
        self.job = worker.submit(request)
        self.painting, self.chosen = painting, 0
        return self.job

    def stop(self) -> None:
        """Cancel the present job."""
        if self.job is not None:
            self.job.cancel()

    def close(self) -> None:
        """Cancel the present job, and delete its ZIP file."""
        self.stop()
        if self.archive is not None:
            shutil.rmtree(self.archive, ignore_errors=True)

    def keep(self, content: bytes, folder: Path) -> Path:
        """Write the ZIP file of the present completions."""
        self.archive = Path(tempfile.mkdtemp(dir=folder))
        path = self.archive / "completions.zip"
        path.write_bytes(content)
        return path

    def choose(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Choose a completion.

        Raises:
          UserError: if there is none of that number.
        """
        samples = self.job.samples if self.job else []
        if not 0 <= number < len(samples):
            raise UserError("there is no such completion yet; complete a picture first")
        self.chosen = number
        return samples[number]

    def proceed(self) -> Painting:
        """The chosen completion as a picture to paint on.

        Raises:
          UserError: if there is none.
        """
        picture = self.choose(self.chosen)
        if self.painting is not None:
            self.history = [*self.history, self.painting][-HISTORY:]
        self.job = None
        return Painting(picture, np.ones(picture.shape[:2], np.uint8))

    def undo(self) -> Painting:
        """The picture before the last choice, with its hole.

        Raises:
          UserError: if there is none.
        """
        if not self.history:
            raise UserError("there is nothing to undo; choose a completion first")
        return self.history.pop()


def progress(worker: Worker, job: Job) -> Iterator[str]:
    """What to say of a job, again and again until it has ended.

    Raises:
      UserError: of the request.
      Defect: for any other error.
    """
    start = time.monotonic()
    first: tuple[float, float] | None = None  # when something was done, and how much
    while True:
        count, now, done = len(job.samples), time.monotonic(), job.done
        if before := worker.position(job):
            start = now
            yield f"{before} before this one"
        elif not done:
            yield f"drawing, {now - start:.0f} s (the first time a model is compiled)"
        else:
            first = first or (now, done)
            num = job.request.num
            yield f"{count} of {num}{time_left(first, (now, done), num)}"
        if job.wait(count, POLL) and job.ended:
            return


def time_left(first: tuple[float, float], last: tuple[float, float], num: int) -> str:
    """How long all `num` will take, by how many were done at two times; empty: unknown."""
    seconds, drawn = last[0] - first[0], last[1] - first[1]
    if not drawn:
        return ""
    left = seconds / drawn * (num - last[1])
    return f", about {left:.0f} s left"
