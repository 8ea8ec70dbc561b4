"""Detect a destination that folds two names of one tree into one, before the second object is sent.

Theory of operation. One of them is there, or may be. Where nothing is under the name of the other
the destination tells them apart; where the same version shows under both, and no listing has both
names, it does not.

Decided here: when two names are one. Never here: which names may be
(`relay/ledger/folded_names.py`)."""

from __future__ import annotations

from urllib.parse import unquote

from relay.engine.inspection import inspect_object
from relay.errors import KeyCollision, NotFound, Rejected, RelayError
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import Destination, ObjectInfo


def refuse_folded_names(
    destination: Destination, place: Location, twins: tuple[Location, ...]
) -> None:
    """Raise KeyCollision where one of the `twins`, which may be there, is the object that is, or
    would be, at `place`; StoreError."""
    for twin in twins:
        try:
            theirs = inspect_object(destination, twin)
            ours = inspect_object(destination, place)
        except NotFound:
            continue
        except Rejected:
            if _is_no_object(destination, twin):
                continue  # if `place` is that too, its upload is refused as well
            raise
        if not (isinstance(theirs, ObjectInfo) and isinstance(ours, ObjectInfo)):
            raise _collision(
                place, twin, "may be one name there, which the destination does not tell"
            )
        if (
            not _is_tagged(destination, twin, theirs.version, ours.version)
            and _looks_one(ours.version, theirs.version)
            and not _lists_both(destination, place, twin)
        ):
            raise _collision(place, twin, "are one name there")


def _is_tagged(destination: Destination, twin: Location, theirs: Version, ours: Version) -> bool:
    """Say if their tags tell the two apart. Not those of files, which have their inodes in them:
    FUSE numbers a file by each name that it was asked by (fuse(8), `use_ino`), and a folder always
    tells. Raises StoreError."""
    if twin.store == "local":
        return False
    return ours.etag != theirs.etag and _is_steady(destination, twin, theirs)


def _is_no_object(destination: Destination, twin: Location) -> bool:
    """Say if what is there is a folder, or has another name than this."""
    try:
        destination.head(twin)
    except Rejected:
        return True
    return False


def _looks_one(one: Version, other: Version) -> bool:
    """Some servers keep a date for each name that they were asked by, of one object (`rclone serve
    s3`)."""
    tagged = one.etag is not None and one.etag == other.etag
    return one.size == other.size and (tagged or one.last_modified == other.last_modified)


def _is_steady(destination: Destination, place: Location, there: Version) -> bool:
    """Say if what is there is called as it was before: some servers behind a balancer give each
    answer another entity tag, which tells no two objects apart. Raises StoreError."""
    try:
        found = inspect_object(destination, place)
    except NotFound:
        return False
    return isinstance(found, ObjectInfo) and found.version.etag == there.etag


def _lists_both(destination: Destination, place: Location, twin: Location) -> bool:
    """Say if a listing has both names: then two objects only look alike.

    Asked of the folder that both are in, for the first segments that differ: a listing spells what
    lies above as it was asked, also where that is another folder's name."""
    names = [one.path.split("/") for one in (place, twin)]
    same = next(
        (at for at, (one, other) in enumerate(zip(*names, strict=False)) if one != other), 0
    )
    wanted = {
        unquote(name[same], errors="surrogateescape") + "/" * (same + 1 < len(name))
        for name in names
    }
    if not same or len(wanted) < len(names):
        return False
    try:
        folder = place.with_target("/".join([*names[0][:same], ""]))
        for entry in destination.list(folder, False):
            if entry.error is None:
                wanted.discard(entry.name)
            if not wanted:
                return True
    except RelayError:
        pass
    return False


def _collision(place: Location, twin: Location, what: str) -> KeyCollision:
    return KeyCollision(
        f"{place} and {twin} {what}",
        hint=(
            "Two objects would become one: rename one of them at the source, or choose another"
            " destination."
        ),
    )
