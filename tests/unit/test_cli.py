"""The command line answers fast, and mistakes are one sentence and an exit code."""

import errno
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from lekhani import cli
from lekhani.errors import LekhaniError
from lekhani.stages import durations

ROOT = Path(__file__).parents[2]
STAGES = ("fetch", "prepare", "validate", "judge", "train", "export", "baseline", "usefulness", "evaluate")
WITH_VARIANT = ("train", "export", "usefulness", "evaluate")
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the command line in this process, in a folder with nothing but params.yaml: exit code, stdout, stderr."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lekhani", *words])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run


def refusal(done: tuple[int, str, str], code: int = 2) -> str:
    """The one sentence with which a command ended."""
    assert done[:2] == (code, "")
    (line,) = done[2].strip().splitlines()
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


def test_params_and_their_schema_are_printed(call: Call) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("other.yaml").write_text(re.sub(r"(?m)^profile: \w+", "profile: full", text), encoding="utf-8")
    quick, full = (json.loads(call(*words)[1]) for words in (["params"], ["--params", "other.yaml", "params"]))
    assert (quick["profile"], full["profile"]) == ("quick", "full")
    assert quick["judge"]["width"] < full["judge"]["width"], "the profile is applied"
    Path("params.yaml").unlink()
    schema = json.loads(call("params", "--schema")[1])
    assert schema["properties"]["seed"]["type"] == "integer"
    assert "description" in schema["$defs"]["Judge"]["properties"]["width"]


@pytest.mark.parametrize("command", ["register", *STAGES])
def test_a_stage_of_an_unknown_dataset_or_variant_or_before_its_inputs(call: Call, command: str) -> None:
    variant = ("-v", "dcgan") if command in WITH_VARIANT else ()
    assert re.search("No dataset 'nope'.*devanagari, mnist", refusal(call(command, "-d", "nope", *variant)))
    if variant:
        assert "No variant 'nope'; there are: " in refusal(call(command, "-d", "mnist", "-v", "nope"))
    if command not in ("register", "fetch"):
        assert re.search(r"mnist.*run |run .*mnist", refusal(call(command, "-d", "mnist", *variant), code=1))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--params", "nowhere.yaml", "fetch", "-d", "mnist"), "nowhere.yaml does not exist"),
        (("promote", "--version", "3"), "--version is of one registered model"),
        (("promote", "--check", "--force", "--reason", "why not", "-d", "mnist"), "there is nothing to --force"),
        (("promote", "--force", "-d", "mnist"), "give a --reason"),
        (("rollback", "-d", "nothing"), "nothing"),
        (("lineage",), "or the digest of prepared data with --data"),
        (("lineage", "lekhani-mnist", "--data", "c6873945"), "or the digest of prepared data with --data"),
    ],
)
def test_wrong_use(call: Call, words: tuple[str, ...], expected: str) -> None:
    assert expected in refusal(call(*words))


def test_options_and_a_model_that_are_not_there(call: Call) -> None:
    words = ("generate", "-o", "x", "-l", "1", "-m", "nowhere.onnx")
    assert "There is no model at nowhere.onnx" in refusal(call(*words), code=1)
    for words in (["train", "-d", "mnist"], ["nonsense"], ["generate", "-o", "x", "-l", "1", "-s", "-1"]):
        code, _, said = call(*words)
        assert code == 2
        assert "Traceback" not in said
    assert not Path("x").exists()


def test_failed_work_and_bugs_end_differently(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: BaseException) -> None:
        monkeypatch.setattr("lekhani.stages.fetch.fetch", lambda *_: (_ for _ in ()).throw(error))

    fail(LekhaniError("It did not work."))
    assert refusal(call("fetch", "-d", "mnist"), code=1) == "lekhani: It did not work."
    fail(OSError(errno.ENOSPC, "No space left on device", "x.npz"))
    assert "No space left on device: x.npz; check the path, the disk" in refusal(call("fetch", "-d", "mnist"), code=1)
    fail(requests.ConnectionError("nobody\nis there"))
    assert "requests could not do its part: nobody; see to that" in refusal(call("fetch", "-d", "mnist"), code=1)
    fail(MemoryError())
    assert "not enough memory" in refusal(call("fetch", "-d", "mnist"), code=1)
    fail(KeyboardInterrupt())
    assert call("fetch", "-d", "mnist")[0] == 130
    fail(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        call("fetch", "-d", "mnist")


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("lekhani params > /dev/full", "No space left on device; check the path"),
        ("mkdir gone && cd gone && rmdir ../gone && lekhani generate --each 1 --out x", "No such file or directory"),
        (f"lekhani generate --each 1 --out {'x' * 300}", "File name too long"),
    ],
)
def test_a_full_disk_a_folder_that_is_gone_and_a_long_name_are_sentences(
    tmp_path: Path, script: str, sentence: str
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    script = script.replace("lekhani", f"{sys.executable} -m lekhani")
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("lekhani: ")
    assert sentence in last
    assert "Traceback" not in done.stderr


def test_the_stage_gets_the_options_and_its_duration_is_recorded(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[object, ...]] = []
    monkeypatch.setattr("lekhani.stages.train.train", lambda choices, *rest: given.append((choices.profile, *rest)))
    monkeypatch.setattr("lekhani.stages.fetch.fetch", lambda *_: None)
    assert call("train", "--dataset", "mnist", "--variant", "flow_matching")[0] == 0
    assert call("fetch", "--dataset", "mnist")[0] == 0
    assert given == [("quick", "mnist", "flow_matching")]
    seconds = durations.recorded()
    assert set(seconds) == {("mnist", ""), ("mnist", "flow_matching")}
    assert 0 <= seconds["mnist", "flow_matching"]["train"] < 60
    assert set(seconds["mnist", ""]) == {"fetch"}
    shutil.rmtree("cache")
    Path("cache").touch()
    assert call("fetch", "--dataset", "mnist")[0] == 0, "a stage is done even where that cannot be recorded"


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


def test_the_gate_refuses_with_exit_code_3(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from lekhani.stages import promote as promote_stage

    calls: list[tuple[object, ...]] = []
    verdicts: dict[str, bool | None] = {"devanagari": False, "mnist": None}

    def promote(_: object, *args: object) -> promote_stage.Outcome:
        calls.append(args)
        return promote_stage.Outcome(verdicts[str(args[0])], f"the table of {args[0]}")

    monkeypatch.setattr(promote_stage, "promote", promote)
    monkeypatch.setattr(promote_stage, "check", promote)
    assert call("promote", "--check")[:2] == (3, "the table of devanagari\nthe table of mnist\n")
    both = [("devanagari", None, False, None), ("mnist", None, False, None)]
    assert calls == both, "one refusal does not hide the other's verdict"
    verdicts["devanagari"] = True
    assert call("promote", "--check", "--workspace")[0] == 0, "no candidate is no refusal"
    assert call("promote", "-d", "mnist", "--version", "4", "--reason", "tried it")[0] == 0
    assert calls[-1] == ("mnist", "4", False, "tried it")


@pytest.mark.parametrize("words", ["--workspace", "--report build", "--check --variant dcgan", "--check --force"])
def test_options_of_promote_that_do_not_go_together(call: Call, words: str) -> None:
    assert re.search("belong|leave one", refusal(call("promote", *words.split())))


@pytest.mark.parametrize("words", [("register",), ("promote",), ("rollback", "-d", "mnist")])
def test_without_mlflow_there_is_no_registry(call: Call, words: tuple[str, ...]) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    assert "backend: mlflow" in text
    Path("params.yaml").write_text(text.replace("backend: mlflow", "backend: none"), encoding="utf-8")
    assert "there is no registry" in refusal(call(*words))
