"""validate: whether prepared data are fit to train on."""

import logging

from lekhani import files
from lekhani.data import schema, validation_report, versions
from lekhani.errors import LekhaniError, UsageError
from lekhani.params import Params
from lekhani.paths import PREPARED, REPORTS

log = logging.getLogger("lekhani")


def validate(p: Params, dataset: str) -> None:
    """data/prepared/D/ -> reports/D/{validated.json, validation.{json,md,html}, data_card.md, contact_sheet.png}.

    Other stages depend on validated.json alone, so that other words in the report make none of them run. A failed check
    is a LekhaniError, which stops everything downstream.
    """
    previous = None
    if p.validation.drift != "off":
        try:
            previous = versions.version_at(dataset, p.validation.previous).manifest
        except versions.NoVersionError:
            pass  # the first of its kind
        except UsageError as error:
            log.warning("Drift cannot be judged: %s", error)
    report = schema.validate(PREPARED / dataset, p.validation, previous)
    validation_report.write_reports(report, PREPARED / dataset, REPORTS / dataset)
    stamp = {key: report[key] for key in ("dataset", "digest", "passed")}
    files.write_json(REPORTS / dataset / "validated.json", stamp)
    log.info("%s", validation_report.report_text(report))
    if not report["passed"]:
        failed = [one["sentence"] for one in report["checks"] if not one["passed"] and one["policy"] == "error"]
        page = REPORTS / dataset / "validation.html"
        raise LekhaniError(f"{dataset} is not fit to train on: {' '.join(failed)} The report is {page}.")
