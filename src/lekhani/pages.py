"""Our HTML pages: each is one file that opens offline, in light and in dark, at the width of a phone and of a wall."""

import base64
import html
import io
import re
import struct
from collections.abc import Container, Iterable, Sequence
from importlib import resources
from typing import Any

from lekhani.pictures import Picture
from lekhani.text import printable

_DEVANAGARI = re.compile(
    "[\u0900-\u097f\u1cd0-\u1cff\ua8e0-\ua8ff][\u0900-\u097f\u1cd0-\u1cff\ua8e0-\ua8ff\u200c\u200d]*"
)
_FRAME = "main { margin: 0 auto; max-width: 112rem; padding: clamp(1rem, 3vw, 2rem); padding-bottom: 4rem; }\n"


def page(title: str, style: str, body: Iterable[str]) -> str:
    """A whole page from lines of HTML, with the rules of `style` after those of all pages; nothing is escaped here."""
    house = resources.files("lekhani").joinpath("house.css").read_text(encoding="utf-8")
    content = "\n".join(line for line in body if line)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{house}{_FRAME}{style.lstrip()}</style>
</head>
<body>
<main>
{content}
</main>
</body>
</html>
"""


def words(text: Any) -> str:
    """`text` as HTML that shows it as it is; what is in Devanagari is marked as Hindi, for fonts and screen readers."""
    return _DEVANAGARI.sub(r'<span lang="hi">\g<0></span>', attribute(text))


def attribute(text: Any) -> str:
    """`text` as the value of an attribute in double quotes."""
    return html.escape(printable(text))


def html_table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Container[int] = (),
    row_head: int = 0,
    foot: Sequence[str] = (),
) -> list[str]:
    """A table of cells of HTML in a box that scrolls; no other may have the `caption`, which is plain text.

    Columns in `numbers` are aligned as numbers, column `row_head` names the row and stays in sight; `foot` is the last
    row, set apart.
    """
    classes = [' class="number"' if column in numbers else "" for column in range(len(heads))]
    classes[row_head] = ' class="stays"'

    def line(cells: Sequence[str]) -> str:
        shown = (
            f'<th scope="row"{kind}>{cell}</th>' if column == row_head else f"<td{kind}>{cell}</td>"
            for column, (kind, cell) in enumerate(zip(classes, cells, strict=True))
        )
        return f"<tr>{''.join(shown)}</tr>"

    named = (f'<th scope="col"{kind}>{head}</th>' for kind, head in zip(classes, heads, strict=True))
    return [
        f'<div class="scroll" tabindex="0" role="region" aria-label="{attribute(caption)}"><table>',
        f'<caption class="unseen">{words(caption)}</caption><thead><tr>{"".join(named)}</tr></thead><tbody>',
        *map(line, rows),
        f"</tbody><tfoot>{line(foot)}</tfoot></table></div>" if foot else "</tbody></table></div>",
    ]


def image(png: bytes, alt: str, dark: bytes | None = None) -> str:
    """The content of a PNG file as an image within the page, one CSS pixel per pixel; `alt` is plain text.

    On a dark page stands `dark` instead, where it is given.
    """
    shown = f'<img {_source("src", png)} alt="{attribute(alt)}">'
    if dark is None:
        return shown
    return f'<picture><source media="(prefers-color-scheme: dark)" {_source("srcset", dark)}>{shown}</picture>'


def _source(name: str, png: bytes) -> str:
    width, height = struct.unpack(">II", png[16:24])  # a PNG file begins with its size
    return f'{name}="data:image/png;base64,{base64.b64encode(png).decode()}" width="{width}" height="{height}"'


def glyph_image(picture: Picture, alt: str) -> str:
    """A grey picture uint8 [H,W] as `image`."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    return image(file.getvalue(), alt)
