"""What tests of written datasets share: the digests of all files, and a sampler that fails in the middle."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lekhani.inference.sampling import sample_shard


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below `folder`, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def failing_at(call: int, error: BaseException) -> Callable[..., Any]:
    """`sample_shard` that raises `error` the `call`-th time, counted from 1."""
    left = [call]

    def sample(*words: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise error
        return sample_shard(*words)

    return sample
