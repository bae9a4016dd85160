"""The reference of real images survives its file, and tells a judge that takes classes for others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_judge import FakeJudge

from lekhani.errors import LekhaniError
from lekhani.evaluate.reference import Reference


def test_a_reference_is_saved_and_loaded(tmp_path: Path) -> None:
    images, labels = np.arange(12, dtype=np.uint8).reshape(3, 2, 2), np.array([0, 1, 1])
    reference = Reference(np.arange(2.0), np.eye(2), 0.75, "0" * 64, images, labels)
    reference.save(tmp_path / "r.npz")
    again = Reference.load(tmp_path / "r.npz")
    assert (again.mean == reference.mean).all()
    assert (again.cov == reference.cov).all()
    assert (again.confidence, again.judge) == (0.75, "0" * 64)
    assert (again.images == images).all()
    assert (again.labels == labels).all()
    np.savez(tmp_path / "earlier.npz", mean=again.mean, cov=again.cov, confidence=0.75, judge="0" * 64)
    assert len(Reference.load(tmp_path / "earlier.npz").labels) == 0
    (tmp_path / "r.npz").write_bytes(b"PK nothing")
    with pytest.raises(LekhaniError, match=r"r\.npz cannot be read \(.+\); register the model again"):
        Reference.load(tmp_path / "r.npz")


def test_a_judge_that_takes_a_class_for_another_is_told_by_known_images() -> None:
    shades, labels = np.array([40, 128, 210], np.uint8), np.repeat([2, 0, 1], 50)
    images = np.broadcast_to(shades[labels][:, None, None], (150, 4, 4)).copy()
    images[100:103] = shades[0]  # a few that look like another class
    reference = Reference.of(FakeJudge(), images, labels)
    assert np.bincount(reference.labels).tolist() == [8, 8, 8]
    assert reference.misread(FakeJudge()) == []
    assert reference.misread(FakeJudge(never=(0,))) == [0]
    assert replace(reference, labels=2 - reference.labels).misread(FakeJudge()) == [0, 2]
    assert replace(reference, images=images[:0], labels=labels[:0]).misread(FakeJudge()) == []
