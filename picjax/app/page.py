"""What the page does: paint a hole, complete it, choose, go on (docs/app.md)."""

import contextlib
import html
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from picjax import masks
from picjax.app.orders import (
    MAX_SEED,
    Limits,
    Order,
    command_line,
    read_mask,
    spread,
    zip_bytes,
)
from picjax.app.painting import (
    Painting,
    extended,
    read_painting,
    shown,
    with_hole_shown,
    with_rectangle,
)
from picjax.app.runs import parse_sampler
from picjax.app.session import Session, progress
from picjax.app.worker import Defect, Worker
from picjax.cli import UserError
from picjax.data.photos import photograph
from picjax.images import Picture

LOG = logging.getLogger("picjax.app")
EXAMPLES = {"cat": "chelsea.png", "astronaut": "astronaut.png", "china": "china.jpg"}
EXAMPLE_SIDE = 256  # pixels
NO_RUN = "There is no run that completes yet: train one by `make demo`, then reload."

Number = int | float  # of a field


class Page:
    """The page's functions; each answers one event.

    Args:
      worker: completes the orders.
      limits: of uploads.
      folder: for ZIP files, which are removed after a while.
    """

    def __init__(self, worker: Worker, limits: Limits, folder: Path):
        self.worker = worker
        self.limits = limits
        self.folder = folder

    # ---- the run ----

    def list_runs(self) -> tuple[Any, str]:
        """The list of runs and a sentence where there is none."""
        kinds = self.worker.runs.kinds()
        names = [name for name, kind in kinds.items() if kind.completes]
        chosen = names[0] if names else None
        return gr.update(choices=names, value=chosen), "" if names else NO_RUN

    def choose_run(self, run: str | None) -> Any:
        """The samplers of a run."""
        samplers = self.worker.runs.kind(run).samplers if run else ()
        return gr.update(choices=["", *samplers], value="", visible=bool(samplers))

    # ---- the hole ----

    def take_example(self, name: str) -> Any:
        """A photograph from the middle of an installed package's."""
        picture = photograph(EXAMPLES[name])
        if picture is None:
            raise UserError(f"the photograph of {name} is not installed; drop your own")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        box = (EXAMPLE_SIDE, EXAMPLE_SIDE)
        pixels = np.asarray(square.resize(box, Image.Resampling.BICUBIC))
        return shown(Painting(pixels, np.ones(pixels.shape[:2], np.uint8)))

    def name_mask(self, value: Any, name: str, run: str | None, seed: Number) -> Any:
        """A named mask as in training: drawn at the size of the run."""
        painting = read_painting(value)
        size = self.worker.runs.kind(run).size if run else None
        seed = integer("seed", seed)
        mask, _ = masks.resolve(name, painting.picture, seed, size)
        return shown(painting._replace(mask=mask))

    def load_mask(self, value: Any, data: bytes, invert: bool) -> tuple[Any, str]:
        """A mask file, with what is doubtful about it."""
        painting = read_painting(value)
        mask, remarks = read_mask(data, painting.mask.shape, self.limits, invert)
        return shown(painting._replace(mask=mask)), said(remarks)

    def extend(self, value: Any, *sides: Number) -> Any:
        """Outpainting: the picture with a border of hole."""
        left, top, right, bottom = (integer("pixels", side) for side in sides)
        painting = read_painting(value)
        return shown(extended(painting, (left, top, right, bottom), self.limits))

    def add_rectangle(self, value: Any, *numbers: Number) -> Any:
        """A rectangle added to the hole."""
        x, y, width, height = (integer("the rectangle", n) for n in numbers)
        return shown(with_rectangle(read_painting(value), (x, y), (width, height)))

    def invert(self, value: Any) -> Any:
        """Hole and known part exchanged."""
        painting = read_painting(value)
        return shown(painting._replace(mask=1 - painting.mask))

    # ---- completions ----

    def complete(
        self, session: Session, value: Any, run: str | None, *choices: Any
    ) -> Iterator[dict[str, Any]]:
        """Completions as they are drawn, then what follows from all of them."""
        num, seed, fixed, sampler, best_of = choices
        painting = read_painting(value)
        if not painting.has_hole:
            raise UserError("there is no hole yet; paint one, or take a named mask")
        order = Order(
            run or "",
            Picture(painting.picture),
            painting.mask,
            num=integer("completions", num),
            seed=integer("seed", seed) if fixed else secrets.randbelow(MAX_SEED),
            sampler=parse_sampler(sampler or ""),
            best_of=integer("best of", best_of) or None,
        )
        job = session.start(self.worker, painting, order)
        empty = {"gallery": [], "heat": None, "slider": None, "command": ""}
        yield empty | {"seed": order.seed, "zip": gr.update(interactive=False)}
        drawn = 0
        try:
            for count, line in progress(self.worker, job):
                update: dict[str, Any] = {"status": line}
                if count > drawn:
                    update["gallery"] = list(job.samples[:count])
                drawn = count
                yield update
        except GeneratorExit:  # the tab was closed or reloaded
            job.cancel()
            raise
        yield self.results(session)

    def results(self, session: Session) -> dict[str, Any]:
        """What is shown when a job has ended."""
        job = session.job
        if job is None or not job.samples:
            return {"status": "stopped before the first completion"}
        order, samples = job.order, job.samples
        line = (
            f"{len(samples)} of {order.num} in {job.seconds:.1f} s, seed {order.seed}"
        )
        colours, largest = spread(np.stack(samples))
        command = command_line(order, self.worker.runs.source(order.run), job.step)
        path = session.keep(zip_bytes(order, samples, command), self.folder)
        label = f"Standard deviation, 0 to {largest:.0f} of 255 levels"
        return {
            "status": "  \n".join([f"{line}, step {job.step}", said(job.remarks)]),
            "gallery": list(samples),
            "heat": gr.update(value=colours, label=label),
            "slider": self.comparison(session, 0),
            "command": command,
            "zip": gr.update(value=str(path), interactive=True),
        }

    def stop(self, session: Session) -> None:
        """Cancel the job of this tab."""
        session.stop()

    def comparison(self, session: Session, number: int) -> Any:
        """The input and a completion, for the slider."""
        sample = session.choose(number)
        if session.painting is None:
            return None
        return with_hole_shown(session.painting), sample

    def select(self, session: Session, event: gr.SelectData) -> Any:
        """A click on a completion."""
        with sentences():
            return self.comparison(session, int(event.index))

    def proceed(self, session: Session) -> dict[str, Any]:
        """The chosen completion becomes the picture."""
        painting = session.proceed()
        back = len(session.history)
        line = f"painting on the chosen completion; {back} step(s) to undo"
        return {"editor": shown(painting), "status": line, "gallery": []}

    def undo(self, session: Session) -> dict[str, Any]:
        """The picture and hole before the last choice."""
        painting = session.undo()
        line = f"back; {len(session.history)} step(s) left to undo"
        return {"editor": shown(painting), "status": line}


def integer(name: str, value: Any) -> int:
    """A number of a field as an integer.

    Raises:
      UserError: if it is none.
    """
    try:
        return int(value or 0)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{name} is no whole number; correct it") from None


def said(remarks: Any) -> str:
    """Warnings as one paragraph."""
    return " ".join(f"Warning: {remark}." for remark in remarks)


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
        sentence = "the request failed inside the server, whose log says why"
        raise gr.Error(sentence, print_exception=False) from None
