"""Decide whether the destination already has an object as it is at the source.

Decided here: what counts as the same, the strongest reason first. Never here: what follows from
it."""

from __future__ import annotations

from relay.digest import compare
from relay.parsing import http_date
from relay.receipt import Version


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
        return "unchanged: the same size, and not older"
    return None
