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


def counts(found: diff.ImageDiff) -> dict[str, int]:
    return {kind: found.count(kind) for kind in (*diff.CHANGES, "unchanged") if found.count(kind)}


BASE: list[Row] = [
    ("p1", "ka", "train", "m1"),
    ("p2", "ka", "test", "m2"),
    ("p3", "kha", "train", "m3"),
    ("p4", "kha", "test", "m4"),
]


def test_the_same_in_another_order_is_no_difference() -> None:
    found = diff.diff_images(table(BASE), table(BASE[::-1]))
    assert found.same
    assert counts(found) == {"unchanged": 4}
    assert list(found.rows["member_after"]) == ["m4", "m3", "m2", "m1"]  # the newer order


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
    assert (rows.loc["moved", "split_before"], rows.loc["moved", "split_after"]) == ("train", "test")
    assert (rows.loc["relabelled", "class_before"], rows.loc["relabelled", "class_after"]) == ("ka", "kha")
    assert rows.loc["added", "member_before"] is None
    assert rows.loc["removed", "member_after"] is None


def test_relabelled_and_moved_at_once_is_relabelled() -> None:
    found = diff.diff_images(table([("p", "ka", "train", "m")]), table([("p", "kha", "test", "m")]))
    assert counts(found) == {"relabelled": 1}


def test_copies_are_matched_as_often_as_both_have_them() -> None:
    before = table([("p", "ka", "train", "a"), ("p", "ka", "train", "b"), ("p", "ka", "train", "c")])
    after = table([("p", "ka", "train", "b"), ("p", "ka", "test", "c")])
    found = diff.diff_images(before, after)
    assert counts(found) == {"removed": 1, "moved": 1, "unchanged": 1}
    rows = found.rows.set_index("kind")
    # The copy that stayed, the one that moved and the one that went are told apart by their member.
    assert (
        rows.loc["unchanged", "member_before"],
        rows.loc["moved", "member_before"],
        rows.loc["removed", "member_before"],
    ) == ("b", "c", "a")


def test_a_copy_under_two_labels_is_not_relabelled() -> None:
    conflict: list[Row] = [("p", "ka", "train", "a"), ("p", "kha", "train", "b")]
    assert diff.diff_images(table(conflict), table(conflict[::-1])).same
    assert counts(diff.diff_images(table(conflict), table(conflict[1:]))) == {"removed": 1, "unchanged": 1}


def test_empty_manifests() -> None:
    empty = table([])
    assert diff.diff_images(empty, empty).same
    assert counts(diff.diff_images(empty, table(BASE))) == {"added": 4}
    assert counts(diff.diff_images(table(BASE), empty)) == {"removed": 4}


def test_other_pixels_under_one_member_are_counted() -> None:
    after: list[Row] = [("q1", "ka", "train", "m1"), *BASE[1:]]
    found = diff.diff_images(table(BASE), table(after))
    assert counts(found) == {"added": 1, "removed": 1, "unchanged": 3}
    assert found.same_member == 1


_rows = st.lists(
    st.tuples(
        st.sampled_from("pqr"), st.sampled_from("ABC"), st.sampled_from(["train", "test"]), st.sampled_from("xyz")
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(_rows, _rows)
def test_it_agrees_with_counting_by_hand(before: list[Row], after: list[Row]) -> None:
    found = diff.diff_images(table(before), table(after))
    want: Counter[str] = Counter()
    for pixels in "pqr":
        old, new = (Counter((c, s) for p, c, s, _ in rows if p == pixels) for rows in (before, after))
        want["unchanged"] += (old & new).total()
        old, new = (
            Counter({c: sum(n for (k, _), n in side.items() if k == c) for c in "ABC"})
            for side in (old - new, new - old)
        )
        want["moved"] += (old & new).total()
        old, new = old - new, new - old
        same = min(old.total(), new.total())
        want.update({"relabelled": same, "removed": old.total() - same, "added": new.total() - same})
    assert counts(found) == {kind: n for kind, n in want.items() if n}
    sums = found.per_class
    assert (sums["before"] == sums["unchanged"] + sums["moved"] + sums["relabelled_out"] + sums["removed"]).all()
    assert (sums["after"] == sums["unchanged"] + sums["moved"] + sums["relabelled_in"] + sums["added"]).all()
    assert (sums["before"].sum(), sums["after"].sum()) == (len(before), len(after))
    # Every image of either side is in exactly one row.
    assert Counter(found.rows["member_before"].dropna()) == Counter(row[3] for row in before)
    assert Counter(found.rows["member_after"].dropna()) == Counter(row[3] for row in after)


def test_classes_and_facts_that_changed() -> None:
    before, after = (
        version(BASE),
        version([*BASE[:2], ("p5", "ga", "train", "m5")], notes=("One image is blank.",), digest="other"),
    )
    found = diff.diff_versions("d", before, after, ("HEAD~1", "the working tree"))
    assert (found.status, found.images.key) == ("changed", "sha256")
    assert (found.classes_added, found.classes_removed) == (("ga",), ("kha",))
    assert found.facts == {
        "images.test": (2, 1),
        "notes": ([], ["One image is blank."]),
        "digest": ("digest", "other"),
    }


def test_a_source_and_a_glyph_that_changed() -> None:
    before = version(BASE)
    ka, kha = before.info.classes
    after = version(
        BASE, source={"name": "local", "version": "2", "path": "x"}, classes=(GlyphClass(0, "ka", "क"), kha)
    )
    found = diff.diff_versions("d", before, after, ("a", "b"))
    assert found.facts == {
        "source.version": ("1", "2"),
        "source.sha256": ("0", None),
        "source.path": (None, "x"),
        "classes.ka.glyph": (ka.glyph, "क"),
    }
    assert found.images.same
    assert found.status == "changed"


def test_another_image_size_is_matched_by_member() -> None:
    after: list[Row] = [(f"other {p}", c, "train" if m == "m2" else s, m) for p, c, s, m in BASE]
    found = diff.diff_versions("d", version(BASE), version(after, size=32, digest="other"), ("a", "b"))
    assert found.images.key == "member"
    assert counts(found.images) == {"moved": 1, "unchanged": 3}
    assert found.facts["image_size"] == (16, 32)
    said = diff.text(found)
    assert (
        "The image size changed from 16 to 32, so that all pixels differ: images are matched by where in the source they were found."
        in said
    )


def test_no_difference_is_said_plainly() -> None:
    found = diff.diff_versions("d", version(BASE), version(BASE), ("HEAD", "the working tree"))
    assert found.status == "same"
    assert diff.text(found) == "d, from HEAD to the working tree\nNo difference: 4 images."
    assert diff.markdown(found) == "## d, from HEAD to the working tree\n\nNo difference: 4 images."


def test_another_order_is_said() -> None:
    found = diff.diff_versions("d", version(BASE), version(BASE[::-1], digest="other"), ("a", "b"))
    assert found.status == "changed"
    assert "their order or the label numbers changed" in diff.text(found)


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
    said = diff.text(
        diff.diff_versions("d", version(BASE), version(after, digest="other"), ("HEAD~1", "the working tree")),
        examples=2,
    )
    assert "4 images before and 1,202 after: 1,200 added, 2 removed, 2 unchanged." in said
    assert "Added, 2 of 1,200\n\n  member  class  split\n  new/0   ka     train\n  new/1   ka     train" in said
    assert "  class  before  after  added  removed  glyph\n  ka          2  1,200  1,200        2  <ka>" in said
    assert "kha " not in said  # nothing happened to it
    assert all(line == line.rstrip() for line in said.splitlines())
    assert "\x1b" not in said
    assert "Added, " not in diff.text(diff.diff_versions("d", version(BASE), version(after), ("a", "b")), examples=0)


def test_examples_are_spread_over_classes() -> None:
    after: list[Row] = [(f"{c}{i}", c, "train", f"{c}/{i}") for c in ("ka", "kha", "ga") for i in range(9)]
    found = diff.as_dict(diff.diff_versions("d", version([]), version(after), ("a", "b")), examples=4)
    assert [one["member"] for one in found["examples"]["added"]] == ["ka/0", "kha/0", "ga/0", "ka/1"]


def test_markdown_is_a_table() -> None:
    after: list[Row] = [("p5", "ga", "train", "a|b"), *BASE]
    said = diff.markdown(diff.diff_versions("d", version(BASE), version(after, digest="other"), ("a", "b")))
    assert said.startswith(
        "## d, from a to b\n\n4 images before and 5 after: 1 added, 4 unchanged. New classes: ga.\n\n### Classes\n\n| class |"
    )
    assert "| member | class | split |\n| --- | --- | --- |\n| a\\|b | ga | train |" in said
    assert "| digest | digest | other |" in said


def test_json_keys_are_stable() -> None:
    found = diff.as_dict(
        diff.diff_versions(
            "d", version(BASE), version([("p1", "kha", "test", "m1"), *BASE[1:]], digest="other"), ("a", "b")
        )
    )
    assert json.loads(json.dumps(found)) == found
    assert list(found) == [
        "status",
        "before",
        "after",
        "matched_by",
        "images",
        "classes",
        "facts",
        "per_class",
        "examples",
    ]
    assert found["images"] == {
        "before": 4,
        "after": 4,
        "added": 0,
        "removed": 0,
        "relabelled": 1,
        "moved": 0,
        "unchanged": 3,
        "same_member": 0,
    }
    assert found["per_class"]["ka"]["relabelled_out"] == found["per_class"]["kha"]["relabelled_in"] == 1
    assert found["facts"]["digest"] == {"before": "digest", "after": "other"}
    assert found["examples"] == {
        "added": [],
        "removed": [],
        "relabelled": [
            {
                "member": "m1",
                "class": "kha",
                "split": "test",
                "class_before": "ka",
                "split_before": "train",
                "member_before": "m1",
            }
        ],
        "moved": [],
    }


def test_between_knows_who_has_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"old": version(BASE), "new": version(BASE[:3])}

    def at(dataset: str, revision: str) -> Version:
        if revision not in there:
            raise NoDatasetError(f"not in {revision}")
        return there[revision]

    def here(dataset: str) -> Version:
        raise UsageError("not here")

    monkeypatch.setattr(diff.versions, "version_at", at)
    monkeypatch.setattr(diff.versions, "current_version", here)
    assert diff.diff_revisions("d", "old", "new").images.count("removed") == 1
    assert diff.diff_revisions("d", "old", "x").status == "removed"
    assert diff.diff_revisions("d", "x", "new").status == "added"
    with pytest.raises(NoDatasetError, match="not in x"):
        diff.diff_revisions("d", "x", "y")
    with pytest.raises(NoDatasetError, match="not in x"):
        diff.diff_revisions("d", "x")
    with pytest.raises(UsageError, match="not here"):
        diff.diff_revisions("d", "old")
