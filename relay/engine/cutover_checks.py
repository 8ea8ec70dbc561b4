"""What a cutover needs besides equal trees: checked in its rehearsal.

Decided here: the checks, and which of them prevents a cutover. Never here: the trees
(`cutover_audit.py`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from relay.engine.migration_request import MigrationJob
from relay.engine.transfer_engine import TransferEngine
from relay.errors import RelayError
from relay.location import Location
from relay.process.mounts import Mount
from relay.process.native_threads import in_native_thread
from relay.stores.interfaces import OpenUploads, UploadsSource
from relay.stores.local_locations import path_of
from relay.throttle import Bounds
from relay.wire.watchdog import Watchdog

_WITH_UPLOADS: Final = frozenset({"s3"})
"""Stores whose uploads of others become visible as a whole, and that list them."""


class CheckLevel(StrEnum):
    """What a check means for a cutover."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    """It prevents the cutover."""


@dataclass(frozen=True)
class Check:
    """One result of a rehearsal."""

    level: CheckLevel
    text: str


def open_uploads(job: MigrationJob, engine: TransferEngine) -> OpenUploads | RelayError | None:
    """Return the multipart uploads that are open at the source, the error for which they are not
    known, or None if the store has no such uploads."""
    if job.source.store not in _WITH_UPLOADS:
        return None
    source = engine.stores.source(job.source, Watchdog(engine.limits))
    try:
        return cast(UploadsSource, source).open_uploads(job.source)
    except RelayError as error:
        return error


def limit_checks(bounds: Bounds) -> Iterator[Check]:
    """Yield a warning for each limit that makes the last pass slower."""
    for name, most in bounds.set_limits().items():
        yield Check(CheckLevel.WARN, f"the limit {name.replace('_', ' ')} {most:,} is in force")


def mount_check(source: Location, mounts: Sequence[Mount]) -> Check | None:
    """Return a warning about a local source on one of the mounts whose file system is a program:
    it may show the writes of others late. None for any other source."""
    if source.store != "local":
        return None
    path = in_native_thread(lambda: os.path.realpath(path_of(source)))
    above = [one for one in mounts if os.path.commonpath([one.point, path]) == one.point]
    kind = max(reversed(above), key=lambda one: len(one.point)).kind if above else ""
    if not kind.startswith("fuse"):
        return None
    return Check(
        CheckLevel.WARN,
        f"the source is a mount of type {kind}, which may show the writes of others late: wait"
        " longer than its cache after they have stopped",
    )


def room_check(job: MigrationJob, needed: int) -> Check | None:
    """Return whether a local destination has room for the `needed` bytes of another pass; None for
    a store whose room is not known."""
    if job.destination.store != "local":
        return None
    path = path_of(job.destination)
    try:
        found = in_native_thread(lambda: os.statvfs(path))
    except OSError:
        return Check(CheckLevel.WARN, "the room at the destination is not known")
    free = found.f_bavail * found.f_frsize
    level = CheckLevel.OK if free > 2 * needed else CheckLevel.FAIL
    return Check(level, f"{free:,} bytes are free at the destination")
