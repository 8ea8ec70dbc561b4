"""Decide by the receipt of an earlier transfer whether both sides still have its object.

A receipt names the version that was read and the version that was written, and how the copy was
proved. If both listings have these versions now, the proof holds now: no request is needed.

Decided here: when a receipt proves a pair of listed objects. Never here: what else proves one
(`tree_comparison.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from relay.receipt import Level, Version
from relay.sorting.rows import TreeRow

TELLING_ETAGS: Final = frozenset({"s3", "local"})
"""The stores whose ETag changes with each write of an object. Other servers make an ETag of a time
and a size, which a changed object may have too: there it proves nothing."""
_PROVED: Final = frozenset(level.value for level in Level) - {Level.SIZE.value}


def is_proved_by(
    receipt: Mapping[str, Any] | None, ours: TreeRow, theirs: TreeRow, stores: tuple[str, str]
) -> bool:
    """Return whether a receipt proves that the destination has the source's object: its level
    proves bytes, and both rows have its versions. Only strong entity tags name a version (RFC 9110
    section 8.8.1), and only those of TELLING_ETAGS among the two `stores`."""
    if (
        not TELLING_ETAGS.issuperset(stores)
        or receipt is None
        or receipt.get("level") not in _PROVED
    ):
        return False
    if ours.error is not None or theirs.error is not None:
        return False
    return _has_version(receipt.get("source"), ours) and _has_version(
        receipt.get("destination"), theirs
    )


def _has_version(members: Mapping[str, Any] | None, row: TreeRow) -> bool:
    if not members:
        return False
    known = Version(members.get("size"), members.get("etag"))
    is_same_tag = known.strong_etag is not None and known.strong_etag == row.etag
    return is_same_tag and row.size in (None, known.size)
