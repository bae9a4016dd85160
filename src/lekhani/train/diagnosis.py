"""What the curves of a training run show to be wrong, with the setting to change."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Row = Mapping[str, float]
RECENT = 5  # reports that must agree, so that one odd batch is no finding


@dataclass(frozen=True)
class Finding:
    """One thing that went wrong: a short `name` and a sentence of what was seen and what to try."""

    name: str
    sentence: str


def diagnose(rows: Sequence[Row], scores: Sequence[Row]) -> list[Finding]:
    """What is wrong by now, if anything.

    `rows` are reports of the training loop in order: `accuracy_real` and `accuracy_fake` (shares of the discriminator's
    right answers), `grad_norm_d`, `grad_norm_g`, `grad_norm`. `scores` are the judge's: `classes_covered` (share of the
    classes it saw), `class_diversity` (spread of features within a class, relative to real images). Keys that a
    variant does not report are ignored.
    """
    found = [*_balance(rows), *_gradients(rows)] if len(rows) >= RECENT else []
    return [*found, *_coverage(scores)]


def _balance(rows: Sequence[Row]) -> Iterator[Finding]:
    real, fake = _recent(rows, "accuracy_real"), _recent(rows, "accuracy_fake")
    if not real or not fake:
        return
    if min(*real, *fake) > 0.98:
        yield Finding(
            "dominating_discriminator",
            "The discriminator is right about every image, so the generator learns little: lower lr_d, add smoothing, "
            "instance_noise or augment, or raise lr_g.",
        )
    if max(*real, *fake) < 0.3:
        yield Finding(
            "dominating_generator",
            "The discriminator is mostly wrong, so the generator learns nothing from it: lower lr_g, raise lr_d or "
            "n_dis.",
        )


def _gradients(rows: Sequence[Row]) -> Iterator[Finding]:
    first, now = _largest_at_first(rows, "grad_norm_g"), _recent(rows, "grad_norm_g")
    if first and now and max(now) < 1e-3 * first:
        yield Finding(
            "vanishing_gradients",
            f"The generator's gradient has shrunk from {first:.2g} to {now[-1]:.2g}: use the non-saturating loss, "
            "lower lr_d, add instance_noise, or train wgan_gp.",
        )
    for name in ("grad_norm_d", "grad_norm_g", "grad_norm"):
        first, now = _largest_at_first(rows, name), _recent(rows, name)
        if first and now and min(now) > 1e3 * first:
            advice = "set clip_norm to 1 or lower the learning rate"
            yield Finding("exploding_gradients", f"{name} has grown a thousandfold: {advice}.")
            return


def _coverage(scores: Sequence[Row]) -> Iterator[Finding]:
    if len(scores) < 2:
        return
    # A generator that has just begun shows few classes and little else: only what does not improve is a finding.
    before, last = ({"classes_covered": 1.0, "class_diversity": 1.0} | dict(score) for score in scores[-2:])
    covered, diversity = last["classes_covered"], last["class_diversity"]
    if covered < 0.5 and covered <= before["classes_covered"]:
        yield Finding(
            "mode_collapse",
            f"The judge sees only {covered:.0%} of the classes in what is generated (mode collapse): lower lr_g, add "
            "augment, instance_noise or a larger batch, or train wgan_gp or r3gan.",
        )
    elif diversity < 0.3 and diversity <= before["class_diversity"]:
        yield Finding(
            "collapse_within_classes",
            f"Within a class, images differ {diversity:.2f} times as much as real ones do (collapse within classes): "
            "the noise is ignored; add augment, lower lr_g, or train sngan, r3gan or flow_matching.",
        )


def _recent(rows: Sequence[Row], key: str) -> list[float]:
    """The last values of `key`; empty unless all recent rows have it."""
    found = [row[key] for row in rows[-RECENT:] if key in row]
    return found if len(found) == RECENT else []


def _largest_at_first(rows: Sequence[Row], key: str) -> float:
    return max((row[key] for row in rows[:RECENT] if key in row), default=0.0)
