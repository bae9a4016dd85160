"""What two manifests differ in is counted image by image, copies included, and said in three forms."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lekhani.data import diff
from lekhani.data.spec import DatasetInfo, GlyphClass
from lekhani.data.versions import NoDatasetError, Version
from lekhani.errors import UsageError

Row = tuple[str, str, str, str]  # pixels, class, split, member


def table(rows: Sequence[Row]) -> pd.DataFrame:
    columns = ["sha256", "class_name", "split", "member"]
    return pd.DataFrame({name: pd.Series([row[at] for row in rows], dtype=str) for at, name in enumerate(columns)})


def version(rows: Sequence[Row], size: int = 16, **facts: Any) -> Version:
    names = list(dict.fromkeys(row[1] for row in rows))
    classes = tuple(GlyphClass(i, name, f"<{name}>") for i, name in enumerate(names))
    source = {"name": "local", "version": "1", "sha256": "0"}
    info = DatasetInfo("d", "none", size, classes, dict(Counter(row[2] for row in rows)), source, "digest")
    return Version(table(rows), DatasetInfo(**{**vars(info), **facts}))


def compared(before: Sequence[Row], after: Sequence[Row], **facts: Any) -> diff.DatasetDiff:
    """Two versions called a and b, of which the second has other `facts` in its dataset.json."""
    return diff.diff_versions("d", version(before), version(after, **facts), ("a", "b"))


def counts(found: diff.ImageDiff) -> dict[str, int]:
    return {kind: found.count(kind) for kind in (*diff.CHANGES, "unchanged") if found.count(kind)}


BASE: list[Row] = [
    ("p1", "ka", "train", "m1"),
    ("p2", "ka", "test", "m2"),
    ("p3", "kha", "train", "m3"),
    ("p4", "kha", "test", "m4"),
]


def test_every_kind_of_change() -> None:
    after: list[Row] = [
        ("p1", "ka", "test", "m1"),  # moved
        ("p2", "kha", "test", "m2"),  # relabelled
        ("p3", "kha", "train", "elsewhere"),  # another member, the same image
        ("p5", "ga", "train", "m5"),  # added; p4 is gone
    ]
    found = diff.diff_images(table(BASE), table(after))
    assert counts(found) == {"added": 1, "removed": 1, "relabelled": 1, "moved": 1, "unchanged": 1}
    assert found.per_class.to_dict("index") == {
        "ka": dict(zip(diff.COUNTS, (2, 1, 0, 0, 1, 0, 1, 0), strict=True)),
        "kha": dict(zip(diff.COUNTS, (2, 2, 0, 1, 0, 1, 0, 1), strict=True)),
        "ga": dict(zip(diff.COUNTS, (0, 1, 1, 0, 0, 0, 0, 0), strict=True)),
    }
    rows = found.rows.set_index("kind")
    assert rows.loc["moved", ["split_before", "split_after"]].tolist() == ["train", "test"]
    assert rows.loc["relabelled", ["class_before", "class_after"]].tolist() == ["ka", "kha"]
    assert rows.loc["added", "member_before"] is None
    assert rows.loc["removed", "member_after"] is None
    other_pixels = table([("q1", "ka", "train", "m1"), *BASE[1:]])
    assert diff.diff_images(table(BASE), other_pixels).same_member == 1


def test_copies_are_matched_as_often_as_both_have_them() -> None:
    before = table([("p", "ka", "train", "a"), ("p", "ka", "train", "b"), ("p", "ka", "train", "c")])
    after = table([("p", "ka", "train", "b"), ("p", "ka", "test", "c")])
    # The copy that stayed, the one that moved and the one that went are told apart by their member.
    members = diff.diff_images(before, after).rows.set_index("kind")["member_before"]
    assert members.to_dict() == {"unchanged": "b", "moved": "c", "removed": "a"}


_rows = st.lists(
    st.tuples(*map(st.sampled_from, ("pqr", "ABC", ["train", "test"], "xyz"))),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(_rows, _rows)
def test_it_agrees_with_counting_by_hand(before: list[Row], after: list[Row]) -> None:
    found = diff.diff_images(table(before), table(after))
    expected: Counter[str] = Counter()
    for pixels in "pqr":
        old, new = (Counter((c, s) for p, c, s, _ in rows if p == pixels) for rows in (before, after))
        expected["unchanged"] += (old & new).total()
        old, new = (
            Counter({c: sum(n for (k, _), n in side.items() if k == c) for c in "ABC"})
            for side in (old - new, new - old)
        )
        expected["moved"] += (old & new).total()
        old, new = old - new, new - old
        same = min(old.total(), new.total())
        expected.update({"relabelled": same, "removed": old.total() - same, "added": new.total() - same})
    assert counts(found) == {kind: n for kind, n in expected.items() if n}
    sums = found.per_class
    assert (sums["before"] == sums["unchanged"] + sums["moved"] + sums["relabelled_out"] + sums["removed"]).all()
    assert (sums["after"] == sums["unchanged"] + sums["moved"] + sums["relabelled_in"] + sums["added"]).all()
    # Every image of either side is in exactly one row.
    for side, rows in (("before", before), ("after", after)):
        assert sums[side].sum() == len(rows)
        assert Counter(found.rows[f"member_{side}"].dropna()) == Counter(row[3] for row in rows)


def test_classes_and_facts_that_changed() -> None:
    found = compared(BASE, [*BASE[:2], ("p5", "ga", "train", "m5")])
    assert (found.status, found.images.key) == ("changed", "sha256")
    assert (found.classes_added, found.classes_removed) == (("ga",), ("kha",))
    assert found.facts == {"images.test": (2, 1)}
    ka, kha = version(BASE).info.classes
    source = {"name": "local", "version": "2", "path": "x"}
    found = compared(BASE, BASE, source=source, classes=(GlyphClass(0, "ka", "क"), kha), digest="other")
    assert found.facts == {
        "source.version": ("1", "2"),
        "source.sha256": ("0", None),
        "source.path": (None, "x"),
        "classes.ka.glyph": (ka.glyph, "क"),
        "digest": ("digest", "other"),
    }
    assert found.images.same
    assert "their order or the label numbers changed" in diff.text(compared(BASE, BASE[::-1], digest="other"))
    assert diff.text(compared(BASE, BASE)) == "d, from a to b\nNo difference: 4 images."


def test_another_image_size_is_matched_by_member() -> None:
    after: list[Row] = [(f"other {p}", c, "train" if m == "m2" else s, m) for p, c, s, m in BASE]
    found = compared(BASE, after, size=32, digest="other")
    assert found.images.key == "member"
    assert counts(found.images) == {"moved": 1, "unchanged": 3}
    assert found.facts["image_size"] == (16, 32)
    why = "so that all pixels differ: images are matched by where in the source they were found."
    assert f"The image size changed from 16 to 32, {why}" in diff.text(found)


@pytest.mark.parametrize(
    ("sides", "status", "words"),
    [((0, 1), "added", "New: old has no such"), ((1, 0), "removed", "Gone: new has no such")],
)
def test_a_dataset_that_only_one_has(sides: tuple[int, int], status: str, words: str) -> None:
    before, after = (version(BASE) if side else None for side in sides)
    found = diff.diff_versions("d", before, after, ("old", "new"))
    assert found.status == status
    assert words in diff.text(found)
    assert counts(found.images) == {status: 4}
    assert diff.as_dict(found)["classes"][status] == ["ka", "kha"]


def test_text_lines_up_and_lists_examples() -> None:
    after: list[Row] = [(f"n{i}", "ka", "train", f"new/{i}") for i in range(1200)] + BASE[2:]
    found = compared(BASE, after, digest="other")
    text = diff.text(found, examples=2)
    assert "4 images before and 1,202 after: 1,200 added, 2 removed, 2 unchanged." in text
    assert "Added, 2 of 1,200\n\n  member  class  split\n  new/0   ka     train\n  new/1   ka     train" in text
    assert "  class  before  after  added  removed  glyph\n  ka          2  1,200  1,200        2  <ka>" in text
    assert "kha " not in text  # nothing happened to it
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "\x1b" not in text
    assert "Added, " not in diff.text(found, examples=0)


def test_markdown_is_a_table() -> None:
    text = diff.markdown(compared(BASE, [("p5", "ga", "train", "a|b"), *BASE], digest="other"))
    summary = "4 images before and 5 after: 1 added, 4 unchanged. New classes: ga."
    assert text.startswith(f"## d, from a to b\n\n{summary}\n\n### Classes\n\n| class |")
    assert "| member | class | split |\n| --- | --- | --- |\n| a\\|b | ga | train |" in text
    assert "| digest | digest | other |" in text


def test_json_keys_are_stable() -> None:
    found = diff.as_dict(compared(BASE, [("p1", "kha", "test", "m1"), *BASE[1:]], digest="other"))
    assert json.loads(json.dumps(found)) == found
    keys = "status before after matched_by images classes facts per_class examples"
    assert list(found) == keys.split()
    nothing = {"added": 0, "removed": 0, "moved": 0, "same_member": 0}
    assert found["images"] == {**nothing, "before": 4, "after": 4, "relabelled": 1, "unchanged": 3}
    assert found["per_class"]["ka"]["relabelled_out"] == found["per_class"]["kha"]["relabelled_in"] == 1
    assert found["facts"]["digest"] == {"before": "digest", "after": "other"}
    example = {"member": "m1", "class": "kha", "split": "test"}
    example |= {"class_before": "ka", "split_before": "train", "member_before": "m1"}
    assert found["examples"] == {"added": [], "removed": [], "relabelled": [example], "moved": []}


def test_diff_revisions_knows_who_has_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"old": version(BASE), "new": version(BASE[:3])}

    def at(dataset: str, revision: str) -> Version:
        if revision not in there:
            raise NoDatasetError(f"not in {revision}")
        return there[revision]

    def current(dataset: str) -> Version:
        raise UsageError("not here")

    monkeypatch.setattr(diff.versions, "version_at", at)
    monkeypatch.setattr(diff.versions, "current_version", current)
    assert diff.diff_revisions("d", "old", "new").images.count("removed") == 1
    assert diff.diff_revisions("d", "old", "x").status == "removed"
    assert diff.diff_revisions("d", "x", "new").status == "added"
    for to in ("y", None):
        with pytest.raises(NoDatasetError, match="not in x"):
            diff.diff_revisions("d", "x", to)
    with pytest.raises(UsageError, match="not here"):
        diff.diff_revisions("d", "old")
