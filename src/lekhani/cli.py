"""The command line. Everything heavy is imported inside the commands, so that `lekhani --help` answers at once."""

import io
import json
import os
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

from lekhani import __version__
from lekhani.paths import local_path

if TYPE_CHECKING:
    from lekhani.params import Params

app = typer.Typer(
    help="Lekhani (लेखनी, pen): train generators of handwritten characters, judge them, register the best and write "
    "with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
MAX_COUNT = 10**9  # images
PATH: dict[str, Any] = {"parser": local_path, "metavar": "PATH"}
STAGES, PEOPLE, REGISTRY = "Stages (dvc.yaml runs them in order)", "For people", "The registry"

Dataset = Annotated[str, Option("--dataset", "-d", help="A dataset described under `data` in params.yaml.")]
Variant = Annotated[str, Option("--variant", "-v", help="A variant listed under `variants` in params.yaml.")]
WANTED = "WHAT=COUNT, where WHAT is a glyph, a class name or a label number; repeat."
Wanted = Annotated[list[str] | None, Option("--label", "-l", help=WANTED)]
Datasets = Annotated[
    list[str] | None, Option("--dataset", "-d", help="Repeat for several; all of params.yaml when left out.")
]
Reason = Annotated[str | None, Option("--reason", help="Why, for those who read it later.")]
Registered = Annotated[
    str, Option("--dataset", "-d", help="Whose registered generator to use: D, D@ALIAS or D:VERSION.")
]
Model = Annotated[
    Path | None, Option("--model", "-m", help="An exported generator.onnx instead of the registered one.", **PATH)
]
Judge = Annotated[
    Path | None,
    Option("--judge", help="judge.onnx, needed by --model to filter, or when the generator takes no label.", **PATH),
]
Seed = Annotated[int, Option("--seed", "-s", min=0, help="Same seed, same pictures.")]
Scale = Annotated[int, Option("--scale", min=1, max=64, help="Size of one pixel.")]
AsJson = Annotated[bool, Option("--json", help="Print JSON.", show_default=False)]
Force = Annotated[
    bool, Option("--force", help="Answer even where the judge is unsure or sees no single glyph.", show_default=False)
]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace --out when it exists.")]


class _State:
    params_file = Path("params.yaml")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"lekhani {__version__}")
        raise typer.Exit


@app.callback()
def options(
    params: Annotated[Path, Option("--params", "-p", help="The params file.", **PATH)] = Path("params.yaml"),
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
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


def _add_stage(name: str, summary: str, per_variant: bool = False) -> None:
    """Add the command of a stage; it also records how long the stage took, for the leaderboard."""

    def run(dataset: str, variant: str | None = None) -> None:
        from lekhani.errors import LekhaniError
        from lekhani.stages import durations

        started = time.perf_counter()
        stage = getattr(import_module(f"lekhani.stages.{name}"), name)
        stage(_params(dataset, variant), dataset, *([variant] if variant else []))
        with suppress(LekhaniError):  # the stage is done all the same
            durations.record(name, dataset, variant or "", time.perf_counter() - started)

    def of_dataset(dataset: Dataset) -> None:
        run(dataset)

    def of_variant(dataset: Dataset, variant: Variant) -> None:
        run(dataset, variant)

    app.command(name, help=summary, rich_help_panel=STAGES)(of_variant if per_variant else of_dataset)


_add_stage("fetch", "Bring a dataset's raw files to data/raw/.")
_add_stage("prepare", "Bring raw files into the one prepared form.")
_add_stage("validate", "Check prepared data; a failed check ends with exit code 1.")
_add_stage("judge", "Train the classifier that measures every variant.")
_add_stage("train", "Train one variant on one dataset.", per_variant=True)
_add_stage("export", "Export a trained generator to ONNX and prove parity.", per_variant=True)
_add_stage("baseline", "Train OCR models on real images alone, to hold `usefulness` against.")
_add_stage("usefulness", "Train OCR models on generated images, alone and beside real ones.", per_variant=True)
_add_stage("evaluate", "Score an exported generator.", per_variant=True)


@app.command(rich_help_panel=STAGES)
def compare(
    repeats: Annotated[
        bool,
        Option(
            "--repeats",
            help="Pool the training seeds of DVC experiments, and write to reports/repeats/.",
            show_default=False,
        ),
    ] = False,
) -> None:
    """Write the leaderboard from all scorecards."""
    from lekhani.stages import compare as stage

    stage.compare(_params(), repeats)


@app.command(rich_help_panel=REGISTRY)
def register(
    dataset: Datasets = None,
    variant: Annotated[
        str | None, Option("--variant", "-v", help="This one instead of the leaderboard's best.")
    ] = None,
) -> None:
    """Register the best variant of each dataset in MLflow as lekhani-<dataset>, alias challenger."""
    from lekhani.stages import promote

    choices = _params(variant=variant)
    for name in dataset or choices.pipeline.datasets:
        typer.echo(promote.register(choices, name, variant))


@app.command(rich_help_panel=REGISTRY)
def promote(
    dataset: Datasets = None,
    version: Annotated[str | None, Option(metavar="N", help="This version instead of the challenger.")] = None,
    check: Annotated[
        bool, Option("--check", help="Only decide: exit code 3 when a candidate is refused.", show_default=False)
    ] = False,
    workspace: Annotated[
        bool,
        Option("--workspace", help="--check the best model of this folder's dvc.lock instead.", show_default=False),
    ] = False,
    variant: Annotated[
        str | None, Option("--variant", "-v", help="This one of --workspace instead of the best.")
    ] = None,
    report: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Write what --check says as a page with pictures too.", parser=local_path),
    ] = None,
    base: Annotated[
        Path | None,
        Option(metavar="CSV", help="A leaderboard.csv that the page of --report compares with.", parser=local_path),
    ] = None,
    force: Annotated[
        bool, Option("--force", help="Promote whatever the gate says; needs --reason.", show_default=False)
    ] = False,
    reason: Reason = None,
) -> None:
    """Make the challenger champion if the gate lets it through; exit code 3 when it does not."""
    from lekhani.errors import UsageError
    from lekhani.stages import promote

    choices = _params(variant=variant)
    names = dataset or list(choices.pipeline.datasets)
    if version is not None and (workspace or len(names) != 1):
        raise UsageError("--version is of one registered model; say which with --dataset, and leave out --workspace.")
    if check and force:
        raise UsageError("--check changes nothing, so there is nothing to --force; leave one of them out.")
    if (workspace or report) and not check:
        raise UsageError("--workspace and --report belong to --check; `lekhani register` registers a model.")
    if variant is not None and not workspace:
        raise UsageError("--variant belongs to --workspace; name a registered model with --version.")
    outcomes = {}
    for name in names:
        if check:
            outcomes[name] = promote.check(choices, name, version, workspace, variant)
        else:
            outcomes[name] = promote.promote(choices, name, version, force, reason)
        typer.echo(outcomes[name].text)
    if report is not None:
        from lekhani.stages.promotion_report import write_report

        write_report(outcomes, report, base)
    if any(one.promote is False for one in outcomes.values()):
        raise typer.Exit(3)


@app.command(rich_help_panel=REGISTRY)
def rollback(dataset: Dataset, reason: Reason = None) -> None:
    """Give the alias champion back to the version that had it before."""
    from lekhani.stages import promote

    typer.echo(promote.rollback(_params(dataset), dataset, reason))


@app.command(rich_help_panel=REGISTRY)
def models(dataset: Datasets = None, as_json: AsJson = False) -> None:
    """List what is registered: versions, aliases, the gate's verdicts, scores."""
    from lekhani.registry.listing import listed, table

    versions = listed(dataset or ())
    if as_json:
        typer.echo(json.dumps([one.as_dict() for one in versions], indent=2, ensure_ascii=False))
    elif versions:
        typer.echo(table(versions), nl=False)
    else:
        typer.echo("Nothing is registered; `lekhani register` registers the best variant of each dataset.")


@app.command(rich_help_panel=REGISTRY)
def lineage(
    model: Annotated[
        str | None, Argument(help="lekhani-D, lekhani-D@ALIAS or lekhani-D:VERSION.", show_default=False)
    ] = None,
    data: Annotated[
        str | None, Option(metavar="DIGEST", help="Which versions were trained on these prepared data.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a registered model was made from: run, commit, dvc.lock, prepared data, raw archive."""
    from lekhani.errors import UsageError
    from lekhani.registry.lineage import trace, trained_on

    if (model is None) == (data is None):
        problem = "Name either a registered model, such as lekhani-devanagari@champion,"
        raise UsageError(f"{problem} or the digest of prepared data with --data.")
    found = trace(model) if model is not None else trained_on(data or "")
    typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False) if as_json else found.text())


@app.command(rich_help_panel=PEOPLE)
def generate(
    out: Annotated[str, Option("--out", "-o", help="A new folder, or an address such as s3://bucket/folder.")],
    label: Wanted = None,
    each: Annotated[
        int | None, Option(min=1, max=MAX_COUNT, help="So many of every class that --label does not name.")
    ] = None,
    total: Annotated[
        int | None,
        Option(min=1, max=MAX_COUNT, help="So many in all; what --label leaves is spread over the other classes."),
    ] = None,
    from_csv: Annotated[
        Path | None, Option(help="A CSV file with the columns label and, if wanted, count.", **PATH)
    ] = None,
    dataset: Registered = "devanagari",
    model: Model = None,
    judge: Judge = None,
    format: Annotated[
        Literal["png", "imagefolder", "parquet", "webdataset", "idx", "npz"],
        Option("--format", "-f", help="What to write; imagefolder is a folder of PNGs for each class."),
    ] = "png",
    seed: Seed = 0,
    min_confidence: Annotated[
        float | None, Option(help="Keep what the judge classifies as its label with at least this confidence, 0 to 1.")
    ] = None,
    truncation: Annotated[
        float | None, Option(help="Likelier shapes: noise within so many standard deviations.")
    ] = None,
    shard_size: Annotated[int, Option(min=1, help="Images in a shard, at most.")] = 10_000,
    engine: Annotated[
        Literal["local", "ray"], Option(help="Where to draw: here, or on the machines of a Ray cluster.")
    ] = "local",
    overwrite: Overwrite = False,
) -> None:
    """Write labelled glyphs by the million with ONNX Runtime; the same command again resumes."""
    from lekhani.errors import UsageError
    from lekhani.generate.shards import DatasetRequest
    from lekhani.generate.write import counts, write_dataset
    from lekhani.inference.sampling import Plan, SamplingOptions
    from lekhani.pen import find

    if not (label or each or total or from_csv):
        problem = "There is nothing to generate"
        raise UsageError(f"{problem}; name labels, such as --label 0=8, or pass --each, --total or --from-csv.")
    pen = find(dataset, model, judge)
    plan = Plan(counts(pen.classes, label or (), each=each, total=total, table=from_csv), shard_size)
    request = DatasetRequest(plan, SamplingOptions(seed, min_confidence, truncation), format)
    typer.echo(write_dataset(pen, request, out, engine=engine, overwrite=overwrite))


@app.command(rich_help_panel=PEOPLE)
def doctor(as_json: AsJson = False) -> None:
    """Say what works here (GPU, torch, ONNX Runtime, disk, MLflow, Prefect, Kaggle); exit code 1 for faults."""
    from lekhani import doctor as machine

    checks = machine.examine()
    if as_json:
        typer.echo(json.dumps([check.as_dict() for check in checks], ensure_ascii=False, indent=2))
    else:
        machine.show(checks)
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)


@app.command(rich_help_panel=PEOPLE)
def serve(
    dataset: Annotated[
        list[str] | None, Option("--dataset", "-d", help="Repeat for several; all that are registered when left out.")
    ] = None,
    model: Annotated[
        list[Path] | None,
        Option("--model", "-m", help="Exported generators instead of the registered ones; repeat.", **PATH),
    ] = None,
    judge: Annotated[list[Path] | None, Option(help="The judges of --model; repeat.", **PATH)] = None,
    host: Annotated[str, Option(help="The address to listen on; any but loopback needs --keys.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    keys: Annotated[Path | None, Option(help="A file of keys, one of which each request must bring.", **PATH)] = None,
    new_key: Annotated[
        str | None, Option(metavar="NAME", help="Print a new key and its line for --keys, and end.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        Option(
            metavar="NAME", help="A name of the server, besides this machine's own, which clients may call; repeat."
        ),
    ] = None,
    cors: Annotated[
        list[str] | None, Option(metavar="ORIGIN", help="Let pages of this origin call the API; repeat.")
    ] = None,
    limit: Annotated[
        list[str] | None, Option(metavar="NAME=VALUE", help="Change a limit (docs/serve.md); repeat.")
    ] = None,
    poll: Annotated[float, Option(min=0.1, help="Seconds between two looks for a new champion.")] = 30.0,
    reports: Annotated[Path, Option(help="Where the daily report goes.", **PATH)] = Path("reports/serving"),
    page: Annotated[bool, Option("--page/--no-page", help="A page to try it, at /.")] = True,
) -> None:
    """Serve generators over HTTP: glyphs, lines, recognition and translation, and a page to try them."""
    from lekhani.serve.keys import new_key as make_key
    from lekhani.serve.keys import required_keys

    if new_key is not None:
        key, line = make_key(new_key)
        typer.echo(f"The key, which is shown only now: {key}\nThe line for the file of keys:     {line}")
        return
    known = required_keys(keys, host)
    from lekhani.serve import server
    from lekhani.serve.api import create_app
    from lekhani.serve.champions import find_sources
    from lekhani.serve.limits import parse_limits
    from lekhani.serve.page import add_page
    from lekhani.serve.telemetry import json_logs

    limits, agreement = parse_limits(limit or ()), 0.9
    if _State.params_file.exists():
        agreement = _params().gate.min_label_agreement
    hosts = server.allowed_hosts(host, allowed_host or ())
    sources = find_sources(dataset or (), model or (), judge or ())
    settings: dict[str, Any] = {"agreement": agreement, "poll_seconds": poll, "report_folder": reports}
    json_logs()
    served = create_app(sources, limits=limits, keys=known, hosts=hosts, cors=cors or (), **settings)
    if page:
        add_page(served)
    server.serve(
        served, host, port, limits, lambda address: typer.echo(f"Lekhani answers at {address} (Ctrl-C ends it).")
    )


@app.command(rich_help_panel=PEOPLE)
def compose(
    out: Annotated[Path, Option("--out", "-o", help="A new folder, or a new .png for a single line.", **PATH)],
    text: Annotated[list[str] | None, Option("--text", "-t", help="What to write; repeat for several lines.")] = None,
    pattern: Annotated[
        str | None, Option(help="Draw texts from a regular expression, or pin_code, amount, date, phone.")
    ] = None,
    lines: Annotated[Path | None, Option(help="A UTF-8 file with a text a line.", **PATH)] = None,
    skip_unwritable: Annotated[
        bool, Option("--skip-unwritable", help="Leave out what the model cannot write of --lines.", show_default=False)
    ] = False,
    count: Annotated[
        int | None, Option("--count", "-n", min=1, max=1_000_000, help="How many lines; texts are taken in turn.")
    ] = None,
    dataset: Registered = "devanagari",
    model: Model = None,
    judge: Judge = None,
    layout: Annotated[
        Literal["tesseract", "paddleocr", "huggingface"], Option(help="Where transcripts go.")
    ] = "tesseract",
    seed: Seed = 0,
    height: Annotated[int, Option(min=16, max=512, help="Of the pictures, in pixels.")] = 64,
    variety: Annotated[float, Option(min=0, max=1, help="How much the glyphs of one line differ in style.")] = 0.3,
    join: Annotated[bool, Option("--join/--no-join", help="Draw the head line from letter to letter.")] = True,
    augment: Annotated[Literal["none", "light", "strong"], Option(help="How much paper, ink and camera do.")] = "light",
    without: Annotated[
        list[str] | None, Option(help="An effect to leave out: rotation, perspective, ink, paper, blur, noise; repeat.")
    ] = None,
    paper: Annotated[Literal["plain", "ruled", "squared"], Option(help="What to write on.")] = "plain",
    ink: Annotated[Literal["any", "black", "blue", "pencil"], Option(help="What to write with.")] = "any",
    background: Annotated[
        Path | None,
        Option(help="A picture to write on instead, or a folder of them; lines take parts at random.", **PATH),
    ] = None,
    light_on_dark: Annotated[bool, Option("--light-on-dark", help="As on a blackboard.", show_default=False)] = False,
    learned_only: Annotated[
        bool,
        Option("--learned-only", help="Refuse texts with signs that the model has not learned.", show_default=False),
    ] = False,
    min_confidence: Annotated[
        float, Option(min=0, max=1, help="Redraw a glyph until the judge, if there is one, is so sure of it.")
    ] = 0.5,
    hands: Annotated[
        int | None,
        Option(min=1, max=1000, help="So many people write in turn: faster, less varied; one a line when left out."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write lines of text in one hand each, with transcripts as OCR toolkits read them."""
    from lekhani.handwriting.background import Background
    from lekhani.handwriting.lines import LineRequest, choose_texts, write_lines
    from lekhani.handwriting.render import LineStyle
    from lekhani.pen import find

    pen = find(dataset, model, judge)
    texts = choose_texts(pen.generator, text or (), pattern, lines, count, seed, skip_unwritable, learned_only)
    ground = None if background is None else Background(background)
    effects = tuple(without or ())
    style = LineStyle(height, join, variety, augment, effects, light_on_dark, paper, ground, learned_only, ink)
    typer.echo(write_lines(pen, LineRequest(texts, seed, style, min_confidence, layout, hands), out, overwrite))


@app.command(rich_help_panel=PEOPLE)
def recognise(
    images: Annotated[list[Path], Argument(help="Pictures of one glyph each.", show_default=False, **PATH)],
    dataset: Annotated[
        str, Option("--dataset", "-d", help="Whose registered judge to use: D, D@ALIAS or D:VERSION.")
    ] = "devanagari",
    judge: Annotated[Path | None, Option(help="A judge.onnx instead of the registered one.", **PATH)] = None,
    top: Annotated[int, Option(min=1, max=100, help="How many guesses to show.")] = 3,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Say which glyph each picture shows, how sure that is, and what else it may be; exit code 2 where it is unsure."""
    from lekhani.errors import UsageError
    from lekhani.handwriting.recognise import as_row, read_files, table
    from lekhani.pen import load_judge

    results = read_files(load_judge(judge or dataset).reader, images, top, force=force)
    if as_json:
        rows = [as_row(path, one) for path, one in zip(images, results, strict=True)]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        found = zip(images, results, strict=True)
        typer.echo(table([(path, one) for path, one in found if not isinstance(one, UsageError)]), nl=False)
    errors = [one for one in results if isinstance(one, UsageError)]
    for error in errors:
        typer.echo(f"lekhani: {error.for_command_line}", err=True)
    if errors:
        raise typer.Exit(2)


@app.command(rich_help_panel=PEOPLE)
def translate(
    image: Annotated[Path, Argument(help="A picture of one digit, or of a row of them.", show_default=False, **PATH)],
    to: Annotated[str, Option(help="Whose registered generator writes: D, D@ALIAS or D:VERSION.")],
    out: Annotated[Path, Option("--out", "-o", help="A new .png: the digits side by side, white on black.", **PATH)],
    source: Annotated[
        str | None,
        Option("--from", help="Whose registered judge reads; devanagari, or mnist where --to is devanagari."),
    ] = None,
    reader: Annotated[
        Path | None, Option(help="A judge.onnx that reads instead of the registered one.", **PATH)
    ] = None,
    model: Model = None,
    judge: Annotated[Path | None, Option(help="A judge.onnx that reads over what --model wrote.", **PATH)] = None,
    seed: Seed = 0,
    scale: Scale = 1,
    min_confidence: Annotated[
        float, Option(min=0, max=1, help="Redraw a digit until the judge, if there is one, is so sure of it.")
    ] = 0.95,
    force: Force = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Read a number in one script and write it in another's handwriting."""
    from lekhani.handwriting.translate import translate_file
    from lekhani.pen import default_source, find, load_judge

    readers = load_judge(reader or source or default_source(to))
    pen = find(to, model, judge)
    choices: dict[str, Any] = {"scale": scale, "overwrite": overwrite, "force": force}
    done = translate_file(readers.reader, image, pen, out, seed, min_confidence, **choices)
    value = {**done.as_dict(), "file": str(out)}
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False) if as_json else f"{done}, in {out}.")


@app.command(rich_help_panel=PEOPLE)
def animate(
    out: Annotated[Path, Option("--out", "-o", help="A new .gif or .webp file.", **PATH)],
    label: Annotated[list[str], Option("--label", "-l", help=WANTED)],
    dataset: Registered = "devanagari",
    model: Model = None,
    judge: Judge = None,
    seed: Annotated[int, Option("--seed", "-s", min=0, help="Same seed, same glyphs as those of `generate`.")] = 0,
    columns: Annotated[int | None, Option(min=1, help="Glyphs a row; at most ten when left out.")] = None,
    scale: Scale = 4,
    fps: Annotated[float, Option(min=0.1, max=50, help="Frames a second; the last one stays longer.")] = 8,
    overwrite: Overwrite = False,
) -> None:
    """Show glyphs come about, step by step, as a GIF or WebP."""
    from lekhani.generate.animate import write_animation
    from lekhani.pen import find

    pen = find(dataset, model, judge)
    typer.echo(write_animation(pen, label, seed, out, columns=columns, scale=scale, fps=fps, overwrite=overwrite))


@app.command(rich_help_panel=PEOPLE)
def params(
    schema: Annotated[bool, Option("--schema", help="Print the JSON Schema of the resolved params instead.")] = False,
) -> None:
    """Check params.yaml and print it with the profile laid over it."""
    from lekhani import params as types

    value = types.schema() if schema else _params().model_dump(mode="json")
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


studio = typer.Typer(no_args_is_help=True, help="The studio, `lekhani serve`'s page, without a server.")
app.add_typer(studio, name="studio", rich_help_panel=PEOPLE)


@studio.command("build")
def studio_build(
    out: Annotated[Path, Argument(help="A new folder, for any static host.", show_default=False, **PATH)],
    dataset: Annotated[
        list[str] | None, Option("--dataset", "-d", help="Repeat for several; all there are when left out.")
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace what this command wrote to OUT before.")] = False,
) -> None:
    """Write the studio as a folder of files: the browser itself writes and reads, with ONNX Runtime."""
    from lekhani.serve.static_studio import build

    typer.echo(build(out, dataset or (), overwrite=overwrite))


data = typer.Typer(no_args_is_help=True, help="Versions of the data.")
app.add_typer(data, name="data", rich_help_panel=PEOPLE)


@data.command("diff")
def data_diff(
    revision: Annotated[str, Argument(metavar="REV", help="A commit, tag, branch, HEAD~1 or DVC experiment.")],
    dataset: Datasets = None,
    to: Annotated[
        str | None, Option(metavar="REV2", help="Compare with this revision instead of the working tree.")
    ] = None,
    format: Annotated[Literal["text", "md", "json"], Option(help="How to print what differs.")] = "text",
    as_json: Annotated[bool, Option("--json", help="The same as --format json.")] = False,
    examples: Annotated[int, Option(min=0, help="At most so many images for each kind of change.")] = 5,
) -> None:
    """Say which images were added, removed, relabelled or moved since REV, and what changed in dataset.json."""
    from lekhani.data import diff

    found = [diff.diff_revisions(name, revision, to) for name in dataset or _params().pipeline.datasets]
    if as_json or format == "json":
        value = {"from": revision, "to": to, "datasets": {one.dataset: diff.as_dict(one, examples) for one in found}}
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n\n".join((diff.markdown if format == "md" else diff.text)(one, examples) for one in found))


def main() -> None:
    """Run the command line; errors for people become one sentence and an exit code, bugs keep their traceback."""
    import atexit
    import gc
    import logging

    # Otherwise Python collects garbage for up to two seconds at the end, with all that torch and MLflow have imported.
    atexit.register(gc.freeze)
    from lekhani.errors import LekhaniError, RedactingFormatter, outside_failure
    from lekhani.extras import how_to_install
    from lekhani.machine import name_user
    from lekhani.params import ParamsError

    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("lekhani").setLevel(logging.INFO)
    name_user()
    try:
        app()
    except (LekhaniError, ParamsError) as error:
        typer.echo(f"lekhani: {getattr(error, 'for_command_line', error)}", err=True)
        sys.exit(getattr(error, "exit_code", 2))
    except ModuleNotFoundError as error:
        sentence = how_to_install(error)
        if sentence is None:
            raise
        typer.echo(f"lekhani: {sentence}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("lekhani: stopped.", err=True)
        sys.exit(130)
    except Exception as error:
        sentence = outside_failure(error)
        if sentence is None:
            raise
        _give_up_output()
        typer.echo(f"lekhani: {sentence}", err=True)
        sys.exit(1)


def _give_up_output() -> None:
    """Let nothing more be written to a stdout on a full disk, or else Python tries once more when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
