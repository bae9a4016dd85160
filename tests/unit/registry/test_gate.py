"""Who becomes champion: every check on its own, what odd scorecards do, and that worse never wins."""

import ast
import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lekhani import params
from lekhani.evaluate.scorecard import tie
from lekhani.registry import gate
from lekhani.registry.gate import Check, Decision, Policy, decide, t_quantile, welch_band

ROOT = Path(__file__).parents[3]
Card = dict[str, Any]


def shipped(profile: str) -> Policy:
    return Policy(**params.resolve(params.read(ROOT / "params.yaml") | {"profile": profile}).gate.model_dump())


POLICY = shipped("quick")

# What the shipped quick profile scores on the embedded data, rounded.
SHARED: dict[str, Card] = {
    "devanagari": {
        "data_digest": "4c89",
        "judge_sha256": "3435",
        "n_generated": 2300,
        "near_copies_floor": 0.0,
        "train_excess_floor": 0.016,
    },
    "mnist": {
        "data_digest": "c687",
        "judge_sha256": "a574",
        "n_generated": 1078,
        "near_copies_floor": 0.007,
        "train_excess_floor": 0.043,
    },
}
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


def card(dataset: str = "devanagari", variant: str = "flow_matching", **changes: Any) -> Card:
    made = {
        "dataset": dataset,
        "variant": variant,
        "model_sha256": f"{dataset}-{variant}",
        "seed": 7,
        "sampling_seeds": 3,
        **SHARED[dataset],
    }
    made |= {
        "collapsed_classes": 0,
        "parity_max_abs": 1.2e-6,
        "usefulness_floor": 0.99,
        **dict(zip(COLUMNS, REAL[dataset, variant], strict=True)),
    }
    if (dataset, variant) in AGREEMENT:
        made |= dict(zip(("label_agreement", "label_agreement_second"), AGREEMENT[dataset, variant], strict=True))
    return made | changes


def without(whole: Card, *keys: str) -> Card:
    assert set(keys) <= set(whole)
    return {key: value for key, value in whole.items() if key not in keys}


CHAMPION = card(variant="turbo")


def failed(decision: Decision) -> set[str]:
    assert decision.promote == all(one.passed for one in decision.checks)
    names = [one.name for one in decision.checks]
    assert len(names) == len(set(names))
    return {one.name for one in decision.checks if not one.passed}


def named(decision: Decision, name: str) -> Check:
    (found,) = (one for one in decision.checks if one.name == name)
    return found


# --- the policy ---


def test_params_and_gate_know_the_same_policy() -> None:
    assert [one.name for one in fields(Policy)] == list(params.Gate.model_fields)
    hints = get_type_hints(Policy)
    for name in ("metric", "conditional"):
        assert get_args(params.Gate.model_fields[name].annotation) == get_args(hints[name])


def test_every_bound_has_a_direction_by_its_name_and_a_description() -> None:
    for name, field in params.Gate.model_fields.items():
        assert name in ("metric", "conditional") or name.startswith(("min_", "max_"))
        assert field.description


def test_defaults_are_what_is_shipped() -> None:
    written = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["gate"]
    defaults = {name: field.default for name, field in params.Gate.model_fields.items() if not field.is_required()}
    assert {key: float(value) if key == "max_parity" else value for key, value in written.items()} == defaults


def test_nothing_is_imported_but_what_python_brings() -> None:
    tree = ast.parse(Path(gate.__file__).read_text(encoding="utf-8"))
    names = {one.module for one in ast.walk(tree) if isinstance(one, ast.ImportFrom)}
    names |= {alias.name for one in ast.walk(tree) if isinstance(one, ast.Import) for alias in one.names}
    assert names == {"math", "typing", "dataclasses", "collections.abc"}


# --- what the shipped profiles score ---


@pytest.mark.parametrize("profile", ["quick", "full"])
@pytest.mark.parametrize(("dataset", "variant"), AGREEMENT)
def test_good_generators_may_be_the_first_champion(profile: str, dataset: str, variant: str) -> None:
    decision = decide(card(dataset, variant), None, shipped(profile))
    assert failed(decision) == set()
    assert (
        named(decision, "champion").sentence
        == "There is no champion yet, so that only the candidate's own figures count."
    )


@pytest.mark.parametrize(
    ("dataset", "reasons"), [("devanagari", {"fid_ratio", "usefulness_ratio"}), ("mnist", {"fid_ratio"})]
)
def test_a_distant_unconditional_generator_is_no_champion(dataset: str, reasons: set[str]) -> None:
    assert failed(decide(card(dataset, "dcgan"), None, POLICY)) == reasons


@pytest.mark.parametrize(
    ("dataset", "better", "worse"), [("devanagari", "flow_matching", "turbo"), ("mnist", "turbo", "flow_matching")]
)
def test_the_better_replaces_the_worse_and_not_the_other_way_round(dataset: str, better: str, worse: str) -> None:
    assert failed(decide(card(dataset, better), card(dataset, worse), POLICY)) == set()
    assert failed(decide(card(dataset, worse), card(dataset, better), POLICY)) == {"improvement", "noise"}
    assert failed(decide(card(dataset, better), card(dataset, "dcgan"), POLICY)) == set()


@pytest.mark.parametrize(
    ("faults", "reasons"),
    [
        (  # bare_bones at quick
            {
                "fid_ratio": 244.0,
                "recall_ratio": 0.0,
                "label_agreement": 0.03,
                "label_agreement_second": 0.02,
                "usefulness_ratio": 0.03,
            },
            {"fid_ratio", "recall_ratio", "label_agreement", "label_agreement_second", "usefulness_ratio"},
        ),
        (
            {"collapsed_classes": 31, "recall_ratio": 0.025, "fid_ratio": 9.0},
            {"collapsed_classes", "recall_ratio"},
        ),  # legible, and always the same
        (
            {"fid_ratio": 1.0, "near_copies": 0.9, "train_excess": 0.97},
            {"near_copies", "train_excess"},
        ),  # the train split again
    ],
    ids=["garbage", "collapsed", "memorising"],
)
def test_planted_models_are_refused(faults: Card, reasons: set[str]) -> None:
    assert failed(decide(card(**faults), None, POLICY)) == reasons
    assert reasons <= failed(decide(card(**faults), card(variant="dcgan"), POLICY))


# --- each check on its own ---

JUST = [  # metric, field, the last value that passes, one that does not, changes of the card that set the bound
    ("fid_ratio", {"max_fid_ratio": 2.5}, 2.5, 2.5001, {}),
    ("label_agreement", {"min_label_agreement": 0.9}, 0.9, 0.8999, {}),
    ("label_agreement_second", {"min_label_agreement_second": 0.85}, 0.85, 0.8499, {}),
    ("recall_ratio", {"min_recall_ratio": 0.3}, 0.3, 0.2999, {}),
    ("collapsed_classes", {"max_collapsed_classes": 2}, 2, 3, {}),
    ("near_copies", {"max_near_copies_excess": 0.25}, 0.75, 0.7501, {"near_copies_floor": 0.5}),
    (
        "train_excess",
        {"max_train_excess_deviations": 4.0},
        0.75,
        0.7501,
        {"train_excess_floor": 0.25, "train_excess_std": 0.125},
    ),
    ("usefulness_ratio", {"min_usefulness_ratio": 0.8}, 0.8, 0.7999, {}),
    ("parity_max_abs", {"max_parity": 1e-4}, 1e-4, 1.01e-4, {}),
    ("size_mb", {"max_size_mb": 100.0}, 100.0, 100.01, {}),
    ("latency_ms", {"max_latency_ms": 250.0}, 250.0, 250.1, {}),
]
ALONE = [one[0] for one in JUST]


@pytest.mark.parametrize(("metric", "bound", "passes", "fails", "beside"), JUST, ids=ALONE)
def test_a_bound_is_reached_and_passed(metric: str, bound: Card, passes: float, fails: float, beside: Card) -> None:
    policy = replace(POLICY, **bound)
    assert failed(decide(card(**beside, **{metric: passes}), None, policy)) == set()
    decision = decide(card(**beside, **{metric: fails}), None, policy)
    assert failed(decision) == {metric}
    check = named(decision, metric)
    assert (check.value, check.bound) == (fails, passes)
    (field,) = bound
    assert f"gate.{field}" in check.sentence


@pytest.mark.parametrize("broken", [None, "0.99", math.nan, math.inf, -math.inf, True, [1.0], 10**400], ids=repr)
@pytest.mark.parametrize("metric", ALONE)
def test_a_figure_that_is_none_fails_its_check(metric: str, broken: Any) -> None:
    decision = decide(card(**{metric: broken}), None, POLICY)
    assert failed(decision) == {metric}
    assert (
        named(decision, metric).sentence
        == f"In the candidate's scorecard {metric} is no finite number; score the candidate again."
    )


@pytest.mark.parametrize(
    ("key", "check"),
    [(metric, metric) for metric in ALONE]
    + [
        ("near_copies_floor", "near_copies"),
        ("train_excess_floor", "train_excess"),
        ("train_excess_std", "train_excess"),
    ],
)
def test_a_figure_that_is_missing_fails_its_check(key: str, check: str) -> None:
    decision = decide(without(card(), key), None, POLICY)
    assert failed(decision) == {check}
    assert named(decision, check) == Check(
        check, None, None, False, f"The candidate's scorecard has no {key}; score the candidate again."
    )


@pytest.mark.parametrize("key", ["fid_std", "train_excess_std"])
def test_a_deviation_below_zero_is_none(key: str) -> None:
    name = {"fid_std": "noise", "train_excess_std": "train_excess"}[key]
    decision = decide(card(**{key: -0.01}), CHAMPION, POLICY)
    assert failed(decision) == {name}
    assert f"{key} is below 0" in named(decision, name).sentence


def test_a_sentence_for_people() -> None:
    check = named(
        decide(card(label_agreement=0.912), None, replace(POLICY, min_label_agreement=0.95)), "label_agreement"
    )
    assert check == Check(
        "label_agreement",
        0.912,
        0.95,
        False,
        "Label agreement is 91.2%, below the 95.0% that gate.min_label_agreement asks for.",
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.94999, "94.999%, below the 95.000% that"),
        (0.9499, "94.99%, below the 95.00% that"),
        (0.95, "95.0%, no less than the 95.0% that"),
    ],
)
def test_a_figure_and_its_bound_look_different_where_they_are(value: float, shown: str) -> None:
    assert (
        shown
        in named(
            decide(card(label_agreement=value), None, replace(POLICY, min_label_agreement=0.95)), "label_agreement"
        ).sentence
    )


# --- against the champion ---


def test_the_champion_itself_is_refused() -> None:
    decision = decide(card(), CHAMPION | {"model_sha256": card()["model_sha256"]}, POLICY)
    assert failed(decision) == {"new_model"}
    assert named(decision, "new_model").sentence == "This very model is already champion."


YARDSTICK = ["dataset", "data_digest", "judge_sha256", "n_generated", "sampling_seeds", "seed"]


@pytest.mark.parametrize("key", YARDSTICK)
def test_cards_scored_differently_are_not_compared(key: str) -> None:
    other = CHAMPION[key] + ("x" if isinstance(CHAMPION[key], str) else 1)
    decision = decide(card(), CHAMPION | {key: other}, POLICY)
    assert failed(decision) == {"same_yardstick"}
    sentence = named(decision, "same_yardstick").sentence
    assert f"differ in {key};" in sentence
    assert "score both again" in sentence


@pytest.mark.parametrize("key", YARDSTICK)
def test_a_card_that_does_not_say_how_it_was_scored_is_not_compared(key: str) -> None:
    for who, ours, theirs in (
        ("candidate", without(card(), key), CHAMPION),
        ("champion", card(), without(CHAMPION, key)),
    ):
        check = named(decide(ours, theirs, POLICY), "same_yardstick")
        assert check == Check(
            "same_yardstick", None, None, False, f"The {who}'s scorecard has no {key}; score the {who} again."
        )


@pytest.mark.parametrize("same", [None, "", 2300, math.nan, ["x"]], ids=repr)
def test_two_digests_that_are_none_are_not_the_same(same: Any) -> None:
    for key in ("data_digest", "model_sha256"):
        assert failed(decide(card(**{key: same}), CHAMPION | {key: same}, POLICY)) == {
            "same_yardstick" if key == "data_digest" else "new_model"
        }


def test_the_champions_card_in_an_older_format() -> None:
    decision = decide(
        card(),
        without(CHAMPION, "data_digest", "fid_std", "sampling_seeds", "collapsed_classes", "near_copies"),
        POLICY,
    )
    assert failed(decision) == {"same_yardstick", "noise"}
    assert (
        named(decision, "same_yardstick").sentence
        == "The champion's scorecard has no data_digest; score the champion again."
    )
    assert failed(decide(card(), {}, POLICY)) == {"new_model", "same_yardstick", "improvement", "noise"}


def test_an_improvement_too_small_to_matter() -> None:
    sure, policy = {"fid_std": 1e-6}, replace(POLICY, min_improvement=0.25)
    champion = CHAMPION | sure | {"fid_ratio": 4.0}
    assert failed(decide(card(**sure, fid_ratio=3.0), champion, policy)) == set()
    decision = decide(card(**sure, fid_ratio=3.01), champion, policy)
    assert failed(decision) == {"improvement"}
    assert named(decision, "improvement").bound == 3.0
    assert (
        "3.01; it takes 3 or less to better the champion's 4 by the 25.0% that"
        in named(decision, "improvement").sentence
    )


def test_an_improvement_that_chance_may_make_is_a_tie() -> None:
    policy = replace(POLICY, min_improvement=0.0)
    spread = {"fid_floor": 0.5, "fid_std": 0.05}  # deviations of 0.1 in ratios
    band = stats.t.ppf(0.975, 4) * 0.1 * math.sqrt(2 / 3)
    champion = CHAMPION | spread | {"fid_ratio": 4.0}
    assert failed(decide(card(**spread, fid_ratio=4 - 1.001 * band), champion, policy)) == set()
    decision = decide(card(**spread, fid_ratio=4 - 0.999 * band), champion, policy)
    assert failed(decision) == {"noise"}
    assert named(decision, "noise").bound == pytest.approx(band, rel=1e-5)
    assert "a tie keeps the champion" in named(decision, "noise").sentence


def test_equal_figures_keep_the_champion_even_without_any_spread() -> None:
    none = {"fid_std": 0.0, "fid_ratio": 3.0}
    policy = replace(POLICY, min_improvement=0.0)
    assert failed(decide(card(**none), CHAMPION | none, policy)) == {"noise"}
    assert failed(decide(card(**none | {"fid_ratio": 2.9999}), CHAMPION | none, policy)) == set()


def test_a_single_sampling_seed_tells_nothing_of_chance() -> None:
    once, champion = (without(one, "fid_std") | {"sampling_seeds": 1} for one in (card(), CHAMPION))
    decision = decide(once, champion, POLICY)
    assert failed(decision) == {"noise"}
    assert "evaluate.sampling_seeds of 2 or more" in named(decision, "noise").sentence
    assert failed(decide(once, None, POLICY)) == set()


def test_a_floor_of_zero_gives_no_ratio_of_deviations() -> None:
    assert failed(decide(card(fid_floor=0.0), CHAMPION, POLICY)) == {"noise"}


def test_agreement_may_fall_a_little_and_no_further() -> None:
    policy = replace(POLICY, max_label_agreement_drop=0.0625)
    assert failed(decide(card(label_agreement=0.9375), CHAMPION | {"label_agreement": 1.0}, policy)) == set()
    decision = decide(card(label_agreement=0.9374), CHAMPION | {"label_agreement": 1.0}, policy)
    assert failed(decision) == {"label_agreement_drop"}
    assert "the champion's 100.0%" in named(decision, "label_agreement_drop").sentence
    assert (
        "the champion's scorecard label_agreement"
        in named(decide(card(), CHAMPION | {"label_agreement": "1"}, policy), "label_agreement_drop").sentence
    )


UNCONDITIONAL = without(card(), "label_agreement", "label_agreement_second")


def test_agreement_is_asked_only_of_generators_that_take_labels() -> None:
    assert failed(decide(UNCONDITIONAL, None, POLICY)) == set()
    assert failed(decide(UNCONDITIONAL, card(variant="dcgan"), POLICY)) == set()
    assert failed(decide(card(), None, replace(POLICY, conditional="required"))) == set()
    decision = decide(UNCONDITIONAL, None, replace(POLICY, conditional="required"))
    assert failed(decision) == {"conditional"}
    assert (
        named(decision, "conditional").sentence == "The candidate takes no label, and gate.conditional is `required`."
    )


def test_a_champion_that_takes_labels_gives_way_to_none_that_does_not() -> None:
    assert failed(decide(UNCONDITIONAL, CHAMPION, POLICY)) == {"label_agreement_drop"}


def test_usefulness_is_asked_only_where_it_was_measured() -> None:
    unmeasured = without(card(), "usefulness_ratio", "usefulness_floor")
    assert failed(decide(unmeasured, CHAMPION, POLICY)) == set()
    assert (
        failed(decide(unmeasured | {"usefulness": 0.1}, CHAMPION, POLICY)) == set()
    )  # shares without 1.0 give no floor


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
    policy = replace(POLICY, metric=metric, min_improvement=0.25, max_label_agreement_drop=0.5, min_label_agreement=0.1)
    lower, spread = metric == "kid", {f"{metric}_std": 1e-5, "fid_ratio": 5.0}
    champion = CHAMPION | spread | {metric: champions}
    assert named(decide(card(**spread, **{metric: bound}), champion, policy), "improvement").bound == pytest.approx(
        bound
    )
    off = 1e-4 if lower else -1e-4
    assert failed(decide(card(**spread, **{metric: bound - off}), champion, policy)) == set()
    assert failed(decide(card(**spread, **{metric: bound + off}), champion, policy)) == {"improvement"}
    assert failed(decide(card(**spread, **{metric: champions + off}), champion, policy)) == {"improvement", "noise"}
    wide = {f"{metric}_std": 1.0}
    assert failed(decide(card(**spread | wide, **{metric: bound - off}), champion, policy)) == {"noise"}


# --- Student's t ---


@pytest.mark.parametrize("freedom", [1, 1.05, 1.7, 2, 2.5, 4, 7.3, 30, 333, 1e5, 1e9])
def test_quantiles_are_scipys(freedom: float) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-5)


def test_a_difference_of_the_band_has_a_p_value_of_five_percent() -> None:
    rng = np.random.default_rng([1, 2])
    for _ in range(40):
        (std, other), (n, m) = 10.0 ** rng.uniform(-4, 4, 2), (int(one) for one in rng.integers(2, 12, 2))
        band = welch_band(std, n, other, m)
        assert stats.ttest_ind_from_stats(band, std, n, 0.0, other, m, equal_var=False).pvalue == pytest.approx(
            0.05, rel=1e-5
        )


def test_bands_of_extreme_deviations() -> None:
    assert welch_band(0.0, 3, 0.0, 3) == 0
    assert welch_band(0.0, 3, 1.0, 3) == pytest.approx(stats.t.ppf(0.975, 2) / math.sqrt(3), rel=1e-5)
    assert welch_band(1e-300, 3, 1e-300, 3) == pytest.approx(1e-300 * welch_band(1, 3, 1, 3))
    assert welch_band(1e300, 3, 1e300, 3) == pytest.approx(1e300 * welch_band(1, 3, 1, 3))
    assert welch_band(math.inf, 3, 1.0, 3) == math.inf


def test_a_tie_on_the_leaderboard_is_a_tie_at_the_gate() -> None:
    rng = np.random.default_rng([3, 4])
    policy, met = replace(POLICY, min_improvement=0.0), set()
    for _ in range(60):
        n, floor = int(rng.integers(2, 8)), 0.5
        ours, theirs = (
            {
                "fid": (fid := float(rng.uniform(2, 2.4))),
                "fid_ratio": fid / floor,
                "fid_std": float(rng.uniform(0, 0.2)),
                "fid_floor": floor,
            }
            for _ in range(2)
        )
        ours, theirs = card(**ours, sampling_seeds=n), CHAMPION | theirs | {"sampling_seeds": n}
        passed = named(decide(ours, theirs, policy), "noise").passed
        assert passed == (ours["fid"] < theirs["fid"] and not tie(ours, theirs))
        met.add(passed)
    assert met == {True, False}


# --- forms ---


def test_the_form_of_decision_json() -> None:
    entries = decide(card(), CHAMPION, POLICY).as_dict()
    assert set(entries) == {"promote", "reasons"}
    assert all(list(one) == ["name", "value", "bound", "passed", "sentence"] for one in entries["reasons"])
    assert json.loads(json.dumps(entries, allow_nan=False)) == entries


def test_a_bound_beyond_all_numbers_is_no_number_in_json() -> None:
    check = named(decide(card(train_excess_std=1e308), None, POLICY), "train_excess")
    assert (check.bound, check.passed) == (None, True)
    json.dumps(check.__dict__, allow_nan=False)


def test_the_table_begins_with_the_verdict_and_what_failed() -> None:
    good = decide(card(), CHAMPION, POLICY)
    lines = good.markdown().splitlines()
    assert lines[0] == f"**Promote**: all {len(good.checks)} checks passed."
    assert len(lines) == len(good.checks) + 4
    bad = decide(card(size_mb=999.0, recall_ratio=0.1), CHAMPION, POLICY).markdown().splitlines()
    assert bad[0] == f"**Refuse**: 2 of {len(good.checks)} checks failed (recall_ratio, size_mb)."
    assert bad[4].startswith(
        "| **failed** | recall_ratio | 0.1 | 0.3 | Recall is 10.0% of its floor, below the 30.0% that"
    )
    assert bad[5].startswith("| **failed** | size_mb | 999 | 100 |")
    assert all(line.startswith("| passed |") for line in bad[6:])


def test_odd_names_do_not_break_the_table() -> None:
    decision = decide(card(model_sha256="a|b\nc"), CHAMPION, POLICY)
    assert len(decision.markdown().splitlines()) == len(decision.checks) + 4
    assert "| a\\|b c |" in decision.markdown()


# --- whatever a scorecard holds ---

KEYS = sorted(set(card()) | {f"{metric}_std" for metric in get_args(gate.Metric)} | set(get_args(gate.Metric)))
# No subnormal numbers: other tests in this process have torch flush them to zero.
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(allow_subnormal=False),
    st.text(max_size=4),
    st.lists(st.integers(), max_size=2),
    st.just({}),
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
HIGHER = ("precision", "recall", "label_agreement", "label_agreement_second", "recall_ratio", "usefulness_ratio")
METRICS = st.sampled_from(get_args(gate.Metric))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    conditional: Any = draw(st.sampled_from(["any", "required"]))
    return replace(
        POLICY, metric=draw(METRICS), conditional=conditional, min_improvement=draw(st.sampled_from([0.0, 0.02, 0.3]))
    )


@st.composite
def cards(draw: st.DrawFn, base: Card) -> Card:
    """A card whose metrics lie on either side of their bounds, most often on the right one, and of the other card's."""
    made = dict(base)
    for key in LOWER + HIGHER:
        if draw(st.integers(0, 3)) == 0:
            made[key] = draw(
                st.one_of(
                    st.floats(-1, 2, allow_subnormal=False),
                    st.sampled_from([0.0, 0.03, 0.9, 0.97, 3.0, 13.0, 300.0]),
                    st.floats(allow_nan=False, allow_subnormal=False),
                )
            )
    for metric in get_args(gate.Metric):
        made.setdefault(metric, draw(st.sampled_from([-0.01, 0.01, 0.5, 0.6])))
        made[f"{metric}_std"] = draw(st.sampled_from([0.0, 1e-4, 0.05]))
    return made


def worse(value: float, by: float, key: str, sign: int) -> float:
    return value + sign * by if key in LOWER else value - sign * by


AMOUNT = st.one_of(st.sampled_from([0.0, 1e-9, 0.01, 0.5, 20.0]), st.floats(0, 1e300, allow_subnormal=False))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_gets_worse_never_passes_a_check_it_failed(data: st.DataObject) -> None:
    policy, ours = data.draw(policies()), data.draw(cards(card()))
    champion = data.draw(st.one_of(st.none(), cards(CHAMPION)))
    key = data.draw(st.sampled_from(LOWER + HIGHER))
    spoilt = data.draw(
        st.one_of(
            AMOUNT.map(lambda by: worse(ours[key], by, key, 1)), st.sampled_from([math.nan, math.inf, "x", None, True])
        )
    )
    before = decide(ours, champion, policy)
    after = decide(ours | {key: spoilt}, champion, policy)
    assert failed(before) <= failed(after)
    assert before.promote or not after.promote


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_better_champion_never_lets_pass_what_it_refused(data: st.DataObject) -> None:
    policy, ours, champion = data.draw(policies()), data.draw(cards(card())), data.draw(cards(CHAMPION))
    key = data.draw(st.sampled_from(LOWER + HIGHER))
    better = worse(champion[key], data.draw(AMOUNT), key, -1)
    assert failed(decide(ours, champion, policy)) <= failed(decide(ours, champion | {key: better}, policy))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_scorecard_gets_a_decision(data: st.DataObject) -> None:
    changes = st.dictionaries(st.sampled_from(KEYS), ODD, max_size=8)
    gone = st.sets(st.sampled_from(KEYS), max_size=4)

    def odd(base: Card) -> Card:
        left_out = data.draw(gone)
        return {key: value for key, value in (base | data.draw(changes)).items() if key not in left_out}

    ours, champion = odd(card()), data.draw(st.sampled_from([None, {}, odd(CHAMPION)]))
    policy = data.draw(policies())
    decision = decide(ours, champion, policy)
    assert decide(dict(reversed(ours.items())), champion, policy) == decision
    names = failed(decision)
    for check in decision.checks:
        assert check.sentence.endswith(".")
        assert check.sentence == " ".join(check.sentence.split())
    for key in (
        "fid_ratio",
        "recall_ratio",
        "collapsed_classes",
        "near_copies",
        "train_excess",
        "parity_max_abs",
        "size_mb",
        "latency_ms",
    ):
        value = ours.get(key)
        number = type(value) in (int, float) and abs(value) < 1e308 and value == value
        assert number or key in names
    json.dumps(decision.as_dict(), allow_nan=False)
    assert len(decision.markdown().splitlines()) == len(decision.checks) + 4
