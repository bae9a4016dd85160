"""Every metric against its own formula in NumPy and SciPy.

Inception-v3 has random weights here, since its own are not available everywhere.
"""

import hashlib
import pickle
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import log_softmax
from trap import Trap

from lekhani.errors import LekhaniError
from lekhani.evaluate.fidelity import Floats, Inception, Readings, fidelity, precision_recall, torch_fidelity
from lekhani.evaluate.judge import FEATURES

K = 5
CPU = torch.device("cpu")


def readings(n: int, seed: int, offset: float = 0.0, scale: float = 1.0) -> Readings:
    """Features that are correlated as real ones are, and logits of mixed certainty."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(FEATURES, FEATURES)) / FEATURES**0.5
    features = np.maximum(offset + scale * rng.normal(size=(n, FEATURES)) @ mix, 0)
    return features.astype(np.float32), (3 * rng.normal(size=(n, K))).astype(np.float32)


def frechet(a: Floats, b: Floats) -> float:
    """By eigenvalues, as SciPy's `sqrtm` fails where a covariance has no full rank."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    one, other = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    between = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(0)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(one) + np.trace(other) - 2 * between)


def kernel_distance(a: Floats, b: Floats) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one @ other.T / a.shape[1] + 1) ** 3

    n, m = len(x), len(y)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    return float((xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.mean())


def inside(points: Floats, among: Floats, k: int = 3) -> float:
    radii = np.sort(cdist(among, among), axis=1)[:, k]
    return float((cdist(points, among) <= radii).any(axis=1).mean())


def inception(logits: Floats, seed: int, splits: int = 10) -> tuple[float, float]:
    log_p = log_softmax(logits.astype(np.float64), axis=1)[np.random.RandomState(seed).permutation(len(logits))]
    scores = []
    for part in np.array_split(log_p, splits):
        p = np.exp(part)
        scores.append(np.exp((p * (part - np.log(p.mean(0)))).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


@pytest.fixture(scope="module")
def pair() -> tuple[Readings, Readings, dict[str, float]]:
    generated, real = readings(400, 1, offset=0.3, scale=1.2), readings(400, 2)
    return generated, real, fidelity(generated, real, kid_subset_size=10_000, seed=4)


def test_metrics_by_their_formulas(pair: tuple[Readings, Readings, dict[str, float]]) -> None:
    generated, real, got = pair
    score, std = inception(generated[1], seed=4)
    assert got == {
        "fid": pytest.approx(frechet(generated[0], real[0]), rel=1e-3),
        "kid": pytest.approx(kernel_distance(generated[0], real[0]), rel=1e-3),
        "kid_subset_std": pytest.approx(0, abs=1e-6),  # every subset is the whole set
        "inception_score": pytest.approx(score, rel=1e-3),
        "inception_score_split_std": pytest.approx(std, rel=1e-3),
        "precision": pytest.approx(inside(generated[0], real[0]), abs=0.005),
        "recall": pytest.approx(inside(real[0], generated[0]), abs=0.005),
    }


def test_kid_over_subsets(pair: tuple[Readings, Readings, dict[str, float]]) -> None:
    (a, _), (b, _) = pair[:2]
    rng = np.random.RandomState(4)
    values = [
        kernel_distance(a[rng.choice(len(a), 60, replace=False)], b[rng.choice(len(b), 60, replace=False)])
        for _ in range(50)
    ]
    got = fidelity(*pair[:2], kid_subset_size=60, seed=4)
    assert got["kid"] == pytest.approx(np.mean(values), rel=1e-3)
    assert got["kid_subset_std"] == pytest.approx(np.std(values), rel=1e-3)


def test_fid_where_numbers_are_hard() -> None:
    a, b = readings(300, 1), readings(500, 2)
    far = (a[0] + 300).astype(np.float32), (b[0] + 300).astype(np.float32)
    assert fidelity((far[0], a[1]), (far[1], b[1]), 50, 1)["fid"] == pytest.approx(frechet(*far), rel=1e-3)
    few, fewer = readings(90, 1, offset=0.2), readings(70, 2)  # images than features
    for features, _ in (few, fewer):
        features[:, ::3] = 0  # dead ones
    assert fidelity(few, fewer, 50, 1)["fid"] == pytest.approx(frechet(few[0], fewer[0]), rel=1e-3)


def test_precision_and_recall_are_those_of_torch_fidelity() -> None:
    x, y = (torch.from_numpy(one[0]) for one in (readings(330, 1, offset=0.1), readings(270, 2)))
    theirs = torch_fidelity.metric_prc.calculate_precision_recall_full(x, y)
    assert precision_recall(x, y) == pytest.approx(theirs, abs=1e-6)
    assert precision_recall(x, y, rows=64) == pytest.approx(theirs, abs=1e-6), "in parts, the last of them smaller"
    assert 0 < theirs[0] != theirs[1] > 0


def test_few_images_of_any_width() -> None:
    rng = np.random.default_rng(3)
    sizes = (4, 6)
    one, other = (tuple(rng.normal(size=(n, width)).astype(np.float32) for width in (7, K)) for n in sizes)
    got = fidelity(one, other, 1000, 1)
    assert np.isfinite(list(got.values())).all()
    assert got["fid"] == pytest.approx(frechet(one[0], other[0]), rel=1e-3)
    assert got["kid"] != 0
    with pytest.raises(LekhaniError, match="more than 3 images on each side and one side has 3"):
        fidelity((one[0][:3], one[1][:3]), other, 1000, 1)


def test_the_seed_decides_the_subsets() -> None:
    generated, real = readings(200, 1), readings(200, 2)
    first, again, other = (fidelity(generated, real, 30, seed) for seed in (1, 1, 2))
    assert first == again
    assert first["kid"] != other["kid"]
    assert first["fid"] == other["fid"]
    assert first["kid_subset_std"] > 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights, large enough for the signal to come through."""
    kind, path = torch_fidelity.FeatureExtractorInceptionV3, tmp_path_factory.mktemp("inception") / "random.pth"
    torch.manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "load_state_dict", lambda *_: None)
        patch.setattr(torch, "load", lambda *_, **__: None)
        net = kind("inception-v3-compat", ["2048"], "no file")
    for part in net.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    torch.save(net.state_dict(), path)
    return path


def glyphs(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 28, 28)).astype(np.uint8)


def test_inception_reads_grey_as_equal_colours(weights: Path) -> None:
    extractor = Inception(weights, CPU)
    images = glyphs(5, 1)
    features, logits = extractor.read(images, batch_size=3)
    assert (features.shape, logits.shape) == ((5, 2048), (5, 1008))
    assert features.dtype == logits.dtype == np.float32
    with torch.no_grad():
        colours = torch.from_numpy(np.stack([images[3:]] * 3, axis=1))
        direct = extractor.net(colours)
        kernel = extractor.net.fc.weight.numpy()
    np.testing.assert_allclose(features[3:], direct[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(logits, features @ kernel.T, rtol=1e-3, atol=1e-5)
    assert features.std(0).mean() > 0, "each image has a reading of its own"
    assert extractor.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_weights_that_are_nowhere_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    missing = r"no Inception-v3 weights at .*gone\.pth, which evaluate\.inception_weights.*put https://.*\.pth there"
    unreachable = (
        r"not be downloaded from https://.*no route to host.*evaluate\.inception_weights.*evaluate\.extractors"
    )
    for path, words in ((tmp_path / "gone.pth", missing), (None, unreachable)):
        with pytest.raises(LekhaniError, match=words) as error:
            Inception(path, CPU)
        assert "\n" not in str(error.value)


def test_weights_are_downloaded_once_and_by_their_hash(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = []

    def download(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        downloads.append((url, hash_prefix))
        shutil.copy(weights, path)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert Inception(None, CPU).sha256 == Inception(None, CPU).sha256
    ((url, prefix),) = downloads
    assert url == torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3
    assert prefix == "6726825d"
    assert (tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]).exists()


def test_a_file_of_no_weights_is_refused_and_its_code_never_runs(tmp_path: Path) -> None:
    plain, zipped, other, page = (tmp_path / f"{name}.pth" for name in ("plain", "zipped", "other", "page"))
    plain.write_bytes(pickle.dumps(Trap(tmp_path / "ran"), protocol=2))
    torch.save({"Conv2d_1a_3x3.conv.weight": Trap(tmp_path / "ran")}, zipped)
    torch.save({"weight": torch.zeros(3)}, other)
    page.write_bytes(b"<html>not found</html>")
    for path in (plain, zipped, other, page):
        words = f"{path.name} holds no weights of torch-fidelity's Inception-v3"
        with pytest.raises(LekhaniError, match=words) as error:
            Inception(path, CPU)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()
    torch.load(zipped, weights_only=False)
    assert (tmp_path / "ran").exists(), "the trap works"
