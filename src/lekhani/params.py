"""params.yaml as types: strict, frozen, and with errors that name the key.

The file has two layers. Most keys stand at the top; those that depend on the machine at hand (how long to train, how
large the networks are) stand under `profiles.<profile>` and are laid over the rest. A key lives in one of the two
places, never in both, so that what `dvc exp run -S key=value` changes is always what is used.
"""

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Fraction = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Betas = Annotated[tuple[Fraction, Fraction], Field(description="Adam's decay rates of the first and second moment")]
Policy = Literal["error", "warn", "off"]


class ParamsError(Exception):
    """Something in params.yaml is wrong; the message is one sentence for people."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Data(_Model):
    """Where one dataset comes from and how it is prepared."""

    source: Literal["embedded", "local"] = Field(description="embedded: made by Lekhani; local: your own files at `path`")
    path: str | None = Field(None, description="local: a folder, zip, .npz, or a pattern such as data/dhcd_*.npz")
    script: str = Field("Devanagari", description="for the record: the name of the writing system")
    classes: Literal["all", "digits", "consonants"] | tuple[str | int, ...] = Field(
        "all", description="which classes to keep: a group, or a list of glyphs, class names or label numbers"
    )
    image_size: int = Field(32, ge=16, le=128, multiple_of=4, description="height and width of prepared images, pixels")
    per_class_train: Count | None = Field(None, description="at most so many train images per class (embedded: exactly so many, where it draws them)")
    per_class_test: Count | None = Field(None, description="the same for the test split")
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share of each class held out when the source has no split of its own"
    )

    @model_validator(mode="after")
    def _local_needs_a_path(self) -> "Data":
        if self.source == "local" and not self.path:
            raise ValueError("source `local` needs `path`")
        return self


class Validate(_Model):
    """What each check on prepared data does when it finds something: stop the pipeline, warn, or stay out."""

    blank_images: Policy = "error"
    class_balance: Policy = "warn"
    exact_duplicates: Policy = "warn"
    label_conflicts: Policy = "error"
    split_leaks: Policy = "warn"
    max_imbalance: float = Field(3.0, ge=1, description="largest allowed ratio of the biggest class to the smallest")
    min_per_class: Count = Field(10, description="fewest images a class may have in each split")


class Judge(_Model):
    """The classifier that measures every variant."""

    width: int = Field(ge=4, le=512, multiple_of=4, description="channels of the first block; later blocks have two and four times as many")
    images_seen: Count = Field(description="training budget, repeats counted")
    batch_size: Count = 128
    lr: Rate = 2e-3
    weight_decay: float = Field(0.01, ge=0)
    label_smoothing: Fraction = 0.05
    shift: int = Field(2, ge=0, le=8, description="random shift in training, pixels")


class Dcgan(_Model):
    """Deep convolutional GAN (Radford, Metz, Chintala 2016); unconditional."""

    batch_size: Count = 64
    budget: float = Field(1.0, gt=0, description="multiple of train.images_seen; 1 keeps the comparison at equal budget")
    noise_dim: Count = 100
    channels: int = Field(ge=4, le=1024, multiple_of=4, description="channels at the widest resolution that is convolved to an image")
    lr_g: Rate = 2e-4
    lr_d: Rate = 2e-4
    betas: Betas = (0.5, 0.999)
    label_smoothing: Fraction = Field(0.1, description="one-sided: real targets are 1 minus this (Salimans et al. 2016)")
    instance_noise: float = Field(0.1, ge=0, description="deviation of Gaussian noise on the discriminator's inputs at the start; decays to 0")
    ema_decay: Fraction = 0.995


class FlowMatching(_Model):
    """Class-conditional flow matching, the rectified-flow form (Lipman et al. 2023, Liu et al. 2023)."""

    batch_size: Count = 128
    budget: float = Field(1.0, gt=0, description="multiple of train.images_seen; 1 keeps the comparison at equal budget")
    channels: Annotated[tuple[int, ...], Field(min_length=1, max_length=4, description="U-Net channels, one per resolution, finest first")]
    lr: Rate = 2e-3
    betas: Betas = (0.9, 0.99)
    weight_decay: float = Field(0.01, ge=0)
    label_dropout: Fraction = Field(0.1, description="share of labels hidden in training, which classifier-free guidance needs")
    ema_decay: Fraction = 0.998
    steps: int = Field(8, ge=1, le=64, description="Euler steps from noise to image, unrolled in the exported graph")
    guidance: float = Field(1.0, ge=0, le=10, description="1 samples the conditional model as it is; above 1 trades diversity for legibility")


class Variants(_Model):
    """One entry per variant; each has its own file in lekhani/variants/."""

    dcgan: Dcgan
    flow_matching: FlowMatching


class Train(_Model):
    """What all variants share in training."""

    images_seen: dict[str, Count] = Field(description="budget per dataset: how many images a variant sees, repeats counted")
    sample_every: Count = Field(20_000, description="images seen between two sample grids")
    log_every: Count = Field(50, description="steps between two rows of losses.csv")
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Evaluate(_Model):
    """How scorecards are made."""

    n_generated: int = Field(ge=100, description="images generated for the metrics")
    kid_subset_size: int = Field(ge=10, description="images per KID subset; smaller than both image sets")
    parity_tolerance: float = Field(1e-4, gt=0, description="largest difference between torch and ONNX Runtime in one pixel of [0, 1]")


class Tracking(_Model):
    """Where runs are remembered."""

    backend: Literal["mlflow", "none"] = "mlflow"
    experiment: str = "lekhani"


class Pipeline(_Model):
    """Which datasets and variants dvc.yaml's matrix spans."""

    datasets: Annotated[tuple[str, ...], Field(min_length=1)]
    variants: Annotated[tuple[Literal["dcgan", "flow_matching"], ...], Field(min_length=1)]


class Params(_Model):
    """All choices of a pipeline, with the chosen profile already laid over the rest."""

    profile: Literal["quick", "full"]
    seed: int = Field(ge=0, lt=2**32)
    pipeline: Pipeline
    data: dict[str, Data]
    validation: Validate
    judge: Judge
    train: Train
    variants: Variants
    evaluate: Evaluate
    tracking: Tracking

    @model_validator(mode="after")
    def _datasets_are_described(self) -> "Params":
        for name in self.pipeline.datasets:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"pipeline.datasets: {name!r} is no dataset name; use small letters, digits and underscores")
            for where, keys in (("data", self.data), ("train.images_seen", self.train.images_seen)):
                if name not in keys:
                    raise ValueError(f"pipeline.datasets names {name!r}, which `{where}` does not describe; add {where}.{name}")
        return self

    def dataset(self, name: str) -> Data:
        """Where dataset `name` comes from; raises ParamsError when params.yaml does not describe it."""
        if name not in self.data:
            raise ParamsError(f"No dataset {name!r} in the params; there are: {', '.join(self.data)}.")
        return self.data[name]


class _Loader(yaml.SafeLoader):
    """YAML 1.2 as DVC reads it: 1e-3 is a number and `off` a word; and no silent second copy of a key."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute, without its booleans
        letter: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:bool"]
        for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key `{key}` stands twice, near line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789."))


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml; raises ParamsError with one sentence naming the file, the key and the way out."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist here; run from the project's folder or pass --params.") from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path} holds no keys; it must be a mapping such as `profile: quick`.")
    return resolve(raw, str(path))


def resolve(raw: dict[str, Any], where: str = "params.yaml") -> Params:
    """Lay the chosen profile over `raw` (as read from params.yaml) and check the whole; raises ParamsError."""
    base = {key: value for key, value in raw.items() if key != "profiles"}
    profiles = raw.get("profiles", {})
    names = get_args(Params.model_fields["profile"].annotation)
    if not isinstance(profiles, dict):
        raise ParamsError(f"{where}: `profiles` must be a mapping of {' and '.join(names)}.")
    for name in profiles:
        if name not in names:
            raise ParamsError(_stopped(f"{where}: unknown profile `profiles.{name}`{_nearest(str(name), names)}"))
    chosen = base.get("profile")
    merged = _overlay(base, profiles.get(chosen, {}) if isinstance(chosen, str) else {}, where, f"profiles.{chosen}")
    try:
        # Through JSON, so that a YAML list may fill a tuple while 1 stays no bool and "1" no number.
        return Params.model_validate_json(json.dumps(merged, default=str))
    except ValidationError as error:
        raise ParamsError(f"{where}: {_sentence(error)}") from None


def schema() -> dict[str, Any]:
    """JSON Schema of the resolved params."""
    return Params.model_json_schema()


def _overlay(base: dict[str, Any], over: Any, where: str, prefix: str, path: str = "") -> dict[str, Any]:
    if not isinstance(over, dict):
        raise ParamsError(f"{where}: `{prefix}` must be a mapping.")
    result = dict(base)
    for key, value in over.items():
        here = f"{path}{key}"
        if isinstance(value, dict) and isinstance(base.get(key, {}), dict):
            result[key] = _overlay(base.get(key, {}), value, where, prefix, f"{here}.")
        elif key in base:
            raise ParamsError(f"{where}: `{here}` is set both at the top and under `{prefix}`; keep it in one place.")
        else:
            result[key] = value
    return result


def _nearest(word: str, valid: "tuple[str, ...] | list[str]") -> str:
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.4)
    return f"; did you mean `{close[0]}`?" if close else f"; valid here: {', '.join(valid)}"


def _sentence(error: ValidationError) -> str:
    errors = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a misspelt key explains the missing one
    first = errors[0]
    # A union reports one error per member; the key is what the path holds before the member's name.
    path = [part for part in first["loc"] if not (isinstance(part, str) and ("[" in part or "tuple" in part))]
    key = ".".join(str(part) for part in path)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        keys = _keys_at(path[:-1])
        text = f"unknown key `{key}`{_nearest(str(path[-1]), keys)}"
    elif first["type"] == "missing":
        text = f"`{key}` is missing"
    elif first["type"] == "value_error":
        text = f"`{key}`: {message}" if key else message
    elif first["type"] == "literal_error":
        expected = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
        text = f"`{key}` is {first['input']!r}{_nearest(str(first['input']), expected)}"
    else:
        text = f"`{key}` is {first['input']!r}: {message[0].lower()}{message[1:]}"
    more = len(errors) - 1
    return _stopped(text + (f" (and {more} more)" if more and first["type"] != "literal_error" else ""))


def _stopped(sentence: str) -> str:
    return sentence if sentence.endswith("?") else f"{sentence}."


def _keys_at(path: "list[str | int]") -> list[str]:
    """Names valid under `path` in the schema, for the nearest-key hint."""
    document = schema()
    node: dict[str, Any] = document
    for part in path:
        node = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
        if "$ref" in node:
            node = document["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return sorted(node.get("properties", {}))
