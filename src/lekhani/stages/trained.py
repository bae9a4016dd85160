"""What training leaves for the stages after it."""

import json
from typing import Any

import torch

from lekhani import files
from lekhani.errors import LekhaniError
from lekhani.export.weights import load_weights
from lekhani.params import Params, Variants
from lekhani.paths import MODELS
from lekhani.stages.artefacts import Training
from lekhani.variants import VARIANTS, Variant


def training_facts(dataset: str, variant: str) -> dict[str, Any]:
    """models/D/V/training.json; a LekhaniError where it is not of this training, or of other weights than lie there."""
    path = MODELS / dataset / variant / "training.json"
    facts: dict[str, Any] = files.read_checked(path, Training)
    if (facts["dataset"], facts["variant"]) != (dataset, variant) or variant not in facts["choices"]:
        raise LekhaniError(f"{path} is of another training; run `dvc repro train@{dataset}-{variant}`.")
    weights = path.with_name("generator.safetensors")
    with files.reading(weights):
        if files.sha256(weights) != facts["generator_sha256"]:
            raise LekhaniError(f"{weights} is not what {path} describes; run `dvc repro train@{dataset}-{variant}`.")
    return facts


def load_trained(p: Params, dataset: str, variant: str) -> tuple[Variants, Variant]:
    """A variant with its trained weights on the CPU, and the choices of its training.

    It is rebuilt from what training wrote down (training.json), not from today's params.yaml.
    """
    folder, facts = MODELS / dataset / variant, training_facts(dataset, variant)
    with files.reading(folder / "training.json"):
        made_with = {
            name: type(getattr(p.variants, name)).model_validate_json(json.dumps(choice))
            for name, choice in facts["choices"].items()
        }
        choices = p.variants.model_copy(update=made_with)
        built = VARIANTS[variant].build(choices, facts["image_size"], facts["n_classes"], torch.device("cpu"))
    load_weights(built.generator().eval(), folder / "generator.safetensors")
    return choices, built
