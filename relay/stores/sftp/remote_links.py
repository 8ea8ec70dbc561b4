"""Symbolic links at an SFTP destination: which of them an upload of a tree may not go through.

Theory of operation. The server follows links by itself. A link below the destination's tree may
lead to another object of the tree, into the source, or to the target of another link: two objects
would become one, and a skip would take one for the other. So each name of a place below the tree is
inspected by an LSTAT of its own, all sent together, and a link is refused wherever it leads. Links
in the path of the tree itself are followed. Where both sides are one server, REALPATH shows whether
the two are one place.

Decided here: which links are refused. Never here: how one is followed (`remote_files.py`)."""

from __future__ import annotations

import posixpath
from typing import Final

from relay.errors import (
    KeyCollision,
    NotFound,
    PermissionDenied,
    Rejected,
    SameObject,
    Unavailable,
)
from relay.location import Location
from relay.stores.sftp.account import HOME, path_of_file
from relay.stores.sftp.remote_files import RemoteFiles

_HINT: Final = (
    "Remove the link at the destination, or move to the place to which it leads by a migration of"
    " its own."
)


def refuse_links_below(files: RemoteFiles, place: Location, tree: Location) -> None:
    """Raise KeyCollision if a name of a place below its tree is a link, also one that leads
    nowhere. Raises StoreError."""
    what = str(place)
    asked = [files.send_stat(path, follow=False) for path in _paths_below(place, tree)]
    for reply in asked:
        try:
            found = files.attributes(reply, what)
        except NotFound:
            continue
        if found.is_link:
            raise KeyCollision(
                f"{place} is a symbolic link, or below one, which may lead to another object",
                side=files.side,
                hint=_HINT,
            )


def refuse_one_place(files: RemoteFiles, source: Location, place: Location) -> None:
    """Raise SameObject if the links of the server make a source and a destination one place, or,
    where they are folders, one of them a part of the other. Raises ConnectionLost and the like."""
    if not _are_seen_by_one(source, place):
        return
    ours, theirs = (_real_path(files, path_of_file(one), str(one)) for one in (source, place))
    if ours is None or theirs is None:
        return
    is_tree = place.path.endswith("/")
    if ours == theirs or (is_tree and (_is_below(ours, theirs) or _is_below(theirs, ours))):
        raise SameObject(
            f"{source} and {place} are one place of the server, or one contains the other",
            hint="Give a destination that is neither above nor below the source.",
        )


def _paths_below(place: Location, tree: Location) -> list[bytes]:
    """Return the path of each name of a place below its tree."""
    path, top = path_of_file(place), path_of_file(tree)
    names = path.split(b"/")
    known = 0 if top == b"." else len(top.rstrip(b"/").split(b"/"))
    return [b"/".join(names[: count + 1]) for count in range(known, len(names))]


def _are_seen_by_one(source: Location, place: Location) -> bool:
    """Return whether one session can resolve both paths: one server, and below a user's own folder
    also one user."""
    if (source.store, source.host, source.port) != (place.store, place.host, place.port):
        return False
    owners = [one.account.owner if one.account else "" for one in (source, place)]
    return owners[0] == owners[1] or not source.path.startswith(HOME)


def _real_path(files: RemoteFiles, path: bytes, what: str) -> bytes | None:
    """Return a path without links, also if its last names do not exist yet; None if the server does
    not show it."""
    rest = b""
    while True:
        try:
            return posixpath.join(files.real_path(path or b".", what), rest).rstrip(b"/")
        except NotFound:
            if path in (b"", b".", b"/"):
                return None
            path, name = posixpath.split(path)
            rest = posixpath.join(name, rest)
        except (PermissionDenied, Rejected, Unavailable):
            return None


def _is_below(one: bytes, other: bytes) -> bool:
    return one.startswith(other + b"/")
