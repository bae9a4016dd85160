"""Files that a stage reads may be garbled: then a sentence names the file, and nothing is trained or scored with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutations import GONE, at, changed, paths
from safetensors.torch import load_file, save_file

from lekhani import files, params
from lekhani.errors import LekhaniError
from lekhani.evaluate.reference import Reference
from lekhani.stages import artefacts
from lekhani.stages.compare import _picture, scorecard
from lekhani.stages.inputs import dataset_info, validated_data
from lekhani.stages.trained import load_trained

ROOT = Path(__file__).parents[3]
SCORED = "reports/scorecards/own-flow_matching"
VALUES = (GONE, None, "", "x", -1, 0, 1.5, True, 10**30, float("nan"), float("inf"), [], {}, [None], {"x": 1})
Reader = Callable[[], object]


PARAMS = params.load(ROOT / "params.yaml")


def trained() -> object:
    return load_trained(PARAMS, "own", "flow_matching")


def checked(path: str, model: type[Any]) -> Reader:
    return lambda: files.read_checked(Path(path), model)


JSON: dict[str, list[Reader]] = {
    "data/prepared/own/dataset.json": [lambda: validated_data("own"), lambda: dataset_info("own")],
    "reports/own/validated.json": [lambda: validated_data("own")],
    "models/own/flow_matching/training.json": [trained],
    f"{SCORED}/measurements.json": [lambda: scorecard("own", "flow_matching")],
    **{
        path: [checked(path, model)]
        for path, model in (
            ("reports/own/flow_matching/export.json", artefacts.Export),
            ("reports/own/flow_matching/export_timing.json", artefacts.ExportTiming),
            ("reports/own/flow_matching/train_timing.json", artefacts.TrainTiming),
            ("reports/own/flow_matching/usefulness.json", artefacts.Metrics),
            ("reports/own/usefulness_real.json", artefacts.Points),
        )
    },
}
FREE = {"source", "choices", "script", "notes", "sentence", "profile", "device", "torch"}


def refuses(path: Path, read: Reader) -> bool:
    """Whether it is a LekhaniError of one line that names the file, or the folder that it is in."""
    said = ""
    try:
        read()
    except LekhaniError as error:
        said = str(error)
    named = any(str(one) in said for one in (path, path.parent))
    assert not said or (named and "\n" not in said and len(said) < 700), said
    return bool(said)


@pytest.mark.parametrize("path", JSON)
def test_json_of_wrong_types(project: Path, path: str) -> None:
    file, good = Path(path), json.loads(Path(path).read_text(encoding="utf-8"))
    readers = JSON[path]
    assert not any(refuses(file, read) for read in readers)
    whole = json.dumps(good)
    for content in (b"", b"null", b"[]", b"1", b"{", whole[:-3].encode(), b"[" * 100_000, b"\xff", b"\x00" * 9):
        file.write_bytes(content)
        assert all(refuses(file, read) for read in readers), content[:9]
    file.unlink()
    assert all(refuses(file, read) for read in readers)
    every = list(paths(good))
    for number, where in enumerate(every):
        for value in VALUES[number % 3 :: 3] if len(every) > 40 else VALUES:
            file.write_text(json.dumps(changed(good, where, lambda _, value=value: value)), encoding="utf-8")
            refused = [refuses(file, read) for read in readers]
            if value is not GONE and type(value) is not type(at(good, where)) and not FREE & set(where):
                number_for_number = {type(value), type(at(good, where))} <= {int, float} and value == value
                assert all(refused) or number_for_number, (where, value)


@pytest.mark.parametrize("name", ["images", "labels"])
def test_arrays_that_are_not_those_of_the_dataset(project: Path, name: str) -> None:
    path = Path(f"data/prepared/own/{name}.npy")
    good, content = np.load(path), path.read_bytes()
    bad = [good[:-1], good[:0], good.astype(np.float32), good.astype(np.int32), good[None], good.reshape(-1, 2)]
    bad += [np.roll(good, 1), np.float64(1), good.astype(bool), np.array(["a"] * 30), good.astype(">i8")]
    if name == "labels":
        bad += [np.where(np.arange(30) == 7, wrong, good) for wrong in (500, -1, 3)]
    for array in bad:
        np.save(path, array)
        assert refuses(path, lambda: validated_data("own")), array.dtype
    np.save(path, np.array([{}] * 30), allow_pickle=True)
    assert refuses(path, lambda: validated_data("own"))
    huge = content.replace(b"(30,", b"(9" + b"9" * 8 + b",", 1)
    for forged in (b"", content[:50], content[:-1], b"\x93NUMPY" + b"\xff" * 99, huge, b"PK\x03\x04", b"x" * 500):
        path.write_bytes(forged)
        assert refuses(path, lambda: validated_data("own")), forged[:9]
    path.unlink()
    assert refuses(path, lambda: validated_data("own"))


def test_labels_out_of_range_are_refused_even_with_a_fitting_digest(project: Path) -> None:
    from lekhani.data import spec

    folder = Path("data/prepared/own")
    data = spec.load_prepared(folder)
    for wrong in (500, -1):
        labels = data.labels.copy()
        labels[7] = wrong
        np.save(folder / "labels.npy", labels)
        forged = spec.digest(data.images, labels, data.info.counts)
        for path in (folder / "dataset.json", Path("reports/own/validated.json")):
            files.write_json(path, json.loads(path.read_text()) | {"digest": forged})
        with pytest.raises(LekhaniError, match=rf"labels from .*{wrong}.*, and there are 3 classes"):
            validated_data("own")


def test_data_other_than_what_was_validated_are_refused(project: Path) -> None:
    path = Path("reports/own/validated.json")
    files.write_json(path, json.loads(path.read_text()) | {"digest": "1" * 64})
    with pytest.raises(LekhaniError, match=r"is about other data than .* holds; run `dvc repro validate@own`"):
        validated_data("own")


def test_weights_that_are_not_those_of_the_training(project: Path) -> None:
    path = Path("models/own/flow_matching/generator.safetensors")
    facts, content = path.with_name("training.json"), path.read_bytes()
    weights = load_file(path)
    first = next(name for name, value in weights.items() if value.ndim == 4)
    bad: list[Any] = [{name: value.half() for name, value in weights.items()}, {}]
    bad += [weights | {first: made(weights[first])} for made in (lambda w: w[:1], lambda w: w.flatten(), torch.isnan)]
    bad += [weights | {first: weights[first] * float("nan")}, weights | {"more": torch.zeros(1)}]
    bad += [{name: value for name, value in weights.items() if name != first}]
    for state in bad:
        save_file(state, path)
        files.write_json(facts, json.loads(facts.read_text()) | {"generator_sha256": files.sha256(path)})
        assert refuses(path, trained)
    for forged in (b"", b"{}", content[:100], content[:-1], b"\xff" * 99):
        path.write_bytes(forged)
        files.write_json(facts, json.loads(facts.read_text()) | {"generator_sha256": files.sha256(path)})
        assert refuses(path, trained)
    path.write_bytes(content)
    with pytest.raises(LekhaniError, match=r"generator\.safetensors is not what .*training\.json describes"):
        trained()


CSV = [b"", b"\xff", b"\x00", b"images_seen\n1\n", b'"images_seen', b"a,b\n1\n", b"a\n1,2,3\n"]


@pytest.mark.parametrize("name", ["curve", "per_class"])
def test_tables_with_other_cells(project: Path, name: str) -> None:
    path = Path(f"{SCORED}/{name}.csv")
    columns = ("images_seen", "judge_fid")

    def read() -> object:
        return files.read_csv(path, columns, columns) if name == "curve" else artefacts.per_class(path)

    good = path.read_text(encoding="utf-8")
    assert not refuses(path, read)
    head, first, *_ = good.splitlines()
    cells = first.split(",")
    place = 1 if name == "curve" else head.split(",").index("fid")
    rows = [",".join([*cells[:place], one, *cells[place + 1 :]]) for one in ("x", "nan", "inf", "1,2", "1e999")]
    rows += [",".join(cells[:-1])]
    for content in [*CSV, *(f"{head}\n{row}\n".encode() for row in rows)]:
        path.write_bytes(content)
        assert refuses(path, read), content


def test_pictures_and_references_that_are_none(project: Path) -> None:
    strip = Path(f"{SCORED}/strip.png")
    content = strip.read_bytes()
    for forged in (b"", content[:20], content[:-30], b"GIF89a", b"x" * 99):
        strip.write_bytes(forged)
        assert refuses(strip, lambda: _picture(strip))
    path = Path("reference.npz")
    good: dict[str, Any] = {"mean": np.zeros(3), "cov": np.eye(3), "confidence": 0.5, "judge": "0" * 64}
    good |= {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.arange(2)}
    np.savez(path, **good)
    assert not refuses(path, lambda: Reference.load(path))
    for key, values in {
        "mean": (np.zeros(4), np.zeros((3, 1)), np.float64(1), np.full(3, np.nan), np.array(["a"] * 3)),
        "cov": (np.eye(4), np.zeros(3), np.full((3, 3), np.inf)),
        "confidence": (-0.5, 2.0, np.nan, np.zeros(2), "x"),
        "judge": ("x", 5, ""),
        "images": (np.zeros((3, 4, 4), np.uint8), np.zeros((2, 4, 4)), np.zeros(2, np.uint8), "x"),
        "labels": (np.zeros(3, np.int64), np.array([0, -1]), np.array([0, 10**12]), np.zeros(2), np.zeros((2, 1), int)),
    }.items():
        for value in values:
            np.savez(path, **good | {key: value})
            assert refuses(path, lambda: Reference.load(path)), (key, value)
        np.savez(path, **{name: value for name, value in good.items() if name != key})
        assert refuses(path, lambda: Reference.load(path)) == (key != "images"), key
    whole = path.read_bytes()
    for forged in (b"", whole[:40], whole[:-9], b"PK\x03\x04" + b"\xff" * 99):
        path.write_bytes(forged)
        assert refuses(path, lambda: Reference.load(path))
