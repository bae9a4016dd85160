"""A dataset is what was requested; a run that was stopped resumes, and ends with the same bytes."""

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
from datasets_on_disk import digests, failing_at
from fake_judge import FakeJudge

from lekhani.data.spec import MNIST
from lekhani.errors import LekhaniError, UsageError
from lekhani.generate import shards
from lekhani.generate.shards import DatasetRequest
from lekhani.generate.write import counts, write_dataset
from lekhani.inference.sampling import Plan, SamplingOptions
from lekhani.inference.session import Generator, Reader
from lekhani.pen import Pen

ToyGenerator = Callable[..., Path]
THREE = MNIST[:3]


@pytest.fixture(scope="module")
def model(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_generator(tmp_path_factory.mktemp("c") / "g.onnx")


@pytest.fixture(scope="module")
def pen(model: Path) -> Pen:
    return Pen(Generator(model, "cpu"), cast(Reader, FakeJudge()), "the toy")


def request(*labels: str, shard_size: int = 10_000, format: Any = "png", **options: Any) -> DatasetRequest:
    plan = Plan(counts(THREE, labels or ("2=9", "0=9", "1=7")), shard_size)
    return DatasetRequest(plan, SamplingOptions(**{"seed": 7, **options}), format)


def sheet(folder: Path) -> Any:
    return json.loads((folder / "dataset.json").read_text(encoding="utf-8"))


# --- the request ---


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
    ("wanted", "sentence"),
    [
        ({}, "nothing to generate: all counts are 0"),
        ({"each": 1, "total": 3}, "--each and --total both say"),
        ({"labels": ["1=5"], "total": 3}, r"--total 3 is not what --label and --from-csv add up to \(5\)"),
        ({"labels": ["0=5", "1", "2"], "total": 30}, r"--total 30 is not what .* \(7\)"),
        ({"table": b"glyph,count\n1,2\n"}, "--from-csv .*has no column label"),
        ({"table": b"label,count\n1,2\n9,2\n"}, "--from-csv .*line 3: no such class"),
        ({"table": b"label,count\n1,-2\n"}, "--from-csv .*line 2: the count '-2' must be"),
        ({"table": b"label,count\n1," + b"9" * 99 + b"\n"}, "--from-csv .*must be a whole number from 0"),
        ({"table": b"label\n\xff\n"}, "--from-csv .*cannot be read as a CSV file in UTF-8"),
    ],
)
def test_contradictory_and_malformed_counts(wanted: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    if "table" in wanted:
        (tmp_path / "t.csv").write_bytes(wanted["table"])
        wanted = {"table": tmp_path / "t.csv"}
    with pytest.raises(UsageError, match=sentence):
        counts(THREE, **wanted)


# --- the files ---


def test_the_images_and_their_datasheet(pen: Pen, tmp_path: Path) -> None:
    write_dataset(pen, request("2=9", "0=3", shard_size=5, format="npz", min_confidence=0.9), str(tmp_path / "out"))
    shards = [np.load(file) for file in sorted((tmp_path / "out").glob("*.npz"))]
    images, labels = (np.concatenate([shard[name] for shard in shards]) for name in ("images", "labels"))
    assert np.bincount(labels).tolist() == [3, 0, 9]
    np.testing.assert_array_equal(FakeJudge().read(images)[1].argmax(1), labels)
    record = sheet(tmp_path / "out")
    assert (record["images"], record["image_size"], record["licence"]) == (12, 4, None)
    assert record["model"]["sha256"] == pen.generator.sha256
    assert record["judge_sha256"] == FakeJudge().sha256
    asked = {"labels": [["2", 9], ["0", 3]], "seed": 7, "min_confidence": 0.9, "truncation": None}
    assert record["request"] | asked == record["request"]
    zero, one, two = record["classes"]
    assert (zero["count"], one["count"], two["count"]) == (3, 0, 9)
    assert 0 < two["rate"] == round(two["good"] / two["seen"], 4) < 1
    assert "rate" not in one
    assert [one["images"] for one in record["shards"]] == [4, 4, 4]
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(page.split("---")[1])
    assert head["license"] == "unknown"
    assert pen.generator.sha256 in page
    assert f"| 2 | 2 | 2 | 9 | {two['seen']} | {two['rate']:.1%} |" in page
    assert "at least 90.0% sure" in page
    assert str(tmp_path) not in page


def test_the_datasheet_holds_the_lineage_of_a_registered_model(
    pen: Pen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from lekhani.registry import lineage

    facts = {"run": {"id": "r1"}, "commit": {"id": "c1", "dirty": False, "subject": "s"}, "lock": {"sha256": "l1"}}
    facts |= {"data": {"digest": "d1", "licence": "CC BY 4.0"}, "source": {"name": "openml"}}
    links = {name: lineage.Link(dict(one)) for name, one in facts.items()}
    monkeypatch.setattr(
        lineage, "trace", lambda name: lineage.Lineage(name, "3", links) if name == "lekhani-mnist:3" else None
    )
    write_dataset(replace(pen, version="lekhani-mnist:3"), request("0"), str(tmp_path / "out"))
    record = sheet(tmp_path / "out")
    assert record["licence"] == "CC BY 4.0"
    assert record["model"]["lineage"]["commit"] == {"id": "c1", "dirty": False}
    assert record["model"]["lineage"]["source"] == {"name": "openml", "version": None, "sha256": None}
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(page.split("---")[1])["license"] == "cc-by-4.0"
    assert "| data digest | `d1` |" in page


# --- the same bytes ---


SCRIPT = """
import os, signal, sys
from pathlib import Path
from datasets_on_disk import digests, failing_at
from fake_judge import FakeJudge
from lekhani.generate import store
from lekhani.generate import write
from lekhani.pen import find, Pen
from test_write import request

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
wanted = request(shard_size=9, format=sys.argv[4], min_confidence=0.9)
write.write_dataset(Pen(pen.generator, FakeJudge(), "the toy"), wanted, sys.argv[2])
"""


@pytest.mark.parametrize(("format", "renames"), [("png", 0), ("png", 7), ("npz", 4), ("npz", 8)])
def test_a_killed_run_resumes_to_the_same_bytes(
    pen: Pen, model: Path, format: str, renames: int, tmp_path: Path
) -> None:
    whole = request(shard_size=9, format=format, min_confidence=0.9)
    write_dataset(pen, whole, str(tmp_path / "whole"))
    out = tmp_path / "killed"
    command = [sys.executable, "-c", SCRIPT, str(model), str(out), str(renames), format]
    paths = ":".join([*(str(Path(__file__).parents[i]) for i in (0, 2)), *sys.path])
    died = subprocess.run(command, env={"PYTHONPATH": paths}, capture_output=True, text=True, timeout=300, check=False)
    assert died.returncode == -9, died.stderr
    assert not (out / "dataset.json").exists()
    sentence = write_dataset(pen, whole, str(out))
    assert digests(out) == digests(tmp_path / "whole")
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
    already = {4: "(1 of 3 shards was there already)", 8: "(3 of 3 shards were there already)"}
    assert already.get(renames, "") in sentence
    if format == "npz":  # what is damaged or gone is made again
        spoilt, gone = sorted(out.glob("*.npz"))[:2]
        spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"x")
        gone.unlink()
        assert "(1 of 3 shards was there already)" in write_dataset(pen, whole, str(out))
        assert digests(out) == digests(tmp_path / "whole")


def test_a_full_disk_is_one_sentence_and_what_is_finished_is_kept(
    pen: Pen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    out, whole = tmp_path / "out", request(shard_size=9)
    with (
        pytest.raises(LekhaniError, match=r"Could not write .*out: File too large; free space .*run the same again"),
        full_disk(),
    ):
        write_dataset(pen, whole, str(out))
    with monkeypatch.context() as patch:
        patch.setattr(shards, "sample_shard", failing_at(2, OSError(28, "No space left on device")))
        with pytest.raises(LekhaniError, match="No space left on device"):
            write_dataset(pen, whole, str(out))
    assert "(1 of 3 shards was there already)" in write_dataset(pen, whole, str(out))
    write_dataset(pen, whole, str(tmp_path / "whole"))
    assert digests(out) == digests(tmp_path / "whole")


# --- what is there already ---


def test_files_of_others_are_never_touched(pen: Pen, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    for overwrite, sentence in (
        (False, r"out exists already; .* --overwrite"),
        (True, r"holds no dataset\.json of ours"),
    ):
        with pytest.raises(UsageError, match=sentence):
            write_dataset(pen, request(), str(out), overwrite=overwrite)
    (out / "dataset.json").write_text('{"name": "mnist"}')
    with pytest.raises(UsageError, match=r"holds no dataset\.json of ours"):
        write_dataset(pen, request(), str(out), overwrite=True)
    with pytest.raises(UsageError, match=r"mine\.txt is a file"):
        write_dataset(pen, request(), str(out / "mine.txt"), overwrite=True)
    assert set(digests(tmp_path)) == {"out/mine.txt", "out/dataset.json"}
    with pytest.raises(UsageError, match="no place to write to"):
        write_dataset(pen, request(), "nothing://x")


def test_another_request_is_refused_unless_it_may_overwrite(
    pen: Pen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_dataset(pen, request("0=3", "1"), str(out))
    before = digests(out)
    with pytest.raises(
        UsageError, match=r"out holds the dataset of another request \(seed 7 there, 8 here\); .* --overwrite"
    ):
        write_dataset(pen, request("0=3", "1", seed=8), str(out))
    with pytest.raises(UsageError, match=r'format "png" there, "npz" here'):
        write_dataset(pen, request("0=3", "1", format="npz"), str(out))
    with pytest.raises(UsageError, match=r"labels 4 of 2 classes there, 5 of 1 class here"):
        write_dataset(pen, request("0=5"), str(out))
    assert digests(out) == before
    write_dataset(pen, request("1", format="npz"), str(out), overwrite=True)
    assert set(digests(out)) == {"glyphs.npz", "README.md", "dataset.json"}
    with monkeypatch.context() as patch:
        patch.setattr(shards, "sample_shard", failing_at(1, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write_dataset(pen, request(), str(tmp_path / "unfinished"))
    with pytest.raises(UsageError, match="seed 7 there, 8 here"):
        write_dataset(pen, request(seed=8), str(tmp_path / "unfinished"))


# --- elsewhere, and large ---


def test_memory_does_not_grow_with_the_number_of_images(pen: Pen, tmp_path: Path) -> None:
    def peak(total: int) -> int:
        tracemalloc.start()
        write_dataset(pen, request(f"0={total}", shard_size=500, format="npz"), str(tmp_path / f"{total}"))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(500)
    small, large = peak(1000), peak(20_000)
    assert large < 1.5 * small, f"{small:,} and {large:,} bytes"
