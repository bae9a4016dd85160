"""Datasets from Kaggle, through Kaggle's own package: it finds the credentials, and only our sentences reach the user.

No text of that package or of the server is repeated: a token, a signed address or a proxy's password may stand in it.
"""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError

from lekhani.data.sources.transfer import SILENCE, PassingError, patiently, progress, retry_after
from lekhani.errors import LekhaniError, UsageError

_TOKEN_PAGE = "https://www.kaggle.com/settings"  # noqa: S105 - where users make one
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Request:
    """What to get: `key` is the dataset's place in params.yaml, `openml` the number of the same images on OpenML, if known."""

    key: str
    slug: str
    version: int | None
    openml: int | None = None

    @property
    def title(self) -> str:
        """For people: the slug, and the version when one is asked for."""
        return f"{self.slug} version {self.version}" if self.version else self.slug

    @property
    def page(self) -> str:
        """The address of the dataset's page."""
        return f"https://www.kaggle.com/datasets/{self.slug}"

    @property
    def instead(self) -> str:
        """The end of a sentence: the way that needs no account, when there is one."""
        return (
            f", or set `{self.key}.source: openml` (and `openml: {self.openml}` there), which needs no account"
            if self.openml
            else ""
        )


def newest(asked: Request) -> int:
    """The number of the newest version of `asked.slug`.

    Raises UsageError for what the user must change (credentials, slug, terms to accept) and LekhaniError when Kaggle
    cannot be reached or does not answer as it should.
    """

    def ask() -> int:
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest  # type: ignore[import-untyped]

        question = ApiGetDatasetRequest()
        question.owner_slug, question.dataset_slug = asked.slug.split("/")
        with _client(asked) as client, _contained(asked):
            number = client.datasets.dataset_api_client.get_dataset(question).current_version_number
        if not number:
            raise UsageError(
                f"Kaggle names no version of {asked.slug}; set `{asked.key}.kaggle.version` to the number shown at {asked.page}."
            )
        return int(number)

    return patiently(ask)


def download(asked: Request, target: Path) -> None:
    """Save the zip of `asked`, whose version must be known, as `target`.

    Raises UsageError and LekhaniError as `newest` does, also when the zip arrives incomplete or is none; OSError when
    `target` cannot be written.
    """

    def ask() -> None:
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        question = ApiDownloadDatasetRequest()
        question.owner_slug, question.dataset_slug = asked.slug.split("/")
        question.dataset_version_number = asked.version
        with _client(asked) as client:
            with _contained(asked):
                answer = client.datasets.dataset_api_client.download_dataset(question)
            with answer:
                _save(asked, answer, target)

    patiently(ask)


def _save(asked: Request, answer: requests.Response, target: Path) -> None:
    length = answer.headers.get("Content-Length", "")
    # The length counts the bytes on the wire; a packed body unpacks to another number.
    total = int(length) if length.isdecimal() and not answer.headers.get("Content-Encoding") else None
    came = 0
    try:
        with target.open("wb") as file, progress(f"Kaggle: {asked.title}", total) as advance:
            for block in answer.iter_content(_BLOCK):
                file.write(block)
                came += len(block)
                advance(len(block))
    except requests.RequestException:
        raise _incomplete(asked) from None
    if total is not None and came != total:
        raise _incomplete(asked)
    if not zipfile.is_zipfile(target):
        if total is None:  # nothing else would tell that the end is missing
            raise _incomplete(asked)
        raise LekhaniError(
            f"What Kaggle sent for {asked.title} is no zip; see whether it can be downloaded at {asked.page}{asked.instead}."
        )


@contextmanager
def _client(asked: Request) -> Iterator[Any]:
    """A client of Kaggle that is signed in; a failure of the network while it is used, up to the last byte, becomes a sentence."""
    try:
        with _contained(asked):
            from kaggle.api.kaggle_api_extended import KaggleApi  # type: ignore[import-untyped]

            api = KaggleApi()
            api.args = []  # VERBOSE in the environment would print whole answers
            build = api.build_kaggle_client
            api.build_kaggle_client = lambda: _bounded(build())
            api.authenticate()
            client = api.build_kaggle_client()
        with client:
            yield client
    except requests.RequestException as error:
        raise _sentence(asked, error) from None


@contextmanager
def _contained(asked: Request) -> Iterator[None]:
    """Run a piece of Kaggle's package: it prints (even the Authorization header, asked to be verbose) and exits for want of credentials."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    except requests.RequestException:
        raise  # an OSError too, told in _sentence
    except SystemExit:
        raise _no_account(asked) from None
    except OSError as error:
        raise UsageError(
            f"{asked.key}.source: Kaggle's folder for credentials cannot be used ({error.strerror}); "
            f"check the permissions of ~/.kaggle, or set KAGGLE_CONFIG_DIR to a folder of yours{asked.instead}."
        ) from None
    except ValueError as error:
        if isinstance(error, UnicodeEncodeError) or "header" in str(error):  # the credentials cannot even be sent
            raise _refused(asked) from None
        raise LekhaniError(
            f"The answer to a request for {asked.slug} is not Kaggle's; see whether a proxy or a sign-in page of your network stands between."
        ) from None


def _bounded(client: Any) -> Any:
    """The same client, which waits for an answer no longer than SILENCE; by itself it would wait for ever."""

    class Bounded(HTTPAdapter):
        def send(self, *args: Any, **settings: Any) -> requests.Response:
            return super().send(*args, **{**settings, "timeout": SILENCE})

    web = client.http_client()
    web.__enter__()  # makes the session
    for scheme in ("https://", "http://"):
        web._session.mount(scheme, Bounded())
    return client


def _no_account(asked: Request) -> LekhaniError:
    from kagglesdk import get_access_token_from_env  # type: ignore[import-untyped]

    if get_access_token_from_env()[0]:  # there is one, which Kaggle called invalid
        return _refused(asked)
    return UsageError(
        f"{asked.key}.source: Kaggle wants an account and no credentials were found; make a token at {_TOKEN_PAGE} and keep it in "
        f"KAGGLE_API_TOKEN or ~/.kaggle/access_token (KAGGLE_USERNAME with KAGGLE_KEY and kaggle.json do too){asked.instead}."
    )


def _refused(asked: Request) -> LekhaniError:
    return UsageError(
        f"{asked.key}.source: Kaggle refuses the credentials found in KAGGLE_API_TOKEN, KAGGLE_KEY or ~/.kaggle (401); "
        f"make a new token at {_TOKEN_PAGE} and keep it there, without a line break{asked.instead}."
    )


def _incomplete(asked: Request) -> LekhaniError:
    return PassingError(
        f"The zip of {asked.title} arrived incomplete from Kaggle",
        f"check the connection and run again{asked.instead}.",
    )


def _sentence(asked: Request, error: requests.RequestException) -> LekhaniError:
    if error.response is not None:
        return _of_status(asked, error.response)
    cause = error.args[0] if error.args else None
    what = ""
    if isinstance(error, requests.exceptions.InvalidHeader):
        return _refused(asked)
    if isinstance(error, requests.exceptions.ProxyError):
        what = "the proxy named in HTTPS_PROXY does not let it through"
    elif isinstance(error, requests.exceptions.SSLError):
        what = "its certificate is not trusted here; a network with a certificate of its own needs REQUESTS_CA_BUNDLE"
    elif isinstance(error, requests.ConnectTimeout) or isinstance(getattr(cause, "reason", None), NewConnectionError):
        what = "there is no connection"
    if what:  # told at once: a machine that is offline will be so in a minute
        return LekhaniError(f"Kaggle cannot be reached ({what}); check the network and run again{asked.instead}.")
    if isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError):
        return PassingError("The connection to Kaggle broke", f"check the network and run again{asked.instead}.")
    return LekhaniError(
        f"The request for {asked.slug} to Kaggle fails ({type(error).__name__}); check HTTPS_PROXY and run again{asked.instead}."
    )


def _of_status(asked: Request, answer: requests.Response) -> LekhaniError:
    status = answer.status_code
    if status < 400:  # Kaggle may put the true one into the body
        with suppress(ValueError, KeyError, TypeError):
            status = int(answer.json()["code"])
    after = retry_after(answer.headers.get("Retry-After"))
    if status == 429:
        return PassingError("Kaggle asks to slow down (429)", f"wait some minutes and run again{asked.instead}.", after)
    if status >= 500 or answer.history:  # behind a redirect it is Kaggle's storage that fails
        return PassingError(f"Kaggle has a fault of its own ({status})", f"run again later{asked.instead}.", after)
    if status == 401:
        return _refused(asked)
    if status == 403:
        return UsageError(
            f"{asked.key}.kaggle.slug: Kaggle does not let this account download {asked.title} (403): it is private, does not exist, or its "
            f"rules wait to be accepted; open {asked.page} with the same account{asked.instead}."
        )
    if status == 404:
        what, where = (
            (f"{asked.slug} or not its version {asked.version}", "kaggle")
            if asked.version
            else (asked.slug, "kaggle.slug")
        )
        return UsageError(
            f"{asked.key}.{where}: Kaggle has no {what} (404); compare it with the address of the dataset's page{asked.instead}."
        )
    return LekhaniError(
        f"Kaggle answers {status} to the request for {asked.title}; see whether it can be downloaded at {asked.page}{asked.instead}."
    )
