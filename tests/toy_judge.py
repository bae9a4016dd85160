"""A judge for the toy generator's glyphs, as an ONNX file written by hand."""

from pathlib import Path

from onnx.helper import make_node
from onnx_by_hand import described, save_model

from lekhani.data.spec import MNIST, GlyphClass


def toy_judge(path: Path, classes: tuple[GlyphClass, ...] = MNIST[:3], size: int = 4, dataset: str = "mnist") -> Path:
    """judge.onnx that classifies by the mean brightness that the toy generator paints; its features are the pixels."""
    constants = {
        "row": [-1, size**2],
        "axis": [1],
        "centres": [[(label + 0.5) / len(classes) for label in range(len(classes))]],
        "steep": -1000.0,
    }
    nodes = [
        make_node("Reshape", ["images", "row"], ["features"]),
        make_node("ReduceMean", ["features", "axis"], ["mean"]),
        make_node("Sub", ["mean", "centres"], ["away"]),
        make_node("Mul", ["away", "away"], ["squared"]),
        make_node("Mul", ["squared", "steep"], ["logits"]),
    ]
    outputs = {"features": [size**2], "logits": [len(classes)]}
    about = described(dataset, classes, size)
    return save_model(path, nodes, {"images": [1, size, size]}, outputs, constants, about)
