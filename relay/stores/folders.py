"""List trees of stores whose protocol lists one folder at a time: HTTP indexes and WebDAV.

Decided here: the order of the folders, and whose failure it is that one can't be listed. Never
here: how one is listed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Final

from relay.errors import ProtocolViolation, RelayError, Unauthenticated, UnsafeKey
from relay.stores.interfaces import Entry
from relay.stores.listing_retries import ListingRetries

DEEPEST: Final = 100
"""Folders within folders that a listing follows: a server whose links lead in a circle would have
no end."""
BARREN: Final = 100_000
"""So many folders in a row may hold no object: of links that branch and lead in a circle no end
would be seen."""
ALIKE: Final = 3
"""So many folders, each within the one before, may list the same, objects included, and one more:
then it is taken for a circle, which links that branch would have no end of otherwise."""
WAITING_CHARACTERS: Final = 64 << 20
"""The names of the folders that wait to be listed may have so many characters in all."""

Lists = Callable[[str], Generator[Entry, None, None]]
"""Lists one folder of a tree, by its name in it ('' is the tree itself, others end in '/'),
once."""


def walk_folders(
    lists: Lists, patience: Callable[[], ListingRetries], recursive: bool
) -> Iterator[Entry]:
    """Yield what a tree holds, or its first folder alone, each folder listed with a `patience` of
    its own.

    A folder below that can't be listed is an entry with its error, where the tree itself still can.
    Raises what listing the tree itself raises, and ProtocolViolation where folder after folder
    holds no object."""
    waiting, characters, barren, above = [""], 0, 0, _Above()
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
                entry = replace(entry, name=folder + entry.name) if folder else entry
                if not recursive or not entry.is_listed_further:
                    barren = 0
                    yield entry
                elif (
                    too_much := _too_much(entry.name, characters)
                ) is not None:  # and does not count for an object
                    yield replace(entry, error=too_much)
                else:
                    below.append(entry.name)
                    characters += len(entry.name)
        except RelayError as error:
            if not folder or _is_for_all_folders(error, lists):
                raise
            yield Entry(folder.rstrip("/") if isinstance(error, UnsafeKey) else folder, error=error)
        if below and above.is_circle():
            yield from (
                Entry(name, error=ProtocolViolation(_ALIKE, hint=_CIRCLE)) for name in below
            )
            characters -= sum(map(len, below))
            continue
        waiting += reversed(below)


class _Above:
    """The folders above the one that is listed, as far as they are remembered: what each of them
    listed."""

    def __init__(self) -> None:
        self._listed: list[tuple[str, int]] = []
        self._folder, self._mark, self._objects = "", 0, 0

    def enter(self, folder: str) -> None:
        """Another folder is listed."""
        while self._listed and not folder.startswith(self._listed[-1][0]):
            self._listed.pop()
        self._folder, self._mark, self._objects = folder, 0, 0

    def note(self, entry: Entry) -> None:
        """It lists this."""
        self._mark = hash((self._mark, entry.name, entry.size, entry.etag, entry.modified))
        self._objects += not entry.is_listed_further

    def is_circle(self) -> bool:
        """Say, when it was listed, if it lists the same as so many folders above it; else remember
        it."""
        alike = sum(mark == self._mark for _, mark in self._listed)
        self._listed.append((self._folder, self._mark))
        return bool(self._objects) and alike >= ALIKE


def _too_much(name: str, characters: int) -> RelayError | None:
    """Return why a folder is not listed, or None."""
    if name.count("/") > DEEPEST:
        return ProtocolViolation(f"the folder is more than {DEEPEST} levels deep", hint=_CIRCLE)
    if characters + len(name) > WAITING_CHARACTERS:
        return ProtocolViolation(
            "more folders wait to be listed than relay keeps in mind", hint=_MANY
        )
    return None


_ALIKE = f"the folder above it lists the same as {ALIKE} folders above that"
_CIRCLE = (
    "If the source's links lead in a circle, nothing is missing; else move this folder by itself."
)
_MANY = "Move this folder by itself."


def _is_for_all_folders(error: RelayError, lists: Lists) -> bool:
    """Say if a folder's failure is that of the whole tree: ours, or one that the tree itself has by
    now as well."""
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
