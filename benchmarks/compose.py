"""Milliseconds of one core for a line of `lekhani compose`, with paper, ink and transcripts.

    python benchmarks/compose.py [--models devanagari devanagari@drifting] [--hands 50] [--against ../earlier/src]
        [--lines 100] [--out FILE.json]

Every figure is of a process of its own with one thread. They run by turns, so that the ratios hold whatever else the
machine does; `--against` is the folder `src` of another checkout, whose lines the ratios are then to.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from origin import origin

from lekhani.files import write_json

SRC = Path(__file__).resolve().parent.parent / "src"
PATTERNS = {"pin_code": "pin_code", "words": "[क-ह]{3,6} [क-ह]{2,5} [०-९]{2,4}"}
ONE = """
import sys, time
from pathlib import Path
from tempfile import TemporaryDirectory
import lekhani
from lekhani.handwriting.lines import LineRequest, choose_texts, write_lines
from lekhani.handwriting.render import LineStyle
model, pattern, lines, hands = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
pen, style, more = lekhani.load(model), LineStyle(augment="strong"), {"hands": hands} if hands else {}
texts = choose_texts(pen.generator, (), pattern, None, lines, 7)
with TemporaryDirectory() as folder:
    write_lines(pen, LineRequest(texts[:5], 7, style), Path(folder) / "first")
    start = time.process_time()
    write_lines(pen, LineRequest(texts, 7, style, **more), Path(folder) / "lines")
    print(1000 * (time.process_time() - start) / lines)
"""


def milliseconds(source: Path, model: str, hands: int, pattern: str, lines: int) -> float:
    """Of one core, for a line, with the code in `source`; 0 `hands` are one a line."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", ONE, model, pattern, str(lines), str(hands)]
    return float(subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout)


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["devanagari", "devanagari@drifting"])
    parser.add_argument("--hands", type=int)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--lines", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    ways = {model: (SRC, model, 0) for model in given.models}
    if given.hands:
        ways |= {f"{model}, {given.hands} hands": (SRC, model, given.hands) for model in given.models}
    if given.against:
        ways = {f"{model}, earlier": (given.against.resolve(), model, 0) for model in given.models} | ways
    results = {}
    for text, pattern in PATTERNS.items():
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(given.turns):
            for name, (source, model, hands) in ways.items():
                taken[name].append(milliseconds(source, model, hands, pattern, given.lines))
        results[text] = {name: round(statistics.median(values), 2) for name, values in taken.items()}
        first = next(iter(results[text].values()))
        for name, value in results[text].items():
            print(f"{text:10} {name:32} {value:8.1f} ms a line  ({first / value:5.1f}x)", flush=True)
    if given.out:
        figures = {"lines": given.lines, "milliseconds": results}
        write_json(given.out, {**origin("onnxruntime", "numpy", "pillow"), **figures})


if __name__ == "__main__":
    main()
