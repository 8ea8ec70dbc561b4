"""Delete temporary objects, but nothing where the server cuts the name of their folder.

Theory of operation. A proxy that decodes a path and does not encode it again asks the server for
`/to/What` in place of `/to/What%3F/.relay-….part`, and a DELETE of the folder `What` deletes all
its content (RFC 4918 section 9.6). There a name that never existed shows that folder too. So such a
name is asked for before an upload, as soon as its folder exists, and before a DELETE. A name
without a delimiter must show nothing then: some servers answer for any name.

Decided here: whether the name of a folder is cut. Never here: whether an object's name is cut
(`engine/transfer/cut_names.py`, `moves.py`)."""

from __future__ import annotations

import re
from functools import partial
from typing import Final
from uuid import uuid4

from relay.errors import KeyCollision, Rejected, StoreError
from relay.location import Location
from relay.receipt import Version
from relay.stores.http_client import HttpClient
from relay.stores.http_reads import IsFolder
from relay.stores.http_uploads import delete_object
from relay.stores.unused_names import FOLDER_DELIMITER, UnusedNames, is_name_cut
from relay.stores.webdav.objects import DavObjects
from relay.stores.webdav.properties import NO_METHOD, OtherRow, Properties

_DELIMITERS: Final = re.compile(f".*{FOLDER_DELIMITER.pattern}", re.I)
"""A path to the end of its last delimiter."""
_MISSING: Final = frozenset({404, 409, 410})
_HINT: Final = (
    "Let the proxy in front of the server pass the path on as it came (in nginx: proxy_pass without"
    " $uri), or name the server behind it; else rename the folder."
)


def require_whole_folder(client: HttpClient, folder: Location) -> None:
    """Raise KeyCollision if the server cuts the name of an existing folder. Raises retryable
    StoreErrors."""
    if _is_known_whole(client, folder):
        return
    is_cut = _shows_any_name(client, folder)
    if is_cut:
        raise _cut_error(folder)
    if is_cut is False:
        client.wire.memory.learn(folder.origin, _whole_fact(folder))


def delete_temporary(client: HttpClient, place: Location) -> None:
    """Delete an object with a temporary name. Raises as `require_deletable`, and as
    `delete_object`."""
    require_deletable(client, place)
    delete_object(client, place, Version())


def require_deletable(client: HttpClient, place: Location) -> None:
    """Raise KeyCollision if the server cuts the name of the folder that has a temporary object, and
    Rejected if that can't be found out. Raises retryable StoreErrors."""
    folder = place.with_target(f"{place.path.rstrip('/').rpartition('/')[0]}/")
    if _is_known_whole(client, folder):
        return
    is_cut = _shows_any_name(client, folder)
    if is_cut:
        raise _cut_error(folder)
    if is_cut is None:
        raise Rejected(f"nothing shows that the name of {folder} is not cut", side=client.side)


def _is_known_whole(client: HttpClient, folder: Location) -> bool:
    if "%" not in folder.path or _DELIMITERS.match(folder.path) is None:
        return True
    return client.wire.memory.has(folder.origin, _whole_fact(folder))


def _shows_any_name(client: HttpClient, folder: Location) -> bool | None:
    """Return whether the server shows something at a name that never existed, and that is cut as
    the folder's; None if the server does not show that. Raises retryable StoreErrors."""
    begin = _DELIMITERS.match(folder.path)
    assert begin is not None, "the path has a delimiter"
    word, whole = uuid4().hex[:8], FOLDER_DELIMITER.split(folder.path, maxsplit=1)[0]
    names = UnusedNames(
        folder.with_target(f"{begin[0]}{word}"), folder.with_target(f"{whole}-{word}")
    )
    return is_name_cut(names, partial(_is_there, client))


def _is_there(client: HttpClient, unused: Location) -> bool | None:
    """Return whether the server shows something at a name that never existed; None if it does not
    show that. Raises retryable StoreErrors."""
    properties = Properties(client)
    try:
        status, row = properties.refuse_folder(unused)
        if status in NO_METHOD:
            return DavObjects(client, properties).exists(unused)
    except (IsFolder, OtherRow):  # also the row of the root
        return True
    except StoreError as error:
        if error.retryable:
            raise
        return None
    if row is not None:
        return True
    return False if status in _MISSING else None


def _cut_error(folder: Location) -> KeyCollision:
    return KeyCollision(
        f"the server cuts the name of {folder}, and takes it for another one", hint=_HINT
    )


def _whole_fact(folder: Location) -> str:
    """Return the fact that a server keeps the name of a folder whole."""
    return f"whole folder {folder.path}"
