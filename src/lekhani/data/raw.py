"""Labelled images as they come from a source, before they are fitted, filtered and split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lekhani.data.spec import Bytes, GlyphClass, Labels

Images = Bytes | Sequence[Bytes]  # grey uint8 [N,H,W], or N arrays [H,W] of several sizes


@dataclass(frozen=True)
class RawImages:
    """N images of one source.

    - `images`: grey uint8, white strokes on black; one array [N,H,W], or N arrays [H,W] where sizes differ
    - `labels`: int64 [N], which index into `classes`
    - `members`: the file, row or array element that each image was read from, as the manifest names it
    - `splits`: "train" or "test" per image, or "" throughout when the source has no split
    - `notes`: sentences for people: which layout it was, whether the images were inverted, what was left out
    """

    images: Images
    labels: Labels
    classes: tuple[GlyphClass, ...]
    members: Sequence[str]
    splits: Sequence[Literal["train", "test", ""]]
    notes: tuple[str, ...] = ()
