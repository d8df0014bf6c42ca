"""The bar of a command that goes through images, one by one."""

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


def progress_bar(console: Console) -> Progress:
    """Images done, rate, time left."""
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
    """Images a second, or seconds an image when slower than one."""

    def render(self, task: Task) -> Text:
        """`3.2 images/s`."""
        speed = task.speed
        if not speed:
            return Text("compiling")
        if speed < 1:
            return Text(f"{1 / speed:.1f} s/image")
        return Text(f"{speed:.1f} images/s")
