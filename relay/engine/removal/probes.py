"""Probes: small objects that are written to find out whether two names lead to one place.

Theory of operation. A probe has a name that never existed, and that looks like the names of its
folder: a server may hide or refuse names of another kind. Its bytes are its own, so that reading
shows which probe is there. It is read past all caches, and deleted by the path that objects take.

Decided here: how a probe is written, read and removed. Never here: what follows from it
(`distinct_places.py`)."""

from __future__ import annotations

import re
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from relay.engine.inspection import inspect_object
from relay.engine.scratch import TRIES, body_from_bytes
from relay.errors import NotFound, RelayError, StoreError
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import DeletingSource, ObjectInfo, StoreProvider
from relay.wire.watchdog import Watchdog

TEXT: Final = "relay asks whether two names lead to one place; this may be deleted"
_ODD: Final = re.compile("[^0-9A-Za-z_-]+")
_ENDING: Final = re.compile("[0-9A-Za-z]{1,16}")


@dataclass(frozen=True)
class Probe:
    """A probe that was written."""

    place: Location
    version: Version
    data: bytes


@dataclass(frozen=True)
class ReadProbe:
    """What is at a probe's place."""

    version: Version
    data: bytes


def probe_name(like: str) -> str:
    """Return a name that never existed, and that looks like that of an object."""
    stem, dot, ending = like.rpartition("/")[2].rpartition(".")
    stem = _ODD.sub("", stem if dot else ending)[:30].strip("-_") or "x"
    last = f".{ending}" if dot and _ENDING.fullmatch(ending) else ""
    return f"{stem}-relay-probe-{uuid4().hex[:16]}{last}"


def write_probe(stores: StoreProvider, place: Location, meter: Watchdog) -> Probe:
    """Write a probe and publish it. Raises StoreError."""
    for _ in range(TRIES - 1):
        try:
            return _write_once(stores, place, meter)
        except RelayError as error:
            # The next try does without a feature, or has another temporary name.
            status = error.store_status if isinstance(error, StoreError) else None
            if not error.retryable or not 400 <= (status or 0) < 500:
                raise
    return _write_once(stores, place, meter)


def _write_once(stores: StoreProvider, place: Location, meter: Watchdog) -> Probe:
    data = f"{TEXT} ({uuid4().hex})\n".encode()
    store = stores.destination(place, meter)
    with body_from_bytes(data, meter) as body:
        stored = store.put(place, body)
    if stored.place is None:
        return Probe(place, stored.version, data)
    try:
        return Probe(place, store.publish(stored), data)
    except RelayError:
        if stored.readable is not None:
            with suppress(RelayError):
                store.delete(stored.readable, Version())
        raise


def read_probe(stores: StoreProvider, place: Location, meter: Watchdog) -> ReadProbe | None:
    """Return what is at a place, or None. Raises StoreError."""
    try:
        opened = stores.destination(place, meter).get(place)
    except NotFound:
        return None
    assert opened.body is not None  # an OpenedObject has one
    with closing(opened.body) as body:
        return ReadProbe(opened.version, body.read())


def shows(stores: StoreProvider, place: Location, meter: Watchdog) -> bool | None:
    """Return whether a store has an object at a place; None if it does not say. Raises retryable
    errors."""
    try:
        found = inspect_object(stores.destination(place, meter), place)
    except NotFound:
        return False
    except RelayError as error:
        if error.retryable:
            raise
        return None
    return True if isinstance(found, ObjectInfo) else None


def delete_as_objects(
    stores: StoreProvider, probe: Probe, store: object, meter: Watchdog, *, purge: bool
) -> None:
    """Delete a probe as `store` deletes objects, with what a bucket keeps of it. Raises
    StoreError."""
    plain = stores.destination(probe.place, meter)
    # Apache's ETag of a file is weak in its first second.
    if probe.version.strong_etag is None or not isinstance(store, DeletingSource):
        return plain.delete(probe.place, probe.version)
    done = store.delete_version(probe.place, probe.version, purge=purge)
    if done.marker is not None and probe.version.id is not None:
        with suppress(RelayError):  # the marker goes last: it hides the version
            plain.delete(probe.place, Version(id=probe.version.id))
            plain.delete(probe.place, Version(id=done.marker))


def remove_probe(stores: StoreProvider, probe: Probe, meter: Watchdog) -> None:
    """Remove a probe, if the store lets us. A locked bucket keeps it below a marker."""
    store = stores.destination(probe.place, meter)
    for version in (probe.version, Version()):  # no other writer has its name
        with suppress(RelayError):
            return store.delete(probe.place, version)
