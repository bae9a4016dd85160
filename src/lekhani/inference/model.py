"""A generator together with what belongs to it: commands, flows and servers write with the same ones."""

from dataclasses import dataclass

from lekhani.data.spec import GlyphClass
from lekhani.inference.session import Generator, Reader


@dataclass(frozen=True)
class LoadedModel:
    """A generator, and its judge where one is known.

    An unconditional generator needs the judge to serve labels, the others to filter.
    """

    generator: Generator
    reader: Reader | None
    origin: str  # for people: where the generator came from
    version: str | None = None  # lekhani-D:N, when it is registered

    @property
    def classes(self) -> tuple[GlyphClass, ...]:
        """What it can write, in label order."""
        return self.generator.classes
