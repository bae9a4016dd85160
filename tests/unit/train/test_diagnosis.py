"""Each illness is recognised by its curves and told with a switch to try; health is not."""

from typing import Any

import pytest

from lekhani.train.diagnosis import RECENT, diagnose

HEALTHY = {
    "accuracy_real": 0.7,
    "accuracy_fake": 0.75,
    "logit_gap": 1.0,
    "grad_norm_d": 1.0,
    "grad_norm_g": 1.0,
    "loss_d": 1.2,
    "loss_g": 0.9,
}
WELL = {"judge_fid": 2.0, "classes_covered": 1.0, "class_diversity": 0.9, "judge_entropy": 2.3}


def names(rows: list[dict[str, float]], scores: list[dict[str, float]] | None = None) -> list[str]:
    return [finding.name for finding in diagnose(rows, scores or [])]


def after_health(**ill: float) -> list[dict[str, float]]:
    return [HEALTHY] * RECENT + [HEALTHY | ill] * RECENT


def test_health_is_silent() -> None:
    assert names([HEALTHY] * 20, [WELL] * 3) == []
    assert names([{"loss": 1.0}] * 10, [{"judge_fid": 1.0}]) == [], "nor what a variant does not report"


@pytest.mark.parametrize(
    ("ill", "name", "switch"),
    [
        ({"accuracy_real": 1.0, "accuracy_fake": 0.999}, "dominating_discriminator", "lr_d"),
        ({"accuracy_real": 0.1, "accuracy_fake": 0.2}, "dominating_generator", "n_dis"),
        ({"grad_norm_g": 1e-5}, "vanishing_gradients", "non-saturating"),
        ({"grad_norm_d": 1e5}, "exploding_gradients", "clip_norm"),
    ],
)
def test_curves(ill: dict[str, float], name: str, switch: str) -> None:
    rows = after_health(**ill)
    (finding,) = diagnose(rows, [])
    assert finding.name == name
    assert switch in finding.sentence
    assert names(rows[:-1]) == [], "one report less is no proof yet"


@pytest.mark.parametrize(
    ("ill", "name"),
    [({"classes_covered": 0.2}, "mode_collapse"), ({"class_diversity": 0.1}, "collapse_within_classes")],
)
def test_scores(ill: dict[str, Any], name: str) -> None:
    assert names([HEALTHY] * 10, [WELL, WELL | ill]) == [name]
    assert names([HEALTHY] * 10, [WELL | ill, WELL]) == [], "the last score counts"


@pytest.mark.parametrize("name", ["classes_covered", "class_diversity"])
def test_a_beginner_on_its_way_has_not_collapsed(name: str) -> None:
    assert names([HEALTHY] * 10, [WELL | {name: 0.05}]) == []
    assert names([HEALTHY] * 10, [WELL | {name: 0.05}, WELL | {name: 0.2}]) == []
    assert names([HEALTHY] * 10, [WELL | {name: 0.05}, WELL | {name: 0.2}, WELL | {name: 0.2}]) != []
