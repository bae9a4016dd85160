"""Drifting: the field is zero where the two sets agree, the bank keeps the newest, and the encoder comes first."""

from typing import Any

import pytest
import torch
from small_batches import CPU, K, batch
from torch import Tensor

from lekhani import params
from lekhani.variants.drifting import Bank, Drifting, drift


def drifting(tiny: params.Variants, **settings: Any) -> Drifting:
    return Drifting(tiny.drifting.model_copy(update=settings), 28, K, CPU)


def weights(network: torch.nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in network.parameters()]


def changed(before: list[Tensor], network: torch.nn.Module) -> bool:
    return not all(torch.equal(old, new) for old, new in zip(before, weights(network), strict=True))


# --- the field ---


def test_features_move_towards_real_ones() -> None:
    generated, real = torch.randn(1, 16, 8), 3 + torch.randn(1, 64, 8)
    unit = torch.cdist(generated, real).mean() / 8**0.5
    direction, _ = drift(generated / unit, real / unit)
    assert float(direction.mean()) > 0.5
    assert float(direction.square().mean()) < 9, "one in root mean square for each of three temperatures"


def test_equal_sets_are_at_rest() -> None:
    points = torch.randn(1, 400, 2)
    apart, _ = drift(points[:, :200] + 2, points[:, 200:])
    alike, _ = drift(points[:, :200], points[:, 200:])
    assert float(alike.mean().abs()) < 0.5 < float(apart.mean().abs())


def test_generated_ones_push_each_other_apart() -> None:
    generated = torch.tensor([[[-0.1, 0.0], [0.1, 0.0]]])
    direction, _ = drift(generated, torch.tensor([[[0.0, 3.0], [0.0, -3.0]]]))
    assert direction[0, 0, 0] < 0 < direction[0, 1, 0]


# --- the bank ---


def test_the_bank_keeps_the_newest_of_each_class() -> None:
    bank = Bank([torch.zeros(1, 2, 1)], n_classes=2, size=3)

    def put(values: list[float], labels: list[int]) -> None:
        bank.put([torch.tensor(values).view(-1, 1, 1).expand(-1, 2, 1)], torch.tensor(labels))

    put([1, 2, 3], [0, 1, 0])
    assert bank.full().tolist() == []
    put([4, 5], [0, 0])
    assert bank.full().tolist() == [0]
    put([6, 7, 8, 9, 10], [1, 1, 1, 1, 1])  # more than fit
    assert bank.full().tolist() == [0, 1]
    (held,) = bank.get(torch.tensor([0, 1]))
    assert held.shape == (2, 2, 3, 1), "classes, places, images, channels"
    assert [sorted(row) for row in held[:, 0, :, 0].tolist()] == [[3, 4, 5], [8, 9, 10]]


# --- training ---


def test_the_encoder_learns_first_and_then_stays_as_it_is(tiny: params.Variants) -> None:
    variant = drifting(tiny, encoder_share=0.5)
    encoder, generator = weights(variant.encoder), weights(variant.net)
    variant.progress = 0.1
    first = variant.step(*batch())
    assert changed(encoder, variant.encoder)
    assert not changed(generator, variant.net)
    encoder = weights(variant.encoder)
    variant.progress = 0.6
    second = variant.step(*batch())
    assert not changed(encoder, variant.encoder)
    assert changed(generator, variant.net)
    assert first.keys() == second.keys(), "the loop averages over both"
    assert float(first["loss_encoder"]) > 0 < float(second["loss"])


@pytest.mark.parametrize(("given", "made"), [(8, [2, 2, 2]), (9, [3, 3, 3]), (2, [2])])
def test_a_step_generates_about_as_many_images_as_it_is_given(
    tiny: params.Variants, given: int, made: list[int]
) -> None:
    variant = drifting(tiny, generated_per_class=2)
    variant.step(*batch(9))
    seen: list[Tensor] = []
    variant.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    variant.step(*batch(given))
    assert sorted(seen[0].unique(return_counts=True)[1].tolist()) == made


def test_the_generator_waits_until_a_class_has_enough_real_images(tiny: params.Variants) -> None:
    variant = drifting(tiny, real_per_class=4)
    before = weights(variant.net)
    for _ in range(3):
        variant.step(*batch(3))
        assert not changed(before, variant.net)
    variant.step(*batch(3))
    assert changed(before, variant.net)
