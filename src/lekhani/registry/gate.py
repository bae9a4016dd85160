"""Whether a candidate generator replaces the champion: two scorecards and a policy in, a decision with its reasons out.

Nothing is read, written or left to chance here, so that a decision can be repeated from what it names. An entry that
a scorecard lacks or garbles is a failed check, never an error: a model is promoted only on figures that exist.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from lekhani.params import Gate
from lekhani.statistics import welch_margin
from lekhani.text import markdown_table

LOWER_IS_BETTER = ("fid_ratio", "kid")  # of the metrics that may lead; the others are better when higher

# What must be equal before two scorecards may be compared.
_DIGESTS = ("dataset", "data_digest", "judge_sha256")
_NUMBERS = ("n_generated", "sampling_seeds", "seed")

Value = float | str | None
Outcome = tuple[Value, Value, bool, str]  # value, bound, passed and sentence of a check


@dataclass(frozen=True)
class Check:
    """One reason for or against, in one sentence too: `value` held against `bound`, None where they are not known."""

    name: str
    value: Value
    bound: Value
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and every check that was made."""

    promote: bool
    checks: tuple[Check, ...]

    def as_dict(self) -> dict[str, Any]:
        """The entries `promote` and `reasons` of decision.json, strict JSON without NaN."""
        return {"promote": self.promote, "reasons": [asdict(check) for check in self.checks]}

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def verdict(self) -> str:
        """One line, as Markdown."""
        names = ", ".join(check.name for check in self.failed)
        if self.promote:
            return f"**Promote**: all {len(self.checks)} checks passed."
        return f"**Refuse**: {len(self.failed)} of {len(self.checks)} checks failed ({names})."

    def markdown(self) -> str:
        """A line with the verdict, then a table of all checks, failed ones first."""
        checks = sorted(self.checks, key=lambda check: check.passed)
        return "\n".join([self.verdict, "", *checks_table(checks), ""])


def checks_table(checks: Iterable[Check]) -> list[str]:
    """The lines of a Markdown table of some checks."""
    rows = [
        ("passed" if c.passed else "**failed**", c.name, _cell(c.value), _cell(c.bound), _cell(c.sentence, 1000))
        for c in checks
    ]
    return markdown_table(["", "check", "value", "bound", "reason"], rows)


def decide(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, policy: Gate) -> Decision:
    """Hold the candidate's scorecard against the policy and against the champion's scorecard, if there is a champion.

    It is promoted when every check passes. Against a champion it must be another model, scored alike, and better in
    `policy.metric` by `min_improvement` and by more than chance in sampling explains (`welch_margin`), so that a tie
    keeps the champion. A metric that does not apply is not checked: label agreement of a generator without labels,
    unless the policy requires labels or the champion takes them, and usefulness where it was not measured. For a
    given spread between sampling seeds, no worse metric of the candidate and no better one of the champion turns a
    refusal into a promotion.
    """
    ours = _Scorecard("candidate", candidate)
    theirs = None if champion is None else _Scorecard("champion", champion)
    checks = (*_against(ours, theirs, policy), *_alone(ours, policy))
    return Decision(all(check.passed for check in checks), checks)


class _UnknownError(Exception):
    """A scorecard does not hold what a check needs; the message is one sentence for people."""


@dataclass(frozen=True)
class _Scorecard:
    who: str
    entries: Mapping[str, Any]

    def number(self, key: str) -> float:
        value = self._entry(key)
        try:
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
        except OverflowError:  # a whole number too long for a float
            pass
        raise self._unknown(f"In the {self.who}'s scorecard {key} is not a finite number")

    def text(self, key: str) -> str:
        value = self._entry(key)
        if isinstance(value, str) and value:
            return value
        raise self._unknown(f"In the {self.who}'s scorecard {key} is not text")

    def std(self, key: str) -> float:
        value = self.number(key)
        if value < 0:
            raise self._unknown(f"In the {self.who}'s scorecard {key} is below 0, which no standard deviation is")
        return value

    def std_of(self, metric: str) -> float:
        """The standard deviation of a leading metric between sampling seeds."""
        if metric != "fid_ratio":
            return self.std(f"{metric}_std")
        if (floor := self.number("fid_floor")) <= 0:
            raise self._unknown(f"In the {self.who}'s scorecard fid_floor is not above 0")
        return self.std("fid_std") / floor

    def sampling_seeds(self) -> float:
        if (seeds := self.number("sampling_seeds")) < 2:
            advice = "score both with evaluate.sampling_seeds of 2 or more"
            raise _UnknownError(f"The {self.who} was sampled once, which says nothing about chance; {advice}.")
        return seeds

    def applies(self, metric: str) -> bool:
        """Whether a metric that not every scorecard has says something about this generator."""
        if metric in ("label_agreement", "label_agreement_second"):
            return "label_agreement" in self.entries or "label_agreement_second" in self.entries
        if metric == "modes_ratio":
            return metric in self.entries
        if metric == "usefulness_ratio":  # measured, and so was the floor that it is held against
            return "usefulness_ratio" in self.entries or "usefulness_floor" in self.entries
        return True

    def _entry(self, key: str) -> Any:
        if key not in self.entries:
            raise self._unknown(f"The {self.who}'s scorecard has no {key}")
        return self.entries[key]

    def _unknown(self, what: str) -> _UnknownError:
        return _UnknownError(f"{what}; score the {self.who} again.")


def _checked(name: str, check: Callable[[], Outcome]) -> Check:
    try:
        value, bound, passed, sentence = check()
    except _UnknownError as unknown:
        return Check(name, None, None, False, str(unknown))
    return Check(name, _finite(value), _finite(bound), passed, sentence)


# --- the candidate against the policy ---


def _percent(value: float, digits: int) -> str:
    return f"{value:.{digits}%}" if abs(value) < 1e6 else f"{value:g}"


def _plain(value: float, digits: int) -> str:
    if abs(value) >= 1e6:
        return f"{value:g}"
    return f"{value:.0f}" if value.is_integer() else f"{value:.{digits + 1}f}"


def _times(value: float, digits: int) -> str:
    return f"{_plain(value, digits)} times"


def _general(value: float, digits: int) -> str:
    return f"{value:.{digits + 1}g}"


@dataclass(frozen=True)
class _Bound:
    """A field of the policy that bounds a metric: from above if it is named max_, else from below.

    With `floor`, the field is how far the metric may exceed that entry of the scorecard; with `unit`, it counts in
    multiples of that one.
    """

    metric: str
    field: str
    formatted: Callable[[float, int], str]
    what: str
    beside: str = ""
    floor: str = ""
    unit: str = ""

    def check(self, card: _Scorecard, policy: Gate) -> Outcome:
        value, bound = card.number(self.metric), float(getattr(policy, self.field))
        bound *= card.std(self.unit) if self.unit else 1
        bound += card.number(self.floor) if self.floor else 0
        is_ceiling = self.field.startswith("max_")
        passed = value <= bound if is_ceiling else value >= bound
        shown, limit = _distinct(value, bound, self.formatted)
        relation = ("within" if passed else "above") if is_ceiling else ("no less than" if passed else "below")
        verb = "allows" if is_ceiling else "requires"
        sentence = f"{self.what.format(shown)}, {relation} the {limit} that gate.{self.field} {verb}{self.beside}."
        return value, bound, passed, sentence


_SECOND = "Label agreement by the second classifier is {}"
_BOUNDS = (
    _Bound("fid_ratio", "max_fid_ratio", _times, "Judge FID is {} its floor"),
    _Bound("label_agreement", "min_label_agreement", _percent, "Label agreement is {}"),
    _Bound("label_agreement_second", "min_label_agreement_second", _percent, _SECOND),
    _Bound("recall_ratio", "min_recall_ratio", _percent, "Recall is {} of its floor"),
    _Bound("collapsed_classes", "max_collapsed_classes", _plain, "The number of collapsed classes is {}"),
    _Bound("modes_ratio", "min_modes_ratio", _percent, "The overlap of modes in the worst class is {} of its floor"),
    _Bound(
        *("near_copies", "max_near_copies_excess", _percent, "Near copies of train images are {} of the images"),
        *(" over those among real images", "near_copies_floor"),
    ),
    _Bound(
        *("train_excess", "max_train_excess_deviations", _plain),
        *("The excess of train images among nearest neighbours is {}", " over that of real images"),
        *("train_excess_floor", "train_excess_std"),
    ),
    _Bound("usefulness_ratio", "min_usefulness_ratio", _percent, "Usefulness is {} of its floor"),
    _Bound(
        "parity_max_abs", "max_parity", _general, "The largest difference of a pixel from the trained network is {}"
    ),
    _Bound("size_mb", "max_size_mb", _plain, "The size in MB is {}"),
    _Bound("latency_ms", "max_latency_ms", _plain, "The time for one image in ms is {}"),
)


def _alone(card: _Scorecard, policy: Gate) -> Iterator[Check]:
    if policy.conditional == "required":
        takes_labels, sentence = card.applies("label_agreement"), "The candidate takes labels."
        if not takes_labels:
            sentence = "The candidate takes no labels, and gate.conditional is `required`."
        yield Check("conditional", None, None, takes_labels, sentence)
    for bound in _BOUNDS:
        if card.applies(bound.metric):
            yield _checked(bound.metric, partial(bound.check, card, policy))


# --- the candidate against the champion ---


def _new_model(card: _Scorecard, champion: _Scorecard, _: Gate) -> Outcome:
    ours, theirs = card.text("model_sha256"), champion.text("model_sha256")
    if ours == theirs:
        return ours, theirs, False, "This very model is already champion."
    return ours, theirs, True, "The candidate is another model than the champion."


def _same_yardstick(card: _Scorecard, champion: _Scorecard, _: Gate) -> Outcome:
    differ = [key for key in _DIGESTS if card.text(key) != champion.text(key)]
    differ += [key for key in _NUMBERS if card.number(key) != champion.number(key)]
    if not differ:
        alike = "same test data, judge, counts and seed"
        return None, None, True, f"Candidate and champion were scored alike: {alike}."
    which, advice = ", ".join(differ), "score both again with the same data, judge and params"
    return which, None, False, f"Candidate and champion were not scored alike, as they differ in {which}; {advice}."


def _improvement(card: _Scorecard, champion: _Scorecard, policy: Gate) -> Outcome:
    value, theirs = card.number(policy.metric), champion.number(policy.metric)
    lower = policy.metric in LOWER_IS_BETTER
    # As one product, since rounding then keeps the order: a better champion never moves the bound the other way.
    bound = theirs * (1 - policy.min_improvement if lower == (theirs > 0) else 1 + policy.min_improvement)
    passed = value <= bound if lower else value >= bound
    ours, needed = _distinct(value, bound, _plain)
    how = f"improve on the champion's {_plain(theirs, 1)} by the {policy.min_improvement:.1%} of gate.min_improvement"
    enough = f", {'low' if lower else 'high'} enough" if passed else ""
    takes = "" if passed else f"; it takes {needed} or {'less' if lower else 'more'}"
    return value, bound, passed, f"{policy.metric} is {ours}{enough or takes} to {how}."


def _noise(card: _Scorecard, champion: _Scorecard, policy: Gate) -> Outcome:
    metric = policy.metric
    gain = card.number(metric) - champion.number(metric)
    gain = -gain if metric in LOWER_IS_BETTER else gain
    seeds = card.sampling_seeds(), champion.sampling_seeds()
    margin = welch_margin(card.std_of(metric), seeds[0], champion.std_of(metric), seeds[1])
    if gain <= 0:
        return gain, margin, False, f"{metric} is no better than the champion's."
    ours, chance = _distinct(gain, margin, _plain)
    than = f"more than the {chance} that chance in sampling explains"
    if gain <= margin:
        than = f"yet chance in sampling explains {chance}, and a tie keeps the champion"
    return gain, margin, gain > margin, f"{metric} is better by {ours}, {than}."


def _label_agreement_drop(card: _Scorecard, champion: _Scorecard, policy: Gate) -> Outcome:
    theirs = champion.number("label_agreement")
    bound = theirs - policy.max_label_agreement_drop
    if not card.applies("label_agreement"):
        why = "a request for a letter would be answered with any letter"
        return None, bound, False, f"The candidate takes no labels, and the champion does: {why}."
    value = card.number("label_agreement")
    passed = value >= bound
    ours, limit = _distinct(value, bound, _percent)
    below = f"the champion's {_percent(theirs, 1)} less gate.max_label_agreement_drop"
    relation = "no less than" if passed else "below"
    return value, bound, passed, f"Label agreement is {ours}, {relation} the {limit} of {below}."


_AGAINST: dict[str, Callable[[_Scorecard, _Scorecard, Gate], Outcome]] = {
    "new_model": _new_model,
    "same_yardstick": _same_yardstick,
    "improvement": _improvement,
    "noise": _noise,
    "label_agreement_drop": _label_agreement_drop,
}


def _against(card: _Scorecard, champion: _Scorecard | None, policy: Gate) -> Iterator[Check]:
    if champion is None:
        sentence = "There is no champion yet, so that only the candidate's own figures count."
        yield Check("champion", None, None, True, sentence)
        return
    for name, check in _AGAINST.items():
        if name != "label_agreement_drop" or champion.applies("label_agreement"):
            yield _checked(name, partial(check, card, champion, policy))


# --- text ---


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _distinct(value: float, bound: float, formatted: Callable[[float, int], str]) -> tuple[str, str]:
    """Both as text, with as many digits as it takes to tell them apart: never 95.0%, below 95.0%."""
    digits = next((digits for digits in range(1, 17) if formatted(value, digits) != formatted(bound, digits)), 1)
    return formatted(value, digits), formatted(bound, digits)


def _cell(value: Value, width: int = 12) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, int | float) else value[:width]
    return " ".join(text.replace("|", "\\|").split())
