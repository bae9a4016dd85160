"""What steps, solver and guidance are worth to a trained flow_matching, by the judge that comes with the package.

    python benchmarks/guidance.py [--dataset devanagari] [--per-class 100] [--out FILE.json]

Run it in a project folder with data/prepared/D and models/D/flow_matching; its weights stay as they are.
"""

import argparse
from pathlib import Path

import torch
from judged import Real, draw, show
from origin import origin

from lekhani import params
from lekhani.files import write_json
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
    real = Real(given.dataset)
    asked = real.asked(given.per_class * len(real.labels))
    noise = torch.randn(len(asked), real.image_size**2, generator=torch.Generator().manual_seed(0))
    choices, trained = load_trained(params.load(), given.dataset, "flow_matching")
    results = {}
    for tried in TRIED:
        sampling = choices.flow_matching.model_copy(update=dict(zip(NAMES, tried, strict=True)))
        choices = choices.model_copy(update={"flow_matching": sampling})
        built = VARIANTS["flow_matching"].build(choices, real.image_size, len(real.labels), torch.device("cpu"))
        built.generator().load_state_dict(trained.generator().state_dict())
        results[" ".join(map(str, tried))] = real.figures([draw(built.generator().eval(), noise, asked)], asked)
    show(results)
    if given.out:
        write_json(given.out, {**origin("torch"), "images": len(asked), "tried": NAMES, "scores": results})


if __name__ == "__main__":
    main()
