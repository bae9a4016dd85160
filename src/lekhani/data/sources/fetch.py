"""The fetch stage: bring a dataset's raw files into data/raw/D, as they are, and note where they came from."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lekhani import files, params
from lekhani.data.archives import MAX_FILES
from lekhani.data.names import one_line
from lekhani.data.raw import Source
from lekhani.data.sources.origins import origin_of
from lekhani.errors import LekhaniError, UsageError
from lekhani.paths import in_project

if TYPE_CHECKING:
    from lekhani.data.sources import kaggle

log = logging.getLogger(__name__)

SOURCE, CLASSES = "source.json", "classes.csv"

# What the embedded images are made from, beside Lekhani itself: the same versions draw the same images.
_MADE_FROM = {"devanagari": ("fontpkg-noto-sans-devanagari", "pylopdf-fonts-hi"), "mnist": ("scikit-learn",)}

_ACCEPTED = "a folder, an archive (.zip, .tar, .tar.gz and the like), a .npz, a .csv or an IDX file"

# Puts the raw files into a folder and returns what source.json says of this source.
_Fetcher = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class _Job:
    """One dataset to fetch into `out`; `earlier` is the source.json of what is there, when that is intact."""

    name: str
    data: params.Data
    embedded: params.Embedded
    seed: int
    out: Path
    earlier: dict[str, Any] | None


class _AlreadyHereError(Exception):
    """What was fetched is what is there; raised inside `files.replacing`, so that it replaces nothing."""


def fetch(name: str, data: params.Data, embedded: params.Embedded, seed: int, out: Path) -> None:
    """Fill the folder `out` (data/raw/D) with the raw files of dataset `name` and their source.json, all or nothing.

    What was downloaded before and is unchanged stays when it is what `data` names; raw files that come out the same
    stay as they are. On any failure an earlier `out` stays. Raises UsageError when the source does not hold this
    dataset, a path finds nothing that can be read, or credentials, a slug or a number are wrong; LekhaniError when a
    server cannot be reached or fails, or `out` cannot be written.
    """
    job = _Job(name, data, embedded, seed, out, _earlier(name, out))
    classes_csv = _classes_csv(name, data)
    sources: dict[str, Callable[[_Job], _Fetcher]]
    sources = {"embedded": _embedded, "local": _local, "kaggle": _kaggle, "openml": _openml}
    sources |= {"huggingface": _huggingface}
    fetch_into = sources[data.source](job)
    with suppress(_AlreadyHereError), files.replacing(out) as folder:
        folder.mkdir()
        source = fetch_into(folder)
        if classes_csv:
            _copy(f"data.{name}.classes_csv", classes_csv, folder / CLASSES)
        digest = files.sha256(folder)
        source |= {"version": source.get("version", digest[:12]), "sha256": digest}
        source |= {"path": data.path if data.source == "local" else None}
        source |= {key: value for key, value in asdict(origin_of(name, data)).items() if key != "openml"}
        if job.earlier and job.earlier["sha256"] == digest:
            if source != job.earlier:
                files.write_json(out / SOURCE, source)
            raise _AlreadyHereError
        files.write_json(folder / SOURCE, source)


def newer_version(name: str, data: params.Data, out: Path) -> int | None:
    """The number of the newest version of dataset `name` on Kaggle, when that is not the one in `out`.

    None when it is there already, and without asking when `data` has another source or names a version, or `out` has
    nothing from Kaggle yet. Raises UsageError and LekhaniError as `fetch` does when Kaggle does not answer.
    """
    if data.source != "kaggle" or data.kaggle is None or data.kaggle.version is not None:
        return None
    here = _version_here(data.kaggle.slug, _earlier(name, out))
    if here is None:
        return None
    from lekhani.data.sources import kaggle

    number = kaggle.newest_version(_request(name, data, data.kaggle.slug))
    return number if number != here else None


def _earlier(name: str, out: Path) -> dict[str, Any] | None:
    """The source.json in `out` when the files beside it are those that it was written for."""
    if not (out / SOURCE).exists():
        return None
    with suppress(LekhaniError, OSError):
        source: dict[str, Any] = files.read_checked(out / SOURCE, Source)
        if files.sha256(out, without=out / SOURCE) == source["sha256"]:
            return source
    log.info("%s: the files in %s are not those that were fetched; fetching them again", name, out)
    return None


def _classes_csv(name: str, data: params.Data) -> Path | None:
    if data.classes_csv is None:
        return None
    problem = "does not exist"
    try:
        path = in_project(Path(data.classes_csv).expanduser())
        if path.is_file():
            return path.absolute()
        if path.exists():
            problem = "is no file"
    except RuntimeError:
        problem = "names a home folder that does not exist"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    remedy = "give a CSV file with the columns `name` and `glyph`."
    raise UsageError(f"data.{name}.classes_csv: {one_line(data.classes_csv)} {problem}; {remedy}")


# --- one function per source; each checks what it can before anything is written ---


def _embedded(job: _Job) -> _Fetcher:
    if job.name not in _MADE_FROM:
        made = " and ".join(_MADE_FROM)
        problem = f"`embedded` makes {made} only; set `source: local` and a `path`."
        raise UsageError(f"data.{job.name}.source: {problem}")
    from lekhani.data.sources import embedded  # its fonts and scikit-learn are slow to import

    if job.name == "mnist":
        images = embedded.mnist()
    else:
        per_class = job.embedded.per_class_train, job.embedded.per_class_test
        images = embedded.devanagari(job.seed, *per_class, job.data.image_size or 32)

    def fetch_into(folder: Path) -> dict[str, Any]:
        np.savez(  # not compressed: that takes longer than drawing the images
            folder / "embedded.npz",
            images=np.stack(list(images.images)),
            labels=images.labels,
            class_names=np.array([c.name for c in images.classes]),
            glyphs=np.array([c.glyph for c in images.classes]),
            filenames=np.array(images.members),
            splits=np.array(images.splits),
        )
        packages = ("lekhani", *_MADE_FROM[job.name])
        return {"name": "embedded", "version": ", ".join(f"{package} {version(package)}" for package in packages)}

    return fetch_into


def _local(job: _Job) -> _Fetcher:
    key = f"data.{job.name}.path"
    found = _find(key, job.data.path or "", job.out)
    for target, origin in found.items():
        is_class_list = target == CLASSES or (target.count("/") == 1 and target.endswith(f"/{CLASSES}"))
        if job.data.classes_csv and is_class_list:
            problem = f"the source has a {CLASSES} of its own, {_shown(origin)}"
            raise UsageError(f"data.{job.name}.classes_csv: {problem}; leave out the key or move that file away.")

    def fetch_into(folder: Path) -> dict[str, Any]:
        for target, origin in found.items():
            _copy(key, origin, folder / target)
        return {"name": "local"}

    return fetch_into


def _kaggle(job: _Job) -> _Fetcher:
    assert job.data.kaggle is not None  # noqa: S101 - params.Data sees to it
    from lekhani.data.sources import kaggle

    slug, pinned = job.data.kaggle.slug, job.data.kaggle.version
    here = _version_here(slug, job.earlier)
    number = pinned or here
    if not pinned:
        try:
            number = kaggle.newest_version(_request(job.name, job.data, slug))
        except LekhaniError as error:
            if here is None:
                raise
            why = "Kaggle does not tell whether there is a newer one"
            log.warning("%s: version %d of %s stays, for %s. %s", job.name, here, slug, why, error)
    archive = f"{slug.split('/')[1]}.zip"

    def fetch_into(folder: Path) -> dict[str, Any]:
        if number == here:
            log.info("%s: version %d of %s is already here", job.name, number, slug)
            _link(job.out / archive, folder / archive)
        else:
            kaggle.download(_request(job.name, job.data, slug, number), folder / archive)
        return {"name": "kaggle", "slug": slug, "version": number}

    return fetch_into


def _version_here(slug: str, earlier: dict[str, Any] | None) -> int | None:
    earlier = earlier or {}
    return earlier.get("version") if (earlier.get("name"), earlier.get("slug")) == ("kaggle", slug) else None


def _request(name: str, data: params.Data, slug: str, number: int | None = None) -> "kaggle.Request":
    from lekhani.data.sources.kaggle import Request

    return Request(f"data.{name}", slug, number, data.openml or origin_of(name, data).openml)


def _openml(job: _Job) -> _Fetcher:
    assert job.data.openml is not None  # noqa: S101 - params.Data sees to it
    number, earlier = job.data.openml, job.earlier or {}
    is_here = (earlier.get("name"), earlier.get("id")) == ("openml", number)  # a number always means the same version

    def fetch_into(folder: Path) -> dict[str, Any]:
        if is_here:
            log.info("%s: OpenML's data set %d is already here", job.name, number)
            for archive in job.out.glob("openml_*.npz"):
                _link(archive, folder / archive.name)
            return {"name": "openml", "id": number, "version": earlier["version"]}
        from lekhani.data.sources import openml

        newest = openml.download(f"data.{job.name}", number, folder)
        return {"name": "openml", "id": number, "version": newest}

    return fetch_into


def _huggingface(job: _Job) -> _Fetcher:
    assert job.data.huggingface is not None  # noqa: S101 - params.Data sees to it
    from lekhani.data.sources import huggingface

    chosen, earlier = job.data.huggingface, job.earlier or {}
    request = huggingface.Request(f"data.{job.name}", chosen.repo, chosen.revision)
    is_here = (earlier.get("name"), earlier.get("repo")) == ("huggingface", chosen.repo)
    here = earlier["version"] if is_here else None
    commit = here
    if here is None or chosen.revision != here:
        try:
            commit = huggingface.commit_of(request)
        except LekhaniError as error:
            if here is None or chosen.revision is not None:
                raise
            why = "the hub does not tell whether there is a newer one"
            log.warning("%s: commit %s of %s stays, for %s. %s", job.name, here, chosen.repo, why, error)
    inside = chosen.repo.rpartition("/")[2]

    def fetch_into(folder: Path) -> dict[str, Any]:
        if commit == here:
            log.info("%s: commit %s of %s is already here", job.name, commit, chosen.repo)
            for file in filter(Path.is_file, (job.out / inside).rglob("*")):
                target = folder / file.relative_to(job.out)
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(file, target)
        else:
            huggingface.download(request, str(commit), folder / inside)
        return {"name": "huggingface", "repo": chosen.repo, "version": str(commit)}

    return fetch_into


def _link(here: Path, target: Path) -> None:
    try:
        target.hardlink_to(here)
    except OSError:  # not every file system has links
        shutil.copyfile(here, target)


# --- the files of a local source ---


def _find(key: str, path: str, out: Path) -> dict[str, Path]:
    """Every file that the path or pattern stands for: its path below `out`, and where it lies now."""
    found: dict[str, Path] = {}
    try:
        matches = _matches(path)
        for match in matches:
            for target, origin in _files(key, match, out):
                if target in found:
                    both = f"{_shown(found[target])} and {_shown(origin)}"
                    remedy = "rename one of them or choose a narrower pattern."
                    raise UsageError(f"{key}: {_shown(path)} finds both {both}; {remedy}")
                found[target] = origin
                if len(found) > MAX_FILES:
                    remedy = "give the folder of the images alone, or pack it."
                    raise UsageError(f"{key}: {_shown(path)} holds more than {MAX_FILES:,} files; {remedy}")
    except RuntimeError:
        problem = "names a home folder that does not exist; write the path out."
        raise UsageError(f"{key}: {_shown(path)} {problem}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        where, why = path, "it is no path"
        if isinstance(error, OSError):
            where, why = error.filename or path, error.strerror or why
        raise UsageError(f"{key}: {_shown(where)} cannot be read ({why}); check its permissions.") from None
    if not found:
        problem = "holds no files" if matches else "does not exist"
        raise UsageError(f"{key}: {_shown(path)} {problem}; give {_ACCEPTED}, or a pattern such as data/dhcd_*.npz.")
    return found


def _matches(pattern: str) -> list[Path]:
    """What a path or pattern names; raises RuntimeError for an unknown home folder, OSError for what cannot be read."""
    path = in_project(Path(pattern).expanduser())
    if path.exists():  # meant as it stands, even when it holds a bracket
        # A link keeps its own name, whose ending tells what it is.
        return [path.resolve() if path.name in {"", ".."} else path.absolute()]
    matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    return sorted(match.absolute() for match in matches if not match.name.startswith("."))


def _files(key: str, match: Path, out: Path) -> Iterator[tuple[str, Path]]:
    if not match.is_dir():
        from lekhani.data.layouts import looks_readable  # brings the decoders, which a download does not need

        if not match.is_file() or not looks_readable(match):
            raise UsageError(f"{key}: {_shown(match)} is not {_ACCEPTED}; give one of these.")
        yield match.name, match
        return
    root, target = match.resolve(), out.resolve()
    if target.is_relative_to(root) or root.is_relative_to(target):
        problem = f"{_shown(match)} and {out}, where raw files go, lie one inside the other"
        raise UsageError(f"{key}: {problem}; move your files to a folder of their own.")
    for file in _walk(key, match, root):
        yield file.relative_to(match.parent).as_posix(), file


def _walk(key: str, folder: Path, root: Path) -> Iterator[Path]:
    """Every file below `folder` that is not hidden; raises OSError for a folder that cannot be listed."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(root)):
            # A link to a folder may run in a circle, so it is refused even when it stays inside.
            problem = f"the link {_shown(path)} leads out of {_shown(root)}, to a folder or nowhere"
            raise UsageError(f"{key}: {problem}; replace it with what it stands for.")
        if path.is_dir():
            yield from _walk(key, path, root)
        elif path.is_file():
            yield path


def _copy(key: str, origin: Path, target: Path) -> None:
    try:
        file = origin.open("rb")
    except OSError as error:
        raise UsageError(f"{key}: {_shown(origin)} cannot be read ({error.strerror}); check its permissions.") from None
    target.parent.mkdir(parents=True, exist_ok=True)
    with file, target.open("xb") as copy:
        shutil.copyfileobj(file, copy)


def _shown(path: Path | str) -> str:
    return one_line(str(path))
