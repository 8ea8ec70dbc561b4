"""Parse what S3 answers: documents, error codes, checksums.

Decided here: what an answer says (docs.aws.amazon.com, "Error responses", "Checking object
integrity"). Never here: which requests are sent (`client.py`)."""

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
"""S3's fields for checksums, and relay's names of the algorithms."""
_REGION_NAME = re.compile(r"[a-z][a-z0-9-]{1,40}")


@dataclass(frozen=True)
class Code:
    """The error of one of S3's error codes, and its hint."""

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
        NotFound,
        "The bucket does not exist, and relay does not create buckets. Check its name and the"
        " endpoint.",
    ),
    "AccessDenied": Code(
        PermissionDenied,
        "The credentials are valid, but lack this permission; check the bucket's policy.",
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
    "XMinioInvalidObjectName": Code(
        Rejected, "This server does not allow this name; rename the object."
    ),
    "QuotaExceeded": Code(StoreFull),
    "XMinioStorageFull": Code(StoreFull),
    "PreconditionFailed": Code(PreconditionFailed),
    "ConditionalRequestConflict": Code(Unavailable, "Another client writes the same key."),
    "OperationAborted": Code(Unavailable),
    "BadDigest": Code(
        IntegrityMismatch, "The bytes were damaged on the way; they are sent again.", True
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
"""The error of each of S3's error codes. A status is less specific: 400 and 403 have many
causes."""


def parse_document(text: str) -> Element | None:
    """Return a document's root, or None if it is malformed, or has a document type.

    A document type may declare entities, which may grow without end or fetch files; no store's
    answer has one. Without it the fast parser in C is safe (docs.python.org, "XML
    vulnerabilities")."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        return fromstring(text.strip())
    except (ParseError, ValueError):
        return None


def checksums(head: Head) -> Digests:
    """Return the digests of the whole object in an answer's head. A checksum of the parts'
    checksums ("…-3", COMPOSITE) is not one."""
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
    """Return the CRC64NVME in an answer's document, which is always that of the whole object."""
    try:
        found = base64.b64decode(root.findtext("{*}ChecksumCRC64NVME") or "", validate=True)
    except ValueError:
        return {}
    return {TRAILER: found} if len(found) == ALGORITHMS[TRAILER].width else {}


def version_id(head: Head) -> str | None:
    """Return the version id in an answer's head; None for "null", that of a bucket without
    versions."""
    reported = strong_tag(head.by_name.get("x-amz-version-id"))
    return None if reported == "null" else reported


_UNENCODED: Final = re.compile(
    r"[ \xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]|%(?![0-9A-Fa-f]{2})"
)
"""Characters that a percent-encoded key can't contain."""
PAGE_ROWS: Final = 10_000
"""Maximum number of rows of one page of a listing. No number is requested; a thousand is usual."""

SHOWN: Final = frozenset(
    {"Name", "Prefix", "IsTruncated", "KeyCount", "MaxKeys"}
    | {"Marker", "StartAfter", "ContinuationToken"}
)
"""Elements of which an empty page has at least one (ListObjects and ListObjectsV2, "Response
Elements"). Most servers send `Name` and `IsTruncated`; a server of the first form may send only the
`Marker` of the request."""


@dataclass(frozen=True, kw_only=True)
class ListedPage:
    """One page of a bucket's listing. `first` and `last` are the bytes of its first and last key;
    `ascending`: the keys come in the order of their bytes. `after` is the marker for a listing
    without tokens. `truncated` is None if the page does not say whether there are more."""

    entries: tuple[Entry, ...]
    truncated: bool | None
    token: str | None
    after: str | None
    first: bytes | None = None
    last: bytes | None = None
    ascending: bool = True
    plain: bool = False
    """Its keys are not percent-encoded, whatever the page says."""


def read_page(
    rows: Iterable[Element], prefix: str, location: Location, side: Side, *, plain: bool = False
) -> ListedPage:
    """Read a page's folders and objects, except for the marker of the folder itself. If the server
    is known to send `plain` keys, or a key shows it here, no key is decoded, whatever the page
    says: `a+b` would become another key.

    Raises ProtocolViolation for a key that is not in the requested folder, for too many rows, and
    for an empty document that is not recognizable as a page (law 13)."""
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
                f"one page of {location} has more than {PAGE_ROWS} objects", side=side
            )
    if not (objects or folders or SHOWN.intersection(reported)):
        raise ProtocolViolation(
            f"{location} answered with an empty document instead of a listing", side=side
        )
    texts = [*folders, *(row.get("Key", "") for row in objects)]
    plain = plain or any(map(_UNENCODED.search, texts))
    decode = _unquote if reported.get("EncodingType") == "url" and not plain else str
    found = [decode(text) for text in folders]
    keys = [decode(row.get("Key", "")) for row in objects]
    if not all(name.startswith(prefix) for name in (*found, *keys)):
        raise ProtocolViolation(f"the listing of {location} has keys of other folders", side=side)
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
    """Parse an `IsTruncated`; None if it is empty. Any value other than `false` and `0` means that
    there are more (XML Schema 2, section 3.2.2: a boolean may be `1` instead of `true`)."""
    said = reported.strip().lower()
    return said not in ("false", "0") if said else None


def _entry(name: str, row: Mapping[str, str]) -> Entry | None:
    """Return the entry of one object; None for the marker of the listed folder."""
    size = count(row.get("Size", "").strip())
    after = None if UNSAFE_CHARACTERS.search(name) else name or None
    if (not name or name.endswith("/")) and size != 0:
        return Entry(f"{name}(an object)", size, error=_ends_in_slash(), after=after)
    if not name:
        return None
    etag, modified = strong_tag(row.get("ETag")), iso_date(row.get("LastModified", "").strip())
    return Entry(name, size, etag, modified, after=after)


def _in_bytes(key: str) -> bytes:
    """Return a key's bytes, by which S3 sorts."""
    return key.encode(errors="surrogatepass")


def _ends_in_slash() -> UnsafeKey:
    return UnsafeKey(
        "the key ends in '/', but the object is not empty",
        hint=(
            "Only an empty object with such a key is a folder's marker; copy this one to another"
            " key."
        ),
    )


def unfinished_upload(row: Element) -> tuple[str, str, float] | None:
    """Return the id and the key of a multipart upload in a listing, and when it was created
    (seconds since 1970); None if one of them is missing."""
    upload, key, when = (row.findtext(f"{{*}}{name}") for name in ("UploadId", "Key", "Initiated"))
    begun, upload = iso_date(when), strong_tag(upload)
    return (upload, key, begun.timestamp()) if upload and key and begun is not None else None


def in_query(text: str) -> str:
    """Percent-encode a peer's text for a query, also with bytes that are not UTF-8, or a lone
    surrogate."""
    try:
        return quote(text, safe="-_.~", errors="surrogateescape")
    except UnicodeEncodeError:
        return quote(text, safe="-_.~", errors="surrogatepass")


def _unquote(text: str) -> str:
    """Return a percent-decoded key; bytes that are not UTF-8 become surrogates, which later checks
    report."""
    return unquote_plus(text, errors="surrogateescape")


def error_region(head: Head, text: str) -> str | None:
    """Return the bucket's region as a refusal names it, or None."""
    root = parse_document(text) if text else None
    reported = (
        head.get("x-amz-bucket-region")
        or (root.findtext("{*}Region") if root is not None else None)
        or ""
    )
    return reported if _REGION_NAME.fullmatch(reported) else None


def error_field(text: str) -> str:
    """Return the unsupported field that a refusal names; empty if it names none."""
    root = parse_document(text)
    return "" if root is None else printable((root.findtext("{*}Header") or "").strip())


def error_told(text: str) -> tuple[str, str]:
    """Return the code and the unchanged message of an error document; empty strings if it has
    none."""
    root = parse_document(text)
    if root is None:
        return "", ""
    code, message = root.findtext("{*}Code") or "", root.findtext("{*}Message") or ""
    return printable(code.strip()), message.strip()
