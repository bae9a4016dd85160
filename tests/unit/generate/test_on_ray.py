"""Ray and object stores hold the same bytes as one process writes into a folder."""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from datasets_on_disk import digests, failing_at
from services import fake_s3

from lekhani.errors import LekhaniError, UsageError
from lekhani.generate import shards
from lekhani.generate.shards import DatasetRequest
from lekhani.generate.write import write_dataset
from lekhani.inference.sampling import Plan, SamplingOptions
from lekhani.pen import Pen, find

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (lekhani[ray])")
REQUEST = DatasetRequest(Plan(((2, 9), (0, 9), (1, 7)), 5), SamplingOptions(7), "parquet")


@pytest.fixture(scope="module")
def pen(toy_generator: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Pen:
    return find("", toy_generator(tmp_path_factory.mktemp("c") / "g.onnx"))


@pytest.fixture(scope="module")
def expected(pen: Pen, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("expected")
    write_dataset(pen, REQUEST, str(out))
    return digests(out)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A fake S3, and a file system that reads it."""
    pytest.importorskip("moto", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed (lekhani[s3])")
    with fake_s3("glyphs") as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(key, "test")
        s3fs.S3FileSystem.clear_instance_cache()
        yield s3fs.S3FileSystem(endpoint_url=address, use_listings_cache=False)
        s3fs.S3FileSystem.clear_instance_cache()


def held(fs: Any, prefix: str) -> dict[str, str]:
    return {path.removeprefix(f"{prefix}/"): hashlib.sha256(fs.cat_file(path)).hexdigest() for path in fs.find(prefix)}


def test_a_bucket_holds_the_same_bytes(
    pen: Pen, expected: dict[str, str], bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shards, "sample_shard", failing_at(3, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write_dataset(pen, REQUEST, "s3://glyphs/a/out")
    assert not bucket.exists("glyphs/a/out/dataset.json")
    assert "(2 of 5 shards were there already)" in write_dataset(pen, REQUEST, "s3://glyphs/a/out")
    assert held(bucket, "glyphs/a/out") == expected
    other = DatasetRequest(REQUEST.plan, SamplingOptions(8), "npz")
    with pytest.raises(UsageError, match="seed 7 there, 8 here"):
        write_dataset(pen, other, "s3://glyphs/a/out")
    bucket.pipe("glyphs/a/out/data/notes.txt", b"mine")
    write_dataset(pen, other, "s3://glyphs/a/out", overwrite=True)
    assert set(held(bucket, "glyphs/a/out")) == {
        "data/notes.txt",
        "README.md",
        "dataset.json",
        *(f"glyphs-{number:05d}.npz" for number in range(5)),
    }
    sentence = r"Could not write s3://nowhere/out: .*; check the address, the credentials and the bucket"
    with pytest.raises(LekhaniError, match=sentence) as caught:
        write_dataset(pen, REQUEST, "s3://nowhere/out")
    assert "\n" not in str(caught.value)


def test_without_ray_the_error_names_the_extra(pen: Pen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"install lekhani\[ray\]"):
        write_dataset(pen, REQUEST, str(tmp_path / "out"), engine="ray")


@pytest.mark.slow
@needs_ray
def test_ray_writes_the_same_bytes(
    pen: Pen, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(pen, REQUEST, str(tmp_path / "out"), engine="ray")
    assert digests(tmp_path / "out") == expected
    (tmp_path / "out" / "data" / "train-00003-of-00005.parquet").unlink()
    assert "(4 of 5 shards were there already)" in write_dataset(pen, REQUEST, str(tmp_path / "out"), engine="ray")
    assert digests(tmp_path / "out") == expected


@pytest.mark.slow
@needs_ray
def test_an_error_in_an_actor_is_one_sentence(pen: Pen, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "data").write_text("a file where a folder is to be")
    (out / ".unfinished").mkdir()
    begun = {
        "made_by": "lekhani generate",
        "request": REQUEST.describe(pen),
        "classes": [asdict(c) for c in pen.classes],
    }
    Path(out / ".unfinished" / "request.json").write_text(json.dumps(begun), encoding="utf-8")
    with pytest.raises(LekhaniError, match=r"Could not write .*run the same again") as caught:
        write_dataset(pen, REQUEST, str(out), engine="ray")
    assert "\n" not in str(caught.value)
