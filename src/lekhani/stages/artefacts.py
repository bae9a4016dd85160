"""The files that stages leave for one another: what each holds, checked where it is read."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, RootModel

from lekhani.data.spec import Digest, Name, Side
from lekhani.files import FileModel, read_csv

Natural = Annotated[int, Field(ge=0, lt=1 << 53)]
Positive = Annotated[int, Field(ge=1, lt=1 << 31)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Validated(FileModel):
    """reports/D/validated.json: what other stages need of the validation, without its wording."""

    dataset: Name
    digest: Digest
    passed: bool


class Finding(FileModel):
    """What the diagnosis of a training has found."""

    name: str
    sentence: str


class Training(FileModel):
    """models/D/V/training.json."""

    dataset: Name
    variant: Name
    image_size: Side
    n_classes: Positive
    noise_dim: Positive
    conditional: bool
    parameters: Natural
    choices: dict[str, dict[str, Any]]
    seed: Natural
    profile: str
    data_digest: Digest
    generator_sha256: Digest
    images_seen: Natural
    steps: Natural
    best_step: Natural
    findings: tuple[Finding, ...]
    device: str
    torch: str


class TrainTiming(FileModel):
    """reports/D/V/train_timing.json."""

    train_seconds: Amount
    images_per_second: Amount
    peak_memory_mb: Amount


class Export(FileModel):
    """reports/D/V/export.json."""

    parity_max_abs: Amount
    size_mb: Amount
    model_sha256: Digest


class ExportTiming(FileModel):
    """reports/D/V/export_timing.json."""

    latency_ms: Amount


class Scorecard(FileModel):
    """measurements.json: besides these, any number of metrics."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int | float]

    dataset: Name
    variant: Name
    model_sha256: Digest
    judge_sha256: Digest
    data_digest: Digest
    seed: Natural
    sampling_seeds: Positive
    n_generated: Positive
    n_real: Positive
    fid: float
    fid_floor: float
    inception_sha256: str | None = None


class Metrics(RootModel[dict[str, float]]):
    """reports/D/V/usefulness.json, which is empty where usefulness is not measured."""

    model_config = ConfigDict(strict=True)


class Point(FileModel):
    """See `evaluate.usefulness.Point`."""

    kind: Literal["real", "real+synthetic", "synthetic"]
    share: Share
    n_real: Natural
    n_synthetic: Natural
    accuracies: Annotated[tuple[Share, ...], Field(min_length=1)]


class Points(FileModel):
    """reports/D/usefulness_real.json."""

    points: tuple[Point, ...]


class Duration(FileModel):
    """How long a stage took."""

    stage: Name
    dataset: Name
    variant: str
    seconds: Amount


class RunNote(FileModel):
    """mlflow_run.json beside the checkpoints of a training."""

    run_id: Name


def per_class(path: Path) -> list[dict[str, str]]:
    """The rows of per_class.csv; see `evaluate.per_class.table`."""
    figures = ("read_as", "confidence", "fid", "fid_floor", "fid_ratio", "recall", "recall_floor", "diversity")
    more = ("modes", "modes_floor", "asked", "agreement")
    return read_csv(path, ("name", "glyph", "label", *figures), (*figures, *more), blank=True)
