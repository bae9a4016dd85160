"""The fetch stage: bring a dataset's raw files into data/raw/D, as they are, and note where they came from."""

import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from lekhani import files, params
from lekhani.data.raw import RawImages
from lekhani.errors import UsageError

# What the embedded images are made from, beside Lekhani itself: the same versions draw the same images.
_MADE_FROM = {"devanagari": ("fontpkg-noto-sans-devanagari", "pylopdf-fonts-hi"), "mnist": ("scikit-learn",)}


def fetch(name: str, data: params.Data, seed: int, out: Path) -> None:
    """Fill the folder `out` (data/raw/D) with the raw files of dataset `name` and their source.json, wholly or not at all.

    Raises UsageError when the source does not hold this dataset, or `data.path` finds nothing that can be read, and
    LekhaniError when `out` cannot be written.
    """
    images = _embedded(name, data, seed) if data.source == "embedded" else None
    found = _find(f"data.{name}.path", data.path or "", out) if data.source == "local" else {}
    with files.replacing(out) as folder:
        folder.mkdir()
        if images is not None:
            _save(images, folder / "embedded.npz")
        for target, origin in found.items():
            _copy(f"data.{name}.path", origin, folder / target)
        digest = files.sha256(folder)
        source = {
            "name": data.source,
            "version": digest[:12] if images is None else ", ".join(f"{p} {version(p)}" for p in ("lekhani", *_MADE_FROM[name])),
            "sha256": digest,
            "path": data.path if data.source == "local" else None,
        }
        files.write_json(folder / "source.json", source)


def _embedded(name: str, data: params.Data, seed: int) -> RawImages:
    if name not in _MADE_FROM:
        raise UsageError(f"data.{name}.source: `embedded` makes {' and '.join(_MADE_FROM)} only; set `source: local` and a `path`.")
    from lekhani.data import embedded  # its fonts and scikit-learn are slow to import, and a local source needs neither

    if name == "mnist":
        return embedded.mnist()
    return embedded.devanagari(seed, data.per_class_train or 400, data.per_class_test or 60, data.image_size)


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
    try:
        matches = _matches(given)
        for match in matches:
            for target, origin in _files(key, match, out):
                if target in found:
                    raise UsageError(f"{key}: {given} finds both {found[target]} and {origin}; rename one of them or choose a narrower pattern.")
                found[target] = origin
    except RuntimeError:
        raise UsageError(f"{key}: {given} names a home folder that does not exist; write the path out.") from None
    except OSError as error:
        raise UsageError(f"{key}: {error.filename or given} cannot be read ({error.strerror or error}); check its permissions.") from None
    if not found:
        problem = "holds no files" if matches else "does not exist"
        raise UsageError(f"{key}: {given} {problem}; give a folder of class folders, a .zip, a .npz, or a pattern such as data/dhcd_*.npz.")
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
        if match.suffix.lower() not in {".zip", ".npz"}:
            raise UsageError(f"{key}: {match} is neither a folder nor a .zip nor a .npz; give one of these.")
        yield match.name, match
        return
    root, target = match.resolve(), out.resolve()
    if target.is_relative_to(root) or root.is_relative_to(target):
        raise UsageError(f"{key}: {match} and {out}, where raw files go, lie one inside the other; move your files to a folder of their own.")
    for file in _walk(key, match, root):
        yield file.relative_to(match.parent).as_posix(), file


def _walk(key: str, folder: Path, root: Path) -> Iterator[Path]:
    """Every file below `folder` that is not hidden; raises OSError for a folder that cannot be listed."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(root)):
            # A link to a folder may run in a circle, so it is refused even when it stays inside.
            raise UsageError(f"{key}: the link {path} leads out of {root}, to a folder or nowhere; replace it with what it stands for.")
        if path.is_dir():
            yield from _walk(key, path, root)
        elif path.is_file():
            yield path


def _copy(key: str, origin: Path, target: Path) -> None:
    try:
        file = origin.open("rb")
    except OSError as error:
        raise UsageError(f"{key}: {origin} cannot be read ({error.strerror}); check its permissions.") from None
    target.parent.mkdir(parents=True, exist_ok=True)
    with file, target.open("xb") as copy:
        shutil.copyfileobj(file, copy)
