"""Datasets from the Hugging Face hub, through its own package: the files of one commit, as they are.

The token, the cache and the address (HF_TOKEN, HF_HOME, HF_ENDPOINT) are those of huggingface_hub.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from lekhani.data.sources.transfer import TransientError, parse_retry_after, with_retries
from lekhani.errors import LekhaniError, UsageError, first_line, outside_failure

_LEFT_OUT = [".*", "*.py", "*.md"]  # settings of git, programs, and the card


@dataclass(frozen=True)
class Request:
    """What to get: `key` is its place in params.yaml, `revision` a branch, a tag or a commit; None: the main branch."""

    key: str
    repo: str
    revision: str | None

    @property
    def page(self) -> str:
        """The address of the dataset's page."""
        return f"https://huggingface.co/datasets/{self.repo}"


def commit_of(request: Request) -> str:
    """The commit that `request.revision` stands for now.

    Raises UsageError for a dataset or a revision that does not exist or may not be read, and LekhaniError when the hub
    cannot be reached or does not answer as it should.
    """

    def ask() -> str:
        with _errors(request):
            commit = HfApi().dataset_info(request.repo, revision=request.revision).sha
        if not commit:
            raise LekhaniError(f"The hub names no commit of {request.repo}; see whether {request.page} opens.")
        return commit

    return with_retries(ask)


def download(request: Request, commit: str, target: Path) -> None:
    """Save the files of `request` at `commit` in the new folder `target`; raises as `commit_of` does."""

    def ask() -> None:
        shutil.rmtree(target, ignore_errors=True)  # what an attempt before left
        with _errors(request):
            snapshot_download(
                request.repo, repo_type="dataset", revision=commit, local_dir=target, ignore_patterns=_LEFT_OUT
            )
        shutil.rmtree(target / ".cache", ignore_errors=True)

    with_retries(ask)
    if not any(path.is_file() for path in target.rglob("*")):
        raise UsageError(f"{request.key}.huggingface: {request.repo} holds no files of data; see {request.page}.")


@contextmanager
def _errors(request: Request) -> Iterator[None]:
    key = f"{request.key}.huggingface"
    try:
        yield
    except GatedRepoError:
        remedy = f"accept them at {request.page}, and log in with `hf auth login`."
        raise UsageError(f"{key}.repo: the terms of {request.repo} wait to be accepted; {remedy}") from None
    except RepositoryNotFoundError:
        problem = f"the Hugging Face hub has no dataset {request.repo}, or it is private"
        raise UsageError(f"{key}.repo: {problem}; check the name, and log in with `hf auth login`.") from None
    except RevisionNotFoundError:
        problem = f"{request.repo} has no revision {request.revision}"
        raise UsageError(f"{key}.revision: {problem}; name a branch, a tag or a commit of it.") from None
    except Exception as error:
        if outside_failure(error) is None:
            raise
        problem = f"{request.repo} could not be loaded from the Hugging Face hub: {first_line(error).rstrip('.')}"
        remedy = "check the connection and HF_TOKEN, and run again."
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            status, after = error.response.status_code, error.response.headers.get("Retry-After")
            if status == 429 or status >= 500:
                raise TransientError(problem, remedy, parse_retry_after(after)) from None
        raise LekhaniError(f"{problem}; {remedy}") from None
