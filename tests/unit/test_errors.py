"""Sentences, logs and tracebacks never hold a password or a token."""

import io
import json
import logging
from collections.abc import Callable

import pytest

from lekhani.errors import LekhaniError, RedactingFormatter, UsageError, first_line, redacted
from lekhani.serve import telemetry


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at http://user:hunter2@host:5000: refused", "at http://host:5000: refused"),
        ("'https://hunter2@host/a' and 'http://a:hunter2@b/c'", "'https://host/a' and 'http://b/c'"),
        ("postgresql+psycopg://user:hun/ter@2@host/db is away", "postgresql+psycopg://host/db is away"),
        ("postgresql://host/db?user=a&password=hunter2&sslmode=require",) * 2,
        ("http://host/?token=hunter2 http://host/x?n=1&Access_Token=hunter2",) * 2,
        ("https://s3/x?X-Amz-Credential=hunter2&X-Amz-Signature=hunter2&n=2",) * 2,
        ("https://blob/x?sv=1&sig=hunter2",) * 2,
        ("host=127.0.0.1 user=a password=hunter2 port=1",) * 2,
        ("models:/lekhani-devanagari@champion in sqlite:////a b/mlflow.db; mail a@b.org",) * 2,
        ("http://127.0.0.1:5000/#/runs/1?key_image=2",) * 2,
    ],
)
def test_secrets_are_left_out(text: str, expected: str) -> None:
    assert redacted(text) == expected.replace("hunter2", "***")


def test_errors_hold_none() -> None:
    long = "x" * 290 + " http://user:hunter2@host/"
    for error in (LekhaniError(long), UsageError(long)):
        assert str(error) == redacted(long)
    assert "hunter2" not in first_line(ValueError(long)), "not even where it is cut"


def test_what_is_long_is_cut_between_words_and_of_a_connection_the_reason_is_told() -> None:
    words = first_line(ValueError("word " * 100))
    assert len(words) <= 300
    assert words.endswith(" word …")
    assert first_line(ValueError("x" * 400)) == "x" * 298 + " …"
    pool = "API request to http://127.0.0.1:9/api failed with exception HTTPConnectionPool(host='127.0.0.1', port=9): "
    pool += "Max retries exceeded with url: /api/2.0/mlflow/experiments/get-by-name?experiment_name=x (Caused by "
    refused = "Failed to establish a new connection: [Errno 111] Connection refused"
    new = f"NewConnectionError(\"HTTPConnection(host='127.0.0.1', port=9): {refused}\"))"
    assert first_line(ValueError(pool + new)) == refused


@pytest.mark.parametrize("formatter", [lambda: RedactingFormatter("%(message)s"), telemetry.json_formatter])
def test_logs_hold_none(formatter: Callable[[], logging.Formatter]) -> None:
    stream, log = io.StringIO(), logging.Logger("any")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter())
    log.addHandler(handler)
    try:
        raise ValueError('no answer from "http://user:hunter2@host/"')
    except ValueError:
        log.exception("Failed at %s", "postgresql://user:hunter2@host/db", extra={"uri": "https://hunter2@host"})
    said = stream.getvalue()
    assert "hunter2" not in said
    assert "Traceback" in said
    assert "Failed at postgresql://host/db" in said
    if formatter is telemetry.json_formatter:
        assert json.loads(said)["uri"] == "https://host"


def test_options_have_the_names_of_arguments_where_no_command_was_typed() -> None:
    error = UsageError("choose another --out, or --min-confidence 0: `git fetch --all` --- x--y")
    assert str(error) == "choose another `out`, or `min_confidence` 0: `git fetch --all` --- x--y"
    assert error.for_command_line == error.args[0]
