"""Copy objects within S3, without their bytes passing through relay.

Decided here: between which buckets a copy is tried, and what a refused one means. Never here: when
an object is copied instead of sent (`engine/transfer/server_copy.py`)."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote
from xml.etree.ElementTree import Element

from relay.errors import (
    PermissionDenied,
    PreconditionFailed,
    ProtocolViolation,
    Rejected,
    SourceChanged,
)
from relay.location import Location
from relay.receipt import Version
from relay.stores.http_fields import strong_tag, upload_fields
from relay.stores.interfaces import ByteRange, ObjectInfo, Part, PutResult, Upload
from relay.stores.metadata import CARRIED, REDIRECT, TAGGING, USER, require
from relay.stores.s3.account import S3Account, account_of
from relay.stores.s3.client import S3Client
from relay.stores.s3.exact_keys import ExactKeys
from relay.stores.s3.multipart import WHOLE
from relay.stores.s3.objects import SYSTEM
from relay.stores.s3.responses import document_checksums, version_id
from relay.stores.s3.sigv4 import canonical_path
from relay.stores.s3.upload_answers import pinned_to_version
from relay.stores.s3.upload_fields import UploadFields
from relay.stores.s3.upload_listing import at_upload
from relay.stores.s3.upload_refusals import CONDITION
from relay.wire.exchange import Response
from relay.wire.http1 import Fields


class Copies:
    """Copies into a bucket."""

    def __init__(self, client: S3Client, fields: UploadFields, keys: ExactKeys) -> None:
        self._client, self._fields, self._keys = client, fields, keys

    def can_copy(self, source: Location, location: Location) -> bool:
        """As Destination.can_copy: within one endpoint, with the same access key, unless a copy was
        refused before."""
        there, here = source.account, location.account
        if not isinstance(there, S3Account) or not isinstance(here, S3Account) or not here.endpoint:
            return False
        if there.endpoint != here.endpoint or not there.signer.same_key(here.signer):
            return False
        return not self._client.quirks(location).has(_refusal_fact(there, here))

    def copy(
        self, source: Location, found: ObjectInfo, location: Location, if_absent: bool
    ) -> PutResult:
        """As CopyDestination.copy, by CopyObject. An answer of 200 may still be an error."""
        return self._keys.store(
            location, if_absent, lambda absent: self._copy(source, found, location, absent)
        )

    def copy_described(
        self,
        source: Location,
        found: ObjectInfo,
        location: Location,
        metadata: Fields,
        if_absent: bool,
    ) -> PutResult:
        """As DescribedCopyDestination.copy_described, by CopyObject. Metadata and tags have a
        directive each (docs.aws.amazon.com, "CopyObject")."""
        require(metadata, location, self._fields.unkept_metadata(location, metadata))
        kept = self._fields.accepted_fields(location, metadata)
        described = (
            ("x-amz-metadata-directive", "REPLACE"),
            ("x-amz-tagging-directive", "REPLACE"),
            *upload_fields(location, kept, if_absent=False),
        )
        stored = self._keys.store(
            location,
            if_absent,
            lambda absent: self._copy(source, found, location, absent, described),
        )
        return replace(
            stored, notes=(*stored.notes, *self._fields.notes(location, metadata, if_absent))
        )

    def _copy(
        self,
        source: Location,
        found: ObjectInfo,
        location: Location,
        if_absent: bool,
        described: Fields | None = None,
    ) -> PutResult:
        fields = _copy_source(source, found)
        if self._fields.conditional(location, if_absent):
            fields += ((CONDITION, "*"),)
        # The store copies the source's checksum. If there is none, it is asked to compute one, by
        # which the copy can be compared.
        if not found.version.digests:
            fields += (WHOLE[0],)
        if described is None:
            described = self._replaced_metadata(found, location)
        fields += described + self._fields.remote_options(location)
        response = self._client.send("PUT", location, fields, b"")
        root = self._read_answer(response, source, location, if_absent)
        etag, id = strong_tag(root.findtext("{*}ETag")), version_id(response.head)
        return pinned_to_version(
            location, Version(etag=etag, digests=document_checksums(root), id=id)
        )

    def _replaced_metadata(self, found: ObjectInfo, location: Location) -> Fields:
        """Return the fields that replace the metadata, if the caller's headers are part of it;
        otherwise the store copies it, except for a redirect of a website (docs.aws.amazon.com,
        "CopyObject"). The same holds for the tags, with a field of their own."""
        own = {name.lower() for name, _ in location.headers}
        tags: Fields = (("x-amz-tagging-directive", "REPLACE"),) if TAGGING in own else ()
        if not (own & {*CARRIED, *SYSTEM} or any(name.startswith(USER) for name in own)):
            return (*tags, *(pair for pair in found.metadata if pair[0].lower() == REDIRECT))
        metadata = found.metadata
        require(metadata, location, self._fields.unkept_metadata(location, metadata))
        kept = upload_fields(
            location, self._fields.accepted_fields(location, metadata), if_absent=False
        )
        return (
            *tags,
            ("x-amz-metadata-directive", "REPLACE"),
            *(pair for pair in kept if pair[0] != TAGGING),
        )

    def copy_part(
        self, upload: Upload, number: int, source: Location, found: ObjectInfo, span: ByteRange
    ) -> Part:
        """As CopyPartsDestination.copy_part, by UploadPartCopy."""
        fields = (
            *_copy_source(source, found),
            ("x-amz-copy-source-range", f"bytes={span.first}-{span.last}"),
        )
        place = at_upload(upload, f"partNumber={number}&")
        response = self._client.send("PUT", place, fields, b"")
        root = self._read_answer(response, source, upload.location, if_absent=False)
        etag = strong_tag(root.findtext("{*}ETag"))
        if not etag:
            raise ProtocolViolation(
                f"{upload.location}: the copied part {number} has no ETag", side=self._client.side
            )
        return Part(number, span.length, etag, checked=False)

    def _read_answer(
        self, response: Response, source: Location, location: Location, if_absent: bool
    ) -> Element:
        """Return the answer to a copy. A permanent refusal is remembered for these two buckets,
        unless a copy between them succeeded before: then only this object can't be copied, such as
        one in an archive."""
        quirks = self._client.quirks(location)
        refused = _refusal_fact(account_of(source), account_of(location))
        succeeded = f"{refused} done"
        try:
            root = self._client.document(response, "PUT", location)
        except PreconditionFailed as error:
            # A 412 is about the destination (If-None-Match) or about the source's ETag, and does
            # not say which.
            if if_absent and self._keys.exists(location):
                raise
            raise SourceChanged(
                f"{source} is another version now: {error.message}", side="source"
            ) from None
        except (Rejected, PermissionDenied):
            if not quirks.has(succeeded):
                quirks.learn(refused)
            raise
        quirks.learn(succeeded)
        return root


def _copy_source(source: Location, found: ObjectInfo) -> Fields:
    """Return the fields that name the object to copy, and its pinned version."""
    account = account_of(source)
    # It stays percent-encoded, as the field requires.
    key = source.path.removeprefix(account.prefix)
    which = f"?versionId={quote(found.version.id, safe='-_.~')}" if found.version.id else ""
    named: Fields = (("x-amz-copy-source", f"/{canonical_path(account.bucket)}{key}{which}"),)
    etag = found.version.strong_etag
    return (*named, ("x-amz-copy-source-if-match", etag)) if etag else named


def _refusal_fact(source: S3Account, destination: S3Account) -> str:
    """Return the fact that copies from one bucket to another are refused."""
    return f"copy {source.bucket} {destination.bucket}"
