"""What tests of hostile files do to sound ones: change one entry of nested values, wherever it is."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

GONE = object()
Path = tuple[Any, ...]  # of keys and positions


def paths(value: Any, here: Path = ()) -> Iterator[Path]:
    """The path of every entry of nested dictionaries and lists."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield (*here, key)
        yield from paths(value[key], (*here, key))


def at(value: Any, path: Path) -> Any:
    """The entry of a path."""
    for key in path:
        value = value[key]
    return value


def changed(value: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    """A copy in which one entry is what `change` makes of it; for GONE it is left out."""
    new = copy.deepcopy(value)
    place, last = at(new, path[:-1]), path[-1]
    if (made := change(place[last])) is GONE:
        del place[last]
    else:
        place[last] = made
    return new
