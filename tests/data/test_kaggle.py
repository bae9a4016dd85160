"""Kaggle as a user meets it, on a loopback port: what arrives, what is kept and what every failure says."""

import json
import logging
import threading
from pathlib import Path
from typing import Any

import fake_sites
import pytest
from fake_sites import KEY, TOKEN, USER, FakeKaggle, cut, hidden_status, page, reset, status
from services import free_port

from lekhani.data.sources import fetch as sources
from lekhani.data.sources import transfer
from lekhani.data.spec import load_prepared
from lekhani.errors import LekhaniError, UsageError
from lekhani.stages import fetch as fetch_stage
from lekhani.stages.prepare import prepare

SLUG = "rishianand/devanagari-character-set"
OUT = Path("data/raw/devanagari")
COPIES = [
    (SLUG, "dhcd-csv"),
    ("ashokpant/devanagari-character-dataset-large", "dhcd-folders"),
    ("berlinsweird/devanagari", "dhcd-folders"),
    ("hojjatk/mnist-dataset", "mnist-idx"),
]
LITTLE = fake_sites.packed({"data.csv": b"pixel_0000,character\n0,digit_0\n"})
OTHER = fake_sites.packed({"data.csv": b"pixel_0000,character\n9,digit_0\n"})


def fetch(project: Any, version: int | None = None, **data: Any) -> dict[str, Any]:
    choices = project.describe("devanagari", source="kaggle", kaggle={"slug": SLUG, "version": version}, **data)
    fetch_stage.fetch(choices, "devanagari")
    return dict(json.loads((OUT / "source.json").read_text()))


def found() -> dict[str, bytes]:
    return {path.relative_to(OUT).as_posix(): path.read_bytes() for path in OUT.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["made", "real"])
@pytest.mark.parametrize("copy", COPIES, ids=lambda copy: copy[0])
def test_every_known_copy_is_fetched_and_prepared(
    project: Any, kaggle: FakeKaggle, archives: Any, copy: tuple[str, str], kind: str
) -> None:
    slug, layout = copy
    archive = archives[layout, kind]
    if archive is None:
        pytest.skip("LEKHANI_REAL_DATA names no folder with layouts.py")
    kaggle.archives[slug, 2] = archive
    name = "mnist" if "mnist" in layout else "devanagari"
    choices = project.describe(name, source="kaggle", kaggle={"slug": slug, "version": None})
    fetch_stage.fetch(choices, name)
    raw = Path("data/raw", name)
    assert (raw / f"{slug.split('/')[1]}.zip").read_bytes() == archive
    source = json.loads((raw / "source.json").read_text())
    assert list(source) == ["name", "slug", "version", "sha256", "path", "origin", "licence", "citation"]
    assert (source["name"], source["slug"], source["version"], source["path"]) == ("kaggle", slug, 2, None)
    assert source["licence"].startswith("CC BY")
    prepare(choices, name)
    prepared = load_prepared(Path("data/prepared", name))
    expected = {
        "made": (60, 10 if name == "mnist" else 3),
        "real": (80 if name == "mnist" else 368, 10 if name == "mnist" else 46),
    }
    assert (len(prepared.images), prepared.info.n_classes) == expected[kind]
    assert prepared.info.source == source


def test_what_is_here_stays_byte_for_byte(project: Any, kaggle: FakeKaggle, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    kaggle.archives[SLUG, 1] = LITTLE
    fetch(project)
    before, inode = found(), OUT.stat().st_ino
    fetch(project)
    assert found() == before
    assert OUT.stat().st_ino == inode
    assert kaggle.count("storage") == 1
    assert "already here" in caplog.text
    kaggle.seen.clear()
    assert fetch(project, 1) == json.loads(before["source.json"])
    assert not kaggle.seen  # a pinned version that is here needs neither the network nor an account
    fetch(project, 1, licence="mine")
    assert json.loads(found()["source.json"])["licence"] == "mine"
    assert OUT.stat().st_ino == inode
    (OUT / "devanagari-character-set.zip").write_bytes(b"changed")
    fetch(project, 1)
    assert found() == before
    assert "are not those that were fetched" in caplog.text


def test_a_newer_version_is_noticed_before_it_is_fetched(project: Any, kaggle: FakeKaggle) -> None:
    def newer(version: int | None = None, **data: Any) -> int | None:
        choices = project.describe(
            "devanagari", **{"source": "kaggle", "kaggle": {"slug": SLUG, "version": version}, **data}
        )
        return sources.newer_version("devanagari", choices.data["devanagari"], OUT)

    kaggle.archives[SLUG, 1] = LITTLE
    assert newer() is None
    assert not kaggle.seen, "where nothing is yet, fetch will ask"
    fetch(project)
    assert newer() is None
    kaggle.archives[SLUG, 2] = OTHER
    kaggle.faults["GetDataset"] = [status(500), status(500)]
    assert newer() == 2
    assert kaggle.count("storage") == 1, "nothing is downloaded"
    kaggle.seen.clear()
    assert newer(version=1) is None
    assert newer(source="openml", openml=40923) is None
    assert not kaggle.seen, "who names a version or another source is not told of new ones"
    assert fetch(project)["version"] == 2
    assert found()["devanagari-character-set.zip"] == OTHER
    assert fetch(project, 1)["version"] == 1, "a version that is named comes back"


@pytest.mark.parametrize("fault", [status(503), "offline", "no account"])
def test_what_is_here_stays_when_kaggle_cannot_be_asked(
    project: Any, kaggle: FakeKaggle, fault: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaggle.archives[SLUG, 1] = LITTLE
    fetch(project)
    before = found()
    if fault == "offline":
        offline(monkeypatch)
    elif fault == "no account":
        monkeypatch.delenv("KAGGLE_API_TOKEN")
    else:
        kaggle.always["GetDataset"] = fault
    fetch(project)
    assert found() == before
    assert f"version 1 of {SLUG} stays" in caplog.text
    project.holds_no_secret(caplog.text)


@pytest.mark.parametrize("kind", ["IntrospectToken", "GetDataset", "DownloadDataset", "storage"])
@pytest.mark.parametrize("fault", [status(429), status(500), reset, cut], ids=["429", "500", "reset", "cut"])
def test_faults_that_pass_are_waited_for(
    project: Any, kaggle: FakeKaggle, kind: str, fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    kaggle.archives[SLUG, 1] = LITTLE
    kaggle.faults[kind] = [fault, fault]
    fetch(project)
    assert found()["devanagari-character-set.zip"] == LITTLE
    assert caplog.text.count("trying again in") == 2
    project.holds_no_secret(caplog.text)


def test_the_wait_is_the_server_s(
    project: Any, kaggle: FakeKaggle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    monkeypatch.setattr(transfer, "MAX_WAIT", 50.0)
    kaggle.archives[SLUG, 1] = LITTLE
    kaggle.faults["storage"] = [
        status(429, Retry_After=value)
        for value in ("7", "Fri, 01 Jan 2100 00:00:00 GMT", "Sun, 01 Jan 2020 00:00:00 GMT", "x")
    ]
    fetch(project)
    assert waited[:3] == [7, 50, 0]
    assert 0 < waited[3] < 1
    assert "Kaggle asks to slow down (429); trying again in 7 s (attempt 2 of 5)" in caplog.text


ALWAYS: dict[str, tuple[str, Any, type[LekhaniError], str]] = {
    "401": (
        "GetDataset",
        status(401),
        UsageError,
        r"^data\.devanagari\.source: .* the credentials .*kaggle\.com/settings",
    ),
    "401 in the body": ("GetDataset", hidden_status(401), UsageError, "Kaggle refuses the credentials"),
    "unknown token": ("IntrospectToken", status(404), UsageError, "Kaggle refuses the credentials"),
    "403": (
        "DownloadDataset",
        status(403),
        UsageError,
        rf"rules wait to be accepted; open https://.*/datasets/{SLUG} ",
    ),
    "404": ("GetDataset", status(404), UsageError, rf"^data\.devanagari\.kaggle\.slug: Kaggle has no {SLUG} \(404\)"),
    "404 of the zip": ("DownloadDataset", status(404), UsageError, rf"no {SLUG} or not its version 1 \(404\)"),
    "429": ("GetDataset", status(429), LekhaniError, "Kaggle asks to slow down .*wait some minutes"),
    "500": ("storage", status(500), LekhaniError, r"an error of its own \(500\); run again later"),
    "cut": ("storage", cut, LekhaniError, f"The zip of {SLUG} version 1 arrived incomplete"),
    "reset at once": ("GetDataset", reset, LekhaniError, "The connection to Kaggle broke"),
    "no zip": ("storage", page, LekhaniError, f"What Kaggle sent for {SLUG} version 1 is no zip"),
    "a sign-in page": ("GetDataset", page, LekhaniError, "is not Kaggle's; see whether a proxy or a sign-in page"),
}


@pytest.mark.parametrize("case", ALWAYS)
def test_every_failure_is_a_sentence_and_leaves_what_was_there(
    project: Any,
    kaggle: FakeKaggle,
    case: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    kind, fault, error, match = ALWAYS[case]
    kaggle.archives[SLUG, 1] = LITTLE
    kaggle.always[kind] = fault
    earlier = list(ALWAYS).index(case) % 2 == 0  # something is there already
    if earlier:
        OUT.mkdir(parents=True)
        (OUT / "old.npz").write_bytes(b"old")
    with pytest.raises(LekhaniError, match=match) as caught:
        fetch(project)
    message = str(caught.value)
    assert isinstance(caught.value, error)
    assert "\n" not in message
    downloads = 1 if fault is page else transfer.ATTEMPTS
    assert kaggle.count("storage") == (downloads if kind == "storage" else 0)
    if "sign-in" not in case:
        alternative = "or set `data.devanagari.source: openml` (and `openml: 40923` there), which needs no account."
        assert message.endswith(alternative)
    assert [path.name for path in Path("data/raw").glob("*")] == (["devanagari"] if earlier else [])
    assert found() == ({"old.npz": b"old"} if earlier else {})
    project.holds_no_secret(message, caplog.text, *capfd.readouterr())


def offline(monkeypatch: pytest.MonkeyPatch, url: str = "") -> None:
    from kagglesdk import kaggle_env

    url = url or f"http://127.0.0.1:{free_port()}"
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, url)


def test_a_machine_that_is_offline_hears_it_at_once(
    project: Any, kaggle: FakeKaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in ("", "http://no-such-host.invalid"):
        offline(monkeypatch, url)
        problem = r"^Kaggle cannot be reached \(there is no connection\); .*source: openml"
        with pytest.raises(LekhaniError, match=problem) as caught:
            fetch(project)
        assert not isinstance(caught.value, UsageError | transfer.TransientError)
    monkeypatch.setenv("HTTP_PROXY", f"http://me:{KEY}@127.0.0.1:{free_port()}")
    with pytest.raises(LekhaniError, match="the proxy named in HTTPS_PROXY") as caught:
        fetch(project)
    project.holds_no_secret(str(caught.value))
    monkeypatch.delenv("HTTP_PROXY")
    offline(monkeypatch, kaggle.url.replace("http:", "https:"))  # no TLS there
    with pytest.raises(LekhaniError, match="its certificate is not trusted here"):
        fetch(project)


def test_a_server_that_falls_silent_is_not_waited_for(
    project: Any, kaggle: FakeKaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr("lekhani.data.sources.kaggle.TIMEOUT", 0.1)
    monkeypatch.setattr(transfer, "ATTEMPTS", 2)
    kaggle.always["GetDataset"] = lambda *_: over.wait(10)  # type: ignore[assignment,return-value]
    with pytest.raises(LekhaniError, match="The connection to Kaggle broke"):
        fetch(project)
    over.set()


@pytest.mark.parametrize("way", ["token", "token file", "user and key", "kaggle.json", "KAGGLE_CONFIG_DIR"])
def test_credentials_are_found_where_kaggle_documents_them(project: Any, kaggle: FakeKaggle, way: str) -> None:
    home = project.path.parent / "home"
    old_key = json.dumps({"username": USER, "key": KEY})
    environment, files = {
        "token": ({"KAGGLE_API_TOKEN": TOKEN}, {}),
        "token file": ({}, {".kaggle/access_token": f"{TOKEN}\n"}),
        "user and key": ({"KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY}, {}),
        "kaggle.json": ({}, {".kaggle/kaggle.json": old_key}),
        "KAGGLE_CONFIG_DIR": ({"KAGGLE_CONFIG_DIR": str(home / "elsewhere")}, {"elsewhere/kaggle.json": old_key}),
    }[way]
    for name, content in files.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(content)
    kaggle.archives[SLUG, 1] = LITTLE
    project.describe("devanagari", source="kaggle", kaggle={"slug": SLUG, "version": None})
    done = project.run("fetch", "-d", "devanagari", **{"KAGGLE_API_TOKEN": "", **environment})
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert {given for kind, given in kaggle.seen if kind == "storage"} == {""}  # credentials go to Kaggle alone
    assert f"Kaggle: {SLUG} version 1: 100% of" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    project.holds_no_secret(done.stderr)


NOBODY = {"FAKE_KAGGLE": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("environment", "code", "match"),
    [
        ({"KAGGLE_API_TOKEN": ""}, 2, "no credentials were found; make a token at https://www.kaggle.com/settings"),
        ({"KAGGLE_API_TOKEN": f"{TOKEN}\n"}, 2, "without a line break"),
        ({"KAGGLE_API_TOKEN": TOKEN * 30}, 2, "credentials cannot be used (File name too long)"),
        ({"KAGGLE_API_TOKEN": "", "KAGGLE_USERNAME": USER, "KAGGLE_KEY": f"{KEY}wrong"}, 2, "refuses the credentials"),
        ({**NOBODY, "VERBOSE": "1"}, 1, "Kaggle cannot be reached"),
    ],
)
def test_the_command_says_one_sentence(
    project: Any, kaggle: FakeKaggle, environment: dict[str, str], code: int, match: str
) -> None:
    project.describe("devanagari", source="kaggle", kaggle={"slug": SLUG, "version": None})
    done = project.run("fetch", "-d", "devanagari", **environment)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("lekhani: ")
    assert match in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not Path("data").exists()
    project.holds_no_secret(done.stderr)
