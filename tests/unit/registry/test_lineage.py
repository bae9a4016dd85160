"""A registered version is traced to code, data and raw files; each link says what is verified and what is not."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import mlflow
import pytest
import yaml
from isolation import isolated_environment

from lekhani import files
from lekhani.data.spec import MNIST, DatasetInfo
from lekhani.errors import LekhaniError, UsageError
from lekhani.registry import lineage, models
from lekhani.tracking import logged, runs
from lekhani.tracking.revision import revision, training_tags
from lekhani.tracking.store import connect

EXPERIMENT = "test-lineage"


@dataclass(frozen=True)
class Made:
    """A version and what the test knows of it."""

    name: str
    number: str
    run_id: str
    tags: dict[str, str]
    info: DatasetInfo

    def artifact(self, path: str) -> Path:
        """Where the store keeps a file of the run."""
        return Path(url2pathname(urlparse(connect().get_run(self.run_id).info.artifact_uri).path)) / path


def git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def digest_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def md5_of(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def project(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder we are in: a repository of git and DVC with one commit and without settings from outside."""
    for key in [key for key in os.environ if key.startswith(("DVC_", "GIT_"))]:
        monkeypatch.delenv(key)
    (tmp_path / "settings").mkdir()
    for key, value in isolated_environment(tmp_path / "settings").items():
        monkeypatch.setenv(key, value)
    path = tmp_path / "project"
    (path / ".dvc").mkdir(parents=True)
    (path / ".dvc" / "config").write_text("")
    monkeypatch.chdir(path)
    (path / ".gitignore").write_text(".dvc/\ndata/\nmodels/\n")
    (path / "params.yaml").write_text("seed: 7\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "start")
    return path


@pytest.fixture
def make(project: Path, toy_generator: Callable[..., Path]) -> Callable[..., Made]:
    """Leaves what `dvc repro` and `git commit` leave, and registers a version whose run, tags and artifacts say so."""

    def one(
        dataset: str,
        *,
        about: str = "",
        dirty: bool = False,
        newer_lock: bool = False,
        tags: bool = True,
        artifacts: bool = True,
        log_model: Callable[[str, Path], str] | None = None,
    ) -> Made:
        path = project / "models" / dataset / "turbo" / "generator.onnx"
        model = toy_generator(path, metadata={"lineage": about or dataset})
        source = {"name": "kaggle", "slug": "who/what", "version": 3, "sha256": digest_of("raw"), "origin": "hands"}
        source["licence"] = "CC BY 4.0"
        info = DatasetInfo(dataset, "Latin", 4, MNIST[:3], {"train": 1200, "test": 300}, source, digest_of(dataset))
        described = project / "data" / "prepared" / dataset / "dataset.json"
        files.write_json(described, info.to_dict())
        outs = {
            f"data/raw/{dataset}": f"{'a' * 32}.dir",
            f"data/prepared/{dataset}": cache_listing(project, described),
            f"models/{dataset}/turbo/generator.onnx": md5_of(model.read_bytes()),
        }
        stages = {f"stage{n}": {"cmd": "c", "outs": [{"path": path, "md5": outs[path]}]} for n, path in enumerate(outs)}
        lock = project / "dvc.lock"
        lock.write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
        git("add", "-A")
        git("commit", "-qm", f"Trained {dataset} {about}")
        if newer_lock or dirty:
            lock.write_text(f"{lock.read_text()}# not committed\n")
        if dirty:
            (project / "params.yaml").write_text("seed: 8\n")
        made_at, client = revision(), connect()
        run_id = runs.create_run(EXPERIMENT, f"{dataset}/turbo", "test", training_tags() if tags else {})
        client.log_artifact(run_id, str(model), "generator")
        client.log_text(run_id, "", "generator/MLmodel")  # what MLflow knows a model by
        uri = log_model(run_id, model) if log_model else f"runs:/{run_id}/generator"
        if artifacts:
            runs.log_files(run_id, {"lineage": [lock, described]}, "registered")
        client.set_terminated(run_id)
        all_tags = {"variant": "turbo", "model_sha256": files.sha256(model), "data_digest": info.digest, **made_at}
        all_tags |= {f"source.{key}": str(source[key]) for key in ("name", "version", "sha256")}
        version = models.register(dataset, uri, all_tags if tags else {})
        return Made(version.name, str(version.version), run_id, all_tags, info)

    return one


def cache_listing(project: Path, described: Path) -> str:
    """Put a folder of dataset.json and one more file into DVC's cache, and give its hash."""
    entries = [{"md5": md5_of(described.read_bytes()), "relpath": "dataset.json"}]
    listing = json.dumps([*entries, {"md5": "0" * 32, "relpath": "images.npy"}]).encode()
    md5 = md5_of(listing)
    path = project / ".dvc" / "cache" / "files" / "md5" / md5[:2] / f"{md5[2:]}.dir"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(listing)
    return f"{md5}.dir"


def states(found: lineage.Lineage) -> dict[str, list[str]]:
    """By link the states of its notes."""
    return {name: [note.state for note in link.notes] for name, link in found.links.items()}


def sentences(found: lineage.Lineage, name: str) -> str:
    return " ".join(note.sentence for note in found.links[name].notes)


def test_every_link_is_verified(make: Callable[..., Made], project: Path) -> None:
    made = make("whole", log_model=logged.log_model)  # as `lekhani register` logs it
    found = lineage.trace("lekhani-whole")
    assert (found.model, found.version) == ("lekhani-whole", "1")
    lines = found.text().split("\n")
    assert lines[0] == "lekhani-whole version 1"
    assert [line[3:] for line in lines if line.startswith(("├─", "└─"))] == [
        *("model version", "MLflow run", "git commit", "dvc.lock", "DVC's hashes (MD5)", "prepared data", "raw files")
    ]
    assert {"│    dirty       no", "│    counts      1,200 train, 300 test", "     version     3"} <= set(lines)
    assert {state for of_link in states(found).values() for state in of_link} == {"verified"}, found.text()
    counts = {name: len(of_link) for name, of_link in states(found).items()}
    assert counts == {"version": 1, "run": 1, "commit": 1, "lock": 2, "hashes": 1, "data": 2, "source": 1}

    links = json.loads(json.dumps(found.as_dict()))["links"]
    sayings = {name: link.pop("notes") for name, link in links.items()}
    assert sayings["version"] == [
        {"state": "verified", "sentence": "The file that the registry holds has this SHA-256."}
    ]
    stages = yaml.safe_load((project / "dvc.lock").read_text())["stages"].values()
    raw, prepared, generator = (stage["outs"][0]["md5"] for stage in stages)
    commit, committed, subject = git("show", "-s", "--format=%H%n%cI%n%s").split("\n")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", links["version"]["created"])
    assert (links["version"]["number"], links["version"]["aliases"]) == ("1", ["challenger"])
    assert (links["run"]["id"], links["run"]["status"]) == (made.run_id, "FINISHED")
    assert links["commit"] == {"id": commit, "dirty": False, "subject": subject, "date": committed}
    assert links["lock"] == {"sha256": files.sha256(project / "dvc.lock")}
    assert [links["hashes"][one] for one in ("raw", "prepared", "generator")] == [raw, prepared, generator]
    assert (links["data"]["digest"], links["data"]["origin"]) == (made.info.digest, "hands")
    assert links["source"] == {"name": "kaggle", "version": "3", "sha256": digest_of("raw"), "slug": "who/what"}


def test_a_dirty_tree(make: Callable[..., Made]) -> None:
    made = make("dirty", dirty=True)
    found = lineage.trace("lekhani-dirty")
    assert found.links["commit"].facts["dirty"] is True
    assert "what differed from this commit is not recorded" in sentences(found, "commit")
    assert states(found)["lock"] == ["verified", "missing"]
    assert states(found)["hashes"] == ["verified"], "the artifact is the lock that was in use"
    connect().set_model_version_tag(made.name, made.number, "variant", "tur\nbo\x1b")
    found = lineage.trace("lekhani-dirty")
    assert r"│    variant     tur\nbo\x1b" in found.text().split("\n"), "what steers a terminal is escaped"
    made.artifact("lineage/dvc.lock").unlink()
    found = lineage.trace("lekhani-dirty")
    assert found.links["hashes"].facts == {}, "another dvc.lock than the recorded one proves nothing"
    assert states(found)["data"] == ["verified"], "so DVC's cache is not read"


def test_the_lock_that_the_pipeline_wrote_makes_no_tree_dirty(make: Callable[..., Made]) -> None:
    make("written", newer_lock=True)
    found = lineage.trace("lekhani-written")
    assert found.links["commit"].facts["dirty"] is False
    assert states(found)["lock"] == ["verified", "missing"]
    assert "is another one: the pipeline wrote this one after it" in sentences(found, "lock")
    assert states(found)["hashes"] == ["verified"]


def test_a_clone_that_lacks_the_commit(
    make: Callable[..., Made], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("elsewhere")
    other = tmp_path / "other"
    shutil.copytree(project, other, ignore=shutil.ignore_patterns(".git"))
    monkeypatch.chdir(other)
    assert "This folder is in no git repository" in sentences(lineage.trace("lekhani-elsewhere"), "commit")
    git("init", "-q")
    found = lineage.trace("lekhani-elsewhere")
    assert sentences(found, "commit") == "This clone lacks the commit; `git fetch` brings it, if it was pushed."
    assert states(found)["lock"] == ["verified", "missing"]
    assert states(found)["hashes"] == ["verified"]
    git("fetch", "-q", str(project))
    assert states(lineage.trace("lekhani-elsewhere"))["lock"] == ["verified", "verified"]


@pytest.mark.parametrize(("tag", "said"), [("--output=planted", "This is no commit id."), ("none", "outside of git.")])
def test_what_is_no_commit_is_not_given_to_git(make: Callable[..., Made], project: Path, tag: str, said: str) -> None:
    made = make("odd")
    connect().set_model_version_tag(made.name, made.number, "git.commit", tag)
    found = lineage.trace(f"{made.name}:{made.number}")
    assert said in sentences(found, "commit")
    assert "date" not in found.links["commit"].facts
    assert states(found)["lock"] == ["verified", "missing"]
    assert not (project / "planted").exists()


def test_artifacts_that_are_gone(make: Callable[..., Made]) -> None:
    made = make("gone")
    for name in ("lineage/dvc.lock", "lineage/dataset.json", "generator/generator.onnx"):
        made.artifact(name).unlink()
    found = lineage.trace("lekhani-gone")
    assert "The registered file is missing: there are 0 generators." in sentences(found, "version")
    assert found.links["version"].facts["sha256"] == made.tags["model_sha256"], "what is recorded stays known"
    assert states(found)["lock"] == ["missing", "verified"]
    assert "The run's artifact lineage/dvc.lock cannot be fetched: " in sentences(found, "lock")
    assert found.links["hashes"].facts["read_from"] == "The commit's dvc.lock"
    assert states(found)["hashes"] == ["missing"], "there is no file to compare the hash with"
    assert found.links["data"].facts == {"digest": made.info.digest}
    assert found.links["source"].facts == {"name": "kaggle", "version": "3", "sha256": digest_of("raw")}
    assert states(found)["source"] == ["missing"]


def test_artifacts_that_were_tampered_with(make: Callable[..., Made]) -> None:
    made = make("tampered")
    lock = made.artifact("lineage/dvc.lock")
    lock.write_text(lock.read_text().replace("a" * 32, "b" * 32))
    found = lineage.trace("lekhani-tampered")
    assert states(found)["lock"] == ["differs", "verified"]
    assert f"lineage/dvc.lock has the SHA-256 {files.sha256(lock)}: one of the two was changed" in sentences(
        found, "lock"
    )
    assert found.links["hashes"].facts["raw"] == f"{'a' * 32}.dir", "read from the commit instead"

    generator = made.artifact("generator/generator.onnx")
    generator.write_bytes(generator.read_bytes() + b" ")
    found = lineage.trace("lekhani-tampered")
    assert states(found)["version"] == ["differs"]
    assert states(found)["hashes"] == ["differs"]

    described = made.artifact("lineage/dataset.json")
    whole = described.read_text()
    described.write_text(whole.replace("hands", "feet"))
    found = lineage.trace("lekhani-tampered")
    assert states(found)["data"] == ["verified", "differs"], "it names the digest, but is not what DVC has"
    described.write_text(whole.replace('"version": 3', '"version": 4'))
    assert "lineage/dataset.json says otherwise: version 4." in sentences(lineage.trace("lekhani-tampered"), "source")
    for broken, said in ((whole.replace(made.info.digest, digest_of("others")), "of other data"), ("[]", "be read")):
        described.write_text(broken)
        assert said in sentences(lineage.trace("lekhani-tampered"), "data")


def test_a_dvc_cache_that_lacks_or_spoiled_the_data(make: Callable[..., Made], project: Path) -> None:
    make("cache")
    (cached,) = project.rglob("*.dir")
    cached.write_text(cached.read_text().replace("0" * 32, "1" * 32))
    found = lineage.trace("lekhani-cache")
    assert states(found)["data"] == ["verified", "differs"]
    assert "holds something else under" in sentences(found, "data")
    cached.unlink()
    assert states(lineage.trace("lekhani-cache"))["data"] == ["verified", "missing"]


def test_an_old_version_with_no_tags(make: Callable[..., Made]) -> None:
    make("old", tags=False, artifacts=False)
    found = lineage.trace("lekhani-old")
    assert {
        state for name, of_link in states(found).items() for state in of_link if name not in ("run", "version")
    } == {"missing"}
    assert states(found)["version"] == [], "there is nothing to compare the file with"
    assert found.text().count("not recorded") == 9


def test_a_version_whose_run_knows_more(make: Callable[..., Made]) -> None:
    """As when it was registered on MLflow's own pages."""
    client, made = connect(), make("older", artifacts=False)
    for key in made.tags:
        if key.startswith(("git", "dvc", "source")):
            client.delete_model_version_tag(made.name, made.number, key)
    client.delete_model_version_tag(made.name, made.number, "data_digest")
    client.set_tag(made.run_id, "dataset.digest", made.info.digest)
    found = lineage.trace("lekhani-older")
    expected = "no tags for git.commit, dvc.lock_sha256, data_digest; what follows is from its run"
    assert expected in sentences(found, "version")
    assert found.links["commit"].facts["id"] == git("rev-parse", "HEAD")
    assert states(found)["hashes"] == ["verified"]
    assert [one["model"] for one in lineage.trained_on(made.info.digest[:8]).versions] == ["lekhani-older"]


def test_a_dvc_lock_without_what_is_looked_for(make: Callable[..., Made]) -> None:
    made = make("bare")
    client, lock = connect(), made.artifact("lineage/dvc.lock")
    for content, sentence in (
        ("schema: '2.0'\nstages: {}\n", "dvc.lock has no models/bare/turbo/generator.onnx."),
        ("stages: [", "That is no dvc.lock that can be read."),
    ):
        lock.write_text(content)
        client.set_model_version_tag(made.name, made.number, "dvc.lock_sha256", files.sha256(lock))
        assert sentence in sentences(lineage.trace("lekhani-bare"), "hashes")
    client.set_tag(made.run_id, "model_sha256", "9" * 64)
    assert states(lineage.trace("lekhani-bare"))["run"] == ["verified", "differs"], "what the run scored last"
    client.delete_run(made.run_id)
    assert "The run is deleted; until it is purged" in sentences(lineage.trace("lekhani-bare"), "run")


def test_which_version_is_meant(make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch) -> None:
    client, name = connect(), "lekhani-many"
    for n in range(3):
        make("many", about=str(n))
    client.set_registered_model_alias(name, "champion", "1")
    assert lineage.trace(name).version == "1", "the champion goes first"
    assert lineage.trace(f"{name}@challenger").version == "3"
    assert lineage.trace(f"{name}:2").version == "2"
    known = "there are: @challenger, @champion, :1, :2, :3"
    for which in ("@best", ":7"):
        with pytest.raises(UsageError, match=rf"^lekhani-many has no {which}; {known}\.$"):
            lineage.trace(f"{name}{which}")
    with pytest.raises(UsageError, match=r"^No model 'lekhani-man' in MLflow at sqlite.*; there are: .*lekhani-many"):
        lineage.trace("lekhani-man")
    for wrong in ("", "lekhani-many@", "lekhani-many:x", "lekhani-many@a:1"):
        with pytest.raises(UsageError, match="is no model; write lekhani-D, lekhani-D@ALIAS or lekhani-D:VERSION"):
            lineage.trace(wrong)
    client.delete_registered_model_alias(name, "champion")
    assert lineage.trace(name).version == "3", "without a champion the challenger"
    monkeypatch.setattr(mlflow, "search_registered_models", lambda **_: [])
    with pytest.raises(UsageError, match=r"^Nothing is registered in MLflow at sqlite.*; run `lekhani register`\.$"):
        lineage.trace(name)


def test_versions_by_the_data_that_they_were_trained_on(make: Callable[..., Made]) -> None:
    client, wanted = connect(), digest_of("shared")
    made = [make("first"), make("second"), make("second", about="again", dirty=True), make("first", about="other data")]
    for one, digest in zip(made, (wanted, wanted, wanted[:9] + digest_of("like it")[9:], digest_of("no")), strict=True):
        client.set_model_version_tag(one.name, one.number, "data_digest", digest)
    client.set_model_version_tag("lekhani-second", "1", "dvc.experiment", "brave-name")
    client.set_registered_model_alias("lekhani-first", "champion", "1")
    client.create_registered_model("another-model")
    client.create_model_version("another-model", f"runs:/{made[0].run_id}/generator", tags={"data_digest": wanted})

    found = lineage.trained_on(wanted[:9].upper())
    versions = json.loads(json.dumps(found.as_dict()))["versions"]
    assert [(one["model"], one["version"], one["git_dirty"]) for one in versions] == [
        ("lekhani-first", "1", False),
        ("lekhani-second", "1", False),
        ("lekhani-second", "2", True),
    ]
    assert [one["model"] for one in lineage.trained_on(wanted).versions] == ["lekhani-first", "lekhani-second"]
    commit, lock = made[0].tags["git.commit"], made[0].tags["dvc.lock_sha256"]
    title, *lines = found.text().split("\n")
    assert title == f"Trained on data {wanted[:9]}:"
    named = f"  lekhani-first version 1 (champion), variant turbo, created {versions[0]['created']}"
    assert lines[0] == f"{named}, data {wanted[:12]}, commit {commit[:12]}, dvc.lock {lock[:12]}"
    assert lines[1].endswith(", experiment brave-name")
    assert f"commit {made[2].tags['git.commit'][:12]} (dirty)" in lines[2]


def test_data_that_nothing_was_trained_on(make: Callable[..., Made]) -> None:
    make("nowhere", tags=False)
    told = r"^None of the \d+ versions in MLflow at sqlite.* was trained on data 01234567, and \d+ of them do not"
    with pytest.raises(LekhaniError, match=told):
        lineage.trained_on("01234567")
    for wrong in ("0123456", "g1234567", "0" * 65):
        with pytest.raises(UsageError, match="is no digest; give 8 to 64 characters"):
            lineage.trained_on(wrong)


def test_an_mlflow_that_does_not_answer_is_a_sentence(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for call in (lambda: lineage.trace("lekhani-any"), lambda: lineage.trained_on("0" * 8)):
        with pytest.raises(LekhaniError, match=r"^Could not read the registry of MLflow at .*; see MLFLOW_TRACKING"):
            call()
