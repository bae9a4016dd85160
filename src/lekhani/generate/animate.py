"""Animations of glyphs in the making: the images after each step of a stepwise generator, as GIF or WebP."""

from collections.abc import Sequence
from pathlib import Path

from lekhani.errors import UsageError
from lekhani.files import replacing
from lekhani.inference.labels import parse_runs
from lekhani.inference.sampling import Plan, SamplingOptions, sample_shard
from lekhani.inference.session import LoadedModel
from lekhani.inference.stepwise import StepwiseSession
from lekhani.pictures import Picture, enlarged, grid, to_uint8
from lekhani.text import pluralize

FORMATS = {".gif": "GIF", ".webp": "WEBP"}
MAX_GLYPHS = 1000
MAX_SIDE = 16_383  # pixels, WebP's limit; GIF could take more
HOLD_MS = 1500  # that the last frame stays longer


def write_animation(
    pen: LoadedModel,
    labels: Sequence[str],
    seed: int,
    out: Path,
    *,
    columns: int | None = None,
    scale: int = 4,
    fps: float = 8,
    overwrite: bool = False,
) -> str:
    """Write an endless animation of the glyphs that `generate` would write; returns a sentence about it.

    `labels` as in `parse_runs`; GIF or WebP by the suffix of `out`; `columns` glyphs a row (None: at most ten), each
    pixel `scale` wide, `fps` frames a second. Raises UsageError for what cannot be animated and an existing file.
    """
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"--out {out}: animations end in {' or '.join(FORMATS)}.")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already; choose another --out or pass --overwrite.")
    plan = Plan(tuple(parse_runs(labels, pen.classes)))
    if plan.total > MAX_GLYPHS:
        raise UsageError(f"{plan.total:,} glyphs are too many to watch; ask for at most {MAX_GLYPHS:,}.")
    columns = min(columns or 10, plan.total)
    cell, rows = pen.generator.image_size + 1, -(-plan.total // columns)
    width, height = (scale * (cell * cells - 1) for cells in (columns, rows))
    if max(width, height) > MAX_SIDE:
        problem = f"The picture would be {width:,} x {height:,} pixels, and {MAX_SIDE:,} is the most"
        raise UsageError(f"{problem}; choose another --columns or --scale.")
    session, numbers = StepwiseSession(pen.generator), plan.labels(0)
    noise = sample_shard(pen.generator, pen.reader, numbers, SamplingOptions(seed)).noise
    frames = [enlarged(grid(to_uint8(images), columns), scale) for images in session.run(noise, numbers)]
    _save(frames, out, fps)
    height, width = frames[0].shape
    return (
        f"Wrote {len(frames)} frames of {pluralize(plan.total, 'glyph')}, {width} x {height} pixels, "
        f"to {out} with {pen.origin}, seed {seed}."
    )


def _save(frames: Sequence[Picture], path: Path, fps: float) -> None:
    """Write grey pictures [H,W] as an endless GIF or WebP whose last frame stays longer."""
    from PIL import Image

    first, *others = (Image.fromarray(frame) for frame in frames)
    durations = [round(1000 / fps)] * len(others) + [round(1000 / fps) + HOLD_MS]
    with replacing(path) as temporary:
        first.save(
            temporary,
            format=FORMATS[path.suffix.lower()],
            save_all=True,
            append_images=others,
            duration=durations,
            loop=0,
            lossless=True,
        )
