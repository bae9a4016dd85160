"""Batch inference as a Prefect flow: a folder of labelled glyphs by the registered generator.

Run it with `python pipelines/generate.py --dataset mnist --label 3=8 --out generated/threes` (`--help` lists the options).
"""

import argparse
import sys
from pathlib import Path
from typing import Annotated, Any

from commands import RETRIES, ROOT, command, ending_commands, failed, here, summary
from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field


@task(task_run_name="generate@{dataset}", **RETRIES)
def write(root: Path, dataset: str, labels: list[str], seed: int, out: str, overwrite: bool) -> State[Any]:
    """Write the folder; the message says what is in it."""
    words = [word for label in labels for word in ("--label", label)]
    words += ["--overwrite"] if overwrite else []
    ended = command(root, "lekhani", "generate", "--dataset", dataset, *words, "--seed", str(seed), "--out", out)
    return failed(ended) if ended.code else Completed(message=ended.sentence)


@flow(name="generate")
def generate(
    dataset: str,
    labels: list[str],
    out: str,
    seed: Annotated[int, Field(ge=0)] = 0,
    overwrite: bool = False,
    root: Path = ROOT,
) -> State[Any]:
    """Write labelled glyphs with the champion of a dataset.

    Args:
        dataset: Whose registered generator to use.
        labels: WHAT=COUNT, where WHAT is a glyph, a class name or a label number.
        out: A new folder for the PNGs and labels.csv; a relative path starts in the project's folder.
        seed: Same seed, same pictures.
        overwrite: Replace the folder when it exists.
        root: The project's folder.

    """
    with ending_commands():
        return summary([write(root.resolve(), dataset, labels, seed, out, overwrite, return_state=True)])


def main() -> int:
    """Run the flow once, here and now."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder (this one)")
    parser.add_argument("--dataset", default="devanagari", help="whose registered generator to use")
    parser.add_argument("--label", action="append", required=True, help="WHAT=COUNT; repeat")
    parser.add_argument("--out", required=True, help="a new folder")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same pictures")
    parser.add_argument("--overwrite", action="store_true", help="replace --out when it exists")
    given = parser.parse_args()
    return here("generate", lambda: generate(given.dataset, given.label, given.out, given.seed, given.overwrite, given.root, return_state=True))


if __name__ == "__main__":
    sys.exit(main())
