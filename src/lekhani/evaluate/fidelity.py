"""FID, IS, KID, precision and recall by torch-fidelity on the judge's features.

FID: Heusel et al. 2017. IS: Salimans et al. 2016. KID: Binkowski et al. 2018. Precision and recall: Kynkaanniemi et al. 2019.
"""

import contextlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lekhani.evaluate.judge import FEATURES

Floats = npt.NDArray[np.float32]


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


class _JudgeFeatures(torch_fidelity.FeatureExtractorBase):  # type: ignore[name-defined, misc]
    """Hands torch-fidelity what the judge has already read: rows of features followed by logits."""

    def __init__(self, name: str, features_list: list[str], **_: object) -> None:
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("features", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        parts = {"features": rows[:, :FEATURES], "logits": rows[:, FEATURES:]}
        return tuple(parts[name] for name in self.features_list)


torch_fidelity.register_feature_extractor("lekhani-judge", _JudgeFeatures)


class _Rows(torch.utils.data.Dataset[Tensor]):
    def __init__(self, readings: tuple[Floats, Floats]) -> None:
        self.rows = torch.from_numpy(np.concatenate(readings, axis=1))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


def fidelity(generated: tuple[Floats, Floats], real: tuple[Floats, Floats], kid_subset_size: int, seed: int) -> dict[str, float]:
    """Compare two sets by the judge's readings, each (features float32 [N,128], logits float32 [N,K]).

    Returns fid, kid, kid_std, inception_score, inception_score_std, precision (share of generated near real) and
    recall (share of real near generated). KID's subsets shrink to the smaller set.
    """
    with contextlib.redirect_stderr(io.StringIO()):  # torch-fidelity prints notes of its own
        values: dict[str, float] = torch_fidelity.calculate_metrics(
            input1=_Rows(generated),
            input2=_Rows(real),
            feature_extractor="lekhani-judge",
            isc=True,
            fid=True,
            kid=True,
            prc=True,
            kid_subset_size=min(kid_subset_size, len(generated[0]), len(real[0])),
            kid_subsets=50,
            batch_size=1024,
            cuda=False,
            cache=False,
            save_cpu_ram=True,
            verbose=False,
            rng_seed=seed,
        )
    tf = torch_fidelity
    return {
        "fid": float(values[tf.KEY_METRIC_FID]),
        "kid": float(values[tf.KEY_METRIC_KID_MEAN]),
        "kid_std": float(values[tf.KEY_METRIC_KID_STD]),
        "inception_score": float(values[tf.KEY_METRIC_ISC_MEAN]),
        "inception_score_std": float(values[tf.KEY_METRIC_ISC_STD]),
        "precision": float(values[tf.KEY_METRIC_PRECISION]),
        "recall": float(values[tf.KEY_METRIC_RECALL]),
    }
