"""All registered versions with their aliases, the gate's verdict and their leading metrics."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lekhani.registry.models import aliases, datasets, iso_time, model_name, registry_errors, tags_of, versions

_METRICS = {"fid_ratio": "x floor", "label_agreement": "agreement", "usefulness": "usefulness"}


@dataclass(frozen=True)
class Listed:
    """A version; what was not recorded is None."""

    dataset: str
    version: str
    aliases: tuple[str, ...]
    variant: str | None
    verdict: str | None  # of the gate
    fid_ratio: float | None
    label_agreement: float | None
    usefulness: float | None
    created: str  # ISO 8601, UTC

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def listed(wanted: Sequence[str] = ()) -> list[Listed]:
    """The versions of these datasets, or of all that have a registered model, the newest of each first."""
    found = []
    for dataset in wanted or datasets():
        held = aliases(dataset)
        with registry_errors(f"Could not read {model_name(dataset)} from"):
            known = versions(dataset)
        for version in sorted(known, key=lambda one: -int(one.version)):
            tags, number = tags_of(version), str(version.version)
            names = tuple(sorted(alias for alias, other in held.items() if other == number))
            ratio, agreement, usefulness = (float(tags[name]) if name in tags else None for name in _METRICS)
            about = tags.get("variant"), tags.get("gate.verdict")
            created = iso_time(version.creation_timestamp)
            found.append(Listed(dataset, number, names, *about, ratio, agreement, usefulness, created))
    return found


def table(rows: Sequence[Listed]) -> str:
    """The versions as a table for a terminal or a pipe."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    grid = Table("dataset", "version", "aliases", "variant", "gate", *_METRICS.values(), "registered", box=SIMPLE)
    for one in rows:
        ratio, *shares = one.fid_ratio, one.label_agreement, one.usefulness
        figures = ["-" if ratio is None else f"{ratio:.2f}", *("-" if x is None else f"{x:.1%}" for x in shares)]
        words = (one.dataset, one.version, ", ".join(one.aliases) or "-", one.variant or "-", one.verdict or "-")
        grid.add_row(*words, *figures, one.created)
    text = io.StringIO()
    Console(file=text, width=160, markup=False).print(grid)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines() if line.strip())  # rich pads its box
