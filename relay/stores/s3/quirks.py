"""Features that an S3 endpoint was found to refuse, remembered so that later requests leave them
out.

Theory of operation. Endpoints implement different subsets of S3, and few name the field that they
did not understand. So the optional fields are left out one after the other, the least loss first:
tags, a website's redirect, the checksum, the precondition. A field whose omission did not help is
sent again. The receipt shows what was left out: as a lower level, or as a note.

A 403 may be caused by tags, which need a permission of their own. Any refusal may be caused by a
trailing checksum: at some servers an unknown field invalidates the signature, others answer 401 or
codes of their own. Usually a refusal means what its code says. So only the refused object is sent
once without the field: without tags, and, at an endpoint that never accepted a checksum, without
that. All other objects follow once that upload was accepted.

Decided here: which field is left out next. Never here: what a request looks like
(`upload_fields.py`)."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from relay.location import Origin
from relay.stores.metadata import REDIRECT
from relay.stores.s3.responses import TRAILER
from relay.stores.s3.upload_refusals import CONDITION, METADATA_BYTES, UploadRefusal
from relay.wire.capabilities import CapabilityCache

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
NO_MODE = "no checksum mode"
"""Fact: the endpoint refuses a read that asks for the object's checksum, as Backblaze B2 does
(vatesfr/xen-orchestra#8358)."""
NO_CONDITION = "no precondition"
"""Fact: the endpoint does not support `If-None-Match: *`."""
PLAIN_KEYS = "listed keys are as they are"
"""Fact: the endpoint declares the keys of a listing as encoded, and they are not."""
LISTS_LATER = "lists objects later"
"""Fact: the endpoint is OpenStack Swift, which updates its listings after it has answered an upload
(docs.openstack.org/swift, swift-object-updater)."""
FEW = "few parts"
"""Fact: the endpoint refuses part numbers above FEW_PARTS."""
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
UNTAGGED = "the destination does not take the object's tags"
UNCONDITIONAL = (
    "the destination does not support If-None-Match: no object existed before the upload, but one"
    " that was created meanwhile was overwritten"
)


@dataclass(frozen=True)
class EndpointQuirks:
    """The remembered facts of one endpoint, of one of its buckets, and of the upload to one
    `path`."""

    memory: CapabilityCache
    origin: Origin
    bucket: str
    path: str
    _: KW_ONLY
    owner: str = ""
    """The owner of the credentials: what they may do says nothing about those of others."""

    def has(self, fact: str) -> bool:
        """Return whether a fact was learned."""
        return self.memory.has(self.origin, fact)

    def learn(self, fact: str) -> None:
        """Remember a fact."""
        self.memory.learn(self.origin, fact)

    def forget(self, fact: str) -> bool:
        """Forget a fact; return whether it was learned."""
        return self.memory.forget(self.origin, fact)

    @property
    def readable(self) -> str:
        """Fact: with these credentials HEAD answers whether the bucket has an object."""
        return f"readable {self.bucket} {self.owner}"

    @property
    def unreadable(self) -> str:
        """Fact: these credentials may write to the bucket, but not read from it."""
        return f"unreadable {self.bucket} {self.owner}"

    @property
    def has_accepted_upload(self) -> bool:
        """Whether the endpoint accepted an upload, as far as a fact about checksums shows it."""
        facts = (KNOWN, TRAILERS, NO_TRAILERS, PART_TRAILERS, NO_PART_TRAILERS)
        return any(self.has(fact) for fact in facts)

    @property
    def untagged(self) -> str:
        """Fact: these credentials upload objects to this bucket without tags."""
        return f"no tags {self.bucket} {self.owner}"

    @property
    def omits_tags(self) -> bool:
        """Whether the upload leaves out its tags."""
        return self.has(self.untagged) or self.has(self._refused_tags)

    @property
    def _refused_tags(self) -> str:
        """Fact: this object was refused with tags."""
        return f"refused with tags {self.bucket} {self.path}"

    @property
    def without_redirects(self) -> str:
        """Fact: objects of this bucket are uploaded without redirects."""
        return f"no redirects {self.bucket}"

    @property
    def omits_redirect(self) -> bool:
        """Whether the upload leaves out its redirect."""
        return self.has(self.without_redirects) or self.has(self._refused_redirect)

    @property
    def _refused_redirect(self) -> str:
        """Fact: this object was refused with a redirect."""
        return f"refused with a redirect {self.bucket} {self.path}"

    @property
    def omits_checksum(self) -> bool:
        """Whether the upload leaves out its checksum."""
        return self.has(NO_TRAILERS) or self.has(self._refused_checksum) or self.has(self.unseen)

    @property
    def needs_md5(self) -> bool:
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
        """Fact: these credentials may read this bucket's objects, but not by their version ids."""
        return f"no version ids {self.bucket} {self.owner}"

    @property
    def omits_precondition(self) -> bool:
        """Whether the upload leaves out its precondition. An accepted upload of another object
        proves nothing about it: that one may have had a precondition."""
        return self.has(NO_CONDITION) or self.has(self._refused_precondition)

    @property
    def _refused_precondition(self) -> str:
        """Fact: this object was refused with a precondition."""
        return f"refused with a precondition {self.bucket} {self.path}"

    @property
    def _takes_trailers(self) -> bool:
        """Whether an object or a part with a trailing checksum was accepted."""
        return self.has(TRAILERS) or self.has(PART_TRAILERS)

    @property
    def _refused_checksum(self) -> str:
        """Fact: this object was refused with a checksum."""
        return f"refused with a checksum {self.path}"

    def leave_out(self, refusal: UploadRefusal) -> str | None:
        """Choose what is left out from now on and return it in words, or None if no optional field
        can be the cause.

        Only the fields of the refused request count: the memory may have changed since it was sent,
        by refusals of requests that ran at the same time."""
        if refusal.can_mean_large_metadata:
            self.learn(SMALL)
            return f"the metadata beyond {METADATA_BYTES} bytes"
        if refusal.has_non_ascii_metadata and refusal.status in (400, 403, 501):
            self.learn(ENCODES)
            return "letters in the metadata that are not ASCII"
        if refusal.names_redirect:
            # Known for certain: an object that must keep it fails before its next upload.
            self.learn(self.without_redirects)
            return REDIRECT
        if refusal.can_mean_tags:
            self.learn(self._refused_tags)
            return "its tags"
        self.forget(self._refused_tags)  # leaving out the tags did not help
        if refusal.can_mean_redirect:
            self.learn(self._refused_redirect)
            return REDIRECT
        self.forget(self._refused_redirect)
        if not refusal.can_mean_unknown_field:
            return self._guess_quirk(refusal)
        conditional = refusal.has_field(CONDITION)
        if (
            refusal.has_checksum
            and not self.has(TRAILERS)
            and not (conditional and refusal.named.lower() == CONDITION.lower())
        ):
            self.learn(NO_TRAILERS)
            self.learn(_TRIAL + NO_TRAILERS)
            return TRAILER
        if self.forget(_TRIAL + NO_TRAILERS):  # it was only tried, and did not help
            self.forget(NO_TRAILERS)
        if conditional:
            self.learn(self._refused_precondition)
            return CONDITION
        self.forget(self._refused_precondition)
        return None

    def _guess_quirk(self, refusal: UploadRefusal) -> str | None:
        """As `leave_out`, for a refusal that names no field. Without a checksum in the request it
        is a real refusal."""
        if not (refusal.has_checksum and refusal.can_mean_checksum):
            self.forget(self._refused_checksum)
            return None
        if self._takes_trailers:
            return None
        self.learn(self._refused_checksum)
        return TRAILER

    def note_accepted(self, reported: bool) -> None:
        """Note that an upload was accepted: the fields that it lacked are left out for good.
        `reported`: the answer names its checksum. A store that computes checksums itself may still
        refuse a trailing one."""
        self.note_begun()
        if reported:
            self.learn(KNOWN)
        if self.forget(self._refused_checksum) and not self._takes_trailers:
            self.learn(NO_TRAILERS)
        self.forget(_TRIAL + NO_TRAILERS)

    def note_precondition_ignored(self) -> None:
        """Note that an upload with `if_absent` was accepted. If it was refused with the
        precondition before, the endpoint does not support preconditions."""
        if self.forget(self._refused_precondition):
            self.learn(NO_CONDITION)

    def note_begun(self) -> None:
        """Note that an upload was accepted, or a multipart upload created: the tags, or the
        redirect, were the cause of an earlier refusal."""
        if self.forget(self._refused_tags):
            self.learn(self.untagged)
        if self.forget(self._refused_redirect):
            self.learn(self.without_redirects)
