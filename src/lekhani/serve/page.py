"""A page to try it: type or tap and see handwriting, draw and see it read.

It is a client of the API within the same process, so that the API's limits, queues, keys and sentences hold for it.
Nothing is kept between two clicks, nothing is written to the disk, and nothing comes from another host.
"""

import base64
import csv
import html
import io
import os
import zipfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response
from PIL import Image
from starlette.staticfiles import StaticFiles

from lekhani.data.spec import GlyphClass
from lekhani.errors import LekhaniError, UsageError
from lekhani.handwriting.alphabet import SPACE, Alphabet, plain
from lekhani.pictures import grid
from lekhani.serve import responses

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when Gradio is imported

import gradio as gr

PATH = "/page"
LINE, GLYPHS = "A line of handwriting", "Each letter by itself"
MOST = 24  # lines at a time
WAITING = 64  # clicks that wait or are answered
HEIGHT = 96  # of a line, pixels
COLUMNS = 16  # of letters that are saved as one picture
GAP = 8  # pixels between lines that are saved as one picture
PICTURE = "data:image/png;base64,"
ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
    "<path fill='#2563eb' d='M2 14l1-4 8-8 3 3-8 8z'/></svg>"
)
_FILES = resources.files("lekhani.serve") / "page_files"

_Fields = Mapping[str, Any]


def mount(app: FastAPI, *, asks_key: bool = False) -> None:
    """Add the page to an application of `api.create_app`, and lead "/" to it; with `asks_key` it asks for a key."""
    blocks = _blocks(app, asks_key)
    # Nothing is uploaded: pictures go to the API, within its limits.
    settings: dict[str, Any] = {
        "max_file_size": 1,
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
    }
    app.mount(f"{PATH}/font", StaticFiles(packages=[("fontpkg_noto_sans_devanagari", "files")]))
    gr.mount_gradio_app(app, blocks, PATH, theme=_theme(), css=_file("page.css"), js=_file("page.js"), **settings)

    @app.get("/", include_in_schema=False)
    async def page() -> RedirectResponse:
        return RedirectResponse(f"{PATH}/")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(ICON, media_type="image/svg+xml")


def _file(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _theme() -> Any:
    font = ["Lekhani Devanagari", "system-ui", "sans-serif"]  # Gradio's own come from another host
    return gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=font,
        font_mono=["ui-monospace", "monospace"],
        radius_size="sm",
        text_size="md",
    )


def _blocks(app: FastAPI, asks_key: bool) -> Any:
    datasets = [source.dataset for source in app.state.champions.sources]
    first = "devanagari" if "devanagari" in datasets else datasets[0]
    other = "mnist" if "mnist" in datasets else datasets[-1]
    reading = _Caller(app)
    with gr.Blocks(title="Lekhani", analytics_enabled=False, fill_width=False) as blocks:
        gr.HTML(
            "<header><h1>Lekhani <span lang='hi'>लेखनी</span></h1>"
            "<p>A pen that writes by hand, and reads what you write.</p></header>"
        )
        key = gr.Textbox(
            label="Key",
            type="password",
            visible=asks_key,
            info="This server asks for one; it is sent with each click.",
            elem_id="key",
        )
        with gr.Tab("Write"), gr.Row():
            with gr.Column(scale=2, min_width=300):
                model = gr.Radio(datasets, value=first, label="Model", elem_id="model")
                text = gr.Textbox(
                    "४२ कखग" if first == "devanagari" else "42", label="Text", max_length=200, elem_id="text"
                )
                letters = gr.HTML(elem_id="letters")
                style = gr.Radio([LINE, GLYPHS], value=LINE, label="Style", elem_id="style")
                with gr.Row():
                    count = gr.Number(1, label="How many", precision=0, min_width=100, elem_id="count")
                    seed = gr.Number(7, label="Seed", precision=0, min_width=100, elem_id="seed")
                go = gr.Button("Write", variant="primary", elem_id="write")
            with gr.Column(scale=3, min_width=300):
                written = gr.HTML("<p class='empty'>What you write appears here.</p>", elem_id="written")
        with gr.Tab("Read and write again"), gr.Row():
            with gr.Column(scale=2, min_width=300):
                pad = gr.HTML(html_template=_file("pad.html"), js_on_load=_file("pad.js"), elem_id="pad")
                source = gr.Radio(datasets, value=first, label="It is written in", elem_id="source")
                target = gr.Radio(datasets, value=other, label="Write it again in", elem_id="target")
                chance = gr.Number(7, label="Seed", precision=0, elem_id="chance")
                with gr.Row():
                    translate = gr.Button("Read and write again", variant="primary", min_width=140, elem_id="translate")
                    recognise = gr.Button("Read one character", min_width=140, elem_id="recognise")
            with gr.Column(scale=3, min_width=300):
                read = gr.HTML("<p class='empty'>Draw a digit, or several side by side.</p>", elem_id="read")

        private: dict[str, Any] = {"api_visibility": "private"}
        shown = {"scroll_to_output": True, **private}
        drawn = "(pad, ...others) => [document.querySelector('#pad canvas').picture(), ...others]"
        for when in (blocks.load, model.change, key.blur, key.submit):
            when(reading.letters, [key, model], letters, show_progress="hidden", **private)
        for press in (go.click, text.submit):
            press(reading.write, [key, model, text, style, count, seed], written, **shown)
        translate.click(reading.translate, [pad, key, source, target, chance], read, js=drawn, **shown)
        recognise.click(reading.recognise, [pad, key, source], read, js=drawn, **shown)
    # The API's own queue is the one that counts; this one only bounds what a page may keep waiting.
    blocks.queue(api_open=False, max_size=WAITING, default_concurrency_limit=None)
    return blocks


class _Caller:
    """What the buttons do: each calls the API and returns HTML, or the API's sentence for an error."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    async def letters(self, key: str, model: str, request: gr.Request) -> str:
        """Buttons for all that a model can write."""

        async def made() -> str:
            return "".join(
                f"<button type='button'>{html.escape(c.glyph)}</button>"
                for c in await self._classes(request, key, model)
            )

        return await _said(made)

    async def write(
        self, key: str, model: str, text: str, style: str, count: int, seed: int, request: gr.Request
    ) -> str:
        """Handwriting with what saves it."""
        return await _said(
            lambda: (self._glyphs if style == GLYPHS else self._lines)(request, key, model, text, count, seed)
        )

    async def _glyphs(self, request: gr.Request, key: str, model: str, text: str, count: int, seed: int) -> str:
        found = Alphabet(await self._classes(request, key, model)).labels(plain(text))
        body = {"model": model, "labels": [label for label in found if label != SPACE], "n": count, "seed": seed}
        files = _unzipped((await self._post(request, key, "generate", body, responses.ZIP)).content)
        rows = list(csv.DictReader(io.StringIO(files["labels.csv"].decode())))
        images = np.stack([np.asarray(_opened(files[row["file"]])) for row in rows])
        shown = [_figure(files[row["file"]], row["glyph"]) for row in rows]
        return _result("glyphs", shown, responses.png(grid(images, min(len(images), COLUMNS))), files)

    async def _lines(
        self, request: gr.Request, key: str, model: str, text: str, count: int | None, seed: int | None
    ) -> str:
        if not 1 <= (count or 0) <= MOST:
            raise UsageError(f"How many is from 1 to {MOST}.")
        files, shown = {}, []
        for number in range(count or 0):
            body = {"model": model, "text": text, "height": HEIGHT, "seed": seed if seed is None else seed + number}
            line = (await self._post(request, key, "compose", body)).json()
            files[f"{number:02d}.png"] = base64.b64decode(line["png"])
            files[f"{number:02d}.gt.txt"] = f"{line['text']}\n".encode()
            shown.append(_figure(files[f"{number:02d}.png"], alt=line["text"]))
        return _result(
            "lines", shown, _stacked([content for name, content in files.items() if name.endswith(".png")]), files
        )

    async def translate(self, picture: str, key: str, source: str, target: str, seed: int, request: gr.Request) -> str:
        """A number as it was read, and written again."""

        async def made() -> str:
            body = {"model": source, "to": target, "image": _sent(picture), "seed": seed}
            done = (await self._post(request, key, "translate", body)).json()
            images = "".join(_figure(base64.b64decode(one["png"]), one["glyph"]) for one in done["images"])
            readings = "".join(_reading(one) for one in done["digits"])
            return (
                f"<h3>Read as <b class='number'>{html.escape(done['read'])}</b></h3>"
                f"<ul class='readings'>{readings}</ul>"
                f"<h3>Written again in {html.escape(target)}</h3><div class='glyphs'>{images}</div>"
            )

        return await _said(made)

    async def recognise(self, picture: str, key: str, source: str, request: gr.Request) -> str:
        """What one character was read as."""

        async def made() -> str:
            found = (await self._post(request, key, "recognise", {"model": source, "image": _sent(picture)})).json()
            return (
                f"<h3>Read as <b class='number'>{html.escape(found['glyph'])}</b></h3>"
                f"<ul class='readings'>{_reading(found)}</ul>"
            )

        return await _said(made)

    async def _classes(self, request: gr.Request, key: str, model: str) -> tuple[GlyphClass, ...]:
        models = (await self._ask(request, key, "GET", "models")).json()
        known = [one["classes"] for one in models if one["dataset"] == model]
        return tuple(GlyphClass(**c) for c in known[0]) if known else ()

    async def _post(
        self, request: gr.Request, key: str, what: str, body: _Fields, accept: str = responses.JSON
    ) -> httpx.Response:
        return await self._ask(request, key, "POST", what, json=body, headers={"Accept": accept})

    async def _ask(self, request: gr.Request, key: str, method: str, what: str, **more: Any) -> httpx.Response:
        """The API's answer; raises LekhaniError with the sentence that it refuses with."""
        caller = (request.client.host, request.client.port)
        headers = more.pop("headers", {}) | ({"Authorization": f"Bearer {key.strip()}".encode()} if key else {})
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, client=caller), base_url="http://page"
        ) as client:
            answer = await client.request(method, f"/v1/{what}", headers=headers, **more)
        if answer.is_error:
            raise LekhaniError(answer.json()["detail"])
        return answer


async def _said(made: Callable[[], Awaitable[str]]) -> str:
    try:
        return await made()
    except LekhaniError as error:
        return f"<p class='wrong' role='alert'>{html.escape(str(error))}</p>"


def _sent(picture: str) -> str:
    """The base64 in a data URL."""
    return picture.partition(",")[2]


def _unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def _stacked(pictures: Sequence[bytes]) -> bytes:
    """Pictures one above the other, as PNG."""
    images = [_opened(content) for content in pictures]
    sheet = Image.new(
        images[0].mode, (max(i.width for i in images), sum(i.height + GAP for i in images) - GAP), "white"
    )
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height + GAP
    return responses.png(sheet)


def _figure(content: bytes, caption: str = "", alt: str = "") -> str:
    image = f"<img src='{PICTURE}{base64.b64encode(content).decode()}' alt='{html.escape(alt or caption)}'>"
    return (
        f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"
        if caption
        else f"<figure>{image}</figure>"
    )


def _result(kind: str, shown: Sequence[str], sheet: bytes, files: Mapping[str, bytes]) -> str:
    packed = base64.b64encode(responses.zipped(files)).decode()
    links = (
        f"<a class='save' download='handwriting.png' href='{PICTURE}{base64.b64encode(sheet).decode()}'>Save as PNG</a>"
        f"<a class='save' download='handwriting.zip' href='data:application/zip;base64,{packed}'>Save all as ZIP</a>"
    )
    return f"<div class='{kind}'>{''.join(shown)}</div><p class='saving'>{links}</p>"


def _reading(one: _Fields) -> str:
    """A guess with its confidence as a bar, and what else it may be."""
    rows = "".join(
        f"<span class='guess'><b>{html.escape(guess['glyph'])}</b>"
        f"<meter value='{guess['confidence']}'></meter> {guess['confidence']:.1%}</span>"
        for guess in (one, *one["alternatives"])
    )
    return f"<li>{rows}</li>"
