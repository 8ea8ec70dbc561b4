"""Read a source object again, where its version does not show a change within one second.

Theory of operation. Many web servers make an ETag of the size and of the date in seconds (nginx),
so an object that was changed within the second of its date, after it was read, keeps its ETag. An
object that was read less than three seconds after its date is therefore read once more before it is
deleted, when its date is older than that; its bytes must have the digests of the receipt. A date in
the future is not awaited: three seconds later a change has another one. A store whose ETags name
the content, or each change, needs no second reading.

Decided here: which objects are read again. Never here: whether they are deleted
(`source_removal.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import gevent

from relay.digest import ALGORITHMS, compare
from relay.errors import SourceChanged
from relay.ledger.pages import TransferRow
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import ObjectInfo, Source
from relay.stores.local_files import changed_ns
from relay.wire.pump import drain
from relay.wire.watchdog import Watchdog

DATED_IN_SECONDS: Final = frozenset({"webdav"})
"""Stores whose servers may make an ETag of a date in seconds. Nextcloud's names each change."""
CLOSE_SECONDS: Final = 3.0
"""Age of an object, when it was read, from which a second change has another date. FAT keeps every
other second."""


def needs_second_reading(store: str, row: TransferRow, found: ObjectInfo, now: float) -> bool:
    """Return whether an object may have changed since it was read without another version. `now` is
    the time of this machine's clock, in seconds since 1970, at which it was `found`."""
    age = age_of(store, found, now)
    if age is None:
        return False
    begun = now if row.ended is None else row.ended - (row.seconds or 0.0)
    return age - (now - begun) < CLOSE_SECONDS


def age_of(store: str, found: ObjectInfo, now: float) -> float | None:
    """Return the seconds since the date in an object's version, 0 if that is unknown; or None where
    each change has another version."""
    if store in DATED_IN_SECONDS:
        return found.age or 0.0
    changed = changed_ns(found.version) if store == "local" else None
    # Most file systems date a change in nanoseconds; FAT and some mounts in seconds, or two.
    if changed is None or changed % 10**9:
        return None
    return now - changed / 1e9


def read_again(
    store: Source,
    place: Location,
    version: Version,
    digests: dict[str, bytes],
    meter: Watchdog,
    *,
    age: float | None,
    sleep: Callable[[float], None] = gevent.sleep,
) -> None:
    """Read a version of an object and compare its bytes with digests; first wait until it is old
    enough (`age` in seconds) for a change to have another date. Raises SourceChanged if they
    differ, or if no digest can be compared, and StoreError."""
    left = CLOSE_SECONDS - max(age or 0.0, 0.0)
    while left > 0:
        meter.check()
        sleep(min(left, meter.tick_seconds))
        left -= meter.tick_seconds
    names = tuple(name for name in ALGORITHMS if name in digests)
    body = store.get(place, version).body
    assert body is not None  # an OpenedObject has one
    try:
        body.digest_with(names)
        drain(body)
    finally:
        body.close()
    agreeing, differing = compare(body.digests, digests)
    if differing or agreeing is None or body.count != version.size:
        raise SourceChanged(f"{place} has other bytes than those that were moved", side="source")
