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

from lekhani.data.sources.transfer import TIMEOUT, TransientError, parse_retry_after, progress, with_retries
from lekhani.errors import LekhaniError, UsageError

_TOKEN_PAGE = "https://www.kaggle.com/settings"  # noqa: S105 - where users make one
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Request:
    """What to get: `key` is its place in params.yaml, `openml` the number of the same images on OpenML, if known."""

    key: str
    slug: str
    version: int | None
    openml: int | None = None

    @property
    def title(self) -> str:
        """For people: the slug, and the version where one is named."""
        return f"{self.slug} version {self.version}" if self.version else self.slug

    @property
    def page(self) -> str:
        """The address of the dataset's page."""
        return f"https://www.kaggle.com/datasets/{self.slug}"

    @property
    def alternative(self) -> str:
        """The end of a sentence: the way that needs no account, when there is one."""
        if not self.openml:
            return ""
        return f", or set `{self.key}.source: openml` (and `openml: {self.openml}` there), which needs no account"


def newest_version(request: Request) -> int:
    """The number of the newest version of `request.slug`.

    Raises UsageError for what the user must change (credentials, slug, terms to accept) and LekhaniError when Kaggle
    cannot be reached or does not answer as it should.
    """

    def ask() -> int:
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest  # type: ignore[import-untyped]

        question = ApiGetDatasetRequest()
        question.owner_slug, question.dataset_slug = request.slug.split("/")
        with _client(request) as client, _quietly(request):
            number = client.datasets.dataset_api_client.get_dataset(question).current_version_number
        if not number:
            remedy = f"set `{request.key}.kaggle.version` to the number shown at {request.page}."
            raise UsageError(f"Kaggle names no version of {request.slug}; {remedy}")
        return int(number)

    return with_retries(ask)


def download(request: Request, target: Path) -> None:
    """Save the zip of `request`, whose version must be known, as `target`.

    Raises UsageError and LekhaniError as `newest_version` does, also when the zip arrives incomplete or is none;
    OSError when `target` cannot be written.
    """

    def ask() -> None:
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        question = ApiDownloadDatasetRequest()
        question.owner_slug, question.dataset_slug = request.slug.split("/")
        question.dataset_version_number = request.version
        with _client(request) as client:
            with _quietly(request):
                response = client.datasets.dataset_api_client.download_dataset(question)
            with response:
                _save(request, response, target)

    with_retries(ask)


def _save(request: Request, response: requests.Response, target: Path) -> None:
    remedy = f"check the connection and run again{request.alternative}."
    incomplete = TransientError(f"The zip of {request.title} arrived incomplete from Kaggle", remedy)
    length = response.headers.get("Content-Length", "")
    # The length counts the bytes on the wire; a compressed body has another one.
    total = int(length) if length.isdecimal() and not response.headers.get("Content-Encoding") else None
    arrived = 0
    try:
        with target.open("wb") as file, progress(f"Kaggle: {request.title}", total) as advance:
            for block in response.iter_content(_BLOCK):
                file.write(block)
                arrived += len(block)
                advance(len(block))
    except requests.RequestException:
        raise incomplete from None
    if total is not None and arrived != total:
        raise incomplete
    if not zipfile.is_zipfile(target):
        if total is None:  # nothing else would tell that the end is missing
            raise incomplete
        remedy = f"see whether it can be downloaded at {request.page}{request.alternative}."
        raise LekhaniError(f"What Kaggle sent for {request.title} is no zip; {remedy}")


@contextmanager
def _client(request: Request) -> Iterator[Any]:
    """A client of Kaggle that is signed in; a failure of the network while it is used becomes a sentence."""
    try:
        with _quietly(request):
            from kaggle.api.kaggle_api_extended import KaggleApi  # type: ignore[import-untyped]

            api = KaggleApi()
            api.args = []  # VERBOSE in the environment would print whole answers
            build = api.build_kaggle_client
            api.build_kaggle_client = lambda: _with_timeout(build())
            api.authenticate()
            client = api.build_kaggle_client()
        with client:
            yield client
    except requests.RequestException as error:
        raise _network_error(request, error) from None


@contextmanager
def _quietly(request: Request) -> Iterator[None]:
    """Run a piece of Kaggle's package, which prints (even the Authorization header) and exits without credentials."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    except requests.RequestException:
        raise  # an OSError too, which `_network_error` puts into words
    except SystemExit:
        raise _no_credentials(request) from None
    except OSError as error:
        raise UsageError(
            f"{request.key}.source: Kaggle's folder for credentials cannot be used ({error.strerror}); check the "
            f"permissions of ~/.kaggle, or set KAGGLE_CONFIG_DIR to a folder of yours{request.alternative}."
        ) from None
    except ValueError as error:
        if isinstance(error, UnicodeEncodeError) or "header" in str(error):  # the credentials cannot even be sent
            raise _wrong_credentials(request) from None
        remedy = "see whether a proxy or a sign-in page of your network stands between."
        raise LekhaniError(f"The answer to a request for {request.slug} is not Kaggle's; {remedy}") from None


def _with_timeout(client: Any) -> Any:
    """The same client, which waits for an answer no longer than TIMEOUT; by itself it would wait for ever."""

    class Adapter(HTTPAdapter):
        def send(self, *args: Any, **settings: Any) -> requests.Response:
            return super().send(*args, **{**settings, "timeout": TIMEOUT})

    web = client.http_client()
    web.__enter__()  # makes the session
    for scheme in ("https://", "http://"):
        web._session.mount(scheme, Adapter())
    return client


def _no_credentials(request: Request) -> LekhaniError:
    from kagglesdk import get_access_token_from_env  # type: ignore[import-untyped]

    if get_access_token_from_env()[0]:  # there is one, which Kaggle called invalid
        return _wrong_credentials(request)
    return UsageError(
        f"{request.key}.source: Kaggle wants an account and no credentials were found; make a token at {_TOKEN_PAGE} "
        "and keep it in KAGGLE_API_TOKEN or ~/.kaggle/access_token (KAGGLE_USERNAME with KAGGLE_KEY and kaggle.json do "
        f"too){request.alternative}."
    )


def _wrong_credentials(request: Request) -> LekhaniError:
    problem = "Kaggle refuses the credentials found in KAGGLE_API_TOKEN, KAGGLE_KEY or ~/.kaggle (401)"
    remedy = f"make a new token at {_TOKEN_PAGE} and keep it there, without a line break{request.alternative}."
    return UsageError(f"{request.key}.source: {problem}; {remedy}")


def _network_error(request: Request, error: requests.RequestException) -> LekhaniError:
    if error.response is not None:
        return _status_error(request, error.response)
    cause = error.args[0] if error.args else None
    problem, retry = "", f"check the network and run again{request.alternative}."
    if isinstance(error, requests.exceptions.InvalidHeader):
        return _wrong_credentials(request)
    if isinstance(error, requests.exceptions.ProxyError):
        problem = "the proxy named in HTTPS_PROXY does not let it through"
    elif isinstance(error, requests.exceptions.SSLError):
        problem = "its certificate is not trusted here; a network with one of its own needs REQUESTS_CA_BUNDLE"
    elif isinstance(error, requests.ConnectTimeout) or isinstance(getattr(cause, "reason", None), NewConnectionError):
        problem = "there is no connection"
    if problem:  # said at once: a machine that is offline will be so in a minute
        return LekhaniError(f"Kaggle cannot be reached ({problem}); {retry}")
    if isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError):
        return TransientError("The connection to Kaggle broke", retry)
    remedy = f"check HTTPS_PROXY and run again{request.alternative}."
    return LekhaniError(f"The request for {request.slug} to Kaggle fails ({type(error).__name__}); {remedy}")


def _status_error(request: Request, response: requests.Response) -> LekhaniError:
    status, alternative = response.status_code, request.alternative
    if status < 400:  # Kaggle may put the true one into the body
        with suppress(ValueError, KeyError, TypeError):
            status = int(response.json()["code"])
    after = parse_retry_after(response.headers.get("Retry-After"))
    if status == 429:
        return TransientError("Kaggle asks to slow down (429)", f"wait some minutes and run again{alternative}.", after)
    if status >= 500 or response.history:  # behind a redirect it is Kaggle's storage that fails
        return TransientError(f"Kaggle has an error of its own ({status})", f"run again later{alternative}.", after)
    if status == 401:
        return _wrong_credentials(request)
    if status == 403:
        reasons = "it is private, does not exist, or its rules wait to be accepted"
        remedy = f"open {request.page} with the same account{alternative}."
        problem = f"Kaggle does not let this account download {request.title} (403): {reasons}"
        return UsageError(f"{request.key}.kaggle.slug: {problem}; {remedy}")
    if status == 404:
        what, where = request.slug, "kaggle.slug"
        if request.version:
            what, where = f"{request.slug} or not its version {request.version}", "kaggle"
        remedy = f"compare it with the address of the dataset's page{alternative}."
        return UsageError(f"{request.key}.{where}: Kaggle has no {what} (404); {remedy}")
    remedy = f"see whether it can be downloaded at {request.page}{alternative}."
    return LekhaniError(f"Kaggle answers {status} to the request for {request.title}; {remedy}")
