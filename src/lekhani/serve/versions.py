"""Registered versions beside the champions: which there are, and the few that clients asked to write with."""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from fastapi import HTTPException

from lekhani.errors import LekhaniError
from lekhani.pen import pretrained_card
from lekhani.serve.batching import BoundedPool
from lekhani.serve.champions import Champions, ServedModel

KEPT = 4  # versions in memory
FIGURES = ("fid_ratio", "label_agreement", "usefulness")
_Found = TypeVar("_Found")


class Versions:
    """Versions of the datasets that are served, of which the last KEPT that were asked for stay loaded.

    One that is loaded is not looked up again, whatever happens in the registry. Whatever waits for the registry runs in
    `pool`. Coroutines belong to one event loop, and raise HTTPException: 404 where there is no such version, 503 where
    the registry does not answer.
    """

    def __init__(self, champions: Champions, pool: BoundedPool) -> None:
        self.champions, self.pool = champions, pool
        self._loaded: OrderedDict[tuple[str, str], ServedModel] = OrderedDict()
        self._loading: dict[tuple[str, str], asyncio.Task[ServedModel]] = {}

    async def listed(self, dataset: str) -> list[dict[str, Any]]:
        """All registered versions of a dataset, the newest first; what is served, where that comes from a file."""
        if self._is_registered(dataset):
            return await self.pool.run(lambda: _registered(dataset))
        generator = self.champions.served[dataset].generator
        figures = await self.pool.run(lambda: _figures_of_package(generator.path))
        about: dict[str, Any] = {"version": "", "aliases": [], "variant": generator.variant}
        return [{**about, "verdict": None, "created": None, "figures": figures, "url": None}]

    async def find(self, dataset: str, number: str) -> ServedModel:
        """A version, loaded with its judge; who asks for one that is being loaded waits for that.

        Raises LekhaniError where its files are missing or damaged.
        """
        served, key = self.champions.served[dataset], (dataset, number)
        if number in {"", served.version}:
            return served
        if not self._is_registered(dataset):
            problem = f"{dataset} is served from a file, so there is no version {ascii(number)[1:-1]} of it"
            raise HTTPException(404, f"{problem}; leave the version out.")
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return self._loaded[key]
        if key not in self._loading:
            self._loading[key] = asyncio.create_task(self._load(*key))
            self._loading[key].add_done_callback(lambda task: self._end(key, task))
        return await asyncio.shield(self._loading[key])  # who goes away ends nobody else's waiting

    def _is_registered(self, dataset: str) -> bool:
        return any(one.dataset == dataset and one.model is None for one in self.champions.sources)

    async def _load(self, dataset: str, number: str) -> ServedModel:
        model = await self.pool.run(lambda: self._fetched(dataset, number))
        self._loaded[dataset, number] = model
        if len(self._loaded) > KEPT:
            self._loaded.popitem(last=False)  # requests that wait for its images still get them
        return model

    def _end(self, key: tuple[str, str], task: asyncio.Task[ServedModel]) -> None:
        del self._loading[key]
        if not task.cancelled():
            task.exception()  # asyncio logs one that nobody looked at, as where all who waited are gone

    def _fetched(self, dataset: str, number: str) -> ServedModel:
        from lekhani.registry import models

        is_number = re.fullmatch("[1-9][0-9]{0,8}", number)
        if not (is_number and _answered(lambda: models.has_version(dataset, number))):
            problem = f"There is no version {ascii(number)[1:-1]} of {dataset}"
            raise HTTPException(404, f"{problem}; GET /v1/versions?model={dataset} lists those that there are.")
        with TemporaryDirectory() as folder:  # nothing of the files is read later
            return self.champions.load(dataset, models.fetch(dataset, number, folder=Path(folder)))


def _registered(dataset: str) -> list[dict[str, Any]]:
    from lekhani.registry import listing, models

    def look_up() -> list[dict[str, Any]]:
        rows = [one.as_dict() for one in listing.listed([dataset])]
        return [
            {
                **{name: row[name] for name in ("version", "aliases", "variant", "verdict", "created")},
                "figures": {name: row[name] for name in FIGURES},
                "url": models.page_of(dataset, row["version"]),
            }
            for row in rows
        ]

    return _answered(look_up)


def _figures_of_package(generator: Path) -> dict[str, float | None]:
    """The figures of a model that came with the package; None where they are not known."""
    figures: dict[str, Any] = dict.fromkeys(FIGURES)
    if card := pretrained_card(generator):
        known = card[generator.name]["figures"]
        figures |= {"fid_ratio": known["fid"] / known["fid_floor"], "label_agreement": known["label_agreement"]}
    return figures


def _answered(ask: Callable[[], _Found]) -> _Found:
    """What the registry answers."""
    try:
        return ask()
    except LekhaniError as error:
        raise HTTPException(503, str(error)) from None
