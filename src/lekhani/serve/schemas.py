"""Bodies of requests, and what OpenAPI says of responses."""

from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from lekhani.handwriting.ink import Reason
from lekhani.handwriting.render import EFFECTS, Effect, Ink, Paper, Strength
from lekhani.serve.responses import JSON, KINDS

MAX_SEEDS = 8  # that one image may lie between


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Dataset = Annotated[
    str,
    Field(max_length=100, description="whose champion to use, as GET /v1/models names them", examples=["devanagari"]),
]
Seed = Annotated[
    int, Field(ge=0, le=2**63 - 1, description="the same seed gives the same picture, as long as the model is the same")
]
Wanted = Annotated[str, Query(max_length=100, description="a dataset, as GET /v1/models names them")]
WantedLabels = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=80)]],
    Query(min_length=1, max_length=1000, description="glyphs, class names or label numbers; repeat the parameter"),
]
WantedCount = Annotated[int, Query(ge=1, le=10_000, description="images of each label")]
WantedSeed = Annotated[int, Query(ge=0, le=2**63 - 1, description="which of the images")]
Version = Annotated[
    str | None,
    Field(
        max_length=20,
        description="a registered version, as GET /v1/versions names them, instead of the one that is served",
    ),
]
Weight = Annotated[float, Field(allow_inf_nan=False)]
Label = Annotated[str, Field(min_length=1, max_length=80)] | Annotated[int, Field(ge=0, le=100_000)]
Picture = Annotated[
    str,
    Field(
        min_length=1,
        max_length=20_000_000,
        description="a picture file, such as a PNG, in base64",
        json_schema_extra={"contentEncoding": "base64"},
    ),
]


class Generate(_Body):
    """What to draw: `n` images of each label."""

    model: Dataset = "devanagari"
    version: Version = None
    labels: list[Label] = Field(
        min_length=1,
        max_length=1000,
        description="glyphs, class names, or label numbers as integers",
        examples=[["क", "०"]],
    )
    n: int = Field(1, ge=1, le=10_000)
    seed: Seed = 0
    min_confidence: float | None = Field(
        None, ge=0, le=1, description="keep only what the judge recognises with at least this confidence"
    )
    truncation: float | None = Field(
        None, gt=0, le=100, description="keep the noise within so many standard deviations"
    )


class Point(_Body):
    """One image: a label, and noise between seeds."""

    label: Label | None = Field(None, description="may be left out where the model takes no labels")
    mix: dict[Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,18})$")], Weight] = Field(
        min_length=1,
        max_length=MAX_SEEDS,
        description="seeds with their weights, of which the noise of the image is the sum, scaled to unit length",
        examples=[{"7": 0.8, "12": 0.6}],
    )


class Explore(_Body):
    """Where to draw: an image at each point."""

    model: Dataset = "devanagari"
    version: Version = None
    points: list[Point] = Field(
        min_length=1,
        max_length=10_000,
        examples=[[{"label": "क", "mix": {"7": 1.0}}, {"label": "ख", "mix": {"7": 1.0}}]],
    )


class Steps(_Body):
    """What to draw step by step: one image of each label."""

    model: Dataset = "devanagari"
    variant: str = Field(
        min_length=1, max_length=100, description="one of `animated` in GET /v1/models", examples=["draw"]
    )
    labels: list[Label] = Field(
        min_length=1, max_length=24, description="glyphs, class names, or label numbers as integers", examples=[["क"]]
    )
    seed: Seed = 0


class Compose(_Body):
    """A text as `n` lines, each in one hand."""

    model: Dataset = "devanagari"
    text: str = Field(min_length=1, max_length=200, examples=["४२ कखग"])
    n: int = Field(1, ge=1, le=100, description="lines in as many hands: of the seeds seed, seed + 1 and so on")
    seed: Seed = 0
    height: int = Field(64, ge=16, le=256, description="pixels")
    join: bool = Field(True, description="draw the head line from letter to letter")
    variety: float = Field(0.3, ge=0, le=1, description="how much the glyphs differ beyond their letters")
    augment: Strength = Field("light", description="how strong paper, ink, rotation, blur and noise are")
    without: list[Effect] = Field(
        [], max_length=len(EFFECTS), description="effects to leave out; without `ink` it is black"
    )
    paper: Paper = Field("plain", description="plain, ruled or squared paper")
    ink: Ink = Field("any", description="black, blue, pencil, or any of them")
    light_on_dark: bool = Field(False, description="light ink on dark paper")
    min_confidence: float = Field(
        0.5, ge=0, le=1, description="draw a letter again until the judge recognises it with this confidence; 0: never"
    )
    learned_only: bool = Field(False, description="refuse texts with signs that the model has not learned")


Force = Annotated[bool, Field(description="answer even where the judge is unsure or sees no single glyph")]


class Recognise(_Body):
    """A picture of one glyph."""

    model: Dataset = "devanagari"
    image: Picture
    force: Force = False


class Translate(_Body):
    """A picture of one digit, or of a row of them, to be written in another hand."""

    model: Dataset = Field("devanagari", description="whose judge reads the picture")
    to: Dataset = Field("mnist", description="whose champion writes what was read")
    image: Picture
    seed: Seed = 0
    force: Force = False


class Problem(BaseModel):
    """An error, after RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    reason: Reason | None = Field(None, description="why a picture was not read")
    glyphs: int | None = Field(None, description="about how many glyphs such a picture shows")
    readings: list[dict[str, Any]] = Field([], description="what `force` would take, where a picture is not sure")
    parts: list[dict[str, Any]] = Field([], description="what each of several glyphs is read as, where they come apart")


def _documented(*kinds: str) -> dict[str, Any]:
    """The arguments of a route that describe its responses of these media types, and its errors."""
    content: dict[str, Any] = {
        kind: {"schema": {"type": "object"} if kind == JSON else {"type": "string", "format": "binary"}}
        for kind in kinds
    }
    problem = {"content": {"application/problem+json": {"schema": Problem.model_json_schema()}}}
    errors = {
        400: "no JSON",
        401: "no valid key",
        404: "no such model or version",
        406: "no such media type",
        408: "too slow",
        413: "too large",
        415: "no JSON",
        421: "another host",
        422: "not what the schema says, or a picture that shows no glyph for sure",
        429: "too much waits; see Retry-After",
        503: "not in time, not ready, or the registry does not answer",
    }
    described = {status: {"description": description, **problem} for status, description in errors.items()}
    return {"responses": {200: {"description": "Done", "content": content}, **described}, "response_class": Response}


IN_ANY_KIND, IN_JSON = _documented(*KINDS), _documented(JSON)
