"""How S3 is read: objects with what describes them, versions, tags, and listings.

Decided here: what is believed of an object's head and of a listing. Never here: how an answer's text is read
(`stores/s3_answers.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Final, cast
from urllib.parse import quote
from xml.etree.ElementTree import Element

import gevent

from relay.errors import NotFound, PermissionDenied, ProtocolViolation, Rejected
from relay.location import Location
from relay.receipt import Version
from relay.stores.fields import printable, whole
from relay.stores.interfaces import Entry, Opened, Span, Stored
from relay.stores.metadata import MTIME, TAGGING, UNTOLD, USER
from relay.stores.s3_answers import checksums, entries, version_id
from relay.stores.s3_exchange import S3Account, S3Exchange, at_query, key_of
from relay.wire.http1 import Fields, Head

MTIME_FIELD: Final = f"{USER}mtime"
"""Where rclone and others keep the time at which an object was changed before it came to S3."""
SYSTEM: Final = ("expires", "x-amz-website-redirect-location")
"""What S3 keeps besides of an object, and no other store (docs.aws.amazon.com, "Working with object metadata")."""
_EPOCH = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?\Z")


class S3Reading(S3Exchange):
    """One bucket that is read."""

    _tagged: Fields | None = None

    def get(self, location: Location, pinned: Version | None = None, span: Span | None = None) -> Opened:
        """As Source.get. A version that has a name is read by it, even if a newer one was written meanwhile."""
        named = pinned.id if pinned is not None else None
        return super().get(version_at(location, named) if named else location, pinned, span)

    def _version(self, head: Head) -> Version:
        return Version(
            size=head.length,
            etag=whole(head.get("etag")),
            last_modified=printable(head.get("last-modified") or "") or None,
            digests=checksums(head),
            id=version_id(head),
        )

    def _metadata(self, head: Head, location: Location) -> tuple[tuple[str, str], ...]:
        """As HttpStore's. A time of change that is none in rclone's form is a field as all others of the user's."""
        fields, changed = list(super()._metadata(head, location)), head.get(MTIME_FIELD) or ""
        if _EPOCH.match(changed):
            fields = [(name, value) for name, value in fields if name.lower() not in (MTIME, MTIME_FIELD)]
            fields.append((MTIME, changed))
        fields += [(name, value) for name in SYSTEM if (value := head.get(name))]
        if self._side == "source" and (head.get("x-amz-tagging-count") or "0") != "0":
            fields += self._tags(location)
        return tuple(fields)

    def _tags(self, location: Location) -> Fields:
        """Return an object's tags, which no head tells; that they are not told, where we may not ask. Asks once."""
        if self._tagged is None:
            self._tagged = self._asked_tags(location)
        return self._tagged

    def _asked_tags(self, location: Location) -> Fields:
        try:
            response = self._send("GET", at_query(location, "tagging="), ())
            if response.head.status != 200:
                raise self._refusal(response, "GET", location)
            root = self._parsed(self._page(response), location)
        except (Rejected, PermissionDenied, NotFound) as error:
            return ((UNTOLD, f"the source does not tell the object's tags: {error.message}"),)
        rows = ((row.findtext("{*}Key") or "", row.findtext("{*}Value") or "") for row in root.iterfind(".//{*}Tag"))
        return ((TAGGING, "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in rows)),)

    # -- listing

    def list(self, location: Location, recursive: bool = False, after: str | None = None) -> Iterator[Entry]:
        """As Source.list, by ListObjectsV2, a thousand a page in the order of their names' bytes."""
        prefix = key_of(location)
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


def version_at(location: Location, id: str) -> Location:
    """Return the address of one version of an object."""
    return at_query(location, f"versionId={quote(id, safe='-_.~')}")


def kept_at(location: Location, version: Version) -> Stored:
    """Return a yes whose object can be read at its own version, where it has one."""
    return Stored(version, version_at(location, version.id) if version.id else location, version.digests)
