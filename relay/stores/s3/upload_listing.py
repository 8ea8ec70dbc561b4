"""List the parts of a multipart upload, and the unfinished uploads of an object.

Decided here: which listed part and which listed upload counts. Never here: the requests that fill,
complete or abort an upload (`multipart.py`, `upload_completion.py`)."""

from __future__ import annotations

from contextlib import closing
from time import time
from typing import Final
from urllib.parse import quote

from relay.errors import NotFound, ProtocolViolation
from relay.location import Location
from relay.parsing import count, http_date
from relay.stores.http_fields import strong_tag
from relay.stores.interfaces import OpenUploads, Part, Upload
from relay.stores.s3.account import at_bucket, at_query, key_of
from relay.stores.s3.client import S3Client
from relay.stores.s3.responses import is_truncated, unfinished_upload
from relay.stores.s3.upload_limits import PARTS
from relay.stores.xml_documents import plain_name

UPLOAD_PAGES: Final = 10
"""Maximum number of pages of open uploads that are counted."""
SHOWN: Final = frozenset({"UploadId", "IsTruncated", "MaxParts"})
"""Elements of which an empty list of parts has at least one (ListParts, "Response Elements")."""


def at_upload(upload: Upload, which: str = "") -> Location:
    """Return the location of requests about an upload; `which` is a query that selects parts."""
    return at_query(upload.location, f"{which}uploadId={quote(upload.id, safe='-_.~')}")


class UploadListing:
    """The multipart uploads that a bucket lists."""

    def __init__(self, client: S3Client) -> None:
        self._client = client

    def stored_parts(self, upload: Upload) -> tuple[Part, ...]:
        """As PartsDestination.stored_parts, by ListParts, with a thousand parts on a page."""
        found: list[Part] = []
        marker: int | None = 0
        while marker is not None:
            page, following = self._parts_page(upload, f"part-number-marker={marker}&")
            found += page
            if following is not None and not marker < following <= PARTS.most:
                message = f"{upload.location}: the list of its parts has no marker of the next page"
                raise ProtocolViolation(message, side=self._client.side)
            marker = following
        return tuple(found)

    def stored_part(self, upload: Upload, number: int) -> Part | None:
        """Return one stored part, or None if the page that begins with it does not list it. Raises
        StoreError."""
        page, _ = self._parts_page(upload, f"max-parts=1&part-number-marker={number - 1}&")
        return next((part for part in page if part.number == number), None)

    def _parts_page(self, upload: Upload, which: str) -> tuple[list[Part], int | None]:
        """Return one page of the stored parts, and the part number after which the next page
        begins, or None after the last page."""
        client, place = self._client, upload.location
        response = client.send("GET", at_upload(upload, which), ())
        found: list[Part] = []
        reported: dict[str, str] = {}
        with closing(client.document_rows(response, "GET", place, None)) as rows:
            for row in rows:
                number, size = count(row.findtext("{*}PartNumber")), count(row.findtext("{*}Size"))
                if plain_name(row.tag) == "Part" and number is not None and size is not None:
                    etag = strong_tag(row.findtext("{*}ETag")) or ""
                    found.append(Part(number, size, etag, checked=False))
                reported[plain_name(row.tag)] = (row.text or "").strip()
        if not (found or SHOWN.intersection(reported)):
            message = f"GET {place} was answered with a document that does not list parts"
            raise ProtocolViolation(message, side=client.side, retryable=True)
        # Without IsTruncated the page counts as the last one: parts that it lacks are sent again.
        if not is_truncated(reported.get("IsTruncated", "")):
            return found, None
        # 0 is not beyond any marker, so `stored_parts` refuses a page without one.
        return found, count(reported.get("NextPartNumberMarker")) or 0

    def lost_uploads(self, location: Location, since: float, until: float) -> tuple[Upload, ...]:
        """As PartsDestination.lost_uploads, by ListMultipartUploads. The server's clock is compared
        with ours.

        The request has no `encoding-type`: SeaweedFS declares the keys as encoded, and they are
        not. No key of ours needs it."""
        client, key = self._client, key_of(location)
        query = f"prefix={quote(key, safe='-_.~')}&uploads="
        response = client.send("GET", at_bucket(location, query), ())
        date = http_date(response.head.get("date"))
        ahead = date.timestamp() - time() if date else 0.0
        root = "ListMultipartUploadsResult"
        with closing(client.document_rows(response, "GET", location, root)) as rows:
            listed = [unfinished_upload(row) for row in rows if plain_name(row.tag) == "Upload"]
        uploads = [
            Upload(location, id, checked=False)
            for id, name, created in filter(None, listed)
            if name == key and since <= created - ahead <= until
        ]
        return tuple(upload for upload in uploads if self._is_empty(upload))

    def open_uploads(self, location: Location) -> OpenUploads:
        """As UploadsSource.open_uploads: at most UPLOAD_PAGES pages of them
        (docs.aws.amazon.com, "ListMultipartUploads")."""
        prefix = key_of(location)
        prefix += "/" if prefix and not prefix.endswith("/") else ""
        count, oldest, marker = 0, None, ("", "")
        for _ in range(UPLOAD_PAGES):
            created, following = self._uploads_page(location, prefix, marker)
            count += len(created)
            oldest = min(created if oldest is None else [oldest, *created], default=None)
            if following is None:
                return OpenUploads(count, oldest)
            if following == marker:
                message = f"{location}: the list of its uploads has no marker of the next page"
                raise ProtocolViolation(message, side=self._client.side)
            marker = following
        return OpenUploads(count, oldest, is_whole=False)

    def _uploads_page(
        self, location: Location, prefix: str, marker: tuple[str, str]
    ) -> tuple[list[float], tuple[str, str] | None]:
        """Return when each upload of a page was begun, and the marker of the next page, or None
        after the last one."""
        client, (key, upload) = self._client, marker
        after = (
            f"key-marker={quote(key, safe='-_.~')}&" if key else "",
            f"&upload-id-marker={quote(upload, safe='-_.~')}" if upload else "",
        )
        query = f"{after[0]}prefix={quote(prefix, safe='-_.~')}{after[1]}&uploads="
        response = client.send("GET", at_bucket(location, query), ())
        created: list[float] = []
        reported: dict[str, str] = {}
        root = "ListMultipartUploadsResult"
        with closing(client.document_rows(response, "GET", location, root)) as rows:
            for row in rows:
                name = plain_name(row.tag)
                if name == "Upload":
                    found = unfinished_upload(row)
                    if found is not None and found[1].startswith(prefix):
                        created.append(found[2])
                else:
                    reported[name] = (row.text or "").strip()
        if not is_truncated(reported.get("IsTruncated", "")):
            return created, None
        markers = (reported.get("NextKeyMarker", ""), reported.get("NextUploadIdMarker", ""))
        return created, markers

    def _is_empty(self, upload: Upload) -> bool:
        """Return whether the upload has no parts. An upload whose id was lost never gets one; any
        other upload soon does."""
        try:
            return not self.stored_parts(upload)
        except NotFound:
            return False
