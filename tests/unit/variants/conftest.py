"""What tests of several variants share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lekhani.export.onnx_file import export_onnx, generator_inputs, parity
from lekhani.variants import Variant


@pytest.fixture
def exported_difference(tmp_path: Path) -> Callable[[Variant, int], float]:
    """Exports a variant of so many classes, and tells the largest difference between torch and the file in a pixel."""

    def difference(variant: Variant, n_classes: int) -> float:
        inputs = generator_inputs(variant.noise_dim, n_classes)
        export_onnx(variant.generator(), inputs, ["images"], tmp_path / "generator.onnx", {})
        return parity(variant.generator(), tmp_path / "generator.onnx", inputs)

    return difference
