"""Paths as people write them, on machines as they are."""

import os
import pwd
from pathlib import Path

import pytest

from lekhani.errors import UsageError
from lekhani.machine import name_user
from lekhani.paths import local_path, project


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a/b c?#%41", "a/b c?#%41"),
        ("~/x", "/home/me/x"),
        ("local://x", "x"),
        ("file:///x/y", "/x/y"),
        ("file://~/x", "/home/me/x"),
        ("a:b", "a:b"),
    ],
)
def test_a_path_means_what_it_means_elsewhere(monkeypatch: pytest.MonkeyPatch, written: str, meant: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert local_path(written) == Path(meant)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("s3://bucket/x", "s3:// is no place on this"),
        ("~nobody here/x", "no such home folder"),
        ("GITHUB://x", "GITHUB"),
    ],
)
def test_other_places_are_named(written: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        local_path(written)


@pytest.mark.parametrize("copy", [".dvc/tmp/exps/standalone/t/sub", ".dvc/tmp/flows/full-1/.dvc/tmp/exps/t"])
def test_a_copy_for_an_experiment_belongs_to_its_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: str
) -> None:
    (tmp_path / copy).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / copy)
    assert project() == tmp_path
    monkeypatch.chdir(tmp_path)
    assert project() == Path()


def test_a_user_without_a_name_or_a_home_gets_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("lekhani.machine.gettempdir", lambda: str(tmp_path))
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    name_user()
    assert os.environ["LOGNAME"] == f"user-{os.getuid()}"
    assert Path.home().parent == tmp_path
    assert Path.home().stat().st_mode & 0o077 == 0
