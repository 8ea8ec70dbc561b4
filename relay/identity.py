"""Decide from their URLs if two Locations name the same object.

Decided here: which parts of a URL and of the headers name the object, and which only open it or
spell it differently; which account a location uses. Never here: objects that a server has under two
names."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from relay.errors import RequestError
from relay.hosts import ANY_AWS_DOMAIN, literal_address
from relay.location import Location, parse_location

# Parameters that a signature adds to a query. They count as a signature only if the first of their
# row is there.
_SIGNATURES: Final = (
    ("x-amz-signature", re.compile(r"x-amz-.*|x-id|response-.*")),
    ("x-goog-signature", re.compile(r"x-goog-.*|response-.*")),
    ("x-oss-signature", re.compile(r"x-oss-.*|response-.*")),
    ("q-signature", re.compile(r"q-.*|x-cos-security-token|response-.*")),
    (
        "signature",
        re.compile(
            r"signature|expires|(aws|oss)?accesskeyid|googleaccessid|key-pair-id|policy|hash-algorithm|keyname|urlprefix"
            r"|security-token|x-(amz|obs)-security-token"
        ),
    ),
    (
        "sig",
        re.compile(r"sig|s[eiprstv]|s[pks]r|srt|sip|sdd|sk[estv]|s[kau]oid|sktid|scid|rsc[cdelt]"),
    ),
)


def same_object(one: Location, other: Location) -> bool:
    """Return whether two locations name the same object, judged by their URLs.

    The comparison ignores the case and a trailing dot of hosts, the spelling of numeric hosts, the
    percent-encoding of paths, the order and encoding of queries, and signatures: a URL signed for
    GET and one signed for PUT are the same object."""
    if not _same_bytes(one.path, other.path):
        return False  # as nearly all do; the rest of the comparison costs ten times as much
    return _identity(one) == _identity(other)


def _same_bytes(one: str, other: str) -> bool:
    """Return whether two paths are the same once they are decoded."""
    if "%" not in one and "%" not in other:
        return one == other
    return unquote_to_bytes(one) == unquote_to_bytes(other)


def same_path(one: Location, other: Location) -> bool:
    """Return whether two locations have the same path and query, at any hosts; compared as in
    `same_object`."""
    return _identity(one)[2:] == _identity(other)[2:]


def query_of_identity(location: Location) -> list[tuple[bytes, bytes]]:
    """Return the parameters of a query that distinguish objects: without signatures, decoded,
    sorted."""
    return _identity(location)[3]


def place_identity(location: Location) -> str:
    """Return the identity of a place: its store, its endpoint, and its URL without signatures.
    SECRET, as its query may be. The region in the name of AWS's own hosts is left out: a bucket has
    one name in all. An encoded '/' does not separate segments (RFC 3986 section 2.2): '/a%2Fb' may
    be another object than '/a/b'."""
    host, port, _, query = _identity(location)
    segments = [unquote_to_bytes(one).decode("latin-1") for one in location.path.split("/")]
    path = segments if any("/" in one for one in segments) else "/".join(segments)
    if location.store in ("s3", "list"):
        host = _AWS_HOST.sub(r"\g<bucket>s3.\g<gov>\g<rest>", host)
    method = "POST" if location.method == "POST" else ""
    pairs = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in query]
    return json.dumps([location.store, host, port, path, pairs, method])


def place_in_server(location: Location) -> tuple[str, str]:
    """Return the identity of a server, and the path of a place on it with one spelling for each
    name: two locations in one folder have the same server, and paths that begin alike.

    A bucket is a part of the path. HTTP and WebDAV are two ways to one server. The query is left
    out, so that fresh access to a place changes nothing: two places that differ only in it are one
    here."""
    host, port, _, _ = _identity(location)
    path = "/".join(quote(unquote_to_bytes(one), safe="") for one in location.path.split("/"))
    store = location.store
    if store == "s3":
        host = _AWS_HOST.sub(r"\g<bucket>s3.\g<gov>\g<rest>", host)
        bucket = str(location).removeprefix("s3://").partition("/")[0]
        if host.startswith(f"{bucket}."):
            host, path = host.removeprefix(f"{bucket}."), f"/{bucket}{path}"
    elif store in _OF_HTTP:
        store = "http"
    return json.dumps([store, host, port]), path


_OF_HTTP: Final = ("http", "webdav", "nextcloud")
_AWS_HOST: Final = re.compile(
    r"(?P<bucket>(?:.+\.)?)s3\.(?:dualstack\.)?(?P<gov>(?:us-gov-)?)[a-z0-9-]+\."
    rf"(?P<rest>{ANY_AWS_DOMAIN})"
)


def owner_of(location: Location) -> str:
    """Return the account that a location uses, or '' if it is unknown. Parts that are renewed do
    not count: a password, a token, the key that came with one.
    """
    owner = location.account.owner if location.account else ""
    return json.dumps([owner, _user(location)])


def _user(location: Location) -> str:
    """Return the user of `Authorization: Basic` (RFC 7617)."""
    for name, value in location.headers:
        scheme, _, encoded = value.partition(" ")
        if name.lower() == "authorization" and scheme.lower() == "basic":
            try:
                return base64.b64decode(encoded).partition(b":")[0].decode("latin-1")
            except ValueError:  # not base64 (binascii.Error), or not ASCII at all
                return ""
    return ""


# Headers that open a place, or identify a request: they are renewed, and name no object.
_OPENING: Final = re.compile(
    r"auth|token|secret|signature|passw|credential|session|cookie|nonce|request-?id|correlation|^(x-)?trace|^user-agent$"
    r"|(api|access|subscription|private|account|licen[cs]e|customer|app|encryption)-?key|^(x-)?key$"
    r"|(^|-)(date|time|timestamp|expires)(-|$)|^x-amz-content-sha256$"
)


def selecting_headers(headers: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the headers of a place that may select an object, in order: `Dropbox-API-Arg` does,
    and `Accept` may. SECRET, as a query may be. Headers that open a place and are renewed, such as
    a token, are left out.
    """
    folded = [[name.lower().replace("_", "-"), value] for name, value in headers]
    return sorted(pair for pair in folded if not _OPENING.search(pair[0]))


_OVER_HTTP: Final = re.compile(
    r"(?P<before>(?:list\+)?(?:webdav\+)?)(?P<url>https?://.*)", re.I | re.S
)
_PATH: Final = re.compile(r"(?:list\+)?(?:file://|/).*", re.I | re.S)


def same_text(one: str, other: str) -> bool:
    """Return whether two texts of a user certainly mean the same place, with any remotes: they are
    equal, or URLs that differ only in their signatures."""
    if one == other:
        return True
    ours, theirs = _OVER_HTTP.fullmatch(one), _OVER_HTTP.fullmatch(other)
    if ours is None or theirs is None or ours["before"].lower() != theirs["before"].lower():
        return False
    try:
        return same_object(parse_location(ours["url"]), parse_location(theirs["url"]))
    except RequestError:
        return False


def is_whole(text: str) -> bool:
    """Return whether a text of a user names a place by itself, without the settings of a remote or
    of AWS."""
    return bool(_OVER_HTTP.fullmatch(text) or _PATH.fullmatch(text))


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
    # Without the scheme: a port serves only one of the two.
    return host, location.port, unquote_to_bytes(location.path), sorted(kept)
