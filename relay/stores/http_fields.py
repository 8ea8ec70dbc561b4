"""Parse the fields of an HTTP answer about an object, and build those of an upload.

Decided here: how Retry-After and Content-Range are parsed, and which text of a peer may be printed
or sent back. Never here: which answer is believed (`http.py`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from relay.location import Location
from relay.parsing import count, http_date
from relay.receipt import names_version
from relay.wire.http1 import Fields, Head

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", re.I)
_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_REL = re.compile(r';[ \t]*rel[ \t]*=[ \t]*(?:"([^"]*)"|([^";, \t]+))', re.I)

FINAL: Final = frozenset({501, 505, 506, 508, 510, 511})
"""Statuses of a server error that a retry does not change."""
PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
"""Content types of web pages: a folder's page, or a login page."""
ENCODED = ("Accept-Encoding", "gzip")
"""Asks Google Cloud Storage for the stored bytes; without this field it decompresses gzip
objects."""
ANY_CODING = ("Accept-Encoding", "gzip, br, zstd")
"""Asks for the stored bytes of an object that came decoded."""


def is_page(metadata: Iterable[tuple[str, str]]) -> bool:
    """Return whether the fields of an object say that it is a web page."""
    kinds = (value for name, value in metadata if name.lower() == "content-type")
    return next(kinds, "").partition(";")[0].strip().lower() in PAGES


def is_transcoded(head: Head) -> bool:
    """Return whether Google Cloud Storage decompressed the object: the bytes are then not the
    stored ones, and don't match its hash (cloud.google.com, "Transcoding of gzip-compressed
    files")."""
    stored = head.by_name.get("x-goog-stored-content-encoding") or "identity"
    return head.status == 200 and stored != "identity" and "content-encoding" not in head.by_name


def is_decoded(head: Head) -> bool:
    """Return whether an answer of a bucket may not be the stored bytes: a bucket knows their
    length. Cloudflare removes an object's coding, and its length, for a client that does not accept
    the coding (R2 and proxied buckets: rclone/rclone#8137, #8531), and nginx does (`gunzip`)."""
    found = head.by_name
    return head.status == 200 and not {"content-length", "content-encoding"} & found.keys()


def is_coded_by_proxy(head: Head) -> bool:
    """Return whether a proxy compressed the answer of a bucket, which knows the length of stored
    bytes."""
    found = head.by_name
    return "content-encoding" in found and "content-length" not in found


def content_range(head: Head) -> tuple[int, int, int] | None:
    """Return first, last and total of a Content-Range; None if one of them is missing or not a
    number, and for several ranges."""
    found = _CONTENT_RANGE.fullmatch((head.get("content-range") or "").strip())
    first, last, total = map(count, found.groups()) if found is not None else (None, None, None)
    if head.status != 206 or first is None or last is None or total is None:
        return None
    return first, last, total


def upload_fields(location: Location, metadata: Fields, if_absent: bool) -> Fields:
    """Return the fields of an upload: the object's metadata, except for fields that the caller set,
    and the precondition."""
    fields = metadata
    if location.headers:
        own = {name.lower() for name, _ in location.headers}
        fields = tuple((name, value) for name, value in metadata if name.lower() not in own)
    return (*fields, ("If-None-Match", "*")) if if_absent else fields


def next_link(head: Head) -> str | None:
    """Return the reference to a further page of the answer, in a Link field (RFC 8288), or None."""
    for reference, parameters in _LINK.findall(head.get("link") or ""):
        for quoted, word in _REL.findall(parameters):
            if "next" in (quoted or word).lower().split():
                return str(reference)
    return None


def retry_after(text: str | None, now: datetime | None = None) -> float | None:
    """Return a Retry-After (RFC 9110 section 10.2.3) as seconds from now, never negative; None if
    it is missing or invalid."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        # A number of hundreds of digits would be infinite as a float.
        return float(text[:12])
    when = http_date(text)
    return None if when is None else max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


TAG_CHARACTERS = 1024
"""Maximum length of an ETag or version id; AWS's version ids have up to 1,024 bytes."""


def strong_tag(text: str | None) -> str | None:
    """Return an ETag or version id that can be sent back to the store, or None if it is missing,
    empty, too long, or has characters that a field may not have. It is never shortened: that would
    name another version."""
    if not text:
        return None
    text = text.strip()
    if len(text) > TAG_CHARACTERS or not text.isprintable() or not names_version(text):
        return None
    return text if text.isascii() or max(text) <= "\xff" else None


def printable(text: str) -> str:
    """Return a peer's text for a message: printable ASCII, at most 128 characters."""
    if len(text) <= 128 and text.isascii() and text.isprintable():
        return text
    return "".join(c for c in text if " " <= c <= "~")[:128]
