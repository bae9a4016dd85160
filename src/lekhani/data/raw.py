"""Labelled images as they come from a source, before they are fitted, filtered and split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt
from pydantic import ConfigDict

from lekhani.data.spec import Bytes, Digest, GlyphClass, Labels, Name
from lekhani.files import FileModel

Images = Bytes | Sequence[Bytes]  # grey uint8 [N,H,W], or N arrays [H,W] of several sizes
Values = npt.NDArray[Any] | Sequence[npt.NDArray[Any]]  # the same in any real numbers, as a source holds them


class Source(FileModel):
    """source.json: where the raw files of a dataset come from, and their SHA-256; the rest is the source's own."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str | int | None]

    name: Name
    version: str | int
    sha256: Digest


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
