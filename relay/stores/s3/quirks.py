"""What an S3 endpoint was found not to accept, remembered so that later requests leave it out.

Theory of operation. Endpoints implement different subsets of S3, and few name the field that they
did not understand. So the optional fields are left out one after the other, the least loss first:
tags, the checksum, the precondition. A field whose omission did not help is sent again. The receipt
shows what was left out: as a lower level, or as a note.

A 403 may be caused by tags, which need a permission of their own. Any refusal may be caused by a
trailing checksum: at some servers an unknown field invalidates the signature, others answer 401 or
codes of their own. Usually a refusal means what it says. So only the refused object is sent once
without the field: without tags, and, at an endpoint that never accepted a checksum, without that.
All other objects follow once that upload was accepted.

Decided here: which field is left out next. Never here: what a request looks like
(`upload_fields.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from relay.location import Origin
from relay.stores.metadata import TAGGING, USER
from relay.stores.s3.responses import CHECKSUM, TRAILER
from relay.wire.capabilities import CapabilityCache
from relay.wire.http1 import Fields

KNOWN = "checksums"
"""Fact: the endpoint reported the checksum of an upload, so a 403 is not about checksums."""
TRAILERS, NO_TRAILERS, NO_WHOLE = "trailers", "no trailers", "no checksum of the whole"
"""Facts: the endpoint accepts trailing checksums; it does not; it keeps no checksum of a whole
object that was uploaded in parts."""
PART_TRAILERS, NO_PART_TRAILERS = "trailers of parts", "no trailers of parts"
"""Facts: the endpoint accepts trailing checksums of parts; it stores their `aws-chunked` coding
with the bytes."""
UNTRUE_WHOLE = "another checksum of the whole"
"""Fact: the endpoint rejects the checksum of a whole object whose parts' checksums all match."""
NO_CONDITION = "no precondition"
"""Fact: the endpoint does not support `If-None-Match: *`."""
PLAIN_KEYS = "listed keys are as they are"
"""Fact: the endpoint declares the keys of a listing as encoded, and they are not."""
MD5_TAGS = "entity tags are MD5"
"""Fact: the ETag that the endpoint answers to an upload is the MD5 of the bytes. It proves the
upload if the endpoint reports no checksum."""
KEEPS, FOLDS = "keeps empty segments", "folds empty segments"
"""Facts: a key with an empty segment is a key of its own; it is the same as the key without. Some
endpoints keep objects in a file system, where `a//b` is `a/b`."""
WRONG_WHOLE = (
    "the store compared a digest of each part, but reports a different one for the whole object,"
    " which was ignored"
)
UNSEEN = (
    "the store reported no digest and does not allow reading: it may have stored the aws-chunked"
    " coding with the bytes; relay no longer sends that coding there, and a retry uploads the"
    " object without it"
)
_TRIAL = "perhaps "
"""Prefix of a fact that is only tried: no upload was accepted since."""
ENCODES, SMALL = "metadata in ASCII alone", "small metadata"
"""Facts: the endpoint takes non-ASCII metadata only if it is encoded; it rejected more metadata
than AWS allows."""
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
        "SlowDown",
    ]
)
"""Statuses and codes of refusals with a known cause (the bytes, the clock, the key): no optional
field is to blame."""
UNTAGGED = "the destination does not take the object's tags"
UNCONDITIONAL = (
    "the destination does not support If-None-Match: no object existed before the upload, but one"
    " that was created meanwhile was overwritten"
)


def metadata_bytes(fields: Fields) -> int:
    """Return the size of the user's metadata: names and values, in bytes."""
    return sum(
        len(name) - len(USER) + len(value)
        for name, value in fields
        if name.lower().startswith(USER)
    )


@dataclass(frozen=True)
class Refusal:
    """The refusal of an upload: its status, its code, and the field that the server named."""

    status: int
    code: str
    named: str
    fields: Fields
    wrapped: bool = False
    strict: bool = False
    """All metadata is required: none may be left out."""

    @property
    def too_much(self) -> bool:
        """Whether the metadata may be larger than the server allows."""
        long = metadata_bytes(self.fields) > METADATA_BYTES
        return long and (
            self.code in TOO_MUCH or self.status == 431 or (self.status == 413 and not self.code)
        )

    @property
    def foreign(self) -> bool:
        """Whether the metadata is not ASCII alone."""
        return any(not value.isascii() for _, value in self.fields)

    @property
    def tagged(self) -> bool:
        """Whether the tags may be the cause, and may be left out."""
        tags = self.unknown or self.code == "AccessDenied" or self.code.startswith("InvalidTag")
        return tags and self.holds(TAGGING) and not self.strict

    @property
    def unknown(self) -> bool:
        """Whether a field that the server does not know may be the cause."""
        return self.code in LEFT_OUT if self.code else self.status in _STATUSES

    @property
    def doubtful(self) -> bool:
        """Whether the checksum may be the cause, although the refusal does not name it."""
        return (
            400 <= self.status < 500 and self.status not in _SURE and self.code not in _SURE_CODES
        )

    @property
    def checked(self) -> bool:
        """Whether the request had an optional checksum."""
        return self.wrapped or self.holds(CHECKSUM + TRAILER)

    def holds(self, name: str) -> bool:
        """Say if the request had this field."""
        return any(field.lower() == name.lower() for field, _ in self.fields)


@dataclass(frozen=True)
class EndpointQuirks:
    """The remembered facts of one endpoint, of one of its buckets, and of the upload to one
    `path`."""

    memory: CapabilityCache
    origin: Origin
    bucket: str
    path: str

    def has(self, fact: str) -> bool:
        """Say if a fact was learned."""
        return self.memory.has(self.origin, fact)

    def learn(self, fact: str) -> None:
        """Remember a fact."""
        self.memory.learn(self.origin, fact)

    def forget(self, fact: str) -> bool:
        """Forget a fact; say if it was learned."""
        return self.memory.forget(self.origin, fact)

    @property
    def readable(self) -> str:
        """Fact: HEAD says whether the bucket has an object."""
        return f"readable {self.bucket}"

    @property
    def unreadable(self) -> str:
        """Fact: these credentials may write to the bucket, but not read from it."""
        return f"unreadable {self.bucket}"

    @property
    def has_accepted_upload(self) -> bool:
        """Whether the endpoint accepted an upload, as far as a fact about checksums shows it."""
        facts = (KNOWN, TRAILERS, NO_TRAILERS, PART_TRAILERS, NO_PART_TRAILERS)
        return any(self.has(fact) for fact in facts)

    @property
    def untagged(self) -> str:
        """Fact: objects of this bucket are uploaded without tags."""
        return f"no tags {self.bucket}"

    @property
    def tagless(self) -> bool:
        """Whether the upload leaves out its tags."""
        return self.has(self.untagged) or self.has(self._tagged)

    @property
    def _tagged(self) -> str:
        """Fact: this object was refused with tags."""
        return f"refused with tags {self.bucket} {self.path}"

    @property
    def unchecked(self) -> bool:
        """Whether the upload leaves out its checksum."""
        return self.has(NO_TRAILERS) or self.has(self._trial) or self.has(self.unseen)

    @property
    def summed(self) -> bool:
        """Whether the MD5 of an upload is computed too: as long as it is unknown what the endpoint
        reports, and if an MD5 as ETag is all that it reports."""
        return not self.has(KNOWN) and (self.has(MD5_TAGS) or not self.has(TRAILERS))

    @property
    def unseen(self) -> str:
        """Fact: the bucket's objects can't be inspected, so it is unknown whether the endpoint
        decodes `aws-chunked`, which a trailing checksum needs."""
        return f"unseen {self.bucket}"

    @property
    def unversioned(self) -> str:
        """Fact: the credentials may read this bucket's objects, but not by their version ids."""
        return f"no version ids {self.bucket}"

    @property
    def unconditional(self) -> bool:
        """Whether the upload leaves out its precondition. An accepted upload of another object
        proves nothing about it: that one may have had a precondition."""
        return self.has(NO_CONDITION) or self.has(self._conditional)

    @property
    def _conditional(self) -> str:
        """Fact: this object was refused with a precondition."""
        return f"refused with a precondition {self.bucket} {self.path}"

    @property
    def _takes_trailers(self) -> bool:
        """Whether an object or a part with a trailing checksum was accepted."""
        return self.has(TRAILERS) or self.has(PART_TRAILERS)

    @property
    def _trial(self) -> str:
        """Fact: this object was refused with a checksum."""
        return f"refused with a checksum {self.path}"

    def leave_out(self, refusal: Refusal) -> str | None:
        """Choose what is left out from now on and return it in words, or None if no optional field
        can be the cause.

        Only the fields of the refused request count: the memory may have changed since it was sent,
        by refusals of requests that ran at the same time."""
        if refusal.too_much:
            self.learn(SMALL)
            return f"the metadata beyond {METADATA_BYTES} bytes"
        if refusal.foreign and refusal.status in (400, 403, 501):
            self.learn(ENCODES)
            return "letters in the metadata that are not ASCII"
        if refusal.tagged:
            self.learn(self._tagged)
            return "its tags"
        self.forget(self._tagged)  # leaving out the tags did not help
        if not refusal.unknown:
            return self._guess_quirk(refusal)
        conditional = refusal.holds(CONDITION)
        if (
            refusal.checked
            and not self.has(TRAILERS)
            and not (conditional and refusal.named.lower() == CONDITION.lower())
        ):
            self._try(NO_TRAILERS)
            return TRAILER
        self._withdraw(NO_TRAILERS)
        if conditional:
            self.learn(self._conditional)
            return CONDITION
        self.forget(self._conditional)
        return None

    def _guess_quirk(self, refusal: Refusal) -> str | None:
        """As `leave_out`, for a refusal that names no field. Without a checksum in the request it
        is a real refusal."""
        if not (refusal.checked and refusal.doubtful):
            self.forget(self._trial)
            return None
        if self._takes_trailers:
            return None
        self.learn(self._trial)
        return TRAILER

    def note_accepted(self, reported: bool) -> None:
        """Note that an upload was accepted: the fields that it lacked are left out for good.
        `reported`: the answer names its checksum. A store that computes checksums itself may still
        refuse a trailing one."""
        self.note_begun()
        if reported:
            self.learn(KNOWN)
        if self.forget(self._trial) and not self._takes_trailers:
            self.learn(NO_TRAILERS)
        self.forget(_TRIAL + NO_TRAILERS)

    def note_precondition_ignored(self) -> None:
        """Note that an upload with `if_absent` was accepted. If it was refused with the
        precondition before, the endpoint does not support preconditions."""
        if self.forget(self._conditional):
            self.learn(NO_CONDITION)

    def note_begun(self) -> None:
        """Note that an upload was accepted, or a multipart upload created: the tags were the only
        cause of an earlier refusal."""
        if self.forget(self._tagged):
            self.learn(self.untagged)

    def _try(self, fact: str) -> None:
        self.learn(fact)
        self.learn(_TRIAL + fact)

    def _withdraw(self, fact: str) -> None:
        """Forget a fact that was only tried, and did not help."""
        if self.forget(_TRIAL + fact):
            self.forget(fact)
