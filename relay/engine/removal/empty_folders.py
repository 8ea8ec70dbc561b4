"""Folders of a mirror's source that have nothing.

Theory of operation. An unreadable folder, a mount that was lost and a share that was revoked look
like an empty folder, or like none, at many servers. So the source is asked once for the content of
each folder in which the destination has more.

Decided here: which folders are empty. Never here: what follows (`mirror_removal.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from relay.errors import NotFound
from relay.location import Location
from relay.stores.interfaces import StoreProvider
from relay.wire.watchdog import Watchdog

FOLDERS: Final = 4096
"""Number of folders whose answers are kept."""


@dataclass(eq=False)
class EmptyFolders:
    """The folders of one tree."""

    stores: StoreProvider
    root: Location
    meter: Callable[[], Watchdog]
    _empty: dict[str, bool] = field(default_factory=dict, init=False)

    def is_empty(self, folder: str) -> bool:
        """Return whether a folder of the tree ('a/b/') has nothing, or does not exist; False for
        the tree itself. Raises StoreError."""
        if not folder:
            return False
        found = self._empty.get(folder)
        if found is None:
            if len(self._empty) > FOLDERS:
                self._empty.clear()
            found = self._empty[folder] = self._ask(folder)
        return found

    def _ask(self, folder: str) -> bool:
        place = self.root.below(folder)
        try:
            listed = self.stores.source(place, self.meter()).list(place, False)
            return all(entry.error is not None for entry in listed)
        except NotFound:
            return True
