"""Checkpoints: written whole or not at all, the last few kept, a damaged one skipped, another run's refused."""

import hashlib
import io
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from lekhani.errors import UsageError, first_line
from lekhani.files import remove, replacing

log = logging.getLogger("lekhani")


class _Content(BaseModel):
    """What a checkpoint holds."""

    model_config = ConfigDict(strict=True, extra="forbid")

    made_with: dict[str, str]
    state: dict[str, Any]


class Checkpoints:
    """The folder checkpoints/D/V. `made_with` names all that training depends on; a run with other values is refused.

    A file is called STEP-DIGEST.pt, where DIGEST is the start of its SHA-256, so that a damaged one is recognised.
    """

    def __init__(self, folder: Path, made_with: Mapping[str, Any], keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        self.made_with = {key: str(value) for key, value in made_with.items()}

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` and drop the oldest beyond `keep`; raises LekhaniError when the disk refuses."""
        buffer = io.BytesIO()
        torch.save({"made_with": self.made_with, "state": state}, buffer)
        content = buffer.getvalue()
        path = self.folder / f"{step:09d}-{_digest(content)}.pt"
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        for old in self._files()[: -self.keep]:
            remove(old)

    def load(self) -> dict[str, Any] | None:
        """The newest undamaged state, all tensors on the CPU, or None.

        Raises UsageError naming the value that has changed since.
        """
        for path in reversed(self._files()):
            try:
                content = path.read_bytes()
                if _digest(content) != path.stem.split("-")[1]:
                    raise ValueError("its digest is wrong")
                # weights_only, since code must not come in with a file, whoever wrote it.
                read = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                found = _Content.model_validate(read)
                self._check_same(found.made_with)
            except UsageError:
                raise
            except Exception as error:  # torch and pickle raise many classes
                log.warning("The checkpoint %s is damaged (%s); going on from the one before.", path, first_line(error))
            else:
                return found.state
        return None

    def clear(self) -> None:
        """Remove them all: the run is complete."""
        remove(self.folder)

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.pt") if re.fullmatch(r"\d{9,}-[0-9a-f]{16}", path.stem))

    def _check_same(self, before: Mapping[str, str]) -> None:
        for key in sorted({*before, *self.made_with}):
            old, new = before.get(key, "not set"), self.made_with.get(key, "not set")
            if old != new:
                change = f"with {key} {old}, and now it is {new}"
                remedy = f"put it back to go on with that run, or remove {self.folder} to start afresh."
                raise UsageError(f"{self.folder} holds an unfinished run {change}; {remedy}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
