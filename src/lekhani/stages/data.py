"""fetch, prepare and validate: from a source to images that may be trained on."""

import logging

from lekhani.data import prepare as preparing
from lekhani.data import schema, validation_report, versions
from lekhani.data.sources import fetch as sources
from lekhani.errors import LekhaniError, UsageError
from lekhani.params import Params
from lekhani.paths import PREPARED, RAW, REPORTS

log = logging.getLogger("lekhani")


def fetch(p: Params, dataset: str) -> None:
    """Source -> data/raw/D/."""
    sources.fetch(dataset, p.dataset(dataset), p.embedded, p.seed, RAW / dataset)


def prepare(p: Params, dataset: str) -> None:
    """data/raw/D/ -> data/prepared/D/{images.npy, labels.npy, manifest.parquet, dataset.json}."""
    info = preparing.prepare(dataset, p.dataset(dataset), p.prepare, p.seed, RAW / dataset, PREPARED / dataset)
    train, test = info.counts["train"], info.counts["test"]
    log.info("%s: %d train and %d test images in %d classes", dataset, train, test, info.n_classes)


def validate(p: Params, dataset: str) -> None:
    """data/prepared/D/ -> reports/D/{validation.json, .md, .html, data_card.md, contact_sheet.png}.

    A failed check is a LekhaniError, which stops everything downstream.
    """
    previous = None
    if p.validation.drift != "off":
        try:
            previous = versions.manifest_at(dataset, p.validation.previous).manifest
        except versions.NoVersion:
            pass  # the first of its kind
        except UsageError as error:
            log.warning("Drift cannot be judged: %s", error)
    report = schema.validate(PREPARED / dataset, p.validation, previous)
    validation_report.write_reports(report, PREPARED / dataset, REPORTS / dataset)
    log.info("%s", validation_report.report_text(report))
    if not report["passed"]:
        failed = [one["sentence"] for one in report["checks"] if not one["passed"] and one["policy"] == "error"]
        page = REPORTS / dataset / "validation.html"
        raise LekhaniError(f"{dataset} is not fit to train on: {' '.join(failed)} The report is {page}.")
