"""One module per layout of files: each finds the images of its kind in a `Source` and the words that label them."""

from collections.abc import Sequence
from dataclasses import dataclass

from lekhani.data.raw import Values
from lekhani.data.spec import Labels


@dataclass(frozen=True)
class ReadResult:
    """N images with the words that label them, which are not classes yet.

    `images` are N grey [H,W] in any real numbers, and none at all where the files named in `members` are still to be
    decoded; `labels` int64 [N] index into `words`. `splits` says "train", "test", "val" or "" per image. `numbered`
    words are label numbers; `glyphs`, one per word, come from sources that name them.
    """

    images: Values
    words: Sequence[str]
    labels: Labels
    members: Sequence[str]
    splits: Sequence[str]
    notes: tuple[str, ...] = ()
    numbered: bool = False
    glyphs: Sequence[str] | None = None
