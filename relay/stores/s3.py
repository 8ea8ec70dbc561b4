"""S3, and everything that speaks it: one request an object, proved by CRC64NVME where the server has it.

Theory of operation. An upload whose bytes pass through the process goes in the `aws-chunked` coding: one chunk, then a
trailer with the CRC64NVME that was computed on the way. The server compares it before it stores anything, so that a
body that was damaged on the last stretch never becomes an object, and tells it again in answers to HEAD. One that is
spliced (`verify: size`) goes bare.

An ETag is never taken for a digest: it is one of nothing for encrypted objects and for those made of parts.

Decided here: what S3's answers mean (docs.aws.amazon.com, "Error responses", "Checking object integrity"). Never here:
where credentials come from (`stores/remotes.py`), how they sign (`stores/sigv4.py`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import cast
from urllib.parse import quote, unquote, unquote_plus
from xml.etree.ElementTree import Element, ParseError, fromstring
from xml.sax.saxutils import escape

import gevent

from relay.digest import ALGORITHMS, Digester, Digests
from relay.errors import (
    ConnectionLost,
    IntegrityMismatch,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ProtocolViolation,
    Rejected,
    RelayError,
    SourceChanged,
    StoreError,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from relay.location import Location
from relay.receipt import Version
from relay.stores.http import HttpStore, carriable, carried, http_date, printable, retry_after
from relay.stores.interfaces import Entry, Part, PartLimits, Stored, Upload
from relay.stores.sigv4 import UNSIGNED, UNSIGNED_TRAILER, Signer
from relay.wire.body import Body
from relay.wire.exchange import Payload, Response, Wrapping
from relay.wire.http1 import Fields, Head
from relay.wire.meter import Meter
from relay.wire.pump import fill

SINGLE_BYTES = 5 << 30
"""The most that one PUT may carry (docs.aws.amazon.com, "Amazon S3 multipart upload limits")."""
CHECKSUM = "x-amz-checksum-"
TRAILER = "crc64nvme"
_OURS: Mapping[str, str] = {"crc64nvme": "crc64nvme", "crc32c": "crc32c", "sha256": "sha-256", "sha1": "sha"}
"""S3's names of the checksums, and ours."""
_USER_METADATA = "x-amz-meta-"
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
MIB = 1 << 20
PARTS = PartLimits(smallest=5 * MIB, largest=SINGLE_BYTES, most=10_000, object_bytes=5 << 40)
WHOLE: Fields = (("x-amz-checksum-algorithm", "CRC64NVME"), ("x-amz-checksum-type", "FULL_OBJECT"))
"""Asks the server to keep a CRC64NVME of the whole object, not of its parts' checksums."""


@dataclass(frozen=True)
class Code:
    """What one of S3's error codes means, and what to do about it."""

    kind: type[StoreError] | type[IntegrityMismatch]
    hint: str | None = None
    retryable: bool | None = None


_KEYS = "Check the access key, its secret and, of temporary credentials, the session token."
_REGION = "The bucket is in another region, or the endpoint is not this bucket's: set AWS_REGION, or the endpoint."
CODES: Mapping[str, Code] = {
    "NoSuchKey": Code(NotFound),
    "NoSuchVersion": Code(NotFound),
    "NoSuchBucket": Code(NotFound, "The bucket does not exist; relay makes none. Check its name and the endpoint."),
    "AccessDenied": Code(
        PermissionDenied, "The credentials are known, and may not do this; check the bucket's policy."
    ),
    "AllAccessDisabled": Code(PermissionDenied),
    "InvalidAccessKeyId": Code(Unauthenticated, _KEYS),
    "SignatureDoesNotMatch": Code(Unauthenticated, _KEYS),
    "ExpiredToken": Code(Unauthenticated, "The temporary credentials have expired; get fresh ones."),
    "InvalidToken": Code(Unauthenticated, _KEYS),
    "TokenRefreshRequired": Code(Unauthenticated, "The temporary credentials have expired; get fresh ones."),
    "RequestTimeTooSkewed": Code(Unavailable, "This machine's clock is wrong by more than 15 minutes; set it."),
    "PermanentRedirect": Code(Rejected, _REGION),
    "TemporaryRedirect": Code(Unavailable, _REGION),
    "AuthorizationHeaderMalformed": Code(Rejected, _REGION),
    "IllegalLocationConstraintException": Code(Rejected, _REGION),
    "InvalidObjectState": Code(Rejected, "The object is archived; restore it first, then move it."),
    "EntityTooLarge": Code(Rejected),
    "KeyTooLongError": Code(Rejected, "A key has at most 1,024 bytes."),
    "QuotaExceeded": Code(Rejected, "The destination is full."),
    "PreconditionFailed": Code(PreconditionFailed),
    "ConditionalRequestConflict": Code(Unavailable, "Somebody else writes the same key."),
    "OperationAborted": Code(Unavailable),
    "BadDigest": Code(IntegrityMismatch, "The bytes were damaged on their way; they are sent again.", True),
    "XAmzContentChecksumMismatch": Code(IntegrityMismatch, "The bytes were damaged; they are sent again.", True),
    "RequestTimeout": Code(Unavailable),
    "InternalError": Code(Unavailable),
    "SlowDown": Code(Throttled),
    "RequestLimitExceeded": Code(Throttled),
    "ServiceUnavailable": Code(Throttled),
    "NotImplemented": Code(Rejected, "This server lacks a part of S3 that relay needs here."),
}
"""S3's error codes; a status tells less, since 400 and 403 stand for many things."""


@dataclass(frozen=True)
class S3Account:
    """One bucket at one endpoint. `prefix` is what of a path stands before the key: '/bucket', or '' (virtual host)."""

    bucket: str
    prefix: str
    signer: Signer = field(compare=False, repr=False)
    store: str = "s3"

    def shown(self, path: str) -> str:
        """Return `s3://bucket/key`."""
        return f"s3://{self.bucket}{unquote(path.removeprefix(self.prefix))}"


class S3Store(HttpStore):
    """One bucket, for one transfer."""

    asked: Fields = (("x-amz-checksum-mode", "ENABLED"),)
    believed: Mapping[str, frozenset[int]] = {
        "HEAD": frozenset({200}),
        "GET": frozenset({200}),
        "PUT": frozenset({200}),
        "DELETE": frozenset({200, 204, 404}),
    }

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
        if body.length is None:
            return self._put_growing(location, body, metadata, if_absent)
        if body.length > SINGLE_BYTES:
            raise Rejected(f"{body.length} bytes are more than one PUT may carry to S3", side="destination")
        wrapping = _trailer(body) if TRAILER in body.digests else None
        fields = carried(location, _coded(metadata, body.length) if wrapping else metadata, if_absent)
        response = self._send("PUT", location, fields, body, self._expects(body), wrapping)
        if response.head.status not in self.believed["PUT"]:
            raise self._refusal(response, "PUT", location)
        return self._stored(response, "PUT", location)

    def _put_growing(self, location: Location, body: Body, metadata: Fields, if_absent: bool) -> Stored:
        """Store a body whose length shows only at its end; nothing is there before that end was proved."""
        piece = memoryview(bytearray(self._wire.limits.part_bytes))
        count = fill(body, piece)
        if count < len(piece):
            fields = carried(location, (*metadata, *_checksum(bytes(piece[:count]))), if_absent)
            response = self._send("PUT", location, fields, bytes(piece[:count]))
            if response.head.status not in self.believed["PUT"]:
                raise self._refusal(response, "PUT", location)
            return self._stored(response, "PUT", location)
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
        return self._part(upload, number, data, _checksum(data), None, checked=True)

    def _abandon(self, upload: Upload, error: BaseException) -> None:
        """Abort after a failure; where that can't be done, `error` says what remains."""
        try:
            type(self)(self._wire, self._side, Meter(self._wire.limits)).abort(upload)
        except RelayError as failure:
            if isinstance(error, RelayError):
                error.hint = f"{error.hint} An unfinished upload may remain at {upload.location} ({failure.message})."

    def _stored(self, response: Response, method: str, location: Location) -> Stored:
        stored = super()._stored(response, method, location)
        version = self._version(response.head)
        digests = version.digests
        return Stored(Version(etag=version.etag, digests=digests), stored.readable, digests)

    # -- parts

    @property
    def part_limits(self) -> PartLimits | None:
        """As Destination.part_limits (docs.aws.amazon.com, "Amazon S3 multipart upload limits")."""
        return PARTS

    def begin(self, location: Location, metadata: tuple[tuple[str, str], ...] = ()) -> Upload:
        """As PartsDestination.begin. A server that knows no checksum of the whole is asked again without one."""
        place = _at(location, "uploads=")
        fields = carried(location, metadata, if_absent=False)
        response = self._send("POST", place, fields + WHOLE, b"")
        checked = response.head.status == 200
        if response.head.status in (400, 501):
            response.body.close()
            response = self._send("POST", place, fields, b"")
        root = self._document(response, "POST", location)
        upload = root.findtext("{*}UploadId")
        if not upload:
            raise ProtocolViolation(f"{location}: an upload was begun that has no id", side=self._side)
        return Upload(location, upload, checked)

    def put_part(self, upload: Upload, number: int, body: Body) -> Part:
        """As PartsDestination.put_part."""
        assert body.length is not None, "a part has a length"
        wrapping = _trailer(body) if TRAILER in body.digests else None
        fields = _coded((), body.length) if wrapping else ()
        return self._part(upload, number, body, fields, wrapping, checked=wrapping is not None)

    def _part(
        self, upload: Upload, number: int, body: Body | bytes, fields: Fields, wrapping: Wrapping | None, checked: bool
    ) -> Part:
        place = _at(upload.location, f"partNumber={number}&uploadId={quote(upload.id, safe='-_.~')}")
        expects = isinstance(body, Body) and self._expects(body)
        response = self._send("PUT", place, fields, body, expects, wrapping)
        if response.head.status not in self.believed["PUT"]:
            raise self._refusal(response, "PUT", upload.location)
        etag = response.head.get("etag")
        told = self._stored(response, "PUT", upload.location).digests.get(TRAILER)
        if not etag:
            raise ProtocolViolation(f"{upload.location}: part {number} was taken and has no ETag", side=self._side)
        ours = _digest(body) if checked else None
        if ours is not None and told is not None and told != ours:
            raise IntegrityMismatch(f"part {number} arrived damaged", side=self._side, retryable=True)
        size = body.count if isinstance(body, Body) else len(body)
        return Part(number, size, etag, checked=ours is not None and told is not None)

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
        rows = "".join(
            f"<Part><ETag>{escape(part.etag)}</ETag><PartNumber>{part.number}</PartNumber></Part>" for part in parts
        )
        text = f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{rows}</CompleteMultipartUpload>'
        fields: Fields = (("Content-Type", "application/xml"),)
        if upload.checked and TRAILER in digests:
            value = base64.b64encode(digests[TRAILER]).decode()
            fields += ((CHECKSUM + TRAILER, value), ("x-amz-checksum-type", "FULL_OBJECT"))
        if if_absent:
            fields += (("If-None-Match", "*"),)
        place = _at(upload.location, f"uploadId={quote(upload.id, safe='-_.~')}")
        response = self._send("POST", place, fields, text.encode())
        root = self._document(response, "POST", upload.location)
        found = base64.b64decode(root.findtext("{*}ChecksumCRC64NVME") or "")
        theirs = {TRAILER: found} if len(found) == ALGORITHMS[TRAILER].width else {}
        version = Version(etag=printable(root.findtext("{*}ETag") or "") or None, digests=theirs)
        return Stored(version, upload.location, theirs, parts_checked=all(part.checked for part in parts))

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
        text = response.body.text(self._wire.limits)
        root = self._parsed(text, location)
        if root.tag.rpartition("}")[2] == "Error":
            raise self._by_code(response, method, location, *_told(text)) or Unavailable(
                f"{method} {location} was answered 200, and then an error", side=self._side
            )
        return root

    # -- listing

    def list(self, location: Location, recursive: bool = False, after: str | None = None) -> Iterator[Entry]:
        """As Source.list, by ListObjectsV2, a thousand a page in the order of their names' bytes."""
        account = cast(S3Account, location.account)
        prefix = unquote(location.path.removeprefix(account.prefix)).lstrip("/")
        prefix += "/" if prefix and not prefix.endswith("/") else ""
        asked = {"encoding-type": "url", "list-type": "2", "prefix": prefix}
        if not recursive:
            asked["delimiter"] = "/"
        if after:
            asked["start-after"] = prefix + after
        for page in self._listed(location, asked):
            yield from _entries(page, prefix)

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
        """As Destination.delete: looks first, since a server may not know conditional deletes."""
        if version.etag is not None:
            try:
                found = self.head(location)
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
        )

    def _metadata(self, head: Head) -> tuple[tuple[str, str], ...]:
        own = tuple((name, value) for name, value in head.fields if name.lower().startswith(_USER_METADATA))
        disposition = head.get("content-disposition")
        named = (("Content-Disposition", disposition),) if disposition and carriable(disposition) else ()
        return super()._metadata(head) + named + tuple((name, value) for name, value in own if carriable(value))

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
        account = cast(S3Account, location.account)
        payload = UNSIGNED_TRAILER if wrapping else UNSIGNED
        every = location.headers + fields
        signed = account.signer.fields(method, location.host_header, location.target, every, payload)
        return super()._send(method, location, fields + signed, body, expect, wrapping)

    def _refusal(self, response: Response, method: str, location: Location) -> RelayError:
        """As HttpStore's, by the code that S3 names in the answer's text, where it has one (HEAD has none)."""
        known = self._by_code(response, method, location, *_told(self._text(response, method)))
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
        if code == "RequestTimeTooSkewed" and (theirs := http_date(response.head.get("date"))):
            cast(S3Account, location.account).signer.learn_time(theirs)
        said = f"{method} {location} was answered {response.head.status} {code}" + (f" ({message})" if message else "")
        if code == "PreconditionFailed" and method == "GET":
            return SourceChanged(f"{said}: it is another version than the one that was pinned", side=self._side)
        if issubclass(known.kind, IntegrityMismatch):
            return known.kind(said, side=self._side, hint=known.hint, retryable=known.retryable)
        after = retry_after(response.head.get("retry-after"))
        status = response.head.status
        return known.kind(said, side=self._side, store_status=status, retry_after=after, hint=known.hint)

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


def parsed(text: str) -> Element | None:
    """Return a document's root, or None for one that is broken, or declares a type.

    The type is where entities are declared, which may grow without end or fetch files; no store's answer has one. So
    the fast parser in C may be used, which hasn't any other such power (docs.python.org, "XML vulnerabilities").
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        return fromstring(text.strip())
    except (ParseError, ValueError):
        return None


def _at(location: Location, query: str) -> Location:
    """Return the object's address with a query, in the order in which it is signed."""
    return replace(location, target=f"{location.path}?{query}")


def checksums(head: Head) -> Digests:
    """Return the digests of the whole object that a head tells; those of its parts ("…-3", COMPOSITE) are none."""
    if (head.get("x-amz-checksum-type") or "").upper() == "COMPOSITE":
        return {}
    found = {}
    for theirs, ours in _OURS.items():
        text = head.get(CHECKSUM + theirs)
        try:
            value = base64.b64decode(text or "", validate=True)
        except ValueError:
            continue
        if len(value) == ALGORITHMS[ours].width:
            found[ours] = value
    return found


def _digest(body: Body | bytes) -> bytes:
    """Return the CRC64NVME of what was sent."""
    if isinstance(body, Body):
        return body.digests[TRAILER]
    digester = Digester((TRAILER,))
    digester.update(body)
    return digester.digests()[TRAILER]


def _checksum(data: bytes) -> Fields:
    """Return the field that lets S3 compare bytes that are all at hand."""
    return ((CHECKSUM + TRAILER, base64.b64encode(_digest(data)).decode()),)


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


def _entries(page: Element, prefix: str) -> Iterator[Entry]:
    """Return a page's folders and objects, but for the marker of the folder itself."""
    space = page.tag.rpartition("}")[0] + "}" if "}" in page.tag else ""
    decode = unquote_plus if page.findtext("{*}EncodingType") == "url" else str
    skip = len(prefix)
    for row in page.iterfind(f"{space}CommonPrefixes/{space}Prefix"):
        yield Entry(decode(row.text or "")[skip:])
    key, size, etag, when = (f"{space}{name}" for name in ("Key", "Size", "ETag", "LastModified"))
    for row in page.iterfind(f"{space}Contents"):
        told = {cell.tag: cell.text or "" for cell in row}
        name = decode(told.get(key, ""))[skip:]
        if name:
            length, tag = told.get(size, ""), told.get(etag)
            yield Entry(name, int(length) if length.isdigit() else None, tag and printable(tag), _when(told.get(when)))


def _when(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def _told(text: str) -> tuple[str, str]:
    """Return the code and the message of an error document; empty strings where there is none."""
    root = parsed(text)
    if root is None:
        return "", ""
    code, message = root.findtext("{*}Code") or "", root.findtext("{*}Message") or ""
    return printable(code.strip()), printable(message.strip())
