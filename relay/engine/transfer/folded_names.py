"""Detect a destination that folds two names of one tree into one, before the second object is sent.

Theory of operation. One of the two objects is at the destination, or may be. If nothing is under
the other name, the destination distinguishes the names. If both names show the same version, and no
listing has both names, it folds them. The short names of FAT and NTFS need no second name: one that
exists and is not listed belongs to another object.

Decided here: when two names are the same. Never here: which names are suspects
(`relay/ledger/folded_names.py`)."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from relay.caseless import caseless_form
from relay.engine.inspection import inspect_object
from relay.errors import KeyCollision, NotFound, Rejected, RelayError
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import Destination, ObjectInfo

SHORTENING: Final = frozenset({"local", "sftp", "webdav"})
"""Stores that may be a FAT or NTFS volume, and that list a folder."""
_SHORT: Final = re.compile(r"[^.]{1,6}~[0-9]{1,6}(?:\.[^.]{1,3})?")
LOOKS: Final = 3
"""Number of times that both names are inspected again before different ETags prove two objects. Two
servers in random order show the same ETags by chance in one of 64 cases."""


def refuse_folded_names(
    destination: Destination, place: Location, twins: tuple[Location, ...]
) -> None:
    """Raise KeyCollision if the destination stores `place` and one of its `twins` as one object.
    Raises StoreError."""
    for twin in twins:
        try:
            theirs = inspect_object(destination, twin)
            ours = inspect_object(destination, place)
        except NotFound:
            continue
        except Rejected:
            if _is_no_object(destination, twin):
                continue  # if `place` is a folder too, its upload is refused anyway
            raise
        if not (isinstance(theirs, ObjectInfo) and isinstance(ours, ObjectInfo)):
            raise _collision(
                place, twin, "may be the same name there, and the destination does not show it"
            )
        if (
            not _is_tagged(destination, place, twin, ours.version, theirs.version)
            and _looks_one(ours.version, theirs.version)
            and not _lists_both(destination, place, twin)
        ):
            raise _collision(place, twin, "are the same name there")


def refuse_short_name(destination: Destination, place: Location) -> None:
    """Raise KeyCollision if the name of `place` is the short name of another object: FAT and NTFS
    give each long name one, such as `LONGNA~1.TXT`, under which a listing does not show it. Raises
    StoreError."""
    folder, _, segment = place.path.rpartition("/")
    name = unquote(segment, errors="surrogateescape")
    if place.store not in SHORTENING or _SHORT.fullmatch(name) is None:
        return
    try:
        inspect_object(destination, place)
    except NotFound:
        return
    form = caseless_form(name)  # a listing may show such a name in small letters
    try:
        if any(
            caseless_form(entry.name.rstrip("/")) == form
            for entry in destination.list(place.with_target(f"{folder}/"), False)
        ):
            return
    except RelayError:
        return  # nothing shows that it is another object
    raise KeyCollision(
        f"{place} is the short name of another object there",
        hint="That object was not changed. Rename the one at the source.",
    )


def _is_tagged(
    destination: Destination, place: Location, twin: Location, ours: Version, theirs: Version
) -> bool:
    """Return whether their ETags prove two objects. Not those of local files, which contain the
    inode: FUSE gives a file one inode for each name that was looked up (fuse(8), `use_ino`). Raises
    StoreError.

    `place` was inspected last and is inspected first here: a load balancer that takes its servers
    in turn then gives the second request for it to another server."""
    if twin.store == "local" or ours.etag == theirs.etag:
        return False
    both = [(place, ours), (twin, theirs)]
    for _ in range(LOOKS):
        if not all(_is_steady(destination, where, version) for where, version in both):
            return False
        both.reverse()
    return True


def _is_no_object(destination: Destination, twin: Location) -> bool:
    """Return whether the place is a folder, or an object of another spelling."""
    try:
        destination.head(twin)
    except Rejected:
        return True
    return False


def _looks_one(one: Version, other: Version) -> bool:
    """Return whether two versions may be of one object: the same size, and the same ETag or date.
    The ETag alone is enough, since `rclone serve s3` keeps one date for each requested name of an
    object."""
    tagged = one.etag is not None and one.etag == other.etag
    return one.size == other.size and (tagged or one.last_modified == other.last_modified)


def _is_steady(destination: Destination, place: Location, there: Version) -> bool:
    """Return whether a second HEAD has the same ETag. Behind a load balancer each answer may have
    another one, which does not prove two objects. Raises StoreError."""
    try:
        found = inspect_object(destination, place)
    except NotFound:
        return False
    return isinstance(found, ObjectInfo) and found.version.etag == there.etag


def _lists_both(destination: Destination, place: Location, twin: Location) -> bool:
    """Return whether listings show both names: then the two objects only look alike.

    The folder above the first difference must list both segments: a listing below repeats the
    requested spelling of the folders above, even if their real names differ. Each of the two
    folders must then list the rest of its name: a store of flat keys that folds the whole key shows
    both folders if each holds an object of its own, and the shared object in one of them."""
    names = [one.path.split("/") for one in (place, twin)]
    same = next(
        (at for at, (one, other) in enumerate(zip(*names, strict=False)) if one != other), 0
    )
    differing = {_segment(name, same) for name in names}
    # No segment differs, or only in its percent-encoding: no listing can show both.
    if not same or len(differing) < len(names):
        return False
    try:
        return _lists(destination, place, names[0][:same], differing) and all(
            _lists(destination, place, name[:depth], {_segment(name, depth)})
            for name in names
            for depth in range(same + 1, len(name))
        )
    except RelayError:
        return False


def _segment(name: list[str], depth: int) -> str:
    """Return one segment of a path as a listing has it: decoded, and a folder's with a slash."""
    segment = unquote(name[depth], errors="surrogateescape")
    is_folder = depth + 1 < len(name)
    return f"{segment}/" if is_folder else segment


def _lists(destination: Destination, place: Location, folder: list[str], wanted: set[str]) -> bool:
    """Return whether a folder of the destination of `place` lists each of some names. Raises
    StoreError."""
    missing = set(wanted)
    for entry in destination.list(place.with_target("/".join([*folder, ""])), False):
        if entry.error is None:
            missing.discard(entry.name)
        if not missing:
            return True
    return False


def _collision(place: Location, twin: Location, what: str) -> KeyCollision:
    return KeyCollision(
        f"{place} and {twin} {what}",
        hint=(
            "One object would overwrite the other: rename one of them at the source, or choose"
            " another destination. If the source has renamed it, delete it at the destination."
        ),
    )
