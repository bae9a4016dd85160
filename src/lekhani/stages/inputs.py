"""What several stages read: the description of a dataset, and data that passed validation."""

from lekhani import files
from lekhani.data import spec
from lekhani.errors import LekhaniError
from lekhani.paths import PREPARED, REPORTS


def dataset_info(dataset: str) -> spec.DatasetInfo:
    """data/prepared/D/dataset.json."""
    return spec.DatasetInfo.from_dict(files.read_json(PREPARED / dataset / "dataset.json"))


def validated_data(dataset: str) -> spec.Prepared:
    """data/prepared/D/; a LekhaniError where it failed validation or cannot be read."""
    report = files.read_json(REPORTS / dataset / "validation.json")
    if not report["passed"]:
        page = REPORTS / dataset / "validation.json"
        raise LekhaniError(f"{dataset} failed its validation, see {page}; mend the data and run `dvc repro`.")
    try:
        return spec.load_prepared(PREPARED / dataset)
    except (OSError, ValueError, KeyError, TypeError) as error:
        folder = PREPARED / dataset
        raise LekhaniError(f"{folder} cannot be read ({error}); run `dvc repro prepare@{dataset}`.") from error
