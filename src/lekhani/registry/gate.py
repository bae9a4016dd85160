"""Whether a candidate generator replaces the champion: two scorecards and a policy in, a decision with its reasons out.

Nothing is read, written or drawn by chance here, so that a decision can be repeated from what it names. Whatever a scorecard lacks or
garbles is a failed check and never an error: a model is promoted only on figures that are there.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Metric = Literal["fid_ratio", "kid", "precision", "recall", "label_agreement"]
LOWER_IS_BETTER = ("fid_ratio", "kid")  # of the metrics that may lead; of the others higher is

# What must be equal before two scorecards may be compared.
_DIGESTS = ("dataset", "data_digest", "judge_sha256")
_NUMBERS = ("n_generated", "sampling_seeds", "seed")


@dataclass(frozen=True)
class Policy:
    """What a candidate must reach, field by field as `gate` in params.yaml, where each is described."""

    metric: Metric
    min_improvement: float
    conditional: Literal["any", "required"]
    max_fid_ratio: float
    min_label_agreement: float
    min_label_agreement_second: float
    max_label_agreement_drop: float
    min_recall_ratio: float
    max_collapsed_classes: int
    max_near_copies_excess: float
    max_train_excess_deviations: float
    min_usefulness_ratio: float
    max_parity: float
    max_size_mb: float
    max_latency_ms: float


@dataclass(frozen=True)
class Check:
    """One reason for or against: `value` against `bound`, both None where they are not known, and what that means in one sentence."""

    name: str
    value: float | str | None
    bound: float | str | None
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

    def markdown(self) -> str:
        """A line with the verdict, then a table of all checks, failed ones first."""
        failed = [check for check in self.checks if not check.passed]
        if self.promote:
            verdict = f"**Promote**: all {len(self.checks)} checks passed."
        else:
            verdict = f"**Refuse**: {len(failed)} of {len(self.checks)} checks failed ({', '.join(check.name for check in failed)})."
        rows = [
            f"| {'passed' if one.passed else '**failed**'} | {one.name} | {_cell(one.value)} | {_cell(one.bound)} | {_cell(one.sentence, 1000)} |"
            for one in sorted(self.checks, key=lambda check: check.passed)
        ]
        return "\n".join(
            [verdict, "", "| | check | value | bound | reason |", "| --- | --- | --- | --- | --- |", *rows, ""]
        )


def decide(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, policy: Policy) -> Decision:
    """Hold the candidate's scorecard against the policy and, unless `champion` is None, against the champion's scorecard.

    It is promoted when every check passes. Against a champion it must be another model, scored alike, and better in `policy.metric` by
    `min_improvement` and by more than chance in sampling may make (`welch_band`), so that a tie keeps the champion. A metric that does
    not apply is not checked: agreement with labels of a generator that takes none, unless the policy wants labels or the champion takes
    them, and usefulness where it was not measured. For a given spread between sampling seeds, no worse metric of the candidate and no
    better one of the champion turns a refusal into a promotion.
    """
    ours = _Card("candidate", candidate)
    checks = (*_against(ours, None if champion is None else _Card("champion", champion), policy), *_alone(ours, policy))
    return Decision(all(check.passed for check in checks), checks)


def welch_band(std: float, n: float, other_std: float, other_n: float) -> float:
    """The difference of two means that chance exceeds in 5% of cases, from sample standard deviations over n and other_n draws, each 2 or more.

    The two-sided t-test of Welch 1947 for unequal variances, with Welch's and Satterthwaite's degrees of freedom.
    """
    errors = std / math.sqrt(n), other_std / math.sqrt(other_n)
    largest = max(errors)
    if largest == 0 or math.isinf(largest):
        return largest
    one, other = (
        (error / largest) * (error / largest) for error in errors
    )  # in parts of the larger, so that nothing over- or underflows
    freedom = (one + other) * (one + other) / (one * one / (n - 1) + other * other / (other_n - 1))
    return t_quantile(freedom) * largest * math.sqrt(one + other)


def t_quantile(freedom: float) -> float:
    """The 97.5% quantile of Student's t with `freedom` degrees of freedom, 1 or more and not necessarily whole, exact to 1e-5.

    With t = sqrt(freedom) tan(angle) the probability of |T| < t is an integral of cos(angle)^(freedom - 1), here by Simpson's rule.
    """
    freedom = min(freedom, 1e6)  # from here on normal, to five digits
    scale = 2 * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    low, high, pieces = 0.0, math.atan(13 / math.sqrt(freedom)), 100  # the largest, of one degree of freedom, is 12.7
    for _ in range(50):
        angle = (low + high) / 2
        step = angle / pieces
        heights = [math.cos(step * place) ** (freedom - 1) for place in range(pieces + 1)]
        area = step / 3 * (heights[0] + 4 * sum(heights[1::2]) + 2 * sum(heights[2:-1:2]) + heights[-1])
        low, high = (angle, high) if scale * area < 0.95 else (low, angle)
    return math.sqrt(freedom) * math.tan(high)


class _UnknownError(Exception):
    """A scorecard does not hold what a check needs; the message is one sentence for people."""


@dataclass(frozen=True)
class _Card:
    who: str
    entries: Mapping[str, Any]

    def number(self, key: str) -> float:
        value = self._value(key)
        try:
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
        except OverflowError:  # a whole number too long for a float
            pass
        raise _UnknownError(f"In the {self.who}'s scorecard {key} is no finite number; score the {self.who} again.")

    def text(self, key: str) -> str:
        value = self._value(key)
        if isinstance(value, str) and value:
            return value
        raise _UnknownError(f"In the {self.who}'s scorecard {key} is no text; score the {self.who} again.")

    def _value(self, key: str) -> Any:
        if key not in self.entries:
            raise _UnknownError(f"The {self.who}'s scorecard has no {key}; score the {self.who} again.")
        return self.entries[key]

    @property
    def conditional(self) -> bool:
        return "label_agreement" in self.entries or "label_agreement_second" in self.entries

    @property
    def tried_out(self) -> bool:
        """Whether usefulness was measured, and so was the floor that it is held against."""
        return "usefulness_ratio" in self.entries or "usefulness_floor" in self.entries


def _alone(card: _Card, policy: Policy) -> Iterator[Check]:
    yield _bounded(card, policy, "fid_ratio", "max_fid_ratio", _times, "FID is {} its floor")
    if policy.conditional == "required":
        sentence = (
            "The candidate takes labels."
            if card.conditional
            else "The candidate takes no label, and gate.conditional is `required`."
        )
        yield Check("conditional", None, None, card.conditional, sentence)
    if card.conditional:
        yield _bounded(card, policy, "label_agreement", "min_label_agreement", _percent, "Label agreement is {}")
        second = "Label agreement by the second classifier is {}"
        yield _bounded(card, policy, "label_agreement_second", "min_label_agreement_second", _percent, second)
    yield _bounded(card, policy, "recall_ratio", "min_recall_ratio", _percent, "Recall is {} of its floor")
    yield _bounded(
        card, policy, "collapsed_classes", "max_collapsed_classes", _plain, "The number of collapsed classes is {}"
    )
    yield _bounded(
        card,
        policy,
        "near_copies",
        "max_near_copies_excess",
        _percent,
        "Near copies of train images are {} of the images",
        over=lambda asked: card.number("near_copies_floor") + asked,
        beside=" over those among real images",
    )
    yield _bounded(
        card,
        policy,
        "train_excess",
        "max_train_excess_deviations",
        _plain,
        "The excess of train images among nearest neighbours is {}",
        over=lambda asked: card.number("train_excess_floor") + asked * _spread(card, "train_excess_std"),
        beside=" over that of real images",
    )
    if card.tried_out:
        yield _bounded(
            card, policy, "usefulness_ratio", "min_usefulness_ratio", _percent, "Usefulness is {} of its floor"
        )
    yield _bounded(
        card,
        policy,
        "parity_max_abs",
        "max_parity",
        _general,
        "The largest difference of a pixel from the trained network is {}",
    )
    yield _bounded(card, policy, "size_mb", "max_size_mb", _plain, "The size in MB is {}")
    yield _bounded(card, policy, "latency_ms", "max_latency_ms", _plain, "The time for one image in ms is {}")


def _against(card: _Card, champion: _Card | None, policy: Policy) -> Iterator[Check]:
    if champion is None:
        yield Check(
            "champion", None, None, True, "There is no champion yet, so that only the candidate's own figures count."
        )
        return
    yield _checked("new_model", lambda: _new_model(card, champion))
    yield _checked("same_yardstick", lambda: _same_yardstick(card, champion))
    yield _checked("improvement", lambda: _improvement(card, champion, policy))
    yield _checked("noise", lambda: _noise(card, champion, policy.metric))
    if champion.conditional:
        yield _checked(
            "label_agreement_drop", lambda: _label_agreement_drop(card, champion, policy.max_label_agreement_drop)
        )


def _checked(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except _UnknownError as unknown:
        return Check(name, None, None, False, str(unknown))


def _bounded(
    card: _Card,
    policy: Policy,
    metric: str,
    field: str,
    show: Callable[[float, int], str],
    what: str,
    over: Callable[[float], float] = float,
    beside: str = "",
) -> Check:
    """Hold a metric against what `over` makes of the policy's field: from above for a field named max_, else from below."""
    try:
        value, bound = card.number(metric), over(getattr(policy, field))
    except _UnknownError as unknown:
        return Check(metric, None, None, False, str(unknown))
    ceiling = field.startswith("max_")
    passed = value <= bound if ceiling else value >= bound
    ours, theirs = _apart(value, bound, show)
    relation = ("within" if passed else "above") if ceiling else ("no less than" if passed else "below")
    sentence = (
        f"{what.format(ours)}, {relation} the {theirs} that gate.{field} {'allows' if ceiling else 'asks for'}{beside}."
    )
    return Check(metric, value, _finite(bound), passed, sentence)


def _new_model(card: _Card, champion: _Card) -> Check:
    ours, theirs = card.text("model_sha256"), champion.text("model_sha256")
    sentence = (
        "The candidate is another model than the champion."
        if ours != theirs
        else "This very model is already champion."
    )
    return Check("new_model", ours, theirs, ours != theirs, sentence)


def _same_yardstick(card: _Card, champion: _Card) -> Check:
    differ = [key for key in _DIGESTS if card.text(key) != champion.text(key)] + [
        key for key in _NUMBERS if card.number(key) != champion.number(key)
    ]
    if not differ:
        return Check(
            "same_yardstick",
            None,
            None,
            True,
            "Candidate and champion were scored alike: same test data, judge, counts and seed.",
        )
    listed = ", ".join(differ)
    sentence = f"Candidate and champion were not scored alike, as they differ in {listed}; score both again with the same data, judge and params."
    return Check("same_yardstick", listed, None, False, sentence)


def _improvement(card: _Card, champion: _Card, policy: Policy) -> Check:
    value, theirs = card.number(policy.metric), champion.number(policy.metric)
    lower = policy.metric in LOWER_IS_BETTER
    # As one product, since rounding then keeps the order: a better champion never moves the bound the other way.
    bound = theirs * (1 - policy.min_improvement if lower == (theirs > 0) else 1 + policy.min_improvement)
    passed = value <= bound if lower else value >= bound
    ours, needed = _apart(value, bound, _plain)
    how = f"better the champion's {_plain(theirs, 1)} by the {policy.min_improvement:.1%} that gate.min_improvement asks for"
    sentence = (
        f"{policy.metric} is {ours}, low enough to {how}."
        if lower
        else f"{policy.metric} is {ours}, high enough to {how}."
    )
    if not passed:
        sentence = f"{policy.metric} is {ours}; it takes {needed} or {'less' if lower else 'more'} to {how}."
    return Check("improvement", value, _finite(bound), passed, sentence)


def _noise(card: _Card, champion: _Card, metric: str) -> Check:
    gain = card.number(metric) - champion.number(metric)
    gain = -gain if metric in LOWER_IS_BETTER else gain
    seeds = _seeds(card), _seeds(champion)
    band = welch_band(_std(card, metric), seeds[0], _std(champion, metric), seeds[1])
    passed = gain > band
    ours, chance = _apart(gain, band, _plain)
    sentence = f"{metric} is better by {ours}, more than the {chance} that chance in sampling may make."
    if not passed:
        sentence = (
            f"{metric} is better by {ours}, yet chance in sampling may make {chance}, and a tie keeps the champion."
        )
    if gain <= 0:
        sentence = f"{metric} is no better than the champion's."
    return Check("noise", _finite(gain), _finite(band), passed, sentence)


def _label_agreement_drop(card: _Card, champion: _Card, drop: float) -> Check:
    theirs = champion.number("label_agreement")
    if not card.conditional:
        sentence = (
            "The candidate takes no label, and the champion does: whoever asks it for a letter would be given any."
        )
        return Check("label_agreement_drop", None, _finite(theirs - drop), False, sentence)
    value, bound = card.number("label_agreement"), theirs - drop
    passed = value >= bound
    ours, shown = _apart(value, bound, _percent)
    relation = "no less than" if passed else "below"
    sentence = f"Label agreement is {ours}, {relation} the {shown} that gate.max_label_agreement_drop leaves of the champion's {_percent(theirs, 1)}."
    return Check("label_agreement_drop", value, _finite(bound), passed, sentence)


def _seeds(card: _Card) -> float:
    seeds = card.number("sampling_seeds")
    if seeds < 2:
        raise _UnknownError(
            f"The {card.who} was sampled once, which tells nothing of chance; score both with evaluate.sampling_seeds of 2 or more."
        )
    return seeds


def _std(card: _Card, metric: str) -> float:
    """The deviation of a leading metric between sampling seeds."""
    if metric != "fid_ratio":
        return _spread(card, f"{metric}_std")
    floor = card.number("fid_floor")
    if floor <= 0:
        raise _UnknownError(f"In the {card.who}'s scorecard fid_floor is not above 0; score the {card.who} again.")
    return _spread(card, "fid_std") / floor


def _spread(card: _Card, key: str) -> float:
    spread = card.number(key)
    if spread < 0:
        raise _UnknownError(
            f"In the {card.who}'s scorecard {key} is below 0, which no deviation is; score the {card.who} again."
        )
    return spread


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _apart(value: float, bound: float, show: Callable[[float, int], str]) -> tuple[str, str]:
    """Both as text, with as many digits as it takes to tell them apart: never 95.0%, below 95.0%."""
    digits = next((digits for digits in range(1, 17) if show(value, digits) != show(bound, digits)), 1)
    return show(value, digits), show(bound, digits)


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


def _cell(value: float | str | None, width: int = 12) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, int | float) else value[:width]
    return " ".join(text.replace("|", "\\|").split())
