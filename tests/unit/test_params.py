"""params.yaml: every mistake is one sentence that names the key, and what is shipped is right for both profiles."""

import math
import random
import re
from copy import deepcopy
from functools import cache, reduce
from itertools import product
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml

from lekhani import params, strict_yaml

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")
PROFILES = ("quick", "full")
ALIAS_BOMB = b"a: &a [x]\n" + b"".join(b"%c: &%c [%s]\n" % (c, c, b"*%c," % (c - 1) * 9) for c in b"bcdefghi")


def text(profile: str = "quick") -> str:
    return re.sub(r"(?m)^profile: \w+", f"profile: {profile}", SHIPPED)


@cache
def read(profile: str) -> dict[str, Any]:
    return strict_yaml.load(text(profile))  # type: ignore[no-any-return]


def raw(profile: str = "quick") -> dict[str, Any]:
    """The shipped file as YAML reads it, to change."""
    return deepcopy(read(profile))


def changed(*changes: tuple[str, Any]) -> dict[str, Any]:
    value = raw()
    for path, new in changes:
        *parents, last = path.split(".")
        reduce(getitem, parents, value)[last] = new
    return value


def refusal(value: dict[str, Any]) -> str:
    with pytest.raises(params.ParamsError) as caught:
        params.resolve(value)
    return one_sentence(str(caught.value))


def one_sentence(message: str) -> str:
    assert "\n" not in message
    assert re.search(r"[.?)]$", message), message
    assert not message.endswith(("..", "?."))
    return message


# --- what is shipped ---


@pytest.mark.parametrize("profile", PROFILES)
def test_the_shipped_file_loads_as_it_stands(profile: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text(profile), encoding="utf-8")
    loaded = params.load(tmp_path / "params.yaml")
    assert loaded.profile == profile
    dumped = loaded.model_dump(mode="json")

    def agree(wanted: Any, got: Any, where: str) -> None:
        if isinstance(wanted, dict):
            for key, value in wanted.items():
                assert key in got, f"{where}{key} is not in the schema"
                agree(value, got[key], f"{where}{key}.")
        else:
            assert wanted == got, where

    whole = raw(profile)
    agree({key: value for key, value in whole.items() if key != "profiles"}, dumped, "")
    agree(whole["profiles"][profile], dumped, "")


def test_both_profiles_hold_the_same_keys() -> None:
    def keys(value: Any) -> Any:
        return {key: keys(inner) for key, inner in value.items()} if isinstance(value, dict) else None

    profiles = raw()["profiles"]
    assert keys(profiles["quick"]) == keys(profiles["full"])


@pytest.mark.parametrize("profile", PROFILES)
def test_dvc_finds_every_key_that_its_stages_name(profile: str) -> None:
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    choices = raw(profile)
    named = 0
    for stage, body in graph["stages"].items():
        matrix = body.get("matrix", {})
        spans = {
            "${pipeline.datasets}": choices["pipeline"]["datasets"],
            "${pipeline.variants}": choices["pipeline"]["variants"],
            "${pipeline.students}": ["turbo"],
        }
        axes = {axis: spans[source] for axis, source in matrix.items()}
        for values in product(*axes.values()):
            filled = {"profile": profile} | {f"item.{axis}": value for axis, value in zip(axes, values, strict=True)}
            for entry in body.get("params", []):
                key = re.sub(r"\$\{([\w.]+)\}", lambda found, filled=filled: filled[found[1]], entry)
                node: Any = choices
                for part in key.split("."):
                    assert isinstance(node, dict), f"stage {stage}: {key}"
                    assert part in node, f"stage {stage}: {key}"
                    node = node[part]
                named += 1
    assert named > 30


def test_every_generator_of_the_pipeline_is_an_artifact_of_dvc() -> None:
    artifacts = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["artifacts"]
    pipeline = params.resolve(raw()).pipeline
    made = [(dataset, variant) for dataset in pipeline.datasets for variant in pipeline.everyone]
    expected = {f"{dataset}-{variant}": f"models/{dataset}/{variant}/generator.onnx" for dataset, variant in made}
    assert {name: one["path"] for name, one in artifacts.items()} == expected


def test_changing_a_key_in_the_profile_changes_what_is_used() -> None:
    value = changed(("profiles.quick.judge.width", 32), ("profiles.full.judge.width", 48))
    assert params.resolve(value).judge.width == 32
    assert params.resolve(value | {"profile": "full"}).judge.width == 48


# --- YAML ---


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 1e-3),
        ("2E+2", 200.0),
        ("-.5e1", -5.0),
        ("1.5e-4", 1.5e-4),
        ("-12", -12),
        (".inf", math.inf),
        ("~", None),
        ("False", False),
        *((text, text) for text in ("1e", "e5", "1:30", "1_0", "017", "0x1F", "2026-01-01", "off", "yes", "9" * 5000)),
    ],
)
def test_what_is_a_number_in_yaml_and_what_is_text(written: str, value: Any) -> None:
    (found,) = strict_yaml.load(f"- {written}")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "p.yaml does not exist"),
        (b"", "holds no keys"),
        (b"- a list\n", "holds no keys"),
        (b"a: [", "p.yaml cannot be read"),
        (b"\ta: 1", "p.yaml cannot be read"),
        (b"a: !!python/object:os.system {}", "p.yaml cannot be read"),
        (b"\xff\xfe\x00", "p.yaml cannot be read"),
        (
            b"a: &a [x,x,x,x,x,x]\n" + b"".join(b"%c: &%c [%s]\n" % (c, c, b"*%c," % (c - 1) * 9) for c in b"bcdefghi"),
            "20,000",
        ),
        (b"&a\nprofile: *a\n", "an alias stands within what it stands for, near line 1"),
        (b"a: " + b"[" * 3000, "deeper than 30 levels"),
        (b"a: " + b"{a: " * 40 + b"1" + b"}" * 40, "deeper than 30 levels"),
        (b"a: " + b"x" * (1 << 20), "1,048,579 characters"),
        (b"a:\n  1: 2\n", "the key `1` is no text, near line 2"),
        (b"a: 1\n? [a]\n: 2\n", r"the key `\['a'\]` is no text"),
        (b"a: !!bool maybe", "a tag such as `!!int`"),
        (b"a: !!binary aGk=", "determine a constructor.*near line 1"),
        (b'a: 1\nb: "\\ud800"\n', "characters that cannot be shown, near line 2"),
        (b'a: 1\nb: "a\\0b"\n', "characters that cannot be shown, near line 2"),
        (b"a: 1\n---\na: 1\n", "expected a single document"),
        (f"{SHIPPED}\nseed: 8\n".encode(), "p.yaml.*`seed` stands twice"),
        (re.sub(r"(?m)^( *)width:.*", r"\1width: 16\n\1width: 32", SHIPPED).encode(), "`width` stands twice"),
    ],
)
def test_a_file_that_holds_no_params(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "p.yaml").write_bytes(content)
    with pytest.raises(params.ParamsError, match=words) as caught:
        params.load(tmp_path / "p.yaml")
    one_sentence(str(caught.value))


def test_off_is_a_word(tmp_path: Path) -> None:
    off = re.sub("blank_images: .*", "blank_images: off", SHIPPED)
    (tmp_path / "p.yaml").write_text(off, encoding="utf-8")
    assert params.load(tmp_path / "p.yaml").validation.blank_images == "off"


# --- mistakes, one by one ---


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("seeed", "seed"),
        ("judge.batchsize", "batch_size"),
        ("data.mnist.image_sise", "image_size"),
        ("variants.flow_matching.label_drop", "label_dropout"),
        ("profiles.quick.evaluate.n_generate", "n_generated"),
        ("variants.flow_maching", "flow_matching"),
    ],
)
def test_an_unknown_key_beside_the_right_one(path: str, nearest: str) -> None:
    message = refusal(changed((path, {} if path.startswith("variants.flow_ma") and path.count(".") == 1 else 1)))
    assert f"unknown key `{path.removeprefix('profiles.quick.')}`" in message
    assert f"did you mean `{nearest}`?" in message


@pytest.mark.parametrize(
    ("path", "misspelt"),
    [
        ("seed", "seex"),
        ("profiles.quick.judge.width", "widtx"),
        ("variants.dcgan", "dcgax"),
        ("profiles.full", "fulll"),
    ],
)
def test_a_misspelt_required_key_is_named(path: str, misspelt: str) -> None:
    value = raw()
    *parents, last = path.split(".")
    node = reduce(getitem, parents, value)
    node[misspelt] = node.pop(last)
    message = refusal(value)
    assert f"{misspelt}`" in message
    assert f"did you mean `{last}`?" in message


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("a[b", 1, "unknown key `a[b`; valid here: data, embedded,"),
        ("tracking.qqqqqq", 1, "unknown key `tracking.qqqqqq`; valid here: backend, experiment, system_metrics."),
        ("profile", "quik", "`profile` is 'quik'; did you mean `quick`?"),
        ("pipeline.variants", ["dcgan", "flowmatching"], "`pipeline.variants.1` is 'flowmatching'; did you mean"),
        ("profiles", ["quick"], "`profiles` must be a mapping"),
        ("profiles.quick", None, "`profiles.quick` must be a mapping"),
        ("judge.width", 32, "`judge.width` is set both at the top and under `profiles.quick`"),
        ("train.images_seen", 32, "`train.images_seen` is set both at the top and under `profiles.quick`"),
        ("data", {}, "pipeline.datasets: `data` describes none, but no 'devanagari'"),
        ("pipeline.datasets", ["mnist", "mine"], "`data` describes devanagari, mnist, but no 'mine'; add data.mine or"),
        ("data.mnist", {"source": "local"}, "source `local` needs `path`"),
        ("data.mnist", {"source": "kaggle"}, "source `kaggle` needs `kaggle`"),
    ],
)
def test_mistakes_that_span_keys(path: str, value: Any, words: str) -> None:
    assert words in refusal(changed((path, value)))


def test_students_need_their_teacher() -> None:
    message = refusal(changed(("pipeline.variants", ["dcgan"]), ("pipeline.students", ["turbo"])))
    assert "`pipeline`" in message
    assert "flow_matching, which is not among `variants`" in message
    with_teacher = changed(("pipeline.variants", ["flow_matching"]), ("pipeline.students", ["turbo"]))
    assert params.resolve(with_teacher).pipeline.everyone == ("flow_matching", "turbo")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", "7"),
        ("seed", True),
        ("profiles.quick.judge.width", "16"),
        ("judge.lr", "1e-3"),
        ("judge.lr", True),
        ("variants.dcgan.betas", [0.5]),
        ("train.device", "gpu"),
        ("data.mnist.classes", 5),
        ("validation.blank_images", True),
        ("data.mnist.kaggle.slug", "../b"),
        ("data.mnist.kaggle.slug", "a/b?x"),
        ("seed", -1),
        ("seed", 2**32),
        ("data.mnist.image_size", 30),
        ("data.mnist.test_fraction", 1.0),
        ("judge.lr", 0),
        ("profiles.quick.variants.flow_matching.channels", []),
        ("profiles.quick.evaluate.n_generated", 99),
        ("evaluate.parity_tolerance", float("nan")),
        ("pipeline.variants", []),
        ("pipeline.datasets", []),
        ("variants.dcgan.betas", [0.5, 1.5]),
        ("variants.dcgan.budget", float("inf")),
    ],
)
def test_a_wrong_type_or_a_value_out_of_range_names_the_key(path: str, value: Any) -> None:
    assert f"`{path.removeprefix('profiles.quick.')}" in refusal(changed((path, value)))


def test_several_mistakes_are_counted() -> None:
    assert refusal(changed(("seed", -1), ("judge.lr", 0))).endswith("(and 1 more).")


def test_a_key_in_the_other_profile_is_no_conflict() -> None:
    value = raw()
    del value["profiles"]["quick"]["judge"]["width"]
    value["judge"]["width"] = 24
    assert params.resolve(value).judge.width == 24


@pytest.mark.parametrize("name", ["My Data", "../up", "1st", "a-b", ""])
def test_a_dataset_name_that_makes_no_folder(name: str) -> None:
    value = raw()
    value["data"][name] = value["data"].pop("mnist")
    assert f"{name!r} is no dataset name" in refusal(value)


# --- anything at all ---

ODD = ["", "~", "[]", "{}", "-1", "1e999", ".nan", "9" * 30, "1:30", "2026-01-01", "'", '"\\ud800"', "*a", "&a"]
ODD += ["&a [*a]", "!!int x", "!!python/name:os.system", "<<", "? a", "|", ">", "- a", "a: b: c", "\t", "\0", "\u2028"]
ODD += ["क", "%YAML 9", "..."]


def damaged(rng: random.Random) -> str:
    """The shipped file after a few edits that people and programs make."""
    lines = SHIPPED.splitlines()
    for _ in range(rng.randint(1, 3)):
        i, odd = rng.randrange(len(lines)), rng.choice(ODD)
        key = re.match(r"\s*[\w-]+:", lines[i])
        edits = [
            f"{key[0] if key else ''} {odd}",
            lines[i].replace(rng.choice(lines[i] or " "), odd, 1),
            f"{' ' * rng.randrange(9)}{lines[i]}",
            f"{lines[i]}\n{lines[rng.randrange(len(lines))]}",
            "",
        ]
        lines[i] = rng.choice(edits)
    return "\n".join(lines)


@pytest.mark.slow
def test_a_damaged_file_is_a_sentence_or_fine(tmp_path: Path) -> None:
    refused = 0
    for seed in range(2000):
        (tmp_path / "p.yaml").write_text(damaged(random.Random(seed)), encoding="utf-8")
        try:
            params.load(tmp_path / "p.yaml")
        except params.ParamsError as error:
            one_sentence(str(error))
            refused += 1
    assert 1000 < refused < 2000
