"""Earlier versions of prepared data, as DVC knows them: read from its cache or its default remote, never written."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lekhani.data.spec import DatasetInfo
from lekhani.errors import UsageError, first_line
from lekhani.paths import PREPARED

if TYPE_CHECKING:
    import pandas as pd


class NoVersion(UsageError):  # noqa: N818 - an answer more than an error: the caller goes on without
    """There is nothing earlier to compare with: no git, no DVC, no commit yet, or no such dataset in that revision."""


class NoDataset(NoVersion):
    """The revision is there and the dataset is not in it, as when a dataset is new."""


class _NotInCache(UsageError):  # noqa: N818 - as above
    """The revision has the dataset, and its bytes are elsewhere."""


@dataclass(frozen=True)
class Version:
    """A prepared dataset without its pixels: `manifest` has one row per image (see docs/contracts.md), `info` is dataset.json."""

    manifest: "pd.DataFrame"
    info: DatasetInfo


def manifest_at(dataset: str, revision: str) -> Version:
    """The manifest and dataset.json of `dataset` as of a git revision: a commit, tag, branch, HEAD~1 or the name of a DVC experiment.

    They come from DVC's cache, else from the default remote; today's configuration says where both are, so that a commit made
    before the remote was added is found as well. Takes no lock, so that a stage may call it while `dvc repro` runs.
    Raises NoVersion when there is nothing to compare with (NoDataset when the revision lacks just this dataset), and
    UsageError for an unknown revision, data that is neither in the cache nor on the remote, or a remote that does not answer.
    """
    from dvc.config import ConfigError
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import NoSCM, SCMError

    try:
        with Repo() as here:
            config, in_git = dict(here.config), not isinstance(here.scm, NoSCM)
    except (NotDvcRepoError, SCMError):
        in_git = False
    except ConfigError as error:
        raise UsageError(
            f"DVC cannot read its configuration ({first_line(error)}); mend .dvc/config or .dvc/config.local."
        ) from error
    if not in_git:
        raise NoVersion(
            f"There is no {revision} of {dataset}: this folder is not in a git repository with DVC; run `git init` and `dvc init`."
        )
    try:
        # Without a remote first: the cache is enough most of the time, even where the remote's credentials or plug-in are missing.
        return _read_version(dataset, revision, {**config, "core": {**config["core"], "remote": ""}})
    except _NotInCache:
        return _read_version(dataset, revision, config)


def _read_version(dataset: str, revision: str, config: dict[str, Any]) -> Version:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import RevError

    with Repo(config=config) as repo:
        try:
            with repo.switch(revision):
                manifest, info = (
                    _read(repo, PREPARED / dataset / name, dataset, revision)
                    for name in ("manifest.parquet", "dataset.json")
                )
        except RevError:
            raise _unknown(repo, dataset, revision) from None
        except DvcException as error:
            raise UsageError(
                f"DVC cannot read {revision} ({first_line(error)}); choose a revision in which `dvc status` works."
            ) from error
    return _version(manifest, info, dataset, revision)


def working_tree(dataset: str) -> Version:
    """The manifest and dataset.json that lie in data/prepared/<dataset> now; raises UsageError when they are not there."""
    folder = PREPARED / dataset
    try:
        return _version(
            (folder / "manifest.parquet").read_bytes(),
            (folder / "dataset.json").read_bytes(),
            dataset,
            "the working tree",
        )
    except OSError:
        raise UsageError(
            f"{folder} is not here; run `dvc pull {folder}` or `dvc repro prepare@{dataset}`, or leave this dataset out."
        ) from None


def _read(repo: Any, path: Path, dataset: str, revision: str) -> bytes:
    """The bytes of `path` in the revision that `repo` stands at."""
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError

    try:
        with repo.dvcfs.open(path.as_posix(), mode="rb") as file:
            return bytes(file.read())
    except FileNotFoundError as error:
        raise _missing(repo, dataset, revision) from error
    except DataIndexDirError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise _missing(repo, dataset, revision) from error
        raise _unreachable(dataset, revision, error.__cause__ or error) from error
    except DvcException:
        raise
    except Exception as error:  # every kind of remote has errors of its own, which share no base class
        raise _unreachable(dataset, revision, error) from error


def _missing(repo: Any, dataset: str, revision: str) -> UsageError:
    """Why there is no file: DVC tracks no such folder there, has not run the stage yet, or the bytes are elsewhere."""
    folder = PREPARED / dataset
    try:
        known = "md5" in repo.dvcfs.info(folder.as_posix())["dvc_info"]
    except (FileNotFoundError, KeyError):
        known = False
    if not known:
        return NoDataset(f"There is no {folder} in {revision}; name a revision whose dvc.lock has it.")
    return _NotInCache(
        f"{folder} of {revision} is neither in DVC's cache nor on its default remote; "
        f"run `dvc push --all-commits` where it was made, or `git checkout` that revision and `dvc repro prepare@{dataset}`."
    )


def _unreachable(dataset: str, revision: str, error: BaseException) -> UsageError:
    reason = first_line(error) if isinstance(error, Exception) else str(error)
    return UsageError(
        f"{PREPARED / dataset} of {revision} is not in DVC's cache, and its default remote cannot be read ({reason.rstrip('.')}); "
        "see `dvc remote list`, and docs/remotes.md for credentials."
    )


def _unknown(repo: Any, dataset: str, revision: str) -> UsageError:
    from dvc.scm import RevError, resolve_rev

    try:
        resolve_rev(repo.scm, "HEAD")
    except RevError:
        return NoVersion(
            f"There is no {revision} of {dataset}: this git repository has no commit yet; make one with `git commit`."
        )
    return UsageError(
        f"Git knows no revision {revision!r}; name a commit, tag, branch or DVC experiment, and in a shallow clone run `git fetch --unshallow` first."
    )


def _version(manifest: bytes, info: bytes, dataset: str, revision: str) -> Version:
    import pandas as pd

    try:
        return Version(pd.read_parquet(io.BytesIO(manifest)), DatasetInfo.from_dict(json.loads(info)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{PREPARED / dataset} of {revision} cannot be read ({first_line(error)}); another version of Lekhani wrote it, so prepare it again."
        ) from error
