"""Local paths with several names: when two of them are one file or one folder, and which links lead
out of a tree.

Never here: what follows (`engine/migration_request.py`, `engine/transfer/local_links.py`)."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from relay.caseless import caseless_form
from relay.location import Location
from relay.process.native_threads import in_native_thread
from relay.stores.local_areas import area_of
from relay.stores.local_locations import path_of


def is_nested(one: Location, other: Location) -> bool:
    """Return whether one of two folders contains the other, or is the other. Device and inode
    numbers are compared, since links and bind mounts give one folder several names. For a folder
    that does not exist yet, the folders above it are compared."""
    paths = path_of(one), path_of(other)
    area = area_of(one, other)
    ours, theirs = in_native_thread(lambda: tuple(map(_ancestors, paths)), area)
    if in_native_thread(lambda: _are_folded(*paths), area):
        return True
    return any(
        first is not None and first in others
        for first, others in ((ours[0], theirs), (theirs[0], ours))
    )


def same_file(one: Location, other: Location) -> bool:
    """Return whether two locations are the same file, also through hard links, symbolic links and
    mounts."""
    paths = path_of(one), path_of(other)
    area = area_of(one, other)
    ours, theirs = in_native_thread(lambda: tuple(map(_identity, paths)), area)
    if in_native_thread(lambda: _are_folded(*paths, whole=True), area):
        return True
    return ours is not None and ours == theirs


@dataclass(frozen=True)
class LinkOut:
    """A link that leads out of a place in a tree: its path `link` in the tree, its `target`, the
    place's real path `there`, and that of the `tree`. All are percent-encoded, and all but `link`
    have their links resolved."""

    link: str
    target: str
    there: str
    tree: str


def leads_into(place: Location, tree: Location, folder: Location) -> bool:
    """Return whether links within a `tree` lead from a place to another one in a `folder`. Links in
    the path of the tree itself do not count."""
    paths = path_of(place), path_of(tree), path_of(folder)
    return in_native_thread(lambda: _leads_into(*paths), area_of(place, tree, folder))


def link_out_of(place: Location, tree: Location) -> LinkOut | None:
    """Return the link by which a place in a `tree` leads elsewhere, or None."""
    paths = path_of(place), path_of(tree)
    return in_native_thread(lambda: _link_out(*paths), area_of(place, tree))


def is_at(place: Location, there: str) -> bool:
    """Return whether the real path of a place is `there` (as in LinkOut)."""
    path = path_of(place)
    real = in_native_thread(lambda: os.path.realpath(path), area_of(place))
    return quote(os.fsencode(real)) == there


def _leads_into(place: Path, tree: Path, folder: Path) -> bool:
    if not _has_link(place, tree):
        return False
    there, own = _real_paths(place, tree)
    return there != own and Path(there).is_relative_to(os.path.realpath(folder))


def _link_out(place: Path, tree: Path) -> LinkOut | None:
    if not _has_link(place, tree):
        return None
    there, own = _real_paths(place, tree)
    if there == own:
        return None
    link = next((path for path in (place, *place.parents) if path.is_symlink()), place)
    paths = (link.relative_to(tree), os.path.realpath(link), there, os.path.realpath(tree))
    return LinkOut(*(quote(os.fsencode(path)) for path in paths))


def _has_link(place: Path, tree: Path) -> bool:
    """Return whether a name of a place below its tree is a link. Most places have none: resolving
    both whole paths would take a sixth of the CPU of a small object."""
    path = str(tree)
    for name in place.relative_to(tree).parts:
        path = f"{path}/{name}"
        if os.path.islink(path):
            return True
    return False


def _real_paths(place: Path, tree: Path) -> tuple[str, str]:
    """Return the real path of a place, and the path that it would have without links in its
    tree."""
    return os.path.realpath(place), os.path.join(os.path.realpath(tree), place.relative_to(tree))


def _ancestors(path: Path) -> list[tuple[int, int] | None]:
    """Return the identities of a folder and of each folder above it; None for one that can't be
    inspected."""
    with suppress(OSError, RuntimeError):  # a loop of links
        path = path.resolve()
    return [_identity(folder) for folder in (path, *path.parents)]


def _are_folded(one: Path, other: Path, whole: bool = False) -> bool:
    """Return whether one of two paths contains the other, or is the same, by names that share a
    caseless form. A FUSE file system may give one file a different inode number for each such name
    (fuse(8), `use_ino`), so identities miss it. With `whole`, say only if they are the same."""
    with suppress(OSError, RuntimeError):  # a loop of links
        one, other = one.resolve(), other.resolve()
    if whole and len(one.parts) != len(other.parts):
        return False
    pairs = list(zip(one.parts, other.parts, strict=False))
    # Equal paths are left to the comparison of identities.
    if one.parts == other.parts:
        return False
    if any(caseless_form(first) != caseless_form(second) for first, second in pairs):
        return False
    return all(
        first == second
        for first, second in zip(_listed_names(one), _listed_names(other), strict=False)
    )


def _listed_names(path: Path) -> list[str]:
    """Return the names of a path as they are listed in their folders."""
    names: list[str] = []
    for name in path.parts:
        listed: list[str] = []
        with suppress(OSError):
            if names and os.path.lexists(Path(*names, name)):
                listed = os.listdir(Path(*names))
        if listed and name not in listed:
            form = caseless_form(name)
            name = next((found for found in listed if caseless_form(found) == form), name)
        names.append(name)
    return names


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (OSError, RuntimeError):
        return None
    return found.st_dev, found.st_ino
