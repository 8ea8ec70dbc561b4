"""Prove that two folders are not one folder under two names, before anything in one is deleted.

Theory of operation. Two names of one store (an alias of a host, another gateway, a mount) give one
object two locations; a deletion at the source would then delete the only copy. URLs do not show
that. So a probe, a few bytes under a name that never existed, is written at the destination, and
the source is asked for it: in its own folder, and wherever the destination's path could end below
it. A source that does not have the probe is another place.

The other way round, a source that lies below the destination under another name has its objects at
the destination too, below the last folders of the source's path. Such names are asked for.

Decided here: whether two folders are one. Never here: what follows (`source_removal.py`)."""

from __future__ import annotations

from contextlib import suppress
from typing import Final
from urllib.parse import unquote
from uuid import uuid4

from relay.engine.inspection import inspect_object
from relay.engine.scratch import body_from_bytes
from relay.errors import NotFound, RelayError, SameObject
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import (
    Destination,
    ObjectInfo,
    PutResult,
    Source,
    StoreProvider,
    temporary_name,
)
from relay.wire.watchdog import Watchdog

PROBE: Final = b"relay asks whether two names lead to one place; this may be deleted\n"
DEEPEST: Final = 8
"""Number of the destination's last folders that are looked for below the source."""


def are_distinct(
    stores: StoreProvider,
    source: Location,
    destination: Location,
    meter: Watchdog,
    *,
    deepest: int = DEEPEST,
) -> bool:
    """Return whether two folders are certainly not one, and the destination's is not one of the
    `deepest` levels below the source's; False if that is unknown. Raises SameObject if it is, and
    retryable errors. Leaves nothing there, unless the destination does not delete."""
    store = stores.destination(destination, meter)
    try:
        probe = _write(store, destination, meter)
    except RelayError as error:
        if error.retryable:
            raise
        return False
    try:
        return not _shows_probe(stores.source(source, meter), source, probe, deepest)
    finally:
        with suppress(RelayError):
            _remove(store, probe)


def names_within(inner: Location, name: str, *, deepest: int = DEEPEST) -> list[str]:
    """Return the names that an object `name` of a folder has in a folder that may contain that one,
    under any name of the store."""
    segments = [unquote(one) for one in inner.path.split("/") if one]
    depths = range(1, min(len(segments), deepest) + 1)
    return ["/".join((*segments[-depth:], name)) for depth in depths]


def names_below(inner: Location, name: str, *, deepest: int = DEEPEST) -> list[str]:
    """Return the names that an object `name` of a folder may have in the `inner` one, if that lies
    in it under any name of the store."""
    prefixes = (one[: -len(name)] for one in names_within(inner, name, deepest=deepest))
    return [name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)]


def _write(store: Destination, folder: Location, meter: Watchdog) -> PutResult:
    """Write the probe and return it; a store that has temporary names keeps it under one."""
    place = folder.below(f"relay-probe-{uuid4().hex}", destination=True)
    if not store.staged_locations(place, ""):
        place = folder.below(temporary_name(None))
    with body_from_bytes(PROBE, meter) as body:
        stored = store.put(place, body)
    if stored.readable is None:
        raise NotFound(f"{folder} does not name what it stored", side="destination")
    return stored


def _remove(store: Destination, probe: PutResult) -> None:
    assert probe.readable is not None  # `_write` refuses it otherwise
    # No other writer has a temporary name.
    store.delete(probe.readable, probe.version if probe.place is None else Version())


def _shows_probe(store: Source, folder: Location, probe: PutResult, deepest: int) -> bool:
    """Return False if the source certainly does not have the probe, and True if it does not say.
    Raises SameObject if it has the probe, and retryable errors."""
    assert probe.readable is not None
    segments = [unquote(one) for one in probe.readable.path.split("/") if one]
    for depth in range(1, min(len(segments), deepest) + 1):
        place = folder.below("/".join(segments[-depth:]))
        try:
            found = inspect_object(store, place)
        except NotFound:
            continue
        except RelayError as error:
            if error.retryable:
                raise
            return True
        if not isinstance(found, ObjectInfo):
            return True
        raise SameObject(
            f"{folder} and the destination are one place, or one is inside the other: a probe"
            f" written at {probe.readable} is at {place}",
            side="destination",
            hint="Nothing was deleted. Give a destination that is not the source by another name.",
        )
    return False
