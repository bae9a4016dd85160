"""The steps of a generator are found in the file that ships."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from stepwise_toy import SIZE, STEPS, stepwise_generator

from lekhani import params
from lekhani.errors import LekhaniError, UsageError
from lekhani.inference.session import Generator
from lekhani.inference.stepwise import StepwiseSession


def test_each_step_of_a_graph(tmp_path: Path) -> None:
    generator = Generator(stepwise_generator(tmp_path / "g.onnx"), "cpu")
    session = StepwiseSession(generator)
    noise = np.random.default_rng(0).standard_normal((5, 16), dtype=np.float32)
    labels = np.arange(5, dtype=np.int64) % 3
    shown = session.run(noise, labels, batch_size=2)
    assert session.steps == STEPS
    assert shown.shape == (STEPS + 1, 5, 1, SIZE, SIZE)
    state = noise
    for i, images in enumerate(shown):
        np.testing.assert_allclose(images.reshape(5, 16), np.clip(np.abs(state) / 16, 0, 1), rtol=1e-6)
        state = state * 2 + (labels[:, None] if i == 0 else 0)
    np.testing.assert_array_equal(shown[-1], generator.run(noise, labels))


def test_the_windows_of_each_step(tmp_path: Path) -> None:
    session = StepwiseSession(Generator(stepwise_generator(tmp_path / "w.onnx", windows=True), "cpu"))
    plain = StepwiseSession(Generator(stepwise_generator(tmp_path / "g.onnx"), "cpu"))
    assert (session.steps, session.has_windows, plain.has_windows) == (STEPS, True, False)
    noise = np.random.default_rng(0).standard_normal((5, 16), dtype=np.float32)
    labels = np.zeros(5, np.int64)
    images, windows = session.watch(noise, labels, batch_size=2)
    without, none = plain.watch(noise, labels)
    np.testing.assert_array_equal(images, without)
    assert none is None
    expected = [np.abs(np.tanh(noise[:, :3] * 2**step)) for step in range(1, STEPS + 1)]
    np.testing.assert_allclose(windows, expected, rtol=1e-5)


def test_a_window_that_is_no_number(tmp_path: Path) -> None:
    session = StepwiseSession(Generator(stepwise_generator(tmp_path / "w.onnx", windows=True), "cpu"))
    with pytest.raises(LekhaniError, match=r"w\.onnx cannot be animated: a window has a place that is no number"):
        session.watch(np.full((1, 16), np.nan, np.float32), np.zeros(1, np.int64))


def test_a_generator_without_steps(toy_generator: Callable[..., Path], tmp_path: Path) -> None:
    generator = Generator(toy_generator(tmp_path / "g.onnx"), "cpu")
    with pytest.raises(UsageError, match=r"g\.onnx \(flow_matching\) writes in one go, so there is nothing to watch"):
        StepwiseSession(generator)


@pytest.mark.parametrize(
    ("name", "settings"), [("draw", {}), ("draw", {"attention": False, "conditional": True}), ("flow_matching", {})]
)
def test_an_exported_generator_has_the_states_of_torch(
    name: str, settings: dict[str, bool], tiny: params.Variants, tmp_path: Path
) -> None:
    import torch

    from lekhani.export.onnx_file import export_onnx, generator_inputs
    from lekhani.variants import VARIANTS
    from lekhani.variants.base import Stepwise

    tiny = tiny.model_copy(update={name: getattr(tiny, name).model_copy(update=settings)})
    torch.manual_seed(0)
    variant = VARIANTS[name].build(tiny, 28, 3, torch.device("cpu"))
    for _ in range(2):
        variant.progress = 0.1
        variant.step(torch.rand(6, 1, 28, 28), torch.arange(6) % 3)
    module = cast(Stepwise, variant.generator().eval())
    export_onnx(module, generator_inputs(variant.noise_dim, 3), ["images"], tmp_path / "g.onnx", {})
    generator = SimpleNamespace(
        path=tmp_path / "g.onnx", variant=name, session=SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    )
    noise, labels = torch.randn(4, variant.noise_dim), torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        states = list(module.states(noise, labels))
        expected = torch.stack([module.finish(state) for state in states])
        attended = [module.window(state) for state in states[1:]]
    shown, windows = StepwiseSession(cast(Generator, generator)).watch(noise.numpy(), labels.numpy(), batch_size=3)
    np.testing.assert_allclose(shown, expected.numpy(), atol=1e-4)
    assert (windows is not None) == (name == "draw" and settings == {})
    if windows is not None:
        np.testing.assert_allclose(windows, torch.stack(cast(list[torch.Tensor], attended)).numpy(), atol=1e-4)
