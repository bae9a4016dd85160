"""How MLflow's UI shows the trainings of an experiment at first: the leading metrics side by side, and sample grids."""

import json
from typing import Any

import mlflow

KEY = "lekhani"
TAG = f"mlflow.sharedViewState.{KEY}"
"""The experiment's tag from which the UI takes a view that an address names by its key."""

_COLUMNS = ("fid_ratio", "label_agreement", "recall", "usefulness", "latency_ms")


def state() -> str:
    """The view, in the form of MLflow 3.17: what its "Share" stores."""
    metrics = [f"eval/{name}" for name in _COLUMNS]
    columns = [f"metrics.`{name}`" for name in metrics]
    charts: list[dict[str, Any]] = [
        *({"type": "IMAGE", "imageKeys": [key], "step": 0, **_chart(key, "grids")} for key in ("grid", "samples")),
        *({"type": "BAR", "metricKey": name, **_chart(name, "headlines")} for name in metrics),
        {"type": "LINE", "metricKey": "train/judge_fid", **_chart("train/judge_fid", "headlines")},
    ]
    sections = {
        "grids": "Grids: scored, and while training",
        "headlines": "Leading metrics",
        "train": "train",
        "eval": "eval",
    }
    return json.dumps(
        {
            "orderByKey": columns[0],
            "orderByAsc": True,
            "selectedColumns": columns,
            "columnOrder": ["0", "attributes.`Run Name`", "runDateAndNestInfo", "duration", *columns],
            "columnWidths": {"attributes.`Run Name`": 300, **dict.fromkeys(columns, 150)},
            "compareRunCharts": charts,
            "compareRunSections": [
                {"uuid": key, "name": name, "display": True, "isReordered": True, "deleted": False}
                for key, name in sections.items()
            ],
            "isAccordionReordered": True,
        }
    )


def _chart(name: str, section: str) -> dict[str, Any]:
    return {
        "uuid": f"{section}-{name}",
        "metricSectionId": section,
        "displayName": name.rpartition("/")[2],
        "runsCountToCompare": 10,
        "isGenerated": False,
        "deleted": False,
    }


def page(client: mlflow.MlflowClient, experiment: str) -> str:
    """The part of the UI's address that shows an experiment's trainings in this view; "" where there is none yet."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return ""
    if found.tags.get(TAG) is None:  # it was made by an earlier release
        client.set_experiment_tag(found.experiment_id, TAG, state())
    return f"/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={KEY}"
