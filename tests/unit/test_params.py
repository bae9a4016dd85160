"""params.yaml: every mistake is one sentence that names the key, and what is shipped is right for both profiles."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from lekhani import params

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")
PROFILES = ("quick", "full")


def text(profile: str = "quick") -> str:
    return re.sub(r"(?m)^profile: \w+", f"profile: {profile}", SHIPPED)


def raw(profile: str = "quick") -> dict[str, Any]:
    return yaml.load(text(profile), Loader=params._Loader)  # type: ignore[no-any-return]


def with_line(key: str, line: str) -> str:
    """The shipped text with the first line of `key` replaced, its indentation kept."""
    done, count = re.subn(
        rf"(?m)^( *){key}:.*$", lambda found: "\n".join(found[1] + part for part in line.split("\n")), text(), count=1
    )
    assert count == 1
    return done


def put(where: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split(".")
    for key in parents:
        where = where[key]
    where[last] = value
    return where


def changed(*changes: tuple[str, Any]) -> dict[str, Any]:
    value = raw()
    for path, new in changes:
        put(value, path, new)
    return value


def refusal(value: dict[str, Any]) -> str:
    with pytest.raises(params.ParamsError) as caught:
        params.resolve(value)
    return one_sentence(str(caught.value))


def load_refusal(path: Path, content: str | None) -> str:
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(params.ParamsError) as caught:
        params.load(path)
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
    read = loaded.model_dump(mode="json")

    def agree(wanted: Any, got: Any, where: str) -> None:
        if isinstance(wanted, dict):
            for key, value in wanted.items():
                assert key in got, f"{where}{key} is not in the schema"
                agree(value, got[key], f"{where}{key}.")
        else:
            assert wanted == got, where

    whole = raw(profile)
    agree({key: value for key, value in whole.items() if key != "profiles"}, read, "")
    agree(whole["profiles"][profile], read, "")


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
            "${data}": list(choices["data"]),
            "${pipeline.variants}": choices["pipeline"]["variants"],
            "${pipeline.students}": choices["pipeline"]["students"],
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


def test_changing_a_key_in_the_profile_changes_what_is_used() -> None:
    value = changed(("profiles.quick.judge.width", 32), ("profiles.full.judge.width", 48))
    assert params.resolve(value).judge.width == 32
    assert params.resolve(value | {"profile": "full"}).judge.width == 48


def test_resolving_leaves_what_was_read_alone() -> None:
    value = raw()
    params.resolve(value)
    assert value == raw()


def test_models_are_frozen() -> None:
    loaded = params.resolve(raw())
    with pytest.raises(ValidationError):
        loaded.judge.width = 8  # type: ignore[misc]
    with pytest.raises(ValidationError):
        loaded.seed = 8  # type: ignore[misc]


def test_the_schema_describes_what_the_shipped_file_holds() -> None:
    properties = params.schema()["properties"]
    assert set(properties) == (set(raw()) | set(raw()["profiles"]["quick"])) - {"profiles"}


# --- YAML ---


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-3", 1e-3), ("2E+2", 200.0), ("-.5e1", -5.0), ("1.5e-4", 1.5e-4), ("1e", "1e"), ("e5", "e5")],
)
def test_yaml_floats_need_no_point(written: str, value: Any) -> None:
    (read,) = yaml.load(f"- {written}", Loader=params._Loader)
    assert read == value
    assert type(read) is type(value)


def test_a_float_without_a_point_is_taken_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(with_line("lr_g", "lr_g: 3e-5"), encoding="utf-8")
    assert params.load(tmp_path / "p.yaml").variants.mlp_gan.lr_g == 3e-5


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    message = load_refusal(tmp_path / "p.yaml", text() + "\nseed: 8\n")
    assert "p.yaml" in message
    assert "`seed` stands twice" in message


def test_a_nested_key_that_stands_twice(tmp_path: Path) -> None:
    assert "`width` stands twice" in load_refusal(tmp_path / "p.yaml", with_line("width", "width: 16\nwidth: 32"))


def test_a_missing_file(tmp_path: Path) -> None:
    assert "nowhere.yaml does not exist" in load_refusal(tmp_path / "nowhere.yaml", None)


@pytest.mark.parametrize("content", ["", "- a list\n", "just words\n", "3\n"])
def test_a_file_that_is_no_mapping(tmp_path: Path, content: str) -> None:
    assert "holds no keys" in load_refusal(tmp_path / "p.yaml", content)


@pytest.mark.parametrize("content", ["a: [", "a: b: c", "\ta: 1", "a: !!python/object:os.system {}", "a: *nothing"])
def test_broken_yaml(tmp_path: Path, content: str) -> None:
    assert "p.yaml cannot be read" in load_refusal(tmp_path / "p.yaml", content)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in load_refusal(tmp_path / "p.yaml", None)
    (tmp_path / "folder").mkdir()
    assert "cannot be read" in load_refusal(tmp_path / "folder", None)


def test_off_is_a_word(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(with_line("blank_images", "blank_images: off"), encoding="utf-8")
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
    "path",
    [
        "seed",
        "profiles.quick.judge.width",
        "variants.dcgan",
    ],
)
def test_a_misspelt_required_key_is_named(path: str) -> None:
    value = raw()
    *parents, last = path.split(".")
    node = value
    for key in parents:
        node = node[key]
    node[last[:-1] + "x"] = node.pop(last)
    message = refusal(value)
    assert f"{last[:-1]}x`" in message
    assert f"did you mean `{last}`?" in message


def test_an_unknown_key_far_from_all_lists_the_valid_ones() -> None:
    message = refusal(changed(("tracking.qqqqqq", 1)))
    assert "unknown key `tracking.qqqqqq`; valid here: backend, experiment." in message


def test_a_misspelt_variant_in_the_pipeline() -> None:
    message = refusal(changed(("pipeline.variants", ["dcgan", "flowmatching"])))
    assert "`pipeline.variants.1` is 'flowmatching'" in message
    assert "did you mean `flow_matching`?" in message


def test_students_need_their_teacher() -> None:
    message = refusal(changed(("pipeline.variants", ["dcgan"]), ("pipeline.students", ["turbo"])))
    assert "`pipeline`" in message
    assert "flow_matching, which is not among `variants`" in message
    assert params.resolve(changed(("pipeline.variants", ["dcgan"]), ("pipeline.students", []))).pipeline.everyone == (
        "dcgan",
    )
    assert params.resolve(changed(("pipeline.variants", ["flow_matching"]))).pipeline.everyone == (
        "flow_matching",
        "turbo",
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", "7"),
        ("seed", True),
        ("seed", 7.5),
        ("profiles.quick.judge.width", "16"),
        ("judge.lr", "1e-3"),
        ("judge.lr", True),
        ("tracking.experiment", 3),
        ("variants.dcgan.betas", [0.5]),
        ("judge", 3),
        ("data.mnist", ["embedded"]),
        ("train.device", "gpu"),
        ("data.mnist.classes", 5),
        ("data.mnist.classes", [1.5]),
        ("validation.blank_images", True),
    ],
)
def test_a_wrong_type_names_the_key(path: str, value: Any) -> None:
    choices = changed((path, value))
    if path == "judge":
        del choices["profiles"]["quick"]["judge"]
    assert f"`{path.removeprefix('profiles.quick.')}" in refusal(choices)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", -1),
        ("seed", 2**32),
        ("data.mnist.image_size", 30),
        ("data.mnist.image_size", 12),
        ("data.mnist.test_fraction", 1.0),
        ("judge.lr", 0),
        ("judge.label_smoothing", 1.0),
        ("profiles.quick.judge.width", 6),
        ("validation.max_imbalance", 0.5),
        ("variants.dcgan.instance_noise", -0.1),
        ("profiles.quick.variants.flow_matching.steps", 0),
        ("profiles.quick.variants.flow_matching.channels", []),
        ("profiles.quick.train.images_seen.per_class", 0),
        ("profiles.quick.evaluate.n_generated", 99),
        ("evaluate.parity_tolerance", float("nan")),
        ("pipeline.variants", []),
    ],
)
def test_a_value_out_of_range_names_the_key(path: str, value: Any) -> None:
    assert f"`{path.removeprefix('profiles.quick.')}`" in refusal(changed((path, value)))


@pytest.mark.parametrize(
    ("path", "value"), [("variants.dcgan.betas", [0.5, 1.5]), ("variants.dcgan.budget", float("inf"))]
)
def test_a_value_that_training_would_choke_on_is_refused(path: str, value: Any) -> None:
    assert f"`{path}" in refusal(changed((path, value)))


def test_several_mistakes_are_counted() -> None:
    assert refusal(changed(("seed", -1), ("judge.lr", 0))).endswith("(and 1 more).")


def test_an_unknown_profile_is_named_where_it_is_chosen() -> None:
    message = refusal(changed(("profile", "quik")))
    assert "`profile` is 'quik'; did you mean `quick`?" in message


def test_an_unknown_profile_is_named_where_it_is_described() -> None:
    value = raw()
    value["profiles"]["fulll"] = value["profiles"].pop("full")
    assert "`profiles.fulll`; did you mean `full`?" in refusal(value)


@pytest.mark.parametrize(
    ("path", "value"), [("profiles", None), ("profiles", ["quick"]), ("profiles.quick", None), ("profiles.quick", 3)]
)
def test_profiles_that_are_no_mappings(path: str, value: Any) -> None:
    message = refusal(changed((path, value)))
    assert f"`{path}`" in message
    assert "must be a mapping" in message


@pytest.mark.parametrize(
    "path", ["variants.dcgan.channels", "judge.width", "evaluate.n_generated", "train.images_seen"]
)
def test_a_key_both_at_the_top_and_in_the_profile(path: str) -> None:
    message = refusal(changed((path, 32)))
    assert f"`{path}` is set both at the top and under `profiles.quick`" in message


def test_a_key_in_the_other_profile_is_no_conflict() -> None:
    value = raw()
    del value["profiles"]["quick"]["judge"]["width"]
    value["judge"]["width"] = 24
    assert params.resolve(value).judge.width == 24


def test_a_dataset_of_ones_own_is_one_entry() -> None:
    value = raw()
    value["data"]["own"] = {"source": "local", "path": "letters"}
    choices = params.resolve(value)
    assert list(choices.data) == ["devanagari", "mnist", "own"]
    assert choices.data["own"].image_size is None


def test_a_pipeline_without_datasets() -> None:
    value = raw()
    value["data"] = {}
    assert "`data` describes no dataset" in refusal(value)


@pytest.mark.parametrize("name", ["My Data", "../up", "1st", "a-b", ""])
def test_a_dataset_name_that_makes_no_folder(name: str) -> None:
    value = raw()
    value["data"][name] = value["data"].pop("mnist")
    assert f"{name!r} is no dataset name" in refusal(value)


@pytest.mark.parametrize(
    ("source", "key", "missing"),
    [("local", "path", None), ("local", "path", ""), ("kaggle", "kaggle", None), ("openml", "openml", None)],
)
def test_a_source_needs_its_key(source: str, key: str, missing: str | None) -> None:
    message = refusal(changed(("data.devanagari.source", source), (f"data.devanagari.{key}", missing)))
    assert "`data.devanagari`" in message
    assert f"needs `{key}`" in message


@pytest.mark.parametrize("slug", ["mnist", "a/b/c", "../b", "a/b?x", ""])
def test_a_slug_is_owner_and_name(slug: str) -> None:
    assert "`data.mnist.kaggle.slug`" in refusal(changed(("data.mnist.kaggle.slug", slug)))


def test_classes_may_be_listed_by_glyph_name_or_number() -> None:
    assert params.resolve(changed(("data.devanagari.classes", ["क", "digit_0", 3]))).data["devanagari"].classes == (
        "क",
        "digit_0",
        3,
    )
