"""List the folders of a WebDAV server.

Decided here: which entries a folder has. Never here: which document is believed
(`properties.py`), when a listing is requested again (`listing_retries.py`)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from functools import partial
from hashlib import sha256
from typing import Final
from xml.etree.ElementTree import Element

from relay.errors import ProtocolViolation, Rejected, RelayError, UnsafeKey, Unsupported
from relay.location import Location
from relay.receipt import Version
from relay.redirects import redirect_target
from relay.stores.folder_walk import walk_folders
from relay.stores.http_client import HttpClient
from relay.stores.http_fields import next_link
from relay.stores.index_links import segments_of
from relay.stores.index_pages import REMEMBERED
from relay.stores.interfaces import Enters, Entry, is_temporary_name, reject_temporary_name
from relay.stores.multistatus import is_object, read_row, shows_type, version_of
from relay.stores.webdav.properties import Properties
from relay.wire.exchange import Response


class DavListing:
    """The listing of one server's folders."""

    def __init__(self, client: HttpClient, properties: Properties) -> None:
        self._client, self._properties = client, properties

    def entries(
        self, location: Location, recursive: bool, enters: Enters | None = None
    ) -> Iterator[Entry]:
        """As Source.list, by PROPFIND of depth 1, folder by folder: many servers refuse `Depth:
        infinity`."""
        root = location
        if not location.path.endswith("/"):
            root = location.with_target(f"{location.path}/")
        members = partial(self.members, root)
        return walk_folders(members, self._client.listing_retries, recursive, enters)

    def members(self, root: Location, name: str = "") -> Generator[Entry, None, None]:
        """Yield the entries of a folder, from all pages of its listing. Raises the error in the
        folder's own row; Rejected if it is an object; UnsafeKey for a folder that has no URL;
        Unsupported for a further page that can't be requested; ProtocolViolation (retryable) for an
        answer without any row, since it lacks even the folder's own."""
        folder = root.below(name) if name else root
        side, listed = self._client.side, _Listed()
        page: Location | None = folder
        while page is not None:
            response = self._properties.find(page, depth=1)
            if response.head.status != 207:
                raise self._client.refusal(response, "PROPFIND", page)
            page = self._next_page(response, folder)
            before = listed.entries
            yield from self._rows(response, folder, listed)
            if page is not None and listed.entries == before:
                message = f"a page of the listing of {folder} is empty and names another page"
                raise ProtocolViolation(message, side=side)
        if not listed.found:
            message = f"the listing of {folder} is empty and lacks even the folder itself"
            raise ProtocolViolation(message, side=side, retryable=True)
        # A PROPFIND of an object succeeds too, and names the object alone.
        own = listed.own
        if side == "source" and own is not None and not listed.entries and is_object(own):
            hint = "Move it without -r in the terminal, or without `recursive` in a request."
            raise Rejected(f"{folder} is an object, not a folder", side=side, hint=hint)

    def _rows(self, response: Response, folder: Location, listed: _Listed) -> Iterator[Entry]:
        """Yield the entries of one page of a folder's listing. Raises as `members`."""
        segments, side = segments_of(folder.path), self._client.side
        with closing(self._properties.rows(response, folder)) as rows:
            for row in rows:
                listed.found = True
                entry = read_row(row, segments, side)
                error = self._properties.row_error(row, folder)
                if entry is None:  # the folder's own row
                    if error is not None:
                        raise error
                    listed.own = row
                    continue
                listed.entries += 1
                if is_temporary_name(entry.name):
                    entry = reject_temporary_name(entry, side)
                    if entry is None:
                        continue
                if error is not None and entry.error is None:
                    judged_as = () if shows_type(row) else (f"{entry.name}/", entry.name)
                    entry = Entry(entry.name, error=error, judged_as=judged_as)
                yield listed.separate(entry, version_of(row)) if side == "source" else entry

    def _next_page(self, response: Response, folder: Location) -> Location | None:
        """Return the location of the next page of a folder's listing, which a Link field names
        (Nutstore has 750 entries on a page), or None. Raises Unsupported if it is elsewhere."""
        reference = next_link(response.head)
        if reference is None:
            return None
        with suppress(RelayError):
            there = redirect_target(folder, reference, self._client.side)
            if there.origin == folder.origin:
                return folder.with_target(there.target)
        response.body.close()
        message = f"the listing of {folder} continues on a page that relay can't request"
        raise Unsupported(message, side=self._client.side)


class _Listed:
    """What the listing of one folder has shown so far."""

    def __init__(self) -> None:
        self.found, self.entries = False, 0
        self.own: Element | None = None
        self._marks: dict[int, int] = {}

    def separate(self, entry: Entry, version: Version) -> Entry:
        """Return the entry, or one with an error and another name if the name was listed for
        another object or folder: a store behind the server (Google Drive, MEGA) may have several of
        one name, and only one could arrive under it. At most REMEMBERED names are compared."""
        date = version.last_modified if entry.folder else None
        mark = hash((version.size, version.etag, date))
        if len(self._marks) < REMEMBERED:
            known = self._marks.setdefault(hash(entry.name), mark)
        else:
            known = self._marks.get(hash(entry.name), mark)
        if known == mark or entry.error is not None:
            return entry
        text = f"{version.size} {version.etag} {version.last_modified}"
        name = f"{entry.name.rstrip('/')} ~{sha256(text.encode()).hexdigest()[:16]}"
        clash = UnsafeKey(_CLASH, side="source", hint=_RENAME)
        return Entry(name, version.size, error=clash, judged_as=(entry.name,))


_CLASH: Final = (
    "two entries of the listing have the same name, and only one of them could arrive under it"
)
_RENAME: Final = "Rename one of them at the source, and run the same command again."
