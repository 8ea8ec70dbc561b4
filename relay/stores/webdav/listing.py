"""List the folders of a WebDAV server.

Decided here: which entries a folder has. Never here: which document is believed
(`properties.py`), when a listing is requested again (`listing_retries.py`)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial

from relay.errors import ProtocolViolation, Rejected
from relay.location import Location
from relay.stores.folder_walk import walk_folders
from relay.stores.http_client import HttpClient
from relay.stores.index_links import segments_of
from relay.stores.interfaces import Entry, is_temporary_name, reject_temporary_name
from relay.stores.multistatus import is_object, read_row
from relay.stores.webdav.properties import Properties


class DavListing:
    """The listing of one server's folders."""

    def __init__(self, client: HttpClient, properties: Properties) -> None:
        self._client, self._properties = client, properties

    def entries(self, location: Location, recursive: bool) -> Iterator[Entry]:
        """As Source.list, by PROPFIND of depth 1, folder by folder: many servers refuse `Depth:
        infinity`."""
        root = location
        if not location.path.endswith("/"):
            root = location.with_target(f"{location.path}/")
        return walk_folders(partial(self.members, root), self._client.listing_retries, recursive)

    def members(self, root: Location, name: str = "") -> Generator[Entry, None, None]:
        """Yield the entries of a folder. Raises the error in the folder's own row; Rejected if it
        is an object; UnsafeKey for a folder that has no URL; ProtocolViolation (retryable) for an
        answer without any row, since it lacks even the folder's own."""
        folder = root.below(name) if name else root
        response = self._properties.find(folder, depth=1)
        if response.head.status != 207:
            raise self._client.refusal(response, "PROPFIND", folder)
        segments, side = segments_of(folder.path), self._client.side
        found, holds, own = False, False, None
        with closing(self._properties.rows(response, folder)) as rows:
            for row in rows:
                found = True
                entry = read_row(row, segments, side)
                error = self._properties.row_error(row, folder)
                # `read_row` returns no entry for the folder's own row.
                if entry is None and error is not None:
                    raise error
                own = row if entry is None else own
                holds = holds or entry is not None
                if entry is not None and is_temporary_name(entry.name):
                    entry = reject_temporary_name(entry, side)
                if entry is None:
                    continue
                if error is not None and entry.error is None:
                    entry = Entry(entry.name, error=error)
                yield entry
        if not found:
            message = f"the listing of {folder} is empty and lacks even the folder itself"
            raise ProtocolViolation(message, side=side, retryable=True)
        # A PROPFIND of an object succeeds too, and names the object alone.
        if side == "source" and own is not None and not holds and is_object(own):
            hint = "Move it without -r in the terminal, or without `recursive` in a request."
            raise Rejected(f"{folder} is an object, not a folder", side=side, hint=hint)
