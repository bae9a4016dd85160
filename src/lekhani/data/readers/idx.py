"""MNIST's own files: images and labels in IDX format, plain or with .gz."""

import math
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from lekhani.data import archives
from lekhani.data.archives import Source
from lekhani.data.names import natural, split_in
from lekhani.data.readers import Found
from lekhani.data.spec import Bytes, Labels
from lekhani.errors import UsageError

# The byte that says what the numbers are; they are stored with the highest byte first.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4"}


def read(source: Source, files: Sequence[str], name: str) -> Found:
    """Read every pair of image and label files among `files`.

    Raises UsageError for a file that is damaged, ends early, has no partner, or does not agree with it.
    """
    arrays: dict[tuple[str, int], tuple[str, Bytes | Labels]] = {}
    notes = []
    for file in files:
        array = _array(source, file)
        key = _pair(file), array.ndim
        if key not in arrays:
            arrays[key] = file, array
        elif np.array_equal(arrays[key][1], array):
            notes.append(f"{file} repeats {arrays[key][0]} and was left out.")
        else:
            raise UsageError(
                f"data.{name}: {arrays[key][0]} and {file} in {source.path} differ; name the files to read in data.{name}.files."
            )
    images, labels, members, splits = [], [], [], []
    for pair in sorted(
        {pair for pair, _ in arrays}, key=lambda pair: natural(arrays.get((pair, 3), arrays.get((pair, 1), ("",)))[0])
    ):
        (image_file, pixels), (label_file, numbers) = _both(arrays, pair, source, name)
        if len(pixels) != len(numbers):
            raise UsageError(
                f"data.{name}: {image_file} in {source.path} holds {len(pixels):,} images and {label_file} {len(numbers):,} labels; "
                "bring files that belong together."
            )
        if "emnist" in image_file.lower():
            pixels = np.ascontiguousarray(pixels.transpose(0, 2, 1))
            notes.append(
                f"The images of {image_file} were turned, since EMNIST stores them with rows and columns exchanged."
            )
        images.append(pixels)
        labels.append(numbers.astype(np.int64))
        members += [f"{image_file}[{i}]" for i in range(len(pixels))]
        splits += [split_in(image_file)] * len(pixels)
        notes.append(f"Read {len(pixels):,} images of {image_file}.")
    values, which = np.unique(np.concatenate(labels), return_inverse=True)
    same = len({pixels.shape[1:] for pixels in images}) == 1
    pixels_of_all = np.concatenate(images) if same else [image for pixels in images for image in pixels]
    return Found(
        pixels_of_all,
        [str(v) for v in values.tolist()],
        which.astype(np.int64),
        members,
        splits,
        tuple(notes),
        numbered=True,
    )


def _pair(file: str) -> str:
    """What the names of an image file and of its label file have in common."""
    name = PurePosixPath(file).name.lower()
    return "-".join(
        word
        for word in re.split(r"[-._]+", name)
        if not re.fullmatch(r"images?|imgs?|labels?|idx\d?|idx\dubyte|ubyte|gz", word)
    )


def _both(
    arrays: dict[tuple[str, int], tuple[str, Bytes | Labels]], pair: str, source: Source, name: str
) -> tuple[tuple[str, Bytes], tuple[str, Labels]]:
    images, labels = arrays.get((pair, 3)), arrays.get((pair, 1))
    if images is None or labels is None:
        file = (images or labels or ("",))[0]
        missing = "labels" if labels is None else "images"
        raise UsageError(
            f"data.{name}: {file} in {source.path} lacks the file with its {missing}; bring both, named alike but for that word."
        )
    file, pixels = images
    if pixels.dtype != np.uint8:
        raise UsageError(
            f"data.{name}: {file} in {source.path} holds {pixels.dtype} numbers; save pixels as unsigned bytes."
        )
    if not len(pixels):
        raise UsageError(f"data.{name}: {file} in {source.path} holds no images; bring one that does.")
    return (file, pixels.astype(np.uint8, copy=False)), (labels[0], labels[1].astype(np.int64))


def _array(source: Source, file: str) -> Bytes | Labels:
    where = source.path / file
    with source.stream(file) as stream:
        head = stream.read(4)
        kind = _TYPES.get(head[2]) if len(head) == 4 and head[:2] == b"\0\0" else None
        if kind is None or head[3] not in {1, 3}:
            raise UsageError(
                f"{where} does not start as an IDX file of images or labels; download it again or leave it out."
            )
        sizes = stream.read(4 * head[3])
        shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
        wanted = math.prod(shape) * np.dtype(kind).itemsize
        if len(sizes) < 4 * head[3] or wanted > archives.MAX_UNPACKED or (len(shape) == 3 and 0 in shape[1:]):
            raise UsageError(f"{where} claims an impossible size, {' x '.join(map(str, shape))}; download it again.")
        # What a header claims is not taken from memory before it is there.
        content = bytearray()
        while len(content) <= wanted and (block := stream.read(min(16 << 20, wanted + 1 - len(content)))):
            content += block
    if len(content) != wanted:
        problem = "ends too early" if len(content) < wanted else "is longer than its header says"
        raise UsageError(f"{where} {problem}, at {' x '.join(map(str, shape))}; download it again.")
    return np.frombuffer(content, kind).reshape(shape)
