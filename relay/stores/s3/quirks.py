"""What an S3 endpoint was found not to accept, remembered so that later requests leave it out.

Theory of operation. Endpoints differ in what of S3 they know, and few say which field it was that
they did not understand. So of what need not be said one thing after the other is left out, the
least loss first: tags, the checksum, the precondition; what was left out in vain is said again.
Whatever is missing then shows in the receipt: as a lower level, or as a note.

A denial may mean tags, which want a permission of their own. Any refusal may mean a checksum behind
the bytes: a field that the server does not know spoils the signature at some, and others answer 401
or name codes of their own. Mostly it means what it says, so that only the object that was refused
goes once without: without tags, and, at an endpoint that never took a checksum, without that. All
others follow once that was taken.

Decided here: what is left out next. Never here: what a request looks like (`stores/s3.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from relay.location import Origin
from relay.stores.metadata import TAGGING, USER
from relay.stores.s3.responses import CHECKSUM, TRAILER
from relay.wire.capabilities import CapabilityCache
from relay.wire.http1 import Fields

KNOWN = "checksums"
"""What is learned of an endpoint: that it told the checksum of an upload, so that it does not deny
those; ..."""
TRAILERS, NO_TRAILERS, NO_WHOLE = "trailers", "no trailers", "no checksum of the whole"
"""... that it takes a checksum behind the bytes or does not, that it keeps none of a whole that
came in parts, ..."""
PART_TRAILERS, NO_PART_TRAILERS = "trailers of parts", "no trailers of parts"
"""... that it takes them behind those of parts too, or keeps their coding there, ..."""
UNTRUE_WHOLE = "another checksum of the whole"
"""... that it refuses a whole whose parts' checksums all agree, ..."""
NO_CONDITION = "no precondition"
"""... and that it does not know "only where nothing is"."""
PLAIN_KEYS = "listed keys are as they are"
"""That it says of the keys which it lists that they are encoded, and they are not."""
MD5_TAGS = "entity tags are MD5"
"""That its answer to an upload proves it, although it tells no checksum."""
KEEPS, FOLDS = "keeps empty segments", "folds empty segments"
"""Whether a key with an empty segment is a name of its own there, or another one's: some keep their
objects in a file system, where `a//b` is `a/b`."""
WRONG_WHOLE = (
    "the store compared a digest of each part, and knows another one of the whole: that one means"
    " nothing"
)
UNSEEN = (
    "the store told no digest of it and lets nobody look: it may have kept the coding around the"
    " bytes with them; that is not sent there any more, and a retry sends the object again"
    " without it"
)
_TRIAL = "perhaps "
"""Before a fact: no upload was taken since."""
ENCODES, SMALL = "metadata in ASCII alone", "small metadata"
"""That it takes other letters than those of ASCII only encoded, and that it refused more metadata
than AWS takes."""
METADATA_BYTES = 2048
"""What the user's names and values may have in all at AWS (docs.aws.amazon.com, "Working with
object metadata")."""
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
"""The codes of a server that does not know something which need not be said."""
_STATUSES = frozenset({400, 411, 501})
"""The statuses of one that names no code."""
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
"""The statuses and the codes of refusals that say what it is: the bytes, the clock, the key; no
field is the cause."""
UNTAGGED = "the destination does not take the object's tags"
UNCONDITIONAL = (
    "the destination knows no 'only where nothing is': nothing was there before, but who came"
    " between was overwritten"
)


def metadata_bytes(fields: Fields) -> int:
    """Return how many bytes the user's names and values have."""
    return sum(
        len(name) - len(USER) + len(value)
        for name, value in fields
        if name.lower().startswith(USER)
    )


@dataclass(frozen=True)
class Refusal:
    """An upload that was refused, and what of it the server named: its code, and a field."""

    status: int
    code: str
    named: str
    fields: Fields
    wrapped: bool = False
    strict: bool = False
    """Nothing of the object's metadata may be left out."""

    @property
    def too_much(self) -> bool:
        """Whether it has more metadata than the server takes."""
        long = metadata_bytes(self.fields) > METADATA_BYTES
        return long and (
            self.code in TOO_MUCH or self.status == 431 or (self.status == 413 and not self.code)
        )

    @property
    def foreign(self) -> bool:
        """Whether it has metadata in other letters than those of ASCII."""
        return any(not value.isascii() for _, value in self.fields)

    @property
    def tagged(self) -> bool:
        """Whether it may be its tags, and they may be left out."""
        tags = self.unknown or self.code == "AccessDenied" or self.code.startswith("InvalidTag")
        return tags and self.holds(TAGGING) and not self.strict

    @property
    def unknown(self) -> bool:
        """Whether it may be something that the server does not know."""
        return self.code in LEFT_OUT if self.code else self.status in _STATUSES

    @property
    def doubtful(self) -> bool:
        """Whether it may mean the checksum, whatever it says."""
        return (
            400 <= self.status < 500 and self.status not in _SURE and self.code not in _SURE_CODES
        )

    @property
    def checked(self) -> bool:
        """Whether the request had a checksum that need not be said."""
        return self.wrapped or self.holds(CHECKSUM + TRAILER)

    def holds(self, name: str) -> bool:
        """Say if the request had this field."""
        return any(field.lower() == name.lower() for field, _ in self.fields)


@dataclass(frozen=True)
class EndpointQuirks:
    """What is remembered of one endpoint, for one of its buckets, and of the upload to one `path`
    there."""

    memory: CapabilityCache
    origin: Origin
    bucket: str
    path: str

    def has(self, fact: str) -> bool:
        """Say if this was learned."""
        return self.memory.has(self.origin, fact)

    def learn(self, fact: str) -> None:
        """Keep it in mind."""
        self.memory.learn(self.origin, fact)

    @property
    def untagged(self) -> str:
        """The name under which it is remembered that the bucket's objects get no tags."""
        return f"no tags {self.bucket}"

    @property
    def tagless(self) -> bool:
        """Whether the upload is to go without tags."""
        return self.has(self.untagged) or self.has(self._tagged)

    @property
    def _tagged(self) -> str:
        """The name under which it is remembered that this object was refused with tags."""
        return f"refused with tags {self.bucket} {self.path}"

    @property
    def unchecked(self) -> bool:
        """Whether the upload is to go without a checksum."""
        return self.has(NO_TRAILERS) or self.has(self._trial) or self.has(self.unseen)

    @property
    def summed(self) -> bool:
        """Whether the MD5 of an upload is to be computed besides: until it is known what its
        answers tell, and where that is all that they do."""
        return not self.has(KNOWN) and (self.has(MD5_TAGS) or not self.has(TRAILERS))

    @property
    def unseen(self) -> str:
        """The name under which it is remembered that nobody may look at the bucket's objects, so
        that it can't be seen whether the coding behind which a checksum comes is understood."""
        return f"unseen {self.bucket}"

    @property
    def unconditional(self) -> bool:
        """Whether the upload is to go without a precondition. That another one is taken says
        nothing of that: it may have gone with its own."""
        return self.has(NO_CONDITION) or self.has(self._conditional)

    @property
    def _conditional(self) -> str:
        """The name under which it is remembered that this object was refused with a
        precondition."""
        return f"refused with a precondition {self.bucket} {self.path}"

    @property
    def _takes_trailers(self) -> bool:
        """Whether an upload with a checksum behind its bytes was taken, of an object or of a
        part."""
        return self.has(TRAILERS) or self.has(PART_TRAILERS)

    @property
    def _trial(self) -> str:
        """The name under which it is remembered that this object was refused with a checksum."""
        return f"refused with a checksum {self.path}"

    def leave_out(self, refusal: Refusal) -> str | None:
        """Return what is left out from now on, in words, or None where that can't be what was
        wrong.

        What the request itself held counts: others that were under way may have been refused for
        the same before."""
        if refusal.too_much:
            self.learn(SMALL)
            return f"the metadata beyond {METADATA_BYTES} bytes"
        if refusal.foreign and refusal.status in (400, 403, 501):
            self.learn(ENCODES)
            return "letters in the metadata that are not ASCII"
        if refusal.tagged:
            self.learn(self._tagged)
            return "its tags"
        self.memory.forget(self.origin, self._tagged)  # in vain
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
        self.memory.forget(self.origin, self._conditional)
        return None

    def _guess_quirk(self, refusal: Refusal) -> str | None:
        """As `leave_out`, of a refusal that names no field. One of what went without a checksum is
        a real one."""
        if not (refusal.checked and refusal.doubtful):
            self.memory.forget(self.origin, self._trial)
            return None
        if self._takes_trailers:
            return None
        self.learn(self._trial)
        return TRAILER

    def note_accepted(self, reported: bool) -> None:
        """Note that an upload was taken: what it was sent without is left out for good. `told` says
        that the answer names its checksum; a store that computes those by itself may refuse one
        behind the bytes all the same."""
        self.note_begun()
        if reported:
            self.learn(KNOWN)
        if self.memory.forget(self.origin, self._trial) and not self._takes_trailers:
            self.learn(NO_TRAILERS)
        self.memory.forget(self.origin, _TRIAL + NO_TRAILERS)

    def note_precondition_ignored(self) -> None:
        """Note that the object was taken, and was to go only where nothing is: without that, if it
        was refused with."""
        if self.memory.forget(self.origin, self._conditional):
            self.learn(NO_CONDITION)

    def note_begun(self) -> None:
        """Note that an upload was taken, or one in parts begun: of what goes with it nothing else
        was wrong."""
        if self.memory.forget(self.origin, self._tagged):
            self.learn(self.untagged)

    def _try(self, fact: str) -> None:
        self.learn(fact)
        self.learn(_TRIAL + fact)

    def _withdraw(self, fact: str) -> None:
        """Forget what was only tried, and did not help."""
        if self.memory.forget(self.origin, _TRIAL + fact):
            self.memory.forget(self.origin, fact)
