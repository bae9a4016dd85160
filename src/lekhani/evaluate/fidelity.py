"""FID, IS, KID, precision and recall of one set of images against another, by features of a judge or Inception-v3.

FID: Heusel et al. 2017. IS: Salimans et al. 2016. KID: Binkowski et al. 2018. Precision and recall: Kynkaanniemi et
al. 2019.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lekhani import files
from lekhani.data.spec import Bytes
from lekhani.errors import LekhaniError, first_line

Floats = npt.NDArray[np.float32]
Readings = tuple[Floats, Floats]  # what an extractor makes of N images: features [N,F] and logits [N,K]

NEIGHBOURS = 3  # of precision and recall, as in their paper


def _import_torch_fidelity() -> Any:
    # Beside a CPU build of torch, torchvision's registry wheel looks up operators that nothing defined;
    # declaring their schemas first is enough, since torch-fidelity never calls them.
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        with contextlib.suppress(RuntimeError):  # defined already where torchvision matches torch
            library.define(schema)  # type: ignore[no-untyped-call]
    _KEEP.append(library)
    import torch_fidelity

    return torch_fidelity


_KEEP: list[Any] = []  # a Library undoes its definitions when it is collected
torch_fidelity = _import_torch_fidelity()


def fidelity(generated: Readings, real: Readings, kid_subset_size: int, seed: int) -> dict[str, float]:
    """Compare two sets by the readings of one extractor, each (features float32 [N,F], logits float32 [N,K]).

    Returns fid; kid, the mean over 50 subsets, and kid_subset_std, their standard deviation; inception_score, the
    mean over 10 splits, and inception_score_split_std; precision (share of generated near real) and recall (share of
    real near generated). KID's subsets shrink to the smaller set. `seed` draws the subsets and splits. Fewer than 4
    images on one side are a LekhaniError.
    """
    fewest = min(len(generated[0]), len(real[0]))
    if fewest <= NEIGHBOURS:
        need = f"Precision and recall need more than {NEIGHBOURS} images on each side and one side has {fewest}"
        raise LekhaniError(f"{need}; evaluate more images.")
    tf = torch_fidelity
    ours, theirs = torch.from_numpy(generated[0]), torch.from_numpy(real[0])
    statistics = (tf.metric_fid.fid_features_to_statistics(one) for one in (ours, theirs))
    fid = tf.metric_fid.fid_statistics_to_metric(*statistics, False)
    subsets = {"kid_subsets": 50, "kid_subset_size": min(kid_subset_size, fewest), "rng_seed": seed}
    kid = tf.metric_kid.kid_features_to_metric(ours, theirs, **subsets, verbose=False)
    isc = tf.metric_isc.isc_features_to_metric(torch.from_numpy(generated[1]), splits=min(10, len(ours)), rng_seed=seed)
    precision, recall = precision_recall(ours, theirs)
    return {
        "fid": float(fid[tf.KEY_METRIC_FID]),
        "kid": float(kid[tf.KEY_METRIC_KID_MEAN]),
        "kid_subset_std": float(kid[tf.KEY_METRIC_KID_STD]),
        "inception_score": float(isc[tf.KEY_METRIC_ISC_MEAN]),
        "inception_score_split_std": float(isc[tf.KEY_METRIC_ISC_STD]),
        "precision": precision,
        "recall": recall,
    }


def precision_recall(generated: Tensor, real: Tensor, rows: int = 1000) -> tuple[float, float]:
    """Share of generated features [N,F] within a ball of the real ones [M,F], and the other way round.

    A point's ball reaches to its third nearest neighbour in its own set. The figures are torch-fidelity's in a third
    of the time, since the distances between the two sets serve both shares, and in less memory, with `rows` rows of
    distances at once.
    """
    reach, real_reach = _reach(generated, rows), _reach(real, rows)
    precise = torch.zeros(len(generated), dtype=torch.bool)
    recalled = 0
    for part, part_reach in zip(torch.split(real, rows), torch.split(real_reach, rows), strict=True):
        distances = torch.cdist(part, generated)
        recalled += int((distances <= reach).any(1).sum())
        precise |= (distances <= part_reach[:, None]).any(0)
    return int(precise.sum()) / len(generated), recalled / len(real)


def _reach(points: Tensor, rows: int) -> Tensor:
    """The distance [N] from each of `points` [N,F] to its third nearest neighbour."""
    distances = (torch.cdist(part, points) for part in torch.split(points, rows))
    # A point is its own nearest neighbour, hence one more.
    return torch.cat([part.topk(NEIGHBOURS + 1, largest=False).values[:, -1] for part in distances])


class Inception:
    """Inception-v3 with the weights of FID's authors, for figures that can be held against papers.

    `weights` is torch-fidelity's file of them; None takes the one in torch's hub folder and downloads it there first
    when there is none. Attribute: `sha256` of the file. A missing, broken or foreign file is a LekhaniError.
    """

    def __init__(self, weights: Path | None, device: torch.device) -> None:
        path = weights or _downloaded()
        if not path.is_file():
            where = f"{path}, which evaluate.inception_weights in params.yaml names"
            remedy = f"put {_url()} there, or take `inception` out of evaluate.extractors."
            raise LekhaniError(f"There are no Inception-v3 weights at {where}; {remedy}")
        try:
            # torch-fidelity would run any code in a pickle, so it gets one that holds tensors and nothing else.
            tensors = io.BytesIO()
            torch.save(torch.load(path, map_location="cpu", weights_only=True), tensors)
            tensors.seek(0)
            layers = ["2048", "logits_unbiased"]
            net = torch_fidelity.FeatureExtractorInceptionV3("inception-v3-compat", layers, tensors)
        # torch raises many classes of its own, and its words advise to run the pickle's code.
        except Exception as error:
            what = f"{path} holds no weights of torch-fidelity's Inception-v3, or damaged ones"
            hint = "remove it or name another file in evaluate.inception_weights in params.yaml"
            raise LekhaniError(f"{what}; {hint}.") from error
        self.net, self.device, self.sha256 = net.to(device), device, files.sha256(path)

    @torch.no_grad()
    def read(self, images: Bytes, batch_size: int = 64) -> Readings:
        """Features float32 [N,2048] and logits float32 [N,1008] of grey images uint8 [N,H,W]."""
        parts = []
        for start in range(0, len(images), batch_size):
            grey = torch.from_numpy(images[start : start + batch_size]).to(self.device).unsqueeze(1)
            parts.append([t.cpu().numpy() for t in self.net(grey.expand(-1, 3, -1, -1))])
        features, logits = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return features, logits


def _url() -> str:
    url: str = torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3
    return url


def _downloaded() -> Path:
    url = _url()
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]  # where torch-fidelity itself puts it
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=False)
        except Exception as error:  # of the network, of the disk, or of a wrong hash
            what = f"The weights of Inception-v3 could not be downloaded from {url} ({first_line(error)})"
            hint = "fetch that file by other means and name it in evaluate.inception_weights in params.yaml"
            raise LekhaniError(f"{what}; {hint}, or take `inception` out of evaluate.extractors.") from error
    return path
