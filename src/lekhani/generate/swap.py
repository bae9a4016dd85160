"""Replacing a dataset: the new one is written completely into a hidden folder, then moved to the place of the old one.

Only what the old datasheet lists is removed. From the moment at which the old datasheet is put away, any later command
ends the move before it does anything else, so that a killed one leaves the old dataset, the new one, or this state.
"""

from pathlib import PurePosixPath

from lekhani.errors import UsageError
from lekhani.generate.datasheet import Datasheet
from lekhani.generate.store import UNFINISHED, Store

SHEET, PAGE = "dataset.json", "README.md"
REQUEST = f"{UNFINISHED}/request.json"
REPLACEMENT = f"{UNFINISHED}/new"
_OLD = f"{REPLACEMENT}/replaced.json"  # the old datasheet, once the move has begun


def check_room(store: Store, old: Datasheet, new: Datasheet) -> None:
    """Raise UsageError where a file of the new dataset would take the place of one that the old sheet does not list."""
    for number in range(new.plan.shards):
        names = sorted(set(new.files(number)) - set(old.files(number)))
        parents = {str(PurePosixPath(name).parent) for name in names} - {"."}
        taken = [name for name in parents if store.is_file(name)] or store.present(names)
        if taken:
            problem = f"{store.out}/{taken[0]} is no part of the dataset there, and the new one needs that name"
            raise UsageError(f"{problem}; move it away, or choose another --out.")


def swap(store: Store) -> None:
    """Let the finished replacement take the place of the dataset in `store`."""
    new = store.read(f"{REPLACEMENT}/{SHEET}", Datasheet)
    if new is not None:
        if not store.exists(_OLD):
            store.rename(SHEET if store.exists(SHEET) else REQUEST, _OLD)
        store.remove(SHEET)  # where moving is copying and removing, it may still be there
        _move(store, store.read(_OLD, Datasheet) or new, new)
    store.clear_unfinished()


def finish_swap(store: Store) -> None:
    """Finish a swap that was interrupted."""
    if store.exists(_OLD):
        swap(store)


def _move(store: Store, old: Datasheet, new: Datasheet) -> None:
    beside = store.below(REPLACEMENT)
    for number in range(max(old.plan.shards, new.plan.shards)):
        names = new.files(number)
        store.remove_files(sorted(set(old.files(number)) - set(names)))
        store.take(beside, names)
    store.take(beside, [PAGE])
    store.take(beside, [SHEET])
