"""Turbo: it starts as its teacher, imitates the teacher's images, and its critic tells real from generated ones."""

from typing import Any

import pytest
import torch
from small_batches import CPU, K, batch
from torch import Tensor

from lekhani import params
from lekhani.variants.flow_matching import FlowMatching
from lekhani.variants.turbo import MIN_CRITIC_TIME, Turbo

SIZE = 28


@pytest.fixture
def teacher(tiny: params.Variants) -> FlowMatching:
    """A teacher trained for a few steps."""
    variant = FlowMatching.build(tiny, SIZE, K, CPU)
    for _ in range(6):
        variant.progress = 0.2
        variant.step(*batch())
    return variant


def taught(tiny: params.Variants, teacher: FlowMatching, **settings: Any) -> Turbo:
    """A student of that teacher with `settings` of its own."""
    variant = Turbo.build(tiny.model_copy(update={"turbo": tiny.turbo.model_copy(update=settings)}), SIZE, K, CPU)
    variant.learn_from(teacher.generator())
    return variant


def generate(generator: torch.nn.Module, n: int = 6) -> Tensor:
    noise = torch.randn(n, SIZE**2, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return generator(noise, torch.arange(n) % K)  # type: ignore[no-any-return]


def test_the_student_begins_with_the_teacher_s_weights(tiny: params.Variants, teacher: FlowMatching) -> None:
    variant = taught(tiny, teacher)
    for name, value in teacher.velocity.state_dict().items():
        assert torch.equal(value, variant.student.velocity.state_dict()[name]), name
        assert torch.equal(value, variant.teacher.velocity.state_dict()[name]), name
        if name.startswith("encoder."):
            assert torch.equal(value, variant.critic.state_dict()[name]), name
    assert torch.equal(generate(variant.teacher), generate(teacher.generator()))


@pytest.mark.parametrize("steps", [1, 2])
def test_the_student_runs_its_network_once_a_step(tiny: params.Variants, teacher: FlowMatching, steps: int) -> None:
    variant = taught(tiny, teacher, steps=steps)
    rows: list[int] = []
    variant.student.velocity.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    generate(variant.generator())
    assert rows == [6] * steps


def test_pairs_are_the_teacher_s_images(tiny: params.Variants, teacher: FlowMatching) -> None:
    variant = taught(tiny, teacher, pairs_per_class=5)
    variant.step(*batch())
    assert len(variant.pairs) == 5 * K
    assert torch.equal(variant.pairs.data["labels"].bincount(), torch.full((K,), 5))
    noise, labels, images = variant.pairs.draw(9)
    with torch.no_grad():
        torch.testing.assert_close(images, teacher.generator()(noise, labels) * 2 - 1, atol=2e-3, rtol=0)
    held = variant.pairs.data["noise"]
    variant.step(*batch())
    assert variant.pairs.data["noise"] is held, "they are made once"


def test_a_step_leaves_the_teacher_alone(tiny: params.Variants, teacher: FlowMatching) -> None:
    variant = taught(tiny, teacher)
    before = {name: value.clone() for name, value in variant.teacher.state_dict().items()}
    for _ in range(3):
        variant.step(*batch())
    assert all(torch.equal(value, before[name]) for name, value in variant.teacher.state_dict().items())
    assert all(value.grad is None for value in variant.teacher.parameters())
    assert torch.equal(generate(teacher.generator()), generate(variant.teacher)), "and its own object, too"


def test_imitation_alone_comes_close_to_the_teacher(tiny: params.Variants, teacher: FlowMatching) -> None:
    variant = taught(tiny, teacher, adversarial=0.0, lr=5e-3, pairs_per_class=2)
    variant.progress = 0.2
    metrics = [variant.step(*batch()) for _ in range(60)]
    first, last = (sum(float(one["pixels"] + one["features"]) for one in some) for some in (metrics[:5], metrics[-5:]))
    assert last < 0.7 * first


def test_the_weight_of_the_critic_reaches_the_student_s_loss(tiny: params.Variants, teacher: FlowMatching) -> None:
    metrics = {}
    for weight in (0.0, 1.0, 3.0):
        torch.manual_seed(5)
        metrics[weight] = taught(tiny, teacher, adversarial=weight).step(*batch())
    losses = {weight: float(one["loss_g"]) for weight, one in metrics.items()}
    assert losses[0.0] == pytest.approx(float(metrics[0.0]["pixels"] + metrics[0.0]["features"]), rel=1e-5)
    assert losses[3.0] - losses[0.0] == pytest.approx(3 * (losses[1.0] - losses[0.0]), abs=1e-4)


def test_real_and_generated_images_get_the_same_noise(tiny: params.Variants, teacher: FlowMatching) -> None:
    variant = taught(tiny, teacher)
    seen: list[tuple[Tensor, Tensor]] = []
    variant.critic.register_forward_pre_hook(lambda _, given: seen.append((given[0].detach().clone(), given[1])))
    images, labels = batch()
    variant.step(images, labels)
    x, t = seen[0]
    assert torch.equal(t[:8], t[8:])
    assert float(t.min()) >= MIN_CRITIC_TIME
    noise = (x[:8] - t[:8, None, None, None] * (images * 2 - 1)) / (1 - t[:8, None, None, None])
    assert float(noise.std()) == pytest.approx(1, abs=0.05)


def test_a_resumed_run_makes_the_same_pairs(tiny: params.Variants, teacher: FlowMatching) -> None:
    variant, fresh = taught(tiny, teacher), Turbo.build(tiny, SIZE, K, CPU)
    variant.step(*batch())
    fresh.load_state_dict(variant.state_dict())
    torch.randn(100)  # wherever the global stream stands by then
    fresh.step(*batch())
    assert {name: value.tolist() for name, value in fresh.pairs.data.items()} == {
        name: value.tolist() for name, value in variant.pairs.data.items()
    }
    assert torch.equal(generate(fresh.teacher), generate(teacher.generator())), "a resumed run needs no teacher"
