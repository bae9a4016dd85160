"""Lekhani (लेखनी, "pen"): from handwriting data to a tested, registered and served generator of handwritten characters.

In Python: `pen = lekhani.load("devanagari")`, then `pen.generate(["क", "०"], n=8, seed=7)`, `pen.compose("४२")` and
`lekhani.load_judge("devanagari").recognise(image)`; see docs/generate.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lekhani.pen import load, load_judge

__all__ = ["__version__", "load", "load_judge"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # NumPy and ONNX Runtime are loaded by whoever writes, not by every import of a part of the package.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lekhani import pen

    return getattr(pen, name)
