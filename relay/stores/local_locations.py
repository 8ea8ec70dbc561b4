"""Local paths as Locations.

Decided here: which paths a Location may have, and how it prints. Never here: how a path below the
allowed folders is opened (`local_folders.py`)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from relay.errors import InvalidURL, LocalDenied
from relay.location import Location
from relay.stores.interfaces import check_segments
from relay.stores.local_folders import AllowedFolders

PATH_BYTES = 4096
"""Maximum length of a path in Linux, and so more folders than any path has."""


@dataclass(frozen=True)
class LocalAccount:
    """The local file system; on a server, only the folders that its operator allowed."""

    store: str = "local"
    folders: AllowedFolders = AllowedFolders()
    owner: str = ""

    def printed_form(self, path: str) -> str:
        """Return the path for people, and for tables that take text alone: bytes that are not UTF-8
        become escapes."""
        return unquote_to_bytes(path).decode("utf-8", "backslashreplace")

    def check(self, path: str) -> None:
        """As Account.check."""
        check_segments(path, PATH_BYTES)


def local_location(
    path: Path,
    *,
    destination: bool,
    folders: AllowedFolders = AllowedFolders(),  # noqa: B008 - frozen
) -> Location:
    """Return the Location of an absolute path, with the links of its folder resolved. The target of
    an existing folder ends in '/'.

    Raises InvalidURL for a path with a loop of links, and for a destination that is a pipe, a
    socket or a device; LocalDenied for a path that is not below `folders`."""
    try:
        # A link at the last name of a destination is not resolved here: `AllowedFolders.target`
        # follows it when the upload begins, and again at its end.
        named = destination and path.name not in ("", "..")
        resolved = path.parent.resolve() / path.name if named else path.resolve()
    except RuntimeError:
        raise InvalidURL(
            "the path leads through a loop of symbolic links", hint="Correct the link."
        ) from None
    try:
        folders.resolve(resolved)
    except OSError:
        raise LocalDenied("this folder of the server's own machine is not allowed") from None
    target = quote(os.fsencode(resolved), safe="/")
    # os.path.exists and isfile raise nothing, unlike the methods of Path.
    if destination and os.path.exists(resolved) and not os.path.isfile(resolved):
        if not os.path.isdir(resolved):
            raise InvalidURL(
                "the destination is a pipe, a socket or a device", hint="Name a file, or a folder."
            )
        target = target.removesuffix("/") + "/"
    return Location("file", "", 0, target, account=LocalAccount(folders=folders))


def folders_of(location: Location) -> AllowedFolders:
    """Return the allowed folders of a Location; none for a Location that is not local."""
    return (
        location.account.folders
        if isinstance(location.account, LocalAccount)
        else AllowedFolders(())
    )


def path_of(location: Location) -> Path:
    """Return the path that a Location names."""
    return Path(os.fsdecode(unquote_to_bytes(location.path)))
