"""S3, and everything that speaks it: one request an object, proved by CRC64NVME where the server has it.

Theory of operation. An upload whose bytes pass through the process goes in the `aws-chunked` coding: one chunk, then a
trailer with the CRC64NVME that was computed on the way. The server compares it before it stores anything, so that a
body that was damaged on the last stretch never becomes an object, and tells it again in answers to HEAD. One that is
spliced (`verify: size`) goes bare.

An ETag is never taken for a digest: it is one of nothing for encrypted objects and for those made of parts. Only one
that equals the MD5 of what was sent says something, and that is looked at where a server knows no other checksum.

Decided here: what is asked of S3. Never here: what its answers say (`stores/s3_answers.py`), where credentials come
from (`stores/remotes.py`), how they sign (`stores/sigv4.py`).
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from time import time
from typing import cast
from urllib.parse import quote, unquote, unquote_to_bytes
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

import gevent

from relay.digest import ALGORITHMS, Digester, Digests
from relay.errors import (
    ConfigError,
    ConnectionLost,
    IntegrityMismatch,
    KeyTooLong,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ProtocolViolation,
    Rejected,
    RelayError,
    SourceChanged,
    StoreError,
    StoreTimeout,
    Unavailable,
    UploadGone,
)
from relay.location import Location
from relay.receipt import Version
from relay.stores.http import CARRIED, HttpStore, carriable, carried, consume, http_date, printable, retry_after
from relay.stores.interfaces import MTIME, Entry, Found, Opened, Part, PartLimits, Span, Stored, Upload
from relay.stores.s3_answers import (
    CHECKSUM,
    CODES,
    TRAILER,
    checksums,
    entries,
    error_field,
    error_region,
    error_told,
    parsed,
    told_checksums,
    unfinished,
    version_id,
)
from relay.stores.s3_endpoint import (
    CONDITION,
    FOLDS,
    KEEPS,
    KNOWN,
    NO_CONDITION,
    NO_TRAILERS,
    NO_WHOLE,
    TAGGING,
    TRAILERS,
    UNCONDITIONAL,
    UNTAGGED,
    Endpoint,
    Refusal,
)
from relay.stores.sigv4 import UNSIGNED, UNSIGNED_TRAILER, Credentials, Signer
from relay.wire.body import Body
from relay.wire.exchange import Payload, Response, Wrapping
from relay.wire.http1 import Fields, Head
from relay.wire.meter import Meter
from relay.wire.native import in_native_thread
from relay.wire.pump import fill

SINGLE_BYTES = 5 << 30
"""The most that one PUT may carry (docs.aws.amazon.com, "Amazon S3 multipart upload limits")."""
KEY_BYTES = 1024
"""The longest key."""
CONTENT_MD5 = "Content-MD5"
_USER_METADATA = "x-amz-meta-"
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
MIB = 1 << 20
PARTS = PartLimits(smallest=5 * MIB, largest=SINGLE_BYTES, most=10_000, object_bytes=5 << 40)
WHOLE: Fields = (("x-amz-checksum-algorithm", "CRC64NVME"), ("x-amz-checksum-type", "FULL_OBJECT"))
"""Asks the server to keep a CRC64NVME of the whole object, not of its parts' checksums."""


@dataclass(frozen=True)
class S3Account:
    """One bucket at one endpoint. `prefix` is what of a path stands before the key: '/bucket', or '' (virtual host)."""

    bucket: str
    prefix: str
    signer: Signer = field(compare=False, repr=False)
    endpoint: str = ""
    """Its URL, without the bucket: what lies at one endpoint may be copied there."""
    store: str = "s3"

    def shown(self, path: str) -> str:
        """Return `s3://bucket/key`."""
        return f"s3://{self.bucket}{unquote(path.removeprefix(self.prefix))}"

    def check(self, path: str) -> None:
        """As Account.check (docs.aws.amazon.com, "Naming Amazon S3 objects")."""
        if len(path) <= KEY_BYTES:
            return  # decoded it is no longer
        if len(unquote_to_bytes(path.removeprefix(self.prefix).removeprefix("/"))) > KEY_BYTES:
            raise KeyTooLong(f"the key has more than {KEY_BYTES} bytes")


ELSEWHERE = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
"""The codes of a bucket that is in another region than the one that was asked."""
EXPIRED = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"})
"""The codes of credentials that were good once, perhaps, and that may have been replaced since."""
log = logging.getLogger("relay.stores")
_MTIME_FIELD = "x-amz-meta-mtime"
"""Where rclone and others keep the time at which an object was changed before it came to S3."""
_AWS_HOST = re.compile(r"(?P<bucket>.+\.)?s3\.(?P<region>[a-z0-9-]+)\.(?P<rest>amazonaws\.com(?:\.cn)?)")
_EPOCH = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?\Z")


class S3Store(HttpStore):
    """One bucket, for one transfer."""

    asked: Fields = (("x-amz-checksum-mode", "ENABLED"),)
    believed: Mapping[str, frozenset[int]] = {
        "HEAD": frozenset({200}),
        "GET": frozenset({200}),
        "PUT": frozenset({200}),
        "DELETE": frozenset({200, 204, 404}),
    }

    _tagged: Fields | None = None
    _near: tuple[Location, Endpoint] | None = None
    _signed_by: Credentials | None = None

    def _untold(self, status: int) -> bool:
        """Never: S3 answers HEAD by the same rules as GET."""
        return False

    def _read(self, method: str, location: Location, fields: Fields) -> tuple[Response, Location]:
        """As HttpStore's, but nothing is followed: a redirect of S3's means another region, and another signature."""
        return self._send(method, location, fields), location

    def atomic(self, digested: bool) -> bool:
        """As Destination.atomic: only with a checksum behind the bytes. Of a bare upload that breaks before its first
        byte SeaweedFS makes an empty object."""
        return digested

    def put(
        self,
        location: Location,
        body: Body,
        metadata: tuple[tuple[str, str], ...] = (),
        *,
        if_absent: bool = False,
        token: str | None = None,
    ) -> Stored:
        """As Destination.put. A body of unknown length goes in parts, each of which is held in memory for S3 wants to
        know its length. Raises Rejected for a body above 5 GiB."""
        return self._named(location, if_absent, lambda absent: self._put(location, body, metadata, absent))

    def _put(self, location: Location, body: Body, metadata: Fields, if_absent: bool) -> Stored:
        if body.length is None:
            return self._put_growing(location, body, metadata, if_absent)
        if body.length > SINGLE_BYTES:
            raise Rejected(f"{body.length} bytes are more than one PUT may carry to S3", side="destination")
        wrapping = self._wrapped(location, body)
        described = self._described(location, metadata)
        coded = _coded(described, body.length) if wrapping else described
        fields = carried(location, coded, self._conditional(location, if_absent))
        response = self._send("PUT", location, fields, body, self._expects(body), wrapping)
        if response.head.status not in self.believed["PUT"]:
            raise self._upload_refusal(response, "PUT", location, fields, wrapping)
        stored = self._stored(response, "PUT", location, body.digests.get("md5"))
        if wrapping:
            self._check_understood(stored, body.count + len(wrapping.before) + wrapping.after_bytes)
        notes = self._left_out(location, metadata, if_absent)
        return replace(stored, notes=notes) if notes else stored

    def _put_growing(self, location: Location, body: Body, metadata: Fields, if_absent: bool) -> Stored:
        """Store a body whose length shows only at its end; nothing is there before that end was proved."""
        piece = memoryview(bytearray(self._wire.limits.part_bytes))
        count = fill(body, piece)
        if count < len(piece):
            data = bytes(piece[:count])
            described = (*self._described(location, metadata), *self._checksum(location, data))
            fields = carried(location, described, self._conditional(location, if_absent))
            response = self._send("PUT", location, fields, data)
            if response.head.status not in self.believed["PUT"]:
                raise self._upload_refusal(response, "PUT", location, fields)
            stored = self._stored(response, "PUT", location, _sent_md5(described))
            return replace(stored, notes=self._left_out(location, metadata, if_absent))
        upload = self.begin(location, metadata)
        try:
            parts: list[Part] = []
            while count:
                parts.append(self._put_bytes(upload, len(parts) + 1, bytes(piece[:count])))
                count = fill(body, piece)
            return self.complete(upload, tuple(parts), body.digests, if_absent=if_absent)
        except BaseException as error:
            self._abandon(upload, error)
            raise

    def _put_bytes(self, upload: Upload, number: int, data: bytes) -> Part:
        if number > PARTS.most:
            raise Rejected(
                f"an object of unknown length has more than {PARTS.most} parts of {len(data)} bytes",
                side="destination",
                hint="Set RELAY_PART_BYTES larger; each transfer holds one part in memory then.",
            )
        return self._part(upload, number, data, self._checksum(upload.location, data), None, checked=True)

    def _abandon(self, upload: Upload, error: BaseException) -> None:
        """Abort after a failure; where that can't be done, `error` says what remains."""
        try:
            type(self)(self._wire, self._side, Meter(self._wire.limits)).abort(upload)
        except RelayError as failure:
            if isinstance(error, RelayError):
                error.hint = f"{error.hint} An unfinished upload may remain at {upload.location} ({failure.message})."

    def _stored(self, response: Response, method: str, location: Location, md5: bytes | None = None) -> Stored:
        """Return what was stored, at its own version where the bucket keeps several.

        An ETag that is the `md5` of what went there is the server's word for it; one that is not means nothing. That a
        Content-MD5 was sent means nothing either: who does not know the field passes over it.
        """
        consume(response, self._wire)
        version = self._version(response.head)
        self._endpoint(location).taken(told=TRAILER in version.digests)
        digests = version.digests
        if not digests and md5 is not None and (version.etag or "").strip('"').lower() == md5.hex():
            digests = {"md5": md5}
        return _kept_at(location, Version(etag=version.etag, digests=digests, id=version.id))

    # -- names with empty segments

    def head(self, location: Location) -> Found | None:
        """As Source.head. Raises Rejected at a destination that has what is there under another name."""
        found = super().head(location)
        if found is not None and self._odd(location):
            endpoint = self._endpoint(location)
            if not endpoint.has(FOLDS):
                endpoint.learn(KEEPS if self._lists(location) else FOLDS)
            if endpoint.has(FOLDS):
                raise _folded(location)
        return found

    def _odd(self, location: Location) -> bool:
        """Say if a destination's name has an empty segment, and this endpoint is not known to keep such."""
        if self._side != "destination" or "//" not in location.path or "//" not in f"/{_key(location)}":
            return False
        return not (_AWS_HOST.fullmatch(location.host) or self._endpoint(location).has(KEEPS))

    def _lists(self, location: Location) -> bool:
        """Say if what is there is listed by this very name. Raises Rejected where that can't be seen.

        Not asked by the name itself: SeaweedFS repeats the prefix that it is asked for. What lies behind the last name
        before the empty segment is where it must be.
        """
        key = f"/{_key(location)}"
        before = key[1 : key.index("//") + 1]
        asked = {"encoding-type": "url", "list-type": "2", "prefix": before, "start-after": f"{before}."}
        try:
            page = self._listed_page(location, asked)
        except PermissionDenied as error:
            raise _untold(location, error.message) from None
        names = [entry.name for entry in entries(page, "", location, self._side)]
        if any(name.startswith(f"{before}/") for name in names):
            return True
        more = (page.findtext("{*}IsTruncated") or "").lower() == "true"
        if more and names[-1:] < [f"{before}/"]:
            raise _untold(location, "too many names come before it")
        return False

    def _check_name(self, location: Location) -> None:
        """Look before an upload if it would go to another object's name; where nothing is there, it harms none.

        Raises Rejected, also where we may not look: another's object may be lost then.
        """
        if not self._odd(location):
            return
        if self._endpoint(location).has(FOLDS):
            raise _folded(location)
        try:
            self._is_there(location)
        except PermissionDenied as error:
            raise _untold(location, error.message) from None

    def _named(self, location: Location, if_absent: bool, store: Callable[[bool], Stored]) -> Stored:
        """Store an object, and see that it is there under its own name; while that is not known, only where nothing is.

        Raises as `_check_name`, and removes it, where it is not; Unavailable where somebody was faster.
        """
        if not self._odd(location):
            return store(if_absent)
        self._check_name(location)
        try:
            stored = store(True)
        except PreconditionFailed as error:
            if if_absent:
                raise
            raise Unavailable(error.message, side=self._side, hint="Somebody else writes the same key.") from None
        try:
            self._is_there(location)
        except StoreError:
            self.delete(location, stored.version)
            raise
        return stored

    # -- what an endpoint was found not to take

    def _endpoint(self, location: Location) -> Endpoint:
        """Return what is known of where `location` is; made once for a transfer's own."""
        if self._near is None or self._near[0] is not location:
            bucket = cast(S3Account, location.account).bucket
            self._near = (location, Endpoint(self._wire.memory, location.origin, bucket, location.path))
        return self._near[1]

    def _conditional(self, location: Location, if_absent: bool) -> bool:
        """Say if an upload is to carry the precondition that nothing is there."""
        return if_absent and not self._endpoint(location).has(NO_CONDITION)

    def _wrapped(self, location: Location, body: Body) -> Wrapping | None:
        """Return the checksum behind the bytes; where the endpoint takes none their MD5 is computed instead."""
        if body.digester is None or TRAILER not in body.digester.names:
            return None
        if self._endpoint(location).unchecked:
            body.digest_also("md5")
            return None
        return _trailer(body)

    def _checksum(self, location: Location, data: bytes) -> Fields:
        """Return the field that lets S3 compare bytes that are all at hand: a CRC64NVME, or Content-MD5."""
        if self._endpoint(location).unchecked:
            return ((CONTENT_MD5, base64.b64encode(_digest(data, "md5")).decode()),)
        return ((CHECKSUM + TRAILER, base64.b64encode(_digest(data)).decode()),)

    def _described(self, location: Location, metadata: Fields) -> Fields:
        """Return the object's metadata as S3's fields; without tags, where this bucket refused them before."""
        told, endpoint = dict(metadata), self._endpoint(location)
        changed, untagged = told.get(MTIME), TAGGING in told and endpoint.has(endpoint.untagged)
        fields = tuple((name, value) for name, value in metadata if not (untagged and name == TAGGING))
        return (*fields, (_MTIME_FIELD, changed)) if changed else fields

    def _left_out(self, location: Location, metadata: Fields, if_absent: bool) -> tuple[str, ...]:
        """Return what of an upload this endpoint does not take, in words."""
        endpoint = self._endpoint(location)
        notes = (UNTAGGED,) if TAGGING in dict(metadata) and endpoint.has(endpoint.untagged) else ()
        return (*notes, UNCONDITIONAL) if if_absent and endpoint.has(NO_CONDITION) else notes

    def _upload_refusal(
        self, response: Response, method: str, location: Location, fields: Fields, wrapping: Wrapping | None = None
    ) -> RelayError:
        """Return the error, or one to try again after where what was refused may be something that can be left out."""
        text, status = self._text(response, method), response.head.status
        code = error_told(text)[0]
        refusal = Refusal(status, code, error_field(text), fields, wrapping is not None)
        what = self._endpoint(location).leave_out(refusal)
        if what is None:
            return self._refused(response, method, location, text)
        if refusal.denied:  # which it most likely is, so that this is what is told where nothing is tried again
            denial = self._refused(response, method, location, text)
            denial.retryable, denial.message = True, f"{denial.message}, with {what}"
            return denial
        response.body.close()
        return Unavailable(
            f"{method} {location} was answered {status} {code}; it is sent again without {what}",
            side=self._side,
            store_status=status,
        )

    def _check_understood(self, stored: Stored, coded: int) -> None:
        """See, once for each endpoint, that the coding around the bytes was not stored with them: `coded` bytes then.

        Raises Unavailable where it was: the object is removed, and is sent again without it.
        """
        assert stored.readable is not None, "S3 says where it is"
        place = stored.readable
        endpoint = self._endpoint(place)
        if not endpoint.has(TRAILERS) and TRAILER not in stored.digests:
            try:
                found = self.head(place)
            except NotFound:
                return  # it shows later, and verification waits for that
            if found is not None and found.version.size == coded:
                endpoint.learn(NO_TRAILERS)
                self.delete(place, found.version)
                raise Unavailable(f"{place} does not understand a checksum behind the bytes", side=self._side)
        endpoint.learn(TRAILERS)

    # -- copies within the store

    def copies(self, source: Location, location: Location) -> bool:
        """As Destination.copies: at one endpoint, with the same key, unless it was refused before."""
        there, here = source.account, location.account
        if not isinstance(there, S3Account) or not isinstance(here, S3Account) or not here.endpoint:
            return False
        same = there.endpoint == here.endpoint and there.signer.same_key(here.signer)
        return same and not self._wire.memory.has(location.origin, _copying(there, here))

    def copy(
        self,
        source: Location,
        found: Found,
        location: Location,
        *,
        if_absent: bool = False,
        token: str | None = None,
    ) -> Stored:
        """As CopyDestination.copy, by CopyObject. Its answer of 200 may be an error all the same."""
        return self._named(location, if_absent, lambda absent: self._copy(source, found, location, absent))

    def _copy(self, source: Location, found: Found, location: Location, if_absent: bool) -> Stored:
        own = {name.lower() for name, _ in location.headers}
        fields = _copy_source(source, found) + ((CONDITION, "*"),) * self._conditional(location, if_absent)
        if not found.version.digests:
            fields += (WHOLE[0],)
        if own & {*CARRIED, "content-disposition"} or any(name.startswith(_USER_METADATA) for name in own):
            kept = carried(location, self._described(location, found.metadata), if_absent=False)
            fields += (("x-amz-metadata-directive", "REPLACE"), *(pair for pair in kept if pair[0] != TAGGING))
        response = self._send("PUT", location, fields, b"")
        root = self._copied(response, source, location, if_absent)
        etag = printable(root.findtext("{*}ETag") or "") or None
        version = Version(etag=etag, digests=told_checksums(root), id=version_id(response.head))
        return _kept_at(location, version)

    def copy_part(self, upload: Upload, number: int, source: Location, found: Found, span: Span) -> Part:
        """As CopyPartsDestination.copy_part, by UploadPartCopy."""
        fields = (*_copy_source(source, found), ("x-amz-copy-source-range", f"bytes={span.first}-{span.last}"))
        place = _at(upload.location, f"partNumber={number}&uploadId={quote(upload.id, safe='-_.~')}")
        root = self._copied(self._send("PUT", place, fields, b""), source, upload.location, if_absent=False)
        etag = printable(root.findtext("{*}ETag") or "")
        if not etag:
            raise ProtocolViolation(f"{upload.location}: part {number} was copied and has no ETag", side=self._side)
        return Part(number, span.length, etag, checked=False)

    def _copied(self, response: Response, source: Location, location: Location, if_absent: bool) -> Element:
        """Return the answer to a copy. A refusal for good is remembered, for the next objects of these buckets."""
        try:
            return self._document(response, "PUT", location)
        except PreconditionFailed as error:
            if if_absent and self._is_there(location):
                raise
            raise SourceChanged(f"{source} is another version now: {error.message}", side="source") from None
        except (Rejected, PermissionDenied):
            there, here = cast(S3Account, source.account), cast(S3Account, location.account)
            self._wire.memory.learn(location.origin, _copying(there, here))
            raise

    def _is_there(self, location: Location) -> bool:
        try:
            return self.head(location) is not None
        except NotFound:
            return False

    # -- parts

    @property
    def part_limits(self) -> PartLimits | None:
        """As Destination.part_limits (docs.aws.amazon.com, "Amazon S3 multipart upload limits")."""
        return PARTS

    def begin(self, location: Location, metadata: tuple[tuple[str, str], ...] = ()) -> Upload:
        """As PartsDestination.begin. A server that knows no checksum of the whole is asked again without one; a denial
        may mean that too, where none was ever taken."""
        self._check_name(location)
        place, endpoint = _at(location, "uploads="), self._endpoint(location)
        fields = carried(location, self._described(location, metadata), if_absent=False)
        checked = not endpoint.has(NO_WHOLE)
        response = self._send("POST", place, fields + WHOLE * checked, b"")
        statuses = (400, 501) if endpoint.has(KNOWN) else (400, 403, 501)
        if checked and response.head.status in statuses:
            response.body.close()
            response, checked = self._send("POST", place, fields, b""), False
            if response.head.status == 200:
                endpoint.learn(NO_WHOLE)
        if response.head.status != 200:
            raise self._upload_refusal(response, "POST", location, fields)
        root = self._document(response, "POST", location)
        upload = root.findtext("{*}UploadId")
        if not upload:
            raise ProtocolViolation(f"{location}: an upload was begun that has no id", side=self._side)
        return Upload(location, upload, checked)

    def put_part(self, upload: Upload, number: int, body: Body) -> Part:
        """As PartsDestination.put_part."""
        assert body.length is not None, "a part has a length"
        wrapping = self._wrapped(upload.location, body)
        fields = _coded((), body.length) if wrapping else ()
        return self._part(upload, number, body, fields, wrapping, checked=wrapping is not None)

    def _part(
        self, upload: Upload, number: int, body: Body | bytes, fields: Fields, wrapping: Wrapping | None, checked: bool
    ) -> Part:
        place = _at(upload.location, f"partNumber={number}&uploadId={quote(upload.id, safe='-_.~')}")
        expects = isinstance(body, Body) and self._expects(body)
        response = self._send("PUT", place, fields, body, expects, wrapping)
        if response.head.status not in self.believed["PUT"]:
            raise self._upload_refusal(response, "PUT", upload.location, fields, wrapping)
        etag = response.head.get("etag")
        theirs = self._stored(response, "PUT", upload.location, _sent_md5(fields, body)).digests
        told = theirs.get(TRAILER)
        if not etag:
            raise ProtocolViolation(f"{upload.location}: part {number} was taken and has no ETag", side=self._side)
        ours = _digest(body) if checked else None
        if ours is not None and told is not None and told != ours:
            raise IntegrityMismatch(f"part {number} arrived damaged", side=self._side, retryable=True)
        size = body.count if isinstance(body, Body) else len(body)
        return Part(number, size, etag, checked="md5" in theirs or (ours is not None and told is not None))

    def stored_parts(self, upload: Upload) -> tuple[Part, ...]:
        """As PartsDestination.stored_parts, by ListParts, a thousand a page."""
        found: list[Part] = []
        marker = "0"
        while True:
            query = f"part-number-marker={marker}&uploadId={quote(upload.id, safe='-_.~')}"
            response = self._send("GET", _at(upload.location, query), ())
            if response.head.status != 200:
                raise self._refusal(response, "GET", upload.location)
            root = self._parsed(self._page(response), upload.location)
            for row in root.iterfind("{*}Part"):
                number, size = row.findtext("{*}PartNumber") or "", row.findtext("{*}Size") or ""
                if number.isdigit() and size.isdigit():
                    found.append(Part(int(number), int(size), printable(row.findtext("{*}ETag") or ""), checked=False))
            following = root.findtext("{*}NextPartNumberMarker") or ""
            if (root.findtext("{*}IsTruncated") or "").lower() != "true" or following == marker:
                return tuple(found)
            marker = following

    def complete(self, upload: Upload, parts: tuple[Part, ...], digests: Digests, *, if_absent: bool = False) -> Stored:
        """As PartsDestination.complete. An answer of 200 may be an error all the same: its text decides."""
        return self._named(upload.location, if_absent, lambda absent: self._complete(upload, parts, digests, absent))

    def _complete(self, upload: Upload, parts: tuple[Part, ...], digests: Digests, if_absent: bool) -> Stored:
        rows = "".join(
            f"<Part><ETag>{escape(part.etag)}</ETag><PartNumber>{part.number}</PartNumber></Part>" for part in parts
        )
        text = f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{rows}</CompleteMultipartUpload>'
        fields: Fields = (("Content-Type", "application/xml"),)
        if upload.checked and TRAILER in digests:
            value = base64.b64encode(digests[TRAILER]).decode()
            fields += ((CHECKSUM + TRAILER, value), ("x-amz-checksum-type", "FULL_OBJECT"))
        if self._conditional(upload.location, if_absent):
            fields += ((CONDITION, "*"),)
        place = _at(upload.location, f"uploadId={quote(upload.id, safe='-_.~')}")
        try:
            response = self._send("POST", place, fields, text.encode())
            if response.head.status in (400, 501):
                condition = tuple(pair for pair in fields if pair[0] == CONDITION)
                raise self._upload_refusal(response, "POST", upload.location, condition)
            root = self._document(response, "POST", upload.location)
        except (ConnectionLost, StoreTimeout, NotFound) as error:
            return self._completed_before(upload, sum(part.size for part in parts), error)
        except Unavailable as error:
            if error.store_status == 409:  # "re-initiate the upload and re-upload each part"
                raise UploadGone(error.message, side=self._side, hint=error.hint) from None
            raise
        etag = printable(root.findtext("{*}ETag") or "") or None
        version = Version(etag=etag, digests=told_checksums(root), id=version_id(response.head))
        stored = _kept_at(upload.location, version)
        notes = self._left_out(upload.location, (), if_absent)
        return replace(stored, parts_checked=all(part.checked for part in parts), notes=notes)

    def _completed_before(self, upload: Upload, size: int, error: RelayError) -> Stored:
        """Find out what came of an upload that was to be completed, and of which no answer arrived.

        One that is gone was completed, or aborted by somebody: what is there then is ours if its digest is, so that
        of the parts nothing is said. Raises `error` where it still waits, or something else is there.
        """
        try:
            self.stored_parts(upload)
        except NotFound:
            pass
        else:
            raise error
        try:
            found = self.head(upload.location)
        except NotFound:
            raise error from None
        if found is None or found.version.size != size:
            raise error
        return _kept_at(upload.location, found.version)

    def lost_uploads(self, location: Location, since: float, until: float) -> tuple[Upload, ...]:
        """As PartsDestination.lost_uploads, by ListMultipartUploads; the server's clock is compared with ours.

        Not with `encoding-type`: SeaweedFS says that it encoded the keys, and did not. No key of ours needs it.
        """
        account = cast(S3Account, location.account)
        key = _key(location)
        query = f"prefix={quote(key, safe='-_.~')}&uploads="
        response = self._send("GET", replace(location, target=f"{account.prefix}/?{query}"), ())
        if response.head.status != 200:
            raise self._refusal(response, "GET", location)
        told = http_date(response.head.get("date"))
        ahead = told.timestamp() - time() if told else 0.0
        root = self._parsed(self._page(response), location)
        return tuple(
            Upload(location, upload, checked=False)
            for upload, name, begun in unfinished(root)
            if name == key and since <= begun - ahead <= until
        )

    def abort(self, upload: Upload) -> None:
        """As PartsDestination.abort."""
        place = _at(upload.location, f"uploadId={quote(upload.id, safe='-_.~')}")
        response = self._send("DELETE", place, ())
        if response.head.status not in self.believed["DELETE"]:
            raise self._refusal(response, "DELETE", upload.location)
        response.body.close()

    def _document(self, response: Response, method: str, location: Location) -> Element:
        """Return the answer's document. Raises by its code when it is an error, whatever the status says."""
        if response.head.status != 200:
            raise self._refusal(response, method, location)
        # A blank now and then says that the store is still at work; that is no stall.
        response.body.meter = Meter(replace(self._wire.limits, stall_bytes=0), whole=self._meter)
        text = response.body.text(self._wire.limits)
        root = self._parsed(text, location)
        if root.tag.rpartition("}")[2] == "Error":
            raise self._by_code(response, method, location, *error_told(text)) or Unavailable(
                f"{method} {location} was answered 200, and then an error", side=self._side
            )
        return root

    # -- listing

    def list(self, location: Location, recursive: bool = False, after: str | None = None) -> Iterator[Entry]:
        """As Source.list, by ListObjectsV2, a thousand a page in the order of their names' bytes."""
        prefix = _key(location)
        prefix += "/" if prefix and not prefix.endswith("/") else ""
        asked = {"encoding-type": "url", "list-type": "2", "prefix": prefix}
        if not recursive:
            asked["delimiter"] = "/"
        if after:
            asked["start-after"] = prefix + after
        for page in self._listed(location, asked):
            yield from entries(page, prefix, location, self._side)

    def _listed(self, location: Location, asked: dict[str, str]) -> Iterator[Element]:
        """Yield the pages; while one is looked at, the next is on its way already."""
        ahead = _Ahead(partial(self._listed_page, location, dict(asked)))
        try:
            while True:
                page = ahead.result()
                token = page.findtext("{*}NextContinuationToken")
                if (page.findtext("{*}IsTruncated") or "").lower() != "true":
                    yield page
                    return
                if not token or token == asked.get("continuation-token"):
                    message = f"{location}: the listing goes on and does not say where"
                    raise ProtocolViolation(message, side=self._side)
                asked["continuation-token"] = token
                ahead = _Ahead(partial(self._listed_page, location, dict(asked)))
                yield page
        finally:
            ahead.stop()

    def _listed_page(self, location: Location, asked: Mapping[str, str]) -> Element:
        account = cast(S3Account, location.account)
        query = "&".join(f"{name}={quote(asked[name], safe='-_.~')}" for name in sorted(asked))
        response = self._send("GET", replace(location, target=f"{account.prefix}/?{query}"), ())
        if response.head.status != 200:
            raise self._refusal(response, "GET", location)
        return self._parsed(self._page(response), location)

    def _parsed(self, text: str, location: Location) -> Element:
        root = parsed(text)
        if root is None:
            raise ConnectionLost(f"{location}: the answer is cut off, or is no XML", side=self._side)
        return root

    # -- removal

    def delete(self, location: Location, version: Version) -> None:
        """As Destination.delete: by the version's own name where it has one, which leaves all others.

        Else looks first, since a server may not know conditional deletes.
        """
        if version.id is not None:
            return super().delete(_version_at(location, version.id), Version())
        if version.etag is not None:
            try:
                found = super().head(location)
            except NotFound:
                return
            if found is not None and found.version.etag != version.etag:
                raise PreconditionFailed(f"{location} is another version now", side=self._side)
        super().delete(location, Version())

    # -- what an answer's head tells

    def _version(self, head: Head) -> Version:
        return Version(
            size=head.length,
            etag=printable(head.get("etag") or "") or None,
            last_modified=printable(head.get("last-modified") or "") or None,
            digests=checksums(head),
            id=version_id(head),
        )

    def get(self, location: Location, pinned: Version | None = None, span: Span | None = None) -> Opened:
        """As Source.get. A version that has a name is read by it, even if a newer one was written meanwhile."""
        named = pinned.id if pinned is not None else None
        return super().get(_version_at(location, named) if named else location, pinned, span)

    def _metadata(self, head: Head, location: Location) -> tuple[tuple[str, str], ...]:
        changed = head.get(_MTIME_FIELD) or ""
        fields = [pair for pair in super()._metadata(head, location) if pair[0] != MTIME or not _EPOCH.match(changed)]
        if _EPOCH.match(changed):
            fields.append((MTIME, changed))
        disposition = head.get("content-disposition")
        if disposition and carriable(disposition):
            fields.append(("Content-Disposition", disposition))
        for name, value in head.fields:
            if name.lower().startswith(_USER_METADATA) and name.lower() != _MTIME_FIELD and carriable(value):
                fields.append((name, value))
        if self._side == "source" and (head.get("x-amz-tagging-count") or "0") != "0":
            fields += self._tags(location)
        return tuple(fields)

    def _tags(self, location: Location) -> Fields:
        """Return an object's tags, which no head tells; none where we may not ask. Asks once."""
        if self._tagged is None:
            self._tagged = self._asked_tags(location)
        return self._tagged

    def _asked_tags(self, location: Location) -> Fields:
        try:
            response = self._send("GET", _at(location, "tagging="), ())
            if response.head.status != 200:
                raise self._refusal(response, "GET", location)
            root = self._parsed(self._page(response), location)
        except (Rejected, PermissionDenied, NotFound):
            return ()
        rows = ((row.findtext("{*}Key") or "", row.findtext("{*}Value") or "") for row in root.iterfind(".//{*}Tag"))
        return ((TAGGING, "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in rows)),)

    # -- the exchange

    def _send(
        self,
        method: str,
        location: Location,
        fields: Fields,
        body: Payload = None,
        expect: bool = False,
        wrapping: Wrapping | None = None,
    ) -> Response:
        signer = cast(S3Account, location.account).signer
        self._signed_by = signer.credentials()
        location = in_region(location, signer.region)
        payload = UNSIGNED_TRAILER if wrapping else UNSIGNED
        every = location.headers + fields
        signed = signer.fields(method, location.host_header, location.target, every, payload)
        response = super()._send(method, location, fields + signed, body, expect, wrapping)
        if response.head.status in (301, 307, 400) and not isinstance(body, Body):
            region = error_region(response.head, "")
            if region is not None and region != signer.region:
                response.body.close()
                signer.learn_region(region)
                return self._send(method, location, fields, body, expect, wrapping)
        return response

    def _refusal(self, response: Response, method: str, location: Location) -> RelayError:
        """As HttpStore's, by the code that S3 names in the answer's text, where it has one (HEAD has none)."""
        return self._refused(response, method, location, self._text(response, method))

    def _refused(self, response: Response, method: str, location: Location, text: str) -> RelayError:
        code, message = error_told(text)
        signer, region = cast(S3Account, location.account).signer, error_region(response.head, text)
        if code in ELSEWHERE and region is not None and region != signer.region:
            signer.learn_region(region)
            response.body.close()
            return Unavailable(f"{method} {location}: the bucket is in {region}, and is asked there", side=self._side)
        known = self._by_code(response, method, location, code, message)
        if known is None:
            return super()._refusal(response, method, location)
        response.body.close()
        return known

    def _by_code(
        self, response: Response, method: str, location: Location, code: str, message: str
    ) -> RelayError | None:
        known = CODES.get(code)
        if known is None:
            return None
        said = f"{method} {location} was answered {response.head.status} {code}" + (f" ({message})" if message else "")
        if code == "RequestTimeTooSkewed" and not self._clock_set(response, location):
            return Rejected(said, side=self._side, hint=known.hint)
        if code in EXPIRED and self._renewed(location):
            return Unavailable(f"{said}; it is asked with the credentials that there are now", side=self._side)
        if code == "PreconditionFailed" and method == "GET":
            return SourceChanged(f"{said}: it is another version than the one that was pinned", side=self._side)
        if issubclass(known.kind, IntegrityMismatch):
            return known.kind(said, side=self._side, hint=known.hint, retryable=known.retryable)
        after = retry_after(response.head.get("retry-after"))
        status = response.head.status
        return known.kind(said, side=self._side, store_status=status, retry_after=after, hint=known.hint)

    def _clock_set(self, response: Response, location: Location) -> bool:
        """Sign by the server's clock from now on; False where that was done, or it tells no time."""
        theirs = http_date(response.head.get("date"))
        set_now = theirs is not None and cast(S3Account, location.account).signer.learn_time(theirs)
        if set_now:
            log.warning("clock", extra={"members": {"detail": f"{location.origin} says that it is {theirs}"}})
        return set_now

    def _renewed(self, location: Location) -> bool:
        """Say if there are other credentials by now than those that were refused."""
        signer, refused = cast(S3Account, location.account).signer, self._signed_by
        try:
            return in_native_thread(lambda: signer.renew(refused))
        except ConfigError:
            return False  # the store's refusal tells more

    def _text(self, response: Response, method: str) -> str:
        if method == "HEAD":
            return ""
        try:
            return response.body.text(self._wire.limits)
        except RelayError:
            return ""  # its status tells enough


class _Ahead:
    """Something that is being done while its caller does something else."""

    def __init__(self, do: Callable[[], Element]) -> None:
        self._job = gevent.spawn(self._caught, do)
        gevent.sleep(0)  # it sends its request now

    @staticmethod
    def _caught(do: Callable[[], Element]) -> tuple[Element | None, BaseException | None]:
        try:
            return do(), None
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            return None, error

    def result(self) -> Element:
        """Wait for it, and return what it gave or raise what it raised."""
        element, error = self._job.get()
        if error is not None:
            raise error
        return cast(Element, element)

    def stop(self) -> None:
        """Break it off if it is still under way."""
        self._job.kill()


def _key(location: Location) -> str:
    """Return the key of an object, or of a folder."""
    return unquote(location.path.removeprefix(cast(S3Account, location.account).prefix).removeprefix("/"))


def _folded(location: Location) -> Rejected:
    return Rejected(
        f"{location} has an empty segment, and this store takes '//' for '/'",
        side="destination",
        hint="Two objects would become one there: rename the object, or choose another store.",
    )


def _untold(location: Location, why: str) -> Rejected:
    return Rejected(
        f"{location} has an empty segment, and whether this store keeps such a name can't be seen: {why}",
        side="destination",
        hint="Permit to list the bucket and to read the object, once; or rename the object.",
    )


def _version_at(location: Location, id: str) -> Location:
    """Return the address of one version of an object."""
    return _at(location, f"versionId={quote(id, safe='-_.~')}")


def _kept_at(location: Location, version: Version) -> Stored:
    """Return a yes whose object can be read at its own version, where it has one."""
    return Stored(version, _version_at(location, version.id) if version.id else location, version.digests)


def in_region(location: Location, region: str) -> Location:
    """Return the same at AWS's host of a region, if it is at AWS (docs.aws.amazon.com, "Amazon S3 endpoints")."""
    found = _AWS_HOST.fullmatch(location.host)
    if found is None or found["region"] == region:
        return location
    return replace(location, host=f"{found['bucket'] or ''}s3.{region}.{found['rest']}")


def _at(location: Location, query: str) -> Location:
    """Return the object's address with a query, in the order in which it is signed."""
    return replace(location, target=f"{location.path}?{query}")


def _copy_source(source: Location, found: Found) -> Fields:
    """Return what names the object to copy, and the version of it that was pinned."""
    account = cast(S3Account, source.account)
    key = source.path.removeprefix(account.prefix)
    which = f"?versionId={quote(found.version.id, safe='-_.~')}" if found.version.id else ""
    named: Fields = (("x-amz-copy-source", f"/{account.bucket}{key}{which}"),)
    etag = found.version.strong_etag
    return (*named, ("x-amz-copy-source-if-match", etag)) if etag else named


def _copying(source: S3Account, destination: S3Account) -> str:
    """Return the name under which it is remembered that one bucket is not copied to another."""
    return f"copy {source.bucket} {destination.bucket}"


def _digest(body: Body | bytes, name: str = TRAILER) -> bytes:
    """Return a digest of what was sent."""
    if isinstance(body, Body):
        return body.digests[name]
    digester = Digester((name,))
    digester.update(body)
    return digester.digests()[name]


def _sent_md5(fields: Fields, body: Body | bytes = b"") -> bytes | None:
    """Return the MD5 of what was sent, where it was computed on the way or is among the fields."""
    told = dict(fields).get(CONTENT_MD5)
    if told is not None:
        return base64.b64decode(told)
    return body.digests.get("md5") if isinstance(body, Body) else None


def _trailer(body: Body) -> Wrapping:
    """Put a body into one chunk, and its CRC64NVME behind it (the `aws-chunked` coding with a trailer)."""
    assert body.length is not None, "only a body of known length is wrapped"
    width = len(base64.b64encode(bytes(ALGORITHMS[TRAILER].width)))
    end = f"{CHECKSUM}{TRAILER}:".encode()
    between = b"\r\n0\r\n" if body.length else b""

    def after() -> bytes:
        return between + end + base64.b64encode(body.digests[TRAILER]) + b"\r\n\r\n"

    return Wrapping(b"%x\r\n" % body.length, after, len(between) + len(end) + width + 4)


def _coded(metadata: Fields, length: int) -> Fields:
    """Add what announces the coding; the payload's own field names it, as MinIO's client does.

    Not Content-Encoding: S3 takes `aws-chunked` out of it again, but SeaweedFS keeps it with the object.
    """
    return (*metadata, ("x-amz-decoded-content-length", str(length)), ("x-amz-trailer", CHECKSUM + TRAILER))
