"""What the functions of every tab have in common: a run draws images of a request."""

import contextlib
import html
import logging
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from picjax.app.layouts import enlarged
from picjax.app.painting import Painting, with_hole_shown
from picjax.app.requests import MAX_SEED, GenerationRequest
from picjax.app.results import deviation_map, zip_bytes
from picjax.app.runs import RunInfo, parse_sampler
from picjax.app.session import Session, progress
from picjax.app.uploads import Limits
from picjax.app.worker import Defect, Worker
from picjax.cli import UserError

LOG = logging.getLogger("picjax.app")

SHOW_EVERY = 1.0  # seconds between pictures of a walk
Number = int | float  # of a field
Updates = Iterator[dict[str, Any]]  # name of a part -> its value


class Tab:
    """Functions of a tab; each answers one event.

    Args:
      worker: serves the requests.
      limits: of uploads.
      folder: for ZIP files, which are removed after a while.
    """

    # The sentence where no run is offered.
    no_run = (
        "There is no run that completes yet: train one by `make demo`, then reload."
    )
    preferred = ""  # the method whose runs are listed first

    def __init__(self, worker: Worker, limits: Limits, folder: Path):
        self.worker = worker
        self.limits = limits
        self.folder = folder

    def offers(self, info: RunInfo) -> bool:
        """Whether the tab can use a run: one that completes holes."""
        return info.completes

    def start(self, session: Session, *fields: Any) -> Updates:
        """Draw what the fields ask for.

        Raises:
          UserError: if it cannot be drawn.
        """
        raise NotImplementedError

    def list_runs(self) -> tuple[Any, str]:
        """The list of runs and a sentence where there is none."""
        infos = self.worker.runs.infos()
        names = [name for name, info in infos.items() if self.offers(info)]
        names.sort(key=lambda name: infos[name].system != self.preferred)
        chosen = names[0] if names else None
        return gr.update(choices=names, value=chosen), "" if names else self.no_run

    def choose_sampler(self, run: str | None) -> Any:
        """The samplers of a run."""
        samplers = self.worker.runs.info(run).samplers if run else ()
        return gr.update(choices=["", *samplers], value="", visible=bool(samplers))

    def generate(
        self,
        session: Session,
        request: GenerationRequest,
        painting: Painting | None = None,
    ) -> Updates:
        """Images as they are drawn, then what follows from all of them.

        Args:
          session: of the tab.
          request: what to draw.
          painting: what is completed, to be compared with the completions.
        """
        job = session.start(self.worker, request, painting)
        yield {
            "gallery": [],
            "heat": None,
            "slider": None,
            "command": "",
            "seed": request.seed,
            "zip": gr.update(interactive=False),
        }
        count, shown = 0, 0.0
        try:
            for line in progress(self.worker, job):
                update: dict[str, Any] = {"status": line}
                samples, walking = list(job.samples), list(job.walking)
                now = time.monotonic()
                if len(samples) > count or (walking and now - shown > SHOW_EVERY):
                    update["gallery"] = samples + walking
                    count, shown = len(samples), now
                yield update
        except GeneratorExit:  # the browser's tab was closed or reloaded
            job.cancel()
            raise
        yield self.results(session)

    def results(self, session: Session) -> dict[str, Any]:
        """What is shown when a job has ended."""
        job = session.job
        if job is None or not job.samples:
            return {"status": "stopped before the first image", "gallery": []}
        samples, num, seed = job.samples, job.request.num, job.request.seed
        colours, largest = deviation_map(np.stack(samples))
        command = self.worker.command_line(job)
        path = session.keep(zip_bytes(job.request, samples, command), self.folder)
        line = (
            f"{len(samples)} of {num} in {job.seconds:.1f} s, seed {seed}, "
            f"step {job.step}"
        )
        label = f"Standard deviation, 0 to {largest:.0f} of 255 levels"
        return {
            "status": "  \n".join([line, as_sentences(job.warnings)]),
            "gallery": list(samples),
            "heat": gr.update(value=enlarged(colours), label=label),
            "slider": self.comparison(session, 0),
            "command": command,
            "zip": gr.update(value=str(path), interactive=True),
        }

    def stop(self, session: Session) -> None:
        """Cancel the job of this tab."""
        session.stop()

    def comparison(self, session: Session, number: int) -> Any:
        """The input and an image, for the slider."""
        sample = session.choose(number)
        if session.painting is None:
            return None
        return with_hole_shown(session.painting), sample

    def select(self, session: Session, event: gr.SelectData) -> Any:
        """A click on an image."""
        return self.comparison(session, int(event.index))


# ---- fields ----


def integer(name: str, value: Any) -> int:
    """A number of a field as an integer.

    Raises:
      UserError: if it is none.
    """
    try:
        return int(value or 0)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{name} is no whole number; correct it") from None


def settings(
    run: str | None, num: Any, seed: Any, fixed: bool, sampler: str | None = None
) -> dict[str, Any]:
    """The fields that every tab has, as those of a request.

    Raises:
      UserError: if one is no number, or the sampler has no such setting.
    """
    return {
        "run": run or "",
        "num": integer("images", num),
        "seed": seed_of(seed, fixed),
        "sampler": parse_sampler(sampler or ""),
    }


def seed_of(value: Any, fixed: bool) -> int:
    """The seed of a field, or a new one.

    Raises:
      UserError: if it is no number.
    """
    return integer("seed", value) if fixed else secrets.randbelow(MAX_SEED)


def as_sentences(warnings: Any) -> str:
    """Warnings as one paragraph."""
    return " ".join(f"Warning: {warning}." for warning in warnings)


# ---- errors ----


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Show every error of the block as one sentence, without a traceback.

    Raises:
      gr.Error: for every exception.
    """
    try:
        yield
    except gr.Error:
        raise
    except (UserError, Defect) as error:
        LOG.info("page: %s", error)
        raise gr.Error(html.escape(str(error)), print_exception=False) from None
    except Exception:
        LOG.exception("page")
        raise gr.Error(str(Defect()), print_exception=False) from None
