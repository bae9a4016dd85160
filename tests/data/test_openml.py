"""OpenML as a user meets it, on a loopback port: no account, and every failure a sentence."""

import json
import logging
import socket
from pathlib import Path
from typing import Any

import fake_sites
import numpy as np
import pytest
from fake_sites import FakeOpenml, arff, cut, reset, status
from services import free_port
from sklearn.datasets import load_digits

from lekhani.data.layouts import read_raw
from lekhani.data.spec import load_prepared
from lekhani.errors import LekhaniError, UsageError
from lekhani.stages import fetch as fetch_stage
from lekhani.stages.prepare import prepare

OUT = Path("data/raw/devanagari")
WORDS = ("character_01_ka", "character_10_yna", "digit_9")


def serve(site: FakeOpenml, number: int = 40923, count: int = 60, **more: Any) -> np.ndarray:
    images = fake_sites.glyphs(count, 32)
    site.add(number, *arff(images, [WORDS[i % 3] for i in range(count)]), "character", **more)
    return images


def fetch(project: Any, number: int = 40923, name: str = "devanagari", **data: Any) -> dict[str, Any]:
    fetch_stage.fetch(project.describe(name, source="openml", openml=number, **data), name)
    return dict(json.loads(Path("data/raw", name, "source.json").read_text()))


def found() -> dict[str, bytes]:
    return {path.relative_to(OUT).as_posix(): path.read_bytes() for path in OUT.rglob("*") if path.is_file()}


def test_dhcd_comes_as_arrays_and_is_prepared(project: Any, openml: FakeOpenml) -> None:
    images = serve(openml)
    source = fetch(project)
    assert list(source) == ["name", "id", "version", "sha256", "path", "origin", "licence", "citation"]
    facts = [source[key] for key in ("name", "id", "version", "path", "licence")]
    assert facts == ["openml", 40923, 1, None, "CC BY 4.0"]
    with np.load(OUT / "openml_40923.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["images"], images)
        assert arrays["images"].dtype == np.uint8
        assert arrays["labels"].tolist() == [i % 3 for i in range(60)]
        assert arrays["class_names"].tolist() == list(WORDS)
    prepare(project.describe("devanagari", source="openml", openml=40923), "devanagari")
    prepared = load_prepared(Path("data/prepared/devanagari"))
    assert [c.glyph for c in prepared.info.classes] == ["क", "ञ", "९"]
    assert len(prepared.images) == 60


def test_classes_in_quotes_and_classes_that_are_numbers(project: Any, openml: FakeOpenml) -> None:
    def labelled(number: int) -> tuple[list[str], list[int]]:
        fetch(project, number, "own", image_size=16)
        with np.load(f"data/raw/own/openml_{number}.npz", allow_pickle=False) as arrays:
            return arrays["class_names"].tolist(), arrays["labels"].tolist()

    openml.add(7, *arff(fake_sites.glyphs(6, 16), ["'ka kha'", "ga"] * 3), "character")
    assert labelled(7) == (["ga", "ka kha"], [1, 0] * 3)
    content, columns = arff(fake_sites.glyphs(24, 16), [str(i % 12) for i in range(24)], "class")
    openml.add(8, content, [*columns[:-1], ("class", "numeric")], "class")
    assert labelled(8) == ([str(i) for i in range(12)], [i % 12 for i in range(24)])


def test_pixels_of_other_ranges_and_images_that_lie(project: Any, openml: FakeOpenml) -> None:
    """As OpenML's optdigits, from 0 to 16, USPS, from -1 to 1, and EMNIST, with rows and columns exchanged."""
    digits = load_digits()
    labels = [str(label) for label in digits.target[:60]]
    expected = np.rint(digits.images[:60] * 255 / 16)
    for number, scale in ((28, 1.0), (41082, 0.125)):
        values = digits.images[:60] * scale - (scale < 1)
        openml.add(number, *arff(values, labels, "class"), "class")
        fetch(project, number, "own")
        read = np.asarray(read_raw(Path("data/raw/own"), "own").images)
        assert np.abs(read - expected).max() <= 1
    openml.add(41039, *arff(expected.transpose(0, 2, 1).astype(int), labels, "class"), "class", name="EMNIST_Balanced")
    fetch(project, 41039, "own")
    np.testing.assert_array_equal(read_raw(Path("data/raw/own"), "own").images, expected)
    before = Path("data/raw/own").stat().st_ino
    fetch(project, 41039, "own")
    assert Path("data/raw/own").stat().st_ino == before


def test_what_is_here_stays_and_needs_no_network(
    project: Any, openml: FakeOpenml, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    serve(openml)
    fetch(project)
    before, inode = found(), OUT.stat().st_ino
    openml.seen.clear()
    fetch(project)
    assert (found(), OUT.stat().st_ino, openml.seen) == (before, inode, [])
    assert "OpenML's data set 40923 is already here" in caplog.text
    serve(openml, 41000, 30, status="deactivated")
    assert fetch(project, 41000)["id"] == 41000
    assert "is marked `deactivated`" in caplog.text
    assert set(found()) == {"openml_41000.npz", "source.json"}


@pytest.mark.parametrize("kind", ["about", "features", "qualities", "file"])
@pytest.mark.parametrize(
    ("fault", "times"),  # more than scikit-learn itself is patient with
    [(status(429, Retry_After="0"), 5), (status(503), 5), (reset, 3), (cut, 3)],
    ids=["429", "503", "reset", "cut"],
)
def test_faults_that_pass_are_waited_for(project: Any, openml: FakeOpenml, kind: str, fault: Any, times: int) -> None:
    images = serve(openml)
    openml.faults[kind] = [fault] * times
    fetch(project)
    with np.load(OUT / "openml_40923.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["images"], images)


UNKNOWN = r"^data\.devanagari\.openml: OpenML has no data set 40923; take the number from its address"
ALWAYS: dict[str, tuple[str, Any, type[LekhaniError], str]] = {
    "404": ("about", status(404), UsageError, UNKNOWN),
    "404 of the file": ("file", status(404), UsageError, UNKNOWN),
    "403": ("about", status(403), LekhaniError, r"OpenML answers 403 .*https://www\.openml\.org/d/40923"),
    "429": ("about", status(429), LekhaniError, "OpenML asks to slow down .*run again later"),
    "500": ("file", status(500), LekhaniError, r"OpenML has an error of its own \(500\); run again later"),
    "cut": ("file", cut, LekhaniError, "OpenML's data set 40923 arrived damaged or incomplete; check the connection"),
    "reset": ("file", reset, LekhaniError, "OpenML.*(broke|damaged)"),
    "page": ("about", fake_sites.page, LekhaniError, "arrived damaged"),
}


@pytest.mark.parametrize("case", ALWAYS)
def test_every_failure_is_a_sentence_and_leaves_what_was_there(
    project: Any, openml: FakeOpenml, case: str, recwarn: Any
) -> None:
    kind, fault, error, match = ALWAYS[case]
    serve(openml)
    OUT.mkdir(parents=True)
    (OUT / "old.npz").write_bytes(b"old")
    openml.always[kind] = fault
    with pytest.raises(LekhaniError, match=match) as caught:
        fetch(project)
    assert isinstance(caught.value, error)
    assert "\n" not in str(caught.value)
    assert str(project.path.parent) not in str(caught.value)
    assert found() == {"old.npz": b"old"}
    assert [path.name for path in OUT.parent.iterdir()] == ["devanagari"]
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning | RuntimeWarning)]
    openml.always.clear()
    fetch(project)  # nothing damaged was kept for the next time


def test_another_checksum_is_noticed(project: Any, openml: FakeOpenml) -> None:
    serve(openml, md5_checksum="0" * 32)
    with pytest.raises(LekhaniError, match="arrived damaged or incomplete"):
        fetch(project)


def test_a_machine_that_is_offline_hears_it(project: Any, openml: FakeOpenml, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import _openml

    no_tls = openml.url.replace("http:", "https:")
    for url in (f"http://127.0.0.1:{free_port()}", "http://no-such-host.invalid", no_tls):
        monkeypatch.setattr(_openml, "_DATA_INFO", url + "/api/v1/json/data/{}")
        openml.server.socket.settimeout(5)
        with pytest.raises(LekhaniError, match=r"^OpenML cannot be reached \((there is no connection|its certificate)"):
            fetch(project)
    monkeypatch.setattr(_openml, "_DATA_INFO", "https://no-such-host.invalid/{}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{fake_sites.KEY}@127.0.0.1:{free_port()}")
    with pytest.raises(LekhaniError, match="OpenML cannot be reached") as caught:
        fetch(project)
    assert fake_sites.KEY not in str(caught.value)
    assert socket.getdefaulttimeout() is None


def test_a_folder_that_cannot_be_written_is_named(
    project: Any, openml: FakeOpenml, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve(openml)
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "file" / "below"))
    with pytest.raises(
        LekhaniError, match=r"cannot keep OpenML's data set 40923 \(Not a directory\); .*SCIKIT_LEARN_DATA"
    ):
        fetch(project)


def table(kind: str) -> tuple[bytes, list[tuple[str, str]]]:
    """A table of six images with a fault."""
    shape = (6, 16, 15) if kind == "no square" else (6, 16, 16)
    content, columns = arff(np.zeros(shape, np.uint8), ["a", "b"] * 3)
    lines = content.decode().splitlines()
    first = {"word": "ka", "gap": "?"}.get(kind)
    if first:
        lines[-1] = first + lines[-1][1:]
    if kind == "word":
        columns[0] = ("pixel_0000", "nominal")
    elif kind == "ragged":
        lines[-1] += ",1,2,3"
    elif kind == "real target":
        columns[-1] = ("character", "numeric")
        lines[-6:] = [line[:-1] + "0.5" for line in lines[-6:]]
    return "\n".join(lines).encode() + b"\n", columns


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("no square", "6 rows of 240 numbers, which is no square of pixels"),
        ("word", "its column `pixel_0000` holds no numbers"),
        ("gap", "values are missing among its rows 1 to 6"),
        ("real target", "its target column holds fractions or gaps"),
        ("no target", "it has not exactly one target column"),
        ("ragged", "is no table that scikit-learn reads"),
    ],
)
def test_a_data_set_that_holds_no_images(project: Any, openml: FakeOpenml, kind: str, match: str) -> None:
    content, columns = table(kind)
    openml.add(7, content, columns, "" if kind == "no target" else "character")
    with pytest.raises(UsageError, match=rf"^data\.own\.openml: data set 7 .*{match}.*https://www\.openml\.org/d/7"):
        fetch(project, 7, "own")
    assert not Path("data/raw/own").exists()
