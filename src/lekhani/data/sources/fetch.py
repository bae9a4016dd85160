"""The fetch stage: bring a dataset's raw files into data/raw/D, as they are, and note where they came from."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lekhani import files, params
from lekhani.data.archives import MAX_FILES
from lekhani.data.names import one_line
from lekhani.data.raw import RawImages
from lekhani.data.sources.origins import origin_of
from lekhani.errors import LekhaniError, UsageError

if TYPE_CHECKING:
    from lekhani.data.sources.kaggle import Request

log = logging.getLogger(__name__)

SOURCE, CLASSES = "source.json", "classes.csv"

# What the embedded images are made from, beside Lekhani itself: the same versions draw the same images.
_MADE_FROM = {"devanagari": ("fontpkg-noto-sans-devanagari", "pylopdf-fonts-hi"), "mnist": ("scikit-learn",)}

_ACCEPTED = "a folder, an archive (.zip, .tar, .tar.gz and the like), a .npz, a .csv or an IDX file"

_Fill = Callable[
    [Path], dict[str, Any]
]  # puts the raw files into a folder and returns what source.json says of this source


class _Unchanged(Exception):  # noqa: N818 - no error, the way out of files.replacing without replacing
    """The raw files are those that are there."""


def fetch(name: str, data: params.Data, drawn: params.Embedded, seed: int, out: Path) -> None:
    """Fill the folder `out` (data/raw/D) with the raw files of dataset `name` and their source.json, wholly or not at all.

    What was downloaded before and is unchanged stays when it is what `data` asks for; raw files that come out the same
    stay as they are. On any failure an earlier `out` stays.
    Raises UsageError when the source does not hold this dataset, a path finds nothing that can be read, or credentials, a
    slug or a number are wrong; LekhaniError when a server cannot be reached or fails, or `out` cannot be written.
    """
    earlier = _earlier(name, out)
    classes_csv = _classes_csv(name, data)
    plans: dict[str, Callable[..., _Fill]] = {
        "embedded": _embedded,
        "local": _local,
        "kaggle": _kaggle,
        "openml": _openml,
    }
    fill = plans[data.source](name, data, drawn, seed, out, earlier)
    with suppress(_Unchanged), files.replacing(out) as folder:
        folder.mkdir()
        told = fill(folder)
        if classes_csv:
            _copy(f"data.{name}.classes_csv", classes_csv, folder / CLASSES)
        digest = files.sha256(folder)
        known = origin_of(name, data)
        source = {
            **told,
            "version": told.get("version", digest[:12]),
            "sha256": digest,
            "path": data.path if data.source == "local" else None,
            "origin": known.origin,
            "licence": known.licence,
            "citation": known.citation,
        }
        if earlier and earlier["sha256"] == digest:
            if source != earlier:
                files.write_json(out / SOURCE, source)
            raise _Unchanged
        files.write_json(folder / SOURCE, source)


def newer(name: str, data: params.Data, out: Path) -> int | None:
    """The number of the version of dataset `name` on Kaggle when it is another than the one in `out`, so that `fetch` would bring it.

    None when it is that one, and without asking when `data` has another source or names a version, or `out` has nothing from there yet.
    Raises UsageError and LekhaniError as `fetch` does when Kaggle does not tell.
    """
    if data.source != "kaggle" or data.kaggle is None or data.kaggle.version is not None:
        return None
    here = _version_here(data.kaggle.slug, _earlier(name, out))
    if here is None:
        return None
    from lekhani.data.sources import kaggle

    number = kaggle.newest(_request(name, data, data.kaggle.slug))
    return number if number != here else None


def _earlier(name: str, out: Path) -> dict[str, Any] | None:
    """The source.json in `out` when the files beside it are those that it was written for."""
    try:
        told = json.loads((out / SOURCE).read_text(encoding="utf-8"))
        if files.sha256(out, without=out / SOURCE) == told["sha256"]:
            return dict(told)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        pass
    log.info("%s: the files in %s are not those that were fetched; fetching them again", name, out)
    return None


def _classes_csv(name: str, data: params.Data) -> Path | None:
    if data.classes_csv is None:
        return None
    problem = "does not exist"
    try:
        path = Path(data.classes_csv).expanduser()
        if path.is_file():
            return path.absolute()
        if path.exists():
            problem = "is no file"
    except RuntimeError:
        problem = "names a home folder that does not exist"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    raise UsageError(
        f"data.{name}.classes_csv: {_shown(data.classes_csv)} {problem}; give a CSV file with the columns `name` and `glyph`."
    )


def _embedded(name: str, data: params.Data, drawn: params.Embedded, seed: int, *_: Any) -> _Fill:
    if name not in _MADE_FROM:
        raise UsageError(
            f"data.{name}.source: `embedded` makes {' and '.join(_MADE_FROM)} only; set `source: local` and a `path`."
        )
    from lekhani.data.sources import (
        embedded,
    )  # its fonts and scikit-learn are slow to import, and a local source needs neither

    images = (
        embedded.mnist()
        if name == "mnist"
        else embedded.devanagari(seed, drawn.per_class_train, drawn.per_class_test, data.image_size or 32)
    )

    def fill(folder: Path) -> dict[str, Any]:
        _save(images, folder / "embedded.npz")
        return {"name": "embedded", "version": ", ".join(f"{p} {version(p)}" for p in ("lekhani", *_MADE_FROM[name]))}

    return fill


def _local(name: str, data: params.Data, _drawn: params.Embedded, _seed: int, out: Path, *_: Any) -> _Fill:
    key = f"data.{name}.path"
    found = _find(key, data.path or "", out)
    if data.classes_csv:
        for target, origin in found.items():
            if target == CLASSES or (target.count("/") == 1 and target.endswith(f"/{CLASSES}")):
                raise UsageError(
                    f"data.{name}.classes_csv: the source has a {CLASSES} of its own, {_shown(origin)}; leave out the key or move that file away."
                )

    def fill(folder: Path) -> dict[str, Any]:
        for target, origin in found.items():
            _copy(key, origin, folder / target)
        return {"name": "local"}

    return fill


def _kaggle(
    name: str, data: params.Data, _drawn: params.Embedded, _seed: int, out: Path, earlier: dict[str, Any] | None
) -> _Fill:
    assert data.kaggle is not None  # noqa: S101 - params.Data sees to it
    from lekhani.data.sources import kaggle

    slug, asked = data.kaggle.slug, data.kaggle.version
    here = _version_here(slug, earlier)
    number = asked or here
    if not asked:
        try:
            number = kaggle.newest(_request(name, data, slug))
        except LekhaniError as error:
            if here is None:
                raise
            log.warning(
                "%s: version %d of %s stays, for Kaggle does not tell whether there is a newer one. %s",
                name,
                here,
                slug,
                error,
            )
    archive = f"{slug.split('/')[1]}.zip"

    def fill(folder: Path) -> dict[str, Any]:
        if number == here:
            log.info("%s: version %d of %s is already here", name, here, slug)
            _link(out / archive, folder / archive)
        else:
            kaggle.download(_request(name, data, slug, number), folder / archive)
        return {"name": "kaggle", "slug": slug, "version": number}

    return fill


def _version_here(slug: str, earlier: dict[str, Any] | None) -> int | None:
    return (
        earlier.get("version") if earlier and earlier.get("name") == "kaggle" and earlier.get("slug") == slug else None
    )


def _request(name: str, data: params.Data, slug: str, number: int | None = None) -> "Request":
    from lekhani.data.sources.kaggle import Request

    return Request(f"data.{name}", slug, number, data.openml or origin_of(name, data).openml)


def _openml(
    name: str, data: params.Data, _drawn: params.Embedded, _seed: int, out: Path, earlier: dict[str, Any] | None
) -> _Fill:
    assert data.openml is not None  # noqa: S101 - params.Data sees to it
    number = data.openml
    archive = f"openml_{number}.npz"
    here = (
        earlier.get("version") if earlier and earlier.get("name") == "openml" and earlier.get("id") == number else None
    )

    def fill(folder: Path) -> dict[str, Any]:
        if here is None:
            from lekhani.data.sources import openml

            found = openml.download(f"data.{name}", number, folder / archive)
        else:  # a number always means the same version
            log.info("%s: OpenML's data set %d is already here", name, number)
            _link(out / archive, folder / archive)
            found = here
        return {"name": "openml", "id": number, "version": found}

    return fill


def _link(here: Path, target: Path) -> None:
    try:
        target.hardlink_to(here)
    except OSError:  # not every file system has links
        shutil.copyfile(here, target)


def _save(raw: RawImages, path: Path) -> None:
    np.savez(  # not compressed: that takes longer than drawing the images
        path,
        images=np.stack(list(raw.images)),
        labels=raw.labels,
        class_names=np.array([c.name for c in raw.classes]),
        glyphs=np.array([c.glyph for c in raw.classes]),
        filenames=np.array(raw.members),
        splits=np.array(raw.splits),
    )


def _find(key: str, given: str, out: Path) -> dict[str, Path]:
    """Every file that the path or pattern `given` stands for: its path below `out`, and where it lies now."""
    found: dict[str, Path] = {}
    shown = _shown(given)
    try:
        matches = _matches(given)
        for match in matches:
            for target, origin in _files(key, match, out):
                if target in found:
                    raise UsageError(
                        f"{key}: {shown} finds both {_shown(found[target])} and {_shown(origin)}; rename one of them or choose a narrower pattern."
                    )
                found[target] = origin
                if len(found) > MAX_FILES:
                    raise UsageError(
                        f"{key}: {shown} holds more than {MAX_FILES:,} files; give the folder of the images alone, or pack it."
                    )
    except RuntimeError:
        raise UsageError(f"{key}: {shown} names a home folder that does not exist; write the path out.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        where, why = (error.filename or given, error.strerror) if isinstance(error, OSError) else (given, None)
        raise UsageError(
            f"{key}: {_shown(where)} cannot be read ({why or 'it is no path'}); check its permissions."
        ) from None
    if not found:
        problem = "holds no files" if matches else "does not exist"
        raise UsageError(f"{key}: {shown} {problem}; give {_ACCEPTED}, or a pattern such as data/dhcd_*.npz.")
    return found


def _matches(given: str) -> list[Path]:
    """What a path or pattern names; raises RuntimeError for the home folder of nobody and OSError for what cannot be read."""
    path = Path(given).expanduser()
    if path.exists():  # meant as it stands, even when it holds a bracket
        # A link keeps its own name, whose ending tells what it is.
        return [path.resolve() if path.name in {"", ".."} else path.absolute()]
    matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    return sorted(match.absolute() for match in matches if not match.name.startswith("."))


def _files(key: str, match: Path, out: Path) -> Iterator[tuple[str, Path]]:
    if not match.is_dir():
        from lekhani.data.layouts import looks_readable  # brings the decoders, which a download does not need

        if not match.is_file() or not looks_readable(match.name):
            raise UsageError(f"{key}: {_shown(match)} is not {_ACCEPTED}; give one of these.")
        yield match.name, match
        return
    root, target = match.resolve(), out.resolve()
    if target.is_relative_to(root) or root.is_relative_to(target):
        raise UsageError(
            f"{key}: {_shown(match)} and {out}, where raw files go, lie one inside the other; move your files to a folder of their own."
        )
    for file in _walk(key, match, root):
        yield file.relative_to(match.parent).as_posix(), file


def _walk(key: str, folder: Path, root: Path) -> Iterator[Path]:
    """Every file below `folder` that is not hidden; raises OSError for a folder that cannot be listed."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(root)):
            # A link to a folder may run in a circle, so it is refused even when it stays inside.
            raise UsageError(
                f"{key}: the link {_shown(path)} leads out of {_shown(root)}, to a folder or nowhere; replace it with what it stands for."
            )
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
