"""A progress bar for training on the terminal."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lekhani.pictures import Picture


class ProgressBar:
    """Share done, images/s, time left and the latest losses; plain lines at every tenth when the output is no terminal."""

    def __init__(self, title: str, images_total: int) -> None:
        self.title, self.total = title, images_total
        self.console = Console(stderr=True)
        self.lines = 0
        self.leading = ""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% {task.fields[note]}"),
        )
        self.bar = Progress(
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=images_total, note="")
        self.bar.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter."""
        losses = (
            ", ".join(f"{key} {value:.3f}" for key, value in values.items() if key.startswith("loss")) + self.leading
        )
        seen, speed, left = (values[key] for key in ("images_seen", "images_per_second", "seconds_left"))
        seen = min(seen, self.total)  # the last batch may reach beyond the budget
        self.bar.update(self.task, completed=seen, note=f"{speed:.0f} images/s, {losses}")
        if not self.console.is_terminal and seen >= self.total * (self.lines + 1) / 10:
            self.lines = int(10 * seen / self.total)
            told = f"{self.title}: {seen / self.total:.0%}, {speed:.0f} images/s, {left:.0f} s left, {losses}"
            self.console.print(told, highlight=False, soft_wrap=True)

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter: the leading metric stands beside the losses from now on."""
        self.leading = f", judge FID {values['judge_fid']:.2f}"

    def images(self, step: int, grid: Picture) -> None:
        """Pictures do not go to a terminal."""

    def resume(self, step: int) -> None:
        """See Reporter; the bar follows the images seen."""

    def close(self) -> None:
        """See Reporter."""
        self.bar.stop()
