"""How fast raw archives become prepared and validated data, beside a plain Pillow and pandas loop over the same files.

    python benchmarks/data.py [--images 92000] [--out benchmarks/results/data.json]

Each measurement runs in a process of its own: seconds include everything from opening the archive to the last report;
memory is the highest sum of resident pages over that process and its children, which counts shared pages several times.
The images are DHCD's when LEKHANI_REAL_DATA names the folder of its .npz files, else the embedded glyphs. The archives
are made first and not counted.
"""

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from origin import origin
from PIL import Image

from lekhani.data.raw import RawImages


def source(count: int) -> RawImages:
    """`count` images with labels and splits, in random order, so that a part is like the whole."""
    folder = os.environ.get("LEKHANI_REAL_DATA")
    if folder:
        from lekhani.data.layouts import read_raw

        with tempfile.TemporaryDirectory() as links:
            for split in ("train", "test"):
                (Path(links) / f"dhcd_{split}.npz").symlink_to(Path(folder) / f"dhcd_{split}.npz")
            raw = read_raw(Path(links), "devanagari")
    else:
        from lekhani.data.sources.embedded import devanagari

        raw = devanagari(7, 1700, 300)
    rows = np.random.default_rng(7).permutation(len(raw.images))[:count]
    return RawImages(
        [raw.images[r] for r in rows],
        raw.labels[rows],
        raw.classes,
        [f"{r:06d}" for r in rows],
        [raw.splits[r] for r in rows],
    )


def write_zip(raw: RawImages, path: Path) -> None:
    """The folder tree that UCI and Kaggle serve."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for image, label, member, split in zip(raw.images, raw.labels, raw.members, raw.splits, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            archive.writestr(f"Dataset/{split.title()}/{raw.classes[label].name}/{member}.png", buffer.getvalue())


def write_csv(raw: RawImages, path: Path) -> None:
    """The table of pixels that Kaggle serves, zipped."""
    head = ",".join([f"pixel_{i:04d}" for i in range(raw.images[0].size)] + ["character"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("data.csv", "w") as file:
        file.write(head.encode() + b"\n")
        for image, label in zip(raw.images, raw.labels, strict=True):
            file.write(f"{','.join(map(str, image.ravel().tolist()))},{raw.classes[label].name}\n".encode())


def plain_zip(path: Path, out: Path) -> int:
    """What a careful notebook does: Pillow per image, a dict per row, pandas for the checks."""
    images, rows = [], []
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            _, split, name, _ = member.split("/")
            image = np.array(Image.open(io.BytesIO(archive.read(member))).convert("L"))
            images.append(image)
            rows.append(
                {
                    "split": split,
                    "name": name,
                    "sha256": hashlib.sha256(image.tobytes()).hexdigest(),
                    "ink": (image > 127).mean(),
                }
            )
    return _plain_checks(np.stack(images), pd.DataFrame(rows), out)


def plain_csv(path: Path, out: Path) -> int:
    """pandas.read_csv, then a row at a time."""
    with zipfile.ZipFile(path) as archive, archive.open("data.csv") as file:
        table = pd.read_csv(file)
    names, pixels = table.pop("character"), table.to_numpy()
    images = pixels.reshape(len(pixels), 32, 32).astype(np.uint8)
    rows = [
        {"split": "", "name": name, "sha256": hashlib.sha256(image.tobytes()).hexdigest(), "ink": (image > 127).mean()}
        for name, image in zip(names, images, strict=True)
    ]
    return _plain_checks(images, pd.DataFrame(rows), out)


def _plain_checks(images: Any, table: pd.DataFrame, out: Path) -> int:
    out.mkdir()
    leaks = set(table.loc[table.split == "Train", "sha256"]) & set(table.loc[table.split == "Test", "sha256"])
    found = {
        "blank": int((table.ink == 0).sum()),
        "duplicates": int(table.duplicated("sha256").sum()),
        "leaks": len(leaks),
        "conflicts": int((table.groupby("sha256").name.nunique() > 1).sum()),
        "counts": table.groupby(["split", "name"]).size().describe().to_dict(),
    }
    np.save(out / "images.npy", images)
    table.to_parquet(out / "manifest.parquet")
    (out / "report.json").write_text(json.dumps(found))
    return len(table)


def lekhani(path: Path, out: Path) -> int:
    """Prepare and validate, with every check and every report."""
    from lekhani import params
    from lekhani.data import prepare, schema, validation_report

    raw = out / "raw"
    raw.mkdir(parents=True)
    (raw / path.name).symlink_to(path)
    (raw / "source.json").write_text(json.dumps({"name": "local", "version": "1", "sha256": "0" * 64}))
    data = params.Data(source="local", path=str(path), image_size=32)
    info = prepare.prepare("devanagari", data, params.Prepare(), 7, raw, out / "prepared")
    validation_report.write_reports(
        schema.validate(out / "prepared", params.Validate()), out / "prepared", out / "reports"
    )
    return sum(info.counts.values())


WAYS: dict[str, Callable[[Path, Path], int]] = {"plain_zip": plain_zip, "plain_csv": plain_csv, "lekhani": lekhani}


def measure(way: str, path: Path) -> dict[str, float]:
    """Run one way in a process of its own, and watch its memory."""
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--way", way, str(path), f"{folder}/out"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        family = psutil.Process(process.pid)
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):  # one of them just ended
                peak = max(peak, sum(one.memory_info().rss for one in (family, *family.children(recursive=True))))
            time.sleep(0.05)
        if process.returncode:
            sys.exit(f"{way} failed on {path.name}")
        result = json.loads(process.stdout.read() if process.stdout else "{}")
    result["images_per_second"] = round(result["images"] / result["seconds"])
    return {**result, "process_seconds": round(time.perf_counter() - start, 2), "peak_mb": peak >> 20}


def compare(count: int) -> dict[str, Any]:
    """Both ways on zips of `count` images, half and a quarter of them, and on a CSV of `count` images."""
    results: dict[str, Any] = {}
    sizes = {"zip": (count, count // 2, count // 4), "csv": (count,)}
    with tempfile.TemporaryDirectory() as folder:
        for kind, write in (("zip", write_zip), ("csv", write_csv)):
            for size in sizes[kind]:
                archive = Path(folder) / f"{kind}_{size}.zip"
                write(source(size), archive)
                plain, ours = measure(f"plain_{kind}", archive), measure("lekhani", archive)
                speedup = round(plain["seconds"] / ours["seconds"], 2)
                results[archive.stem] = {"plain": plain, "lekhani": ours, "speedup": speedup}
                archive.unlink()
    return results


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=92_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--way", nargs=3, metavar=("WAY", "ARCHIVE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        way, archive, out = options.way
        start = time.perf_counter()
        images = WAYS[way](Path(archive), Path(out))
        print(json.dumps({"images": images, "seconds": round(time.perf_counter() - start, 2)}))
        return
    results = compare(options.images)
    for name, pair in results.items():
        plain, ours = pair["plain"], pair["lekhani"]
        speed = f"{ours['seconds']:7.2f} s {ours['images_per_second']:6} images/s {ours['peak_mb']:6} MB"
        print(f"{name:12} plain {plain['seconds']:7.2f} s {plain['peak_mb']:6} MB   lekhani {speed}", end="")
        print(f"   {pair['speedup']:.2f} times as fast")
    images = "dhcd" if os.environ.get("LEKHANI_REAL_DATA") else "embedded"
    versions = origin("pillow", "pandas", "pandera", "numpy", "pyarrow", "scipy")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        report = {**versions, "images": images, "results": results}
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
