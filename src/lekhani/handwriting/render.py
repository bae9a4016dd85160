"""From a row of ink to a picture: paper, ink, rotation, blur and noise, as a LineStyle says."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from lekhani.errors import UsageError
from lekhani.inference.session import Floats

Strength = Literal["none", "light", "strong"]
EFFECTS = ("rotation", "ink", "paper", "blur", "noise")
STRENGTHS = {"none": 0.0, "light": 1.0, "strong": 2.5}
MARGIN = 0.14  # of the height, above and below the ink
_INKS = np.array([[25, 25, 30], [22, 35, 90], [30, 50, 140], [70, 70, 75]], np.float32)  # RGB of inks and pencil


@dataclass(frozen=True)
class LineStyle:
    """How lines of handwriting look.

    `height` of the picture in pixels, 16 to 512; `join` draws the head line from letter to letter; `variety` in [0,1]
    is how much the glyphs of a line differ beyond their letters; `augment` is the strength of all effects but those in
    `without`. With `learned_only`, texts with signs that the model has not learned are refused. Raises UsageError for
    others.
    """

    height: int = 64
    join: bool = True
    variety: float = 0.3
    augment: Strength = "light"
    without: Collection[str] = ()
    light_on_dark: bool = False
    learned_only: bool = False

    def __post_init__(self) -> None:
        for name in self.without:
            if name not in EFFECTS:
                raise UsageError(f"There is no effect {name!r} to leave out; there are {', '.join(EFFECTS)}.")
        if self.augment not in STRENGTHS:
            raise UsageError(f"There is no strength {self.augment!r}; there are {', '.join(STRENGTHS)}.")
        if not 16 <= self.height <= 512 or not 0 <= self.variety <= 1:
            problem = f"A line is 16 to 512 pixels high, not {self.height},"
            raise UsageError(f"{problem} and its variety is from 0 to 1, not {self.variety}.")


def render(ink: Floats, style: LineStyle, rngs: Sequence[np.random.Generator]) -> Image.Image:
    """Ink float32 [H,W] in [0,1] as a picture `style.height` pixels high, of mode L without effects and RGB with them.

    `rngs` has a random generator for each of EFFECTS, so that leaving one out does not change the others.
    """
    strength = {name: 0.0 if name in style.without else STRENGTHS[style.augment] for name in EFFECTS}
    rng = dict(zip(EFFECTS, rngs, strict=True))
    angle = rng["rotation"].normal(0, 0.5) * strength["rotation"]
    # A long line turns less, or its ends would leave the picture.
    if angle := np.clip(angle, *np.array([-1, 1]) * np.degrees(0.35 * len(ink) / ink.shape[1] + 0.002)):
        ink = np.clip(ndimage.rotate(ink, angle, order=1), 0, 1)
    margin = round(MARGIN / (1 - 2 * MARGIN) * len(ink))
    ink = np.pad(ink, ((margin, margin), (2 * margin, 2 * margin)))
    size = (max(round(style.height * ink.shape[1] / len(ink)), 1), style.height)
    alpha = np.clip(np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.LANCZOS)), 0, 1)
    unit = style.height / 64  # effects are as large as they are at 64 pixels
    if strength["blur"]:
        alpha = ndimage.gaussian_filter(alpha, rng["blur"].uniform(0.1, 0.4) * strength["blur"] * unit)
    if style.augment == "none":
        return _picture(255 * (1 - alpha), style)
    paper, colour = np.full((*alpha.shape, 3), 255, np.float32), np.zeros(3, np.float32)
    if strength["ink"]:
        colour = _INKS[rng["ink"].integers(len(_INKS))] + rng["ink"].uniform(0, 20)
        colour = colour + rng["ink"].uniform(0, 6, 3).astype(np.float32)
        flow = _field(alpha.shape, 6 * unit, rng["ink"])
        alpha = alpha * np.clip(rng["ink"].uniform(0.86, 1) + 0.05 * strength["ink"] * flow, 0, 1)
    if strength["paper"]:
        paper = _paper(alpha.shape, unit, strength["paper"], rng["paper"])
    page = paper + (np.minimum(colour, paper) - paper) * alpha[..., None]
    if strength["noise"]:
        page = page + rng["noise"].normal(0, 2 * strength["noise"], page.shape)
    return _picture(page, style)


def _paper(shape: tuple[int, ...], unit: float, strength: float, rng: np.random.Generator) -> Floats:
    """A sheet float32 [H,W,3]: a tint, clouds, grain, and light from one side."""
    tint = rng.uniform(232, 252) - np.array([0, rng.uniform(0, 4), rng.uniform(0, 7) * strength])
    clouds = 2.5 * _field(shape, 12 * unit, rng) + 1.5 * _field(shape, 0.7 * unit, rng)
    down, across = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    light = rng.normal(0, 3) * down + rng.normal(0, 4) * across
    sheet: Floats = (tint + strength * (clouds + light)[..., None]).astype(np.float32)
    return sheet


def _field(shape: tuple[int, ...], grain: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A smooth random field [H,W] of mean 0 and deviation 1, with spots of about `grain` pixels."""
    field: npt.NDArray[np.float64] = ndimage.gaussian_filter(rng.standard_normal(shape), grain, mode="wrap")
    field -= field.mean()
    field /= max(float(field.std()), 1e-9)
    return field


def _picture(page: npt.NDArray[Any], style: LineStyle) -> Image.Image:
    values = np.rint(np.clip(page, 0, 255)).astype(np.uint8)
    return Image.fromarray(255 - values if style.light_on_dark else values)
