"""PROPFIND (RFC 4918 section 9.1): what a server says about one object or folder, and its rows.

Decided here: which answer to PROPFIND is believed. Never here: what one row means
(`multistatus.py`), when a folder is listed (`listing.py`)."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import closing
from typing import Final
from xml.etree.ElementTree import Element

from relay.errors import ProtocolViolation, Rejected, RelayError, StoreError
from relay.location import Location
from relay.stores.http_client import MOVED, HttpClient, error_kind
from relay.stores.http_fields import printable
from relay.stores.http_reads import folder_here, folder_there, is_folder_of, refuse_negotiated
from relay.stores.index_links import segments_of
from relay.stores.multistatus import (
    MULTISTATUS,
    PROPERTIES,
    ROW,
    is_folder,
    is_object,
    own_row,
    path_of,
    rows_of,
    status_of,
)
from relay.stores.pieces import pieces_of
from relay.stores.xml_documents import Document, plain_name
from relay.wire.exchange import Response
from relay.wire.http1 import Fields

XML: Fields = (("Content-Type", "application/xml"),)
NO_METHOD = frozenset({405, 501})
"""Statuses of a server that does not support the method."""

_HOST: Final = re.compile("(?:https?:)?//([^/]*)", re.I)
"""The beginning of a reference that names a host."""


class OtherRow(ProtocolViolation):
    """A listing has the row of another place, and none of the one that was asked for."""


class Properties:
    """PROPFIND of one server."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    def find(self, place: Location, depth: int = 0) -> Response:
        """Send a PROPFIND; the caller closes the answer's body."""
        fields = (("Depth", str(depth)), *XML)
        return self._client.send("PROPFIND", place, fields, PROPERTIES)

    def status(self, place: Location) -> int:
        """Return the status of a PROPFIND of depth 0: that in the row of a 207, otherwise that of
        the answer. Raises as `find` and `read_status`."""
        return self.read_status(self.find(place), place)

    def read_status(self, response: Response, place: Location) -> int:
        """Return the status in an answer as `status` does. Raises as `rows`, ProtocolViolation, and
        Rejected for a folder's path at which there is an object."""
        if response.head.status != 207:
            response.body.close()
            return response.head.status
        row = self._own_row(response, place)
        if place.path.endswith("/") and is_object(row):
            raise Rejected(
                f"{place} is an object, not a folder",
                side=self._client.side,
                hint="A folder can't have an object's name: rename one of the two.",
            )
        status = status_of(row)
        return 207 if status == 200 else status

    def refuse_folder(self, place: Location) -> tuple[int, Element | None]:
        """Raise Rejected if `place` is a folder, KeyCollision if another object is served for it,
        and any retryable error of PROPFIND.

        Returns the status of PROPFIND: 207 with the row of an object, or another one with None;
        after a permanent refusal nothing is known of `place`."""
        response = self.find(place)
        status, found = response.head.status, None
        if status != 207:
            error: RelayError | None = self._client.refusal(response, "PROPFIND", place)
            folder = status in MOVED and _is_folder_of(place, response.head.get("location") or "")
        else:
            found = self._own_row(response, place)
            error = self.row_error(found, place)
            folder = error is None and is_folder(found)
            status = 207 if error is None else status_of(found)
        if folder:
            raise folder_there(place) if self._client.side == "destination" else folder_here(place)
        if error is not None and error.retryable:
            raise error
        return status, found if error is None else None

    def _own_row(self, response: Response, place: Location) -> Element:
        """Return the row of a 207 answer that is about `place`: a server may ignore the depth and
        name other objects first. Raises OtherRow (retryable) if there is no such row, and as `rows`
        and `refuse_negotiated`."""
        with closing(self.rows(response, place)) as rows:
            found = own_row(rows, place.path)
        if found is None:
            raise OtherRow(
                f"the answer to PROPFIND of {place} does not name it",
                side=self._client.side,
                retryable=True,
            )
        refuse_negotiated(place, path_of(found), self._client.side)
        return found

    def rows(self, response: Response, place: Location) -> Generator[Element, None, None]:
        """Yield the rows of a 207 answer. Raises ConnectionLost if it is cut off or not XML,
        ProtocolViolation for another document. Both are retryable."""
        with closing(pieces_of(response.body, self._client.meter)) as pieces:
            document = Document(pieces, f"the listing of {place}", self._client.side)
            if document.root != MULTISTATUS:
                name = printable(plain_name(document.root))
                message = f"{place} answered with a document <{name}> instead of a listing"
                raise ProtocolViolation(message, side=self._client.side, retryable=True)
            for row in document:
                if row.tag == ROW:
                    yield from rows_of(row)

    def row_error(self, row: Element, folder: Location) -> StoreError | None:
        """Return the error in a row of a folder's listing, or None."""
        status = status_of(row)
        if 200 <= status < 300:
            return None
        kind = error_kind(status)
        said = f"PROPFIND {folder} was answered {status}, for {path_of(row)[:200]!a} in it"
        return kind(said, side=self._client.side, store_status=status)


def _is_folder_of(place: Location, reference: str) -> bool:
    """Return whether a redirect says that a place is a folder: many servers redirect its path to
    the one with a final '/'. (A proxy may hide the server's own port. A sign-on redirects to a
    folder of another name, or of another host.)"""
    if not reference.endswith("/"):
        return False
    host = _HOST.match(reference)
    if host is not None and host[1].lower() != place.host_header:
        return segments_of(reference)[-1:] == segments_of(place.path)[-1:]
    path = reference if host is None else reference[host.end() :]
    above = "" if path.startswith("/") else f"{place.path.rpartition('/')[0]}/"
    return is_folder_of(place, above + path)


def is_itself(place: Location, reference: str) -> bool:
    """Return whether a redirect leads to the same path, perhaps of another host or scheme."""
    host = _HOST.match(reference)
    path = reference if host is None else reference[host.end() :]
    return segments_of(path.partition("?")[0]) == segments_of(place.path)
