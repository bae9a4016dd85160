"""Statistics of features: mean, covariance and spread, and the Frechet distance, which FID is between features."""

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def frechet(mean1: Doubles, cov1: Doubles, mean2: Doubles, cov2: Doubles) -> float:
    """Frechet distance of two Gaussians, |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau 1982)."""
    # NumPy alone, as serving measures drift by it without torch. The trace of the root is the sum of the roots of the
    # product's eigenvalues, which are real and not negative but for rounding; SciPy's sqrtm fails on singular products.
    roots = np.sqrt(np.clip(np.linalg.eigvals(cov1 @ cov2).real, 0, None)).sum()
    return float(((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * roots)


def moments(features: npt.NDArray[np.floating]) -> tuple[Doubles, Doubles]:
    """Mean [F] and covariance [F,F] of features [N,F]."""
    rows = features.astype(np.float64)
    return rows.mean(0), np.cov(rows, rowvar=False)


def spread(features: Doubles) -> float:
    """How much features [N,F] differ, N at least 2: the root of their mean variance."""
    return float(np.sqrt(features.var(axis=0, ddof=1).mean()))
