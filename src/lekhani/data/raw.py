"""Labelled images as they come from a source, before they are fitted, filtered and split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lekhani.data.spec import Bytes, GlyphClass, Labels


@dataclass(frozen=True)
class RawImages:
    """N images of one source.

    `images` holds N grey uint8 arrays [H,W] (sizes may differ; one array [N,H,W] will do), white strokes on black;
    `labels` int64 [N] index into `classes`; `members` name where in the source each image was found;
    `splits` says "train" or "test" per image, or "" throughout when the source has no split.
    """

    images: Sequence[Bytes]
    labels: Labels
    classes: tuple[GlyphClass, ...]
    members: Sequence[str]
    splits: Sequence[Literal["train", "test", ""]]
