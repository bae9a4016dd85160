"""Choices of one run that differ from params.yaml, and the workspace in which they hold."""

import fcntl
import hashlib
import logging
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, get_args

from dvc.config import merge
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides
from pydantic import Field

from lekhani import files, params
from lekhani.errors import UsageError, first_line

logging.getLogger("dvc").setLevel(logging.ERROR)  # it warns of each output that a new worktree has yet to make


def _allowed(model: Any, name: str) -> list[str]:
    """The words that a field of params.yaml allows, itself or in a list."""
    words = get_args(model.model_fields[name].annotation)
    return list(get_args(words[0]) or words)


# With an `enum` Prefect's form offers these words; lekhani.params says what is wrong with any other.
Profile = Annotated[str, Field(json_schema_extra={"enum": _allowed(params.Params, "profile")})]
Source = Annotated[str, Field(json_schema_extra={"enum": _allowed(params.Data, "source")})]
Variant = Annotated[str, Field(json_schema_extra={"enum": list(params.Variants.model_fields)})]


# Every stage in seconds; what comes of it is not worth keeping. With ++ a key may be missing.
MINIATURE = (
    "profile=quick",
    "tracking.backend=none",
    "++profiles.quick.judge.images_seen=6000",
    "++profiles.quick.train.images_seen.per_class=32",
    "++profiles.quick.train.images_seen.at_least=32",
    "++profiles.quick.train.score_every=0",
    "++profiles.quick.variants.flow_matching.channels=[8,16]",
    "++profiles.quick.variants.flow_matching.steps=1",
    "++profiles.quick.variants.turbo.pairs_per_class=4",
    "++profiles.quick.evaluate.n_generated=100",
    "++profiles.quick.evaluate.sampling_seeds=2",
    "++profiles.quick.evaluate.kid_subset_size=50",
    "++profiles.quick.usefulness.images_seen=64",
    "++profiles.quick.usefulness.seeds=2",
    "++profiles.quick.usefulness.shares=[1.0]",
)

KEEP_DAYS = 14  # a worktree that no run has used for so long is removed

_HELD: list[int] = []  # folders that this process keeps from being removed until it ends


def as_overrides(
    raw: dict[str, Any],
    profile: str | None = None,
    datasets: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    source: str | None = None,
    overrides: Sequence[str] | None = None,
) -> list[str]:
    """What the parameters of a run change in params.yaml (`raw`), as `dvc exp run -S` takes it; empty for no choices.

    Raises UsageError for a dataset that params.yaml does not describe.
    """
    known = list(raw.get("data") or {})
    if unknown := [name for name in datasets or () if name not in known]:
        raise UsageError(f"datasets: params.yaml describes no {unknown[0]!r}; there are: {', '.join(known)}.")
    found = [f"profile={profile}"] if profile else []
    found += [f"pipeline.datasets=[{','.join(datasets)}]"] if datasets else []
    if variants:
        students = _allowed(params.Pipeline, "students")
        found.append(f"pipeline.variants=[{','.join(one for one in variants if one not in students)}]")
        found.append(f"pipeline.students=[{','.join(one for one in variants if one in students)}]")
    kept = datasets or (raw.get("pipeline") or {}).get("datasets") or known
    found += [f"data.{name}.source={source}" for name in kept] if source else []
    return [*found, *(overrides or ())]


def miniature_workspace(root: Path, overrides: Sequence[str]) -> Path:
    """A new worktree for one run of every stage, with MINIATURE and `overrides` applied; see `workspace`.

    Of the outputs of `root` it has the raw files alone. `remove_workspace` is the caller's.
    """
    raw = params.read(root / "params.yaml")
    if not any(one.startswith("pipeline.variants=") for one in overrides):
        overrides = [*overrides, *as_overrides(raw, variants=list(params.Variants.model_fields))]
    return workspace(root, [*overrides, *MINIATURE], miniature=True)


def workspace(root: Path, overrides: Sequence[str], miniature: bool = False) -> Path:
    """The folder to work in: `root` itself or, for `overrides`, a git worktree of it; the same overrides find it again.

    The worktree lies in .dvc/tmp/flows, as DVC's own experiments do in .dvc/tmp/exps. It has the dvc.yaml and the code
    of `root`, its params.yaml with the overrides applied, and a dvc.lock that starts as that of `root`; DVC's cache and
    MLflow's store are those of `root`. Raises UsageError or ParamsError for overrides that are wrong and for a `root`
    without a commit, and then changes nothing.
    """
    if not overrides:
        return root
    with tempfile.TemporaryDirectory() as temporary:
        draft = Path(temporary) / "params.yaml"
        files.write_text(draft, (root / "params.yaml").read_text(encoding="utf-8"))
        _apply(draft, overrides)
        text, profile = draft.read_text(encoding="utf-8"), params.resolve(params.read(draft)).profile
    name, unlike = ("miniature", secrets.token_hex(4)) if miniature else (profile, "\n".join(overrides))
    folder, commit = _worktree(root, name, unlike), _git(root, "rev-parse", "HEAD")
    prune(root, params.read(root / "params.yaml"), keep=folder)
    if (folder / "params.yaml").exists():
        _hold(folder)
    else:
        _add_worktree(root, folder, "--no-checkout")
        _hold(folder)
        _copy(root, folder, "dvc.yaml", "dvc.lock", ".dvcignore")
        files.write_text(folder / "params.yaml", text)
        with Repo(str(folder)) as repo:  # what `root` has made need not be made again
            wanted = [f"fetch@{dataset}" for dataset in params.read(folder / "params.yaml")["pipeline"]["datasets"]]
            repo.checkout(targets=wanted if miniature else None, force=True, allow_missing=True)
    if (root / "src").exists() and not (folder / "src").exists():
        (folder / "src").symlink_to(root / "src")
    _git(folder, "reset", "--quiet", commit)  # the index alone, so that MLflow's runs name the commit of `root`
    _copy(root, folder, "dvc.yaml", ".dvcignore", ".gitignore")
    files.write_text(folder / "params.yaml", text)
    return folder


def prune(root: Path, choices: Mapping[str, Any], keep: Path) -> None:
    """Remove the worktrees that nobody wants any more, unless a run is going in them.

    These are those that no run has used for KEEP_DAYS, those whose choices params.yaml has by now, and miniatures that
    a killed run has left.
    """
    for folder in (root / ".dvc" / "tmp" / "flows").glob("*"):
        with suppress(OSError, UsageError, params.ParamsError):
            path = folder / "params.yaml"
            unused = time.time() - path.stat().st_mtime  # each run writes it
            is_left = unused > KEEP_DAYS * 86_400 or folder.name.startswith("miniature-")
            if folder != keep and (is_left or params.read(path) == choices):
                _remove(root, folder)


def remove_workspace(root: Path, folder: Path) -> None:
    """Remove a worktree that this process has done with; raises OSError when another one works in it."""
    _release(folder)
    _remove(root, folder)


def _remove(root: Path, folder: Path) -> None:
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _git(root, "worktree", "remove", "--force", "--force", str(folder))
    finally:
        os.close(held)


def _hold(folder: Path) -> None:
    """Keep a worktree from being removed by another process, until this one ends."""
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_SH)
    _HELD.append(held)


def _release(folder: Path) -> None:
    for held in [one for one in _HELD if os.path.samestat(os.fstat(one), folder.stat())]:
        _HELD.remove(held)
        os.close(held)


def commit_of(folder: Path) -> str:
    """The commit that other machines check out to do what `folder` would.

    Raises UsageError when graph or code differ from it.
    """
    if changed := _git(folder, "status", "--porcelain", "--untracked-files=no", "--", "dvc.yaml", "src"):
        path = changed.split()[1]
        raise UsageError(f"Other machines work at a commit, and {path} differs from it; commit and push it.")
    return _git(folder, "rev-parse", "HEAD")


def at_commit(root: Path, commit: str, text: str) -> Path:
    """A git worktree of the clone `root` at a commit, with `text` as its params.yaml, which the next stage finds.

    DVC's settings and cache are those of `root`. Raises UsageError for a commit that the clone neither has nor can
    fetch.
    """
    folder = _worktree(root, commit[:8], text)
    try:
        _git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except UsageError:
        _git(root, "fetch", "--quiet", "--all")
        _git(root, "cat-file", "-e", f"{commit}^{{commit}}", hint="push it to where this worker's clone comes from")
    if not (folder / ".dvc" / "config.local").exists():
        _add_worktree(root, folder, commit)
    _hold(folder)
    files.write_text(folder / "params.yaml", text)
    prune(root, {}, keep=folder)
    return folder


def _apply(path: Path, overrides: Sequence[str]) -> None:
    try:
        apply_overrides(path, list(overrides))
    except DvcException as error:
        reason = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error).rstrip(".")
        hint = "write KEY=VALUE with a key of params.yaml, such as train.seed=8"
        raise UsageError(f"overrides: {reason}; {hint}.") from None


def _worktree(root: Path, name: str, choices: str) -> Path:
    """Where the worktree for some choices lies, the same for the same choices."""
    return root / ".dvc" / "tmp" / "flows" / f"{name}-{hashlib.sha256(choices.encode()).hexdigest()[:8]}"


def _add_worktree(root: Path, folder: Path, *options: str) -> None:
    """Make a git worktree that has the DVC settings of `root`, its cache and its MLflow store."""
    files.remove(folder)  # what a run that was killed at this point has left
    _git(root, "worktree", "add", "--quiet", "--force", "--detach", str(folder), *options)
    (folder / ".dvc").mkdir(exist_ok=True)
    _copy(root, folder, ".dvc/config", ".dvc/.gitignore")
    with Repo(str(root)) as ours, Repo(str(folder)) as theirs, theirs.config.edit("local") as local:
        for level in ("repo", "local"):  # anew, since paths in them are relative to the file that they stand in
            merge(local, ours.config.read(level))
        merge(local, {"cache": {"dir": ours.cache.local_cache_dir}})
    (root / "mlruns").mkdir(exist_ok=True)
    (folder / "mlruns").symlink_to(root / "mlruns")


def _copy(root: Path, folder: Path, *names: str) -> None:
    for name in names:
        if (root / name).exists():
            files.write_text(folder / name, (root / name).read_text(encoding="utf-8"))


def _git(folder: Path, *words: str, hint: str = "commit, or edit params.yaml instead") -> str:
    """The output of a git command; raises UsageError where it fails."""
    done = subprocess.run(
        ["git", "-C", str(folder), *words],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["git failed"])[-1]
        what = "Choices that differ from params.yaml and other machines need a git repository with a commit"
        raise UsageError(f"{what} ({reason}); {hint}.")
    return done.stdout.strip()
