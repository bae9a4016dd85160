"""Image files of any kind to grey, in parallel when there are many, and black on white to white on black."""

import io
import multiprocessing
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from lekhani.data.archives import Source
from lekhani.data.names import one_line, reason
from lekhani.data.raw import Images, Values
from lekhani.data.spec import Bytes
from lekhani.errors import LekhaniError, UsageError
from lekhani.machine import cpu_count

Polarity = Literal["auto", "white_on_black", "black_on_white", "mixed"]

MAX_PIXELS = 50_000_000  # of one image; a phone's photo has about 12 million
MAX_SIDE = 256  # larger images are shrunk at once, so that a folder of photos fits in memory
PARALLEL_FROM = 4_000  # images; one process decodes fewer sooner than others start
PARALLEL_FROM_BYTES = 32 << 20
_MAX_BYTES = 256 << 20  # of one image file
_CHUNK, _CHUNK_BYTES = 512, 4 << 20  # images and bytes that a process gets at once
_QUEUED = 3  # chunks per process that wait or are decoded
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF")  # Pillow's decoders that may run on what strangers send
# Those that may run on files of a dataset: all that read pixels and do not hand the file to another program.
ALL_FORMATS = (
    *FORMATS,
    *("WEBP", "AVIF", "JPEG2000", "PPM", "ICO", "ICNS", "QOI", "SGI", "PSD", "DDS", "PCX", "XBM", "XPM"),
)
_BY_NAME = {".tga": "TGA", ".dib": "DIB"}  # nearly anything looks like these
# Metadata of a PNG that is not simply its pixels.
_ORIENTED = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp", "transparency"}

_Chunk = tuple[list[str], list[bytes]]
_Pixels = npt.NDArray[Any]
_Converted = TypeVar("_Converted")


def decode(source: Source, files: Sequence[str]) -> Values:
    """Grey images [H,W] of `files`, in their order, at most 256 pixels high and wide, in the numbers they are saved in.

    They are one array [N,H,W] when all sizes and types agree. Raises UsageError naming the first file that cannot be
    read or decoded.
    """
    many = len(files) >= PARALLEL_FROM or sum(source.sizes[file] for file in files) >= PARALLEL_FROM_BYTES
    contents = ((file, source.read(file, _MAX_BYTES)) for file in files)
    return decode_contents(str(source.path), contents, many)


def decode_contents(where: str, contents: Iterable[tuple[str, bytes]], many: bool) -> Values:
    """Decode, as above, what each file in `where` holds; in several processes where there are `many`."""
    chunks = _chunks(contents)
    processes = min(cpu_count(), 16)
    if many and processes > 1 and multiprocessing.parent_process() is None:  # a child process may have none of its own
        parts = list(_decode_in_parallel(where, chunks, processes))
    else:
        parts = [decode_chunk(where, *chunk) for chunk in chunks]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) and len({(array.shape[1:], array.dtype) for array in arrays}) == 1:
        return np.concatenate(arrays)
    return [image for part in parts for image in part]


def _chunks(files: Iterable[tuple[str, bytes]]) -> Iterator[_Chunk]:
    names: list[str] = []
    contents: list[bytes] = []
    size = 0
    for file, content in files:
        names.append(file)
        contents.append(content)
        size += len(content)
        if len(names) == _CHUNK or size > _CHUNK_BYTES:
            yield names, contents
            names, contents, size = [], [], 0
    if names:
        yield names, contents


def _decode_in_parallel(where: str, chunks: Iterator[_Chunk], processes: int) -> Iterator[_Pixels | list[_Pixels]]:
    """Decode in other processes, which a server without threads forks: a fork of this one may hang under torch."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    waiting: deque[Future[_Pixels | list[_Pixels]]] = deque()
    pool = ProcessPoolExecutor(processes, mp_context=context)
    try:
        for chunk in chunks:
            waiting.append(pool.submit(decode_chunk, where, *chunk))
            if len(waiting) >= processes * _QUEUED:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        problem = "could not be decoded: a worker process died, perhaps for want of memory; free some."
        raise LekhaniError(f"The images in {where} {problem}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def decode_chunk(where: str, files: list[str], contents: list[bytes]) -> _Pixels | list[_Pixels]:
    """Decode images; one array [N,H,W] when they are alike, which travels between processes in one piece."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about broken metadata and large images, which have a bound of ours
        pairs = zip(files, contents, strict=True)
        images = [_decoded(where, file, content, MAX_SIDE, _formats(file), _grey) for file, content in pairs]
    return np.stack(images) if len({(image.shape, image.dtype) for image in images}) == 1 else images


def _formats(file: str) -> tuple[str, ...]:
    named = _BY_NAME.get(file[-4:].lower())
    return (*ALL_FORMATS, named) if named else ALL_FORMATS


def decode_one(where: str, file: str, content: bytes, side: int = MAX_SIDE) -> Bytes:
    """The grey image uint8 [H,W], at most `side` pixels high and wide, that `content` encodes in one of FORMATS.

    Raises UsageError, naming `file` in `where`, when it cannot be decoded or has more than MAX_PIXELS pixels.
    """
    return _eight_bits(_decoded(where, file, content, side, FORMATS, _grey))


def decode_colour(where: str, file: str, content: bytes, side: int) -> Image.Image:
    """As `decode_one`, an image of mode RGB, on white where it is transparent."""
    return _decoded(where, file, content, side, FORMATS, _colour)


def _decoded(
    where: str,
    file: str,
    content: bytes,
    side: int,
    formats: tuple[str, ...],
    convert: Callable[[Image.Image, int], _Converted],
) -> _Converted:
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS:
                return convert(image, side)
            problem = f"it has {width} x {height} pixels, more than {MAX_PIXELS:,}"
    except UnidentifiedImageError:
        problem = "it is in none of the accepted formats" if content else "it is empty"
    except Exception as error:  # Pillow's decoders answer garbled bytes with many kinds of error
        problem = reason(error)
    raise UsageError(one_line(f"The image {file} in {where} cannot be read ({problem}); remove it or replace it."))


def _grey(image: Image.Image, side: int) -> _Pixels:
    """An image in any of Pillow's modes as grey [H,W], at most `side` high and wide, turned as its EXIF says.

    Deep greys keep their numbers, the others are uint8.
    """
    image = _loaded(image, side)
    if image.mode.startswith(("I", "F")):
        return _deep(image, side)
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode != "L":
        image = image.convert("L")
    if max(image.size) > side:
        most = image.getextrema()[1] if image.mode == "L" else 255
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        if isinstance(most, int) and most < 128:  # the filter must not overshoot a range of few shades
            image = image.point(lambda shade: min(shade, most))
    if image.mode == "RGBA":
        image = _without_alpha(image).convert("L")
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width)


def _colour(image: Image.Image, side: int) -> Image.Image:
    image = _loaded(image, side)
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_eight_bits(_deep(image, side)))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _loaded(image: Image.Image, side: int) -> Image.Image:
    """An image decoded, turned as its EXIF says, and not much larger than it has to be."""
    if image.format == "JPEG" and min(image.size) >= 4 * side:
        image.draft(None, (2 * side, 2 * side))  # decodes a photo at a fraction of its size
    image.load()
    if image.format != "PNG" or not _ORIENTED.isdisjoint(image.info):
        image = ImageOps.exif_transpose(image)
    return image


def _deep(image: Image.Image, side: int) -> _Pixels:
    """The numbers of a grey image of more than 8 bits: uint16 where they fit, else float32."""
    values = np.asarray(image)
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0, posinf=0, neginf=0)
    if max(values.shape) > side:
        small = Image.fromarray(values.astype(np.float32))
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        kind = values.dtype
        values = np.asarray(small).clip(values.min(), values.max())
        values = values if kind.kind == "f" else np.rint(values)
    whole = image.mode != "F" and values.min() >= 0 and values.max() < 1 << 16
    return values.astype(np.uint16 if whole else np.float32)


def _eight_bits(values: _Pixels) -> Bytes:
    """Scale the deep greys of one image to 0..255."""
    if values.dtype == np.uint8:
        return values
    highest = values.max(initial=0)
    # A deep file that holds no value above 255 was written by a program that forgot to scale.
    top = 1 if values.dtype.kind == "f" and highest <= 1 else 255 if highest <= 255 else 65535
    return np.asarray(np.clip(values * np.float32(255 / top), 0, 255).astype(np.uint8))


def _without_alpha(image: Image.Image) -> Image.Image:
    """A transparent drawing on paper of the other shade than its ink."""
    values = np.asarray(image, np.float32)
    alpha = values[:, :, 3]
    ink = (values[:, :, :3].mean(axis=2) * alpha).sum() / max(float(alpha.sum()), 1.0)
    return Image.alpha_composite(Image.new("RGBA", image.size, "black" if ink > 127 else "white"), image)


def shrunk(images: Images) -> Images:
    """`images` with those that are more than 256 pixels high or wide made smaller."""
    if all(max(image.shape) <= MAX_SIDE for image in images[: 1 if isinstance(images, np.ndarray) else None]):
        return images
    small = []
    for image in images:
        picture = Image.fromarray(image)
        picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        small.append(np.asarray(picture))
    return small


def white_on_black(images: Images, polarity: Polarity, name: str) -> tuple[Images, tuple[str, ...]]:
    """`images` with white strokes on black, and a note about what was inverted.

    An image is bright when most of its outermost pixels, which are paper, are. With `auto` nearly all images must
    agree, and all are inverted or none; else UsageError asks for data.D.polarity.
    """
    stays = "The source is white on black; nothing was inverted."
    if polarity == "white_on_black":
        return images, (stays,)
    if polarity == "black_on_white":
        return _inverted(images)
    bright = _has_bright_edge(images)
    count, dark = int(bright.sum()), int((~bright).sum())
    if polarity == "mixed":
        rows = [255 - image if flip else image for image, flip in zip(images, bright, strict=True)]
        return rows, (f"{count:,} of {len(images):,} images are black on white and were inverted.",)
    if 0.1 <= count / len(images) <= 0.9 and count and dark:
        raise UsageError(
            f"data.{name}: {count:,} of the images look black on white and {dark:,} white on black; "
            f"set data.{name}.polarity to white_on_black, black_on_white, or mixed for each by its own edges."
        )
    return _inverted(images) if count > dark else (images, (stays,))


def _inverted(images: Images) -> tuple[Images, tuple[str, ...]]:
    inverted = 255 - images if isinstance(images, np.ndarray) else [255 - image for image in images]
    return inverted, ("The source is black on white; all images were inverted.",)


def _has_bright_edge(images: Images) -> npt.NDArray[np.bool_]:
    """For each image, whether more than half of its edge is bright; bool [N]."""
    if isinstance(images, np.ndarray):
        edges = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
        return np.asarray((edges > 127).mean(axis=1) > 0.5)
    return np.concatenate([_has_bright_edge(image[None]) for image in images])
