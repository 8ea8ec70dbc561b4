"""Parse a refusal of S3, and define the meaning of its error codes.

Decided here: the error of each code (docs.aws.amazon.com, "Error responses"). Never here: which
request is sent again after a refusal (`client.py`, `quirks.py`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from relay.errors import (
    IntegrityMismatch,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    Rejected,
    StoreError,
    StoreFull,
    Throttled,
    Unauthenticated,
    Unavailable,
    UploadGone,
)
from relay.stores.http_fields import printable
from relay.stores.s3.responses import parse_document
from relay.wire.http1 import Head

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
    "XMinioAdminBucketQuotaExceeded": Code(StoreFull),
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


def code_and_message(text: str) -> tuple[str, str]:
    """Return the code and the unchanged message of an error document; empty strings if it has
    none."""
    root = parse_document(text)
    if root is None:
        return "", ""
    code, message = root.findtext("{*}Code") or "", root.findtext("{*}Message") or ""
    return printable(code.strip()), message.strip()
