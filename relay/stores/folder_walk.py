"""List trees of stores whose protocol lists one folder at a time: HTTP indexes and WebDAV.

Decided here: the order of the folders, and whether a folder that can't be listed fails alone or
with the whole tree. Never here: how a folder is listed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Final

from relay.errors import ProtocolViolation, RelayError, Unauthenticated, UnsafeKey
from relay.stores.interfaces import Enters, Entry
from relay.stores.listing_retries import ListingRetries

DEEPEST: Final = 100
"""Maximum depth of a listing: a server with circular links would have no end."""
BARREN: Final = 100_000
"""Maximum number of folders in a row without an object: circular links that branch would have no
end."""
ALIKE: Final = 3
"""Maximum number of folders above a folder that list the same content, including an object. With
one more, it counts as a circle: circular links that branch would have no end otherwise."""
WAITING_CHARACTERS: Final = 64 << 20
"""Maximum length of the names of all folders that wait to be listed, in characters."""

Lists = Callable[[str], Generator[Entry, None, None]]
"""Lists one folder of a tree once, by its name in the tree: '' is the tree itself, other names end
in '/'."""


def walk_folders(
    lists: Lists,
    patience: Callable[[], ListingRetries],
    recursive: bool,
    enters: Enters | None = None,
) -> Iterator[Entry]:
    """Yield the entries of a tree, or without `recursive` of its root folder; folders for which
    `enters` returns False are left out. Each folder has its own retries (`patience`).

    A folder that can't be listed is an entry with an error, if the root can still be listed. Raises
    the errors of listing the root, and ProtocolViolation after BARREN folders without an object."""
    waiting = [""]
    characters = 0
    barren = 0
    above = _Above()
    while waiting:
        if barren > BARREN:
            raise ProtocolViolation(f"{BARREN} folders in a row hold no object", hint=_CIRCLE)
        folder, barren = waiting.pop(), barren + 1
        characters -= len(folder)
        below: list[str] = []
        above.enter(folder)
        try:
            for entry in patience().entries(partial(lists, folder)):
                above.note(entry)
                entry = entry.below(folder) if folder else entry
                if not recursive or not entry.is_listed_further:
                    barren = 0
                    yield entry
                    continue
                if enters is not None and not enters(entry.name):
                    continue
                too_much = _too_much(entry.name, characters)
                if too_much is not None:  # it does not reset `barren`: it is not an object
                    yield replace(entry, error=too_much)
                    continue
                below.append(entry.name)
                characters += len(entry.name)
        except RelayError as error:
            if not folder or _is_for_all_folders(error, lists):
                raise
            name = folder.rstrip("/") if isinstance(error, UnsafeKey) else folder
            yield Entry(name, error=error, judged_as=(folder,))
        if below and above.is_circle():
            yield from (
                Entry(name, error=ProtocolViolation(_ALIKE, hint=_CIRCLE)) for name in below
            )
            characters -= sum(map(len, below))
            continue
        # The last one is listed next: folders come depth first, in the order of their listing.
        waiting += reversed(below)


class _Above:
    """A hash of the content of each folder above the one that is listed."""

    def __init__(self) -> None:
        self._listed: list[tuple[str, int]] = []
        self._folder, self._mark, self._objects = "", 0, 0

    def enter(self, folder: str) -> None:
        """Start another folder."""
        while self._listed and not folder.startswith(self._listed[-1][0]):
            self._listed.pop()
        self._folder, self._mark, self._objects = folder, 0, 0

    def note(self, entry: Entry) -> None:
        """Add an entry of the folder."""
        self._mark = hash((self._mark, entry.name, entry.size, entry.etag, entry.modified))
        if not entry.is_listed_further:
            self._objects += 1

    def is_circle(self) -> bool:
        """Finish the folder; return whether ALIKE folders above it or more have the same
        content."""
        alike = sum(mark == self._mark for _, mark in self._listed)
        self._listed.append((self._folder, self._mark))
        return bool(self._objects) and alike >= ALIKE


def _too_much(name: str, characters: int) -> RelayError | None:
    """Return why a folder is not listed, or None."""
    if name.count("/") > DEEPEST:
        return ProtocolViolation(f"the folder is more than {DEEPEST} levels deep", hint=_CIRCLE)
    if characters + len(name) > WAITING_CHARACTERS:
        return ProtocolViolation(
            "more folders wait to be listed than relay keeps in memory", hint=_MANY
        )
    return None


_ALIKE = f"the folder above it lists the same as {ALIKE} folders above that"
_CIRCLE = (
    "If the source has circular links, nothing is missing; otherwise move this folder by itself."
)
_MANY = "Move this folder by itself."


def _is_for_all_folders(error: RelayError, lists: Lists) -> bool:
    """Return whether the failure of one folder is one of the whole tree: an error of relay, or one
    that listing the root has now too."""
    if error.side == "relay":
        return True
    if not (error.retryable or isinstance(error, Unauthenticated)):
        return False
    try:
        with closing(lists("")) as entries:
            next(entries, None)
    except RelayError:
        return True
    return False
