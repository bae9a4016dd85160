"""What every variant promises to training, export and evaluation."""

import pytest
import torch
from small_batches import CPU, K, batch
from torch import Tensor

from lekhani import params
from lekhani.variants import VARIANTS, Variant

SIZES = (28, 32)
PENALISED = {"wgan_gp", "r3gan"}  # their discriminators are differentiated twice, which torch.compile cannot do


@pytest.fixture(params=[(name, SIZES[i % 2]) for i, name in enumerate(VARIANTS)], ids=lambda p: f"{p[0]}-{p[1]}")
def built(request: pytest.FixtureRequest, tiny: params.Variants) -> tuple[Variant, int]:
    name, size = request.param
    return VARIANTS[name].build(tiny, size, K, CPU), size


def weights(variant: Variant) -> list[Tensor]:
    return [value.detach().clone() for value in variant.generator().parameters()]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_called_as_it_is_registered(name: str) -> None:
    assert VARIANTS[name].name == name
    assert VARIANTS[name].__name__ == params.VARIANT_SETTINGS[name].__name__


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_returns_finite_scalars_and_changes_weights(built: tuple[Variant, int], precision: str) -> None:
    variant, size = built
    if precision == "bf16":
        variant.autocast = torch.autocast("cpu", torch.bfloat16)
    before = weights(variant)
    for _ in range(2):
        metrics = variant.step(*batch(5, size))
        assert metrics
        for name, value in metrics.items():
            assert value.shape == (), name
            assert torch.isfinite(value), name
            assert not value.requires_grad, f"{name} would keep the graph of every step alive"
    assert not all(torch.equal(old, new) for old, new in zip(before, weights(variant), strict=True))
    assert {weight.dtype for weight in weights(variant)} == {torch.float32}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_generator_makes_images(tiny: params.Variants, name: str, size: int) -> None:
    variant = VARIANTS[name].build(tiny, size, K, CPU)
    variant.step(*batch(5, size))
    noise, labels = 3 * torch.randn(4, variant.noise_dim), torch.tensor([0, 1, 2, 1])
    generator = variant.generator().eval()
    with torch.no_grad():
        images = generator(noise, labels)
        alone = torch.cat([generator(noise[i : i + 1], labels[i : i + 1]) for i in range(4)])
    assert images.shape == (4, 1, size, size)
    assert images.dtype == torch.float32
    assert 0 <= images.min() <= images.max() <= 1
    assert images.std() > 0
    torch.testing.assert_close(images, alone, atol=1e-5, rtol=0, msg="an image depends on its own noise alone")


def test_the_label_steers_the_image_only_where_it_says_so(built: tuple[Variant, int]) -> None:
    variant, size = built
    for _ in range(8):
        variant.progress = 0.1  # past the first steps of a warm-up
        variant.step(*batch(5, size))
    noise = torch.randn(1, variant.noise_dim).repeat(K, 1)
    with torch.no_grad():
        images = variant.generator().eval()(noise, torch.arange(K))
    spread = float((images - images[:1]).abs().max())
    # Equal rows of one batch may differ in the last bits: a convolution splits the batch over its threads.
    assert spread > 1e-4 if variant.conditional else spread < 1e-6


@pytest.mark.parametrize("name", sorted(PENALISED))
def test_a_penalised_discriminator_is_not_compiled(tiny: params.Variants, name: str) -> None:
    variant = VARIANTS[name].build(tiny, 28, K, CPU)
    assert variant.networks() == [variant.generator()]


@pytest.mark.parametrize("name", ["mlp_gan", "cgan"])
def test_a_batch_of_one_trains(tiny: params.Variants, name: str) -> None:
    variant = VARIANTS[name].build(tiny, 28, K, CPU)
    for _ in range(2):
        assert all(torch.isfinite(value) for value in variant.step(*batch(1)).values())
