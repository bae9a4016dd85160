"""Lines of text as one person may have written them, on a common baseline, on paper.

All glyphs of a line share their noise, but for a little of their own, and so the style of one hand.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from lekhani.data.spec import Bytes, Labels
from lekhani.errors import LekhaniError, UsageError
from lekhani.handwriting.alphabet import alphabet_of, drawn_of
from lekhani.handwriting.layout import DETAIL, draw_letters, lay_out
from lekhani.handwriting.render import STREAMS, Line, LineStyle, render
from lekhani.handwriting.signs import complete
from lekhani.inference.confidence import confidences
from lekhani.inference.sampling import SamplingOptions, Steps, run_steps
from lekhani.inference.session import Floats, Generator, LoadedModel, Reader
from lekhani.pictures import to_uint8

MAX_TRIES = 30  # for a glyph that the judge does not accept
FORMS = 3  # of each letter in the hand of one who writes several lines
_HANDS = 101  # their stream of random numbers, beyond those of a line


def seeded_rng(generator: Generator, seed: int, *numbers: int) -> np.random.Generator:
    """A random generator that depends on the model's bytes, the seed and these numbers alone.

    Raises UsageError for a seed that is no whole number of 0 or more.
    """
    return np.random.default_rng([int(generator.sha256[:16], 16), SamplingOptions(seed).seed, *numbers])


def compose(
    model: LoadedModel,
    text: str,
    seed: int = 0,
    style: LineStyle | None = None,
    *,
    number: int = 0,
    min_confidence: float = 0.5,
) -> Image.Image:
    """Line `number` of `seed` as a picture of mode L where `style.is_grey` and RGB otherwise, dark on light.

    A glyph that the model's judge, if it has one, does not classify as its label with at least `min_confidence` in
    [0,1] is drawn again; 0 keeps all. Raises UsageError when `text` holds what the model cannot write, and for a
    generator that takes no labels; LekhaniError when a glyph does not come out readable.
    """
    steps = compose_steps(model, text, seed, style or LineStyle(), number, min_confidence)
    return run_steps(model.generator, steps).image


def compose_steps(
    model: LoadedModel,
    text: str,
    seed: int,
    style: LineStyle,
    number: int = 0,
    min_confidence: float = 0.5,
    hands: "Hands | None" = None,
) -> Steps[Line]:
    """See `compose`; with the boxes of the glyphs. One of `hands` writes, or else one that writes nothing else."""
    generator = model.generator
    if not generator.conditional:
        problem = f"{model.origin} ({generator.variant}) takes no labels, so it cannot keep one hand for a line"
        raise UsageError(f"{problem}; use a conditional model.")
    alphabet = alphabet_of(generator.classes, style.learned_only)
    transcript = alphabet.transcript(text)
    syllables = alphabet.syllables(transcript)
    parts = [part for one in syllables for part in (one.parts if one else [None])]
    labels = [part.label for part in parts if part and part.label is not None]
    rng = seeded_rng(generator, seed, number, 0)
    reader = model.reader if min_confidence else None
    wanted, how = np.array(labels, np.int64), (style.variety, reader, min_confidence)
    if hands is None:
        glyphs = yield from sample_hand(generator, wanted, rng, *how)
    else:
        glyphs = yield from hands.write(generator, wanted, seed, number, rng, *how)
    slant, side = rng.normal(0, 0.06), DETAIL * generator.image_size
    letters = draw_letters([*zip(glyphs, (generator.classes[label] for label in labels), strict=True)], rng)
    texts = [one.text for one in syllables if one]
    row = lay_out(complete(parts, letters, side, rng), texts, side, slant, rng, style.join)
    line = render(row, style, {name: seeded_rng(generator, seed, number, 1 + i) for i, name in enumerate(STREAMS)})
    line.image.info |= {"text": transcript, "drawn": drawn_of(syllables)}
    return line


def sample_hand(
    generator: Generator,
    labels: Labels,
    rng: np.random.Generator,
    variety: float,
    reader: Reader | None = None,
    min_confidence: float = 0.5,
) -> Steps[Floats]:
    """Glyphs in one hand, float32 [N,H,W] in [0,1], light on dark.

    With `variety` v in [0,1] their noise is sqrt(1 - v^2) of the hand's and v of their own, so it stays normally
    distributed. A glyph that `reader` does not accept is drawn again, each time less bound to the hand; raises
    LekhaniError when that does not help in MAX_TRIES tries.
    """
    hand = rng.standard_normal(generator.noise_dim, dtype=np.float32)

    def own(places: Labels) -> Floats:
        return rng.standard_normal((len(places), len(hand)), dtype=np.float32)

    return (yield from _sample(generator, labels, hand, own, variety, reader, min_confidence))


class Hands:
    """So many people who write lines in turn; each has FORMS forms of a letter, drawn when one is first needed.

    A form depends on the model's bytes, the seed, whose it is, the letter, its own number, the variety and the judge
    alone, and so on nothing that was written before.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._forms: dict[tuple[int, int, int], Bytes] = {}

    def write(
        self,
        generator: Generator,
        labels: Labels,
        seed: int,
        number: int,
        rng: np.random.Generator,
        variety: float,
        reader: Reader | None,
        min_confidence: float,
    ) -> Steps[Floats]:
        """The glyphs of line `number`, as `sample_hand` gives them; `rng` chooses among their forms."""
        who = number % self.count
        chosen = rng.integers(FORMS, size=len(labels))
        forms = [(who, label, form) for label, form in zip(labels.tolist(), chosen.tolist(), strict=True)]
        if missing := [form for form in dict.fromkeys(forms) if form not in self._forms]:
            hand = seeded_rng(generator, seed, who, _HANDS).standard_normal(generator.noise_dim, dtype=np.float32)
            rngs = [seeded_rng(generator, seed, who, _HANDS, *form[1:]) for form in missing]

            def own(places: Labels) -> Floats:
                return np.stack([rngs[place].standard_normal(len(hand), dtype=np.float32) for place in places])

            wanted = np.array([form[1] for form in missing], np.int64)
            drawn = yield from _sample(generator, wanted, hand, own, variety, reader, min_confidence)
            self._forms.update(zip(missing, to_uint8(drawn), strict=True))
        size = generator.image_size
        shades = np.array([self._forms[form] for form in forms], np.uint8).reshape(-1, size, size)
        return shades.astype(np.float32) / np.float32(255)


def _sample(
    generator: Generator,
    labels: Labels,
    hand: Floats,
    own: Callable[[Labels], Floats],
    variety: float,
    reader: Reader | None,
    min_confidence: float,
) -> Steps[Floats]:
    """See `sample_hand`; `own` gives the noise of glyphs by their places in `labels`, other noise each time."""
    images = np.zeros((len(labels), generator.image_size, generator.image_size), np.float32)
    missing = np.arange(len(labels))
    if not len(labels):
        return images
    for attempt in range(MAX_TRIES):
        share = min(variety + attempt / MAX_TRIES, 1.0)
        noise = np.float32(np.sqrt(1 - share**2)) * hand + np.float32(share) * own(missing)
        images[missing] = (yield noise, labels[missing])[:, 0]
        if reader is None:
            return images
        predicted, sure = confidences(reader.read(to_uint8(images[missing]))[1])
        missing = missing[~((predicted == labels[missing]) & (sure >= min_confidence))]
        if not len(missing):
            return images
    names = " ".join(dict.fromkeys(generator.classes[label].glyph for label in labels[missing]))
    problem = f"no {names} that the judge reads as such with confidence {min_confidence:g} in {MAX_TRIES} tries"
    raise LekhaniError(f"{generator.path} wrote {problem}; ask for less confidence or use a better model.")
