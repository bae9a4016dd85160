"""Labelled glyphs by the million as a Prefect flow: what `lekhani generate` writes, with retries and a page for each run.

Run it with `python pipelines/generate.py --out s3://bucket/glyphs --each 10000 --format parquet` (`--help` lists the options). A run
that failed goes on where it was, so that a retry draws only what is missing.
"""

import argparse
import os
from typing import Any, Literal

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")  # before the import: Prefect reports usage otherwise

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact

from lekhani.serve.datasheet import readme
from lekhani.serve.draw import SHARD, Plan, Wishes
from lekhani.serve.formats import LAYOUTS
from lekhani.serve.pen import load
from lekhani.serve.store import Store
from lekhani.serve.write import Request, counts, write_dataset


@task(retries=2, retry_delay_seconds=30)
def write(
    model: str, judge: str | None, labels: list[str], each: int | None, choices: dict[str, Any], out: str, engine: Literal["local", "ray"]
) -> str:
    """Write one dataset, or what is missing of it; returns a sentence about it."""
    pen = load(model, judge)
    runs = counts(pen.classes, labels, each=each)
    wishes = Wishes(choices["seed"], choices["min_confidence"], choices["truncation"])
    return write_dataset(pen, Request(Plan(runs, choices["shard_size"]), wishes, choices["form"]), out, engine=engine)


@flow(name="generate", log_prints=True)
def generate(
    out: str,
    model: str = "devanagari",
    judge: str | None = None,
    labels: list[str] | None = None,
    each: int | None = None,
    form: Literal["png", "parquet", "webdataset", "idx", "npz"] = "parquet",
    seed: int = 0,
    min_confidence: float | None = None,
    truncation: float | None = None,
    shard_size: int = SHARD,
    engine: Literal["local", "ray"] = "local",
) -> str:
    """Write a dataset of generated glyphs and show its README on the run's page; the arguments are those of `lekhani generate`."""
    choices = {"seed": seed, "min_confidence": min_confidence, "truncation": truncation, "shard_size": shard_size, "form": form}
    said = write(model, judge, labels or [], each, choices, out, engine)
    create_markdown_artifact(readme(Store(out).read("dataset.json")), key="generated-glyphs")
    return said


def main() -> None:
    """Run the flow once, here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="a folder, or an address such as s3://bucket/folder")
    parser.add_argument("--model", default="devanagari", help="D, D@ALIAS, D:VERSION or a file")
    parser.add_argument("--judge", help="judge.onnx, for a model that is a file")
    parser.add_argument("--label", action="append", dest="labels", metavar="WHAT=COUNT")
    parser.add_argument("--each", type=int)
    parser.add_argument("--format", dest="form", choices=list(LAYOUTS), default="parquet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--min-confidence", type=float)
    parser.add_argument("--truncation", type=float)
    parser.add_argument("--shard-size", type=int, default=SHARD)
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    generate(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
