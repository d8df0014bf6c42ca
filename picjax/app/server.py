"""The parts of the server put together."""

import argparse

from fastapi import FastAPI

from picjax.app import http
from picjax.app.access import Guard, LimitBody, Secrets, is_loopback
from picjax.app.metrics import Metrics
from picjax.app.orders import Limits
from picjax.app.runs import Runs
from picjax.app.worker import Worker


def make_worker(args: argparse.Namespace) -> tuple[Worker, Metrics]:
    """The worker of a command line, and what counts its orders.

    Raises:
      UserError: if a run does not exist.
    """
    metrics = Metrics()
    runs = Runs(args.workdir, args.models)
    return Worker(runs, args.queue, on_end=metrics.count), metrics


def make_app(worker: Worker, metrics: Metrics, args: argparse.Namespace) -> FastAPI:
    """The server: the page, the endpoints, and what protects them."""
    limits = Limits(args.max_mb * 2**20, args.max_pixels)
    app = http.create(worker, metrics, limits)
    app.add_middleware(LimitBody, most=limits.bytes)
    secrets = Secrets(args.auth, args.token)
    local = is_loopback(args.host) and not (args.auth or args.token)
    app.add_middleware(Guard, secrets=secrets, local=local)
    return app
