"""Datasets of generated glyphs, shard by shard: a run that was stopped resumes, and ends with the same bytes."""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any, Literal

from lekhani.data.spec import GlyphClass
from lekhani.errors import LekhaniError, UsageError, reason
from lekhani.files import read_input, require_room
from lekhani.generate import on_ray
from lekhani.generate.datasheet import MADE_BY, Datasheet, ShardRecord, datasheet, readme
from lekhani.generate.formats import FORMATS
from lekhani.generate.shards import DatasetRequest, Job, digest, read_record, record_name, write_shard
from lekhani.generate.store import UNFINISHED, Store
from lekhani.generate.swap import PAGE, REPLACEMENT, REQUEST, SHEET, check_room, finish_swap, swap
from lekhani.inference.labels import MAX_COUNT, label_of, parse_runs
from lekhani.inference.sampling import Advance, Plan
from lekhani.inference.session import LoadedModel
from lekhani.text import pluralize

MAX_BYTES = 64 << 20  # of a CSV file with labels
MAX_SHARDS = 100_000  # their names have five digits
SHARD_MEMORY = 4 << 30  # bytes that the noise and the images of a shard may take
Engine = Literal["local", "ray"]


def counts(
    classes: Sequence[GlyphClass],
    labels: Sequence[str] = (),
    *,
    each: int | None = None,
    total: int | None = None,
    table: Path | None = None,
) -> tuple[tuple[int, int], ...]:
    """Pairs (label, count) of `labels` (`क=8`) and of the rows of the CSV file `table`, in that order.

    `each` adds so many of every other class; `total` spreads the rest of it evenly over the other classes. Raises
    UsageError for contradictions, unknown labels and when nothing is left.
    """
    runs = parse_runs(labels, classes) + (_rows(table, classes) if table else [])
    if each is not None and total is not None:
        raise UsageError("--each and --total both say how many of the other classes; leave one of them out.")
    named = {label for label, _ in runs}
    others = [c.label for c in classes if c.label not in named]
    if each is not None:
        runs += [(label, each) for label in others]
    if total is not None:
        left = total - sum(count for _, count in runs)
        if left < 0 or (left and not others):
            problem = f"--total {total:,} is not what --label and --from-csv add up to ({total - left:,})"
            raise UsageError(f"{problem}; leave one of them out.")
        share, more = divmod(left, max(1, len(others)))
        runs += [(label, share + (i < more)) for i, label in enumerate(others)]
    runs = [run for run in runs if run[1]]
    if not runs:
        raise UsageError("There is nothing to generate: all counts are 0.")
    return tuple(runs)


def _rows(path: Path, classes: Sequence[GlyphClass]) -> list[tuple[int, int]]:
    """A CSV file with the column `label` and optionally `count`; rows of the same label add up."""
    found: dict[int, int] = {}
    try:
        reader = csv.DictReader(read_input(path, MAX_BYTES).decode("utf-8-sig").splitlines(keepends=True))
        if "label" not in (reader.fieldnames or ()):
            problem = f"--from-csv {path} has no column label; its first line must name the column label,"
            raise UsageError(f"{problem} and may name the column count.")
        for row in reader:
            where = f"--from-csv {path}, line {reader.line_num}"
            count = (row.get("count") or "1").strip()
            if not (count.isascii() and count.isdigit() and len(count) <= 20 and int(count) <= MAX_COUNT):
                bound = f"must be a whole number from 0 to {MAX_COUNT:,}."
                raise UsageError(f"{where}: the count {count[:20]!r} {bound}")
            label = label_of((row["label"] or "").strip(), classes, where)
            found[label] = found.get(label, 0) + int(count)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--from-csv {path} cannot be read as a CSV file in UTF-8: {reason(error)}.") from error
    return list(found.items())


def write_dataset(
    pen: LoadedModel, request: DatasetRequest, out: str, *, engine: Engine = "local", overwrite: bool = False
) -> str:
    """Write a dataset below `out`, a folder or an address such as s3://bucket/folder; returns a sentence about it.

    dataset.json is written last, so where it exists, the dataset is complete. The same request again resumes a run that
    was stopped. With `overwrite`, another dataset stays until this one is complete, and then gives way to it; what else
    lies there stays. Raises UsageError when `out` holds anything else and is not to be overwritten, or the disk has no
    room for so many images, and LekhaniError when writing fails or another process is writing there.
    """
    request.options.check(pen.generator, pen.reader)
    _check_shards(pen, request.plan)
    store, described = Store(out), request.describe(pen)
    with store.errors(), store.lock():
        store.fs.invalidate_cache()
        finish_swap(store)
        begun = _begun(pen, described)
        earlier = _earlier(store, overwrite)
        if earlier and (differences := _differences(earlier, described)):
            if not overwrite:
                problem = f"{store.out} holds the dataset of another request ({'; '.join(differences)})"
                raise UsageError(f"{problem}; choose another --out or pass --overwrite.")
            check_room(store, earlier, begun)
            kept = _write_beside(pen, request, store, begun, engine)
            swap(store)
        else:
            store.remove(REPLACEMENT)
            kept = _write(pen, request, store, earlier or begun, engine)
            store.clear_unfinished()
    return _sentence(pen, request, out, kept)


def _check_shards(pen: LoadedModel, plan: Plan) -> None:
    """Raise UsageError where there are too many shards to keep account of, or one is too large for the memory."""
    if plan.shards > MAX_SHARDS:
        problem = f"{plan.total:,} images would be {plan.shards:,} shards, and {MAX_SHARDS:,} is the most"
        raise UsageError(f"{problem}; pass --shard-size {-(-plan.total // MAX_SHARDS)} or ask for fewer images.")
    needed = plan.size(0) * (4 * pen.generator.noise_dim + pen.generator.image_size**2)
    if needed > SHARD_MEMORY:
        problem = f"A shard of {plan.size(0):,} images takes {needed / 2**30:,.1f} GB of memory"
        raise UsageError(f"{problem}, and {SHARD_MEMORY >> 30} GB is the most; pass a smaller --shard-size.")


def _check_room(pen: LoadedModel, request: DatasetRequest, store: Store, images: int) -> None:
    """Raise UsageError where the disk cannot take so many images."""
    if store.local:
        needed = images * FORMATS[request.format].room(pen.generator.image_size**2)
        require_room(Path(store.root), needed, f"{images:,} images as {request.format}")


def _begun(pen: LoadedModel, described: dict[str, Any]) -> Datasheet:
    """What of the datasheet is known before anything is written."""
    classes = [asdict(one) for one in pen.classes]
    return Datasheet.model_validate_json(_json({"made_by": MADE_BY, "request": described, "classes": classes}))


def _earlier(store: Store, overwrite: bool) -> Datasheet | None:
    """What an earlier run left: dataset.json, or while unfinished request.json; None for nothing."""
    earlier = store.read(SHEET, Datasheet) or store.read(REQUEST, Datasheet)
    if earlier is None and not set(store.entries()) <= {UNFINISHED}:
        hint = "it holds no dataset.json of ours, so --overwrite does not touch it either"
        hint = hint if overwrite else "or pass --overwrite if lekhani wrote it"
        raise UsageError(f"{store.out} exists already; choose another --out, {hint}.")
    return earlier


def _differences(earlier: Datasheet, described: dict[str, Any]) -> list[str]:
    """In what an earlier request was another one, for people."""
    before = earlier.request.model_dump(mode="json")
    return [
        f"{key} {_short(before[key])} there, {_short(value)} here"
        for key, value in described.items()
        if before[key] != value
    ]


def _write_beside(pen: LoadedModel, request: DatasetRequest, store: Store, begun: Datasheet, engine: Engine) -> int:
    """Write the replacement of a dataset, or what is missing of it."""
    beside = store.below(REPLACEMENT)
    unfinished = beside.read(SHEET, Datasheet) or beside.read(REQUEST, Datasheet)
    if unfinished is None or unfinished.request != begun.request:
        store.remove(REPLACEMENT)
        unfinished = begun
    return _write(pen, request, beside, unfinished, engine)


def _write(pen: LoadedModel, request: DatasetRequest, store: Store, sheet: Datasheet, engine: Engine) -> int:
    """Write the shards that are missing or damaged, then the datasheet if there is none; returns how many were there.

    `sheet` is what is known of this dataset.
    """
    plan, described = request.plan, request.describe(pen)
    batch_size = pen.generator.batch_size_for(plan.total)
    job = Job(request, digest(described), store.root if store.local else store.out, batch_size)
    recorded = set(store.entries(UNFINISHED))
    missing = [
        number
        for number in range(plan.shards)
        if not (sheet.shards or PurePath(record_name(number)).name in recorded)
        or not _intact(store, job, pen, number, sheet)
    ]
    left = sum(plan.size(number) for number in missing)
    _check_room(pen, request, store, left)
    if not sheet.shards:
        store.write(REQUEST, sheet.model_dump_json(exclude_unset=True))
    with _progress(plan.total) as advance:
        advance(plan.total - left)
        if missing and engine == "ray":
            on_ray.write_shards(job, pen, missing, advance)
        else:
            for number in missing:
                write_shard(job, pen.generator, pen.reader, number, advance)
    if not sheet.shards:
        finished = datasheet(pen, described, _records(store, job, pen), plan.runs)
        store.write(PAGE, readme(finished))
        store.write(SHEET, _json(finished))
    return plan.shards - len(missing)


def _intact(store: Store, job: Job, pen: LoadedModel, number: int, sheet: Datasheet) -> bool:
    """Whether a shard's files are as recorded in dataset.json, or while that is missing in the shard's own record."""
    record = sheet.shards[number] if sheet.shards else read_record(store, job, number, len(pen.classes))
    if record is None:
        return False
    return store.digest(FORMATS[job.request.format].names(job.shard(number, pen.classes))) == record.sha256


def _records(store: Store, job: Job, pen: LoadedModel) -> list[ShardRecord]:
    """The records of all shards; raises LekhaniError where another run, which no lock stopped, wrote its own."""
    records = [read_record(store, job, number, len(pen.classes)) for number in range(job.request.plan.shards)]
    found = [record for record in records if record is not None]
    if len(found) < len(records):
        problem = f"{store.out} was written by another run at the same time"
        raise LekhaniError(f"{problem}; wait for its end, then run the same again.")
    return found


def _sentence(pen: LoadedModel, request: DatasetRequest, out: str, kept: int) -> str:
    plan = request.plan
    before = f" ({kept} of {pluralize(plan.shards, 'shard')} {'was' if kept == 1 else 'were'} there already)"
    classes = pluralize(len({label for label, _ in plan.runs}), "class", "classes")
    return (
        f"Wrote {pluralize(plan.total, 'image')} of {classes} to {out} with {pen.origin}, "
        f"seed {request.options.seed}{before if kept else ''}."
    )


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{sum(count for _, count in value):,} of {pluralize(len(value), 'class', 'classes')}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 14 else f"{text[:12]} ..."


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


@contextmanager
def _progress(total: int) -> Iterator[Advance]:
    """A progress bar, on a terminal only; yields the function that advances it by so many images."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        progress.TextColumn("images"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=total)
        yield lambda n: bar.advance(task, n)
