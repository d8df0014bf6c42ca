"""The output of runs and commands: console, JSON lines, TensorBoard, image grids."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import jax
import numpy as np
from etils import epath
from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from tensorboardX import SummaryWriter

from picjax import cli, images
from picjax.buckets import Mirror, is_remote
from picjax.cli import say
from picjax.files import write_text
from picjax.system import Config
from picjax.wandb_log import WandbLog

MEANINGS = {  # of what every run logs besides its method's metrics
    "seconds": "time since the run's start, over all its resumes",
    "images_per_second": "images trained on, without compiling, grids and evaluations",
    "data_wait": "share of the time that training waited for data",
}
LINE_SECONDS = 60.0  # longest time between two lines about progress off a terminal
COPY_SECONDS = 60.0  # between two copies of the log to a bucket
LINES = "metrics.jsonl"


class Log:
    """The log of a training run in its workdir; a context manager.

    Only one process of a run has one.

    Args:
      workdir: folder of `metrics.jsonl`, `samples/` and `tensorboard/`.
      start: completed steps; lines of later steps, left by a killed run, are dropped.
      config: of the run: its steps and batch size, and the project of `log.wandb`.
      meanings: of the metrics, which TensorBoard shows.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        start: int,
        config: Config,
        meanings: Mapping[str, str] = MappingProxyType({}),
    ):
        self.workdir = epath.Path(workdir)
        self.total = config.steps
        self.batch_size = config.batch_size
        self.meanings = {**MEANINGS, **meanings}
        self.workdir.mkdir(parents=True, exist_ok=True)
        self.mirror = Mirror(self.workdir) if is_remote(workdir) else None
        folder = self.mirror.path if self.mirror else Path(workdir)
        if self.mirror:
            self.mirror.fetch(LINES)
        earlier = drop_later_lines(folder / LINES, start)
        self.began = time.perf_counter() - earlier
        self.last = (start, time.perf_counter())
        self.copied = self.last[1]
        self.lines = open(folder / LINES, "a", buffering=1)  # noqa: SIM115
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        self.wandb = WandbLog(self.workdir, config) if config.log.wandb else None
        # Start of the timed steps; what is left out shifts it.
        self.first = self.last
        self.line, self.next_line = "", 0.0
        self.announced: set[str] = set()
        self.console = Console(stderr=True, soft_wrap=True)
        self.live = Live(
            get_renderable=lambda: Text(self.line, no_wrap=True, overflow="ellipsis"),
            console=self.console,
        )

    def __enter__(self) -> "Log":  # noqa: PYI034 (beartype does not support Self here)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()
        # On a full disk, the first error is the one to report.
        with contextlib.suppress(*([OSError] if error else [])):
            self.lines.close()
            self.board.close()
            if self.wandb:
                self.wandb.close()
            if self.mirror:
                self.mirror.copy()
                self.mirror.close()

    def say(self, text: str) -> None:
        """Print a line on the console."""
        self.console.print(cli.printable(text), highlight=False, markup=False)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Log the metrics of a step; the rate is that since the previous call."""
        last_step, at = self.last
        now = time.perf_counter()
        self.last = (step, now)
        rate = (step - last_step) * self.batch_size / (now - at)
        timing = {
            "seconds": round(now - self.began, 3),
            "images_per_second": round(rate, 3),
        }
        self.lines.write(json.dumps({"step": step, **values, **timing}) + "\n")
        if self.wandb:
            self.wandb.metrics(step, {**values, **timing})
        for name, value in {**values, "images_per_second": rate}.items():
            measured = "as picjax.eval measures it" if name.startswith("eval/") else ""
            meaning = self.meanings.get(name, measured)
            self.board.add_scalar(name, value, step, summary_description=meaning)

        if now - self.copied > COPY_SECONDS:
            self.copy()

    def copy(self) -> None:
        """In a bucket, bring `metrics.jsonl` and `tensorboard/` up to date.

        Before a checkpoint, so that it never has more steps than the log.

        Raises:
          OSError: if it cannot be written to.
        """
        if self.mirror:
            self.board.flush()
            self.mirror.copy()
            self.copied = time.perf_counter()

    def progress(self, step: int, values: Mapping[str, float], logged: bool) -> None:
        """Show a finished step: on a terminal always, elsewhere if a line is due.

        Besides the logged steps, the first one has a line, and then one at twice the
        time of the previous line, but at least every `LINE_SECONDS`.

        Args:
          step: the step.
          values: its metrics.
          logged: whether they are logged.
        """
        first_step, at = self.first
        now = time.perf_counter()
        rate = (step - first_step) * self.batch_size / (now - at)
        left = (self.total - step) * self.batch_size / rate
        self.line = progress_line(f"{step}/{self.total}", rate, left, values)
        if not self.console.is_terminal and (logged or now >= self.next_line):
            self.next_line = now + min(LINE_SECONDS, now - at)
            self.say(self.line)

    @contextlib.contextmanager
    def announce(self, activity: str) -> Iterator[None]:
        """Show what a block does and how long it took, the first time."""
        if activity in self.announced:
            yield
            return
        self.announced.add(activity)
        with announce(activity, self.console):
            yield

    def leave_out(self, seconds: float) -> None:
        """Exclude time that was not training (samples, compiling) from the rate."""
        step, at = self.last
        self.last = (step, at + seconds)
        step, at = self.first
        self.first = (step, at + seconds)

    def grid(self, step: int, grid: np.ndarray) -> None:
        """Write a grid, uint8 [h w 3], to `samples/<step>.png` and TensorBoard."""
        images.write_png(self.workdir / "samples" / f"{step:07d}.png", grid)
        self.board.add_image("samples", grid, step, dataformats="HWC")
        if self.wandb:
            self.wandb.grid(step, grid)


def drop_later_lines(path: Path, step: int) -> float:
    """Keep the lines of `metrics.jsonl` up to `step`; returns the last `seconds`.

    A killed run may leave lines of steps that are repeated, and half a line; a disk may
    spoil others. Lines that are none of a run's are dropped, with a message.
    """
    if not path.exists():
        return 0.0
    kept, damaged, last, seconds = [], 0, 0, 0.0
    for line in path.read_bytes().splitlines():
        entry = read_line(line)
        if entry is None or entry["step"] <= last:
            damaged += 1
        elif entry["step"] <= step:
            kept.append(line.decode() + "\n")
            last, seconds = entry["step"], entry["seconds"]
    if damaged:
        say(f"'{path}' had {damaged} damaged line(s), which are removed from it")
    write_text(path, "".join(kept))
    return seconds


def read_line(line: bytes) -> dict[str, Any] | None:
    """A line of `metrics.jsonl`, or None if it is damaged."""
    try:
        entry = json.loads(line.decode())
        step, seconds = entry["step"], entry["seconds"]
    except (ValueError, KeyError, TypeError):
        return None
    fits = isinstance(step, int) and isinstance(seconds, int | float)
    return entry if fits and isinstance(entry, dict) else None


def duration(seconds: float) -> str:
    """Format seconds: 7384 -> 2:03:04."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def progress_line(
    step: str, rate: float, left: float, values: Mapping[str, float]
) -> str:
    """A line about progress; what a narrow terminal cuts off are metrics.

    Args:
      step: such as `200/1000`.
      rate: images per second.
      left: seconds.
      values: metrics, the less important ones last.
    """
    metrics = [f"{name} {value:.4g}" for name, value in values.items()]
    speed = f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"
    timing = [f"{speed} images/s", f"{duration(left)} left"]
    return "  ".join([f"step {step}", *timing, *metrics])


@contextlib.contextmanager
def announce(activity: str, console: Console | None = None) -> Iterator[None]:
    """Print what a block does as it starts, and how long it took.

    Args:
      activity: such as `compiling the training step`.
      console: None for standard error; only the first process prints to it.
    """
    start = time.perf_counter()
    if console is None:
        quiet = jax.process_index() > 0
        console = Console(stderr=True, soft_wrap=True, quiet=quiet)
    console.print(f"{activity} ...", highlight=False)
    yield
    seconds = time.perf_counter() - start
    console.print(f"{activity} took {seconds:.1f} s", highlight=False)


@contextlib.contextmanager
def announce_elapsing(activity: str) -> Iterator[None]:
    """`announce`, with the time so far on a terminal."""
    console = Console(stderr=True, soft_wrap=True)
    columns = TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        bar.add_task(activity, total=None)
        with announce(activity, console):
            yield


# ---- progress of a command ----


def progress_bar(console: Console) -> Progress:
    """A progress bar over images: number done, rate, time left."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        Rate(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


class Rate(ProgressColumn):
    """Images per second, or seconds per image below one."""

    def render(self, task: Task) -> Text:
        """Render, for example, `3.2 images/s`."""
        speed = task.speed
        if not speed:
            return Text("compiling")
        if speed < 1:
            return Text(f"{1 / speed:.1f} s/image")
        return Text(f"{speed:.1f} images/s")
