"""Batch inference as a Prefect flow: what `lekhani generate` writes, with retries and a page for each run.

Run it with `python pipelines/generate.py --dataset mnist --each 1000 --format parquet --out generated/digits`; `--help`
lists the options.
A run that failed goes on where it was, so that a retry draws only what is missing.
"""

import argparse
import re
import sys
from contextlib import chdir
from pathlib import Path
from typing import Annotated, Any

import commands
from commands import RETRIES, ROOT, options, run_name
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from published import artifact_key
from pydantic import Field

from lekhani.generate.formats import FORMATS, FormatName
from lekhani.generate.store import Store
from lekhani.generate.write import Engine
from lekhani.inference.sampling import SHARD_SIZE


@task(task_run_name="generate@{dataset}", **RETRIES)
def write(root: Path, dataset: str, out: str, words: list[str]) -> State[Any]:
    """Write the dataset, or what is missing of it; the message says what is in it, and an artifact shows its README."""
    result = commands.run_command(root, "lekhani", "generate", "--dataset", dataset, *words, "--out", out)
    if result.code:
        return commands.failed_state(result)
    with chdir(root):
        page, name = Store(out).text("README.md"), re.split("[@:]", dataset)[0]
        create_markdown_artifact(page, key=artifact_key("generated", name))
    return Completed(message=result.sentence)


def _run_name() -> str:
    asked = flow_run.parameters
    return run_name(asked["dataset"], asked["each"] and f"{asked['each']} of each", f"to {asked['out']}")


@flow(name="generate", flow_run_name=_run_name)
def generate(
    dataset: str,
    out: str,
    labels: list[str] | None = None,
    each: Annotated[int, Field(ge=1)] | None = None,
    format: FormatName = "png",
    seed: Annotated[int, Field(ge=0)] = 0,
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = None,
    truncation: Annotated[float, Field(gt=0)] | None = None,
    shard_size: Annotated[int, Field(ge=1)] = SHARD_SIZE,
    engine: Engine = "local",
    overwrite: bool = False,
    root: Path = ROOT,
) -> State[Any]:
    """Write labelled glyphs with the champion of a dataset.

    Args:
        dataset: Whose registered generator to use, as in devanagari, devanagari@challenger or devanagari:3.
        out: A folder, or an address such as s3://bucket/folder; a relative path starts in the project's folder.
        labels: WHAT=COUNT, where WHAT is a glyph, a class name or a label number.
        each: As many images of every class that `labels` does not name.
        format: What to write.
        seed: Same seed, same pictures.
        min_confidence: Keep only what the judge recognises so surely.
        truncation: Keep the noise within so many standard deviations.
        shard_size: Images in a shard at most.
        engine: This machine, or a Ray cluster.
        overwrite: Replace what is there.
        root: The project's folder.

    """
    words = [word for label in labels or [] for word in ("--label", label)]
    words += options(each=each, min_confidence=min_confidence, truncation=truncation, format=format, seed=seed)
    words += options(shard_size=shard_size, engine=engine, overwrite=overwrite)
    with commands.terminating_commands():
        return commands.combined_state([write(root.resolve(), dataset, out, words, return_state=True)])


def main() -> int:
    """Run the flow once, here and now."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--root", type=Path, default=ROOT, help="the project's folder (this one)")
    add("--dataset", default="devanagari", help="whose registered generator to use")
    add("--out", required=True, help="a folder, or an address such as s3://bucket/folder")
    add("--label", action="append", dest="labels", metavar="WHAT=COUNT", help="repeat for several")
    add("--each", type=int, help="as many of every other class")
    add("--format", choices=list(FORMATS), default="png")
    add("--seed", type=int, default=0, help="same seed, same pictures")
    add("--min-confidence", type=float, help="keep only what the judge recognises so surely")
    add("--truncation", type=float, help="keep the noise within so many standard deviations")
    add("--shard-size", type=int, default=SHARD_SIZE)
    add("--engine", choices=["local", "ray"], default="local")
    add("--overwrite", action="store_true", help="replace what is there")
    given = vars(parser.parse_args())
    return commands.run_flow_here("generate", lambda: generate(**given, return_state=True))


if __name__ == "__main__":
    sys.exit(main())
