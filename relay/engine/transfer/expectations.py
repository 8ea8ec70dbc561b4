"""Check the source against what a list of URLs promised and what the listing said of the object.

Decided here: when an object is not the one that was promised. Never here: what a list looks like
(`stores/urls.py`)."""

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
    "the digest that the list gives was not compared: the object is so large that it went in parts"
)
UNDECLARED = "the {} that the source declares was not compared: the object went in parts"


def check_against_list(found: F, promised: Version | None) -> F:
    """Return what was found with the digests and the size that it was promised with.

    Raises SourceChanged where the source has another size than was promised.
    """
    if promised is None:
        return found
    size = found.version.size
    if None not in (promised.size, size) and promised.size != size:
        raise SourceChanged(
            f"the list says {promised.size} bytes, and the source has {size}",
            side="source",
            retryable=False,
            hint="Correct the list, or leave the size out; nothing was moved.",
        )
    digests: Digests = {**found.version.digests, **promised.digests}
    return replace(
        found,
        version=replace(
            found.version, digests=digests, size=promised.size if size is None else size
        ),
    )


def check_against_listing(found: Version, listed: Version) -> None:
    """Raise SourceChanged for another size than was listed, where nothing says that the object
    changed meanwhile.

    A page that wants a login comes with a 200 too, and some servers give nothing where they mean
    "later"."""
    if None in (listed.size, found.size) or listed.size == found.size or _newer(found, listed):
        return
    raise SourceChanged(
        f"it was listed with {listed.size} bytes and comes with {found.size}, and nothing says that"
        " it was changed",
        side="source",
        hint=(
            "Look at what the source gives there. If the object is right, run it again: it is"
            " listed anew."
        ),
    )


def listed_length(found: Version, listed: Version) -> int | None:
    """Return the length in bytes that a listing gives an object whose answer has none (errors and
    login pages seldom have one). None where the object may be newer, and for 0, which some listings
    give for an unknown length."""
    return None if not listed.size or _newer(found, listed) else listed.size


def _newer(found: Version, listed: Version) -> bool:
    """Say if what was found is another version than was listed, as far as either tells."""
    if listed.etag is None and listed.last_modified is None:
        return found.size != 0 and (found.etag or found.last_modified) is not None
    if None not in (listed.etag, found.etag) and listed.etag != found.etag:
        return True
    ours, theirs = http_date(listed.last_modified), http_date(found.last_modified)
    return ours is not None and theirs is not None and ours != theirs


def must_be_single_upload(
    promised: Version | None, limits: PartLimits | None, size: int | None
) -> bool:
    """Say if an object must go in one piece, since only then what was promised can be compared, and
    it can."""
    if promised is None or limits is None or not promised.digests or COMBINED in promised.digests:
        return False
    return size is not None and size <= limits.largest


def uncompared_digest_notes(promised: Version | None, declared: Digests) -> tuple[str, ...]:
    """Return the note of an object that went in parts, if what was promised, or what its source has
    `declared`, could not be compared then."""
    if promised and promised.digests:
        return (UNCOMPARED,) if COMBINED not in promised.digests else ()
    return (
        (UNDECLARED.format(", ".join(declared)),) if declared and COMBINED not in declared else ()
    )
