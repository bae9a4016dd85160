"""The fixture `run`."""

from functools import partial

import pytest
from tiny_training import Run, train

from lekhani import params


@pytest.fixture
def run(tiny: params.Variants) -> Run:
    """`train` with tiny variants."""
    return partial(train, tiny)
