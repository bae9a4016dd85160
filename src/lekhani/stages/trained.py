"""What training leaves for the stages after it."""

import json
from pathlib import Path

import torch

from lekhani import files
from lekhani.export.weights import load_weights
from lekhani.params import Params, Variants
from lekhani.paths import CHECKPOINTS, MODELS
from lekhani.variants import VARIANTS, Variant


def load_trained(p: Params, dataset: str, variant: str) -> tuple[Variants, Variant]:
    """A variant with its trained weights on the CPU, and the choices of its training.

    It is rebuilt from what training wrote down (training.json), not from today's params.yaml.
    """
    folder = MODELS / dataset / variant
    facts = files.read_json(folder / "training.json")
    made_with = {
        name: type(getattr(p.variants, name)).model_validate_json(json.dumps(choice))
        for name, choice in facts["choices"].items()
    }
    choices = p.variants.model_copy(update=made_with)
    built = VARIANTS[variant].build(choices, facts["image_size"], facts["n_classes"], torch.device("cpu"))
    load_weights(built.generator().eval(), folder / "generator.safetensors")
    return choices, built


def unlogged(dataset: str, variant: str) -> Path:
    """The file with what could not be logged because MLflow did not answer."""
    return CHECKPOINTS / dataset / f"{variant}.unlogged.json"
