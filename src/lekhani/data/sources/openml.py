"""Data sets from OpenML, through scikit-learn, which keeps downloads in a folder of its own; no account is needed."""

import http.client
import logging
import math
import re
import socket
import ssl
import urllib.error
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lekhani.data.sources.transfer import TIMEOUT, TransientError, parse_retry_after, with_retries
from lekhani.data.spec import Labels
from lekhani.errors import LekhaniError, UsageError

log = logging.getLogger(__name__)

ATTEMPTS = 3  # of ours: within each, scikit-learn asks four times for what a server or a connection refuses
_DELAY = 1.0  # seconds between those
_ROWS = 4096  # of the table that are looked at together


def download(key: str, number: int, folder: Path) -> int:
    """Save the images of data set `number` as an .npz in `folder`, and return its version number.

    The archive holds `images` [N,S,S], uint8 where they are bytes and else float32, `labels` int64 [N] and
    `class_names`; its name says that they are EMNIST's, which lie. Raises UsageError, naming `key` (the
    dataset's place in params.yaml), for a data set that does not exist or holds no grey square images with one label
    each; LekhaniError when OpenML cannot be reached or its answer cannot be kept; OSError when nothing can be written.
    """
    log.info("Asking OpenML for data set %d", number)
    table = with_retries(lambda: _fetch(key, number), ATTEMPTS)
    if table.details.get("status", "active") != "active":
        log.warning("OpenML data set %d is marked `%s`: problems were found with it", number, table.details["status"])
    labels, names = _labels(key, number, table.target)
    images = _images(key, number, table.data)
    title = "_emnist" if "emnist" in str(table.details.get("name")).lower() else ""
    np.savez(folder / f"openml_{number}{title}.npz", images=images, labels=labels, class_names=np.array(names))
    return int(float(table.details["version"]))


def _fetch(key: str, number: int) -> Any:
    from sklearn.datasets import fetch_openml

    with _as_sentences(key, number), ExitStack() as stack, warnings.catch_warnings():
        stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(TIMEOUT)  # urllib by itself would wait for ever
        warnings.simplefilter("ignore")  # they name addresses and folders; what matters to users is said here
        # Without a type of ours, scikit-learn asks pandas for categories, and pandas 3.1 makes numbers of "0" to "9",
        # on which scikit-learn 1.9 stumbles: MNIST would not come (scikit-learn's pull request 34902).
        options = {"cache": True, "as_frame": "auto", "parser": "auto", "read_csv_kwargs": {"dtype": None}}
        return fetch_openml(data_id=number, n_retries=3, delay=_DELAY, **options)


@contextmanager
def _as_sentences(key: str, number: int) -> Iterator[None]:
    """Turn what scikit-learn raises into sentences."""
    incomplete = f"OpenML's data set {number} arrived damaged or incomplete"
    damaged = TransientError(incomplete, "check the connection and run again.")
    broken = TransientError("The connection to OpenML broke", "check the network and run again.")
    try:
        yield
    except urllib.error.HTTPError as error:
        raise _status_error(key, number, error) from None
    except urllib.error.URLError as error:
        raise _unreachable(error.reason) or broken from None
    except (http.client.IncompleteRead, EOFError, zlib.error):
        raise damaged from None
    except (ConnectionError, TimeoutError, http.client.HTTPException, ssl.SSLError):
        raise broken from None
    except OSError as error:
        if error.errno is None:  # what gzip says of a file that is cut
            raise damaged from None
        remedy = "free space in ~/scikit_learn_data, or set SCIKIT_LEARN_DATA to a folder of yours."
        problem = f"scikit-learn cannot keep OpenML's data set {number} ({error.strerror})"
        raise LekhaniError(f"{problem}; {remedy}") from None
    except (ValueError, KeyError) as error:
        from sklearn.datasets._openml import OpenMLError

        if isinstance(error, OpenMLError):  # 412
            raise _unknown(key, number) from None
        if "md5" in str(error) or type(error).__name__ in {"JSONDecodeError", "UnicodeDecodeError"}:
            raise damaged from None
        raise UsageError(
            f"{key}.openml: data set {number} is no table that scikit-learn reads ({type(error).__name__}); see "
            f"https://www.openml.org/d/{number} and choose one of grey images with a label each."
        ) from None


def _status_error(key: str, number: int, error: urllib.error.HTTPError) -> LekhaniError:
    if error.code in {404, 412}:
        return _unknown(key, number)
    if error.code == 429 or error.code >= 500:
        problem = "OpenML asks to slow down (429)"
        if error.code != 429:
            problem = f"OpenML has an error of its own ({error.code})"
        after = parse_retry_after(error.headers.get("Retry-After") if error.headers else None)
        return TransientError(problem, "run again later.", after)
    remedy = f"see whether it opens at https://www.openml.org/d/{number}."
    return LekhaniError(f"OpenML answers {error.code} to the request for data set {number}; {remedy}")


def _unknown(key: str, number: int) -> LekhaniError:
    addresses = "https://www.openml.org/d/40923 for DHCD and https://www.openml.org/d/554 for MNIST."
    remedy = f"take the number from its address, such as {addresses}"
    return UsageError(f"{key}.openml: OpenML has no data set {number}; {remedy}")


def _unreachable(reason: Any) -> LekhaniError | None:
    """The sentence for a machine that is offline; None for a connection that broke."""
    if isinstance(reason, ssl.SSLError):
        problem = "its certificate is not trusted here; a network with one of its own needs SSL_CERT_FILE"
    elif isinstance(reason, socket.gaierror | ConnectionRefusedError) or (
        isinstance(reason, OSError) and "Tunnel" in str(reason)
    ):
        problem = "there is no connection"
    else:
        return None
    return LekhaniError(f"OpenML cannot be reached ({problem}); check the network and HTTPS_PROXY, and run again.")


def _images(key: str, number: int, table: Any) -> npt.NDArray[np.uint8 | np.float32]:
    """[N,S,S] of a table (a data frame or a sparse matrix) with one row per image and one column per pixel."""
    rows, columns = table.shape
    side = math.isqrt(columns)
    if not rows or not columns or side * side != columns:
        raise _no_images(key, number, f"it has {rows:,} rows of {columns:,} numbers, which is no square of pixels")
    is_frame = hasattr(table, "iloc")
    if is_frame and len(words := table.select_dtypes(exclude="number").columns):
        raise _no_images(key, number, f"its column `{words[0]}` holds no numbers")
    images: npt.NDArray[np.uint8 | np.float32] = np.empty((rows, side, side), np.uint8)
    for start in range(0, rows, _ROWS):
        if is_frame:
            part = table.iloc[start : start + _ROWS].to_numpy(np.float64, na_value=np.nan)
        else:
            part = table[start : start + _ROWS].toarray()
        if not np.isfinite(part).all():
            raise _no_images(key, number, f"values are missing among its rows {start + 1:,} to {start + len(part):,}")
        if images.dtype == np.uint8 and ((part < 0) | (part > 255) | (part != np.rint(part))).any():
            images = images.astype(np.float32)
        images[start : start + len(part)] = part.reshape(-1, side, side)
    return images


def _labels(key: str, number: int, target: Any) -> tuple[Labels, list[str]]:
    """Label numbers int64 [N] and the classes' names in their order."""
    if target is None or len(np.shape(target)) != 1:
        raise _no_images(key, number, "it has not exactly one target column")
    values = np.asarray(target)
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    if values.dtype.kind == "f" or any(value is None or value != value for value in values.tolist()):  # noqa: PLR0124 - NaN
        raise _no_images(key, number, "its target column holds fractions or gaps instead of classes")
    words = [re.sub(r"^'(.*)'$", r"\1", str(value)) for value in values.tolist()]  # ARFF may quote a word
    names = sorted(set(words), key=lambda word: (0, int(word), "") if re.fullmatch(r"-?\d+", word) else (1, 0, word))
    label_of = {word: label for label, word in enumerate(names)}
    return np.array([label_of[word] for word in words], np.int64), names


def _no_images(key: str, number: int, why: str) -> LekhaniError:
    problem = f"{key}.openml: data set {number} holds no grey square images with a label each: {why}"
    return UsageError(f"{problem}; see https://www.openml.org/d/{number} and choose another.")
