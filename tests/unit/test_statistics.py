"""The margin of Welch's test against SciPy's own test, and deviations of few values."""

import math

import numpy as np
import pytest
from scipy import stats

from lekhani.statistics import mean_and_std, welch_margin


def test_means_a_margin_apart_have_a_p_value_of_five_percent() -> None:
    rng = np.random.default_rng([1, 2])
    for _ in range(40):
        (std, other), (n, m) = 10.0 ** rng.uniform(-4, 4, 2), (int(one) for one in rng.integers(2, 12, 2))
        test = stats.ttest_ind_from_stats(welch_margin(std, n, other, m), std, n, 0.0, other, m, equal_var=False)
        assert test.pvalue == pytest.approx(0.05, rel=1e-6)


def test_margins_of_extreme_deviations() -> None:
    assert welch_margin(0.0, 3, 0.0, 3) == 0
    assert welch_margin(0.0, 3, 1.0, 3) == pytest.approx(stats.t.ppf(0.975, 2) / math.sqrt(3))
    for scale in (1e-300, 1e300):
        assert welch_margin(scale, 3, scale, 3) == pytest.approx(scale * welch_margin(1, 3, 1, 3))
    assert welch_margin(math.inf, 3, 1.0, 3) == math.inf


def test_a_single_value_has_no_deviation() -> None:
    assert mean_and_std("fid", [2.0]) == {"fid": 2.0}
    assert mean_and_std("fid", [1.0, 3.0]) == {"fid": 2.0, "fid_std": pytest.approx(2**0.5)}
