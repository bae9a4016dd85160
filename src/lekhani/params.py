"""params.yaml as types: strict, frozen, and with errors that name the key.

The file has two layers. Most keys stand at the top; those that depend on the machine at hand (how long to train, how
large the networks are) stand under `profiles.<profile>` and are laid over the rest. A key lives in one of the two
places, never in both, so that what `dvc exp run -S key=value` changes is always what is used.
"""

import difflib
import json
import re
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from lekhani import strict_yaml

MAX_BYTES = 4 << 20  # of params.yaml, which strict_yaml bounds in characters
Fraction = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**12)]
Width = Annotated[
    int,
    Field(
        ge=8,
        multiple_of=4,
        description="units of the generator's first hidden layer; the next have two and four times as many",
    ),
]
Channels = Annotated[
    int,
    Field(
        ge=4,
        le=1024,
        multiple_of=4,
        description="channels at the widest resolution that is convolved to an image",
    ),
]
Betas = Annotated[tuple[Fraction, Fraction], Field(description="Adam's decay rates of the first and second moment")]
Policy = Literal["error", "warn", "off"]


class ParamsError(Exception):
    """Something in params.yaml is wrong; the message is one sentence for people."""


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Kaggle(_Model):
    """A dataset on Kaggle."""

    slug: str = Field(pattern=r"^[\w-]+/[\w-]+$", description="owner/name, as in the address of its page")
    version: Count | None = None
    """null: the newest; the version that came is recorded in dataset.json"""


def _increasing(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] >= pair[1]:
        raise ValueError("the value of black comes first and must be lower than that of white")
    return pair


class HuggingFace(_Model):
    """A dataset on the Hugging Face hub."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name, as in the address of its page")
    revision: str | None = None
    """a branch, a tag or a commit; null: the newest. The commit that came is recorded in dataset.json"""


class Data(_Model):
    """Where one dataset comes from and how it is prepared; what the files show can be left out."""

    source: Literal["embedded", "kaggle", "openml", "huggingface", "local"]
    """embedded: made by Lekhani; kaggle: needs an account; openml and huggingface: need none; local: your own files at
    `path`"""
    path: str | None = None
    """local: a folder, an archive (zip, tar, npz), a table or IDX file, or a pattern such as data/dhcd_*.npz"""
    kaggle: Kaggle | None = Field(None, description="kaggle: which dataset")
    openml: Count | None = None
    """openml: the number of the data set, 40923 for DHCD and 554 for MNIST"""
    huggingface: HuggingFace | None = Field(None, description="huggingface: which dataset")
    script: str = Field("unknown", description="for the record: the name of the writing system")
    origin: str | None = None
    """for the data card: who wrote and collected the images; known for the sources we know"""
    licence: str | None = Field(None, description="for the data card")
    citation: str | None = Field(None, description="for the data card")
    classes: Literal["all", "digits", "consonants"] | tuple[str | int, ...] = "all"
    """which classes to keep: a group, or a list of glyphs, class names or label numbers"""
    classes_csv: str | None = None
    """a CSV with columns `name` and `glyph`: what each folder, label or class name stands for"""
    files: str | None = None
    """which files to read when a source holds more than one dataset: a pattern such as Images/** or data.csv"""
    label_column: str | None = None
    """the column of a table that holds the labels, when its name does not tell"""
    label_in_name: str | None = None
    """the label is part of each image's file name: `prefix` (7_0012.png), `suffix`, or a regular expression whose group
    is the label, such as _c(\\d+)"""
    class_folder: Literal["first", "last", "path"] | None = Field(
        None,
        description="which folder names the class when folders nest: the first, the last (next to the image), "
        "or all of them joined by _",
    )
    polarity: Literal["auto", "white_on_black", "black_on_white", "mixed"] = "auto"
    """what the source looks like; auto decides for the whole dataset by its edges, mixed for each image by its own"""
    value_range: Annotated[tuple[float, float], AfterValidator(_increasing)] | None = None
    """the values of black and white in the source, such as [0, 255]; null: recognised over the whole dataset"""
    transposed: bool | None = None
    """whether the source has rows and columns exchanged; null: EMNIST's files are looked at, others are not"""
    image_size: int | None = Field(None, ge=16, le=128, multiple_of=4)
    """height and width of prepared images, pixels; null: as in the source where all are such squares, else 32"""
    per_class_train: Count | None = Field(None, description="at most so many train images per class")
    per_class_test: Count | None = Field(None, description="the same for the test split")
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """share of each class held out when the source has no split of its own"""

    @field_validator("label_in_name")
    @classmethod
    def _compiles(cls, rule: str | None) -> str | None:
        try:
            re.compile(rule or "")
        except re.error as error:
            raise ValueError(f"is no regular expression ({error}); give prefix, suffix, or one with a group") from None
        return rule

    @model_validator(mode="after")
    def _source_is_described(self) -> "Data":
        needed = {"local": "path", "embedded": None}.get(self.source, self.source)
        if needed and not getattr(self, needed):
            example = {"path": "my/letters", "kaggle": "{slug: owner/name}", "openml": "40923"}
            example["huggingface"] = "{repo: owner/name}"
            raise ValueError(f"source `{self.source}` needs `{needed}`, such as `{needed}: {example[needed]}`")
        return self


class Embedded(_Model):
    """How much of the embedded Devanagari is drawn."""

    per_class_train: Count = 400
    per_class_test: Count = 60


class Prepare(_Model):
    """What preparing does to every dataset."""

    deduplicate: bool = False
    """leave out images that repeat another one exactly or nearly; test images stay, train images go"""


class Validate(_Model):
    """What each check on prepared data does when it finds something: stop the pipeline, warn, or stay out."""

    manifest_schema: Policy = "error"
    integrity: Policy = "error"
    enough_images: Policy = "error"
    label_set: Policy = "error"
    class_balance: Policy = "warn"
    blank_images: Policy = "error"
    full_images: Policy = "error"
    off_centre: Policy = "warn"
    ink_outliers: Policy = "warn"
    exact_duplicates: Policy = "warn"
    near_duplicates: Policy = "warn"
    split_leaks: Policy = "warn"
    label_conflicts: Policy = "error"
    drift: Policy = "warn"
    max_imbalance: float = Field(3.0, ge=1, description="largest allowed ratio of the biggest class to the smallest")
    min_per_class: Count = Field(10, description="fewest images a class may have in each split")
    max_ink: Annotated[float, Field(gt=0, le=1)] = 0.9
    """an image with a larger share of ink pixels is full"""
    max_offset: Annotated[float, Field(gt=0, le=1)] = 0.3
    """an image whose centre of ink lies farther from the middle is off-centre; 1 is the frame's side"""
    outlier_deviations: float = Field(8.0, gt=0)
    """an image whose ink differs so many robust deviations from its class is an outlier"""
    max_drift: float = Field(0.25, gt=0, description="largest population stability index against the previous version")
    previous: str = Field("HEAD", description="the git revision whose prepared data is the previous version")


class Budget(_Model):
    """How many images a network sees in training, repeats counted: so many per class, yet no fewer than `at_least`."""

    per_class: Count
    at_least: Count = 1

    def images(self, n_classes: int) -> int:
        """The number for a dataset of `n_classes`."""
        return max(self.per_class * n_classes, self.at_least)


class Classifier(_Model):
    """How a classifier of glyphs is trained, and by how much its train images are changed from one view to the next."""

    width: int = Field(ge=4, le=512, multiple_of=4)
    """channels of the first block; later blocks have two and four times as many"""
    images_seen: Count | Budget = Field(description="training budget, repeats counted; may grow with the classes")
    batch_size: Count = 128
    lr: Rate = 5e-3
    weight_decay: float = Field(0.01, ge=0)
    label_smoothing: Fraction = 0.05
    shift: float = Field(2.0, ge=0, le=8, description="largest random shift in training, pixels")
    rotation: float = Field(8.0, ge=0, le=45, description="largest random turn in training, degrees")
    scale: Fraction = 0.1
    """largest random stretch of height and of width in training, natural logarithm of the factor"""
    shear: Fraction = 0.15
    """largest random slant in training, shift of the top line per half of the height"""
    bend: float = Field(0.6, ge=0, le=4, description="deviation of a smooth random bending in training, pixels")
    thickness: Fraction = 0.6
    """largest random change of strokes in training, in parts of a dilation or erosion by 3x3 pixels"""
    calm: Fraction = 0.0
    """share of training, at its end, in which images change by a fifth of that only"""
    nonsense: Fraction = 0.05
    """share of each batch in training that shows no glyph, so that confidence falls on what is none"""
    held_out: Fraction = 0.05
    """share of the train images kept from training, to calibrate the confidence; 0 leaves it as it is"""
    rounds: int = Field(1, ge=1, le=8)
    """most trainings in a row; each starts from the weights of the one before and is twice as long"""
    enough: Annotated[float, Field(gt=0, le=1)] = 0.98
    """share of `held_out` that has to be read right for no further round to follow"""

    def images(self, n_classes: int) -> int:
        """The training budget for a dataset of `n_classes`."""
        return self.images_seen if isinstance(self.images_seen, int) else self.images_seen.images(n_classes)


class Judge(Classifier):
    """The judge, which measures every variant, and a classifier of another architecture that confirms its labels."""

    second_budget: float = Field(1.0, gt=0)
    """the second classifier's training budget, in parts of images_seen"""


class Usefulness(Classifier):
    """How a small OCR model, a judge of small width, is trained on real and on generated characters."""

    seeds: int = Field(3, ge=0)
    """trainings per figure, each with a seed and a subset of its own, for mean and deviation; 0: leave it out"""
    shares: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = Field(
        (0.01, 0.1, 1.0),
        description="shares of the real train images to train on, of each class; "
        "1 gives the figure that synthetic images are held to",
    )


class VariantSettings(_Model):
    """What every variant has. Its subclasses are the settings of one variant each, under `variants` in params.yaml."""

    teacher: ClassVar[str | None] = None
    """The variant, trained on the same dataset, that this one learns from."""

    batch_size: Count = 64
    budget: float = Field(1.0, gt=0)
    """multiple of train.images_seen; 1 keeps the comparison at equal budget"""
    ema_decay: Fraction = 0.995
    """of the exponential moving average of the weights, which is exported"""
    ema_start: Fraction = 0.0
    """share of the budget after which the average starts; until then it copies"""
    start_from: str | None = None
    """a generator.safetensors of the same variant, sizes and classes, whose weights training starts from"""


Settings = TypeVar("Settings", bound=VariantSettings)
VARIANT_SETTINGS: dict[str, type[VariantSettings]] = {}
"""The registry of variants: the settings of each by its name, filled by `register`."""


def register(name: str) -> Callable[[type[Settings]], type[Settings]]:
    """Class decorator that makes a variant of its settings; all else that lists variants follows from it.

    The settings `Toy` registered as `toy` belong to the class `Toy` in lekhani/variants/toy.py. They are here and not
    in that file because it imports torch, which reading params.yaml must not. Every setting needs a default, so that a
    variant works without an entry in params.yaml.
    """

    def add(settings: type[Settings]) -> type[Settings]:
        VARIANT_SETTINGS[name] = settings
        return settings

    return add


class Gan(VariantSettings):
    """What every GAN has; the settings of each one add its networks' sizes and its authors' defaults."""

    noise_dim: Count = 100
    lr_g: Rate = 2e-4
    """generator's learning rate; unlike lr_d it makes a two time-scale update rule (Heusel et al. 2017)"""
    lr_d: Rate = Field(2e-4, description="discriminator's learning rate")
    betas: Betas = (0.5, 0.999)
    schedule: Literal["constant", "cosine"] = "constant"
    """learning rates over images seen; cosine falls to a tenth"""
    n_dis: Count = Field(1, description="discriminator steps per generator step")
    clip_norm: float = Field(0.0, ge=0, description="largest norm of either network's gradient; 0 does not clip")
    augment: tuple[Literal["brightness", "contrast", "translation", "cutout"], ...] = ()
    """DiffAugment (Zhao et al. 2020) on what the discriminator sees, real and generated"""


@register("bare_bones")
class BareBones(VariantSettings):
    """GAN in NumPy alone, with the backward pass by hand."""

    noise_dim: Count = 100
    hidden: Count = Field(128, description="units of the one hidden layer of generator and discriminator")
    leak: Fraction = Field(0.01, description="slope of the discriminator's leaky ReLU below zero")
    lr: Rate = Field(1e-3, description="per image: gradients are summed over the batch, not averaged")
    lr_decay: float = Field(1e-4, ge=0)
    """the rate at epoch e is lr / (1 + lr_decay * e); an epoch is 60,000 images"""
    ema_decay: Fraction = 0.0


@register("mlp_gan")
class MlpGan(Gan):
    """Fully connected GAN; unconditional."""

    width: Width = 256
    dropout: Fraction = 0.3
    spectral_norm: bool = False
    smoothing_width: Fraction = Field(0.0, description="one-sided: real targets are 1 minus this")


@register("cgan")
class Cgan(Gan):
    """Fully connected conditional GAN (Mirza and Osindero 2014)."""

    width: Width = 256
    batch_size: Count = 128


@register("dcgan")
class Dcgan(Gan):
    """Deep convolutional GAN (Radford et al. 2016) with stabilising tricks, each with its own switch; unconditional."""

    channels: Channels = 64
    loss: Literal["non_saturating", "minimax"] = "non_saturating"
    inverted_labels: bool = Field(False, description="the discriminator learns 0 for real and 1 for generated")
    smoothing: Literal["none", "one_sided", "two_sided"] = "one_sided"
    """random targets: one_sided draws real ones from U(1 - w, 1), two_sided generated ones from U(0, w) too"""
    smoothing_width: Fraction = Field(0.1, description="the width w of `smoothing`")
    instance_noise: float = Field(0.1, ge=0)
    """deviation of Gaussian noise on the discriminator's inputs at the start; decays to 0"""
    noise_on: Literal["real", "both"] = Field("both", description="which of its inputs get the noise")


@register("wgan_gp")
class WganGp(Gan):
    """Wasserstein GAN with gradient penalty (Gulrajani et al. 2017); unconditional."""

    channels: Channels = 64
    gp_weight: float = Field(10.0, ge=0, description="weight of the gradient penalty, the paper's lambda")
    lr_g: Rate = 1e-4
    lr_d: Rate = 1e-4
    betas: Betas = (0.0, 0.9)
    n_dis: Count = 5


@register("sngan")
class Sngan(Gan):
    """GAN with spectral norm, hinge loss and a projection discriminator (Miyato et al. 2018); conditional."""

    channels: Channels = 64
    blocks: Literal["residual", "plain"] = "residual"
    noise_dim: Count = 128
    betas: Betas = (0.0, 0.9)
    n_dis: Count = 2


@register("r3gan")
class R3gan(Gan):
    """R3GAN: relativistic pairing with R1 and R2 and no normalisation (Huang et al. 2024); conditional."""

    channels: Channels = 64
    blocks: Count = Field(1, description="residual blocks per resolution")
    gamma: float = Field(1.0, ge=0, description="weight of R1 and R2 each, halved as in the paper")
    noise_dim: Count = 64
    betas: Betas = (0.0, 0.99)
    schedule: Literal["constant", "cosine"] = "cosine"


@register("draw")
class Draw(VariantSettings):
    """DRAW: a recurrent variational autoencoder that paints in steps (Gregor et al. 2015)."""

    batch_size: Count = 128
    hidden: Count = Field(400, description="units of the encoder's and of the decoder's LSTM")
    steps: int = Field(25, ge=1, le=64, description="glimpses, the paper's T")
    latent_dim: Count = Field(100, description="size of the latent z of each step; noise_dim is steps times this")
    attention: bool = True
    """read and write through a grid of Gaussian filters; False: the whole canvas at once"""
    read_size: Count = Field(6, description="filters per side when reading")
    write_size: Count = Field(6, description="filters per side when writing")
    conditional: bool = Field(False, description="give encoder and decoder the label")
    lr: Rate = 1e-3
    betas: Betas = (0.5, 0.999)
    schedule: Literal["constant", "cosine"] = "constant"
    """learning rate over images seen; cosine falls to a tenth"""
    clip_norm: float = Field(5.0, ge=0, description="largest norm of the gradient; 0 does not clip")
    ema_decay: Fraction = 0.998


@register("flow_matching")
class FlowMatching(VariantSettings):
    """Class-conditional flow matching, the rectified-flow form (Lipman et al. 2023, Liu et al. 2023)."""

    batch_size: Count = 128
    channels: Annotated[
        tuple[int, ...],
        Field(min_length=1, max_length=4, description="U-Net channels, one per resolution, finest first"),
    ] = (64, 128, 256)
    blocks: Count | tuple[Count, ...] = Field(
        1, description="residual blocks per resolution and direction: one count for all, or one for each of `channels`"
    )
    lr: Rate = 2e-3
    betas: Betas = (0.9, 0.99)
    weight_decay: float = Field(0.01, ge=0)
    label_dropout: Fraction = Field(
        0.1, description="share of labels hidden in training, which classifier-free guidance needs"
    )
    ema_decay: Fraction = 0.998
    solver: Literal["euler", "heun"] = Field(
        "euler", description="heun evaluates the network twice per step and is of second order"
    )
    steps: int = Field(8, ge=1, le=32, description="solver steps from noise to image, unrolled in the exported graph")
    guidance: float = Field(
        1.0,
        ge=0,
        le=10,
        description="1 samples the conditional model as it is; above 1 trades diversity for legibility",
    )
    guidance_from: Fraction = Field(
        0.0, description="guide only from this share of the path on (Kynkaanniemi et al. 2024)"
    )
    guidance_to: float = Field(1.0, gt=0, le=1, description="and up to this one")

    @model_validator(mode="after")
    def _blocks_for_each_resolution(self) -> "FlowMatching":
        if isinstance(self.blocks, tuple) and len(self.blocks) != len(self.channels):
            counts = f"blocks has {len(self.blocks)} numbers and channels {len(self.channels)}"
            raise ValueError(f"{counts}; give one for each")
        return self


@register("turbo")
class Turbo(VariantSettings):
    """A student of one or two steps, distilled from the trained flow_matching of the same dataset; conditional."""

    teacher: ClassVar[str | None] = "flow_matching"

    batch_size: Count = 128
    steps: int = Field(1, ge=1, le=2, description="network evaluations per image")
    pairs_per_class: Count = Field(200, description="images that the teacher draws, once, for the student to imitate")
    adversarial: float = Field(0.3, ge=0)
    """weight of the critic beside imitation; 0 leaves it out of the student's loss"""
    lr: Rate = 1e-3
    betas: Betas = (0.5, 0.99)
    ema_decay: Fraction = 0.998


@register("drifting")
class Drifting(VariantSettings):
    """A one-step generator that drifts towards real images in an encoder's features (Deng et al. 2026); conditional."""

    batch_size: Count = Field(256, description="real images, and as many generated ones")
    generated_per_class: Count = Field(32, description="images of one class that a step generates")
    real_per_class: Count = Field(128, description="the newest real images of a class that they are compared with")
    noise_dim: Count = 64
    channels: Annotated[
        tuple[int, ...],
        Field(min_length=1, max_length=4, description="generator's channels, one per resolution, finest first"),
    ] = (64, 96, 128)
    encoder_width: Count = Field(24, description="channels of the encoder's first block")
    encoder_share: Fraction = Field(0.2, description="share of the budget in which the encoder learns, at its start")
    lr: Rate = Field(1e-3, description="the encoder's is three times as high")
    betas: Betas = (0.9, 0.95)
    weight_decay: float = Field(0.01, ge=0)
    ema_decay: Fraction = 0.999


if TYPE_CHECKING:
    WithoutTeacher: TypeAlias = str
    WithTeacher: TypeAlias = str

    class Variants(_Model):
        """One field per registered variant, called as it is."""

        def __getattr__(self, name: str) -> Any: ...

else:
    WithoutTeacher = Literal[tuple(name for name, one in VARIANT_SETTINGS.items() if not one.teacher)]
    WithTeacher = Literal[tuple(name for name, one in VARIANT_SETTINGS.items() if one.teacher)]
    Variants = create_model(
        "Variants",
        __base__=_Model,
        __doc__="Settings of each variant; those left out have their defaults.",
        **{name: (one, Field(default_factory=one)) for name, one in VARIANT_SETTINGS.items()},
    )


class Train(_Model):
    """What all variants share in training."""

    images_seen: Budget
    """training budget; it grows with the number of classes, so that a new dataset needs no entry"""
    seed: int | None = Field(None, ge=0, lt=2**32)
    """of training alone, to repeat it on the same data before the same judge; null: `seed`"""
    sample_every: Count = Field(20_000, description="images seen between two sample grids")
    log_every: Count = Field(50, description="steps between two rows of losses.csv")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """of forward passes; auto takes bf16 on GPUs that compute in it and CPUs with AMX, else fp32"""
    compile: bool = False
    """torch.compile the networks: a minute at the start that long runs on a GPU earn back"""
    cuda_graphs: bool = False
    """record a step's kernels once and launch them all together, on one GPU; off until it is proven on one"""
    checkpoint_seconds: float = Field(60.0, gt=0, description="seconds between two checkpoints")
    checkpoint_steps: int = Field(0, ge=0)
    """steps between two checkpoints, beside those by time; 0: by time alone"""
    keep_checkpoints: Count = Field(2, description="how many of the newest are kept until the run is complete")
    score_every: int = Field(0, ge=0)
    """images seen between two scores by the judge, which pick the best weights; 0: never"""
    score_images: Count = Field(500, description="images generated for such a score")


class Evaluate(_Model):
    """How scorecards are made."""

    n_generated: int = Field(ge=100, description="images generated for the metrics, per sampling seed")
    sampling_seeds: Count = 3
    """how often they are generated, each time from other noise; gives every metric mean and deviation"""
    kid_subset_size: int = Field(ge=10, description="images per KID subset; smaller than both image sets")
    extractors: Annotated[tuple[Literal["judge", "inception"], ...], Field(min_length=1)] = ("judge",)
    """networks whose features are compared; inception (Inception-v3) adds figures that compare with those of papers"""
    inception_weights: str | None = None
    """torch-fidelity's file of its weights; null: the one in torch's hub folder"""
    parity_tolerance: float = Field(1e-4, gt=0)
    """largest difference between torch and ONNX Runtime in one pixel of [0, 1]"""

    @field_validator("extractors")
    @classmethod
    def _judge_leads(cls, extractors: tuple[str, ...]) -> tuple[str, ...]:
        if "judge" not in extractors:
            why = "the judge's features give the leading metric"
            raise ValueError(f"{why}, so `judge` must be among them; add it beside `inception`")
        return extractors


class Gate(_Model):
    """What a candidate must reach to become champion; the policy of lekhani.registry.gate."""

    metric: Literal["fid_ratio", "kid", "precision", "recall", "label_agreement"] = "fid_ratio"
    """the leading metric: the one in which a candidate must be better than the champion"""
    min_improvement: Fraction = 0.02
    """by how much at least, in parts of the champion's; it must exceed chance in sampling too"""
    conditional: Literal["any", "required"] = "any"
    """required: only generators that take a label; any: others too, yet never in place of a champion that takes one"""
    max_fid_ratio: float = Field(12.0, gt=0, description="largest judge FID, in parts of its floor")
    min_label_agreement: Fraction
    """smallest share of images that the judge reads as the requested label"""
    min_label_agreement_second: Fraction = Field(description="the same by the second classifier")
    max_label_agreement_drop: Fraction = 0.02
    """how far label agreement may fall below the champion's"""
    min_recall_ratio: float = Field(0.3, ge=0, description="smallest recall, in parts of its floor")
    max_collapsed_classes: int = Field(0, ge=0, description="how many classes may be collapsed")
    min_modes_ratio: float = Field(0.5, ge=0)
    """smallest overlap of modes in any class, in parts of its floor; where classes have enough images for it"""
    max_near_copies_excess: Fraction = 0.02
    """by how much the share of near copies may exceed that among real images"""
    max_train_excess_deviations: float = Field(4.0, ge=0)
    """how many of its deviations train_excess may lie above its floor"""
    min_usefulness_ratio: float = Field(0.8, ge=0)
    """smallest usefulness, in parts of its floor; where it was measured"""
    max_parity: float = Field(1e-4, gt=0)
    """largest difference between torch and ONNX Runtime in one pixel of [0, 1]"""
    max_size_mb: float = Field(100.0, gt=0, description="largest generator.onnx, MB")
    max_latency_ms: float = Field(250.0, gt=0, description="longest time for one image on the CPU, milliseconds")


class Tracking(_Model):
    """Where runs are remembered."""

    backend: Literal["mlflow", "none"] = "mlflow"
    experiment: str = "lekhani"
    system_metrics: bool = False
    """log the load of processors, memory, disk and network while training, too"""


class Pipeline(_Model):
    """Which datasets and variants dvc.yaml's matrix spans."""

    datasets: Annotated[tuple[str, ...], Field(min_length=1)]
    """names of entries of `data`; those left out stay described, and nothing runs for them"""
    variants: Annotated[tuple[WithoutTeacher, ...], Field(min_length=1)]
    students: tuple[WithTeacher, ...] = ()
    """variants that learn from the trained flow_matching, one stage later"""

    @model_validator(mode="after")
    def _students_have_a_teacher(self) -> "Pipeline":
        for teacher in {VARIANT_SETTINGS[student].teacher for student in self.students} - set(self.variants):
            raise ValueError(
                f"students learn from {teacher}, which is not among `variants`; add it there, or set `students: []`"
            )
        return self

    @property
    def everyone(self) -> tuple[str, ...]:
        """All that is exported, scored and compared."""
        return (*self.variants, *self.students)


class Params(_Model):
    """All choices of a pipeline, with the chosen profile already laid over the rest."""

    profile: Literal["quick", "full"]
    seed: int = Field(ge=0, lt=2**32)
    pipeline: Pipeline
    data: dict[str, Data]
    embedded: Embedded
    prepare: Prepare = Prepare()
    validation: Validate
    judge: Judge
    train: Train
    variants: Variants
    evaluate: Evaluate
    usefulness: Usefulness
    gate: Gate
    tracking: Tracking

    @model_validator(mode="after")
    def _datasets_have_names(self) -> "Params":
        for name in self.data:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):  # it becomes part of file, stage and model names
                raise ValueError(
                    f"data: {name!r} is no dataset name; use small letters, digits and underscores, a letter first"
                )
        for name in self.pipeline.datasets:
            if name not in self.data:
                described = f"`data` describes {', '.join(self.data) or 'none'}"
                raise ValueError(f"pipeline.datasets: {described}, but no {name!r}; add data.{name} or leave it out")
        return self

    @property
    def train_seed(self) -> int:
        """What training draws its random numbers from."""
        return self.seed if self.train.seed is None else self.train.seed

    def dataset(self, name: str) -> Data:
        """Where dataset `name` comes from; raises ParamsError when it is none of the pipeline's."""
        if name not in self.data:
            raise ParamsError(f"No dataset {name!r} in the params; there are: {', '.join(self.data)}.")
        if name not in self.pipeline.datasets:
            raise ParamsError(f"{name!r} is described in the params, but not among pipeline.datasets; add it there.")
        return self.data[name]


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml; raises ParamsError with one sentence naming the file, the key and the way out."""
    return resolve(read(path), str(path))


def read(path: Path) -> dict[str, Any]:
    """What params.yaml holds, its profiles apart and nothing checked yet; raises ParamsError for what is no mapping."""
    try:
        if path.exists() and (not path.is_file() or path.stat().st_size > MAX_BYTES):
            raise ParamsError(f"{path} is no file of at most {MAX_BYTES >> 20} MB; pass another one as --params.")
        raw = strict_yaml.load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist here; run from the project's folder or pass --params.") from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path} holds no keys; it must be a mapping such as `profile: quick`.")
    return raw


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
    # A misspelt key explains the missing one.
    errors = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    first = errors[0]
    # A union reports one error per member; the key is what the path holds before the member's name.
    is_member = [isinstance(part, str) and ("[" in part or "tuple" in part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        is_member[-1] = False  # a key that somebody wrote, whatever it looks like
    path = [part for part, skipped in zip(first["loc"], is_member, strict=True) if not skipped]
    key = ".".join(str(part) for part in path)
    message, shown = first["msg"].removeprefix("Value error, "), reprlib.repr(first["input"])
    if first["type"] == "extra_forbidden":
        keys = _keys_at(path[:-1])
        text = f"unknown key `{key}`{_nearest(str(path[-1]), keys)}"
    elif first["type"] == "missing":
        text = f"`{key}` is missing"
    elif first["type"] == "value_error":
        text = f"`{key}`: {message}" if key else message
    elif first["type"] == "literal_error":
        expected = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
        text = f"`{key}` is {shown}{_nearest(str(first['input']), expected)}"
    else:
        text = f"`{key}` is {shown}: {message[0].lower()}{message[1:]}"
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
