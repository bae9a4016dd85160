"""Where a registered version comes from, link by link back to the raw files; and which versions were trained on given data."""

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import mlflow
import yaml
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.entities import PagedList

from lekhani.data.names import one_line
from lekhani.data.spec import DatasetInfo
from lekhani.errors import LekhaniError, UsageError, first_line
from lekhani.registry.models import model_name
from lekhani.tracking.store import MISSING, connect

_TITLES = {
    "version": "model version",
    "run": "MLflow run",
    "commit": "git commit",
    "lock": "dvc.lock",
    "hashes": "DVC's hashes (MD5)",
    "data": "prepared data",
    "source": "raw files",
}
_MODEL = re.compile(r"(?P<name>[^@:]+)(?:@(?P<alias>[^@:]+)|:(?P<number>\d+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_OURS = f"name LIKE '{model_name('%')}'"


@dataclass(frozen=True)
class Note:
    """What was held against something else here (`verified` or `differs`), or could not be, and why (`missing`); one sentence."""

    state: Literal["verified", "differs", "missing"]
    sentence: str


@dataclass(frozen=True)
class Link:
    """One link of the chain: what is known of it, None where it was not recorded, and what was seen of that here."""

    name: str
    facts: dict[str, Any]
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Lineage:
    """A registered version and its links, from the version back to the raw files."""

    model: str
    version: str
    links: tuple[Link, ...]


@dataclass(frozen=True)
class Trained:
    """A version that was trained on data that were asked for; None is what was not recorded."""

    model: str
    version: str
    aliases: tuple[str, ...]
    variant: str | None
    created: str
    data_digest: str
    git_commit: str | None
    git_dirty: bool | None
    dvc_lock_sha256: str | None
    dvc_experiment: str | None


@dataclass(frozen=True)
class TrainedOn:
    """All versions that were trained on prepared data whose digest begins with `digest`."""

    digest: str
    versions: tuple[Trained, ...]


@dataclass(frozen=True)
class _Version:
    entity: ModelVersion
    aliases: tuple[str, ...]

    @property
    def name(self) -> str:
        return str(self.entity.name)

    @property
    def number(self) -> str:
        return str(self.entity.version)

    @property
    def created(self) -> str:
        return _time(self.entity.creation_timestamp)


def trace(model: str) -> Lineage:
    """Lead back from `lekhani-D` (its champion, else its challenger), `lekhani-D@ALIAS` or `lekhani-D:VERSION`.

    Reads MLflow, and of this folder git and DVC's cache; changes nothing. Raises UsageError for a name, alias or version that is not
    there, and LekhaniError when MLflow does not answer. Whatever else is missing is said in the link that misses it.
    """
    with _mlflow() as client, TemporaryDirectory() as folder:
        version = _chosen(model, _versions(client))
        run = _run(client, version)
        generator = _generator(version, Path(folder) / "model")
        lock, described = (_artifact(client, run, name, Path(folder)) for name in ("dvc.lock", "dataset.json"))
    tags, dataset = _tags(version, run), version.name.removeprefix(model_name(""))
    commit = _commit(tags, version)
    lock_link, locked, where = _lock(tags, version, commit, lock)
    hashes = _hashes(dataset, tags.get("variant"), locked, where, generator)
    data, info = _data(tags, described, hashes.facts.get("prepared"))
    links = (
        _model(version, tags, generator),
        _run_link(version, run),
        commit,
        lock_link,
        hashes,
        data,
        _source(tags, info),
    )
    return Lineage(version.name, version.number, links)


def trained_on(digest: str) -> TrainedOn:
    """All versions of all models `lekhani-*` that were trained on prepared data whose digest begins with `digest`, 8 or more of its letters.

    Raises UsageError when that is no digest, and LekhaniError when there is no such version or MLflow does not answer.
    """
    wanted = digest.lower()
    if not re.fullmatch(r"[0-9a-f]{8,64}", wanted):
        raise UsageError(
            f"{one_line(digest)!r} is no digest; give 8 to 64 characters of 0-9 and a-f, as dataset.json has them under `digest`."
        )
    found, silent = [], 0
    with _mlflow() as client:
        everything = _versions(client)
        for version in everything:
            if not version.entity.tags.get("data_digest", wanted).startswith(wanted):
                continue
            tags = _tags(
                version, _run(client, version)
            )  # where a version does not say what it was trained on, its run may
            silent += "data_digest" not in tags
            if tags.get("data_digest", "").startswith(wanted):
                found.append(_trained(version, tags))
    if not found:
        unknown = f", and {silent} of them do not record their data" if silent else ""
        raise LekhaniError(
            f"None of the {len(everything)} versions in MLflow at {mlflow.get_tracking_uri()} was trained on data {wanted}{unknown}; "
            "`lekhani lineage MODEL` tells the digest of a version's data."
        )
    return TrainedOn(wanted, tuple(sorted(found, key=lambda one: (one.model, int(one.version)))))


def as_dict(found: Lineage | TrainedOn) -> dict[str, Any]:
    """The same, ready for JSON.

    Of a Lineage: `model`, `version`, and `links`, by name and in order, each with its facts and with `notes`, `[{state, sentence}]` where
    state is verified, differs or missing. A fact that was not recorded is null, and one that could not be seen is left out:

    - version: number, aliases, variant, created (ISO 8601, UTC), sha256 (of generator.onnx)
    - run: id; name, by, started, status
    - commit: id, dirty (whether tracked files had changes then); experiment (DVC's); subject, date
    - lock: sha256
    - hashes: read_from; raw, prepared, generator (DVC's MD5 of data/raw/D, data/prepared/D, models/D/V/generator.onnx)
    - data: digest; classes, counts (by split), origin, licence
    - source: name, version, sha256 (of the raw files, as source.json has it); slug or id

    Of a TrainedOn: `digest` and `versions`, each with the fields of Trained.
    """
    if isinstance(found, TrainedOn):
        return asdict(found)
    links = {link.name: {**link.facts, "notes": [asdict(note) for note in link.notes]} for link in found.links}
    return {"model": found.model, "version": found.version, "links": links}


def text(found: Lineage | TrainedOn) -> str:
    """The same for a terminal or a pipe: a tree, or a line for each version, without colour."""
    if isinstance(found, TrainedOn):
        return "\n".join([f"Trained on data {found.digest}:", *map(_line, found.versions)])
    lines = [f"{found.model} version {found.version}"]
    for link in found.links:
        joint, stem = ("└─", "  ") if link is found.links[-1] else ("├─", "│ ")
        lines.append(f"{joint} {_TITLES[link.name]}")
        rows = [
            *((key.replace("_", " "), _shown(value)) for key, value in link.facts.items()),
            *((n.state, n.sentence) for n in link.notes),
        ]
        lines += [f"{stem}   {key:<10}  {one_line(value)}" for key, value in rows]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{count:,} {key}" for key, count in value.items())
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value)


def _line(one: Trained) -> str:
    facts = [
        f"{one.model} version {one.version}" + (f" ({', '.join(one.aliases)})" if one.aliases else ""),
        f"variant {_shown(one.variant)}",
        f"created {one.created}",
        f"data {one.data_digest[:12]}",
        f"commit {_shown(one.git_commit and one.git_commit[:12])}" + (" (dirty)" if one.git_dirty else ""),
        f"dvc.lock {_shown(one.dvc_lock_sha256 and one.dvc_lock_sha256[:12])}",
        *([f"experiment {one.dvc_experiment}"] if one.dvc_experiment else []),
    ]
    return one_line("  " + ", ".join(facts))


# ---- MLflow


@contextmanager
def _mlflow() -> Iterator[mlflow.MlflowClient]:
    try:
        yield connect()
    except (mlflow.MlflowException, OSError) as error:  # those of requests are of the second kind
        raise LekhaniError(
            f"MLflow at {mlflow.get_tracking_uri()} does not answer: {first_line(error)}; see MLFLOW_TRACKING_URI."
        ) from error


def _versions(client: mlflow.MlflowClient) -> list[_Version]:
    """Every version of every model of ours, with its aliases, which a search of versions need not tell."""
    models = _all(lambda token: client.search_registered_models(_OURS, page_token=token))
    aliases = {model.name: model.aliases for model in models}
    return [
        _Version(
            entity,
            tuple(
                sorted(
                    alias
                    for alias, number in aliases.get(entity.name, {}).items()
                    if str(number) == str(entity.version)
                )
            ),
        )
        for entity in _all(lambda token: client.search_model_versions(_OURS, page_token=token))
    ]


def _all(search: Callable[[str | None], PagedList[Any]]) -> list[Any]:
    page = search(None)
    found = list(page)
    while page.token:
        page = search(page.token)
        found += page
    return found


def _chosen(model: str, everything: list[_Version]) -> _Version:
    asked = _MODEL.fullmatch(model)
    if asked is None:
        raise UsageError(f"{one_line(model)!r} is no model; write lekhani-D, lekhani-D@ALIAS or lekhani-D:VERSION.")
    name, at = asked["name"], mlflow.get_tracking_uri()
    versions = sorted((one for one in everything if one.name == name), key=lambda one: int(one.number))
    if not everything:
        raise UsageError(f"Nothing is registered in MLflow at {at}; run `lekhani register`.")
    if not versions:
        raise UsageError(
            f"No model {one_line(name)!r} in MLflow at {at}; there are: {', '.join(sorted({one.name for one in everything}))}."
        )
    numbers = {one.number: one for one in versions}
    aliases = {alias: one for one in versions for alias in one.aliases}
    if asked["number"]:
        if found := numbers.get(str(int(asked["number"]))):
            return found
        raise UsageError(f"{name} has no version {asked['number']}; there are: {', '.join(numbers)}.")
    for alias in [asked["alias"]] if asked["alias"] else ["champion", "challenger"]:
        if alias in aliases:
            return aliases[alias]
    what = f"no alias {one_line(asked['alias'])!r}" if asked["alias"] else "neither champion nor challenger"
    named = [f"@{alias} (version {one.number})" for alias, one in sorted(aliases.items())] or [
        f":{number}" for number in numbers
    ]
    raise UsageError(f"{name} has {what}; there are: {', '.join(named)}.")


def _run(client: mlflow.MlflowClient, version: _Version) -> Run | None:
    """The run that a version came from, deleted or not; None where there is none or MLflow does not know it."""
    if not version.entity.run_id:
        return None
    try:
        return client.get_run(version.entity.run_id)
    except mlflow.MlflowException as error:
        if error.error_code == MISSING:
            return None
        raise


def _tags(version: _Version, run: Run | None) -> dict[str, str]:
    """What a version's tags say and, where they are silent, those of its run."""
    told = dict(run.data.tags) if run else {}
    if "dataset.digest" in told:
        told["data_digest"] = told["dataset.digest"]
    return told | version.entity.tags


def _generator(version: _Version, folder: Path) -> bytes | Note:
    """The generator that the registry holds, or why it cannot be had."""
    try:
        mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.number}", dst_path=str(folder))
        files = list(folder.rglob("*.onnx"))
        if len(files) == 1:
            return files[0].read_bytes()
    except Exception as error:  # each kind of artifact store has errors of its own
        return Note("missing", f"The registered file cannot be fetched: {first_line(error)}")
    return Note("missing", f"The registered model holds {len(files)} ONNX files instead of one.")


def _artifact(client: mlflow.MlflowClient, run: Run | None, name: str, folder: Path) -> bytes | Note:
    """The run's artifact lineage/NAME, or why it cannot be had."""
    path = f"lineage/{name}"
    if run is None:
        return Note("missing", f"There is no run to read {path} from.")
    try:
        if path not in {file.path for file in client.list_artifacts(run.info.run_id, "lineage")}:
            return Note("missing", f"The run has no artifact {path}: it was never logged, or is gone.")
        return Path(client.download_artifacts(run.info.run_id, path, str(folder))).read_bytes()
    except Exception as error:  # as above
        return Note("missing", f"The run's artifact {path} cannot be fetched: {first_line(error)}")


# ---- the links


def _model(version: _Version, tags: Mapping[str, str], generator: bytes | Note) -> Link:
    recorded, notes = version.entity.tags.get("model_sha256"), []
    if isinstance(generator, Note):
        notes.append(generator)
    elif recorded:
        notes.append(_held("The file that the registry holds", generator, recorded, "it was changed or damaged"))
    facts = {
        "number": version.number,
        "aliases": version.aliases,
        "variant": tags.get("variant"),
        "created": version.created,
        "sha256": recorded,
    }
    return Link("version", facts, tuple(notes))


def _run_link(version: _Version, run: Run | None) -> Link:
    identity = version.entity.run_id or None
    if run is None:
        lost = (
            "MLflow does not know this run: it was purged, or made in another store."
            if identity
            else "The version names no run."
        )
        return Link("run", {"id": identity}, (Note("missing", lost),))
    info, notes = run.info, [Note("verified", "MLflow has this run.")]
    if info.lifecycle_stage == "deleted":
        notes = [
            Note(
                "missing",
                f"The run is deleted; until it is purged, `mlflow runs restore --run-id {identity}` brings it back.",
            )
        ]
    scored, registered = run.data.tags.get("model_sha256"), version.entity.tags.get("model_sha256")
    if scored and registered and scored == registered:
        notes.append(Note("verified", "The generator that the run scored last is the registered one."))
    elif scored and registered:
        notes.append(
            Note("differs", f"The generator that the run scored last is another one, with the SHA-256 {scored}.")
        )
    by, started = info.user_id or run.data.tags.get("mlflow.user"), _time(info.start_time)
    return Link(
        "run",
        {"id": identity, "name": info.run_name or None, "by": by, "started": started, "status": info.status},
        tuple(notes),
    )


def _commit(tags: Mapping[str, str], version: _Version) -> Link:
    identity = None if tags.get("git.commit") == "none" else tags.get("git.commit")
    dirty = {"true": True, "false": False}.get(tags.get("git.dirty", ""))
    facts, notes = {"id": identity, "dirty": dirty}, _by_run("git.commit", version, tags)
    if "dvc.experiment" in tags:
        facts["experiment"] = tags["dvc.experiment"]
    if identity is None:
        reason = (
            "It was made outside of git."
            if "git.commit" in tags
            else "Neither the version nor its run has a tag git.commit."
        )
        return Link("commit", facts, (Note("missing", reason),))
    if dirty:
        notes.append(Note("missing", "The tree was dirty: what differed from this commit is not recorded."))
    said = (
        _git("show", "-s", "--no-show-signature", "--format=%s%n%cI", f"{identity}^{{commit}}")
        if _COMMIT.fullmatch(identity)
        else None
    )
    if said is not None:
        facts["subject"], facts["date"] = said.decode(errors="replace").rstrip("\n").rsplit("\n", 1)
        notes.append(Note("verified", "This clone has the commit."))
    elif not _COMMIT.fullmatch(identity):
        notes.append(Note("missing", "This is no commit id."))
    elif _git("rev-parse", "--git-dir") is None:
        notes.append(
            Note(
                "missing",
                "This folder is in no git repository, or git is not installed; run this in a clone of the project.",
            )
        )
    else:
        notes.append(Note("missing", "This clone lacks the commit; `git fetch` brings it, if it was pushed."))
    return Link("commit", facts, tuple(notes))


def _lock(
    tags: Mapping[str, str], version: _Version, commit: Link, kept: bytes | Note
) -> tuple[Link, bytes | None, str]:
    """The link; a dvc.lock that has the recorded SHA-256, if there is one; and where that is from."""
    recorded, notes = tags.get("dvc.lock_sha256"), _by_run("dvc.lock_sha256", version, tags)
    if recorded is None:
        lost = Note(
            "missing",
            "Neither the version nor its run has a tag dvc.lock_sha256, so there is nothing to hold a dvc.lock against.",
        )
        return Link("lock", {"sha256": None}, (lost,)), None, ""
    known: list[tuple[bytes, str]] = []
    if isinstance(kept, Note):
        notes.append(kept)
    else:
        known.append((kept, "the run's artifact lineage/dvc.lock"))
        notes.append(
            _held(
                "The run's artifact lineage/dvc.lock",
                kept,
                recorded,
                "one of the two was changed or written anew since",
            )
        )
    committed = _git("show", f"{commit.facts['id']}:./dvc.lock") if "date" in commit.facts else None
    if committed is not None:
        why = {
            True: "the tree was dirty",
            False: "though the tree is recorded as clean",
            None: "whether the tree was dirty is not recorded",
        }
        known.append((committed, f"dvc.lock of commit {commit.facts['id']}"))
        notes.append(_held("The commit's dvc.lock", committed, recorded, why[commit.facts["dirty"]]))
    elif "date" in commit.facts:
        notes.append(Note("missing", "Git shows no dvc.lock of this folder in the commit."))
    else:
        reason = "The commit is not here" if commit.facts["id"] else "No commit is recorded"
        notes.append(Note("missing", f"{reason}, so its dvc.lock cannot be held against this."))
    content, where = next(((content, where) for content, where in known if _sha256(content) == recorded), (None, ""))
    return Link("lock", {"sha256": recorded}, tuple(notes)), content, where


def _hashes(dataset: str, variant: str | None, lock: bytes | None, where: str, generator: bytes | Note) -> Link:
    if lock is None:
        return Link(
            "hashes", {}, (Note("missing", "No dvc.lock with a recorded SHA-256 is at hand to read them from."),)
        )
    try:
        outs = [out for stage in yaml.safe_load(lock)["stages"].values() for out in stage.get("outs", [])]
        md5 = {str(out["path"]): str(out["md5"]) for out in outs}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return Link(
            "hashes", {"read_from": where}, (Note("missing", f"That is no dvc.lock that can be read: {where}."),)
        )
    paths = {"raw": f"data/raw/{dataset}", "prepared": f"data/prepared/{dataset}"}
    paths |= {"generator": f"models/{dataset}/{variant}/generator.onnx"} if variant else {}
    facts = {key: md5.get(path) for key, path in paths.items()}
    notes = [Note("missing", f"dvc.lock has no {paths[key]}.") for key, value in facts.items() if value is None]
    if variant is None:
        notes.append(Note("missing", "The variant is not recorded, so its generator cannot be looked up."))
    elif isinstance(generator, Note):
        notes.append(
            Note("missing", "That of the generator cannot be held against the registered file, which is not at hand.")
        )
    elif facts["generator"] == _md5(generator):
        notes.append(Note("verified", "The file that the registry holds has the MD5 of the generator."))
    elif facts["generator"]:
        notes.append(
            Note(
                "differs",
                f"The file that the registry holds has the MD5 {_md5(generator)}: the model is not the one in dvc.lock.",
            )
        )
    return Link("hashes", {"read_from": where, **facts}, tuple(notes))


def _data(tags: Mapping[str, str], described: bytes | Note, prepared: str | None) -> tuple[Link, DatasetInfo | None]:
    """The link, and dataset.json where it is at hand and of these data."""
    digest = tags.get("data_digest")
    if isinstance(described, Note):
        return Link("data", {"digest": digest}, (described,)), None
    try:
        info = DatasetInfo.from_dict(json.loads(described))
    except (ValueError, KeyError, TypeError):
        return Link(
            "data",
            {"digest": digest},
            (Note("differs", "The run's artifact lineage/dataset.json cannot be read as one."),),
        ), None
    if digest is None:
        lost = "Neither the version nor its run says on which data it was trained, so lineage/dataset.json may be of others."
        return Link("data", {"digest": None}, (Note("missing", lost),)), None
    if info.digest != digest:
        other = f"The run's artifact lineage/dataset.json is of other data, with the digest {info.digest}."
        return Link("data", {"digest": digest}, (Note("differs", other),)), None
    notes = [
        Note("verified", "The run's artifact lineage/dataset.json has this digest."),
        *([_listed(prepared, described)] if prepared else []),
    ]
    told = {"origin": info.source.get("origin"), "licence": info.source.get("licence")}
    return Link(
        "data", {"digest": digest, "classes": info.n_classes, "counts": info.counts, **told}, tuple(notes)
    ), info


def _listed(folder: str, described: bytes) -> Note:
    """Whether DVC's cache lists this very dataset.json among the files of the folder with the hash `folder`."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            content = Path(repo.cache.local.oid_to_path(folder)).read_bytes()
        if folder != f"{_md5(content)}.dir":
            return Note("differs", f"DVC's cache holds something else under {folder}.")
        files = {file["relpath"]: file["md5"] for file in json.loads(content)}
    except (DvcException, OSError, ValueError, KeyError, TypeError):
        return Note(
            "missing", f"DVC's cache here has no {folder}, so that lineage/dataset.json cannot be held against it."
        )
    if files.get("dataset.json") == _md5(described):
        return Note("verified", "DVC's cache here lists this very dataset.json under that hash of the prepared data.")
    return Note("differs", "DVC's cache here lists another dataset.json under that hash of the prepared data.")


def _source(tags: Mapping[str, str], info: DatasetInfo | None) -> Link:
    keys = ("name", "version", "sha256")
    tagged = {key: tags.get(f"source.{key}") for key in keys}
    if info is None:
        return Link(
            "source", tagged, (Note("missing", "There is no lineage/dataset.json of these data to hold this against."),)
        )
    told = {key: str(info.source[key]) for key in (*keys, "slug", "id") if info.source.get(key) is not None}
    other = [key for key in keys if tagged[key] is not None and tagged[key] != told.get(key)]
    silent = [key for key in keys if tagged[key] is None and key in told]
    notes = []
    if other:
        shown = ", ".join(f"{key} {told.get(key, 'none')}" for key in other)
        notes.append(Note("differs", f"lineage/dataset.json says otherwise: {shown}."))
    elif any(tagged.values()):
        notes.append(Note("verified", "lineage/dataset.json says the same."))
    if silent:
        notes.append(
            Note("missing", f"The version has no tags for {', '.join(silent)}; lineage/dataset.json tells this.")
        )
    return Link(
        "source",
        {**{key: tagged[key] or told.get(key) for key in keys}, **{k: v for k, v in told.items() if k not in keys}},
        tuple(notes),
    )


def _trained(version: _Version, tags: Mapping[str, str]) -> Trained:
    commit = tags.get("git.commit")
    return Trained(
        version.name,
        version.number,
        version.aliases,
        tags.get("variant"),
        version.created,
        tags["data_digest"],
        None if commit == "none" else commit,
        {"true": True, "false": False}.get(tags.get("git.dirty", "")),
        tags.get("dvc.lock_sha256"),
        tags.get("dvc.experiment"),
    )


def _by_run(key: str, version: _Version, tags: Mapping[str, str]) -> list[Note]:
    """A warning where only the run knows: each later stage of a run writes these tags anew."""
    if key in tags and key not in version.entity.tags:
        return [
            Note(
                "missing",
                f"The version has no tag {key}; this is what its run said after the last stage that it tracked.",
            )
        ]
    return []


def _held(what: str, content: bytes, recorded: str, otherwise: str) -> Note:
    found = _sha256(content)
    if found == recorded:
        return Note("verified", f"{what} has this SHA-256.")
    return Note("differs", f"{what} has the SHA-256 {found}: {otherwise}.")


def _git(*words: str) -> bytes | None:
    """What git says in this folder; None where it fails or there is none."""
    try:
        return subprocess.run(["git", *words], capture_output=True, check=True).stdout  # noqa: S603, S607 - words are ours, ids are checked
    except (OSError, subprocess.CalledProcessError):
        return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _time(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
