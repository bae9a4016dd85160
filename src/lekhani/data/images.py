"""Decode image files of any kind to grey, in parallel when there are many, and turn black on white into white on black."""

import io
import multiprocessing
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from lekhani.data.archives import Source
from lekhani.data.names import one_line, reason
from lekhani.data.raw import Images
from lekhani.data.spec import Bytes
from lekhani.errors import LekhaniError, UsageError
from lekhani.machine import cpu_count

Polarity = Literal["auto", "white_on_black", "black_on_white", "mixed"]

MAX_PIXELS = 50_000_000  # of one image; a phone's photo has about 12 million
KEPT_SIDE = 256  # larger images are shrunk to this at once, so that a folder of photos fits in memory; prepared images have at most 128
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")
FEW = 4_000  # images that one process decodes sooner than others start
_FEW_BYTES = 32 << 20
_MAX_BYTES = 256 << 20  # of one image file
_CHUNK, _CHUNK_BYTES = 512, 4 << 20  # images and bytes that a process gets at once
_AHEAD = 3  # chunks per process that wait or are decoded
# The decoders that may run, whatever a file calls itself.
_FORMATS = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
}
_TURNED = (
    "exif",
    "Raw profile type exif",
    "xmp",
    "XML:com.adobe.xmp",
    "transparency",
)  # keys of a PNG that is not simply its pixels

_Chunk = tuple[list[str], list[bytes]]


def decode(source: Source, files: Sequence[str]) -> Images:
    """Grey images uint8 [H,W] of `files`, in their order, at most 256 pixels high and wide; one array [N,H,W] when all sizes agree.

    Raises UsageError naming the first file that cannot be read or decoded.
    """
    where, chunks = str(source.path), _chunks(source, files)
    many = len(files) >= FEW or sum(source.sizes[file] for file in files) >= _FEW_BYTES
    processes = min(cpu_count(), 16)
    if many and processes > 1 and multiprocessing.parent_process() is None:  # a child process may have none of its own
        parts = list(_decode_apart(where, chunks, processes))
    else:
        parts = [decode_chunk(where, *chunk) for chunk in chunks]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) and len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    return [image for part in parts for image in part]


def _chunks(source: Source, files: Sequence[str]) -> Iterator[_Chunk]:
    names: list[str] = []
    contents: list[bytes] = []
    size = 0
    for file in files:
        names.append(file)
        contents.append(source.read(file, _MAX_BYTES))
        size += len(contents[-1])
        if len(names) == _CHUNK or size > _CHUNK_BYTES:
            yield names, contents
            names, contents, size = [], [], 0
    if names:
        yield names, contents


def _decode_apart(where: str, chunks: Iterator[_Chunk], processes: int) -> Iterator[Bytes | list[Bytes]]:
    """Decode in other processes, which come from a server that holds no threads: a fork of this process might hang where torch runs."""
    context = multiprocessing.get_context(
        "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    )
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])
    waiting: deque[Future[Bytes | list[Bytes]]] = deque()
    pool = ProcessPoolExecutor(processes, mp_context=context)
    try:
        for chunk in chunks:
            waiting.append(pool.submit(decode_chunk, where, *chunk))
            if len(waiting) >= processes * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise LekhaniError(
            f"The images in {where} could not be decoded: a helper process died, perhaps for want of memory; free some."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def decode_chunk(where: str, files: list[str], contents: list[bytes]) -> Bytes | list[Bytes]:
    """Decode images; one array [N,H,W] when all sizes agree, which travels between processes in one piece."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Pillow's, about broken metadata and large images: our own bound speaks in a sentence
        images = [decode_one(where, file, content) for file, content in zip(files, contents, strict=True)]
    return np.stack(images) if len({image.shape for image in images}) == 1 else images


def decode_one(where: str, file: str, content: bytes, side: int = KEPT_SIDE) -> Bytes:
    """Grey image uint8 [H,W] at most `side` pixels high and wide; raises UsageError naming the file when it cannot be decoded."""
    kind = next((kind for start, kind in _FORMATS.items() if content.startswith(start)), None)
    if kind is None:
        problem = "it is empty" if not content else "it is in none of the accepted formats"
        raise UsageError(one_line(f"The image {file} in {where} cannot be read ({problem}); remove it or replace it."))
    try:
        with Image.open(io.BytesIO(content), formats=(kind,)) as image:
            size = image.size
            if size[0] * size[1] <= MAX_PIXELS:
                return _grey(image, side)
    except Exception as error:
        raise UsageError(
            one_line(f"The image {file} in {where} cannot be read ({reason(error)}); remove it or replace it.")
        ) from None
    raise UsageError(
        one_line(
            f"The image {file} in {where} has {size[0]} x {size[1]} pixels, more than {MAX_PIXELS:,}; remove it or shrink it."
        )
    )


def _grey(image: Image.Image, side: int) -> Bytes:
    """Grey uint8 [H,W] at most `side` pixels high and wide of an image in any of Pillow's modes, turned as its EXIF says."""
    if image.format == "JPEG" and min(image.size) >= 4 * side:
        image.draft(None, (2 * side, 2 * side))  # decodes a photo at a fraction of its size
    image.load()
    if image.format != "PNG" or not image.info.keys().isdisjoint(_TURNED):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode != "L":
        image = image.convert("L")
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    if image.mode == "RGBA":
        image = _on_paper(image).convert("L")
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep greys to 0..255, where Pillow would clip them."""
    values = np.nan_to_num(np.asarray(image, np.float32), nan=0, posinf=0, neginf=0)
    highest = values.max(initial=0)
    # A deep file that holds no value above 255 was written by a program that forgot to scale.
    top = 1 if image.mode == "F" and highest <= 1 else 255 if highest <= 255 else 65535
    return Image.fromarray(np.clip(values * np.float32(255 / top), 0, 255).astype(np.uint8))


def _on_paper(image: Image.Image) -> Image.Image:
    """Lay a transparent drawing on paper of the other shade than its ink."""
    values = np.asarray(image, np.float32)
    alpha = values[:, :, 3]
    ink = (values[:, :, :3].mean(axis=2) * alpha).sum() / max(float(alpha.sum()), 1.0)
    return Image.alpha_composite(Image.new("RGBA", image.size, "black" if ink > 127 else "white"), image)


def shrunk(images: Images) -> Images:
    """`images` with those that are more than 256 pixels high or wide made smaller."""
    if all(max(image.shape) <= KEPT_SIDE for image in images[: 1 if isinstance(images, np.ndarray) else None]):
        return images
    small = []
    for image in images:
        picture = Image.fromarray(image)
        picture.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
        small.append(np.asarray(picture))
    return small


def white_on_black(images: Images, polarity: Polarity, name: str) -> tuple[Images, tuple[str, ...]]:
    """`images` with white strokes on black, and a note about what was inverted.

    An image is bright when most of its outermost pixels, which are paper, are. With `auto` nearly all images must agree,
    and all are inverted or none; else UsageError asks for data.D.polarity.
    """
    if polarity == "white_on_black":
        return images, ()
    if polarity == "black_on_white":
        return _inverted(images), ("The source is black on white; all images were inverted.",)
    bright = _bright(images)
    count, share = int(bright.sum()), float(bright.mean())
    if polarity == "mixed":
        rows = [255 - image if flip else image for image, flip in zip(images, bright, strict=True)]
        return rows, (f"{count:,} of {len(images):,} images are black on white and were inverted.",) if count else ()
    if 0.1 <= share <= 0.9 and 0 < count < len(images):
        raise UsageError(
            f"data.{name}: {count:,} of the images look black on white and {len(images) - count:,} white on black; "
            f"set data.{name}.polarity to white_on_black, black_on_white, or mixed for each by its own edges."
        )
    return (
        (_inverted(images), ("The source is black on white; all images were inverted.",))
        if share > 0.5
        else (images, ())
    )


def _inverted(images: Images) -> Images:
    return 255 - images if isinstance(images, np.ndarray) else [255 - image for image in images]


def _bright(images: Images) -> npt.NDArray[np.bool_]:
    """For each image, whether more than half of its edge is bright; bool [N]."""
    if isinstance(images, np.ndarray):
        edges = [images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]]
        return np.asarray(
            sum((edge > 127).mean(axis=1) * edge.shape[1] for edge in edges) * 2 > sum(edge.shape[1] for edge in edges)
        )
    return np.array(
        [
            np.count_nonzero(edge > 127) * 2 > edge.size
            for edge in (np.concatenate((i[0], i[-1], i[:, 0], i[:, -1])) for i in images)
        ]
    )
