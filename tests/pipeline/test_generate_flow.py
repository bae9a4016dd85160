"""The flow asks the command for what was chosen, and shows what it wrote; tests of the schedule run it on a real
server."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from workspace import ROOT

sys.path.insert(0, str(ROOT / "pipelines"))

import commands
import generate

from lekhani import pen
from lekhani.generate.shards import DatasetRequest
from lekhani.generate.write import counts, write_dataset
from lekhani.inference.sampling import Plan, SamplingOptions


def test_the_flow_asks_for_what_was_chosen(
    toy_generator: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    shown: dict[str, str] = {}

    def command(root: Path, *words: str) -> commands.CommandResult:
        asked.append(words)
        writer = pen.load(toy_generator(tmp_path / "g.onnx"))
        said = write_dataset(
            writer,
            DatasetRequest(Plan(counts(writer.classes, ["2=3"], each=2), 4), SamplingOptions(5, None, None), "npz"),
            str(root / "out"),
        )
        return commands.CommandResult(0, (said,))

    monkeypatch.setattr(commands, "run_command", command)
    monkeypatch.setattr(generate, "create_markdown_artifact", lambda page, key: shown.update({key: page}))
    task = generate.write.fn  # its own retries need Prefect's server
    monkeypatch.setattr(
        generate, "write", lambda root, dataset, out, words, return_state: task(root, dataset, out, words)
    )
    state = generate.generate.fn(
        "mnist@champion", "out", labels=["2=3"], each=2, format="npz", seed=5, shard_size=4, root=tmp_path
    )
    assert state.is_completed()
    assert state.message.startswith("Wrote 7 images of 3 classes")
    (words,) = asked
    assert words[:4] == ("lekhani", "generate", "--dataset", "mnist@champion")
    assert words[4:] == (
        "--label",
        "2=3",
        "--each",
        "2",
        "--format",
        "npz",
        "--seed",
        "5",
        "--shard-size",
        "4",
        "--engine",
        "local",
        "--out",
        "out",
    )
    assert shown == {"generated-mnist": (tmp_path / "out" / "README.md").read_text(encoding="utf-8")}
