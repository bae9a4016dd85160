"""The command line. Everything heavy is imported inside the commands, so that `lekhani --help` answers at once."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lekhani import __version__

if TYPE_CHECKING:
    from lekhani.params import Params

app = typer.Typer(
    help="Lekhani (लेखनी, pen): train generators of handwritten characters, judge them, register the best and write with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
STAGES, PEOPLE, REGISTRY = "Stages (dvc.yaml runs them in order)", "For people", "The registry"

Dataset = Annotated[str, typer.Option("--dataset", "-d", help="A dataset described under `data` in params.yaml.")]
Variant = Annotated[str, typer.Option("--variant", "-v", help="A variant listed under `variants` in params.yaml.")]
Wanted = Annotated[list[str], typer.Option("--label", "-l", help="WHAT=COUNT, where WHAT is a glyph, a class name or a label number; repeat.")]
Datasets = Annotated[list[str] | None, typer.Option("--dataset", "-d", help="Repeat for several; all of params.yaml when left out.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, for those who read it later.")]
Registered = Annotated[str, typer.Option("--dataset", "-d", help="Whose registered generator to use.")]
Model = Annotated[Path | None, typer.Option("--model", "-m", help="An exported generator.onnx instead of the registered one.")]
Judge = Annotated[Path | None, typer.Option("--judge", help="judge.onnx, needed by --model when the generator takes no label.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out when it exists.")]


class _State:
    params_file = Path("params.yaml")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"lekhani {__version__}")
        raise typer.Exit


@app.callback()
def options(
    params: Annotated[Path, typer.Option("--params", "-p", help="The params file.")] = Path("params.yaml"),
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """Options before the command."""
    _State.params_file = params


def _params(dataset: str | None = None, variant: str | None = None) -> "Params":
    from lekhani import params
    from lekhani.errors import UsageError

    choices = params.load(_State.params_file)
    if dataset is not None:
        choices.dataset(dataset)
    known = list(type(choices.variants).model_fields)
    if variant is not None and variant not in known:
        raise UsageError(f"No variant {variant!r}; there are: {', '.join(known)}.")
    return choices


@app.command(rich_help_panel=STAGES)
def fetch(dataset: Dataset) -> None:
    """Bring a dataset's raw files to data/raw/."""
    from lekhani import stages

    stages.fetch(_params(dataset), dataset)


@app.command(rich_help_panel=STAGES)
def prepare(dataset: Dataset) -> None:
    """Bring raw files into the one prepared form."""
    from lekhani import stages

    stages.prepare(_params(dataset), dataset)


@app.command(rich_help_panel=STAGES)
def validate(dataset: Dataset) -> None:
    """Check prepared data; a failed check ends with exit code 1."""
    from lekhani import stages

    stages.validate(_params(dataset), dataset)


@app.command(rich_help_panel=STAGES)
def judge(dataset: Dataset) -> None:
    """Train the classifier that measures every variant."""
    from lekhani import stages

    stages.judge(_params(dataset), dataset)


@app.command(rich_help_panel=STAGES)
def train(dataset: Dataset, variant: Variant) -> None:
    """Train one variant on one dataset."""
    from lekhani import stages

    stages.train(_params(dataset, variant), dataset, variant)


@app.command(rich_help_panel=STAGES)
def export(dataset: Dataset, variant: Variant) -> None:
    """Export a trained generator to ONNX and prove parity."""
    from lekhani import stages

    stages.export(_params(dataset, variant), dataset, variant)


@app.command(rich_help_panel=STAGES)
def baseline(dataset: Dataset) -> None:
    """Train OCR models on real images alone, to hold `usefulness` against."""
    from lekhani import stages

    stages.baseline(_params(dataset), dataset)


@app.command(rich_help_panel=STAGES)
def usefulness(dataset: Dataset, variant: Variant) -> None:
    """Train OCR models on generated images, alone and beside real ones."""
    from lekhani import stages

    stages.usefulness(_params(dataset, variant), dataset, variant)


@app.command(rich_help_panel=STAGES)
def evaluate(dataset: Dataset, variant: Variant) -> None:
    """Score an exported generator."""
    from lekhani import stages

    stages.evaluate(_params(dataset, variant), dataset, variant)


@app.command(rich_help_panel=STAGES)
def compare(
    repeats: Annotated[
        bool, typer.Option("--repeats", help="Pool the training seeds of DVC experiments, and write to reports/repeats/.", show_default=False)
    ] = False,
) -> None:
    """Write the leaderboard from all scorecards."""
    from lekhani import stages

    stages.compare(_params(), repeats)


@app.command(rich_help_panel=REGISTRY)
def register(
    dataset: Datasets = None,
    variant: Annotated[str | None, typer.Option("--variant", "-v", help="This one instead of the leaderboard's best.")] = None,
) -> None:
    """Register the best variant of each dataset in MLflow as lekhani-<dataset>, alias challenger."""
    from lekhani import stages

    choices = _params(variant=variant)
    for name in dataset or choices.data:
        typer.echo(stages.register(choices, name, variant))


@app.command(rich_help_panel=REGISTRY)
def promote(
    dataset: Datasets = None,
    version: Annotated[str | None, typer.Option("--version", metavar="N", help="This version instead of the challenger.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only decide: exit code 0 would promote, 3 refuses.", show_default=False)] = False,
    force: Annotated[bool, typer.Option("--force", help="Promote whatever the gate says; needs --reason.", show_default=False)] = False,
    reason: Reason = None,
) -> None:
    """Make the challenger champion if the gate lets it through; exit code 3 when it does not."""
    from lekhani import stages
    from lekhani.errors import UsageError

    choices = _params()
    names = dataset or list(choices.data)
    if version is not None and len(names) != 1:
        raise UsageError("--version is of one registered model; say which with --dataset.")
    if check and force:
        raise UsageError("--check changes nothing, so there is nothing to --force; leave one of them out.")
    verdicts = []
    for name in names:
        choices.dataset(name)
        promoted, table = stages.promote(choices, name, version, check, force, reason)
        typer.echo(table)
        verdicts.append(promoted)
    if not all(verdicts):
        raise typer.Exit(3)


@app.command(rich_help_panel=REGISTRY)
def rollback(dataset: Dataset, reason: Reason = None) -> None:
    """Give the alias champion back to the version that had it before."""
    from lekhani import stages

    typer.echo(stages.rollback(_params(dataset), dataset, reason))


@app.command(rich_help_panel=REGISTRY)
def lineage(
    model: Annotated[str | None, typer.Argument(help="lekhani-D, lekhani-D@ALIAS or lekhani-D:VERSION.", show_default=False)] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="DIGEST", help="Which versions were trained on these prepared data.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.", show_default=False)] = False,
) -> None:
    """Say what a registered model was made from: run, commit, dvc.lock, prepared data, raw archive."""
    import json

    from lekhani.errors import UsageError
    from lekhani.registry import lineage as lines

    if (model is None) == (data is None):
        raise UsageError("Name either a registered model, such as lekhani-devanagari@champion, or the digest of prepared data with --data.")
    found = lines.trace(model) if model is not None else lines.trained_on(data or "")
    typer.echo(json.dumps(lines.as_dict(found), indent=2, ensure_ascii=False) if as_json else lines.text(found))


@app.command(rich_help_panel=PEOPLE)
def generate(
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the PNGs and labels.csv.")],
    label: Wanted,
    dataset: Registered = "devanagari",
    model: Model = None,
    judge: Judge = None,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Same seed, same pictures.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write labelled glyphs with ONNX Runtime."""
    from lekhani.serve import write

    summary = write.write_folder(write.find(dataset, model, judge), label, seed, out, overwrite)
    typer.echo(summary)


@app.command(rich_help_panel=PEOPLE)
def animate(
    out: Annotated[Path, typer.Option("--out", "-o", help="A new .gif or .webp file.")],
    label: Wanted,
    dataset: Registered = "devanagari",
    model: Model = None,
    judge: Judge = None,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Same seed, same glyphs as those of `generate`.")] = 0,
    columns: Annotated[int | None, typer.Option("--columns", min=1, help="Glyphs a row; at most ten when left out.")] = None,
    scale: Annotated[int, typer.Option("--scale", min=1, max=64, help="Size of one pixel.")] = 4,
    fps: Annotated[float, typer.Option("--fps", min=0.1, max=50, help="Frames a second; the last one stays longer.")] = 8,
    overwrite: Overwrite = False,
) -> None:
    """Show glyphs come about, step by step, as a GIF or WebP."""
    from lekhani.serve import animate, write

    pen = write.find(dataset, model, judge)
    typer.echo(animate.write_animation(pen, label, seed, out, columns=columns, scale=scale, fps=fps, overwrite=overwrite))


@app.command(rich_help_panel=PEOPLE)
def params(
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the resolved params instead.")] = False,
) -> None:
    """Check params.yaml and print it with the profile laid over it."""
    import json

    from lekhani import params as types

    value = types.schema() if schema else _params().model_dump(mode="json")
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


data = typer.Typer(no_args_is_help=True, help="Versions of the data.")
app.add_typer(data, name="data", rich_help_panel=PEOPLE)


@data.command("diff")
def data_diff(
    revision: Annotated[str, typer.Argument(metavar="REV", help="A commit, tag, branch, HEAD~1 or DVC experiment.")],
    dataset: Annotated[list[str] | None, typer.Option("--dataset", "-d", help="Repeat for several; all of params.yaml when left out.")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="REV2", help="Compare with this revision instead of the working tree.")] = None,
    style: Annotated[Literal["text", "md", "json"], typer.Option("--format", help="How to print what differs.")] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    examples: Annotated[int, typer.Option("--examples", min=0, help="At most so many images for each kind of change.")] = 5,
) -> None:
    """Say which images were added, removed, relabelled or moved between splits since REV, and what changed in dataset.json."""
    import json

    from lekhani.data import diff

    found = [diff.between(name, revision, to) for name in dataset or _params().data]
    if as_json or style == "json":
        value = {"from": revision, "to": to, "datasets": {one.dataset: diff.as_dict(one, examples) for one in found}}
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n\n".join((diff.markdown if style == "md" else diff.text)(one, examples) for one in found))


def main() -> None:
    """Run the command line; errors for people become one sentence and an exit code, bugs keep their traceback."""
    import atexit
    import gc
    import logging

    # Else Python takes up to two seconds at the end to look for garbage among all that torch and MLflow have brought in.
    atexit.register(gc.freeze)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("lekhani").setLevel(logging.INFO)
    from lekhani.errors import LekhaniError
    from lekhani.params import ParamsError

    try:
        app()
    except (LekhaniError, ParamsError) as error:
        typer.echo(f"lekhani: {error}", err=True)
        sys.exit(getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        typer.echo("lekhani: stopped.", err=True)
        sys.exit(130)
