"""Parse the answers to accepted requests of S3: documents, checksums, versions.

Decided here: what an answer means (docs.aws.amazon.com, "Checking object integrity"). Never here:
which requests are sent (`client.py`), what a refusal means (`error_codes.py`)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from xml.etree.ElementTree import Element, ParseError, fromstring

from relay.digest import ALGORITHMS, Digests
from relay.parsing import iso_date
from relay.stores.http_fields import strong_tag
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
    reported = head.by_name
    if "x-amz-checksum-type" in reported and reported["x-amz-checksum-type"].upper() == "COMPOSITE":
        return {}
    found: dict[str, bytes] = {}
    for theirs, ours in _OURS.items():
        if theirs not in reported:
            continue
        try:
            value = base64.b64decode(reported[theirs], validate=True)
        except ValueError:
            continue
        if len(value) == ALGORITHMS[ours].width:
            found[ours] = value
    return found


def document_checksums(root: Element) -> Digests:
    """Return the CRC64NVME in an answer's document, which is always that of the whole object."""
    try:
        found = base64.b64decode(root.findtext("{*}ChecksumCRC64NVME") or "", validate=True)
    except ValueError:
        return {}
    return {TRAILER: found} if len(found) == ALGORITHMS[TRAILER].width else {}


def version_id(head: Head) -> str | None:
    """Return the version id in an answer's head; None for "null", that of a bucket without
    versions."""
    if "x-amz-version-id" not in head.by_name:
        return None
    reported = strong_tag(head.by_name["x-amz-version-id"])
    return None if reported == "null" else reported


def is_truncated(reported: str) -> bool | None:
    """Parse an `IsTruncated`; None if it is empty. Any value other than `false` and `0` means that
    there are more (XML Schema 2, section 3.2.2: a boolean may be `1` instead of `true`)."""
    said = reported.strip().lower()
    return said not in ("false", "0") if said else None


def unfinished_upload(row: Element) -> tuple[str, str, float] | None:
    """Return the id and the key of a multipart upload in a listing, and when it was created
    (seconds since 1970); None if one of them is missing."""
    upload, key, when = (row.findtext(f"{{*}}{name}") for name in ("UploadId", "Key", "Initiated"))
    begun, upload = iso_date(when), strong_tag(upload)
    return (upload, key, begun.timestamp()) if upload and key and begun is not None else None
