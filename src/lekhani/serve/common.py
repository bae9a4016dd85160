"""What routes have in common: the model that is asked for, a key's share, the media type, and counting."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Depends, Header, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from lekhani.inference.labels import label_of
from lekhani.serve import responses
from lekhani.serve.batching import Batcher, BoundedPool, BusyError
from lekhani.serve.champions import ServedModel
from lekhani.serve.limits import Limits

Accept = Annotated[str | None, Header()]


async def key_holder(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> str | None:
    """The name of the key that a request brings; None where it brings no valid one, or no keys are asked for."""
    keys = request.app.state.keys
    return keys.holder(given.credentials) if keys and given else None


Holder = Annotated[str | None, Depends(key_holder)]


@contextmanager
def own_share(
    request: Request, key: str | None, queue: Batcher | BoundedPool, cost: int, per_second: float = math.inf
) -> Iterator[None]:
    """Count what a key has waiting in a queue; raises BusyError when that would be more than its share.

    That is a share of what the queue takes, and of what can be done in time at this speed. The first request of a key
    is always let in. Without keys there is no bound: all clients are on this machine, at one address.
    """
    if key is None:
        yield
        return
    state, own = request.app.state, (queue, key)
    held, room = state.waiting[own], min(queue.capacity, queue.max_seconds * per_second)
    if held and held + cost > state.limits.share_per_key * room:
        problem = f"{held:,} images are waiting for this key already, which is most of its share"
        raise BusyError(f"{problem}; try again later.", held / per_second)
    state.waiting[own] += cost
    try:
        yield
    finally:
        state.waiting[own] -= cost
        state.waiting += Counter()  # drops what is 0


def kind_of(accept: str | None) -> str:
    """The media type to respond with."""
    kind = responses.negotiate(accept)
    if kind is None and accept and responses.PARQUET in accept:
        problem = "Parquet needs pyarrow, which is not installed where this server runs"
        raise HTTPException(
            406, f"{problem}; run `pip install 'lekhani[parquet]'` there, or accept another media type."
        )
    if kind is None:
        raise HTTPException(406, f"That media type is not available; Accept one of {', '.join(responses.KINDS)}.")
    return kind


def check_count(n: int, limits: Limits) -> None:
    """Refuse a request for more images than one may ask for."""
    if n > limits.images:
        problem = f"{n:,} images are more than {limits.images:,}, the most of one request"
        raise HTTPException(422, f"{problem}; ask for fewer.")


def model_of(request: Request, dataset: str) -> ServedModel:
    """The model that is served of a dataset; 404 where there is none."""
    served: dict[str, ServedModel] = request.app.state.champions.served
    if dataset not in served:
        raise HTTPException(404, f"There is no model {ascii(dataset)[1:-1]} here; there are {', '.join(served)}.")
    return served[dataset]


async def version_of(request: Request, key: str | None, dataset: str, version: str | None) -> ServedModel:
    """A registered version of a dataset that is served, loaded where it is not; the served one where `version` is None.

    404 where there is none.
    """
    model = model_of(request, dataset)
    if version is None:
        return model
    versions = request.app.state.versions
    with own_share(request, key, versions.pool, 1):
        found: ServedModel = await versions.find(dataset, version)
    return found


def label_in(wanted: str | int, model: ServedModel) -> int:
    """A glyph, a class name or a number as text, or a number; raises UsageError naming the valid ones."""
    classes = model.pen.classes
    if isinstance(wanted, int) and wanted < len(classes):
        return wanted
    text = wanted if isinstance(wanted, str) else f"number {wanted}"
    return label_of(text, classes, f"The label {ascii(str(wanted))[1:-1]}")


def count(request: Request, model: ServedModel, images: int) -> None:
    """Count the images in the metrics, the log and the daily report."""
    model.written += images
    request.app.state.metrics.images.labels(model.dataset).inc(images)
    request.scope["lekhani"] = {"dataset": model.dataset, "version": model.version, "images": images}


async def respond(kind: str, size: int, render: Callable[..., Any], *values: Any) -> Response:
    """The response that `render` makes of `values`, in a thread where that takes a while."""
    content = await asyncio.to_thread(render, *values) if size > 8 else render(*values)
    return JSONResponse(content) if kind == responses.JSON else Response(content, media_type=kind)
