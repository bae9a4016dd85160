"""Images that repeat one another, exactly or nearly, and which of them to keep."""

import hashlib

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from lekhani.data.spec import Bytes, Labels

# Chosen by looking at pairs of DHCD, MNIST and the embedded letters, and by what JPEG, shifts, noise and resampling do to them.
FARTHEST = 0.12  # copies lie nearer than this: sqrt(2 - 2 r) for the correlation r of two blurred images, so r > 0.993
CLOSER = 0.3  # ... and this many times the distance to the nearest stranger, so that the strokes of a plain 1 are not taken for copies

_CELLS = 16  # a descriptor is 16x16
_BLUR = 0.8  # standard deviation of its blur, in cells: wider than what JPEG and resampling change, narrower than a stroke's shape
_STEPS = 16  # the centre of ink is known to a sixteenth of a pixel
_AXES = 12  # principal components in which neighbours are looked up
_NEIGHBOURS = 8  # looked at per image; a bound per image keeps the cost linear
_SLACK = 2.0  # neighbours may be so much farther than the nearest: in a crowd of images all alike the exact search is quadratic
_STRANGERS = 16  # neighbours among which the nearest stranger is looked for

_Pairs = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float32]


def near_pairs(images: Bytes) -> tuple[_Pairs, _Floats]:
    """Pairs of `images` uint8 [N,H,W] that show the same drawing in other pixels: saved again, dimmed, shifted or resampled.

    Returns rows int64 [P,2], each i < j and in ascending order, and distances float32 [P] in (0, FARTHEST). Of exact copies only
    the first takes part, and in a crowd that is all alike each image is paired with its nearest few; `groups` joins them. The
    same letter written twice by one hand is no pair: two images are one when they lie nearer than FARTHEST and nearer than CLOSER
    times the distance to the nearest image beyond it. The result depends on the images alone.

    The distance is Euclidean between descriptors: the image moved so that its centre of ink lies in the middle, blurred, sampled
    at 16x16 points, with zero mean and unit norm. Neighbours are found in a k-d tree over the leading principal components:
    a projection only shortens distances, so no pair within reach is lost to it, and each image looks at its nearest few.
    """
    first = _first_alike(images)
    rows = np.flatnonzero(
        (first == np.arange(len(images)))
        & (np.ptp(images.reshape(len(images), -1), axis=1) > 0 if images.size else False)
    )
    if len(rows) < 2:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    found = _descriptors(images[rows])
    sample = found[:: -(-len(found) // 4096)]
    sample = sample - sample.mean(0)
    axes = np.linalg.eigh(sample.T @ sample)[1][:, ::-1][:, :_AXES]
    points = found @ axes
    pairs, distances = _within(found, points, np.arange(len(rows)))
    copies = distances < CLOSER * FARTHEST  # no stranger is nearer than FARTHEST
    unsure, places = np.unique(pairs[~copies], return_inverse=True)
    strangers = _nearest_strangers(found, points, unsure)[places.reshape(-1, 2)].min(axis=1)
    copies[~copies] = distances[~copies] < CLOSER * strangers
    pairs, distances = pairs[copies], distances[copies]
    # Among more copies than an image has neighbours some see only one another: the first of each such group are compared again.
    while True:
        group = joined(np.arange(len(rows)), pairs)
        heads = np.flatnonzero(np.bincount(group) >= _NEIGHBOURS)
        more, apart = _within(found, points, heads)
        fresh = apart < CLOSER * FARTHEST
        if not fresh.any():
            break
        pairs, distances = np.concatenate([pairs, more[fresh]]), np.concatenate([distances, apart[fresh]])
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return rows[pairs[order]], distances[order]


def groups(images: Bytes) -> npt.NDArray[np.int64]:
    """The group of each of `images` uint8 [N,H,W], int64 [N]: equal for images that repeat each other exactly or nearly, also by way of others.

    A group's number is the first of its rows, so an image that repeats no earlier one carries its own row number.
    """
    return joined(_first_alike(images), near_pairs(images)[0])


def joined(first: npt.NDArray[np.int64], pairs: _Pairs) -> npt.NDArray[np.int64]:
    """Groups as in `groups`, int64 [N], from the first row with the same pixels as each (int64 [N]) and pairs of rows (int64 [P,2])."""
    n = len(first)
    links = np.concatenate([np.stack([first, np.arange(n)], axis=1), pairs])
    _, component = connected_components(
        coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(n, n)), directed=False
    )
    _, lowest, number = np.unique(component, return_index=True, return_inverse=True)
    result: npt.NDArray[np.int64] = lowest[number].astype(np.int64)
    return result


def kept(groups: npt.NDArray[np.int64], labels: Labels, is_test: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which images stay, bool [N], when only one of each group (int64 [N], any numbers) may: the first, and test images before train images.

    A group with a test image loses all its train images and keeps its first test image; one without keeps its first train
    image. Where labels (int64 [N]) differ within a group nobody knows which is right: its train images all go, and the first of its
    test images stays only if the test images agree among themselves. So no train image repeats a test image, and no two classes
    share one.
    """
    n = len(groups)
    names, number = np.unique(groups, return_inverse=True)
    stays = np.zeros(n, bool)
    first_test = _lowest(np.arange(n), number, len(names), is_test)
    first_train = _lowest(np.arange(n), number, len(names), ~is_test)
    with_test = first_test < n
    agreed = ~_torn(labels, number, len(names), np.ones(n, bool))
    tests_agreed = ~_torn(labels, number, len(names), is_test)
    stays[first_test[with_test & tests_agreed]] = True
    stays[first_train[~with_test & agreed]] = True
    return stays


def _first_alike(images: Bytes) -> npt.NDArray[np.int64]:
    """For each image the first row with the same pixels."""
    seen: dict[bytes, int] = {}
    return np.array(
        [
            seen.setdefault(hashlib.sha256(image).digest(), row)
            for row, image in enumerate(np.ascontiguousarray(images))
        ],
        np.int64,
    )


def _descriptors(images: Bytes) -> _Floats:
    """Images [N,H,W] -> float32 [N,256], see `near_pairs`; two matrix products per image do moving, blurring and sampling at once."""
    n, height, width = images.shape
    down, across = _sampling(height), _sampling(width)
    found = np.empty((n, _CELLS**2), np.float32)
    for start in range(0, n, 2048):  # as many as fit the processor's cache
        part = images[start : start + 2048].astype(np.float32)
        ink = np.maximum(
            part - part.max(axis=(1, 2), keepdims=True) * 0.15, 0
        )  # noise on the paper must not move the centre
        by_row, by_column = ink.sum(axis=2), ink.sum(axis=1)
        total = by_row.sum(axis=1)
        y = np.rint(by_row @ (np.arange(height) + 0.5) / total * _STEPS).astype(int)
        x = np.rint(by_column @ (np.arange(width) + 0.5) / total * _STEPS).astype(int)
        found[start : start + 2048] = (down[y] @ part @ across[x].transpose(0, 2, 1)).reshape(len(part), -1)
    found -= found.mean(axis=1, keepdims=True)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return found


def _sampling(size: int) -> _Floats:
    """Weights [size*_STEPS+1, _CELLS, size] that sample a line of `size` pixels around each possible centre with a Gaussian."""
    cell = size / _CELLS
    centre = np.arange(size * _STEPS + 1)[:, None, None] / _STEPS
    points = ((np.arange(_CELLS) + 0.5) * cell - size / 2)[:, None]
    return np.exp(-(((np.arange(size) + 0.5 - centre - points) / (_BLUR * cell)) ** 2) / 2).astype(np.float32)


def _within(found: _Floats, points: _Floats, rows: npt.NDArray[np.int64]) -> tuple[_Pairs, _Floats]:
    """Pairs of `rows` nearer than FARTHEST, each of them looking at its nearest few, and their distances."""
    if len(rows) < 2:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    tree = cKDTree(points[rows], leafsize=32, balanced_tree=False)
    bound = (1 + _SLACK) * FARTHEST
    reach, neighbours = tree.query(
        points[rows], k=min(_NEIGHBOURS, len(rows)), eps=_SLACK, distance_upper_bound=bound, workers=-1
    )
    one, place = np.nonzero(np.isfinite(reach))
    other = neighbours[one, place].astype(np.int64)
    pairs = rows[np.unique(np.sort(np.stack([one, other], axis=1)[one != other], axis=1), axis=0)]
    distances = _distances(found, pairs)
    return pairs[distances < FARTHEST], distances[distances < FARTHEST]


def _distances(found: _Floats, pairs: _Pairs) -> _Floats:
    parts = [pairs[start : start + 8192] for start in range(0, len(pairs), 8192)]
    return np.concatenate(
        [np.empty(0, np.float32), *(np.linalg.norm(found[part[:, 0]] - found[part[:, 1]], axis=1) for part in parts)]
    )


def _nearest_strangers(found: _Floats, points: _Floats, rows: npt.NDArray[np.int64]) -> _Floats:
    """Distance of each of `rows` to the nearest image that lies beyond FARTHEST; FARTHEST in a crowd that hides it."""
    if not len(rows):
        return np.empty(0, np.float32)
    k = min(_STRANGERS, len(points))
    _, neighbours = cKDTree(points, leafsize=32, balanced_tree=False).query(points[rows], k=k, eps=_SLACK, workers=-1)
    distances = _distances(found, np.stack([np.repeat(rows, k), neighbours.ravel()], axis=1)).reshape(len(rows), k)
    nearest: _Floats = np.where(distances > FARTHEST, distances, np.inf).min(axis=1)
    return nearest if k == len(points) else np.where(np.isfinite(nearest), nearest, np.float32(FARTHEST))


def _lowest(
    values: npt.NDArray[np.int64], number: npt.NDArray[np.int64], count: int, among: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """The lowest of `values` in each of `count` groups, `among` some members; the number of rows where a group has none of them."""
    lowest = np.full(count, len(values), np.int64)
    np.minimum.at(lowest, number[among], values[among])
    return lowest


def _torn(
    labels: Labels, number: npt.NDArray[np.int64], count: int, among: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Which groups hold different labels `among` some members."""
    highest, lowest = np.full(count, np.iinfo(np.int64).min), np.full(count, np.iinfo(np.int64).max)
    np.maximum.at(highest, number[among], labels[among])
    np.minimum.at(lowest, number[among], labels[among])
    return highest > lowest
