"""Compare versions: an object at both stores, or one place at two moments.

Theory of operation. A version has an ETag, a size, a date and an id, and each store has some of
them. Some servers give each answer another ETag, and a cache may show an old version. So there are
several questions, from "certainly the same" to "certainly another", and each caller asks the one
whose wrong answer does no harm.

`verdict_of_pair` says whether a destination has the source's object, for a transfer and for a plan:
so a plan is what its migration does. A comparison of trees (`tree_comparison.py`) has rules of its
own, since no date, and no size but 0, proves an object.

Decided here: what counts as the same. Never here: what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, Final

from relay.digest import compare as compare_digests
from relay.engine.md5_etags import md5_of_etag
from relay.ledger.deletion_values import version_of_json
from relay.parsing import http_date
from relay.receipt import Version
from relay.stores.metadata import is_modified_since, mtime_of, mtimes_agree, mtimes_are_near
from relay.wire.http1 import Fields

DATED: Final = frozenset({"s3", "local", "sftp"})
"""Stores that show the time of modification that an upload gave the object."""
_NOT_OLDER: Final = "unchanged: the same size, and not older"
_CLOSE_SECONDS: Final = 60.0
"""Difference of two dates within which the source may have changed after its upload: a date has
whole seconds, and the destination's clock may be ahead."""
_DATED_SECONDS: Final = 2.0
"""Maximum difference between a date and its copy, which may be rounded."""


class Compare(Enum):
    """How the objects of one name are compared, where that was asked for. Without it, they are
    compared by digests, else by size and date, as `IfExists.CHANGED` always did."""

    AUTO = "auto"
    """By what proves most: digests, MD5s as ETags, the receipt, times that both sides have kept."""
    DIGEST = "digest"
    """By digests, and MD5s as ETags."""
    TIME = "time"
    """By size and time of modification. The destination must have kept the source's."""
    SIZE = "size"
    """By size alone, which proves nothing: another object of the same size counts as the same."""
    ALWAYS = "always"
    """Every object is moved again."""


class PairBasis(StrEnum):
    """What a verdict about the objects of one name rests on."""

    SIZE = "size"
    DIGEST = "digest"
    ETAG = "etag"
    """Two buckets show the same MD5 as ETag."""
    RECEIPT = "receipt"
    """Both versions are those of the receipt of an earlier transfer."""
    TIME = "time"
    """One size, and one time of modification. It is assumed that nothing else changed."""
    DATE = "date"
    """One size, and the destination is not older."""
    ASKED = "asked"
    """The caller wants every object to be moved."""
    UNKNOWN = "unknown"
    """Nothing says that the objects are the same."""


@dataclass(frozen=True)
class PairVerdict:
    """Whether a destination has the source's object, and on what that rests."""

    is_same: bool
    basis: PairBasis
    why: str = ""
    """The reason of a skip, for the receipt."""


@dataclass(frozen=True, kw_only=True)
class ReceiptVersions:
    """The versions that an earlier transfer of the same two places read and wrote."""

    source: Version
    destination: Version

    @classmethod
    def from_json(cls, receipt: Mapping[str, Any] | None) -> ReceiptVersions | None:
        """Return the versions of a receipt as the ledger has it; None for None."""
        if receipt is None:
            return None
        sides = (version_of_json(receipt[side]) for side in ("source", "destination"))
        return cls(**dict(zip(("source", "destination"), sides, strict=True)))


def verdict_of_pair(
    source: Version,
    destination: Version,
    compare: Compare | None,
    *,
    stores: tuple[str, str],
    metadata: Callable[[], tuple[Fields, Fields]],
    receipt: Callable[[], ReceiptVersions | None] = lambda: None,
) -> PairVerdict:
    """Return whether the destination has the source's object, as the caller wants them compared.

    `stores` are the kinds of both stores; `metadata` returns that of both objects, and `receipt`
    the versions of an earlier transfer: they are called only if nothing before them decides.
    Objects whose sizes or digests differ are never the same, and those of unknown size are not
    either; equal sizes alone are, only if `compare` says so."""
    if compare is Compare.ALWAYS:
        return PairVerdict(False, PairBasis.ASKED)
    sizes = (source.size, destination.size)
    if None not in sizes and sizes[0] != sizes[1]:
        return PairVerdict(False, PairBasis.SIZE)
    agreeing, differing = compare_digests(source.digests, destination.digests)
    if differing:
        return PairVerdict(False, PairBasis.DIGEST)
    if None in sizes:
        return _UNKNOWN
    match compare:
        case None:
            return _by_digest_or_date(source, destination, agreeing, metadata)
        case Compare.SIZE:
            return PairVerdict(True, PairBasis.SIZE, "unchanged: the size, which proves nothing")
        case Compare.TIME:
            return _by_time(source, destination, stores, metadata(), own_source=True)
    by_content = _by_content(source, destination, agreeing, stores)
    if by_content is not None or compare is Compare.DIGEST:
        return by_content or _UNKNOWN
    by_receipt = _by_receipt(receipt(), source, destination)
    if by_receipt is not None:
        return by_receipt
    return _by_time(source, destination, stores, metadata(), own_source=False)


_UNKNOWN: Final = PairVerdict(False, PairBasis.UNKNOWN)


def has_one_md5(ours: str | None, theirs: str | None) -> bool:
    """Return whether two buckets show the same MD5 as ETag, of objects of one size. Two that differ
    prove nothing."""
    md5 = md5_of_etag(ours)
    return md5 is not None and (ours == theirs or md5 == md5_of_etag(theirs))


def _by_content(
    source: Version, destination: Version, agreeing: str | None, stores: tuple[str, str]
) -> PairVerdict | None:
    """Return the verdict by digests and MD5s of both, or None without them."""
    if agreeing is not None:
        return _same_digest(agreeing)
    if stores == ("s3", "s3") and has_one_md5(source.etag, destination.etag):
        return PairVerdict(True, PairBasis.ETAG, "unchanged: the same size and MD5, as ETag")
    return None


def _same_digest(algorithm: str) -> PairVerdict:
    why = f"unchanged: the same size and {algorithm}"
    return PairVerdict(True, PairBasis.DIGEST, why)


def _by_digest_or_date(
    source: Version,
    destination: Version,
    agreeing: str | None,
    metadata: Callable[[], tuple[Fields, Fields]],
) -> PairVerdict:
    """Return the verdict without `compare`: a digest decides, else the destination must not be
    older. Where the dates are close, the full times of modification decide, if it shows one."""
    if agreeing is not None:
        return _same_digest(agreeing)
    ours, theirs = http_date(source.last_modified), http_date(destination.last_modified)
    if ours is None or theirs is None:
        return _UNKNOWN
    if theirs < ours:
        return PairVerdict(False, PairBasis.DATE)
    is_close = (theirs - ours).total_seconds() <= _CLOSE_SECONDS
    if is_close and is_modified_since(*metadata()):
        return PairVerdict(False, PairBasis.TIME)
    return PairVerdict(True, PairBasis.DATE, _NOT_OLDER)


def _by_time(
    source: Version,
    destination: Version,
    stores: tuple[str, str],
    metadata: tuple[Fields, Fields],
    *,
    own_source: bool,
) -> PairVerdict:
    """Return the verdict by the times of modification, within the coarser precision of the two.
    The destination must have kept its one; so must the source, unless its `own_source` date
    counts."""
    ours, theirs = map(mtime_of, metadata)
    if not own_source and not _has_kept(ours, source, stores[0]):
        return _UNKNOWN
    if ours is None or theirs is None or not _has_kept(theirs, destination, stores[1]):
        return _UNKNOWN
    if not mtimes_agree(ours, theirs):
        return PairVerdict(False, PairBasis.TIME)
    why = "unchanged: the same size and time of modification; the content is assumed"
    return PairVerdict(True, PairBasis.TIME, why)


def _has_kept(mtime: str | None, version: Version, store: str) -> bool:
    """Return whether an object's time of modification is one that the store was given. A bucket
    shows the time of the upload for an object without one."""
    if mtime is None or store not in DATED:
        return False
    date = http_date(version.last_modified)
    return (
        store in ("local", "sftp")
        or date is None
        or not mtimes_are_near(mtime, f"{date.timestamp():.0f}")
    )


def _by_receipt(
    receipt: ReceiptVersions | None, source: Version, destination: Version
) -> PairVerdict | None:
    """Return the verdict of an earlier transfer, whose destination is as it was written. None where
    it proves nothing."""
    if receipt is None or not _is_as_before(receipt.destination, destination):
        return None
    if _is_as_before(receipt.source, source):
        return PairVerdict(True, PairBasis.RECEIPT, "unchanged: both versions are the receipt's")
    if has_other_tag(receipt.source, source):
        return PairVerdict(False, PairBasis.RECEIPT)
    return None


def _is_as_before(one: Version, other: Version) -> bool:
    """Return whether a version is that of a receipt. An equal ETag does not outweigh another size
    or date: some servers have one ETag for all objects."""
    return is_same(one, other) and not differs(one, other)


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


def is_never_ours(written: Version) -> bool:
    """Return whether the record of what relay wrote says that the object was there before
    (`ledger/entries.py`): its size is below 0."""
    return written.size is not None and written.size < 0


def is_by_other(ours: Version, there: Version) -> bool:
    """Return whether the existing object is certainly not the one that we stored: another size, or
    another strong ETag and no equal date. (Some servers give each answer another ETag.)"""
    if is_never_ours(ours):
        return True
    if None not in (ours.size, there.size) and ours.size != there.size:
        return True
    dates = (ours.last_modified, there.last_modified)
    return has_other_tag(ours, there) and (None in dates or dates[0] != dates[1])
