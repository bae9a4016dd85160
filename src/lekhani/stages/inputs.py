"""What several stages read: the description of a dataset, and data that passed validation."""

from lekhani import files
from lekhani.data import spec
from lekhani.errors import LekhaniError
from lekhani.paths import PREPARED, REPORTS
from lekhani.stages.artefacts import Validated


def dataset_info(dataset: str) -> spec.DatasetInfo:
    """data/prepared/D/dataset.json."""
    path = PREPARED / dataset / "dataset.json"
    with files.reading(path, f"run `dvc repro prepare@{dataset}`"):
        return spec.DatasetInfo.from_json(path.read_bytes())


def validated_data(dataset: str) -> spec.Prepared:
    """data/prepared/D/; a LekhaniError where it failed validation, was validated as other data, or cannot be read."""
    stamp, folder = REPORTS / dataset / "validated.json", PREPARED / dataset
    validated = files.read_checked(stamp, Validated)
    if not validated["passed"]:
        page = stamp.with_name("validation.html")
        raise LekhaniError(f"{dataset} failed its validation, see {page}; mend the data and run `dvc repro`.")
    with files.reading(folder, f"run `dvc repro prepare@{dataset}`"):
        data = spec.load_prepared(folder)
        spec.check(data)
    if (data.info.name, data.info.digest) != (dataset, validated["digest"]):
        raise LekhaniError(f"{stamp} is about other data than {folder} holds; run `dvc repro validate@{dataset}`.")
    return data
