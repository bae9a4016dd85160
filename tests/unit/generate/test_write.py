"""What is asked for is what is written; a run that was stopped goes on, and ends with the same bytes."""

import csv
import hashlib
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import yaml
from fake_judge import FakeJudge
from PIL import Image

from lekhani.data.spec import MNIST
from lekhani.errors import LekhaniError, UsageError
from lekhani.generate import shards
from lekhani.generate.formats import LAYOUTS
from lekhani.generate.shards import Request
from lekhani.generate.store import Store
from lekhani.generate.write import counts, write_dataset
from lekhani.inference.sampling import Plan, SamplingOptions
from lekhani.inference.session import Generator, Reader
from lekhani.pen import Pen, find

ToyGenerator = Callable[..., Path]
THREE = MNIST[:3]


@pytest.fixture(scope="module")
def model(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_generator(tmp_path_factory.mktemp("c") / "g.onnx")


@pytest.fixture(scope="module")
def pen(model: Path) -> Pen:
    return Pen(Generator(model, "cpu"), cast(Reader, FakeJudge()), "the toy")


def asked(*labels: str, shard_size: int = 10_000, form: Any = "png", **wishes: Any) -> Request:
    return Request(
        Plan(counts(THREE, labels or ("2=9", "0=9", "1=7")), shard_size), SamplingOptions(**{"seed": 7, **wishes}), form
    )


def content(folder: Path) -> dict[str, str]:
    """Every file with a hash of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def sheet(folder: Path) -> Any:
    return json.loads((folder / "dataset.json").read_text(encoding="utf-8"))


# --- what is asked for ---


def test_counts_by_label_each_and_total(tmp_path: Path) -> None:
    assert counts(THREE, ["2=4", "0", "2"]) == ((2, 4), (0, 1), (2, 1))
    assert counts(THREE, ["1=4"], each=9) == ((1, 4), (0, 9), (2, 9))
    assert counts(THREE, total=11) == ((0, 4), (1, 4), (2, 3))
    assert counts(THREE, ["1=4"], total=11) == ((1, 4), (0, 4), (2, 3))
    assert counts(THREE, ["1=4"], total=5) == ((1, 4), (0, 1))
    assert counts(THREE, ["1=4"], total=4) == ((1, 4),)
    table = tmp_path / "wanted.csv"
    table.write_text("\ufeffcount,label\n3,2\n,0\n2,2\n0,1\n", encoding="utf-8")
    assert counts(THREE, ["1"], table=table) == ((1, 1), (2, 5), (0, 1))
    table.write_text("label\n2\n0\n2\n", encoding="utf-8")
    assert counts(THREE, table=table) == ((2, 2), (0, 1))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({}, "All counts that are asked for are 0"),
        ({"each": 1, "total": 3}, "--each and --total both say"),
        ({"labels": ["1=5"], "total": 3}, r"--total 3 is not what --label and --from-csv add up to \(5\)"),
        ({"labels": ["0=5", "1", "2"], "total": 30}, r"--total 30 is not what .* \(7\)"),
    ],
)
def test_counts_that_cannot_be(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        counts(THREE, **wanted)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"glyph,count\n1,2\n", "has no column label"),
        (b"", "has no column label"),
        (b"label,count\n1,2\n9,2\n", "line 3: no such class"),
        (b"label,count\n1,-2\n", "line 2: the count '-2' must be"),
        (b"label,count\n1," + b"9" * 99 + b"\n", "must be a whole number from 0"),
        (b"label\n\xff\n", "cannot be read as a CSV file in UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_used(text: bytes | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(UsageError, match=said) as caught:
        counts(THREE, table=tmp_path / "t.csv")
    assert "--from-csv" in str(caught.value)


# --- what is written ---


def test_a_folder_of_pngs_with_their_labels(pen: Pen, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    said = write_dataset(pen, asked("2=2", "0"), str(out))
    rows = list(csv.DictReader((out / "labels.csv").open(encoding="utf-8", newline="")))
    assert [(row["label"], row["name"], row["glyph"]) for row in rows] == [
        ("2", "2", "2"),
        ("2", "2", "2"),
        ("0", "0", "0"),
    ]
    assert set(content(tmp_path / "new")) == {
        f"out/{name}" for name in ("dataset.json", "README.md", "labels.csv", *(row["file"] for row in rows))
    }
    for row, image in zip(rows, pen.generate(["2", "2", "0"], seed=7).images, strict=True):
        with Image.open(out / row["file"]) as picture:
            np.testing.assert_array_equal(np.asarray(picture), image)
    assert said == f"Wrote 3 images of 2 classes to {out} with the toy, seed 7."


def test_the_datasheet_tells_what_it_is(pen: Pen, tmp_path: Path) -> None:
    write_dataset(pen, asked("2=9", "0=3", shard_size=5, form="npz", min_confidence=0.9), str(tmp_path / "out"))
    told = sheet(tmp_path / "out")
    assert (told["images"], told["image_size"], told["licence"]) == (12, 4, None)
    assert told["model"]["sha256"] == pen.generator.sha256
    assert told["judge_sha256"] == FakeJudge().sha256
    assert told["request"]["labels"] == [["2", 9], ["0", 3]]
    assert (told["request"]["seed"], told["request"]["min_confidence"], told["request"]["truncation"]) == (7, 0.9, None)
    zero, one, two = told["classes"]
    assert (zero["count"], one["count"], two["count"]) == (3, 0, 9)
    assert 0 < two["rate"] == round(two["good"] / two["seen"], 4) < 1
    assert two["good"] >= 9
    assert "rate" not in one
    assert [shard["images"] for shard in told["shards"]] == [4, 4, 4]
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(page.split("---")[1])
    assert head["license"] == "unknown"
    assert pen.generator.sha256 in page
    assert f"| 2 | 2 | 2 | 9 | {two['seen']} | {two['rate']:.1%} |" in page
    assert "at least 90.0% sure" in page
    assert str(tmp_path) not in page


def test_the_lineage_of_a_registered_model_is_told(pen: Pen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lekhani.registry import lineage

    facts = {"run": {"id": "r1"}, "commit": {"id": "c1", "dirty": False, "subject": "s"}, "lock": {"sha256": "l1"}}
    facts |= {
        "data": {"digest": "d1", "origin": "people", "licence": "CC BY 4.0", "counts": {}},
        "source": {"name": "openml"},
    }
    links = tuple(lineage.Link(name, dict(one), ()) for name, one in facts.items())
    monkeypatch.setattr(
        lineage, "trace", lambda name: lineage.Lineage(name, "3", links) if name == "lekhani-mnist:3" else None
    )
    write_dataset(replace(pen, version="lekhani-mnist:3"), asked("0"), str(tmp_path / "out"))
    told = sheet(tmp_path / "out")
    assert told["licence"] == "CC BY 4.0"
    assert told["model"]["lineage"]["commit"] == {"id": "c1", "dirty": False}
    assert told["model"]["lineage"]["source"] == {"name": "openml", "version": None, "sha256": None}
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(page.split("---")[1])["license"] == "cc-by-4.0"
    assert "| data digest | `d1` |" in page


# --- the same bytes ---


@pytest.mark.parametrize("form", LAYOUTS)
def test_the_batch_size_changes_no_byte(pen: Pen, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = asked(form=form, shard_size=9)
    for size in (128, 1, 4):
        monkeypatch.setattr(type(pen.generator), "batch_size_for", lambda *_, size=size: size)
        write_dataset(pen, request, str(tmp_path / f"{size}"))
    assert content(tmp_path / "128") == content(tmp_path / "1") == content(tmp_path / "4")


SCRIPT = """
import os, signal, sys
from pathlib import Path
from fake_judge import FakeJudge
from lekhani.generate import store
from lekhani.generate import write
from lekhani.pen import find, Pen
from test_write import asked

left = int(sys.argv[3])
def counted(work):
    def once(*words):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return work(*words)
    return once
Path.replace = counted(Path.replace)
pen = find("", Path(sys.argv[1]))
write.write_dataset(Pen(pen.generator, FakeJudge(), "the toy"), asked(shard_size=9, form=sys.argv[4], min_confidence=0.9), sys.argv[2])
"""


@pytest.mark.parametrize(("form", "renames"), [("png", 0), ("png", 1), ("png", 7), ("npz", 4), ("npz", 7), ("npz", 8)])
def test_a_killed_run_goes_on_to_the_same_bytes(pen: Pen, model: Path, form: str, renames: int, tmp_path: Path) -> None:
    request = asked(shard_size=9, form=form, min_confidence=0.9)
    write_dataset(pen, request, str(tmp_path / "whole"))
    out = tmp_path / "killed"
    command = [sys.executable, "-c", SCRIPT, str(model), str(out), str(renames), form]
    paths = ":".join([*(str(Path(__file__).parents[i]) for i in (0, 2)), *sys.path])
    died = subprocess.run(command, env={"PYTHONPATH": paths}, capture_output=True, text=True, timeout=300, check=False)
    assert died.returncode == -9, died.stderr
    assert not (out / "dataset.json").exists()
    said = write_dataset(pen, request, str(out))
    assert content(out) == content(tmp_path / "whole")
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
    finished = {0: 0, 1: 0, 4: 1, 7: 0 if form == "png" else 3, 8: 3}[renames]
    assert (f"({finished} of 3 shards were there already)" in said) == (finished > 0)


def test_a_damaged_shard_is_made_again(pen: Pen, tmp_path: Path) -> None:
    request, out = asked(shard_size=9, form="idx"), tmp_path / "out"
    write_dataset(pen, request, str(out))
    before = content(out)
    spoilt, gone = sorted(out.glob("*images*"))[:2]
    spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"x")
    gone.unlink()
    assert "(1 of 3 shards were there already)" in write_dataset(pen, request, str(out))
    assert content(out) == before
    assert "(3 of 3 shards were there already)" in write_dataset(pen, request, str(out))


def test_a_full_disk_is_one_sentence_and_what_is_finished_is_kept(
    pen: Pen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    out, request = tmp_path / "out", asked(shard_size=9)
    with (
        pytest.raises(LekhaniError, match=r"Could not write .*out: File too large; free space .*run the same again"),
        full_disk(),
    ):
        write_dataset(pen, request, str(out))
    draw, calls = shards.sample_shard, [0]

    def filling_up(*words: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(28, "No space left on device")
        return draw(*words)

    monkeypatch.setattr(shards, "sample_shard", filling_up)
    with pytest.raises(LekhaniError, match="No space left on device"):
        write_dataset(pen, request, str(out))
    assert "(1 of 3 shards were there already)" in write_dataset(pen, request, str(out))
    write_dataset(pen, request, str(tmp_path / "whole"))
    assert content(out) == content(tmp_path / "whole")


# --- what is there already ---


def test_what_is_not_ours_is_never_touched(pen: Pen, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    for overwrite, said in ((False, r"out exists already; .* --overwrite"), (True, r"holds no dataset\.json of ours")):
        with pytest.raises(UsageError, match=said):
            write_dataset(pen, asked(), str(out), overwrite=overwrite)
    (out / "dataset.json").write_text('{"name": "mnist"}')
    with pytest.raises(UsageError, match=r"holds no dataset\.json of ours"):
        write_dataset(pen, asked(), str(out), overwrite=True)
    with pytest.raises(UsageError, match=r"mine\.txt is a file"):
        write_dataset(pen, asked(), str(out / "mine.txt"), overwrite=True)
    assert set(content(tmp_path)) == {"out/mine.txt", "out/dataset.json"}


def test_another_request_is_refused_and_overwrites_when_told_to(pen: Pen, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(pen, asked("0=3", "1"), str(out))
    before = content(out)
    with pytest.raises(UsageError, match=r"out was asked for otherwise \(seed 7 there, 8 here\); .* --overwrite"):
        write_dataset(pen, asked("0=3", "1", seed=8), str(out))
    with pytest.raises(UsageError, match=r'format "png" there, "npz" here'):
        write_dataset(pen, asked("0=3", "1", form="npz"), str(out))
    with pytest.raises(UsageError, match=r"labels 4 of 2 classes there, 5 of 1 classes here"):
        write_dataset(pen, asked("0=5"), str(out))
    assert content(out) == before
    write_dataset(pen, asked("1", form="npz"), str(out), overwrite=True)
    assert set(content(out)) == {"glyphs.npz", "README.md", "dataset.json"}


def test_an_unfinished_run_is_not_mistaken_for_another(
    pen: Pen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards, "sample_shard", fails)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(pen, asked(), str(out))
    with pytest.raises(UsageError, match="seed 7 there, 8 here"):
        write_dataset(pen, asked(seed=8), str(out))
    write_dataset(pen, asked(seed=8), str(out), overwrite=True)
    assert sheet(out)["request"]["seed"] == 8


def test_a_request_that_cannot_be_met_leaves_nothing(pen: Pen, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a judge must pick"):
        write_dataset(replace(pen, reader=None), asked(min_confidence=0.5), str(tmp_path / "out"))
    assert content(tmp_path) == {}


# --- elsewhere, and large ---


def test_any_place_that_fsspec_knows(pen: Pen, tmp_path: Path) -> None:
    import fsspec

    write_dataset(pen, asked(shard_size=9), "memory://there/out")
    write_dataset(pen, asked(shard_size=9), str(tmp_path / "out"))
    fs = fsspec.filesystem("memory")
    found = {
        path.removeprefix("/there/out/"): hashlib.sha256(fs.cat_file(path)).hexdigest()
        for path in fs.find("/there/out")
    }
    assert found == content(tmp_path / "out")
    assert "3 of 3" in write_dataset(pen, asked(shard_size=9), "memory://there/out")
    for out, said in (("nothing://x", "no place to write to"),):
        with pytest.raises(UsageError, match=said):
            Store(out)


def test_memory_does_not_grow_with_the_number_of_images(pen: Pen, tmp_path: Path) -> None:
    def peak(total: int) -> int:
        tracemalloc.start()
        write_dataset(pen, asked(f"0={total}", shard_size=500, form="npz"), str(tmp_path / f"{total}"))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(500)
    small, large = peak(1000), peak(20_000)
    assert large < 1.5 * small, f"{small:,} and {large:,} bytes"


def test_the_command_does_all_that(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lekhani import cli

    words = f"lekhani generate --model {model} --label 2=4 --each 3 --format npz --truncation 2 --shard-size 6 --seed 3 --out {tmp_path}/out"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "Wrote 10 images of 3 classes" in capsys.readouterr().out
    told = sheet(tmp_path / "out")["request"]
    assert (told["labels"], told["truncation"], told["shard_size"]) == ([["2", 4], ["0", 3], ["1", 3]], 2.0, 6)
    write_dataset(
        find("", model),
        Request(Plan(((2, 4), (0, 3), (1, 3)), 6), SamplingOptions(3, None, 2.0), "npz"),
        str(tmp_path / "again"),
    )
    assert content(tmp_path / "out") == content(tmp_path / "again")
