"""Who becomes champion: every check on its own, what odd scorecards do, and that worse never wins."""

import itertools
import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lekhani import params
from lekhani.params import Gate
from lekhani.registry import gate
from lekhani.registry.gate import Check, Decision

ROOT = Path(__file__).parents[3]
Card = dict[str, Any]


def shipped(profile: str) -> Gate:
    return params.resolve(params.read(ROOT / "params.yaml") | {"profile": profile}).gate


POLICY = shipped("quick")
METRICS = get_args(Gate.model_fields["metric"].annotation)  # that may lead

# What the shipped quick profile scores on the embedded data, rounded.
SHARED: dict[str, tuple[str, str, int, float, float]] = {
    "devanagari": ("4c89", "3435", 2300, 0.0, 0.016),
    "mnist": ("c687", "a574", 1078, 0.007, 0.043),
}
SHARED_KEYS = ("data_digest", "judge_sha256", "n_generated", "near_copies_floor", "train_excess_floor")
COLUMNS = ["fid_ratio", "fid_floor", "fid_std", "recall_ratio", "near_copies"]
COLUMNS += ["train_excess", "train_excess_std", "usefulness_ratio", "latency_ms", "size_mb"]
REAL: dict[tuple[str, str], tuple[float, ...]] = {
    ("devanagari", "flow_matching"): (2.065, 0.5204, 0.0246, 0.841, 0.0, 0.0733, 0.0612, 0.981, 12.9, 4.14),
    ("devanagari", "turbo"): (3.049, 0.5204, 0.0327, 0.840, 0.0, 0.0367, 0.0608, 0.977, 0.67, 2.80),
    ("devanagari", "dcgan"): (27.33, 0.5204, 0.0741, 0.705, 0.0, -0.1333, 0.0606, 0.675, 0.10, 1.43),
    ("mnist", "flow_matching"): (5.300, 0.3460, 0.0500, 0.454, 0.0, 0.1375, 0.0792, 0.975, 10.6, 4.12),
    ("mnist", "turbo"): (2.791, 0.3460, 0.0246, 0.717, 0.0009, 0.0819, 0.0582, 0.980, 0.99, 2.78),
    ("mnist", "dcgan"): (36.04, 0.3460, 0.7154, 0.900, 0.0, 0.0170, 0.0599, 0.965, 0.09, 1.34),
}
AGREEMENT = {
    ("devanagari", "flow_matching"): (0.9864, 0.9794),
    ("devanagari", "turbo"): (0.9812, 0.9717),
    ("mnist", "flow_matching"): (0.9994, 0.9991),
    ("mnist", "turbo"): (0.9963, 0.9954),
}
AGREEMENT_KEYS = ("label_agreement", "label_agreement_second")


def card(dataset: str = "devanagari", variant: str = "flow_matching", **changes: Any) -> Card:
    made = {"dataset": dataset, "variant": variant, "model_sha256": f"{dataset}-{variant}"}
    made |= {
        "seed": 7,
        "sampling_seeds": 3,
        "collapsed_classes": 0,
        "modes_ratio": 0.8,
        "parity_max_abs": 1.2e-6,
        "usefulness_floor": 0.99,
    }
    made |= zip(SHARED_KEYS, SHARED[dataset], strict=True)
    made |= zip(COLUMNS, REAL[dataset, variant], strict=True)
    if (dataset, variant) in AGREEMENT:
        made |= zip(AGREEMENT_KEYS, AGREEMENT[dataset, variant], strict=True)
    return made | changes


def without(whole: Card, *keys: str) -> Card:
    assert set(keys) <= set(whole)
    return {key: value for key, value in whole.items() if key not in keys}


CHAMPION = card(variant="turbo")
UNCONDITIONAL = without(card(), *AGREEMENT_KEYS)


def decide(candidate: Card, champion: Card | None = None, base: Gate = POLICY, **policy: Any) -> Decision:
    """The decision by the shipped policy with changes."""
    decision = gate.decide(candidate, champion, base.model_copy(update=policy))
    assert decision.promote == all(one.passed for one in decision.checks)
    assert len({one.name for one in decision.checks}) == len(decision.checks)
    return decision


def failures(decision: Decision) -> set[str]:
    return {one.name for one in decision.checks if not one.passed}


def failed(candidate: Card, champion: Card | None = None, **policy: Any) -> set[str]:
    return failures(decide(candidate, champion, **policy))


def named(decision: Decision, name: str) -> Check:
    (found,) = (one for one in decision.checks if one.name == name)
    return found


# --- what the shipped profiles score ---


FAR = {("devanagari", "dcgan"): {"fid_ratio", "usefulness_ratio"}, ("mnist", "dcgan"): {"fid_ratio"}}


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_good_generators_may_be_the_first_champion_and_distant_ones_not(profile: str) -> None:
    for dataset, variant in REAL:
        decision = decide(card(dataset, variant), base=shipped(profile))
        assert failures(decision) >= FAR.get((dataset, variant), set())
        assert decision.promote == (variant != "dcgan")
        assert named(decision, "champion").sentence.startswith("There is no champion yet, so that only")


@pytest.mark.parametrize(
    ("dataset", "better", "worse"), [("devanagari", "flow_matching", "turbo"), ("mnist", "turbo", "flow_matching")]
)
def test_the_better_replaces_the_worse_and_not_the_other_way_round(dataset: str, better: str, worse: str) -> None:
    assert failed(card(dataset, better), card(dataset, worse)) == set()
    assert failed(card(dataset, worse), card(dataset, better)) == {"improvement", "noise"}
    assert failed(card(dataset, better), card(dataset, "dcgan")) == set()


# --- each check on its own ---

EXCESS = {"train_excess_floor": 0.25, "train_excess_std": 0.125}
JUST = [  # metric, field, its value, the last metric that passes, one that does not, what else sets the bound
    ("fid_ratio", "max_fid_ratio", 2.5, 2.5, 2.5001, {}),
    ("label_agreement", "min_label_agreement", 0.9, 0.9, 0.8999, {}),
    ("label_agreement_second", "min_label_agreement_second", 0.85, 0.85, 0.8499, {}),
    ("recall_ratio", "min_recall_ratio", 0.3, 0.3, 0.2999, {}),
    ("collapsed_classes", "max_collapsed_classes", 2, 2, 3, {}),
    ("modes_ratio", "min_modes_ratio", 0.5, 0.5, 0.4999, {}),
    ("near_copies", "max_near_copies_excess", 0.25, 0.75, 0.7501, {"near_copies_floor": 0.5}),
    ("train_excess", "max_train_excess_deviations", 4.0, 0.75, 0.7501, EXCESS),
    ("usefulness_ratio", "min_usefulness_ratio", 0.8, 0.8, 0.7999, {}),
    ("parity_max_abs", "max_parity", 1e-4, 1e-4, 1.01e-4, {}),
    ("size_mb", "max_size_mb", 100.0, 100.0, 100.01, {}),
    ("latency_ms", "max_latency_ms", 250.0, 250.0, 250.1, {}),
]
ALONE = [one[0] for one in JUST]


@pytest.mark.parametrize(("metric", "field", "setting", "passes", "fails", "beside"), JUST, ids=ALONE)
def test_a_bound_is_reached_and_passed(
    metric: str, field: str, setting: float, passes: float, fails: float, beside: Card
) -> None:
    assert failed(card(**beside, **{metric: passes}), **{field: setting}) == set()
    decision = decide(card(**beside, **{metric: fails}), **{field: setting})
    assert failures(decision) == {metric}
    check = named(decision, metric)
    assert (check.value, check.bound) == (fails, passes)
    assert f"gate.{field}" in check.sentence


@pytest.mark.parametrize("broken", [None, "0.99", math.nan, math.inf, -math.inf, True, [1.0], 10**400], ids=repr)
def test_a_figure_that_is_none_fails_its_check(broken: Any) -> None:
    for metric in ALONE:
        decision = decide(card(**{metric: broken}))
        assert failures(decision) == {metric}
        said = f"In the candidate's scorecard {metric} is not a finite number; score the candidate again."
        assert named(decision, metric).sentence == said


def test_a_figure_that_is_missing_fails_its_check() -> None:
    others = {"near_copies_floor": "near_copies"} | dict.fromkeys(EXCESS, "train_excess")
    assert failed(without(card(), "modes_ratio")) == set(), "no class has enough images for it"
    for key, check in (dict(zip(ALONE, ALONE, strict=True)) | others).items():
        if key == "modes_ratio":
            continue
        decision = decide(without(card(), key))
        assert failures(decision) == {check}
        said = f"The candidate's scorecard has no {key}; score the candidate again."
        assert named(decision, check) == Check(check, None, None, False, said)


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({"fid_std": -0.01}, "noise", "fid_std is below 0"),
        ({"train_excess_std": -0.01}, "train_excess", "train_excess_std is below 0"),
        ({"sampling_seeds": 1}, "noise", "evaluate.sampling_seeds of 2 or more"),
        ({"fid_floor": 0.0}, "noise", "fid_floor is not above 0"),
    ],
)
def test_a_spread_that_nobody_knows_fails_its_check(changes: Card, name: str, said: str) -> None:
    decision = decide(card(**changes), CHAMPION | changes)
    assert failures(decision) == {name}
    assert said in named(decision, name).sentence


@pytest.mark.parametrize(
    ("value", "comparison"),
    [
        (0.912, "91.2%, below the 95.0%"),
        (0.94999, "94.999%, below the 95.000%"),
        (0.9499, "94.99%, below the 95.00%"),
        (0.95, "95.0%, no less than the 95.0%"),
    ],
)
def test_a_figure_and_its_bound_look_different_where_they_are(value: float, comparison: str) -> None:
    check = named(decide(card(label_agreement=value), min_label_agreement=0.95), "label_agreement")
    sentence = f"Label agreement is {comparison} that gate.min_label_agreement requires."
    assert check == Check("label_agreement", value, 0.95, value >= 0.95, sentence)


# --- against the champion ---


def test_the_champion_itself_is_refused() -> None:
    decision = decide(card(), CHAMPION | {"model_sha256": card()["model_sha256"]})
    assert failures(decision) == {"new_model"}
    assert named(decision, "new_model").sentence == "This very model is already champion."


@pytest.mark.parametrize("key", ["dataset", "data_digest", "judge_sha256", "n_generated", "sampling_seeds", "seed"])
def test_cards_scored_differently_or_nobody_knows_how_are_not_compared(key: str) -> None:
    other = CHAMPION[key] + ("x" if isinstance(CHAMPION[key], str) else 1)
    decision = decide(card(), CHAMPION | {key: other})
    assert failures(decision) == {"same_yardstick"}
    assert f"differ in {key}; score both again" in named(decision, "same_yardstick").sentence
    for who, ours, theirs in (
        ("candidate", without(card(), key), CHAMPION),
        ("champion", card(), without(CHAMPION, key)),
    ):
        said = f"The {who}'s scorecard has no {key}; score the {who} again."
        assert named(decide(ours, theirs), "same_yardstick") == Check("same_yardstick", None, None, False, said)


@pytest.mark.parametrize("same", [None, "", 2300, math.nan, ["x"]], ids=repr)
def test_two_digests_that_are_none_are_not_the_same(same: Any) -> None:
    for key, check in (("data_digest", "same_yardstick"), ("model_sha256", "new_model")):
        assert failed(card(**{key: same}), CHAMPION | {key: same}) == {check}


def test_an_improvement_too_small_to_matter() -> None:
    certain = {"fid_std": 1e-6}
    champion = CHAMPION | certain | {"fid_ratio": 4.0}
    assert failed(card(**certain, fid_ratio=3.0), champion, min_improvement=0.25) == set()
    decision = decide(card(**certain, fid_ratio=3.01), champion, min_improvement=0.25)
    assert failures(decision) == {"improvement"}
    check = named(decision, "improvement")
    assert check.bound == 3.0
    assert "3.01; it takes 3 or less to improve on the champion's 4 by the 25.0% of" in check.sentence


def test_an_improvement_that_chance_explains_is_a_tie() -> None:
    spread = {"fid_floor": 0.5, "fid_std": 0.05}  # deviations of 0.1 in ratios
    margin = stats.t.ppf(0.975, 4) * 0.1 * math.sqrt(2 / 3)
    champion = CHAMPION | spread | {"fid_ratio": 4.0}
    assert failed(card(**spread, fid_ratio=4 - 1.001 * margin), champion, min_improvement=0.0) == set()
    decision = decide(card(**spread, fid_ratio=4 - 0.999 * margin), champion, min_improvement=0.0)
    assert failures(decision) == {"noise"}
    assert named(decision, "noise").bound == pytest.approx(margin)
    assert "a tie keeps the champion" in named(decision, "noise").sentence


def test_equal_figures_keep_the_champion_even_without_any_spread() -> None:
    none = {"fid_std": 0.0, "fid_ratio": 3.0}
    assert failed(card(**none), CHAMPION | none, min_improvement=0.0) == {"noise"}
    assert failed(card(**none | {"fid_ratio": 2.9999}), CHAMPION | none, min_improvement=0.0) == set()


def test_agreement_may_fall_a_little_and_no_further() -> None:
    champion, drop = CHAMPION | {"label_agreement": 1.0}, {"max_label_agreement_drop": 0.0625}
    assert failed(card(label_agreement=0.9375), champion, **drop) == set()
    decision = decide(card(label_agreement=0.9374), champion, **drop)
    assert failures(decision) == {"label_agreement_drop"}
    assert "the champion's 100.0%" in named(decision, "label_agreement_drop").sentence


def test_agreement_is_required_only_of_generators_that_take_labels() -> None:
    assert failed(UNCONDITIONAL) == failed(UNCONDITIONAL, card(variant="dcgan")) == set()
    assert failed(card(), conditional="required") == set()
    decision = decide(UNCONDITIONAL, conditional="required")
    assert failures(decision) == {"conditional"}
    said = "The candidate takes no labels, and gate.conditional is `required`."
    assert named(decision, "conditional").sentence == said
    assert failed(UNCONDITIONAL, CHAMPION) == {"label_agreement_drop"}, "the champion takes labels"


def test_usefulness_is_required_only_where_it_was_measured() -> None:
    unmeasured = without(card(), "usefulness_ratio", "usefulness_floor")
    assert failed(unmeasured, CHAMPION) == set()
    assert failed(unmeasured | {"usefulness": 0.1}, CHAMPION) == set(), "shares without 1.0 give no floor"


@pytest.mark.parametrize(
    ("metric", "champions", "bound"),
    [
        ("precision", 0.5, 0.625),
        ("recall", 0.5, 0.625),
        ("label_agreement", 0.8, 1.0),
        ("kid", 0.04, 0.03),
        ("kid", -0.04, -0.05),
    ],
)
def test_another_metric_leads(metric: str, champions: float, bound: float) -> None:
    policy = {"metric": metric, "min_improvement": 0.25, "max_label_agreement_drop": 0.5, "min_label_agreement": 0.1}
    spread = {f"{metric}_std": 1e-5, "fid_ratio": 5.0}
    champion, off = CHAMPION | spread | {metric: champions}, 1e-4 if metric == "kid" else -1e-4

    def against(value: float, **changes: float) -> Decision:
        return decide(card(**{**spread, metric: value, **changes}), champion, **policy)

    assert named(against(bound), "improvement").bound == pytest.approx(bound)
    assert failures(against(bound - off)) == set()
    assert failures(against(bound + off)) == {"improvement"}
    assert failures(against(champions + off)) == {"improvement", "noise"}
    assert failures(against(bound - off, **{f"{metric}_std": 1.0})) == {"noise"}


# --- forms ---


def test_the_form_of_decision_json() -> None:
    entries = decide(card(), CHAMPION).as_dict()
    assert set(entries) == {"promote", "reasons"}
    assert all(list(one) == ["name", "value", "bound", "passed", "sentence"] for one in entries["reasons"])
    assert json.loads(json.dumps(entries, allow_nan=False)) == entries
    beyond = named(decide(card(train_excess_std=1e308)), "train_excess")
    assert (beyond.bound, beyond.passed) == (None, True), "a bound beyond all numbers is none in JSON"


def test_the_table_begins_with_the_verdict_and_what_failed() -> None:
    good = decide(card(), CHAMPION)
    lines = good.markdown().splitlines()
    assert lines[0] == f"**Promote**: all {len(good.checks)} checks passed."
    assert len(lines) == len(good.checks) + 4
    bad = decide(card(size_mb=999.0, recall_ratio=0.1), CHAMPION).markdown().splitlines()
    assert bad[0] == f"**Refuse**: 2 of {len(good.checks)} checks failed (recall_ratio, size_mb)."
    assert bad[4].startswith("| **failed** | recall_ratio | 0.1 | 0.3 | Recall is 10.0% of its floor, below the 30.0%")
    assert bad[5].startswith("| **failed** | size_mb | 999 | 100 |")
    assert all(line.startswith("| passed |") for line in bad[6:])
    assert "| a\\|b c |" in decide(card(model_sha256="a|b\nc"), CHAMPION).markdown(), "an odd name breaks no row"


# --- whatever a scorecard holds ---

KEYS = sorted(set(card()) | {f"{metric}_std" for metric in METRICS} | set(METRICS))
NUMBERS = st.floats(allow_subnormal=False)  # other tests in this process have torch flush subnormal numbers to zero
ODD = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.just(10**400), NUMBERS),
    *(st.text(max_size=4), st.lists(st.integers(), max_size=2), st.just({})),
)
LOWER = (
    "fid_ratio",
    "kid",
    "collapsed_classes",
    "near_copies",
    "train_excess",
    "parity_max_abs",
    "size_mb",
    "latency_ms",
)
HIGHER = (
    "precision",
    "recall",
    "label_agreement",
    "label_agreement_second",
    "recall_ratio",
    "modes_ratio",
    "usefulness_ratio",
)


def worse(value: float, by: float, key: str, sign: int = 1) -> float:
    return value + sign * by if key in LOWER else value - sign * by


@pytest.mark.parametrize("metric", METRICS)
def test_no_worse_candidate_and_no_better_champion_turns_a_refusal(metric: str) -> None:
    figures = {"kid": 0.01, "precision": 0.6, "recall": 0.5} | {f"{one}_std": 0.01 for one in METRICS}
    known = [card(*which, **figures) for which in REAL]
    for ours, champion in itertools.product(known, repeat=2):
        before = failed(ours, champion, metric=metric)
        for key, by in itertools.product(LOWER + HIGHER, (1e-9, 0.01, 0.5, 20.0, 1e300)):
            if key in ours:
                spoilt = ours | {key: worse(ours[key], by, key)}
                assert before <= failed(spoilt, champion, metric=metric), (key, by)
            if key in champion:
                better = champion | {key: worse(champion[key], by, key, -1)}
                assert before <= failed(ours, better, metric=metric), (key, by)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from(METRICS), st.sampled_from(["any", "required"]))
def test_any_scorecard_gets_a_decision(data: st.DataObject, metric: str, conditional: str) -> None:
    def odd(base: Card) -> Card:
        changes = data.draw(st.dictionaries(st.sampled_from(KEYS), ODD, max_size=8))
        gone = data.draw(st.sets(st.sampled_from(KEYS), max_size=4))
        return {key: value for key, value in (base | changes).items() if key not in gone}

    ours, champion = odd(card()), data.draw(st.sampled_from([None, {}, odd(CHAMPION)]))
    decision = decide(ours, champion, metric=metric, conditional=conditional)
    for check in decision.checks:
        assert check.sentence.endswith(".")
        assert check.sentence == " ".join(check.sentence.split())
    for key in (*set(LOWER) - {"kid"}, "recall_ratio"):
        value = ours.get(key)
        is_number = type(value) in (int, float) and abs(value) < 1e308 and value == value
        assert is_number or key in failures(decision)
    json.dumps(decision.as_dict(), allow_nan=False)
    assert len(decision.markdown().splitlines()) == len(decision.checks) + 4
