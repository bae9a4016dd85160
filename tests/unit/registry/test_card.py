"""The model card says what was made from what, how good it is and where it fails, and no name can break it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

from lekhani.data.spec import DEVANAGARI, DatasetInfo, GlyphClass
from lekhani.errors import LekhaniError
from lekhani.evaluate.per_class import ClassScore, table, worst
from lekhani.registry.card import headline, model_card, page

DIGEST, MODEL = "ab" * 32, "cd" * 32
CLASSES = DEVANAGARI[:14]
SOURCE = {
    **{"name": "kaggle", "version": "3", "sha256": "ef" * 32, "origin": "DHCD, by Acharya"},
    **{"licence": "CC BY 4.0", "citation": "S. Acharya: DHCD. 2015."},
}
COUNTS, NOTES = {"train": 7820, "test": 1380}, ("Read 9,200 images.",)
INFO = DatasetInfo("devanagari", "Devanagari", 32, CLASSES, COUNTS, SOURCE, DIGEST, NOTES)
FACTS: dict[str, Any] = {
    **{"dataset": "devanagari", "variant": "turbo", "conditional": True, "parameters": 663812, "seed": 7},
    **{"choices": {"turbo": {"lr": 0.001, "steps": 1}}, "profile": "full", "data_digest": DIGEST},
    **{"generator_sha256": "12" * 32, "images_seen": 240000, "steps": 3750, "best_step": 3700, "findings": []},
    **{"train_seconds": 791.4, "images_per_second": 303.2, "peak_memory_mb": 860, "device": "cuda"},
    **{"torch": "2.13.0"},
}
CARD: dict[str, Any] = {
    **{"dataset": "devanagari", "variant": "turbo", "model_sha256": MODEL, "judge_sha256": "34" * 32},
    **{"n_generated": 2300, "n_real": 1380, "seed": 7, "sampling_seeds": 3, "images_seen": 240000},
    **{"fid": 1.5875, "fid_std": 0.0327, "fid_floor": 0.5204, "fid_ratio": 3.049},
    **{"kid": 0.00796, "kid_subset_std": 0.001, "kid_floor": -0.0016, "recall": 0.69, "recall_floor": 0.82},
    **{"label_agreement": 0.981, "label_agreement_floor": 0.998, "classes_covered": 14, "classes_covered_floor": 14},
    **{"near_copies": 0.001, "near_copies_floor": 0.002, "collapsed_classes": 0, "size_mb": 2.802},
    **{"usefulness": 0.971, "usefulness_floor": 0.994, "usefulness_floor_std": 0.001},
}
ABOUT = """Turbo: a student that makes in one step
what its teacher makes in many.

Pairs: the teacher draws images, as in Song et al. 2023.

    L = |x - y|
"""
LINEAGE = {"MLflow run": "b1e08ed5", "git.commit": "71a76fb", "git.dirty": "false", "dvc.lock_sha256": "56" * 32}


def scores(conditional: bool = True) -> list[ClassScore]:
    rng = np.random.default_rng(3)
    return [
        ClassScore(
            label=label,
            requested=50 if conditional else None,
            read_as=int(rng.integers(20, 60)),
            agreement=float(rng.integers(10, 51) / 50) if conditional else None,
            confidence=0.9,
            fid=float(rng.uniform(2, 9)),
            fid_floor=1.5,
            recall=0.8,
            recall_floor=0.9,
            diversity=float(rng.uniform(0.5, 1.5)),
            mistaken_for=(label + 1) % len(CLASSES) if conditional else None,
        )
        for label in range(len(CLASSES))
    ]


def written(
    info: DatasetInfo = INFO,
    facts: Mapping[str, Any] = FACTS,
    card: Mapping[str, Any] = CARD,
    classes: Sequence[ClassScore] | None = None,
) -> str:
    rows = table(scores(bool(facts["conditional"])) if classes is None else classes, info.classes)
    return model_card("lekhani-devanagari", info, facts, card, rows, LINEAGE, ABOUT, "sqlite:////a b/mlflow.db")


def test_the_page_of_a_version_is_the_card_without_what_mlflow_cannot_show() -> None:
    shown, name = page(written(), "lekhani-devanagari", "3"), "name=lekhani-devanagari&version=3&path=artifacts%2F"
    assert len(shown) <= 5000
    assert shown.startswith("# lekhani-devanagari: turbo\n")
    assert "<details>" not in shown
    assert f"![Eight glyphs of every class](model-versions/get-artifact?{name}grid.png)" in shown
    assert 'mlflow.set_tracking_uri("sqlite:////a b/mlflow.db")' in shown
    assert "## Limits" in shown
    long = page(written() + "\n## More\n\n" + "word " * 2000, "lekhani-devanagari", "3")
    assert len(long) <= 5000
    assert long.endswith(f"The whole card is [README.md](model-versions/get-artifact?{name}README.md).")


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def tables(text: str) -> list[list[list[str]]]:
    """Cells of every table, split where a reader of Markdown splits them."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif found[-1]:
            found.append([])
    return [part for part in found if part]


def test_the_front_matter_is_what_the_hub_reads() -> None:
    _, head, body = written().split("---\n", 2)
    assert yaml.safe_load(head) == {
        "license": "cc-by-4.0",
        "library_name": "onnx",
        "tags": ["handwriting", "image-generation", "onnx", "turbo", "Devanagari"],
        "datasets": ["devanagari"],
        "metrics": ["fid", "kid", "recall", "label_agreement"],
    }
    assert body.startswith("\n# lekhani-devanagari: turbo\n")


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("CC BY-SA 3.0", {"license": "cc-by-sa-3.0"}),
        ("OFL 1.1 (the typefaces)", {"license": "ofl-1.1"}),
        ("our own: [ask] #1", {"license": "other", "license_name": "our own: [ask] #1"}),
        (None, {"license": "unknown"}),
    ],
)
def test_a_licence_by_its_name_on_the_hub(licence: str | None, said: dict[str, str]) -> None:
    text = written(replace(INFO, source=SOURCE | {"licence": licence}))
    head = yaml.safe_load(text.split("---\n")[1])
    assert {key: head[key] for key in head if key.startswith("license")} == said
    assert ("not stated (`data.devanagari.licence`" in section(text, "Licence")) == (licence is None)


@pytest.mark.parametrize(
    ("title", "facts"),
    [
        (
            "Data",
            ("DHCD, by Acharya", "CC BY 4.0", "DHCD. 2015.", "7,820 train, 1,380 test", "kaggle, version 3", *NOTES),
        ),
        (
            "Training",
            ("240,000 in 3,750 steps", "step 3,700", "791 s", "cuda", "torch 2.13.0", "663,812", '"lr": 0.001'),
        ),
        ("Training", ("in one step what its teacher makes", "Song et al. 2023")),
        ("Lineage", (MODEL, DIGEST, "34" * 32, "12" * 32, "ef" * 32, "56" * 32, "71a76fb", "b1e08ed5")),
        ("Licence", ("Cite: S. Acharya: DHCD. 2015.",)),
    ],
)
def test_it_says_where_everything_comes_from(title: str, facts: tuple[str, ...]) -> None:
    text = section(written(), title)
    assert [fact for fact in facts if fact not in text] == []


def test_metrics_stand_beside_their_floors() -> None:
    text = section(written(), "Metrics")
    floored, others = tables(text)
    by_name = {row[0]: row[1:5] for row in floored[2:]}
    assert by_name["`fid`"] == ["1.587", "0.0327", "0.5204", "3.049"]
    assert by_name["`kid`"] == ["0.00796", "", "-0.0016", ""]
    assert [row[0] for row in others[2:]] == ["`collapsed_classes`", "`size_mb`"]
    assert "2,300 images of each of 3 sampling seeds" in text
    few = {key: value for key, value in CARD.items() if not key.startswith(("near_copies", "label_agreement"))}
    assert "near_copies" not in written(card=few), "a metric that does not apply is absent"
    assert headline(few) == "Judge FID 1.59, 3.0 times what real images score."
    told = "the judge reads 98.1% as the requested label; 0.10% near copies of training images"
    assert headline(CARD) == f"{headline(few)[:-1]}; {told}."


@pytest.mark.parametrize("conditional", [True, False])
def test_the_worst_classes_come_first_and_the_rest_is_folded(conditional: bool) -> None:
    some = scores(conditional)
    text = section(written(facts=FACTS | {"conditional": conditional}, classes=some), "Classes")
    shown, rest = text.split("<summary>The other 4</summary>")
    (first,), (others,) = tables(shown), tables(rest)
    if not conditional:
        assert "It takes no label: the noise decides what it draws." in written(facts=FACTS | {"conditional": False})
    order = [row[0].split()[0] for row in first[2:] + others[2:]]
    assert order == [CLASSES[score.label].glyph for score in worst(some, len(some))]
    assert len(first) == 12
    assert ("else mostly" in first[0]) == conditional
    assert ("read as requested" in first[0]) == conditional


def test_limits_are_named_from_the_numbers() -> None:
    some = scores()
    some[4] = replace(some[4], diversity=0.1, agreement=1.0)
    some[6] = replace(some[6], agreement=0.2, fid=60.0)
    numbers = {
        "collapsed_classes": 1,
        "classes_covered": 12,
        "near_copies": 0.05,
        "train_excess": 0.3,
        "train_excess_floor": 0.1,
        "train_excess_std": 0.05,
    }
    found = {"name": "mode_collapse", "sentence": "The judge sees <few> classes."}
    text = section(
        written(facts=FACTS | {"profile": "quick", "findings": [found]}, card=CARD | numbers, classes=some), "Limits"
    )
    assert "hardly differ: ङ (character\\_5\\_kna)." in text
    assert "छ (character\\_7\\_chha): 20% right, else mostly character\\_8\\_ja, judge FID 40.0 times its floor" in text
    assert "only 12 of 14 classes" in text
    assert "5.00% of its images show a training image again, of real test images 0.20%: what it draws may be" in text
    assert "In training: The judge sees \\<few\\> classes." in text
    assert "profile `quick`" in text


def test_what_is_fine_is_no_limit() -> None:
    numbers = {
        "train_excess": 0.11,
        "train_excess_floor": 0.1,
        "train_excess_std": 0.05,
        "label_agreement": 0.999,
        "recall": 0.9,
    }
    text = section(written(card=CARD | numbers), "Limits")
    fine = ("hardly differ", "judge sees", "another letter", "less variety", "chance explains", "somebody", "quick")
    for word in (*fine, "takes no label", "sampled once"):
        assert word not in text


def test_no_name_breaks_the_page() -> None:
    wild = "a|b `c` <b>*_[x](y)\n# no heading\u202e"
    classes = (GlyphClass(0, wild, "x|y"), *CLASSES[1:])
    info = replace(INFO, name=wild, classes=classes, script=wild, notes=(wild,), source=dict.fromkeys(SOURCE, wild))
    facts = FACTS | {"variant": "turbo", "device": wild, "torch": wild, "findings": [{"name": "x", "sentence": wild}]}
    text = written(info, facts)
    assert yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))["datasets"] == [wild]
    body = text.split("\n---\n", 1)[1]
    assert "\n# no heading" not in body
    assert "\u202e" not in body
    shown = re.sub(r"```.*?```|`[^`]*`", "", body, flags=re.DOTALL)  # code shows what it holds as it is
    assert "<b>" not in shown
    assert not re.search(r"(?<!\\)\[x\\?\]", shown)
    for part in tables(body):
        assert len({len(row) for row in part}) == 1, part


def test_a_model_of_other_images_gets_no_card() -> None:
    with pytest.raises(
        LekhaniError,
        match=r"turbo was trained on devanagari 0000.*, but the prepared images are abab.*; run `dvc repro`",
    ) as caught:
        written(facts=FACTS | {"data_digest": "00" * 32})
    assert "\n" not in str(caught.value)
