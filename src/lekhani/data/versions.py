"""Earlier versions of prepared data, as DVC knows them: read from its cache or its default remote, never written.

DVC's Repo is used directly: `dvc.api.read` would open it anew for each file, and does not look below the top of a git
repository, nor say whether it is the revision, the dataset or its bytes that are missing.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lekhani.data.spec import DatasetInfo
from lekhani.errors import UsageError, first_line, outside_failure
from lekhani.paths import PREPARED

if TYPE_CHECKING:
    import pandas as pd


class NoVersionError(UsageError):
    """There is nothing earlier to compare with: no git, no DVC, no commit yet, or no such dataset in that revision."""


class NoDatasetError(NoVersionError):
    """The revision is there and the dataset is not in it, as when a dataset is new."""


class _NotInCacheError(UsageError):
    """The revision has the dataset, and its bytes are elsewhere."""


@dataclass(frozen=True)
class Version:
    """A prepared dataset without its pixels: its manifest, with one row per image, and its dataset.json."""

    manifest: "pd.DataFrame"
    info: DatasetInfo


def version_at(dataset: str, revision: str) -> Version:
    """`dataset` as of a git revision: a commit, tag, branch, HEAD~1 or the name of a DVC experiment.

    It comes from DVC's cache, else from the default remote; today's configuration says where both are, so that a commit
    made before the remote was added is found as well. Takes no lock, so that a stage may call it while `dvc repro`
    runs. Raises NoVersionError when there is nothing to compare with (NoDatasetError when the revision lacks just this
    dataset), and UsageError for an unknown revision, data that is neither in the cache nor on the remote, or a remote
    that does not answer.
    """
    from dvc.config import ConfigError
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import NoSCM, SCMError
    from pygit2 import GitError

    try:
        with Repo() as here:
            config, in_git = dict(here.config), not isinstance(here.scm, NoSCM)
    except (NotDvcRepoError, SCMError):
        in_git = False
    except ConfigError as error:
        remedy = "mend .dvc/config or .dvc/config.local."
        raise UsageError(f"DVC cannot read its configuration ({first_line(error)}); {remedy}") from error
    if not in_git:
        problem = "this folder is not in a git repository with DVC; run `git init` and `dvc init`."
        raise NoVersionError(f"There is no {revision} of {dataset}: {problem}")
    try:
        # Without a remote first: the cache is mostly enough, even where credentials or a plug-in are missing.
        return _read_version(dataset, revision, {**config, "core": {**config["core"], "remote": ""}})
    except _NotInCacheError:
        return _read_version(dataset, revision, config)
    except GitError as error:  # as where the folder is another user's
        raise NoVersionError(outside_failure(error) or first_line(error)) from error


def current_version(dataset: str) -> Version:
    """What lies in data/prepared/<dataset> now; raises UsageError when it is not there."""
    folder = PREPARED / dataset
    try:
        manifest, info = ((folder / name).read_bytes() for name in ("manifest.parquet", "dataset.json"))
    except OSError:
        remedy = f"run `dvc pull {folder}` or `dvc repro prepare@{dataset}`, or leave this dataset out."
        raise UsageError(f"{folder} is not here; {remedy}") from None
    return _parsed(manifest, info, dataset, "the working tree")


def _read_version(dataset: str, revision: str, config: dict[str, Any]) -> Version:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import RevError

    with Repo(config=config) as repo:
        try:
            with repo.switch(revision):
                paths = (PREPARED / dataset / name for name in ("manifest.parquet", "dataset.json"))
                manifest, info = (_read(repo, path, dataset, revision) for path in paths)
        except RevError:
            raise _unknown_revision(repo, dataset, revision) from None
        except DvcException as error:
            remedy = "choose a revision in which `dvc status` works."
            raise UsageError(f"DVC cannot read {revision} ({first_line(error)}); {remedy}") from error
    return _parsed(manifest, info, dataset, revision)


def _read(repo: Any, path: Path, dataset: str, revision: str) -> bytes:
    """The bytes of `path` in the revision that `repo` is switched to."""
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError

    try:
        with repo.dvcfs.open(path.as_posix(), mode="rb") as file:
            return bytes(file.read())
    except DvcException:
        raise
    except Exception as error:  # every kind of remote has errors of its own, which share no base class
        cause = (isinstance(error, DataIndexDirError) and error.__cause__) or error
        if isinstance(cause, FileNotFoundError):
            raise _missing(repo, dataset, revision) from error
        text = (first_line(cause) if isinstance(cause, Exception) else str(cause)).rstrip(".")
        problem = f"is not in DVC's cache, and its default remote cannot be read ({text})"
        remedy = "see `dvc remote list`, and docs/remotes.md for credentials."
        raise UsageError(f"{PREPARED / dataset} of {revision} {problem}; {remedy}") from error


def _missing(repo: Any, dataset: str, revision: str) -> UsageError:
    """Why there is no file: DVC tracks no such folder there, has not run the stage yet, or the bytes are elsewhere."""
    folder = PREPARED / dataset
    try:
        known = "md5" in repo.dvcfs.info(folder.as_posix())["dvc_info"]
    except (FileNotFoundError, KeyError):
        known = False
    if not known:
        return NoDatasetError(f"There is no {folder} in {revision}; name a revision whose dvc.lock has it.")
    return _NotInCacheError(
        f"{folder} of {revision} is neither in DVC's cache nor on its default remote; run `dvc push --all-commits` "
        f"where it was made, or `git checkout` that revision and `dvc repro prepare@{dataset}`."
    )


def _unknown_revision(repo: Any, dataset: str, revision: str) -> UsageError:
    from dvc.scm import RevError, resolve_rev

    try:
        resolve_rev(repo.scm, "HEAD")
    except RevError:
        problem = "this git repository has no commit yet; make one with `git commit`."
        return NoVersionError(f"There is no {revision} of {dataset}: {problem}")
    remedy = "name a commit, tag, branch or DVC experiment, and in a shallow clone run `git fetch --unshallow` first."
    return UsageError(f"Git knows no revision {revision!r}; {remedy}")


def _parsed(manifest: bytes, info: bytes, dataset: str, revision: str) -> Version:
    import pandas as pd

    try:
        return Version(pd.read_parquet(io.BytesIO(manifest)), DatasetInfo.from_json(info))
    except Exception as error:  # pyarrow raises many classes
        problem = f"cannot be read ({first_line(error)}); another version of Lekhani wrote it, so prepare it again."
        raise UsageError(f"{PREPARED / dataset} of {revision} {problem}") from error
