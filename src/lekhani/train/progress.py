"""A progress bar for training on the terminal."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lekhani.train.reporter import Reporter


class ProgressBar(Reporter):
    """Share done, images/s, time left and the latest losses; a plain line at every tenth where there is no terminal."""

    def __init__(self, title: str, images_total: int) -> None:
        self.title, self.total = title, images_total
        self.console = Console(stderr=True)
        self.tenths = 0
        self.score = ""
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% {task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=images_total, note="")
        self.bar.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        losses = ", ".join(f"{key} {value:.3f}" for key, value in values.items() if key.startswith("loss")) + self.score
        speed, left = values["images_per_second"], values["seconds_left"]
        seen = min(values["images_seen"], self.total)  # the last batch may exceed the budget
        self.bar.update(self.task, completed=seen, note=f"{speed:.0f} images/s, {losses}")
        if not self.console.is_terminal and seen >= self.total * (self.tenths + 1) / 10:
            self.tenths = int(10 * seen / self.total)
            line = f"{self.title}: {seen / self.total:.0%}, {speed:.0f} images/s, {left:.0f} s left, {losses}"
            self.console.print(line, highlight=False, soft_wrap=True)

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter; the leading metric is shown beside the losses from now on."""
        self.score = f", judge FID {values['judge_fid']:.2f}"

    def close(self) -> None:
        self.bar.stop()
