"""When two Locations are the same object, as far as their URLs can tell.

Decided here: what of a URL names the object, and what only opens it or spells it otherwise. Never here: what a server
knows by two names.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from relay.location import Location, literal_address

# What a signature adds to a query, if the first of each row is in it; without it they are names like others.
_SIGNATURES: Final = (
    ("x-amz-signature", re.compile(r"x-amz-.*|x-id|response-.*")),
    ("x-goog-signature", re.compile(r"x-goog-.*|response-.*")),
    ("signature", re.compile(r"signature|expires|awsaccesskeyid|googleaccessid|key-pair-id|policy")),
    ("sig", re.compile(r"sig|s[eiprstv]|s[pks]r|srt|sip|sdd|sk[estv]|s[kau]oid|sktid|scid|rsc[cdelt]")),
)


def same_object(one: Location, other: Location) -> bool:
    """Whether two locations name the same object, as far as their URLs can tell.

    Equal are: hosts but for case and a trailing dot, numeric hosts in any spelling, paths in any
    percent-encoding, queries in any order and encoding, and whatever signature a presigned URL carries: a URL
    signed for GET and one signed for PUT are the same object.
    """
    if not _same_bytes(one.path, other.path):
        return False  # as nearly all do; the rest of the comparison costs ten times as much
    return _identity(one) == _identity(other)


def _same_bytes(one: str, other: str) -> bool:
    """Whether two paths are the same once they are decoded."""
    if one.isascii() and other.isascii() and "%" not in one and "%" not in other:
        return one == other
    return unquote_to_bytes(one) == unquote_to_bytes(other)


def same_path(one: Location, other: Location) -> bool:
    """Whether two locations have the same path and query, at whatever hosts: compared as in `same_object`."""
    return _identity(one)[2:] == _identity(other)[2:]


def query_of_identity(location: Location) -> list[tuple[bytes, bytes]]:
    """What of a query tells one object from another: no signature, sorted, decoded."""
    return _identity(location)[3]


def _identity(location: Location) -> tuple[str, int, bytes, list[tuple[bytes, bytes]]]:
    address = literal_address(location.host)
    host = location.host.removesuffix(".") if address is None else address.exploded
    pairs = [part.partition("=") for part in location.query.split("&") if part]
    names = {unquote_to_bytes(name).lower() for name, _, _ in pairs}
    signed = [pattern for marker, pattern in _SIGNATURES if marker.encode() in names]
    kept = [
        (unquote_to_bytes(name), unquote_to_bytes(value))
        for name, _, value in pairs
        if not any(pattern.fullmatch(name.lower()) for pattern in signed)
    ]
    # Without the scheme: one port speaks one of the two.
    return host, location.port, unquote_to_bytes(location.path), sorted(kept)
