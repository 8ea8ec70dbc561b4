"""Check the source against the list of URLs and against the listing.

Decided here: when an object does not match what was promised. Never here: the format of a list
(`stores/url_lists.py`)."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from relay.digest import Digests
from relay.engine.multipart.part_workers import COMBINED
from relay.errors import SourceChanged
from relay.parsing import http_date
from relay.receipt import Version
from relay.stores.interfaces import ObjectInfo, PartLimits

F = TypeVar("F", bound=ObjectInfo)

UNCOMPARED = (
    "the digest in the list was not compared: the object is large, so it was uploaded in parts"
)
"""Note in a receipt."""
UNDECLARED = "the {} that the source declares was not compared: the object was uploaded in parts"
"""Note in a receipt."""


def check_against_list(found: F, promised: Version | None) -> F:
    """Return `found` with the promised digests, and with the promised size if it has none.

    Raises SourceChanged where the source has another size than promised.
    """
    if promised is None:
        return found
    size = found.version.size
    if None not in (promised.size, size) and promised.size != size:
        raise SourceChanged(
            f"the list says {promised.size} bytes, but the source has {size}",
            side="source",
            retryable=False,
            hint="Correct the size in the list, or omit it. Nothing was moved.",
        )
    digests: Digests = {**found.version.digests, **promised.digests}
    return replace(
        found,
        version=replace(
            found.version, digests=digests, size=promised.size if size is None else size
        ),
    )


def check_against_listing(found: Version, listed: Version) -> None:
    """Raise SourceChanged where the size differs from the listed size, and no ETag or date says
    that the object changed since.

    A login page comes with a 200 too, and some servers answer with an empty body instead of a
    503."""
    if None in (listed.size, found.size) or listed.size == found.size or _is_newer(found, listed):
        return
    raise SourceChanged(
        f"the listing says {listed.size} bytes, but the source returns {found.size}, and neither"
        " its ETag nor its date says that it changed",
        side="source",
        hint=(
            "Check what the source returns there. If the object is right, run it again: a new run"
            " lists the source again."
        ),
    )


def listed_length(found: Version, listed: Version) -> int | None:
    """Return the listed length in bytes, for an answer without a length (error and login pages
    seldom have one). None if the object may have changed since it was listed, and for a listed 0,
    which some servers use for an unknown length."""
    if not listed.size or _is_newer(found, listed):
        return None
    return listed.size


def _is_newer(found: Version, listed: Version) -> bool:
    """Return whether the found version has another ETag than the listed one, or a later date: an
    earlier one is the answer of a cache that keeps objects, and no listings. Without either in the
    listing, an ETag or date of a non-empty object counts as a difference."""
    if listed.etag is None and listed.last_modified is None:
        return found.size != 0 and (found.etag or found.last_modified) is not None
    if None not in (listed.etag, found.etag) and listed.etag != found.etag:
        return True
    ours, theirs = http_date(listed.last_modified), http_date(found.last_modified)
    return ours is not None and theirs is not None and ours < theirs


def must_be_single_upload(
    promised: Version | None, limits: PartLimits | None, size: int | None
) -> bool:
    """Return whether an object must be uploaded in one request, because its promised digest could
    not be compared after a multipart upload. False if it is too large for one request."""
    if promised is None or limits is None or not promised.digests or COMBINED in promised.digests:
        return False
    return size is not None and size <= limits.largest


def uncompared_digest_notes(promised: Version | None, declared: Digests) -> tuple[str, ...]:
    """Return the note in the receipt of a multipart upload whose promised, or `declared`, digest
    could not be compared."""
    if promised and promised.digests:
        return (UNCOMPARED,) if COMBINED not in promised.digests else ()
    return (
        (UNDECLARED.format(", ".join(declared)),) if declared and COMBINED not in declared else ()
    )
