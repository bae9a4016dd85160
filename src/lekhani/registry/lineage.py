"""What a registered version was made from, link by link to the raw files; which versions were trained on given data."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import mlflow
import yaml
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from lekhani.data.names import one_line
from lekhani.data.spec import DatasetInfo
from lekhani.errors import LekhaniError, UsageError, first_line
from lekhani.registry.models import generators, iso_time, model_name, registry_errors, tags_of
from lekhani.tracking.revision import git
from lekhani.tracking.store import connect, is_absent, known_or_none

_TITLES = {
    "version": "model version",
    "run": "MLflow run",
    "commit": "git commit",
    "lock": "dvc.lock",
    "hashes": "DVC's hashes (MD5)",
    "data": "prepared data",
    "source": "raw files",
}
_OURS = f"name LIKE '{model_name('%')}'"
_UNREADABLE = "Could not read the registry of", "; see MLFLOW_TRACKING_URI."
_DIRTY = {"true": True, "false": False}


@dataclass(frozen=True)
class Note:
    """The result of a comparison (`verified` or `differs`), or why there is none (`missing`), in one sentence."""

    state: Literal["verified", "differs", "missing"]
    sentence: str


@dataclass
class Link:
    """One link of the chain: its facts, None where they were not recorded, and what was found out about them here."""

    facts: dict[str, Any]
    notes: list[Note] = field(default_factory=list)

    def note(self, state: Literal["verified", "differs", "missing"], sentence: str) -> None:
        """Add a note."""
        self.notes.append(Note(state, sentence))

    def compare(self, what: str, content: bytes, otherwise: str) -> bool:
        """Note whether `content` has the SHA-256 of the facts; `otherwise` is what it means if it does not."""
        found = hashlib.sha256(content).hexdigest()
        if found == self.facts["sha256"]:
            self.note("verified", f"{what} has this SHA-256.")
            return True
        self.note("differs", f"{what} has the SHA-256 {found}: {otherwise}.")
        return False


@dataclass(frozen=True)
class Lineage:
    """A registered version and its links by name, from the version back to the raw files.

    The facts of each, where they could be read:

    - version: number, aliases, variant, created (ISO 8601, UTC), sha256 (of generator.onnx)
    - run: id; name, by, started, status
    - commit: id, dirty (whether tracked files had changes then); experiment (DVC's); subject, date
    - lock: sha256
    - hashes: read_from; raw, prepared, generator (DVC's MD5 of data/raw/D, data/prepared/D, models/D/V/generator.onnx)
    - data: digest; classes, counts (by split), origin, licence
    - source: name, version, sha256 (of the raw files, as in source.json); slug or id
    """

    model: str
    version: str
    links: dict[str, Link]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: `model`, `version`, and by name the `links` with facts and `notes` `[{state, sentence}]`."""
        links = {name: {**one.facts, "notes": list(map(asdict, one.notes))} for name, one in self.links.items()}
        return {"model": self.model, "version": self.version, "links": links}

    def text(self) -> str:
        """A tree for a terminal or a pipe, without colour."""
        lines = [f"{self.model} version {self.version}"]
        for name, link in self.links.items():
            branch, stem = ("└─", "  ") if name == "source" else ("├─", "│ ")
            lines.append(f"{branch} {_TITLES[name]}")
            rows = [(key.replace("_", " "), _shown(value)) for key, value in link.facts.items()]
            rows += [(note.state, note.sentence) for note in link.notes]
            lines += [f"{stem}   {key:<10}  {one_line(value)}" for key, value in rows]
        return "\n".join(lines)


@dataclass(frozen=True)
class TrainedOn:
    """All versions that were trained on prepared data whose digest begins with `digest`.

    Each has model, version, aliases, variant, created, data_digest, git_commit, git_dirty, dvc_lock_sha256 and
    dvc_experiment; None is what was not recorded.
    """

    digest: str
    versions: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def text(self) -> str:
        """A line for each version."""
        lines = [f"Trained on data {self.digest}:"]
        for one in self.versions:
            names = ("data_digest", "git_commit", "dvc_lock_sha256")
            data, commit, lock = (_shown(one[name] and one[name][:12]) for name in names)
            aliases = f" ({', '.join(one['aliases'])})" if one["aliases"] else ""
            dirty = " (dirty)" if one["git_dirty"] else ""
            experiment = f", experiment {one['dvc_experiment']}" if one["dvc_experiment"] else ""
            line = f"  {one['model']} version {one['version']}{aliases}, variant {_shown(one['variant'])}, "
            line += f"created {one['created']}, data {data}, commit {commit}{dirty}, dvc.lock {lock}{experiment}"
            lines.append(one_line(line))
        return "\n".join(lines)


def trace(model: str) -> Lineage:
    """The lineage of `lekhani-D` (its champion, else its challenger), `lekhani-D@ALIAS` or `lekhani-D:VERSION`.

    Reads MLflow and, in this folder, git and DVC's cache; changes nothing. Raises UsageError for an unknown name,
    alias or version, and LekhaniError when MLflow does not answer. Whatever else is missing is noted in the link that
    misses it.
    """
    _need_store()
    with registry_errors(*_UNREADABLE), TemporaryDirectory() as folder:
        version = _find(connect(), model)
        run, of_run = _run(version), f"runs:/{version.run_id or 'none'}/lineage"
        generator = _fetch("The registered file", f"models:/{version.name}/{version.version}", folder)
        kept_lock = _fetch("The run's artifact lineage/dvc.lock", f"{of_run}/dvc.lock", folder)
        described = _fetch("The run's artifact lineage/dataset.json", f"{of_run}/dataset.json", folder)
    tags, dataset = _tags(version, run), version.name.removeprefix(model_name(""))
    commit = _commit_link(tags)
    lock, content = _lock_link(tags, commit, kept_lock)
    hashes = _hashes_link(dataset, tags.get("variant"), content, generator)
    data, info = _data_link(tags, described, hashes.facts.get("prepared"))
    links = {
        "version": _version_link(version, tags, generator),
        "run": _run_link(version, run),
        "commit": commit,
        "lock": lock,
        "hashes": hashes,
        "data": data,
        "source": _source_link(tags, info),
    }
    return Lineage(version.name, str(version.version), links)


def trained_on(digest: str) -> TrainedOn:
    """All versions of all models `lekhani-*` that were trained on prepared data whose digest begins with `digest`.

    Raises UsageError when that is not 8 to 64 hexadecimal characters, and LekhaniError when there is no such version or
    MLflow does not answer.
    """
    wanted = digest.lower()
    if not re.fullmatch(r"[0-9a-f]{8,64}", wanted):
        hint = "give 8 to 64 characters of 0-9 and a-f, as in the field `digest` of dataset.json"
        raise UsageError(f"{one_line(digest)!r} is no digest; {hint}.")
    _need_store()
    found, unknown = [], 0
    with registry_errors(*_UNREADABLE):
        connect()
        aliases = {one.name: one.aliases for one in mlflow.search_registered_models(filter_string=_OURS)}
        versions = mlflow.search_model_versions(filter_string=_OURS)
        for version in versions:
            own = tags_of(version)
            tags = own if "data_digest" in own else _tags(version, _run(version))
            unknown += "data_digest" not in tags
            if tags.get("data_digest", "").startswith(wanted):
                found.append(_trained(version, aliases[version.name], tags))
    if not found:
        silent = f", and {unknown} of them do not record their data" if unknown else ""
        none = f"None of the {len(versions)} versions in MLflow at {mlflow.get_tracking_uri()}"
        hint = "`lekhani lineage MODEL` shows the digest of a version's data."
        raise LekhaniError(f"{none} was trained on data {wanted}{silent}; {hint}")
    return TrainedOn(wanted, tuple(sorted(found, key=lambda one: (one["model"], int(one["version"])))))


def _trained(version: ModelVersion, aliases: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, Any]:
    number = str(version.version)
    return {
        "model": version.name,
        "version": number,
        "aliases": tuple(sorted(alias for alias, other in aliases.items() if str(other) == number)),
        "variant": tags.get("variant"),
        "created": iso_time(version.creation_timestamp),
        "data_digest": tags["data_digest"],
        "git_commit": None if tags.get("git.commit") == "none" else tags.get("git.commit"),
        "git_dirty": _DIRTY.get(tags.get("git.dirty", "")),
        "dvc_lock_sha256": tags.get("dvc.lock_sha256"),
        "dvc_experiment": tags.get("dvc.experiment"),
    }


def _shown(value: Any) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{count:,} {key}" for key, count in value.items())
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value)


# ---- what MLflow has


def _need_store() -> None:
    if is_absent():
        raise UsageError("Nothing is registered here; run `lekhani register`, or set MLFLOW_TRACKING_URI.")


def _find(client: mlflow.MlflowClient, model: str) -> ModelVersion:
    asked = re.fullmatch(r"(?P<name>[^@:]+)(?P<which>@[^@:]+|:\d+)?", model)
    if asked is None:
        raise UsageError(f"{one_line(model)!r} is no model; write lekhani-D, lekhani-D@ALIAS or lekhani-D:VERSION.")
    name, at = asked["name"], mlflow.get_tracking_uri()
    models = {one.name: one for one in mlflow.search_registered_models(filter_string=_OURS)}
    if not models:
        raise UsageError(f"Nothing is registered in MLflow at {at}; run `lekhani register`.")
    if name not in models:
        raise UsageError(f"No model {one_line(name)!r} in MLflow at {at}; there are: {', '.join(sorted(models))}.")
    versions = mlflow.search_model_versions(filter_string=f"name = '{name}'")
    known = {f"@{alias}": number for alias, number in sorted(models[name].aliases.items())}
    known |= {f":{number}": str(number) for number in sorted(int(one.version) for one in versions)}
    wanted = [asked["which"]] if asked["which"] else ["@champion", "@challenger"]
    for which in wanted:
        if which in known:
            return client.get_model_version(name, known[which])
    raise UsageError(f"{name} has no {one_line(' and no '.join(wanted))}; there are: {', '.join(known)}.")


def _run(version: ModelVersion) -> Run | None:
    """The run that a version came from, deleted or not; None where MLflow does not have it."""
    run_id = version.run_id
    return known_or_none(lambda: connect().get_run(run_id)) if run_id else None


def _tags(version: ModelVersion, run: Run | None) -> dict[str, str]:
    """A version's tags and, where it has none, its run's: MLflow's own pages register versions without tags."""
    tags = dict(run.data.tags) if run else {}
    for ours, name in (("data_digest", "dataset.digest"), ("git.commit", MLFLOW_GIT_COMMIT)):
        if name in tags:
            tags[ours] = tags[name]
    return tags | tags_of(version)


def _fetch(what: str, uri: str, folder: str) -> bytes | str:
    """The content of an artifact, of a model that of its generator; or a sentence that says why it cannot be read."""
    try:
        path = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        files = generators(path) if path.is_dir() else [path]
        return files[0].read_bytes() if len(files) == 1 else f"{what} is missing: there are {len(files)} generators."
    except Exception as error:  # each kind of artifact store has errors of its own
        return f"{what} cannot be fetched: {first_line(error)}"


# ---- the links


def _version_link(version: ModelVersion, tags: Mapping[str, str], generator: bytes | str) -> Link:
    facts = {
        "number": str(version.version),
        "aliases": tuple(sorted(version.aliases)),
        "variant": tags.get("variant"),
        "created": iso_time(version.creation_timestamp),
        "sha256": tags_of(version).get("model_sha256"),
    }
    link = Link(facts)
    if isinstance(generator, str):
        link.note("missing", generator)
    elif facts["sha256"]:
        link.compare("The file that the registry holds", generator, "it was changed or damaged")
    wanted = ("git.commit", "dvc.lock_sha256", "data_digest")
    if of_run := [key for key in wanted if key in tags and key not in tags_of(version)]:
        after = "what follows is from its run, after the last stage that was tracked"
        link.note("missing", f"The version has no tags for {', '.join(of_run)}; {after}.")
    return link


def _run_link(version: ModelVersion, run: Run | None) -> Link:
    link = Link({"id": version.run_id or None})
    if run is None:
        unknown = "MLflow does not have this run: it was purged, or made in another store."
        link.note("missing", unknown if version.run_id else "The version names no run.")
        return link
    info = run.info
    link.facts |= {
        "name": info.run_name or None,
        "by": info.user_id or run.data.tags.get("mlflow.user"),
        "started": iso_time(info.start_time),
        "status": info.status,
    }
    if info.lifecycle_stage == "deleted":
        hint = f"until it is purged, `mlflow runs restore --run-id {info.run_id}` brings it back"
        link.note("missing", f"The run is deleted; {hint}.")
    else:
        link.note("verified", "MLflow has this run.")
    tags = run.data.tags
    scored, registered = tags.get("scored.model_sha256", tags.get("model_sha256")), tags_of(version).get("model_sha256")
    if scored and registered and scored == registered:
        link.note("verified", "The generator that the run scored last is the registered one.")
    elif scored and registered:
        link.note("differs", f"The generator that the run scored last is another one, with the SHA-256 {scored}.")
    return link


def _commit_link(tags: Mapping[str, str]) -> Link:
    commit = tags.get("git.commit", "")
    link = Link({"id": commit or None, "dirty": _DIRTY.get(tags.get("git.dirty", ""))})
    if "dvc.experiment" in tags:
        link.facts["experiment"] = tags["dvc.experiment"]
    if commit in {"", "none"}:
        link.facts["id"] = None
        untracked = "MLflow did not see the training" if "lekhani.imported" in tags else "There is no tag git.commit"
        link.note("missing", "It was made outside of git." if commit else f"{untracked}.")
        return link
    if link.facts["dirty"]:
        link.note("missing", "The tree was dirty: what differed from this commit is not recorded.")
    if not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", commit):  # it might be an option to git
        link.note("missing", "This is no commit id.")
    elif shown := git("show", "-s", "--no-show-signature", "--format=%s%n%cI", f"{commit}^{{commit}}"):
        link.facts["subject"], link.facts["date"] = shown.decode(errors="replace").rstrip("\n").rsplit("\n", 1)
        link.note("verified", "This clone has the commit.")
    elif git("rev-parse", "--git-dir"):
        link.note("missing", "This clone lacks the commit; `git fetch` brings it, if it was pushed.")
    else:
        why = "This folder is in no git repository, or git is not installed"
        link.note("missing", f"{why}; run this in a clone of the project.")
    return link


def _lock_link(tags: Mapping[str, str], commit: Link, kept: bytes | str) -> tuple[Link, tuple[str, bytes] | None]:
    """The link and, where there is one with the recorded SHA-256, where a dvc.lock was read from and what it holds."""
    link, found = Link({"sha256": tags.get("dvc.lock_sha256")}), None
    if link.facts["sha256"] is None:
        link.note("missing", "There is no tag dvc.lock_sha256, so there is nothing to compare a dvc.lock with.")
        return link, None
    where = "The run's artifact lineage/dvc.lock"
    if isinstance(kept, str):
        link.note("missing", kept)
    elif link.compare(where, kept, "one of the two was changed since"):
        found = where, kept
    where, committed = "The commit's dvc.lock", None
    if "date" in commit.facts:
        committed = git("show", f"{commit.facts['id']}:./dvc.lock")
    if committed is None:
        link.note("missing", "The commit is not here, or has no dvc.lock to compare with this.")
    elif hashlib.sha256(committed).hexdigest() != link.facts["sha256"]:
        later = "the pipeline wrote this one after it, and a later commit may have it"
        link.note("missing", f"{where} is another one: {later}.")
    else:
        link.note("verified", f"{where} has this SHA-256.")
        found = found or (where, committed)
    return link, found


def _hashes_link(dataset: str, variant: str | None, lock: tuple[str, bytes] | None, generator: bytes | str) -> Link:
    link = Link({})
    if lock is None:
        link.note("missing", "No dvc.lock with the recorded SHA-256 is at hand to read them from.")
        return link
    link.facts["read_from"] = lock[0]
    try:
        outs = [out for stage in yaml.safe_load(lock[1])["stages"].values() for out in stage.get("outs", [])]
        md5 = {str(out["path"]): str(out["md5"]) for out in outs}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        link.note("missing", "That is no dvc.lock that can be read.")
        return link
    paths = {"raw": f"data/raw/{dataset}", "prepared": f"data/prepared/{dataset}"}
    paths |= {"generator": f"models/{dataset}/{variant}/generator.onnx"} if variant else {}
    for key, path in paths.items():
        link.facts[key] = md5.get(path)
        if path not in md5:
            link.note("missing", f"dvc.lock has no {path}.")
    expected = link.facts.get("generator")
    if variant is None:
        link.note("missing", "The variant is not recorded, so its generator cannot be looked up.")
    elif isinstance(generator, str):
        link.note("missing", "The MD5 of the generator cannot be compared with the registered file, which is not here.")
    elif expected == _md5(generator):
        link.note("verified", "The file that the registry holds has the MD5 of the generator.")
    elif expected:
        other = f"has the MD5 {_md5(generator)}: the model is not the one in dvc.lock"
        link.note("differs", f"The file that the registry holds {other}.")
    return link


def _data_link(
    tags: Mapping[str, str], described: bytes | str, prepared: str | None
) -> tuple[Link, DatasetInfo | None]:
    """The link, and the contents of lineage/dataset.json where it is at hand and describes these data."""
    link = Link({"digest": tags.get("data_digest")})
    if isinstance(described, str):
        link.note("missing", described)
        return link, None
    try:
        info = DatasetInfo.from_dict(json.loads(described))
    except (ValueError, KeyError, TypeError):
        link.note("differs", "The run's artifact lineage/dataset.json cannot be read as one.")
        return link, None
    if info.digest != link.facts["digest"]:
        other = f"is of other data, with the digest {info.digest}"
        link.note("differs", f"The run's artifact lineage/dataset.json {other}.")
        return link, None
    source = {key: info.source.get(key) for key in ("origin", "licence")}
    link.facts |= {"classes": info.n_classes, "counts": info.counts, **source}
    link.note("verified", "The run's artifact lineage/dataset.json has this digest.")
    if prepared:
        link.notes.append(_cached(prepared, _md5(described)))
    return link, info


def _cached(folder: str, described: str) -> Note:
    """Whether DVC's cache has the dataset.json with the MD5 `described` in the folder with the MD5 `folder`."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            listing = Path(repo.cache.local.oid_to_path(folder)).read_bytes()
    except (DvcException, OSError, ValueError):
        return Note("missing", f"DVC's cache here has no {folder} to compare lineage/dataset.json with.")
    if folder != f"{_md5(listing)}.dir":
        return Note("differs", f"DVC's cache holds something else under {folder}.")
    if described not in {file["md5"] for file in json.loads(listing) if file["relpath"] == "dataset.json"}:
        return Note("differs", "DVC's cache here lists another dataset.json under that hash of the prepared data.")
    return Note("verified", "DVC's cache here lists this very dataset.json under that hash of the prepared data.")


def _source_link(tags: Mapping[str, str], info: DatasetInfo | None) -> Link:
    keys = ("name", "version", "sha256")
    link = Link({key: tags.get(f"source.{key}") for key in keys})
    if info is None:
        link.note("missing", "There is no lineage/dataset.json of these data to compare with.")
        return link
    described = {key: str(info.source[key]) for key in (*keys, "slug", "id") if info.source.get(key) is not None}
    tagged = {key: value for key, value in link.facts.items() if value is not None}
    other = [f"{key} {described.get(key, 'none')}" for key in tagged if tagged[key] != described.get(key)]
    if other:
        link.note("differs", f"lineage/dataset.json says otherwise: {', '.join(other)}.")
    elif tagged:
        link.note("verified", "lineage/dataset.json says the same.")
    if untagged := [key for key in keys if key in described and key not in tagged]:
        link.note("missing", f"There are no tags for {', '.join(untagged)}; this is from lineage/dataset.json.")
    link.facts |= described | tagged
    return link


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
