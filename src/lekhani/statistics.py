"""Means and standard deviations of a scorecard, and by how much two means must differ to be told apart."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy.special import stdtrit


def std_entry(name: str, values: Sequence[float]) -> dict[str, float]:
    """The entry `NAME_std`, the sample standard deviation of `values`; nothing for a single value."""
    return {f"{name}_std": stdev(values)} if len(values) > 1 else {}


def mean_and_std(name: str, values: Sequence[float]) -> dict[str, float]:
    """The entries `NAME`, the mean of `values`, and `NAME_std` as `std_entry` has it."""
    return {name: fmean(values), **std_entry(name, values)}


def welch_margin(std: float, n: float, other_std: float, other_n: float) -> float:
    """How far two means must lie apart to differ at the 5% level, by the two-sided t-test of Welch 1947.

    It is half the width of the 95% confidence interval of their difference. `std` and `other_std` are sample standard
    deviations, at least 0, over `n` and `other_n` values, at least 2. SciPy has the test but not the margin for given
    deviations.
    """
    errors = std / math.sqrt(n), other_std / math.sqrt(other_n)
    error = math.hypot(*errors)
    if error in (0, math.inf):
        return error
    one, other = ((part / error) ** 4 for part in errors)  # in parts of the whole, so that nothing over- or underflows
    freedom = 1 / (one / (n - 1) + other / (other_n - 1))
    return float(stdtrit(freedom, 0.975)) * error
