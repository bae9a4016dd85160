"""The static edition of the studio: what a browser loads, and how soon it writes and reads.

    python benchmarks/studio.py [--turns 5] [--out benchmarks/results/studio.json]

Builds it (`make studio` first), serves it on loopback and asks its engine in Chromium. Seconds are the medians of
`turns` fresh browsers, by the wall clock and, beside it, of the CPU time of all the browser's processes, which other
work on the machine changes less.
"""

import argparse
import gzip
import statistics
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from origin import origin
from playwright.sync_api import Page, sync_playwright

from lekhani.files import write_json
from lekhani.serve.static_studio import build

GLYPH = {"model": "devanagari", "labels": ["क"], "n": 1, "seed": 1}
LINE = {"model": "devanagari", "text": "नमस्ते", "n": 1, "seed": 1, "height": 96, "variety": 0.3, "augment": "light"}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "first glyph": ("glyphs", GLYPH),
    "one glyph": ("glyphs", {**GLYPH, "seed": 2}),
    "ten glyphs": ("glyphs", {**GLYPH, "n": 10}),
    "first line": ("lines", LINE),
    "a line": ("lines", {**LINE, "seed": 2}),
    "reading a glyph": ("recognise", {"model": "devanagari"}),
}
CALL = """async ([method, request]) => {
  const { LocalEngine } = await import("/page/local.js");
  window.engine ??= new LocalEngine();
  if (method === "recognise") request.image = window.pad;
  const started = performance.now(), given = await window.engine[method](request);
  return performance.now() - started;
}"""
# A glyph drawn large on the page's pad.
PAD = """async (glyph) => {
  const board = Object.assign(document.createElement("canvas"), { width: 480, height: 240 }).getContext("2d");
  board.filter = "invert(1)";
  board.fillRect(0, 0, 480, 240);
  const [{ src }] = await window.engine.glyphs(glyph), image = Object.assign(new Image(), { src });
  await image.decode();
  board.drawImage(image, 140, 20, 200, 200);
  window.pad = board.canvas.toDataURL().split(",")[1];
}"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


def sizes(folder: Path) -> dict[str, tuple[float, float]]:
    """Megabytes of each kind of file, on the disk and as gzip sends them."""
    kinds: dict[str, tuple[float, float]] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            parts = path.relative_to(folder / "page").parts if "page" in path.parts else ("page",)
            kind = " ".join(parts[:2]) if parts[0] == "models" else parts[0] if len(parts) > 1 else "page"
            content = path.read_bytes()
            plain, packed = kinds.get(kind, (0.0, 0.0))
            kinds[kind] = plain + len(content) / 1e6, packed + len(gzip.compress(content, 6)) / 1e6
    return dict(sorted(kinds.items(), key=lambda one: -one[1][0]))


def cpu_seconds() -> float:
    """Of this process's children, which are those of the browser."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        total += times.user + times.system
    return total


def measured(page: Page) -> dict[str, tuple[float, float]]:
    """Seconds of each task, by the wall clock and of the CPU."""
    found = {}
    for name, (method, request) in TASKS.items():
        if method == "recognise":
            page.evaluate(PAD, GLYPH)
            time.sleep(0.2)
        before = cpu_seconds()
        wall = page.evaluate(CALL, [method, request]) / 1000
        found[name] = wall, cpu_seconds() - before
    return found


def main() -> None:
    """Measure, print tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    runs: list[dict[str, tuple[float, float]]] = []
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "studio"
        print(build(folder))
        megabytes = sizes(folder)
        with (
            ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server,
            sync_playwright() as all_browsers,
        ):
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/"
            for _ in range(given.turns):
                browser = all_browsers.chromium.launch(
                    executable_path=given.chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
                )
                # The engine alone: the page itself would write at the same time.
                page = browser.new_page()
                page.route("**/studio.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
                page.goto(address)
                engine = measured(page)
                page.close()
                page = browser.new_page()
                before, started = cpu_seconds(), time.perf_counter()
                page.goto(address)
                page.locator("#written img").first.wait_for()
                runs.append(
                    {"page opened, first line": (time.perf_counter() - started, cpu_seconds() - before), **engine}
                )
                browser.close()
            server.shutdown()
    seconds = {name: [statistics.median(run[name][i] for run in runs) for i in range(2)] for name in runs[0]}
    print("\n| what is loaded | MB | MB by gzip |\n| --- | --- | --- |")
    for name, (plain, packed) in megabytes.items():
        print(f"| {name} | {plain:.2f} | {packed:.2f} |")
    plain, packed = (sum(values[i] for values in megabytes.values()) for i in range(2))
    print(f"| all | {plain:.2f} | {packed:.2f} |\n\n| task | seconds | CPU seconds |\n| --- | --- | --- |")
    for name, (wall, cpu) in seconds.items():
        print(f"| {name} | {wall:.2f} | {cpu:.2f} |")
    about = origin("onnxruntime", "playwright")
    print(f"\nLoad average {about['load_average']} on {about['machine']['cpus']} cores.")
    if given.out:
        write_json(given.out, {"origin": about, "megabytes": megabytes, "seconds": seconds, "turns": given.turns})


if __name__ == "__main__":
    main()
