"""Our HTML pages: each is one file that opens offline, in light and in dark."""

import base64
import io
import struct
from collections.abc import Iterable

from lekhani.pictures import Picture

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2024; --quiet: #596069; --line: #e3e6ea; }
@media (prefers-color-scheme: dark) { :root { --paper: #16191d; --ink: #e4e7eb; --quiet: #a0a8b1; --line: #343a41; } }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans Devanagari", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.lead { color: var(--quiet); }
table { border-collapse: collapse; width: 100%; margin-top: 1rem; font-size: .94rem; }
th { text-align: left; font-weight: 600; color: var(--quiet); }
th, td { padding: .45rem .75rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 0; }
img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: .4rem; font-size: .82rem; line-height: 1.4; overflow-wrap: anywhere; }
figcaption b { font-weight: 600; }
"""


def page(title: str, style: str, body: Iterable[str]) -> str:
    """A whole page from lines of HTML, with the rules of `style` after those of all pages; nothing is escaped here."""
    content = "\n".join(line for line in body if line)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}{style.lstrip()}</style>
</head>
<body>
{content}
</body>
</html>
"""


def image(png: bytes, alt: str) -> str:
    """The content of a PNG file as an image within the page, one CSS pixel per pixel; `alt` must be escaped."""
    width, height = struct.unpack(">II", png[16:24])  # a PNG file begins with its size
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{alt}">'


def glyph_image(picture: Picture, alt: str) -> str:
    """A grey picture uint8 [H,W] as `image`."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    return image(file.getvalue(), alt)
