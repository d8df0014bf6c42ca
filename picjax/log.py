"""The output of runs and commands: console, JSON lines, TensorBoard, image grids."""

import json
import time
from pathlib import Path
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from tensorboardX import SummaryWriter

from picjax import images
from picjax.files import write_text


class Log:
    """The log of a training run in its workdir; a context manager.

    Only one process of a run has one.

    Args:
      workdir: folder of `metrics.jsonl`, `samples/` and `tensorboard/`.
      start: completed steps; lines of later steps, left by a killed run, are dropped.
      total: steps of the whole run.
      batch_size: images per step, for the rate.
    """

    def __init__(self, workdir: Path, start: int, total: int, batch_size: int):
        self.workdir = workdir
        self.total = total
        self.batch_size = batch_size
        workdir.mkdir(parents=True, exist_ok=True)
        earlier = drop_later_lines(workdir / "metrics.jsonl", start)
        self.began = time.perf_counter() - earlier
        self.last = (start, time.perf_counter())
        self.lines = open(workdir / "metrics.jsonl", "a", buffering=1)  # noqa: SIM115
        self.board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)
        self.console = Console(stderr=True, soft_wrap=True)
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("compiling", total=total, completed=start)

    def __enter__(self) -> "Log":  # noqa: PYI034 (beartype does not support Self here)
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()
        self.lines.close()
        self.board.close()

    def say(self, text: str) -> None:
        """Print a line on the console."""
        self.console.print(text, highlight=False)

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
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        self.board.add_scalar("images_per_second", rate, step)
        left = (self.total - step) * self.batch_size / rate
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        text += f"  {rate:.1f} images/s  {duration(left)} left"
        if self.console.is_terminal:
            self.progress.update(self.task, completed=step, description=text)
        else:
            self.say(f"step {step}/{self.total}  {text}")

    def leave_out(self, seconds: float) -> None:
        """Exclude time that was not training (samples, compiling) from the rate."""
        step, at = self.last
        self.last = (step, at + seconds)

    def grid(self, step: int, grid: np.ndarray) -> None:
        """Write a grid, uint8 [h w 3], to `samples/<step>.png` and TensorBoard."""
        images.write_png(self.workdir / "samples" / f"{step:07d}.png", grid)
        self.board.add_image("samples", grid, step, dataformats="HWC")


def drop_later_lines(path: Path, step: int) -> float:
    """Keep the lines of `metrics.jsonl` up to `step`; returns the last `seconds`.

    A killed run may leave lines of steps that are repeated, and half a line.
    """
    if not path.exists():
        return 0.0
    kept, seconds = [], 0.0
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            break
        if entry["step"] > step:
            break
        kept.append(line + "\n")
        seconds = entry["seconds"]
    write_text(path, "".join(kept))
    return seconds


def duration(seconds: float) -> str:
    """Format seconds: 7384 -> 2:03:04."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


# ---- progress of a command ----


def progress_bar(console: Console) -> Progress:
    """A progress bar over images: number done, rate, time left."""
    return Progress(
        TextColumn("{task.description}"),
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
