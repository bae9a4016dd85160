"""A dataset is what was requested; a run that was stopped resumes, and ends with the same bytes."""

import json
import re
import shutil
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import fsspec
import numpy as np
import pytest
import yaml
from datasets_on_disk import digests, failing_at
from fake_judge import FakeJudge
from killed_writes import MINE, wanted

from lekhani.data.spec import MNIST
from lekhani.errors import LekhaniError, UsageError
from lekhani.generate import shards
from lekhani.generate.shards import DatasetRequest
from lekhani.generate.write import counts, write_dataset
from lekhani.inference.sampling import Plan, SamplingOptions, sample_shard
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
        ({"each": 1, "total": 3}, "`each` and `total` both say"),
        ({"labels": ["1=5"], "total": 3}, r"`total` 3 is not what `label` and `from_csv` add up to \(5\)"),
        ({"labels": ["0=5", "1", "2"], "total": 30}, r"`total` 30 is not what .* \(7\)"),
        ({"table": b"glyph,count\n1,2\n"}, "`from_csv` .*has no column label"),
        ({"table": b"label,count\n1,2\n9,2\n"}, "`from_csv` .*line 3: no such class"),
        ({"table": b"label,count\n1,-2\n"}, "`from_csv` .*line 2: the count '-2' must be"),
        ({"table": b"label,count\n1," + b"9" * 99 + b"\n"}, "`from_csv` .*must be a whole number from 0"),
        ({"table": b"label\n\xff\n"}, "`from_csv` .*cannot be read as a CSV file in UTF-8"),
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


def kills(model: Path, folder: Path, format: str, step: int) -> int:
    """How often a run was killed, each time ending with the same bytes when it ran again."""
    script = Path(__file__).parents[2] / "killed_writes.py"
    command = [sys.executable, str(script), str(model), str(folder), format, str(step)]
    path = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=path, capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


@pytest.mark.parametrize(
    ("format", "step"), [("npz", 13), *(pytest.param(one, 1, marks=pytest.mark.slow) for one in ("npz", "png"))]
)
def test_a_killed_run_resumes_to_the_same_bytes(pen: Pen, model: Path, format: str, step: int, tmp_path: Path) -> None:
    write_dataset(pen, wanted(format, 8), str(tmp_path / "new"))
    assert kills(model, tmp_path, format, step) >= 35


@pytest.mark.parametrize(
    ("before", "format", "step"),
    [("png", "npz", 17), *(pytest.param(*two, 1, marks=pytest.mark.slow) for two in (("npz", "npz"), ("idx", "png")))],
)
def test_a_killed_overwrite_leaves_one_of_the_two_and_is_resumed(
    pen: Pen, model: Path, before: str, format: str, step: int, tmp_path: Path
) -> None:
    write_dataset(pen, wanted(before, 7), str(tmp_path / "old"))
    for name in MINE:
        (tmp_path / "old" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "old" / name).write_text("precious")
    write_dataset(pen, wanted(format, 8), str(tmp_path / "new"))
    assert kills(model, tmp_path, format, step) >= 50


def test_finished_shards_are_kept_and_damaged_ones_made_again(
    pen: Pen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = request(shard_size=9, format="npz", min_confidence=0.9), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(shards, "sample_shard", failing_at(2, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write_dataset(pen, whole, str(out))
    assert "(1 of 3 shards was there already)" in write_dataset(pen, whole, str(out))
    made = digests(out)
    spoilt, gone = sorted(out.glob("*.npz"))[:2]
    spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"x")
    gone.unlink()
    assert "(1 of 3 shards was there already)" in write_dataset(pen, whole, str(out))
    assert digests(out) == made


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
        (False, r"out exists already; .* `overwrite`"),
        (True, r"holds no dataset\.json of ours"),
    ):
        with pytest.raises(UsageError, match=sentence):
            write_dataset(pen, request(), str(out), overwrite=overwrite)
    (out / "dataset.json").write_text('{"name": "mnist"}')
    with pytest.raises(UsageError, match=r"dataset\.json in it is damaged or not ours \(`made_by` is missing\)"):
        write_dataset(pen, request(), str(out), overwrite=True)
    with pytest.raises(UsageError, match=r"mine\.txt is a file"):
        write_dataset(pen, request(), str(out / "mine.txt"), overwrite=True)
    assert set(digests(tmp_path)) == {"out/mine.txt", "out/dataset.json"}
    for address in ("nothing://x", "ftp://127.0.0.1:1/x", "zip://x", "github://a:b@c/x", "simplecache::s3://b/x"):
        with pytest.raises(UsageError, match="no place to write to"):
            write_dataset(pen, request(), address)


def test_another_request_is_refused_unless_it_may_overwrite(
    pen: Pen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_dataset(pen, request("0=3", "1"), str(out))
    before = digests(out)
    with pytest.raises(
        UsageError, match=r"out holds the dataset of another request \(seed 7 there, 8 here\); .* `overwrite`"
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


def test_overwriting_removes_the_old_files_alone_and_only_when_the_new_ones_are_complete(
    pen: Pen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_dataset(pen, request(shard_size=9), str(out))
    old = digests(out)
    mine = {"notes.txt", "weights/w.bin", "00001/seen.txt", "glyphs.npz/mine"}
    for name in mine:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("precious")
    new = request(shard_size=9, format="npz", seed=8)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "sample_shard", failing_at(2, OSError(28, "No space left on device")))
        with pytest.raises(LekhaniError, match="No space left on device"):
            write_dataset(pen, new, str(out), overwrite=True)
    assert {name: digests(out)[name] for name in old} == old
    assert "(1 of 3 shards was there already)" in write_dataset(pen, new, str(out), overwrite=True)
    shown = {"README.md", "dataset.json", *(f"glyphs-0000{number}.npz" for number in range(3))}
    assert set(digests(out)) == mine | shown
    write_dataset(pen, new, str(tmp_path / "new"))
    assert digests(tmp_path / "new").items() <= digests(out).items()
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"weights", "00001", "glyphs.npz"}
    before = digests(out)
    for format, name in (("npz", r"glyphs\.npz"), ("parquet", "data")):
        (out / "data").write_text("mine")
        with pytest.raises(UsageError, match=f"out/{name} is no part of the dataset there"):
            write_dataset(pen, request(format=format), str(out), overwrite=True)
        (out / "data").unlink()
    assert digests(out) == before


def test_what_is_left_of_another_replacement_goes(pen: Pen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write_dataset(pen, request(), str(out))
    old = digests(out)
    for last in (request(), request(seed=9)):
        with monkeypatch.context() as patch:
            patch.setattr(shards, "sample_shard", failing_at(2, KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                write_dataset(pen, request(seed=8, shard_size=9), str(out), overwrite=True)
        write_dataset(pen, last, str(out), overwrite=True)
        assert (digests(out) == old) == (last == request())
        assert not (out / ".unfinished").exists()


def drop(*path: Any) -> Callable[[Any], Any]:
    return lambda sheet: at(sheet, path[:-1]).pop(path[-1])


def put(value: Any, *path: Any) -> Callable[[Any], Any]:
    return lambda sheet: at(sheet, path[:-1]).__setitem__(path[-1], value)


def at(value: Any, path: Sequence[Any]) -> Any:
    for key in path:
        value = value[key]
    return value


GARBLED = [
    *(drop(key) for key in ("made_by", "request", "classes")),
    *(drop("request", key) for key in ("labels", "format", "seed", "shard_size", "device")),
    *(put(value, "request") for value in (None, [], "x", 1)),
    *(put(value, "request", "labels") for value in (None, {}, [["2"]], [["2", -1]], [["2", 10**30]], [["x", 1]])),
    *(put(value, "request", "shard_size") for value in (0, -1, 1.5, "9", True)),
    *(put(value, "request", "format") for value in ("../..", 5, None)),
    *(put(value, "request", "seed") for value in (-1, "7", float("nan"))),
    *(put(value, "classes") for value in (None, [], {}, [1])),
    *(put(value, "classes", 0, "label") for value in (1, -1, "0")),
    *(put(value, "shards") for value in (None, 3, [1], [{}])),
    *(put(value, "shards", 0, "sha256") for value in (None, 5, "abc")),
    put(5, "shards", 0, "images"),
    put(1, "shards", 0, "number"),
    put("1", "classes", 0, "name"),
    put(1, "more"),
]


@pytest.mark.parametrize("place", ["dataset.json", ".unfinished/request.json", ".unfinished/new/dataset.json"])
def test_a_garbled_datasheet_is_a_sentence(pen: Pen, tmp_path: Path, place: str) -> None:
    write_dataset(pen, request("0=3"), str(tmp_path / "whole"))
    good = (tmp_path / "whole" / "dataset.json").read_text(encoding="utf-8")
    contents = [good[:-100], "", "null", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")]
    for change in GARBLED:
        garbled = json.loads(good)
        change(garbled)
        contents.append(json.dumps(garbled))
    for number, content in enumerate(contents):
        out = tmp_path / f"{number}"
        if "new" in place:
            write_dataset(pen, request("0=3", seed=8), str(out))
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_bytes(content if isinstance(content, bytes) else content.encode())
        for overwrite in (False, True) if "new" not in place else (True,):
            with pytest.raises(UsageError, match=r"json in it is damaged or not ours \(.+\); choose another") as caught:
                write_dataset(pen, request("0=3"), str(out), overwrite=overwrite)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 600


def test_a_shard_with_a_garbled_record_is_made_again(pen: Pen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = request(shard_size=9, min_confidence=0.9)
    write_dataset(pen, whole, str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(shards, "sample_shard", failing_at(2, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write_dataset(pen, whole, str(tmp_path / "begun"))
    changes = [
        ("number", 10**30),
        ("images", -1),
        ("sha256", "x"),
        ("sha256", None),
        ("request", "0" * 64),
        ("more", 1),
    ]
    changes += [(key, value) for key in ("seen", "good") for value in (None, [1], [-1] * 3, [10**30] * 3, "x")]
    for number, (key, value) in enumerate(changes):
        out = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "begun", out)
        record = out / ".unfinished" / "00000.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {key: value}))
        assert "already" not in write_dataset(pen, whole, str(out)), (key, value)
        assert digests(out) == digests(tmp_path / "whole")


# --- at the same time ---

HOLDER = """
import sys, time
from lekhani.generate.store import Store
with Store(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_told_who_writes_and_a_killed_one_blocks_nobody(pen: Pen, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", HOLDER, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": ":".join(sys.path)}) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        who = rf"out is being written by process {holder.pid} on {socket.gethostname()}, since \d{{4}}-.*; wait for"
        for overwrite in (False, True):
            with pytest.raises(LekhaniError, match=who) as caught:
                write_dataset(pen, request(), str(out), overwrite=overwrite)
            assert caught.value.exit_code == 1
        (out / ".unfinished" / "writer.json").write_text("{")
        with pytest.raises(LekhaniError, match="is being written by another process"):
            write_dataset(pen, request(), str(out))
        holder.kill()
    write_dataset(pen, request(), str(out))
    assert not (out / ".unfinished").exists()


def test_requests_at_the_same_time_leave_one_dataset(pen: Pen, tmp_path: Path) -> None:
    """The losers get a sentence, or find the winner's dataset."""
    whole = [request(seed=seed, shard_size=9, format="npz") for seed in (7, 8)]
    expected = []
    for number, one in enumerate(whole):
        write_dataset(pen, one, str(tmp_path / f"whole{number}"))
        expected.append(digests(tmp_path / f"whole{number}"))

    def run(number: int) -> str:
        try:
            return write_dataset(pen, whole[number % 2], str(out), overwrite=number > 1)
        except LekhaniError as error:
            return str(error)

    for attempt in range(5):
        out = tmp_path / f"{attempt}"
        with ThreadPoolExecutor(4) as pool:
            said = list(pool.map(run, range(4)))
        assert digests(out) in expected
        assert not (out / ".unfinished").exists()
        for sentence in said:
            assert re.search("^Wrote|is being written by process|another request", sentence), sentence


# --- elsewhere, and large ---


@pytest.fixture
def memory() -> Iterator[Any]:
    """An object store without locks, in memory."""
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in digests(folder)}


def in_memory(fs: Any) -> dict[str, bytes]:
    return {path.removeprefix("/bucket/out/"): fs.cat_file(path) for path in fs.find("/bucket")}


def test_an_object_store_is_overwritten_as_a_folder_is(
    pen: Pen, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(pen, request(shard_size=9), "memory://bucket/out")
    memory.pipe("/bucket/out/notes.txt", b"precious")
    memory.pipe("/bucket/out/00001/seen.txt", b"precious")
    old, new = in_memory(memory), request(shard_size=9, format="npz", seed=8)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "sample_shard", failing_at(2, OSError("away")))
        with pytest.raises(LekhaniError, match="away; check the address"):
            write_dataset(pen, new, "memory://bucket/out", overwrite=True)
    assert old.items() <= in_memory(memory).items()
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "mv", failing_after(3, type(memory).mv))
        with pytest.raises(LekhaniError, match="away; check the address"):
            write_dataset(pen, new, "memory://bucket/out", overwrite=True)
    assert "dataset.json" not in in_memory(memory)
    write_dataset(pen, new, "memory://bucket/out", overwrite=True)
    write_dataset(pen, new, str(tmp_path / "new"))
    mine = {"notes.txt": b"precious", "00001/seen.txt": b"precious"}
    assert in_memory(memory) == mine | {
        name: (tmp_path / "new" / name).read_bytes() for name in digests(tmp_path / "new")
    }


def failing_after(calls: int, work: Callable[..., Any]) -> Callable[..., Any]:
    left = [calls]

    def once(*words: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("away")
        return work(*words, **named)

    return once


@pytest.mark.parametrize("gone", [True, False], ids=["the other one is done", "the other one writes"])
def test_two_runs_in_one_object_store_are_noticed_at_the_end(
    pen: Pen, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    whole, first = request(shard_size=9), "/bucket/out/.unfinished/00000.json"

    def sample(*words: Any) -> Any:
        if words[4] == 2:  # the last shard
            record = json.loads(memory.cat_file(first)) | {"request": "0" * 64}
            memory.rm(first) if gone else memory.pipe(first, json.dumps(record).encode())
        return sample_shard(*words)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "sample_shard", sample)
        with pytest.raises(LekhaniError, match="was written by another run at the same time; wait for its end"):
            write_dataset(pen, whole, "memory://bucket/out")
    assert "dataset.json" not in in_memory(memory)
    assert "(2 of 3 shards were there already)" in write_dataset(pen, whole, "memory://bucket/out")
    write_dataset(pen, whole, str(tmp_path / "whole"))
    assert in_memory(memory) == contents(tmp_path / "whole")


def test_memory_does_not_grow_with_the_number_of_images(pen: Pen, tmp_path: Path) -> None:
    def peak(total: int) -> int:
        tracemalloc.start()
        write_dataset(pen, request(f"0={total}", shard_size=500, format="npz"), str(tmp_path / f"{total}"))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(500)
    # The least of three, since what other threads of the process allocate meanwhile is counted too.
    small, large = peak(1000), min(peak(20_000) for _ in range(3))
    assert large < 1.5 * small, f"{small:,} and {large:,} bytes"


@pytest.mark.parametrize(
    ("labels", "format", "shard_size", "words"),
    [
        (["0=1000000000", "1=1000000000"], "png", 20_000, r"as png would take at least 7,629\.4 GB, .* 1\.0 GB left"),
        (["0=1000000000"], "idx", 10_000, "as idx would take"),
        (["0=1000000000"], "npz", 2**63, "A shard of .* images takes .* GB of memory"),
        (["0=1000000000"], "npz", 9_999, "would be 100,011 shards, .*; pass `shard_size` 10000"),
    ],
)
def test_a_count_that_cannot_be_written_is_refused_at_once(
    pen: Pen,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    labels: list[str],
    format: str,
    shard_size: int,
    words: str,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    with pytest.raises(UsageError, match=words):
        write_dataset(pen, request(*labels, shard_size=shard_size, format=format), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
