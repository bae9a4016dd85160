"""How long one glyph takes from `lekhani serve` while one other client asks for something large.

    python benchmarks/fairness.py [--seconds 15] [--out benchmarks/results/fairness.json]

alone     nobody else asks
many      n: 1000
filtered  one image with a confidence that never comes, so that the server draws until the time is up
line      200 characters
specks    a picture of 9,400 dots, to be read as a number

The server has the pretrained models of Devanagari. Each kind is repeated as long as glyphs are measured.
"""

import argparse
import asyncio
import base64
import io
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from origin import origin
from PIL import Image
from serve_api import running

from lekhani.files import write_json

GLYPH = ("generate", {"labels": ["क"], "n": 1})


def specks() -> str:
    """A picture of dots in base64."""
    page = np.full((1000, 1000), 255, np.uint8)
    for row in range(10, 990, 10):
        page[row : row + 3].reshape(3, 100, 10)[:, 2:98, :3] = 0
    made = io.BytesIO()
    Image.fromarray(page).save(made, "PNG")
    return base64.b64encode(made.getvalue()).decode()


def large_requests() -> dict[str, tuple[str, dict[str, Any]] | None]:
    """Route and body of each kind."""
    return {
        "alone": None,
        "many": ("generate", {"labels": ["ख"], "n": 1000}),
        "filtered": ("generate", {"labels": ["ख"], "min_confidence": 0.9999999}),
        "line": ("compose", {"text": "कखग४२" * 40}),
        "specks": ("translate", {"to": "devanagari", "image": specks()}),
    }


async def measure(address: str, other: tuple[str, dict[str, Any]] | None, seconds: float) -> dict[str, float]:
    """Seconds that one glyph takes, one after another, while `other` is asked for again and again."""
    taken: list[float] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(120)) as session:

        async def ask(route: str, body: dict[str, Any]) -> int:
            async with session.post(f"{address}/v1/{route}", json={"model": "devanagari", **body}) as answer:
                await answer.read()
                return answer.status

        async def repeat() -> None:
            while other:
                await ask(*other)

        beside = asyncio.create_task(repeat())
        await asyncio.sleep(0.5)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            started = time.perf_counter()
            status = await ask(*GLYPH)
            if status != 200:
                sys.exit(f"A glyph was answered with {status}.")
            taken.append(time.perf_counter() - started)
        beside.cancel()
        with suppress(asyncio.CancelledError):
            await beside
    return {"glyphs": len(taken), "p50_ms": 1000 * float(np.median(taken)), "max_ms": 1000 * max(taken)}


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each kind")
    parser.add_argument("--port", type=int, default=8703)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    address = f"http://127.0.0.1:{given.port}"
    command = [sys.executable, "-m", "lekhani", "serve", "--no-page", "--port", str(given.port)]
    results = {}
    with tempfile.TemporaryDirectory() as folder, running(command, f"{address}/readyz", Path(folder), {}):
        for name, other in large_requests().items():
            results[name] = found = asyncio.run(measure(address, other, given.seconds))
            print(f"{name:10}" + "".join(f"{key} {value:>8,.0f}   " for key, value in found.items()), flush=True)
    if given.out:
        write_json(given.out, {**origin("onnxruntime", "fastapi", "uvicorn"), "glyph_beside": results})


if __name__ == "__main__":
    main()
