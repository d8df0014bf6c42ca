"""The parts of the server put together."""

import argparse
import atexit
import os
import shutil
import tempfile
from pathlib import Path

from fastapi import FastAPI

from picjax.app import http
from picjax.app.access import Guard, LimitBody, Secrets, is_loopback
from picjax.app.metrics import Metrics
from picjax.app.page import build, mount
from picjax.app.runs import Runs
from picjax.app.uploads import Limits
from picjax.app.worker import Worker


def make_worker(args: argparse.Namespace) -> tuple[Worker, Metrics]:
    """The worker of a command line, and what counts its requests.

    Raises:
      UserError: if a run does not exist.
    """
    metrics = Metrics()
    runs = Runs(args.workdir, args.models)
    return Worker(runs, args.queue, on_end=metrics.count), metrics


def make_app(
    worker: Worker, metrics: Metrics, args: argparse.Namespace, page: bool = True
) -> FastAPI:
    """The server: the endpoints, what protects them, and perhaps the page."""
    limits = Limits(args.max_mb * 2**20, args.max_pixels)
    app = http.create(worker, metrics, limits)
    app.add_middleware(LimitBody, most=limits.bytes)
    secrets = Secrets(args.auth, args.token)
    local = is_loopback(args.host) and not (args.auth or args.token)
    app.add_middleware(Guard, secrets=secrets, local=local)
    if page:
        mount(app, build(worker, limits, temporary_folder()), limits)
    return app


def temporary_folder() -> Path:
    """The folder of all temporary files of this process, removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="picjax-app-"))
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
