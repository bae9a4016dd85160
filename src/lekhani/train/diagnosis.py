"""What the curves of a training run say, in words, with the switch to try."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that went wrong: a short `name` and a sentence of what was seen and what to try."""

    name: str
    sentence: str


RECENT = 5  # reports that must agree, so that one odd batch says nothing


def diagnose(rows: Sequence[Mapping[str, float]], scores: Sequence[Mapping[str, float]]) -> list[Finding]:
    """What is wrong by now, if anything.

    `rows` are reports of the training loop in order: `accuracy_real` and `accuracy_fake` (shares of the discriminator's right
    answers), `logit_gap`, `grad_norm_d`, `grad_norm_g`. `scores` are the judge's: `classes_covered` (share of the classes it saw),
    `class_diversity` (spread of features within a class, in parts of real images'), `judge_entropy` (nats, of its mean answer).
    Keys that a variant does not report are passed over.
    """
    found = []
    recent = rows[-RECENT:]
    if len(recent) == RECENT:
        if _all(
            recent, lambda row: min(row["accuracy_real"], row["accuracy_fake"]) > 0.98, "accuracy_real", "accuracy_fake"
        ):
            found.append(
                Finding(
                    "dominating_discriminator",
                    "The discriminator tells every image right, so the generator learns little: lower lr_d, add smoothing, instance_noise or "
                    "augment, or raise lr_g.",
                )
            )
        if _all(
            recent, lambda row: max(row["accuracy_real"], row["accuracy_fake"]) < 0.3, "accuracy_real", "accuracy_fake"
        ):
            found.append(
                Finding(
                    "dominating_generator",
                    "The discriminator is mostly wrong, so it has nothing to teach: lower lr_g, raise lr_d or n_dis.",
                )
            )
        early = [row["grad_norm_g"] for row in rows[:RECENT] if "grad_norm_g" in row]
        if early and _all(recent, lambda row: row["grad_norm_g"] < 1e-3 * max(early), "grad_norm_g"):
            found.append(
                Finding(
                    "vanishing_gradients",
                    f"The generator's gradient has shrunk from {max(early):.2g} to {recent[-1]['grad_norm_g']:.2g}: use the non-saturating loss, "
                    "lower lr_d, add instance_noise, or train wgan_gp.",
                )
            )
        for name in ("grad_norm_d", "grad_norm_g", "grad_norm"):
            first = [row[name] for row in rows[:RECENT] if name in row]
            if first and _all(recent, lambda row, name=name, first=first: row[name] > 1e3 * max(first), name):  # type: ignore[misc]
                found.append(
                    Finding(
                        "exploding_gradients",
                        f"{name} has grown a thousandfold: set clip_norm to 1 or lower the learning rate.",
                    )
                )
                break
    if len(scores) > 1:  # a generator that has just begun shows few classes and little else, and is on its way
        before, last = ({"classes_covered": 1.0, "class_diversity": 1.0} | dict(score) for score in scores[-2:])
        covered, diversity = last["classes_covered"], last["class_diversity"]
        if covered < 0.5 and covered <= before["classes_covered"]:
            found.append(
                Finding(
                    "mode_collapse",
                    f"The judge sees only {covered:.0%} of the classes in what is generated (mode collapse): lower lr_g, add augment, "
                    "instance_noise or a larger batch, or train wgan_gp or r3gan.",
                )
            )
        elif diversity < 0.3 and diversity <= before["class_diversity"]:
            found.append(
                Finding(
                    "collapse_within_classes",
                    f"Within a class, images differ {diversity:.2f} times as much as real ones do (collapse within classes): the noise is ignored; "
                    "add augment, lower lr_g, or train sngan, r3gan or flow_matching.",
                )
            )
    return found


def _all(rows: Sequence[Mapping[str, float]], test: Callable[[Mapping[str, float]], bool], *needed: str) -> bool:
    return all(all(key in row for key in needed) and test(row) for row in rows)
