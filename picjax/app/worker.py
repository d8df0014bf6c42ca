"""The thread that serves requests, one after the other, from a bounded queue."""

import contextlib
import logging
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from picjax import masks
from picjax.app.requests import CompletionRequest, GenerationRequest, draw_together
from picjax.app.results import command_line
from picjax.app.runs import Runs
from picjax.cli import UserError, is_out_of_memory
from picjax.model import Part

LOG = logging.getLogger("picjax.app")
BATCH = 8  # requests that an accelerator draws together


class Busy(UserError):
    """The queue is full, or the server is stopping."""


class Defect(Exception):
    """An error of the server's, whose message tells the client no more than that."""

    def __init__(self) -> None:
        super().__init__("the request failed inside the server, whose log says why")


class Job:
    """A request in the queue.

    Attributes:
      request: what is asked for.
      samples: the images so far, uint8 [h w 3] each.
      walking: the next images on their way, at the model's size.
      warnings: about the input, and of the model once the job has ended.
      done: number of images, those on their way by the share that is behind them.
      step: the step of the checkpoint.
      error: why there are no more images.
      seconds: duration of the computation.
    """

    def __init__(self, request: GenerationRequest):
        self.request = request
        self.samples: list[np.ndarray] = []
        self.walking: Sequence[np.ndarray] = ()
        self.done = 0.0
        self.warnings: list[str] = list(request.warnings)
        self.step = 0
        self.error: Exception | None = None
        self.seconds = 0.0
        self._cancelled = False
        self._changed = threading.Condition()
        self._ended = False

    @property
    def cancelled(self) -> bool:
        """Whether its client does not want it any more."""
        return self._cancelled

    @property
    def ended(self) -> bool:
        """Whether there will be no more images."""
        return self._ended

    def cancel(self) -> None:
        """Stop before the next images, or the next calls of a walk, are drawn."""
        self._cancelled = True

    def add(self, part: Part) -> None:
        """Add images, and wake who waits for them; or show them on their way."""
        with self._changed:
            self.done = len(self.samples) + part.progress * len(part.samples)
            if part.progress < 1:
                self.walking = [*part.samples]
            else:
                self.samples.extend(part.samples)
                self.walking = ()
            self._changed.notify_all()

    def end(self, error: Exception | None = None) -> None:
        """Add no more images."""
        with self._changed:
            self.error, self._ended = error, True
            self._changed.notify_all()

    def wait(self, more_than: int | None = None, timeout: float | None = None) -> bool:
        """Wait for the end, or for more than so many images; False: not yet.

        Raises:
          UserError: of the request.
          Defect: for any other error.
        """

        def due() -> bool:
            return self._ended or (
                more_than is not None and len(self.samples) > more_than
            )

        with self._changed:
            reached = self._changed.wait_for(due, timeout)
        if self.error is not None:
            raise self.error
        return reached


class Worker:
    """Serves requests in one thread.

    Args:
      runs: the models.
      max_waiting: requests that may wait.
      batch: requests of equal group that are drawn together; None: 1 on a CPU, where
        it saves nothing and would compile another program, else BATCH.
      on_end: called with each job that has ended, or was refused.
    """

    def __init__(
        self,
        runs: Runs,
        max_waiting: int = 16,
        batch: int | None = None,
        on_end: Callable[[Job], Any] = lambda job: None,
    ):
        self.runs = runs
        self._max_waiting = max_waiting
        self._batch = batch or (1 if jax.default_backend() == "cpu" else BATCH)
        self._on_end = on_end
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of requests that have not begun."""
        return len(self._waiting)

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self._closing

    def submit(self, request: GenerationRequest) -> Job:
        """Add a request to the queue.

        Raises:
          Busy: if the queue is full, or the server is stopping.
          UserError: if there is no such run.
        """
        self.runs.source(request.run)
        job = Job(request)
        with self._changed:
            if self._closing:
                job.end(Busy("the server is stopping; try again in a minute"))
            elif len(self._waiting) >= self._max_waiting:
                job.end(
                    Busy(
                        f"{self._max_waiting} requests are waiting already; try again "
                        "later"
                    )
                )
            else:
                self._waiting.append(job)
                self._changed.notify_all()
        if job.error is not None:
            self._on_end(job)
            raise job.error
        return job

    def position(self, job: Job) -> int:
        """Number of requests before this one; 0 if it is being served."""
        waiting = list(self._waiting)
        return waiting.index(job) + 1 if job in waiting else 0

    def command_line(self, job: Job) -> str:
        """The command that draws the images of a job again."""
        source = self.runs.source(job.request.run)
        return command_line(job.request, source, job.step)

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests, and wait for those there are; False: not all ended."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # ---- in the thread ----

    def _work(self) -> None:
        while jobs := self._next():
            start = time.monotonic()
            try:
                self._serve(jobs)
                error = None
            except UserError as known:
                error = known
            except Exception as unknown:
                LOG.exception("a request for run %s failed", jobs[0].request.run)
                error = for_client(unknown)
            for job in jobs:
                job.seconds = time.monotonic() - start
                job.end(error)
                self._on_end(job)

    def _next(self) -> list[Job]:
        """Wait for the next job and those that can be served with it; [] at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return []
            jobs = [self._waiting.popleft()]
            group = jobs[0].request.group
            for job in list(self._waiting):
                together = group is not None and job.request.group == group
                if len(jobs) < self._batch and together:
                    self._waiting.remove(job)
                    jobs.append(job)
        return jobs

    def _serve(self, jobs: list[Job]) -> None:
        jobs = [job for job in jobs if not job.cancelled]
        if not jobs:
            return
        first = jobs[0].request
        model = self.runs.model(first.run, first.sampler)
        for job in jobs:
            job.step = model.step
        with own_warnings() as caught:
            if len(jobs) > 1:
                requests = [job.request for job in jobs]
                completions = [r for r in requests if isinstance(r, CompletionRequest)]
                drawn = draw_together(completions, model)
                for job, samples in zip(jobs, drawn, strict=True):
                    job.add(Part(samples))
            else:
                for part in first.draw(model):
                    jobs[0].add(part)
                    if jobs[0].cancelled:
                        break
        for job in jobs:
            job.warnings = list(dict.fromkeys([*job.request.warnings, *caught]))


@contextlib.contextmanager
def own_warnings() -> Iterator[list[str]]:
    """Collect the warnings of this thread; those of others are shown as before."""
    collected: list[str] = []
    thread = threading.get_ident()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def collect(message: Warning | str, *args: Any, **kwargs: Any) -> None:
            if threading.get_ident() == thread:
                collected.append(str(message))
            else:
                show(message, *args, **kwargs)

        warnings.showwarning = collect
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("ignore", masks.DoubtfulMask)  # it was painted
        yield collected


def for_client(error: Exception) -> Exception:
    """An unexpected error as the client may know it."""
    if is_out_of_memory(error):
        return UserError("the memory is exhausted; ask for fewer or smaller images")
    return Defect()
