"""The fields of an upload: metadata, checksum and precondition, without what the endpoint refuses.

Theory of operation. If an endpoint refuses an optional field, the object is sent again without it,
and that is remembered (`quirks.py`). The receipt shows what was left out.

Decided here: which fields go along with an upload or a copy. Never here: which request carries the
bytes (`single_uploads.py`, `multipart.py`), what a refusal means (`upload_answers.py`)."""

from __future__ import annotations

import base64
from typing import Final

from relay.location import Location
from relay.stores.metadata import (
    CARRIED,
    MTIME,
    REDIRECT,
    STRICT,
    TAGGING,
    USER,
    encode_value,
    note,
    require,
    unkept_notes,
)
from relay.stores.s3.account import account_of, aws_host
from relay.stores.s3.checksums import CONTENT_MD5, digest_of, trailer
from relay.stores.s3.client import S3Client
from relay.stores.s3.objects import MTIME_FIELD, SYSTEM
from relay.stores.s3.quirks import ENCODES, NO_PART_TRAILERS, SMALL, UNCONDITIONAL, UNTAGGED
from relay.stores.s3.responses import CHECKSUM, TRAILER
from relay.stores.s3.upload_refusals import METADATA_BYTES, metadata_bytes
from relay.wire.body import Body
from relay.wire.exchange import Wrapping
from relay.wire.http1 import Fields

_HELD: Final = frozenset({*CARRIED, *SYSTEM, TAGGING})
"""Fields that S3 keeps besides user metadata."""


class UploadFields:
    """The fields of uploads to a bucket, as far as its endpoint is known."""

    def __init__(self, client: S3Client) -> None:
        self._client = client

    # -- metadata

    def metadata(self, location: Location, metadata: Fields) -> Fields:
        """Return the fields of the object's metadata, without those that the bucket or endpoint
        does not accept, and the remote's own.

        Raises MetadataUnkept if all metadata is required and some is not accepted."""
        if STRICT in dict(metadata):
            require(metadata, location, self.unkept_metadata(location, metadata))
        return (*self.accepted_fields(location, metadata), *self.remote_options(location))

    def accepted_fields(self, location: Location, metadata: Fields) -> Fields:
        """Return the fields of the metadata that the bucket and the endpoint accept."""
        return self._kept_and_large(location, metadata)[0]

    def remote_options(self, location: Location) -> Fields:
        """Return the fields of the remote's options for every upload; headers of the caller take
        precedence."""
        uploaded = account_of(location).uploaded
        if not (uploaded and location.headers):
            return uploaded
        own = {name.lower() for name, _ in location.headers}
        return tuple(pair for pair in uploaded if pair[0] not in own)

    def unkept_metadata(self, location: Location, metadata: Fields) -> tuple[str, ...]:
        """As Destination.unkept_metadata: tags and a redirect after a refusal, and metadata beyond
        AWS's limit."""
        quirks = self._client.quirks(location)
        untagged: tuple[str, ...] = ()
        if TAGGING in dict(metadata) and quirks.omits_tags:
            untagged = (UNTAGGED,)
        if REDIRECT in dict(metadata) and quirks.omits_redirect:
            untagged += note([REDIRECT], "the destination")
        large: tuple[str, ...] = ()
        if self._is_small(location):
            names = self._kept_and_large(location, metadata)[1]
            large = note(names, f"the destination, which allows {METADATA_BYTES} bytes of it,")
        return (*untagged, *large, *unkept_notes(metadata, _is_held, location, "the destination"))

    def notes(self, location: Location, metadata: Fields, if_absent: bool) -> tuple[str, ...]:
        """Return notes on what was left out of an accepted upload."""
        notes = self.unkept_metadata(location, metadata)
        if not if_absent:
            return notes
        quirks = self._client.quirks(location)
        if not quirks.omits_precondition:
            return notes
        quirks.note_precondition_ignored()
        return (*notes, UNCONDITIONAL)

    def _kept_and_large(self, location: Location, metadata: Fields) -> tuple[Fields, list[str]]:
        """Return the fields that the bucket accepts, and the names of those that are too large.

        The time of modification becomes user metadata, unless a field of that name exists, or
        the limit leaves it out."""
        quirks = self._client.quirks(location)
        own = {name.lower() for name, _ in location.headers}
        encodes, small = quirks.has(ENCODES), self._is_small(location)
        room = METADATA_BYTES - metadata_bytes(location.headers) if small else 0
        held: list[tuple[str, str]] = []
        large: list[str] = []
        named = {name.lower(): (name, value) for name, value in metadata}
        if MTIME in named and MTIME_FIELD not in named:
            named[MTIME_FIELD] = (MTIME_FIELD, named[MTIME][1])
        if TAGGING in named and quirks.omits_tags:
            del named[TAGGING]
        if REDIRECT in named and quirks.omits_redirect:
            del named[REDIRECT]
        for key, (name, value) in named.items():
            if key in own or not _is_held(key):
                continue
            pair = (name, encode_value(value) if encodes else value)
            if small:
                size = metadata_bytes((pair,))
                # Fields other than user metadata have no size here, and are always kept.
                if size > room and size:
                    large.append(name)
                    continue
                room -= size
            held.append(pair)
        return tuple(held), large

    def _is_small(self, location: Location) -> bool:
        """Return whether AWS's limit of the metadata's size holds there."""
        return self._client.quirks(location).has(SMALL) or aws_host(location.host) is not None

    # -- checksum and precondition

    def conditional(self, location: Location, if_absent: bool) -> bool:
        """Return whether an upload carries `If-None-Match: *`."""
        return if_absent and not self._client.quirks(location).omits_precondition

    def wrapping(self, location: Location, body: Body, part: bool = False) -> Wrapping | None:
        """Return the trailing checksum of an object, or of a `part`. If the endpoint does not
        accept one, the MD5 is computed instead, and None returned."""
        if body.digester is None or TRAILER not in body.digester.names:
            return None
        quirks = self._client.quirks(location)
        if quirks.omits_checksum or (part and quirks.has(NO_PART_TRAILERS)):
            body.add_digest("md5")
            return None
        return trailer(body)

    def checksum(self, location: Location, data: bytes | memoryview) -> Fields:
        """Return the checksum field of bytes that are in memory: a CRC64NVME, or Content-MD5 if the
        endpoint does not accept that."""
        if self._client.quirks(location).omits_checksum:
            return ((CONTENT_MD5, base64.b64encode(digest_of(data, "md5")).decode()),)
        return ((CHECKSUM + TRAILER, base64.b64encode(digest_of(data)).decode()),)


def _is_held(name: str) -> bool:
    """Return whether S3 keeps the field of this lower-case name with an object."""
    return name in _HELD or name.startswith(USER)
