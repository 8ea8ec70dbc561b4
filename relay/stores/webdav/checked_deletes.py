"""Delete WebDAV objects, but only the version that the caller names.

Theory of operation. A DELETE of a folder deletes all its content (RFC 4918 section 9.6), and few
servers compare `If-Match` of a DELETE (RFC 9110 section 13.1.1). So PROPFIND shows first that the
name is not that of a folder, where the server supports it, and a HEAD past all caches compares the
version just before. A cache in front of the server may answer that HEAD; it keeps no answer to
PROPFIND, so that one is compared too. A name that the server may cut is asked for with a word at
its end, which no object has.

Decided here: which version is deleted, and which answers mean that it was. Never here: the deletion
of relay's own leftovers (`whole_names.py`)."""

from __future__ import annotations

import re
from typing import Final
from uuid import uuid4

from relay.errors import NotFound, PermissionDenied, PreconditionFailed, Rejected
from relay.location import Location
from relay.parsing import http_date
from relay.receipt import Version
from relay.stores.http_client import HttpClient
from relay.stores.http_fields import printable
from relay.stores.http_objects import FRESH
from relay.stores.http_reads import FOLDER, GONE
from relay.stores.index_links import segments_of
from relay.stores.interfaces import Deletion, temporary_name
from relay.stores.multistatus import version_of
from relay.stores.version_checks import require_pinnable, require_version
from relay.stores.webdav.objects import DavHeads
from relay.stores.webdav.properties import Properties
from relay.stores.webdav.whole_names import require_deletable
from relay.wire.exchange import Response

DONE: Final = frozenset({200, 204})
"""Statuses of a DELETE that was done. A 202 only says that it was accepted, and a 207 that a part
of it failed."""
NO_DELETE: Final = frozenset({403, 405, 501})
"""Statuses of a server, or of an account, that deletes nothing."""
_DELIMITER: Final = re.compile("%(?:25)*(?:3f|23|3b|26)", re.I)
"""An encoded '?', '#', ';' or '&', before which a server may cut a name."""


def is_other(listed: Version, known: Version) -> bool:
    """Return whether the row of an object shows another version than the known one. A server may
    show another form of the ETag there, or none; then size and date decide."""
    if None not in (listed.size, known.size) and listed.size != known.size:
        return True
    dates = http_date(listed.last_modified), http_date(known.last_modified)
    if None not in dates:
        return dates[0] != dates[1]
    return None not in (listed.etag, known.etag) and listed.etag != known.etag


class DavVersionDeletes:
    """Deletions of known versions at one server."""

    def __init__(self, client: HttpClient, properties: Properties) -> None:
        self._client, self._properties = client, properties
        self._heads = DavHeads(client.side)

    def require(self, folder: Location) -> None:
        """As DeletingSource.require_deletes: deletes a name that never existed."""
        unused = folder.below(temporary_name(None))
        require_deletable(self._client, unused)
        if self._read(unused).head.status == 200:
            raise Rejected(
                f"{folder} answers for a name that never existed, so that a name proves no object",
                side=self._client.side,
            )
        response = self._client.send("DELETE", unused, ())
        status = response.head.status
        if status in DONE | GONE or status == 409:  # the folder itself is missing
            return response.body.close()
        error = self._client.refusal(response, "DELETE", unused)
        if status in NO_DELETE:
            raise PermissionDenied(error.message, side=self._client.side, store_status=status)
        raise error

    def delete(self, location: Location, version: Version) -> Deletion:
        """As DeletingSource.delete_version."""
        tag = require_pinnable(location, version, self._client.side)
        self._refuse_cut_name(location)
        _, row = self._properties.refuse_folder(location)
        if row is not None and is_other(version_of(row), version):
            raise PreconditionFailed(
                f"{location} is another version now, by PROPFIND", side=self._client.side
            )
        response = self._read(location)
        if response.head.status != 200:
            raise self._client.refusal(response, "HEAD", location)
        if (response.head.get("content-type") or "").partition(";")[0].strip() == FOLDER:
            raise Rejected(f"{location} is a folder", side=self._client.side)
        other = response.head.get("content-location")
        if other is not None and segments_of(other)[-1:] != segments_of(location.path)[-1:]:
            raise Rejected(f"{location} answers with {printable(other)}", side=self._client.side)
        found = self._heads.version(response.head)
        require_version(location, version, found, self._client.side)
        response = self._client.send("DELETE", location, (("If-Match", tag),))
        status = response.head.status
        if status in GONE:
            response.body.close()
            raise NotFound(f"{location} is gone", side=self._client.side, store_status=status)
        if status not in DONE:
            raise self._client.refusal(response, "DELETE", location)
        response.body.close()
        return Deletion(window=True)

    def _read(self, location: Location) -> Response:
        """Send a HEAD that no cache may answer, and follow no redirect. The body is closed."""
        response = self._client.send("HEAD", location, FRESH)
        response.body.close()
        return response

    def _refuse_cut_name(self, location: Location) -> None:
        """Raise Rejected if the server cuts the name of an object, or does not show that it keeps
        it: a DELETE would delete another object, or a folder."""
        found = list(_DELIMITER.finditer(location.path))
        if not found:
            return
        for delimiter in found:
            unused = location.with_target(f"{location.path[: delimiter.end()]}{uuid4().hex}")
            status = self._read(unused).head.status
            if status not in GONE:
                raise Rejected(
                    f"the server may cut the name of {location}: for a name that never existed it"
                    f" answers {status} ({printable(unused.path)})",
                    side=self._client.side,
                )
