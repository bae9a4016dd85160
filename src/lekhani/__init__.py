"""Lekhani (लेखनी, "pen"): from handwriting data to a tested, registered and served generator of handwritten characters.

In Python: `pen = lekhani.load("devanagari")`, then `pen.generate(["क", "०"], n=8, seed=7)`, `pen.compose("४२")`,
`lekhani.load_judge("devanagari").recognise(image)` and `lekhani.translate(image, to="mnist")`; see docs/generate.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lekhani.errors import LekhaniError, UsageError
    from lekhani.pen import Glyphs, Judge, Pen, load, load_judge, translate

__all__ = ["Glyphs", "Judge", "LekhaniError", "Pen", "UsageError", "__version__", "load", "load_judge", "translate"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # NumPy and ONNX Runtime are loaded by whoever writes, not by every import of a part of the package.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lekhani import errors, pen

    return getattr(errors if name.endswith("Error") else pen, name)


def __dir__() -> list[str]:
    return __all__
