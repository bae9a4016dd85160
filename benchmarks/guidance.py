"""What steps, solver and guidance are worth to a trained flow_matching, by the judge that comes with the package.

    python benchmarks/guidance.py [--dataset devanagari] [--per-class 100] [--out FILE.json]

Run it in a project folder with data/prepared/D and models/D/flow_matching; its weights stay as they are.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from origin import origin
from pretrained import Asked, show

from lekhani import params
from lekhani.data.spec import Bytes
from lekhani.files import write_json
from lekhani.pictures import to_uint8
from lekhani.stages.trained import load_trained
from lekhani.variants import VARIANTS

NAMES = ("steps", "solver", "guidance", "guidance_from", "guidance_to")
TRIED = (
    (8, "euler", 1.5, 0.0, 1.0),
    (8, "euler", 2.0, 0.0, 1.0),
    (8, "euler", 2.5, 0.0, 1.0),
    (16, "euler", 1.5, 0.0, 1.0),
    (16, "euler", 2.0, 0.0, 1.0),
    (8, "heun", 1.5, 0.0, 1.0),
    (8, "heun", 2.0, 0.0, 1.0),
    (8, "euler", 2.5, 0.1, 0.8),
    (8, "euler", 2.5, 0.2, 0.8),
    (12, "euler", 2.5, 0.1, 0.8),
)


def main() -> None:
    """Sample with each choice, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="devanagari")
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    asked = Asked(given.dataset, given.per_class)
    choices, trained = load_trained(params.load(), given.dataset, "flow_matching")
    results = {}
    for tried in TRIED:
        sampling = choices.flow_matching.model_copy(update=dict(zip(NAMES, tried, strict=True)))
        choices = choices.model_copy(update={"flow_matching": sampling})
        info = asked.data.info
        built = VARIANTS["flow_matching"].build(choices, info.image_size, info.n_classes, torch.device("cpu"))
        built.generator().load_state_dict(trained.generator().state_dict())
        results[" ".join(map(str, tried))] = asked.score(partial(draw, built.generator().eval(), asked.labels))
    show(results)
    if given.out:
        write_json(given.out, {**origin("torch"), "images": len(asked.labels), "tried": NAMES, "scores": results})


@torch.no_grad()
def draw(sampler: torch.nn.Module, labels: Any, seed: int) -> Bytes:
    """Images uint8 [N,H,W], a few hundred at a time; every choice is given the same noise."""
    random, side = torch.Generator().manual_seed(seed), sampler.image_size  # type: ignore[attr-defined]
    parts = torch.from_numpy(labels).split(256)
    images = [sampler(torch.randn(len(part), side**2, generator=random), part).numpy() for part in parts]
    return to_uint8(np.concatenate(images))


if __name__ == "__main__":
    main()
