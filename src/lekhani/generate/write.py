"""Datasets of generated glyphs, shard by shard: a run that was stopped at any point goes on where it was, and ends with the same bytes."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lekhani.data.spec import GlyphClass
from lekhani.errors import UsageError
from lekhani.generate.datasheet import MADE_BY, datasheet, readme
from lekhani.generate.formats import LAYOUTS, Format, Place
from lekhani.generate.shards import Job, Request, record_name, write_shard
from lekhani.generate.store import UNFINISHED, Store
from lekhani.inference.labels import MAX_COUNT, label_of, parse_runs
from lekhani.inference.model import LoadedModel

Engine = Literal["local", "ray"]
_BEGUN = f"{UNFINISHED}/request.json"


def counts(
    classes: Sequence[GlyphClass],
    labels: Sequence[str] = (),
    *,
    each: int | None = None,
    total: int | None = None,
    table: Path | None = None,
) -> tuple[tuple[int, int], ...]:
    """Pairs (label, count) of what is asked for by `labels` (`क=8`) and the rows of the CSV file `table`, in that order.

    `each` is so many of every class that these do not name; `total` spreads what they leave of it evenly over those classes. Raises
    UsageError for what cannot be.
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
            raise UsageError(
                f"--total {total:,} is not what --label and --from-csv add up to ({total - left:,}); leave one of them out."
            )
        share, more = divmod(left, max(1, len(others)))
        runs += [(label, share + (i < more)) for i, label in enumerate(others)]
    runs = [run for run in runs if run[1]]
    if not runs:
        raise UsageError("All counts that are asked for are 0.")
    return tuple(runs)


def _rows(path: Path, classes: Sequence[GlyphClass]) -> list[tuple[int, int]]:
    """A CSV file with the column `label` and, if wanted, `count`; rows of the same label add up."""
    found: dict[int, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if "label" not in (reader.fieldnames or ()):
                raise UsageError(
                    f"--from-csv {path} has no column label; its first line must name the columns label and, if wanted, count."
                )
            for row in reader:
                where = f"--from-csv {path}, line {reader.line_num}"
                count = (row.get("count") or "1").strip()
                if not (count.isascii() and count.isdigit() and int(count[:11]) <= MAX_COUNT):
                    raise UsageError(
                        f"{where}: the count {count[:20]!r} must be a whole number from 0 to {MAX_COUNT:,}."
                    )
                label = label_of((row["label"] or "").strip(), classes, where)
                found[label] = found.get(label, 0) + int(count)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--from-csv {path} cannot be read as a CSV file in UTF-8: {error}") from error
    return list(found.items())


def write_dataset(
    pen: LoadedModel, request: Request, out: str, *, engine: Engine = "local", overwrite: bool = False
) -> str:
    """Write what is asked for below `out`, a folder or an address such as s3://bucket/folder; returns a sentence about it.

    dataset.json is written last, so that where it is, all is there. A run that was stopped goes on where it was when the same is asked
    for again. Raises UsageError when `out` holds anything else and is not to be overwritten, and LekhaniError when writing fails.
    """
    request.wishes.check(pen.generator, pen.reader)
    store, told, plan = Store(out), request.told(pen), request.plan
    with store.errors(), _bar(plan.total) as advance:
        begun = _begin(store, told, overwrite)
        if begun is None:
            begun = {"made_by": MADE_BY, "request": told}
            store.write(_BEGUN, _json(begun))
        job = Job(request, store.root if store.local else out, pen.generator.batch_size_for(plan.total))
        whole = {one["number"]: one for one in begun.get("shards", ())}
        missing = []
        for number in range(plan.shards):
            if _intact(
                store,
                job.place(number, pen.classes),
                request.format,
                whole.get(number) or store.read(record_name(number)),
            ):
                advance(len(plan.labels(number)))
            else:
                missing.append(number)
        if missing:
            run = _locally if engine == "local" else _by_ray
            run(job, pen, missing, advance)
        if not whole:
            sheet = datasheet(pen, told, [store.read(record_name(number)) for number in range(plan.shards)], plan.runs)
            store.write("README.md", readme(sheet))
            store.write("dataset.json", _json(sheet))
        store.remove(UNFINISHED)
    classes = len({label for label, _ in plan.runs})
    kept = plan.shards - len(missing)
    before = f" ({kept} of {plan.shards} shards were there already)" if kept else ""
    return f"Wrote {plan.total:,} images of {classes} classes to {out} with {pen.origin}, seed {request.wishes.seed}{before}."


def _locally(job: Job, pen: LoadedModel, missing: Sequence[int], advance: Callable[[int], object]) -> None:
    for number in missing:
        write_shard(job, pen.generator, pen.reader, number, advance)


def _by_ray(job: Job, pen: LoadedModel, missing: Sequence[int], advance: Callable[[int], object]) -> None:
    from lekhani.generate import on_ray

    on_ray.write_shards(job, pen, missing, advance)


def _begin(store: Store, told: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """What an earlier run of the same request wrote down (dataset.json, or while it is unfinished its beginning), None to start afresh."""
    earlier = store.read("dataset.json") or store.read(_BEGUN)
    if earlier is None and set(store.entries()) <= {UNFINISHED}:
        return None
    if not isinstance(earlier, dict) or earlier.get("made_by") != MADE_BY:
        hint = (
            "it holds no dataset.json of ours, so that --overwrite does not touch it either"
            if overwrite
            else "or pass --overwrite if it is ours"
        )
        raise UsageError(f"{store.out} exists already; choose another --out, {hint}.")
    if overwrite:
        store.clear()
        return None
    before = earlier["request"]
    differences = [
        f"{key} {_short(before.get(key))} there, {_short(value)} here"
        for key, value in told.items()
        if before.get(key) != value
    ]
    if differences:
        raise UsageError(
            f"{store.out} was asked for otherwise ({'; '.join(differences)}); choose another --out or pass --overwrite."
        )
    return earlier


def _intact(store: Store, place: Place, form: Format, record: Any) -> bool:
    return isinstance(record, dict) and store.digest(LAYOUTS[form].names(place)) == record.get("sha256")


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{sum(count for _, count in value):,} of {len(value)} classes"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 14 else f"{text[:12]} ..."


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], object]]:
    """A progress bar on the terminal, nothing where there is none; yields what moves it on by so many images."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=total)
        yield lambda n: bar.advance(task, n)
