"""Turn a believed answer to HEAD or GET into an object: its version, its metadata, its bytes.

Decided here: when an answer to GET is the pinned version and the requested range (RFC 9110 sections
13.1.1 and 14.4). Never here: which request is sent, which status is believed (`http.py`,
`s3/objects.py`)."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Protocol

from relay.digest import parse_fields
from relay.errors import RangeIgnored, Side, SourceChanged
from relay.location import Location
from relay.parsing import http_date
from relay.receipt import Version
from relay.stores.http_fields import content_range, is_transcoded, printable, strong_tag
from relay.stores.interfaces import ByteRange, ObjectInfo, OpenedObject
from relay.stores.metadata import MTIME, metadata_of_head
from relay.wire.body import Body
from relay.wire.exchange import Response
from relay.wire.http1 import Fields, Head

FRESH: Fields = (("Cache-Control", "no-cache"),)
"""Fields of a read that no cache may answer (RFC 9111 section 5.2)."""


class ObjectHeads(Protocol):
    """Parses the description of an object in the head of an answer."""

    reports_empty: bool
    """True if a length of 0 means an empty object. Many web servers that don't know the size answer
    HEAD with a length of 0."""

    def version(self, head: Head) -> Version:
        """Return the object's version."""

    def metadata(self, head: Head, location: Location) -> Fields:
        """Return the object's metadata, with its time of modification. May raise the errors of a
        request for metadata that the head only announces."""


class HttpHeads:
    """HTTP's own description of an object (RFC 9110 section 8, RFC 9530)."""

    reports_empty = False

    def version(self, head: Head) -> Version:
        """As ObjectHeads.version."""
        fields = head.by_name
        return Version(
            size=head.length,
            etag=strong_tag(fields.get("etag")),
            last_modified=printable(fields.get("last-modified") or "") or None,
            digests={} if is_transcoded(head) else parse_fields(fields.get),
        )

    def metadata(self, head: Head, location: Location) -> Fields:
        """As ObjectHeads.metadata."""
        return metadata_with_time(head)


def metadata_with_time(head: Head) -> Fields:
    """Return the metadata in a head, with the object's time of modification."""
    return metadata_of_head(head) + _time_of(head.by_name.get("last-modified"))


@lru_cache(maxsize=256)
def _time_of(date: str | None) -> Fields:
    """Return a date of HTTP as metadata; nothing for another text, and for a time before 1970.
    Cached, since an object's date comes with each answer about it."""
    changed = http_date(date)
    seconds = changed.timestamp() if changed else -1
    return ((MTIME, f"{seconds:.0f}"),) if seconds >= 0 else ()


def read_fields(pinned: Version | None, span: ByteRange | None) -> Fields:
    """Return the fields of a GET: If-Match with a strong entity tag (RFC 9110 section 13.1.1), and
    the range."""
    fields: Fields = ()
    if pinned is not None and pinned.strong_etag:
        fields += (("If-Match", pinned.strong_etag),)
    if span is not None:
        fields += (("Range", f"bytes={span.first}-{span.last}"),)
    return fields


def _age(head: Head) -> float | None:
    """Return the seconds from the date of the object to that of the answer."""
    changed, answered = (http_date(head.by_name.get(name)) for name in ("last-modified", "date"))
    if changed is None or answered is None:
        return None
    return (answered - changed).total_seconds()


class ReadAnswer:
    """An answer to HEAD or GET of the object at `final`, the location after redirects."""

    def __init__(self, response: Response, final: Location, heads: ObjectHeads, side: Side) -> None:
        self._response = response
        self._final = final
        self._heads = heads
        self._side = side

    def info(self) -> ObjectInfo:
        """Return the object that an answer to HEAD describes."""
        head = self._response.head
        return ObjectInfo(
            self._heads.version(head),
            self._final,
            disposition=head.by_name.get("content-disposition"),
            metadata=self._heads.metadata(head, self._final),
            ranges="bytes" in head.by_name.get("accept-ranges", "").lower(),
            age=_age(head),
        )

    def open_whole(self, pinned: Version | None) -> OpenedObject:
        """Return the whole object. Raises SourceChanged if it is not the pinned version; then the
        answer is closed."""
        head, body = self._response.head, self._response.body
        try:
            version = self._pin(self._heads.version(head), body, pinned)
            metadata = self._heads.metadata(head, self._final)
        except BaseException:
            body.close()
            raise
        return OpenedObject(
            version,
            self._final,
            disposition=head.by_name.get("content-disposition"),
            metadata=metadata,
            age=_age(head),
            body=body,
        )

    def open_range(self, pinned: Version | None, span: ByteRange) -> OpenedObject:
        """Return a range of the object, after a check that it is the requested range of the pinned
        version (RFC 9110 section 14.4).

        Without a pinned version, the answer's fields about the whole object are its version. Raises
        RangeIgnored and SourceChanged; then the answer is closed."""
        head, body = self._response.head, self._response.body
        known = pinned or Version()
        try:
            total = self._check_range(known, span)
            body.promise(span.length)
            metadata: Fields = ()
            if pinned is None:
                # The digests of a partial answer may be those of its bytes (`digest.parse_fields`).
                known = replace(self._heads.version(head), size=total, digests={})
                metadata = self._heads.metadata(head, self._final)
        except BaseException:
            body.close()
            raise
        return OpenedObject(
            known,
            self._final,
            disposition=head.by_name.get("content-disposition"),
            metadata=metadata,
            body=body,
        )

    def _check_range(self, known: Version, span: ByteRange) -> int:
        """Check that the answer is this range of this version; return the size of the whole
        object."""
        head, final = self._response.head, self._final
        if head.status == 416:
            raise SourceChanged(
                f"{final} no longer has bytes {span.first}-{span.last}", side=self._side
            )
        reported = content_range(head)
        if reported is None or reported[:2] != (span.first, span.last):
            raise RangeIgnored(f"{final} did not answer with the requested range", side=self._side)
        self._refuse_change("size", known.size, reported[2])
        tag = strong_tag(head.get("etag"))
        self._refuse_change("entity tag", known.etag, tag)
        length = self._response.body.length
        if length not in (None, span.length):
            raise RangeIgnored(
                f"{final} announces {length} bytes for a range of {span.length}", side=self._side
            )
        if known.strong_etag and tag is None:
            # RFC 9110 section 15.3.7 requires an ETag; without it the bytes may belong to another
            # version.
            raise RangeIgnored(f"{final} does not name the version of its range", side=self._side)
        return reported[2]

    def _refuse_change(
        self, name: str, pinned: int | str | None, reported: int | str | None
    ) -> None:
        if pinned is not None and reported is not None and pinned != reported:
            raise SourceChanged(f"the {name} was {pinned} and is {reported} now", side=self._side)

    def _pin(self, version: Version, body: Body, pinned: Version | None) -> Version:
        """Merge the pinned version (from HEAD) with that of GET. Raises SourceChanged if they
        differ."""
        if pinned is None:
            return version
        size = pinned.size if self._heads.reports_empty else pinned.size or None
        self._refuse_change("entity tag", pinned.etag, version.etag)
        # At a destination, the tag may be that of the answer to an upload, which has no length.
        is_unknown = pinned.size == 0 or (pinned.size is None and self._side == "source")
        if is_unknown and pinned.etag and not version.etag and version.size != 0:
            # A length of 0 may be unknown, but the GET of a tagged object shows its tag. This
            # answer is another thing, such as a login page.
            raise SourceChanged(
                f"HEAD reports the entity tag {pinned.etag}, and GET reports none", side=self._side
            )
        self._refuse_change("size", size, version.size)
        if size is not None:
            body.promise(size)
        return Version(
            size=body.length,
            etag=version.etag or pinned.etag,
            last_modified=version.last_modified or pinned.last_modified,
            digests={**pinned.digests, **version.digests},
            id=version.id or pinned.id,
        )
