"""S3 and its dialects as a store: the methods of the contract, in the contract's order.

Theory of operation. Each group of requests has a module of its own, and all of them send by one
`S3Client`, which signs requests and classifies refusals. Endpoints implement different subsets of
S3; what one was found not to accept is remembered (`quirks.py`).

Decided here: which module does what the contract asks for, and which objects are sent in parts.
Never here: any request."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from relay.digest import Digests
from relay.errors import Side
from relay.location import Location
from relay.receipt import Version
from relay.stores.interfaces import (
    Begins,
    ByteRange,
    Deletion,
    Enters,
    Entry,
    ObjectInfo,
    OpenedObject,
    OpenUploads,
    Part,
    PartLimits,
    PutResult,
    Upload,
)
from relay.stores.s3.account import aws_host
from relay.stores.s3.client import S3Client
from relay.stores.s3.copies import Copies
from relay.stores.s3.exact_keys import ExactKeys
from relay.stores.s3.growing_uploads import GrowingUploads
from relay.stores.s3.listing import S3Listing
from relay.stores.s3.multipart import MultipartUploads, part_limits
from relay.stores.s3.objects import S3Objects
from relay.stores.s3.quirks import LISTS_LATER
from relay.stores.s3.single_uploads import SingleUploads
from relay.stores.s3.upload_completion import Completion
from relay.stores.s3.upload_fields import UploadFields
from relay.stores.s3.upload_limits import limits_of
from relay.stores.s3.upload_listing import UploadListing
from relay.stores.s3.version_deletes import VersionDeletes
from relay.wire.body import Body
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog


class S3Store:
    """One bucket, for one transfer."""

    def __init__(self, wire: Wire, side: Side, meter: Watchdog) -> None:
        self._client = client = S3Client(wire, side, meter)
        self._objects, self._listing = S3Objects(client), S3Listing(client)
        self._keys = keys = ExactKeys(client, self._objects, self._listing)
        self._fields = fields = UploadFields(client)
        self._single = SingleUploads(client, fields, self._objects, keys)

    # The rest is made when it is used: most objects are small, and each has two stores of its own.

    @cached_property
    def _uploads(self) -> UploadListing:
        return UploadListing(self._client)

    @cached_property
    def _multipart(self) -> MultipartUploads:
        return MultipartUploads(self._client, self._fields, self._keys, self._uploads)

    @cached_property
    def _completion(self) -> Completion:
        return Completion(self._client, self._fields, self._keys, self._uploads)

    @cached_property
    def _growing(self) -> GrowingUploads:
        return GrowingUploads(self._client, self._single, self._multipart, self._completion)

    @cached_property
    def _copies(self) -> Copies:
        return Copies(self._client, self._fields, self._keys)

    # -- both roles

    def head(self, location: Location) -> ObjectInfo:
        """As Source.head. Raises Rejected at a destination that stores the object under a different
        key."""
        return self._keys.head(location)

    def get(
        self, location: Location, pinned: Version | None = None, span: ByteRange | None = None
    ) -> OpenedObject:
        """As Source.get. A pinned version with an id is read by that id, even if a newer one was
        written meanwhile."""
        return self._objects.get(location, pinned, span)

    def list(
        self,
        location: Location,
        recursive: bool = False,
        after: str | None = None,
        enters: Enters | None = None,
    ) -> Iterator[Entry]:
        """As Source.list, by ListObjectsV2, or by ListObjects if a server has no continuation
        tokens."""
        return self._listing.entries(location, recursive, after)

    def open_uploads(self, location: Location) -> OpenUploads:
        """As UploadsSource.open_uploads, by ListMultipartUploads."""
        return self._uploads.open_uploads(location)

    # -- destination

    def lists_all(self, location: Location) -> bool:
        """As Destination.lists_all (docs.aws.amazon.com, "Amazon S3 data consistency model")."""
        return not self._client.quirks(location).has(LISTS_LATER)

    def honours_preconditions(self, location: Location) -> bool:
        """As Destination.honours_preconditions: known of AWS only. Other servers may ignore a field
        that they don't know."""
        at_aws = aws_host(location.host) is not None
        return at_aws and not self._client.quirks(location).omits_precondition

    def publishes_atomically(self, digested: bool) -> bool:
        """As Destination.publishes_atomically: only with a trailing checksum. SeaweedFS makes an
        empty object of an upload without one that breaks before its first byte."""
        return digested

    def part_limits(self, location: Location) -> PartLimits | None:
        """As Destination.part_limits, by the host of the endpoint, or by its refusal of a part."""
        return part_limits(self._client, location)

    def unkept_metadata(
        self, location: Location, metadata: tuple[tuple[str, str], ...]
    ) -> tuple[str, ...]:
        """As Destination.unkept_metadata: tags after a refusal, and metadata beyond AWS's limit."""
        return self._fields.unkept_metadata(location, metadata)

    def can_copy(self, source: Location, location: Location) -> bool:
        """As Destination.can_copy: within one endpoint, with the same access key, unless a copy was
        refused before."""
        return self._copies.can_copy(source, location)

    def put(
        self,
        location: Location,
        body: Body,
        metadata: tuple[tuple[str, str], ...] = (),
        *,
        if_absent: bool = False,
        token: str | None = None,
        begins: Begins | None = None,
    ) -> PutResult:
        """As PartsDestination.put. A body of unknown length, or of more than one request holds,
        becomes a multipart upload. Raises Rejected for more parts than the endpoint allows."""

        def upload(absent: bool) -> PutResult:
            if body.length is None or body.length > limits_of(location.host).largest:
                return self._growing.put(location, body, metadata, absent, begins)
            return self._single.put(location, body, metadata, absent)

        return self._keys.store(location, if_absent, upload)

    def staged_locations(self, location: Location, token: str) -> tuple[Location, ...]:
        """As Destination.staged_locations: `put` writes to the final location."""
        return ()

    def publish(
        self, stored: PutResult, *, if_absent: bool = False, fresh: bool = False
    ) -> Version:
        """As Destination.publish: the upload has published the object already."""
        return stored.version

    def delete(self, location: Location, version: Version) -> None:
        """As Destination.delete: by version id if there is one, which leaves all other versions."""
        self._objects.delete(location, version)

    # -- as a source that is moved

    def deletes_conditionally(self, location: Location) -> bool:
        """As DeletingSource.deletes_conditionally: known of AWS only."""
        return VersionDeletes(self._client).is_conditional(location)

    def require_deletes(self, folder: Location) -> None:
        """As DeletingSource.require_deletes."""
        VersionDeletes(self._client).require(folder)

    def delete_version(
        self, location: Location, version: Version, *, purge: bool = False
    ) -> Deletion:
        """As DeletingSource.delete_version."""
        return VersionDeletes(self._client).delete(location, version, purge)

    def remove_marker(self, location: Location, marker: str) -> Version:
        """As VersionedStore.remove_marker."""
        return VersionDeletes(self._client).remove_marker(location, marker)

    # -- parts

    def begin(self, location: Location, metadata: tuple[tuple[str, str], ...] = ()) -> Upload:
        """As PartsDestination.begin."""
        return self._multipart.begin(location, metadata)

    def put_part(self, upload: Upload, number: int, body: Body) -> Part:
        """As PartsDestination.put_part."""
        return self._multipart.put_part(upload, number, body)

    def stored_parts(self, upload: Upload) -> tuple[Part, ...]:
        """As PartsDestination.stored_parts, by ListParts."""
        return self._uploads.stored_parts(upload)

    def complete(
        self, upload: Upload, parts: tuple[Part, ...], digests: Digests, *, if_absent: bool = False
    ) -> PutResult:
        """As PartsDestination.complete. An answer of 200 may be an error: its text decides."""
        return self._completion.complete(upload, parts, digests, if_absent)

    def lost_uploads(self, location: Location, since: float, until: float) -> tuple[Upload, ...]:
        """As PartsDestination.lost_uploads, by ListMultipartUploads."""
        return self._uploads.lost_uploads(location, since, until)

    def abort(self, upload: Upload) -> None:
        """As PartsDestination.abort."""
        self._multipart.abort(upload)

    # -- copies within the store

    def copy(
        self,
        source: Location,
        found: ObjectInfo,
        location: Location,
        *,
        if_absent: bool = False,
        token: str | None = None,
    ) -> PutResult:
        """As CopyDestination.copy, by CopyObject."""
        return self._copies.copy(source, found, location, if_absent)

    def copy_described(
        self,
        source: Location,
        found: ObjectInfo,
        location: Location,
        metadata: tuple[tuple[str, str], ...],
        *,
        if_absent: bool = False,
    ) -> PutResult:
        """As DescribedCopyDestination.copy_described, by CopyObject."""
        return self._copies.copy_described(source, found, location, metadata, if_absent)

    def copy_part(
        self, upload: Upload, number: int, source: Location, found: ObjectInfo, span: ByteRange
    ) -> Part:
        """As CopyPartsDestination.copy_part, by UploadPartCopy."""
        return self._copies.copy_part(upload, number, source, found, span)
