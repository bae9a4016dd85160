"""Limits on what one client may ask of a server."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lekhani.errors import UsageError


class Limits(BaseModel):
    """Every limit of the API; `lekhani serve --limit NAME=VALUE` sets one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(1000, ge=1, le=10_000, description="images of one request, or characters of its lines together")
    text: int = Field(200, ge=1, le=200, description="characters of a line of text")
    line_pixels: int = Field(
        2_000_000, ge=10_000, description="pixels of a line, each of its characters as wide as it is high"
    )
    picture_bytes: int = Field(
        2_000_000, ge=1000, description="bytes of a picture that is sent, as PNG, JPEG or whatever it is"
    )
    picture_pixels: int = Field(16_000_000, ge=1000, description="pixels of a picture that is sent")
    body_bytes: int = Field(3_000_000, ge=1000, description="bytes of a request's body")
    held_bytes: int = Field(200_000_000, ge=1000, description="bytes of all bodies that are held at a time")
    header_seconds: float = Field(10, gt=0, description="time to send a request's head")
    body_seconds: float = Field(10, gt=0, description="time to send its body")
    answer_seconds: float = Field(30, gt=0, description="time to answer it")
    write_seconds: float = Field(30, gt=0, description="time for a client to take what it was sent")
    waiting_images: int = Field(4000, ge=1, description="images that all waiting requests ask for together")
    waiting_pictures: int = Field(64, ge=1, description="pictures that wait to be read")
    share_per_key: float = Field(0.5, gt=0, le=1, description="share of what may wait that one key may take")
    batch: int = Field(64, ge=1, le=4096, description="images drawn in one go")

    @model_validator(mode="after")
    def _room_for_one(self) -> "Limits":
        if self.waiting_images < self.images:
            bound = f"less than the {self.images} images of one request"
            raise ValueError(f"waiting_images is {self.waiting_images}, {bound}")
        return self


def parse_limits(changes: Sequence[str]) -> Limits:
    """The default limits with changes such as NAME=VALUE; raises UsageError for unknown names and bad values."""
    pairs = [entry.partition("=") for entry in changes]
    try:
        return Limits.model_validate({name: value for name, _, value in pairs})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UsageError(f"--limit {name}: {first['msg']}; there are: {', '.join(Limits.model_fields)}.") from error
