"""The reference of real images survives its file."""

from pathlib import Path

import numpy as np
import pytest

from lekhani.errors import LekhaniError
from lekhani.evaluate.reference import Reference


def test_a_reference_is_saved_and_loaded(tmp_path: Path) -> None:
    reference = Reference(np.arange(2.0), np.eye(2), 0.75, "abc")
    reference.save(tmp_path / "r.npz")
    again = Reference.load(tmp_path / "r.npz")
    assert (again.mean == reference.mean).all()
    assert (again.cov == reference.cov).all()
    assert (again.confidence, again.judge) == (0.75, "abc")
    (tmp_path / "r.npz").write_bytes(b"PK nothing")
    with pytest.raises(LekhaniError, match=r"r\.npz is no reference of real images"):
        Reference.load(tmp_path / "r.npz")
