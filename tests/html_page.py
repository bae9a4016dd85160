"""An HTML page taken apart, for tests of what it shows."""

import re
from collections.abc import Container
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "img", "br", "link", "source"}


class Page(HTMLParser):
    """The tags of a page, its rows of cells and its text; a tag that is not closed where it should be is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.links: list[tuple[str, str]] = []  # the text of each, and where it leads
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), "an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag == "a":
            self.links.append(("", dict(attrs)["href"] or ""))
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "a" in self.open:
            text, to = self.links[-1]
            self.links[-1] = text + data, to
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def attributes_of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def assert_links_lead_somewhere(self, beside: Container[str] = ()) -> None:
        """Every link leads to an id of this page, which it has once, or to one of the files beside it."""
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(set(ids)) == len(ids)
        for text, to in self.links:
            assert text
            assert to.removeprefix("#") in ids if to.startswith("#") else to in beside, to

    def assert_is_accessible(self) -> None:
        """What can be seen without a browser: the order of headings, and what tables and pictures are called."""
        levels = [int(tag[1]) for tag, _ in self.tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert all(1 < after <= before + 1 for before, after in pairwise(levels))
        tables, captions = (sum(tag == name for tag, _ in self.tags) for name in ("table", "caption"))
        assert tables == captions
        assert {attributes.get("scope") for attributes in self.attributes_of("th")} == {"col", "row"}
        assert all(attributes["alt"] for attributes in self.attributes_of("img"))
        names = [attributes.get("aria-label") for _, attributes in self.tags if attributes.get("role") == "region"]
        assert len(set(names)) == len(names) >= tables

    def assert_stands_alone(self, beside: Container[str] = ()) -> None:
        """Nothing is loaded from elsewhere and no script runs; links may lead to files `beside` it."""
        assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in self.tags}
        for _, attributes in self.tags:
            assert not [name for name in attributes if name.startswith("on")]
            for name in ("src", "srcset"):
                assert (attributes.get(name) or "data:image/png;base64,").startswith("data:image/png;base64,")
        self.assert_links_lead_somewhere(beside)
