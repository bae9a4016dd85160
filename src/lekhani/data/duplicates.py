"""Images that repeat one another, exactly or nearly, and which of them to keep."""

import hashlib

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from lekhani.data.spec import Bytes, Labels

# Chosen by looking at pairs of DHCD, MNIST and the embedded letters, and by what JPEG, shifts, noise and resampling do.
MAX_DISTANCE = 0.12  # copies lie nearer: sqrt(2 - 2 r) for the correlation r of two blurred images, so r > 0.993
MAX_RATIO = 0.3  # of a copy's distance to that of the nearest other image: the strokes of a plain 1 are no copies

_CELLS = 16  # a descriptor is 16x16
_BLUR = 0.8  # standard deviation in cells: wider than what JPEG and resampling change, narrower than a stroke's shape
_STEPS = 16  # the centre of ink is known to a sixteenth of a pixel
_AXES = 12  # principal components in which neighbours are looked up
_NEIGHBOURS = 8  # looked at per image; a bound per image keeps the cost linear
_SLACK = 2.0  # neighbours may be so much farther than the nearest: among images all alike an exact search is quadratic
_OTHERS = 16  # neighbours among which the nearest other image is looked for

_Rows = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float32]


def near_pairs(images: Bytes) -> tuple[_Rows, _Floats]:
    """Pairs of `images` uint8 [N,H,W] that show the same drawing in other pixels, and their distances.

    The pixels may have been saved again, dimmed, shifted or resampled.
    Returns rows int64 [P,2], each i < j and in ascending order, and distances float32 [P] in (0, MAX_DISTANCE). Of
    exact copies only the first takes part, and in a crowd that is all alike each image is paired with its nearest few;
    `groups` joins them. The same letter written twice by one hand is no pair: two images are one when they lie nearer
    than MAX_DISTANCE and nearer than MAX_RATIO times the distance to the nearest image beyond it. The result depends on
    the images alone.

    The distance is Euclidean between descriptors: the image moved so that its centre of ink lies in the middle,
    blurred, sampled at 16x16 points, with zero mean and unit norm. Neighbours are found in a k-d tree over the leading
    principal components: a projection only shortens distances, so no pair within reach is lost to it.
    """
    first = _first_alike(images)
    flat = np.ptp(images.reshape(len(images), -1), axis=1) == 0 if images.size else np.ones(len(images), bool)
    rows = np.flatnonzero((first == np.arange(len(images))) & ~flat)
    if len(rows) < 2:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    descriptors = _descriptors(images[rows])
    sample = descriptors[:: -(-len(descriptors) // 4096)]
    sample = sample - sample.mean(0)
    axes = np.linalg.eigh(sample.T @ sample)[1][:, ::-1][:, :_AXES]
    points = descriptors @ axes
    pairs, distances = _within(descriptors, points, np.arange(len(rows)))
    is_copy = distances < MAX_RATIO * MAX_DISTANCE  # no other image is nearer than MAX_DISTANCE
    unsure, places = np.unique(pairs[~is_copy], return_inverse=True)
    others = _nearest_others(descriptors, points, unsure)[places.reshape(-1, 2)].min(axis=1)
    is_copy[~is_copy] = distances[~is_copy] < MAX_RATIO * others
    pairs, distances = pairs[is_copy], distances[is_copy]
    # Of more copies than an image has neighbours some see only one another, so the first of each group are compared.
    while True:
        group = joined(np.arange(len(rows)), pairs)
        heads = np.flatnonzero(np.bincount(group) >= _NEIGHBOURS)
        more, apart = _within(descriptors, points, heads)
        near = apart < MAX_RATIO * MAX_DISTANCE
        if not near.any():
            break
        pairs, distances = np.concatenate([pairs, more[near]]), np.concatenate([distances, apart[near]])
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return rows[pairs[order]], distances[order]


def groups(images: Bytes) -> _Rows:
    """The group of each of `images` uint8 [N,H,W], int64 [N].

    Images that repeat each other exactly or nearly, also by way of others, are in one group. Its number is the first of
    its rows, so an image that repeats no earlier one carries its own row number.
    """
    return joined(_first_alike(images), near_pairs(images)[0])


def joined(first: _Rows, pairs: _Rows) -> _Rows:
    """Groups as in `groups`, int64 [N].

    `first` int64 [N] is the first row with the same pixels as each, and `pairs` int64 [P,2] are rows to join.
    """
    n = len(first)
    links = np.concatenate([np.stack([first, np.arange(n)], axis=1), pairs])
    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    _, lowest, number = np.unique(component, return_index=True, return_inverse=True)
    result: _Rows = lowest[number].astype(np.int64)
    return result


def kept(groups: _Rows, labels: Labels, is_test: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which images stay, bool [N], when only one of each group (int64 [N], any numbers) may.

    A group with a test image loses all its train images and keeps its first test image; one without keeps its first
    train image. Where labels (int64 [N]) differ within a group nobody knows which is right: its train images all go,
    and the first of its test images stays only if the test images agree among themselves. So no train image repeats a
    test image, and no two classes share one.
    """
    rows = pd.DataFrame({"group": groups, "label": labels, "test": is_test})
    first = ~rows.duplicated(["group", "test"])
    has_test = rows.groupby("group")["test"].transform("any").astype(bool)
    agree = rows.groupby("group")["label"].transform("nunique") == 1
    tests_agree = rows.groupby(["group", "test"])["label"].transform("nunique") == 1
    stays: npt.NDArray[np.bool_] = (first & np.where(is_test, tests_agree, agree & ~has_test)).to_numpy(bool)
    return stays


def _first_alike(images: Bytes) -> _Rows:
    """For each image the first row with the same pixels."""
    seen: dict[bytes, int] = {}
    digests = (hashlib.sha256(image).digest() for image in np.ascontiguousarray(images))
    return np.array([seen.setdefault(digest, row) for row, digest in enumerate(digests)], np.int64)


def _descriptors(images: Bytes) -> _Floats:
    """Images [N,H,W] to float32 [N,256], see `near_pairs`; two matrix products per image move, blur and sample."""
    n, height, width = images.shape
    down, across = _sampling(height), _sampling(width)
    found = np.empty((n, _CELLS**2), np.float32)
    for start in range(0, n, 2048):  # as many as fit the processor's cache
        part = images[start : start + 2048].astype(np.float32)
        paper = part.max(axis=(1, 2), keepdims=True) * 0.15  # noise on the paper must not move the centre
        ink = np.maximum(part - paper, 0)
        by_row, by_column = ink.sum(axis=2), ink.sum(axis=1)
        total = by_row.sum(axis=1)
        y = np.rint(by_row @ (np.arange(height) + 0.5) / total * _STEPS).astype(int)
        x = np.rint(by_column @ (np.arange(width) + 0.5) / total * _STEPS).astype(int)
        found[start : start + 2048] = (down[y] @ part @ across[x].transpose(0, 2, 1)).reshape(len(part), -1)
    found -= found.mean(axis=1, keepdims=True)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return found


def _sampling(size: int) -> _Floats:
    """Gaussian weights [size*_STEPS+1, _CELLS, size] that sample a line of `size` pixels around each centre."""
    cell = size / _CELLS
    centre = np.arange(size * _STEPS + 1)[:, None, None] / _STEPS
    points = ((np.arange(_CELLS) + 0.5) * cell - size / 2)[:, None]
    return np.exp(-(((np.arange(size) + 0.5 - centre - points) / (_BLUR * cell)) ** 2) / 2).astype(np.float32)


def _within(descriptors: _Floats, points: _Floats, rows: _Rows) -> tuple[_Rows, _Floats]:
    """Pairs of `rows` nearer than MAX_DISTANCE, each of them looking at its nearest few, and their distances."""
    if len(rows) < 2:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    tree = cKDTree(points[rows], leafsize=32, balanced_tree=False)
    bound, k = (1 + _SLACK) * MAX_DISTANCE, min(_NEIGHBOURS, len(rows))
    reach, neighbours = tree.query(points[rows], k=k, eps=_SLACK, distance_upper_bound=bound, workers=-1)
    one, place = np.nonzero(np.isfinite(reach))
    other = neighbours[one, place].astype(np.int64)
    pairs = rows[np.unique(np.sort(np.stack([one, other], axis=1)[one != other], axis=1), axis=0)]
    distances = _distances(descriptors, pairs)
    return pairs[distances < MAX_DISTANCE], distances[distances < MAX_DISTANCE]


def _distances(descriptors: _Floats, pairs: _Rows) -> _Floats:
    parts = (pairs[start : start + 8192] for start in range(0, len(pairs), 8192))
    lengths = (np.linalg.norm(descriptors[part[:, 0]] - descriptors[part[:, 1]], axis=1) for part in parts)
    return np.concatenate([np.empty(0, np.float32), *lengths])


def _nearest_others(descriptors: _Floats, points: _Floats, rows: _Rows) -> _Floats:
    """Distance of each of `rows` to the nearest image beyond MAX_DISTANCE; MAX_DISTANCE in a crowd that hides it."""
    if not len(rows):
        return np.empty(0, np.float32)
    k = min(_OTHERS, len(points))
    _, neighbours = cKDTree(points, leafsize=32, balanced_tree=False).query(points[rows], k=k, eps=_SLACK, workers=-1)
    pairs = np.stack([np.repeat(rows, k), neighbours.ravel()], axis=1)
    distances = _distances(descriptors, pairs).reshape(len(rows), k)
    nearest: _Floats = np.where(distances > MAX_DISTANCE, distances, np.inf).min(axis=1)
    return nearest if k == len(points) else np.where(np.isfinite(nearest), nearest, np.float32(MAX_DISTANCE))
