"""What every download needs: patience with faults that may pass, and a sign of progress."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from lekhani.errors import LekhaniError

if TYPE_CHECKING:
    from tenacity import RetryCallState

log = logging.getLogger(__name__)
_T = TypeVar("_T")

ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds; each wait is about twice the one before, with jitter
SILENCE = 60.0  # seconds without a byte after which a connection counts as broken


class PassingError(LekhaniError):
    """A fault of the world that may pass; `what` says it in a few words, `after` how many seconds the server asks to wait."""

    def __init__(self, what: str, way_out: str, after: float | None = None) -> None:
        super().__init__(f"{what}; {way_out}")
        self.what, self.after = what, after


def patiently(work: Callable[[], _T], attempts: int | None = None) -> _T:
    """Do `work`, and again while it raises PassingError, which is raised in the end when it does not pass."""
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

    allowed = attempts or ATTEMPTS
    backoff = wait_exponential_jitter(initial=FIRST_WAIT, max=LONGEST_WAIT, jitter=FIRST_WAIT)

    def wait(state: "RetryCallState") -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.after if isinstance(error, PassingError) else None
        return backoff(state) if asked is None else min(max(asked, 0.0), LONGEST_WAIT)

    def tell(state: "RetryCallState") -> None:
        error = state.outcome.exception() if state.outcome else None
        what = error.what if isinstance(error, PassingError) else ""
        seconds = state.next_action.sleep if state.next_action else 0.0
        log.warning("%s; trying again in %.0f s (attempt %d of %d)", what, seconds, state.attempt_number + 1, allowed)

    retrying = Retrying(
        stop=stop_after_attempt(allowed),
        wait=wait,
        retry=retry_if_exception_type(PassingError),
        before_sleep=tell,
        reraise=True,
    )
    return retrying(work)


def retry_after(given: str | None) -> float | None:
    """The seconds that a server asks to wait in its Retry-After header, a number or a date; None where it asks nothing that is either."""
    given = (given or "").strip()
    if given.isdecimal():
        return float(given)
    try:
        return (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the number of bytes that came: a bar on a terminal, else a line at every quarter of `total`."""
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
    came = quarters = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)

        def advance(count: int) -> None:
            nonlocal came, quarters
            came += count
            bar.update(task, advance=count)
            if not console.is_terminal and total and came * 4 // total > quarters:
                quarters = came * 4 // total
                log.info("%s: %d%% of %.1f MB", title, 25 * quarters, total / 1e6)

        yield advance
