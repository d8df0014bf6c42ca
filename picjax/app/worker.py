"""The thread that completes orders, one after the other, from a bounded queue."""

import logging
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from picjax import masks
from picjax.app.orders import Order
from picjax.app.runs import Runs
from picjax.cli import UserError, is_out_of_memory

LOG = logging.getLogger("picjax.app")
BATCH = 8  # orders that an accelerator completes together


class Busy(UserError):
    """The queue is full, or the server is stopping."""


class Defect(Exception):
    """An error of the server's; the message tells the client no more than that."""


class Job:
    """An order in the queue.

    Attributes:
      order: what is asked for.
      samples: the completions so far, uint8 [h w 3] each.
      remarks: warnings, once it has ended.
      step: the step of the checkpoint.
      error: why there are no more completions.
      seconds: that it has been computed.
    """

    def __init__(self, order: Order):
        self.order = order
        self.samples: list[np.ndarray] = []
        self.remarks: list[str] = list(order.remarks)
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
        """Whether there will be no more completions."""
        return self._ended

    def cancel(self) -> None:
        """Stop before the next completions are drawn."""
        self._cancelled = True

    def add(self, samples: np.ndarray) -> None:
        """Add completions, and wake who waits for them."""
        with self._changed:
            self.samples.extend(samples)
            self._changed.notify_all()

    def end(self, error: Exception | None = None) -> None:
        """Add no more completions."""
        with self._changed:
            self.error, self._ended = error, True
            self._changed.notify_all()

    def wait(self, more_than: int | None = None, timeout: float | None = None) -> bool:
        """Wait for the end, or for more than so many completions; False: not yet.

        Raises:
          UserError: of the order.
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
    """Completes orders in one thread.

    Args:
      runs: the models.
      most: orders that wait, at most.
      batch: orders of equal group that are completed together; None: 1 on a CPU, where
        it saves nothing and would compile another program, else BATCH.
      on_end: called with each job that has ended, or was refused.
    """

    def __init__(
        self,
        runs: Runs,
        most: int = 16,
        batch: int | None = None,
        on_end: Callable[[Job], Any] = lambda job: None,
    ):
        self.runs = runs
        self._most = most
        self._batch = batch or (1 if jax.default_backend() == "cpu" else BATCH)
        self._on_end = on_end
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Orders that have not begun."""
        return len(self._waiting)

    @property
    def ready(self) -> bool:
        """Whether it takes orders."""
        return self._thread.is_alive() and not self._closing

    def place(self, order: Order) -> Job:
        """Add an order to the queue.

        Raises:
          Busy: if the queue is full, or the server is stopping.
          UserError: if there is no such run.
        """
        self.runs.source(order.run)
        job = Job(order)
        with self._changed:
            if self._closing:
                job.end(Busy("the server is stopping; try again in a minute"))
            elif len(self._waiting) >= self._most:
                sentence = f"{self._most} requests are waiting already; try again later"
                job.end(Busy(sentence))
            else:
                self._waiting.append(job)
                self._changed.notify_all()
        if job.error is not None:
            self._on_end(job)
            raise job.error
        return job

    def position(self, job: Job) -> int:
        """Orders before this one, 0 if it is being completed."""
        waiting = list(self._waiting)
        return waiting.index(job) + 1 if job in waiting else 0

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more orders, and wait for those there are; False: not all ended."""
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
                self._complete(jobs)
                error = None
            except UserError as known:
                error = known
            except Exception as unknown:
                LOG.exception("an order of run %s failed", jobs[0].order.run)
                error = described(unknown)
            for job in jobs:
                job.seconds = time.monotonic() - start
                job.end(error)
                self._on_end(job)

    def _next(self) -> list[Job]:
        """Wait for the next order and those that can be completed with it; [] at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return []
            jobs = [self._waiting.popleft()]
            group = jobs[0].order.group
            for job in list(self._waiting):
                if len(jobs) < self._batch and job.order.group == group:
                    self._waiting.remove(job)
                    jobs.append(job)
        return jobs

    def _complete(self, jobs: list[Job]) -> None:
        jobs = [job for job in jobs if not job.cancelled]
        if not jobs:
            return
        order = jobs[0].order
        model = self.runs.model(order.run, order.sampler)
        for job in jobs:
            job.step = model.step
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", masks.DoubtfulMask)  # it was painted
            if len(jobs) > 1 or order.best_of is not None:
                pictures = [job.order.picture for job in jobs]
                holes = [job.order.mask for job in jobs]
                drawn = model.complete(
                    pictures, holes, order.num, order.seed, order.best_of
                )
                for job, samples in zip(jobs, drawn, strict=True):
                    job.add(samples)
            else:
                (job,) = jobs
                args = order.picture, order.mask, order.num, order.seed
                for samples in model.stream(*args):
                    job.add(samples)
                    if job.cancelled:
                        break
        for job in jobs:
            remarks = [*job.order.remarks, *(str(w.message) for w in caught)]
            job.remarks = list(dict.fromkeys(remarks))


def described(error: Exception) -> Exception:
    """An unexpected error as the client may know it."""
    if is_out_of_memory(error):
        return UserError(
            "the memory is exhausted; ask for fewer or smaller completions"
        )
    return Defect("the request failed inside the server, whose log says why")
