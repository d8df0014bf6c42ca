"""What Prometheus reads at /metrics."""

from typing import Any

import psutil
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from picjax.app.worker import Busy, Job, Worker
from picjax.cli import UserError

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Counts of this server; each server has its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        args: Any = {"registry": self.registry}
        self.requests = Counter(
            "picjax_requests",
            "Requests for images: done, cancelled, invalid, refused or failed",
            ["outcome"],
            **args,
        )
        self.completions = Counter("picjax_completions", "Images drawn", **args)
        self.seconds = Histogram(
            "picjax_request_seconds",
            "Computation per request, without waiting",
            buckets=BUCKETS,
            **args,
        )
        self.queue = Gauge("picjax_queue_length", "Requests that wait", **args)
        self.models = Gauge("picjax_models", "Models in memory", **args)
        memory = Gauge("picjax_memory_bytes", "Resident memory of the server", **args)
        memory.set_function(lambda: psutil.Process().memory_info().rss)

    def observe(self, worker: Worker) -> None:
        """Read the queue and the models of a worker."""
        self.queue.set_function(lambda: worker.waiting)
        self.models.set_function(lambda: len(worker.runs.loaded()))

    def count(self, job: Job) -> None:
        """Count a job that has ended, or was refused."""
        self.requests.labels(outcome(job)).inc()
        if not isinstance(job.error, Busy):
            self.completions.inc(len(job.samples))
            self.seconds.observe(job.seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


def outcome(job: Job) -> str:
    """How a job ended, in a word."""
    if job.error is None:
        return "cancelled" if job.cancelled else "done"
    if isinstance(job.error, Busy):
        return "refused"
    return "invalid" if isinstance(job.error, UserError) else "failed"
