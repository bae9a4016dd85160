"""What a dataset is: its classes, and the prepared form that every later stage reads."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Split = Literal["train", "test"]
Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GlyphClass:
    """One class of glyphs: `label` counts from 0 in the dataset's own order, `glyph` is what a reader would type."""

    label: int
    name: str
    glyph: str

    @property
    def is_digit(self) -> bool:
        """True for decimal digits of any script."""
        return self.glyph.isdecimal()


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

    name: str
    script: str
    image_size: int
    classes: tuple[GlyphClass, ...]
    counts: dict[str, int]  # images per split
    source: dict[str, Any]  # name, version, sha256 of the raw files
    digest: str  # sha256 over images, labels and splits
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
    def from_dict(cls, value: dict[str, Any]) -> "DatasetInfo":
        """Undo `to_dict`; raises KeyError or TypeError when a field is missing."""
        classes = tuple(GlyphClass(**c) for c in value["classes"])
        return cls(**{**value, "classes": classes, "notes": tuple(value.get("notes", ()))})


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
    """Read what `prepare` wrote. Train images come first in images.npy, so the counts tell the split."""
    info = DatasetInfo.from_dict(json.loads((folder / "dataset.json").read_text(encoding="utf-8")))
    images = np.load(folder / "images.npy", allow_pickle=False)
    labels = np.load(folder / "labels.npy", allow_pickle=False)
    is_test = np.arange(len(images)) >= info.counts["train"]
    return Prepared(info, images, labels, is_test)


def digest(images: Bytes, labels: Labels, counts: Mapping[str, int]) -> str:
    """SHA-256, as hex, over the bytes of `images` uint8 [N,H,W] and `labels` int64 [N], and the images per split."""
    total = hashlib.sha256(np.ascontiguousarray(images).data)
    total.update(np.ascontiguousarray(labels).data)
    total.update(json.dumps(counts, sort_keys=True).encode())
    return total.hexdigest()
