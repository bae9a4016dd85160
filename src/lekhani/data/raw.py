"""Labelled images as they come from a source, before they are fitted, filtered and split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lekhani.data.spec import Bytes, GlyphClass, Labels

Images = Bytes | Sequence[Bytes]  # grey uint8 [N,H,W], or N arrays [H,W] of several sizes


@dataclass(frozen=True)
class RawImages:
    """N images of one source.

    `images` are grey uint8, white strokes on black: one array [N,H,W], or N arrays [H,W] where sizes differ;
    `labels` int64 [N] index into `classes`; `members` name where in the source each image was found;
    `splits` says "train" or "test" per image, or "" throughout when the source has no split. `notes` are sentences for
    people: which layout was seen, whether the images were inverted, what was left out.
    """

    images: Images
    labels: Labels
    classes: tuple[GlyphClass, ...]
    members: Sequence[str]
    splits: Sequence[Literal["train", "test", ""]]
    notes: tuple[str, ...] = ()
