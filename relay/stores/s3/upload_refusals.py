"""Determine which optional field may be the cause of a refused upload.

Theory of operation. Endpoints implement different subsets of S3, and few name the field that they
did not understand. Usually a refusal means what its code says; some statuses and codes leave room
for doubt.

Decided here: what one refusal can mean. Never here: the field that is left out next (`quirks.py`),
the error that a user sees (`error_codes.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from relay.stores.metadata import REDIRECT, TAGGING, USER
from relay.stores.s3.responses import CHECKSUM, TRAILER
from relay.wire.http1 import Fields

METADATA_BYTES = 2048
"""Maximum size of the user's metadata, names and values together, at AWS (docs.aws.amazon.com,
"Working with object metadata")."""
TOO_MUCH = frozenset({"MetadataTooLarge", "RequestHeaderSectionTooLarge"})
CONDITION = "If-None-Match"
LEFT_OUT = frozenset(
    [
        "NotImplemented",
        "InvalidArgument",
        "InvalidRequest",
        "InvalidDigest",
        "XAmzContentSHA256Mismatch",
        "MissingContentLength",
        "MalformedTrailerError",
        "UnsupportedOperation",
    ]
)
"""Error codes of a server that may not know an optional field."""
_STATUSES = frozenset({400, 411, 501})
"""The same as statuses, for a server that names no code."""
_SURE = frozenset({404, 408, 409, 412, 429})
_SURE_CODES = frozenset(
    [
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
        "InvalidAccessKeyId",
        "BadDigest",
        "XAmzContentChecksumMismatch",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "EntityTooLarge",
        "QuotaExceeded",
        "XMinioStorageFull",
        "XMinioAdminBucketQuotaExceeded",
        "SlowDown",
    ]
)
"""Statuses and codes of refusals with a known cause (the bytes, the clock, the key, a
quota): no optional field is to blame."""


def metadata_bytes(fields: Fields) -> int:
    """Return the size of the user's metadata: names and values, in bytes."""
    return sum(
        len(name) - len(USER) + len(value)
        for name, value in fields
        if name.lower().startswith(USER)
    )


@dataclass(frozen=True, kw_only=True)
class UploadRefusal:
    """The refusal of an upload: its status, its code, and the field that the server named."""

    status: int
    code: str
    named: str = ""
    fields: Fields
    wrapped: bool = False
    strict: bool = False
    """All metadata is required: none may be left out."""

    @property
    def can_mean_large_metadata(self) -> bool:
        """Whether the metadata may be larger than the server allows."""
        if metadata_bytes(self.fields) <= METADATA_BYTES:
            return False
        unnamed = self.status == 413 and not self.code
        return self.code in TOO_MUCH or self.status == 431 or unnamed

    @property
    def has_non_ascii_metadata(self) -> bool:
        """Whether the metadata is not ASCII alone."""
        return any(not value.isascii() for _, value in self.fields)

    @property
    def can_mean_tags(self) -> bool:
        """Whether the tags may be the cause, and may be left out."""
        if self.strict or not self.has_field(TAGGING):
            return False
        about_tags = self.code == "AccessDenied" or self.code.startswith("InvalidTag")
        return about_tags or self.can_mean_unknown_field

    @property
    def names_redirect(self) -> bool:
        """Whether the server refused the object's redirect by its name."""
        return self.named == REDIRECT and self.has_field(REDIRECT) and self.can_mean_unknown_field

    @property
    def can_mean_redirect(self) -> bool:
        """Whether the object's redirect may be the cause, and may be left out."""
        if self.strict or self.named or not self.has_field(REDIRECT):
            return False
        return self.can_mean_unknown_field

    @property
    def can_mean_unknown_field(self) -> bool:
        """Whether a field that the server does not know may be the cause."""
        return self.code in LEFT_OUT if self.code else self.status in _STATUSES

    @property
    def can_mean_checksum(self) -> bool:
        """Whether the checksum may be the cause, although the refusal does not name it."""
        return (
            400 <= self.status < 500 and self.status not in _SURE and self.code not in _SURE_CODES
        )

    @property
    def has_checksum(self) -> bool:
        """Whether the request had an optional checksum."""
        return self.wrapped or self.has_field(CHECKSUM + TRAILER)

    def has_field(self, name: str) -> bool:
        """Return whether the request had this field."""
        return any(field.lower() == name.lower() for field, _ in self.fields)
