"""What every download needs: retries after errors that may pass, and a sign of progress."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from lekhani.errors import LekhaniError

if TYPE_CHECKING:
    from tenacity import RetryCallState

log = logging.getLogger(__name__)
_T = TypeVar("_T")

ATTEMPTS = 5
MIN_WAIT, MAX_WAIT = 1.0, 60.0  # seconds; each wait is about twice the one before, with jitter
TIMEOUT = 60.0  # seconds without a byte after which a connection counts as broken


class TransientError(LekhaniError):
    """An error that may pass; `retry_after` are the seconds that the server asks to wait, if it does."""

    def __init__(self, problem: str, remedy: str, retry_after: float | None = None) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem, self.retry_after = problem, retry_after


def with_retries(work: Callable[[], _T], attempts: int | None = None) -> _T:
    """Do `work`, and again while it raises TransientError, up to so many times; the last error is raised."""
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

    attempts = attempts or ATTEMPTS
    backoff = wait_exponential_jitter(initial=MIN_WAIT, max=MAX_WAIT, jitter=MIN_WAIT)

    def wait(state: "RetryCallState") -> float:
        error = state.outcome.exception() if state.outcome else None
        seconds = error.retry_after if isinstance(error, TransientError) else None
        return backoff(state) if seconds is None else min(seconds, MAX_WAIT)

    def log_retry(state: "RetryCallState") -> None:
        error = state.outcome.exception() if state.outcome else None
        problem = error.problem if isinstance(error, TransientError) else ""
        seconds, attempt = state.next_action.sleep if state.next_action else 0, state.attempt_number + 1
        log.warning("%s; trying again in %.0f s (attempt %d of %d)", problem, seconds, attempt, attempts)

    retry, stop = retry_if_exception_type(TransientError), stop_after_attempt(attempts)
    return Retrying(stop=stop, wait=wait, retry=retry, before_sleep=log_retry, reraise=True)(work)


def parse_retry_after(header: str | None) -> float | None:
    """The seconds from a Retry-After header, a number or a date; None where it is neither. A date gone by is 0."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return Retry().parse_retry_after(header or "")
    except InvalidHeader:
        return None


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the number of bytes that arrived.

    It moves a bar on a terminal, and elsewhere logs a line at every quarter of `total`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    arrived = quarters = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)

        def advance(count: int) -> None:
            nonlocal arrived, quarters
            arrived += count
            bar.update(task, advance=count)
            if not console.is_terminal and total and arrived * 4 // total > quarters:
                quarters = arrived * 4 // total
                log.info("%s: %d%% of %.1f MB", title, 25 * quarters, total / 1e6)

        yield advance
