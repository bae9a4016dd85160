"""The command line answers fast, and mistakes are one sentence and an exit code."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lekhani import cli
from lekhani.errors import LekhaniError
from lekhani.stages import durations

ROOT = Path(__file__).parents[2]
STAGES = ("fetch", "prepare", "validate", "judge", "train", "export", "baseline", "usefulness", "evaluate")
WITH_VARIANT = ("train", "export", "usefulness", "evaluate")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing but params.yaml."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["lekhani", *words])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def sentence(err: str) -> str:
    (line,) = err.strip().splitlines()
    assert line.startswith("lekhani: ")
    return line


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = {"torch", "torch_fidelity", "mlflow", "dvc", "prefect", "onnxruntime", "onnx", "matplotlib"}
    heavy |= {"numpy", "scipy", "sklearn", "pandas"}
    code = f"""
import sys
sys.argv = ["lekhani", "--help"]
from lekhani import cli
try:
    cli.main()
finally:
    print("HEAVY", {heavy} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert "HEAVY set()" in done.stdout, done.stdout[-300:] + done.stderr[-300:]
    assert done.returncode == 0
    for command in (*STAGES, "compare", "register", "generate", "animate", "data", "params"):
        assert re.search(rf"\b{command}\b", done.stdout)


def test_the_schema_is_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "params", "--schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["seed"]["type"] == "integer"
    assert "description" in schema["$defs"]["Judge"]["properties"]["width"]


def test_params_are_printed_with_the_profile_applied(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("other.yaml").write_text(re.sub(r"(?m)^profile: \w+", "profile: full", text), encoding="utf-8")
    printed = []
    for words in (["params"], ["--params", "other.yaml", "params"]):
        assert call(monkeypatch, *words) == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert [values["profile"] for values in printed] == ["quick", "full"]
    assert printed[0]["judge"]["width"] < printed[1]["judge"]["width"]


@pytest.mark.parametrize("command", ["register", *STAGES])
def test_an_unknown_dataset_or_variant(
    command: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, command, "-d", "nope", *(["-v", "dcgan"] if command in WITH_VARIANT else [])) == 2
    assert re.search("No dataset 'nope'.*devanagari, mnist", sentence(capsys.readouterr().err))
    if command in WITH_VARIANT:
        assert call(monkeypatch, command, "-d", "mnist", "-v", "nope") == 2
        assert "No variant 'nope'; there are: " in sentence(capsys.readouterr().err)


@pytest.mark.parametrize("command", [name for name in STAGES if name != "fetch"])
def test_a_stage_before_its_inputs_is_one_sentence(
    command: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, command, "-d", "mnist", *(["-v", "dcgan"] if command in WITH_VARIANT else [])) == 1
    assert re.search(r"mnist.*run |run .*mnist", sentence(capsys.readouterr().err))


def test_wrong_params_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "fetch", "-d", "mnist") == 2
    assert "params.yaml does not exist here" in sentence(capsys.readouterr().err)
    for words in (["train", "-d", "mnist"], ["nonsense"], ["generate", "-o", "x", "-l", "1", "-s", "-1"]):
        assert call(monkeypatch, *words) == 2
        assert "Traceback" not in capsys.readouterr().err
    assert call(monkeypatch, "generate", "-o", "out", "-l", "1", "-m", "nowhere.onnx") == 1
    assert "There is no model at nowhere.onnx" in sentence(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_failed_work_and_bugs_end_differently(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: BaseException) -> None:
        monkeypatch.setattr("lekhani.stages.fetch.fetch", lambda *_: (_ for _ in ()).throw(error))

    fail(LekhaniError("It did not work."))
    assert call(monkeypatch, "fetch", "-d", "mnist") == 1
    assert sentence(capsys.readouterr().err) == "lekhani: It did not work."
    fail(KeyboardInterrupt())
    assert call(monkeypatch, "fetch", "-d", "mnist") == 130
    fail(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        call(monkeypatch, "fetch", "-d", "mnist")


def test_the_stage_gets_the_options_and_its_duration_is_recorded(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[object, ...]] = []
    monkeypatch.setattr("lekhani.stages.train.train", lambda choices, *rest: given.append((choices.profile, *rest)))
    monkeypatch.setattr("lekhani.stages.fetch.fetch", lambda *_: None)
    assert call(monkeypatch, "train", "--dataset", "mnist", "--variant", "flow_matching") == 0
    assert call(monkeypatch, "fetch", "--dataset", "mnist") == 0
    assert given == [("quick", "mnist", "flow_matching")]
    seconds = durations.recorded()
    assert set(seconds) == {("mnist", ""), ("mnist", "flow_matching")}
    assert 0 <= seconds["mnist", "flow_matching"]["train"] < 60
    assert set(seconds["mnist", ""]) == {"fetch"}
    shutil.rmtree("cache")
    Path("cache").touch()
    assert call(monkeypatch, "fetch", "--dataset", "mnist") == 0, "a stage is done even where that cannot be recorded"


def test_every_stage_of_the_graph_is_a_command() -> None:
    import yaml

    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    commands = {
        command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback
    }
    for stage, body in graph["stages"].items():
        program, name, *_ = body["cmd"].split()
        assert program == "lekhani"
        assert name == ("train" if stage == "distil" else stage.removesuffix("-student"))
        assert name in commands


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("promote", "--version", "3"), "--version is of one registered model"),
        (("promote", "--check", "--force", "--reason", "why not", "-d", "mnist"), "there is nothing to --force"),
        (("promote", "--force", "-d", "mnist"), "give a --reason"),
        (("rollback", "-d", "nothing"), "nothing"),
        (("lineage",), "or the digest of prepared data with --data"),
        (("lineage", "lekhani-mnist", "--data", "c6873945"), "or the digest of prepared data with --data"),
    ],
)
def test_wrong_use_of_the_registry(
    words: tuple[str, ...],
    expected: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, *words) == 2
    assert expected in sentence(capsys.readouterr().err)


def test_the_gate_refuses_with_exit_code_3(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def promote(*args: object) -> tuple[bool, str]:
        calls.append(args[1:])
        return args[1] == "mnist", f"the table of {args[1]}"

    monkeypatch.setattr("lekhani.stages.promote.promote", promote)
    assert call(monkeypatch, "promote", "--check") == 3
    assert calls == [("devanagari", None, True, False, None), ("mnist", None, True, False, None)], (
        "one refusal does not hide the other's verdict"
    )
    assert capsys.readouterr().out == "the table of devanagari\nthe table of mnist\n"
    assert call(monkeypatch, "promote", "-d", "mnist", "--version", "4", "--reason", "tried it") == 0
    assert calls[-1] == ("mnist", "4", False, False, "tried it")


@pytest.mark.parametrize("words", [("register",), ("promote",), ("rollback", "-d", "mnist")])
def test_without_mlflow_there_is_no_registry(
    words: tuple[str, ...], project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (project / "params.yaml").read_text(encoding="utf-8")
    assert "backend: mlflow" in text
    (project / "params.yaml").write_text(text.replace("backend: mlflow", "backend: none"), encoding="utf-8")
    assert call(monkeypatch, *words) == 2
    assert "there is no registry" in sentence(capsys.readouterr().err)
