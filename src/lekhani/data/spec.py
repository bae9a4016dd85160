"""What a dataset is: its classes, and the prepared form that every later stage reads."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter

Split = Literal["train", "test"]
Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)  # for what is read from a file
Name = Annotated[str, Field(min_length=1, max_length=255)]
Side = Annotated[int, Field(ge=1, le=4096)]  # of an image, in pixels
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class GlyphClass:
    """One class of glyphs: `label` counts from 0 in the dataset's own order, `glyph` is what a reader would type."""

    __pydantic_config__ = _STRICT

    label: Annotated[int, Field(ge=0)]
    name: Name
    glyph: Name

    @property
    def is_digit(self) -> bool:
        """True for decimal digits of any script."""
        return self.glyph.isdecimal()


def _in_order(classes: tuple[GlyphClass, ...]) -> tuple[GlyphClass, ...]:
    if [one.label for one in classes] != list(range(len(classes))):
        raise ValueError("the labels do not count from 0")
    if len({one.name for one in classes}) < len(classes):
        raise ValueError("two classes have the same name")
    return classes


def _both_splits(counts: dict[str, int]) -> dict[str, int]:
    if set(counts) != {"train", "test"}:
        raise ValueError("the splits are not train and test")
    return counts


Classes = Annotated[tuple[GlyphClass, ...], Field(min_length=1), AfterValidator(_in_order)]

# DHCD's own order and folder names (Acharya, Pant, Gyawali 2015): 36 consonants, of them three conjuncts, 10 digits.
_CONSONANTS = (
    "ka:क kha:ख ga:ग gha:घ kna:ङ cha:च chha:छ ja:ज jha:झ yna:ञ taamatar:ट thaa:ठ daa:ड dhaa:ढ adna:ण "
    "tabala:त tha:थ da:द dha:ध na:न pa:प pha:फ ba:ब bha:भ ma:म yaw:य ra:र la:ल waw:व "
    "motosaw:श petchiryakha:ष patalosaw:स ha:ह chhya:क्ष tra:त्र gya:ज्ञ"
)
DEVANAGARI: tuple[GlyphClass, ...] = tuple(
    GlyphClass(i, f"character_{i + 1}_{name}", glyph)
    for i, (name, glyph) in enumerate(pair.split(":") for pair in _CONSONANTS.split())
) + tuple(GlyphClass(36 + i, f"digit_{i}", glyph) for i, glyph in enumerate("०१२३४५६७८९"))
MNIST: tuple[GlyphClass, ...] = tuple(GlyphClass(i, str(i), str(i)) for i in range(10))

# The datasets we know by name; any other name is a user's own, with the classes found in its source.
KNOWN: dict[str, tuple[GlyphClass, ...]] = {"devanagari": DEVANAGARI, "mnist": MNIST}


@dataclass(frozen=True)
class DatasetInfo:
    """The contents of dataset.json (see docs/contracts.md)."""

    __pydantic_config__ = _STRICT

    name: Name
    script: str
    image_size: Side
    classes: Classes
    counts: Annotated[dict[str, Annotated[int, Field(ge=0)]], AfterValidator(_both_splits)]  # images per split
    source: dict[str, Any]  # name, version, sha256 of the raw files
    digest: Digest  # sha256 over images, labels and splits
    notes: tuple[str, ...] = ()  # what preparing saw and did, in sentences

    @property
    def n_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def classes_json(self) -> str:
        """The classes as JSON, as exported models carry them."""
        return json.dumps([asdict(c) for c in self.classes], ensure_ascii=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: str | bytes) -> "DatasetInfo":
        """Read dataset.json; raises pydantic's ValidationError, a ValueError, for anything else."""
        return _INFO.validate_json(content)

    @classmethod
    def from_dict(cls, value: Any) -> "DatasetInfo":
        """Undo `to_dict`; raises as `from_json` does."""
        return cls.from_json(json.dumps(value))


_INFO = TypeAdapter(DatasetInfo)


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset in memory: `images` uint8 [N,H,W] white on black, `labels` int64 [N], `is_test` bool [N]."""

    info: DatasetInfo
    images: Bytes
    labels: Labels
    is_test: npt.NDArray[np.bool_]

    def split(self, split: Split) -> tuple[Bytes, Labels]:
        """Images and labels of one split."""
        keep = self.is_test if split == "test" else ~self.is_test
        return self.images[keep], self.labels[keep]


def load_prepared(folder: Path) -> Prepared:
    """Read what `prepare` wrote. Train images come first in images.npy, so the counts tell the split.

    Raises ValueError or OSError, and what NumPy raises for broken files; `check` says whether they belong together.
    """
    info = DatasetInfo.from_json((folder / "dataset.json").read_bytes())
    images = np.load(folder / "images.npy", allow_pickle=False)
    labels = np.load(folder / "labels.npy", allow_pickle=False)
    for name, array, axes in (("images", images, 3), ("labels", labels, 1)):
        if array.ndim != axes or array.dtype.kind not in "biuf":
            raise ValueError(f"{name}.npy holds {array.dtype} of {array.ndim} axes, and should hold numbers of {axes}")
    is_test = np.arange(len(images)) >= info.counts["train"]
    return Prepared(info, images, labels, is_test)


def check(data: Prepared) -> None:
    """Raise ValueError where images and labels are not those that dataset.json describes."""
    info, n = data.info, sum(data.info.counts.values())
    shape = (n, info.image_size, info.image_size)
    for name, array, expected in (
        ("images", data.images, f"uint8 {list(shape)}"),
        ("labels", data.labels, f"int64 [{n}]"),
    ):
        found = f"{array.dtype} {list(array.shape)}"
        if found != expected:
            raise ValueError(f"{name}.npy holds {found}, and should hold {expected}")
    if n and not (data.labels.min() >= 0 and data.labels.max() < info.n_classes):
        found = f"from {data.labels.min()} to {data.labels.max()}"
        raise ValueError(f"labels.npy holds labels {found}, and there are {info.n_classes} classes")
    if digest(data.images, data.labels, info.counts) != info.digest:
        raise ValueError("images.npy and labels.npy are not those that dataset.json was written for")


def digest(images: Bytes, labels: Labels, counts: Mapping[str, int]) -> str:
    """SHA-256, as hex, over the bytes of `images` uint8 [N,H,W] and `labels` int64 [N], and the images per split."""
    total = hashlib.sha256(np.ascontiguousarray(images).data)
    total.update(np.ascontiguousarray(labels).data)
    total.update(json.dumps(counts, sort_keys=True).encode())
    return total.hexdigest()
