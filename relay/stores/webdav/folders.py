"""Make the folders of an object (RFC 4918 section 9.3).

Decided here: which folders are missing, and which failure of an upload may be caused by a removed
one. Never here: the upload itself (`staged_uploads.py`)."""

from __future__ import annotations

from relay.errors import (
    ConnectionLost,
    InvalidURL,
    ProtocolViolation,
    RelayError,
    StoreError,
    Unavailable,
)
from relay.location import Location
from relay.stores.http_client import MOVED, HttpClient
from relay.stores.webdav.account import DEEPEST
from relay.stores.webdav.properties import NO_METHOD, Properties, is_itself
from relay.stores.webdav.whole_names import require_whole_folder

MADE = frozenset({201})
"""Statuses of a MKCOL that mean success (section 9.3.1)."""
BUSY = frozenset({408, 425, 429, 502, 503, 504})
"""Statuses of a PROPFIND that prove nothing about the folder."""


class DavFolders:
    """The folders of one server, as far as these credentials see them."""

    def __init__(self, client: HttpClient, properties: Properties) -> None:
        self._client, self._properties = client, properties

    def make_above(self, location: Location) -> None:
        """Make the missing folders above `location` (section 9.3). Raises KeyCollision if the
        server cuts the name of the last one, and StoreError.

        A folder that was found is not checked again; if it is removed meanwhile, `explain_removed`
        handles the failure of the upload. The first object of a folder makes it; others that come
        meanwhile wait for that."""
        client, folder = self._client, folder_of(location)
        memory, fact = client.wire.memory, _folder_fact(folder)
        if folder.path == "/":
            return
        if not memory.has(folder.origin, fact):
            meter = client.meter
            with memory.learning(folder.origin, fact, meter.check, meter.tick_seconds):
                self._make_missing(location)
        require_whole_folder(client, folder)

    def _make_missing(self, location: Location) -> None:
        """As `make_above`, whatever others do meanwhile. If the folder above the missing ones was
        only remembered, it may have been removed too."""
        memory, path = self._client.wire.memory, location.path.rpartition("/")[0]
        missing: list[Location] = []
        remembered = False
        # Step 1: search upwards for the first folder that exists.
        while path:
            folder = location.with_target(f"{path}/")
            remembered = memory.has(folder.origin, _folder_fact(folder))
            if self.exists(folder):
                break
            missing.append(folder)
            if len(missing) > DEEPEST:
                raise InvalidURL(f"more than {DEEPEST} folders are missing above the object")
            path = path.rpartition("/")[0]
        # Step 2: make the missing ones, the highest first: a MKCOL below a missing folder is
        # refused (409).
        try:
            for below in reversed(missing):
                self._make(below)
        except StoreError as error:
            if not remembered or error.store_status not in (404, 409):
                raise
            memory.forget(folder.origin, _folder_fact(folder))
            self._make_missing(location)

    def exists(self, folder: Location) -> bool:
        """Return whether a folder exists, by PROPFIND of depth 0. If the server does not support it
        or is busy, or its answer can't be read, MKCOL is sent instead: then the folder exists,
        unless the one above is missing too (409). So it is where the server redirects to another
        place, as Apache's `ErrorDocument 404` does with what it lacks. Raises StoreError if the
        server is still busy."""
        memory = self._client.wire.memory
        if memory.has(folder.origin, _folder_fact(folder)):
            return True
        response = self._properties.find(folder)
        try:
            status = self._properties.read_status(response, folder)
        except (ConnectionLost, ProtocolViolation):
            status = 501
        if status in (404, 409):
            return False
        away = status in MOVED and not is_itself(folder, response.head.get("location") or "")
        if away or status in NO_METHOD | BUSY:
            return self._make(folder, missing_above=True)
        # Also after a 401 or 403, which do not deny that the folder exists. If it does not,
        # `explain_removed` handles the failure of the upload.
        memory.learn(folder.origin, _folder_fact(folder))
        return True

    def _make(self, folder: Location, missing_above: bool = False) -> bool:
        """Make one folder; return True. Another client may have made it just now (Apache answers
        403 then). Raises StoreError. With `missing_above`, returns False if the folder above is
        missing."""
        response = self._client.send("MKCOL", folder, ())
        status = response.head.status
        if missing_above and status in (404, 409):
            self._client.drain(response)
            return False
        # 405: something exists there already (section 9.3.1).
        if status in MADE or status == 405:
            self._client.drain(response)
        else:
            refusal = self._client.refusal(response, "MKCOL", folder)
            if not self._is_listed(folder):
                raise refusal
        self._client.wire.memory.learn(folder.origin, _folder_fact(folder))
        return True

    def _is_listed(self, folder: Location) -> bool:
        """Return whether PROPFIND confirms that an entry exists."""
        try:
            return self._properties.status(folder) == 207
        except StoreError:
            return False

    def forget_above(self, location: Location) -> bool:
        """Forget that the folder of an object exists; return whether that was known."""
        folder = folder_of(location)
        return self._client.wire.memory.forget(folder.origin, _folder_fact(folder))

    def explain_removed(self, location: Location, error: RelayError) -> RelayError:
        """Return `error`, or a retryable error if it may be caused by a folder that was found
        before and has been removed since."""
        if not isinstance(error, StoreError) or error.store_status not in (404, 409, 500):
            return error
        if not self.forget_above(location):
            return error
        return Unavailable(
            f"{error.message}; its folder may have been removed",
            side=self._client.side,
            store_status=error.store_status,
        )


def folder_of(location: Location) -> Location:
    """Return the folder that holds an object."""
    return location.with_target(f"{location.path.rpartition('/')[0]}/")


def _folder_fact(folder: Location) -> str:
    """Return the fact that a folder exists, as seen with these credentials."""
    return f"folder {folder.path} {hash(folder.headers)}"
