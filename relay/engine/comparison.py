"""Compare versions: an object at both stores, or one place at two moments.

Theory of operation. A version has an ETag, a size, a date and an id, and each store has some of
them. Some servers give each answer another ETag, and a cache may show an old version. So there are
several questions, from "certainly the same" to "certainly another", and each caller asks the one
whose wrong answer does no harm.

Decided here: what counts as the same. Never here: what follows from it."""

from __future__ import annotations

from typing import Final

from relay.digest import compare
from relay.parsing import http_date
from relay.receipt import Version

_NOT_OLDER: Final = "unchanged: the same size, and not older"
_CLOSE_SECONDS: Final = 60.0
"""Difference of two dates within which the source may have changed after its upload: a date has
whole seconds, and the destination's clock may be ahead."""
_DATED_SECONDS: Final = 2.0
"""Maximum difference between a date and its copy, which may be rounded."""


def proof_of_equality(source: Version, destination: Version) -> str | None:
    """Return the reason why the two objects are the same, or None if they are or may be different.

    A digest that both stores have decides. Else the sizes must be the same, and the destination
    must not be older than the source. Objects of unknown size are never the same."""
    if source.size is None or source.size != destination.size:
        return None
    agreeing, differing = compare(source.digests, destination.digests)
    if differing:
        return None
    if agreeing is not None:
        return f"unchanged: the same size and {agreeing}"
    ours, theirs = http_date(source.last_modified), http_date(destination.last_modified)
    if ours is not None and theirs is not None and theirs >= ours:
        return _NOT_OLDER
    return None


def is_older(destination: Version, source: Version) -> bool:
    """Return whether the destination's object was written before the source's last change. False if
    either date is unknown."""
    theirs, ours = http_date(destination.last_modified), http_date(source.last_modified)
    return ours is not None and theirs is not None and theirs < ours


def has_same_date(source: Version, destination: Version) -> bool:
    """Return whether the destination shows the source's date, as a store does that takes it from
    the upload. Some file systems keep every other second."""
    theirs, ours = http_date(destination.last_modified), http_date(source.last_modified)
    if ours is None or theirs is None:
        return False
    return abs((theirs - ours).total_seconds()) <= _DATED_SECONDS


def needs_full_times(why: str | None, source: Version, destination: Version) -> bool:
    """Return whether a proof of equality rests on dates that do not prove which object is newer.
    Then the full times of modification decide, where the destination shows one."""
    if why != _NOT_OLDER:
        return False
    ours, theirs = http_date(source.last_modified), http_date(destination.last_modified)
    if ours is None or theirs is None:
        return False
    return abs((theirs - ours).total_seconds()) <= _CLOSE_SECONDS


def looks_same(source: Version, there: Version | None) -> bool:
    """Return whether two versions agree in ETag, size and date, as those of one object by two names
    do. Missing ETags agree too, since some servers have none.

    Two objects of one server may agree as well: nginx makes its ETags of the date in seconds and
    the size."""
    ours, theirs = ((one.etag, one.size, one.last_modified) for one in (source, there or Version()))
    return ours == theirs and None not in ours[1:]


# -- one place at two moments


def is_same(one: Version | None, other: Version) -> bool:
    """Return whether two versions of one place are the same: by ETag, else by size and date."""
    if one is None:
        return False
    if one.etag is not None or other.etag is not None:
        return one.etag == other.etag
    return one.last_modified is not None and (one.size, one.last_modified) == (
        other.size,
        other.last_modified,
    )


def differs(one: Version, other: Version) -> bool:
    """Return whether two versions of one place differ in an ETag, size or date that both have."""
    pairs = (
        (one.etag, other.etag),
        (one.size, other.size),
        (one.last_modified, other.last_modified),
    )
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)


# -- our stored object, and the current one


def has_same_tag(ours: Version, there: Version) -> bool:
    """Return whether the existing object has the version id, or the strong ETag, of the one that we
    stored."""
    if ours.id is not None and there.id is not None:
        return ours.id == there.id
    return ours.strong_etag is not None and ours.strong_etag == there.strong_etag


def has_other_tag(ours: Version, there: Version) -> bool:
    """Return whether the strong ETags prove that another object has replaced ours."""
    tags = (ours.strong_etag, there.strong_etag)
    return None not in tags and tags[0] != tags[1]


def is_certainly_replaced(ours: Version, there: Version) -> bool:
    """Return whether another object has certainly replaced ours: both its ETag and its date differ.
    (One of them proves nothing, since some servers give each answer another one.)"""
    pairs = ((ours.strong_etag, there.strong_etag), (ours.last_modified, there.last_modified))
    return all(None not in pair and pair[0] != pair[1] for pair in pairs)


def is_by_other(ours: Version, there: Version) -> bool:
    """Return whether the existing object is certainly not the one that we stored: another size, or
    another strong ETag and no equal date. (Some servers give each answer another ETag.)"""
    if None not in (ours.size, there.size) and ours.size != there.size:
        return True
    dates = (ours.last_modified, there.last_modified)
    return has_other_tag(ours, there) and (None in dates or dates[0] != dates[1])
