"""Parse what S3 answers: documents, error codes, checksums.

Decided here: what an answer says (docs.aws.amazon.com, "Error responses", "Checking object
integrity"). Never here: what is asked (`stores/s3.py`)."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from urllib.parse import quote, unquote_plus
from xml.etree.ElementTree import Element, ParseError, fromstring

from relay.digest import ALGORITHMS, Digests
from relay.errors import (
    IntegrityMismatch,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ProtocolViolation,
    Rejected,
    Side,
    StoreError,
    StoreFull,
    Throttled,
    Unauthenticated,
    Unavailable,
    UnsafeKey,
    UploadGone,
)
from relay.location import UNSAFE_CHARACTERS, Location
from relay.parsing import count, iso_date
from relay.stores.http_fields import printable, strong_tag
from relay.stores.interfaces import Entry
from relay.stores.xml_documents import plain_name
from relay.wire.http1 import Head

CHECKSUM = "x-amz-checksum-"
TRAILER = "crc64nvme"
"""The checksum of the whole object that relay asks S3 to keep."""
_OURS: Mapping[str, str] = {
    f"{CHECKSUM}crc64nvme": "crc64nvme",
    f"{CHECKSUM}crc32c": "crc32c",
    f"{CHECKSUM}sha256": "sha-256",
    f"{CHECKSUM}sha1": "sha",
}
"""S3's fields for checksums, and our names of those."""
_REGION_NAME = re.compile(r"[a-z][a-z0-9-]{1,40}")


@dataclass(frozen=True)
class Code:
    """What one of S3's error codes means, and what to do about it."""

    kind: type[StoreError] | type[IntegrityMismatch]
    hint: str | None = None
    retryable: bool | None = None


_KEYS = "Check the access key, its secret and, of temporary credentials, the session token."
_REGION = (
    "The bucket is in another region, or the endpoint is not this bucket's: set AWS_REGION, or the"
    " endpoint."
)
CODES: Mapping[str, Code] = {
    "NoSuchKey": Code(NotFound),
    "NoSuchVersion": Code(NotFound),
    "NoSuchUpload": Code(UploadGone),
    "NoSuchBucket": Code(
        NotFound, "The bucket does not exist; relay makes none. Check its name and the endpoint."
    ),
    "AccessDenied": Code(
        PermissionDenied,
        "The credentials are known, and may not do this; check the bucket's policy.",
    ),
    "AllAccessDisabled": Code(PermissionDenied),
    "InvalidAccessKeyId": Code(Unauthenticated, _KEYS),
    "SignatureDoesNotMatch": Code(Unauthenticated, _KEYS),
    "ExpiredToken": Code(
        Unauthenticated, "The temporary credentials have expired; get fresh ones."
    ),
    "InvalidToken": Code(Unauthenticated, _KEYS),
    "TokenRefreshRequired": Code(
        Unauthenticated, "The temporary credentials have expired; get fresh ones."
    ),
    "RequestTimeTooSkewed": Code(
        Unavailable, "This machine's clock is wrong by more than 15 minutes; set it."
    ),
    "PermanentRedirect": Code(Rejected, _REGION),
    "TemporaryRedirect": Code(Unavailable, _REGION),
    "AuthorizationHeaderMalformed": Code(Rejected, _REGION),
    "IllegalLocationConstraintException": Code(Rejected, _REGION),
    "InvalidObjectState": Code(Rejected, "The object is archived; restore it first, then move it."),
    "EntityTooLarge": Code(Rejected),
    "KeyTooLongError": Code(Rejected, "A key has at most 1,024 bytes."),
    "XMinioInvalidObjectName": Code(Rejected, "This server takes no such name; rename the object."),
    "QuotaExceeded": Code(StoreFull),
    "XMinioStorageFull": Code(StoreFull),
    "PreconditionFailed": Code(PreconditionFailed),
    "ConditionalRequestConflict": Code(Unavailable, "Somebody else writes the same key."),
    "OperationAborted": Code(Unavailable),
    "BadDigest": Code(
        IntegrityMismatch, "The bytes were damaged on their way; they are sent again.", True
    ),
    "XAmzContentChecksumMismatch": Code(
        IntegrityMismatch, "The bytes were damaged; they are sent again.", True
    ),
    "RequestTimeout": Code(Unavailable),
    "InternalError": Code(Unavailable),
    "SlowDown": Code(Throttled),
    "RequestLimitExceeded": Code(Throttled),
    "ServiceUnavailable": Code(Throttled),
    "NotImplemented": Code(Rejected, "This server lacks a part of S3 that relay needs here."),
}
"""S3's error codes; a status tells less, since 400 and 403 stand for many things."""


def parse_document(text: str) -> Element | None:
    """Return a document's root, or None for one that is broken, or declares a type.

    The type is where entities are declared, which may grow without end or fetch files; no store's
    answer has one. So the fast parser in C may be used, which hasn't any other such power
    (docs.python.org, "XML vulnerabilities")."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        return fromstring(text.strip())
    except (ParseError, ValueError):
        return None


def checksums(head: Head) -> Digests:
    """Return the digests of the whole object that a head tells; those of its parts ("…-3",
    COMPOSITE) are none."""
    if head.by_name.get("x-amz-checksum-type", "").upper() == "COMPOSITE":
        return {}
    found: dict[str, bytes] = {}
    for theirs, ours in _OURS.items():
        text = head.by_name.get(theirs)
        if text is None:
            continue
        try:
            value = base64.b64decode(text, validate=True)
        except ValueError:
            continue
        if len(value) == ALGORITHMS[ours].width:
            found[ours] = value
    return found


def told_checksums(root: Element) -> Digests:
    """Return the CRC64NVME of the whole object that an answer's document tells; it is never one of
    parts."""
    try:
        found = base64.b64decode(root.findtext("{*}ChecksumCRC64NVME") or "", validate=True)
    except ValueError:
        return {}
    return {TRAILER: found} if len(found) == ALGORITHMS[TRAILER].width else {}


def version_id(head: Head) -> str | None:
    """Return the name of the version that a head speaks of; "null" is the one of a bucket that
    keeps no others."""
    reported = strong_tag(head.by_name.get("x-amz-version-id"))
    return None if reported == "null" else reported


_UNENCODED: Final = re.compile(
    r"[ \xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]|%(?![0-9A-Fa-f]{2})"
)
"""What no percent-encoding leaves in a key."""
PAGE_ROWS: Final = 10_000
"""The most that one page of a listing may tell of: it is asked for without a number, and a thousand
are the custom."""

SHOWN: Final = frozenset({"Name", "IsTruncated", "KeyCount"})
"""What an empty page has at least one of: S3 sends all three, ListObjects and every dialect the
first two."""


@dataclass(frozen=True, kw_only=True)
class ListedPage:
    """One page of a bucket's listing. `first` and `last` are the bytes of its outermost keys, and
    `ascending` says that they come in the order of their bytes; `after` is what a listing without
    tokens goes on behind. `truncated` is None where the page does not tell if there is more."""

    entries: tuple[Entry, ...]
    truncated: bool | None
    token: str | None
    after: str | None
    first: bytes | None = None
    last: bytes | None = None
    ascending: bool = True
    plain: bool = False
    """Its keys are as they are, although it may say that they are encoded."""


def read_page(
    rows: Iterable[Element], prefix: str, location: Location, side: Side, *, plain: bool = False
) -> ListedPage:
    """Read a page's folders and objects, but for the marker of the folder itself. Of a server whose
    keys are `plain`, or show that here, none is decoded, whatever it says: `a+b` would become
    another key.

    Raises ProtocolViolation for one that does not lie in the folder that was asked for, or has too
    many, and for a document that neither has any nor shows that it is a page (law 13)."""
    reported: dict[str, str] = {}
    folders: list[str] = []
    objects: list[dict[str, str]] = []
    for row in rows:
        name = plain_name(row.tag)
        if name == "Contents":
            objects.append({cell.tag.rpartition("}")[2]: cell.text or "" for cell in row})
        elif name == "CommonPrefixes":
            folders += [cell.text or "" for cell in row if plain_name(cell.tag) == "Prefix"]
        elif name not in reported:
            reported[name] = row.text or ""
        if len(objects) + len(folders) + len(reported) > PAGE_ROWS:
            raise ProtocolViolation(
                f"one page of {location} tells of more than {PAGE_ROWS} objects", side=side
            )
    if not (objects or folders or SHOWN.intersection(reported)):
        raise ProtocolViolation(
            f"{location} answers with an empty document, and not with a listing", side=side
        )
    texts = [*folders, *(row.get("Key", "") for row in objects)]
    plain = plain or any(map(_UNENCODED.search, texts))
    decode = _unquote if reported.get("EncodingType") == "url" and not plain else str
    found = [decode(text) for text in folders]
    keys = [decode(row.get("Key", "")) for row in objects]
    if not all(name.startswith(prefix) for name in (*found, *keys)):
        raise ProtocolViolation(f"{location} lists what does not lie in it", side=side)
    rest = len(prefix)
    entries = [Entry(name[rest:]) for name in found]
    entries += filter(
        None, (_entry(key[rest:], row) for key, row in zip(keys, objects, strict=True))
    )
    order = [_in_bytes(key) for key in keys]
    marker = reported.get("NextMarker")
    return ListedPage(
        entries=tuple(entries),
        truncated=is_truncated(reported.get("IsTruncated", "true" if marker else "")),
        token=reported.get("NextContinuationToken") or None,
        after=decode(marker) if marker else max((*found, *keys), key=_in_bytes, default=None),
        first=order[0] if order else None,
        last=order[-1] if order else None,
        ascending=all(one < other for one, other in pairwise(order)),
        plain=plain,
    )


def is_truncated(reported: str) -> bool | None:
    """Read an `IsTruncated`; None where there is none. What does not say that this was all says
    that there is more (XML Schema 2, section 3.2.2: a boolean is `true` or `1` as well)."""
    said = reported.strip().lower()
    return said not in ("false", "0") if said else None


def _entry(name: str, row: Mapping[str, str]) -> Entry | None:
    """Return what a page tells of one object; None for the marker of the folder that is listed."""
    size, after = (
        count(row.get("Size", "").strip()),
        None if UNSAFE_CHARACTERS.search(name) else name or None,
    )
    if (not name or name.endswith("/")) and size != 0:
        return Entry(f"{name}(an object)", size, error=_ends_in_slash(), after=after)
    return (
        Entry(
            name,
            size,
            strong_tag(row.get("ETag")),
            iso_date(row.get("LastModified", "").strip()),
            after=after,
        )
        if name
        else None
    )


def _in_bytes(key: str) -> bytes:
    """Return a key as S3 sorts it."""
    return key.encode(errors="surrogatepass")


def _ends_in_slash() -> UnsafeKey:
    return UnsafeKey(
        "the key ends in '/', and there are bytes behind it",
        hint=(
            "Only an empty object of such a name is a folder's marker; copy this one to another"
            " key."
        ),
    )


def unfinished_upload(row: Element) -> tuple[str, str, float] | None:
    """Return what a row tells of an upload in parts: its id, its key, and when it was begun (since
    1970)."""
    upload, key, when = (row.findtext(f"{{*}}{name}") for name in ("UploadId", "Key", "Initiated"))
    begun, upload = iso_date(when), strong_tag(upload)
    return (upload, key, begun.timestamp()) if upload and key and begun is not None else None


def in_query(text: str) -> str:
    """Return a peer's text as a query says it back, whatever it holds: bytes that are no UTF-8, or
    a lone surrogate."""
    try:
        return quote(text, safe="-_.~", errors="surrogateescape")
    except UnicodeEncodeError:
        return quote(text, safe="-_.~", errors="surrogatepass")


def _unquote(text: str) -> str:
    """Return a key without its percent-encoding; bytes that are no UTF-8 stay what they are, so
    that they are told."""
    return unquote_plus(text, errors="surrogateescape")


def error_region(head: Head, text: str) -> str | None:
    """Return the region that a refusal says the bucket is in, or None."""
    root = parse_document(text) if text else None
    reported = (
        head.get("x-amz-bucket-region")
        or (root.findtext("{*}Region") if root is not None else None)
        or ""
    )
    return reported if _REGION_NAME.fullmatch(reported) else None


def error_field(text: str) -> str:
    """Return the field that a refusal names as the one that it does not know; empty where it names
    none."""
    root = parse_document(text)
    return "" if root is None else printable((root.findtext("{*}Header") or "").strip())


def error_told(text: str) -> tuple[str, str]:
    """Return the code and the message, as it came, of an error document; empty strings where there
    is none."""
    root = parse_document(text)
    if root is None:
        return "", ""
    code, message = root.findtext("{*}Code") or "", root.findtext("{*}Message") or ""
    return printable(code.strip()), message.strip()
