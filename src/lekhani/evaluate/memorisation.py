"""Whether a generator copies the images that it was trained on.

Images are compared as small blurred pictures of equal contrast, moved so that the ink lies in the middle. The judge's
features prove nothing here: it learned the train split and not the test split, so the two lie differently among its
features, and a generator that copies nothing can seem drawn to one of them. Distances among them are reported, beside
what real images have, and nothing is concluded.

Near copies: Carlini et al. 2023 (Extracting Training Data from Diffusion Models), who set the distance to the nearest
training image against the distances to its next neighbours. Nearest neighbours as a test of what a sample belongs to:
Schilling 1986 (Multivariate Two-Sample Tests Based on Nearest Neighbors); against held-out data, as here: Platzer and
Reutterer 2021 (Holdout-Based Empirical Assessment of Mixed-Type Synthetic Data).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from lekhani.data.spec import Bytes
from lekhani.errors import LekhaniError
from lekhani.pictures import grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

# Chosen on DHCD, MNIST and the embedded sets, whole and cut down to a few images of each class: of unseen real images 0
# to 7 in 1,000 pass both bounds (up to 20 with ten or twenty a class), and of replays that are shifted, dimmed, blurred
# or noisy nearly all in Devanagari and nine in ten in MNIST, where the plainest strokes escape: all draw them alike.
FARTHEST = 0.15  # near copies are nearer: sqrt(2 - 2 r) for the correlation r of two blurred images, so r > 0.989
CLOSER = 0.4  # ... and closer than this in parts of the distance to the next neighbours, see `Pair`

_NEIGHBOURS = 10  # training images looked at; the median of nine lets the train split hold an image five times
_SAME = 0.01  # images nearer than this are the same, however many there are; rounding to uint8 moves one by 0.001
_FLOOR = 3000  # real images at most that a floor is measured on
_CELLS = 16  # a descriptor is 16x16 ...
_BLUR = 0.8  # ... blurred by this standard deviation, in cells: wider than resampling changes, narrower than a stroke
_PAPER = 0.15  # darker than this share of the brightest pixel is not ink: noise on the paper must not move the centre
_BLOCK = 2**25  # products held at once, 128 MiB


class Pair(NamedTuple):
    """A generated image and its nearest training image, by their rows.

    `distance` is Euclidean between `descriptors`, 0 to 2; `closeness` is that distance in parts of the median
    distance to the nine training images that come next, 0 for the same image and about 1 for one among strangers.
    """

    generated: int
    train: int
    distance: float
    closeness: float

    @property
    def near_copy(self) -> bool:
        """Whether both lie below their bounds."""
        return self.distance < FARTHEST and self.closeness < CLOSER


def memorisation(
    generated: Bytes, train: Bytes, test: Bytes, seed: int, closest: int = 12
) -> tuple[dict[str, float], list[Pair]]:
    """Hold generated images against both splits of the real ones, each uint8 [N,H,W], white on black, N at least 1.

    Returns metrics and the `closest` pairs, lowest closeness first and each training image once. The metrics:

    - `near_copies`: share of the generated images that show a training image again, as it is or moved, dimmed, or a
      little blurred or noisy. `near_copies_floor`: the same share of real test images, for honest data repeats itself
      too.
    - `train_excess`: how much more often than by chance the nearest real image is a training image, in parts of the
      most possible. 0 for a generator that knows the train split no better than the test split, give or take
      `train_excess_std`; about s when a share s of its images is made from training images, even where they are
      turned or thickened a little too far for a near copy; 1 when all are. `train_excess_std` is the standard
      deviation if chance had decided which real images to train on. `train_excess_floor`: the same for training
      images, each without itself. Where other hands wrote the test split it lies above 0, and copying begins above
      it. Absent with a single training image.
    - `nearest_train`, `nearest_test`: median distance to the nearest image of either split; `nearest_train_floor`
      that of real test images, `nearest_test_floor` that of training images. The larger split lies nearer: compare
      each with its floor.

    The excess needs no train subset of the test split's size: such a subset lacks most of the images that a generator
    could have copied. `seed` draws at most 3,000 real images for each floor. Raises LekhaniError on an empty set.
    """
    for name, images in (("generated set", generated), ("train split", train), ("test split", test)):
        if not len(images):
            hint = "see the counts in dataset.json and evaluate.n_generated"
            raise LekhaniError(f"The {name} holds no images, so copies cannot be looked for; {hint}.")
    rng = np.random.default_rng([seed, 6])
    drawn, known, unseen = descriptors(generated), descriptors(train), descriptors(test)
    distances, rows = nearest(drawn, known, _NEIGHBOURS)
    repeats, _ = nearest(unseen[_some(unseen, rng)], known, _NEIGHBOURS)
    to_test = nearest(drawn, unseen, 1)
    excess, std = _excess((distances[:, 0], rows[:, 0]), to_test, n_train=len(known), n_test=len(unseen))
    metrics = {
        "near_copies": _near_copies(distances),
        "near_copies_floor": _near_copies(repeats),
        "train_excess": excess,
        "train_excess_std": std,
        "nearest_train": float(np.median(distances[:, 0])),
        "nearest_train_floor": float(np.median(repeats[:, 0])),
        "nearest_test": float(np.median(to_test[0])),
    }
    own = _some(known, rng)
    own_to_test = nearest(known[own], unseen, 1)
    metrics["nearest_test_floor"] = float(np.median(own_to_test[0]))
    if len(known) > 1:
        apart, others = nearest(known[own], known, 2)
        second = (np.arange(len(own)), (others[:, 0] == own).astype(int))  # where the first is the image itself
        floor, _ = _excess((apart[second], others[second]), own_to_test, len(known) - 1, len(unseen))
        metrics["train_excess_floor"] = floor
    closeness = _closeness(distances)
    order = np.lexsort((distances[:, 0], closeness))
    first = np.sort(np.unique(rows[order, 0], return_index=True)[1])[:closest]
    pairs = [Pair(int(i), int(rows[i, 0]), float(distances[i, 0]), float(closeness[i])) for i in order[first]]
    return metrics, pairs


def among_features(generated: Floats, train: Floats, test: Floats) -> dict[str, float]:
    """Median distances as in `memorisation` among a judge's features [N,F], 0 to 2 for features brought to unit length.

    `nearest_train_judge` and `nearest_test_judge`, each with its `_floor`.
    """
    drawn, known, unseen = (
        features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        for features in (generated, train, test)
    )
    pairs = {"nearest_train_judge": (drawn, known), "nearest_test_judge": (drawn, unseen)}
    pairs |= {"nearest_train_judge_floor": (unseen, known), "nearest_test_judge_floor": (known, unseen)}
    return {name: float(np.median(nearest(one, other, 1)[0])) for name, (one, other) in pairs.items()}


def closest_figure(pairs: Sequence[Pair], generated: Bytes, train: Bytes) -> "Figure":
    """The pairs as pictures: generated on the left, its training neighbour on the right, near copies in red."""
    from matplotlib.figure import Figure

    columns = min(4, len(pairs))
    figure = Figure(figsize=(2.6 * columns, 1.55 * -(-len(pairs) // columns) + 0.4), layout="constrained")
    for place, pair in enumerate(pairs):
        axes = figure.add_subplot(-(-len(pairs) // columns), columns, place + 1)
        both = grid(np.stack([generated[pair.generated], train[pair.train]]), 2)
        axes.imshow(both, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
        text = f"distance {pair.distance:.2f}, closeness {pair.closeness:.2f}"
        axes.set_title(text, fontsize=9, color="tab:red" if pair.near_copy else "black")
    figure.suptitle("Generated (left) and its nearest training image (right); near copies in red", fontsize=10)
    return figure


def descriptors(images: Bytes) -> Floats:
    """What `images` uint8 [N,H,W] show, wherever and however brightly: float32 [N,256] of zero mean and unit norm.

    Each is 16x16 samples of the blurred image around its centre of ink; a blank image is 0.
    """
    found = np.empty((len(images), _CELLS**2), np.float32)
    for start in range(0, len(images), 1024):
        part = images[start : start + 1024].astype(np.float32)
        ink = np.maximum(part - _PAPER * part.max(axis=(1, 2), keepdims=True), 0)
        sampled = _sampling(ink.sum(axis=2)) @ part @ _sampling(ink.sum(axis=1)).transpose(0, 2, 1)
        found[start : start + 1024] = sampled.reshape(len(part), -1)
    found -= found.mean(axis=1, keepdims=True)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return found


def _sampling(ink: Floats) -> Floats:
    """Gaussian weights [N,16,size] that sample lines of pixels around their centre of `ink` [N,size]."""
    size = ink.shape[1]
    cell = size / _CELLS
    pixels = np.arange(size, dtype=np.float32) + 0.5
    centre = ink @ pixels / np.maximum(ink.sum(axis=1), np.finfo(np.float32).tiny)
    points = (np.arange(_CELLS, dtype=np.float32) + 0.5) * cell - size / 2
    weights: Floats = np.exp(-(((pixels - centre[:, None, None] - points[:, None]) / (_BLUR * cell)) ** 2) / 2)
    return weights


def nearest(queries: Floats, references: Floats, k: int) -> tuple[Floats, Rows]:
    """Distances [N,k] from each of `queries` [N,D] to its nearest `references` [M,D], nearest first, and their rows.

    All are descriptors, so that the product of two gives their distance: sqrt(2 - 2 product), exact to 0.001. Two blank
    ones are as far apart as unrelated ones. Rows are int64 [N,k]; k is M where there are fewer references.
    """
    # scikit-learn's neighbours take four times as long by cosine; by Euclidean distance two blank ones are the same.
    known = torch.from_numpy(references).T
    blocks = torch.split(torch.from_numpy(queries), max(1, _BLOCK // len(references)))
    parts = [torch.topk(block @ known, min(k, len(references))) for block in blocks]
    distances = torch.cat([part.values for part in parts]).mul_(-2).add_(2).clamp_min_(0).sqrt_()
    return distances.numpy(), torch.cat([part.indices for part in parts]).numpy()


def _closeness(distances: Floats) -> Floats:
    """See `Pair`, [N], from the distances [N,k] to the nearest training images; 1 where there is but one of them."""
    typical = np.median(distances[:, min(1, distances.shape[1] - 1) :], axis=1)
    close: Floats = np.where(distances[:, 0] < _SAME, 0, distances[:, 0] / np.maximum(typical, np.float32(_SAME)))
    return close


def _near_copies(distances: Floats) -> float:
    return float(((distances[:, 0] < FARTHEST) & (_closeness(distances) < CLOSER)).mean())


def _excess(
    to_train: tuple[Floats, Rows], to_test: tuple[Floats, Rows], n_train: int, n_test: int
) -> tuple[float, float]:
    """See `memorisation`: the excess and its standard deviation, from the nearest image of each split."""
    (distances, rows), (test_distances, test_rows) = to_train, (part[:, 0] for part in to_test)
    trained = distances <= test_distances
    n, chance = n_train + n_test, n_train / (n_train + n_test)
    # Each real image weighs as much as images lie nearest to it; chance marks n_train of them, without replacement.
    weights = [np.bincount(rows[trained]), np.bincount(test_rows[~trained])]
    spread = sum(float((weight / len(rows)) @ (weight / len(rows))) for weight in weights) - 1 / n
    std = np.sqrt(chance * (1 - chance) * max(spread, 0) * n / (n - 1))
    return float((trained.mean() - chance) / (1 - chance)), float(std / (1 - chance))


def _some(rows: Floats, rng: np.random.Generator) -> Rows:
    return np.sort(rng.permutation(len(rows))[:_FLOOR])
