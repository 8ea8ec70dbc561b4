"""The objects of a store, and the journal of every change: its bytes and its writer.

Decided here: the true state. Never here: a store's claims about it. Safe between threads."""

from __future__ import annotations

import hashlib
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Who = Literal["before", "source", "relay", "other"]
REMOVED: Final = "its version was removed"
"""The cause of a change that no write or deletion made."""
LATE_SECONDS: Final = 0.25
"""Seconds for which a store shows an old object, or none, after a write."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """One stored object. `whole` is False for the rest of an upload that broke off."""

    data: bytes
    by: Who
    serial: int
    modified: float
    at: float
    whole: bool = True
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """A strong entity tag, without its quotes: unique for each write."""
        return f"{self.serial:x}-{hashlib.md5(self.data).hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class Event:
    """A change of the object of a name: from `old` to `held`, None for no object."""

    name: str
    by: Who
    old: Held | None
    held: Held | None
    why: str = ""
    asked_tag: str | None = None
    """Of a deletion or an overwrite: the If-Match of its request."""


@dataclass(kw_only=True)
class Upload:
    """A multipart upload: `state` is open, completed, aborted (by relay), or gone (by the store's
    own rule)."""

    id: str
    name: str
    by: Who
    begun: float
    parts: dict[int, bytes] = field(default_factory=dict)
    sent: list[int] = field(default_factory=list)
    stuck: set[int] = field(default_factory=set)
    """Numbers of parts that are never replaced."""
    state: str = "open"
    fields: Mapping[str, str] = field(default_factory=dict)


Fold = Callable[[str], str]
FOLDS: Final[Mapping[str, Fold]] = {
    "folds-case": str.casefold,
    "folds-folders": str.casefold,
    "folds-nfc": lambda name: unicodedata.normalize("NFC", name),
    "folds-trailing": lambda name: "/".join(part.rstrip(". ") for part in name.split("/")),
    "folds-plus": lambda name: name.replace("+", " "),
}
"""Habits that fold names, each with the folded form of a name."""


class Shelf:
    """The content of a store. Names with the same `fold` are one. With `one_spelling` a folder
    keeps the spelling of its first object; otherwise each object keeps its own."""

    def __init__(self, fold: Fold = str, one_spelling: bool = False) -> None:
        self._fold, self._one_spelling = fold, one_spelling
        self._held: dict[str, tuple[str, Held]] = {}
        self._old: dict[str, tuple[Held | None, float]] = {}
        self._serial = 0
        self.lock = threading.RLock()
        self.events: list[Event] = []
        self.uploads: dict[str, Upload] = {}
        self.folders: set[str] = {""}
        self.removed: list[tuple[str, Held]] = []
        """Versions that were removed for good, by their name and their id."""

    def key(self, name: str) -> str:
        """Return the folded form of a name."""
        return self._fold(name)

    def spelling_of(self, name: str) -> str:
        """Return a name with its folders as the store spells them. A folder's name ends with
        '/'."""
        folder, slash, last = name.rpartition("/")
        if not (self._one_spelling and slash):
            return name
        above = self.spelling_of(folder)
        known = (one for one in self.folders if self.key(one) == self.key(above))
        return f"{next(known, above)}/{last}"

    def has_folder(self, name: str) -> bool:
        """Return whether a folder of this name exists, without its final '/'."""
        return self.spelling_of(f"{name}/").removesuffix("/") in self.folders

    def get(self, name: str) -> Held | None:
        """Return the object of a name."""
        found = self._held.get(self.key(name))
        return found and found[1]

    def previous_object(self, name: str) -> tuple[Held | None, float] | None:
        """Return the object of a name before the last write, and the number of seconds since that
        write."""
        found = self._old.get(self.key(name))
        return found and (found[0], time.monotonic() - found[1])

    def settle(self) -> None:
        """End the staleness of all writes so far: readers no longer see older objects."""
        with self.lock:
            self._old.clear()

    def put(
        self,
        name: str,
        data: bytes,
        by: Who,
        *,
        modified: float | None = None,
        whole: bool = True,
        fields: Mapping[str, str] | None = None,
        why: str = "",
    ) -> Held:
        """Write an object, and its folders."""
        with self.lock:
            key, self._serial = self.key(name), self._serial + 1
            old = self.get(name)
            when = time.time() if modified is None else modified
            held = Held(
                data=data,
                by=by,
                serial=self._serial,
                modified=when,
                at=time.monotonic(),
                whole=whole,
                fields=fields or {},
            )
            shown = self._held[key][0] if key in self._held else self.spelling_of(name)
            self._held[key] = (shown, held)
            self._old[key] = (old, time.monotonic())
            self.events.append(Event(name=name, by=by, old=old, held=held, why=why))
            parts = self.spelling_of(name).split("/")[:-1]
            self.folders |= {"/".join(parts[: n + 1]) for n in range(len(parts))}
            return held

    def delete(self, name: str, by: Who, why: str = "", asked_tag: str | None = None) -> bool:
        """Remove an object; False if there is none."""
        with self.lock:
            found = self._held.pop(self.key(name), None)
            if found is None:
                return False
            self._old[self.key(name)] = (found[1], time.monotonic())
            self.events.append(
                Event(name=name, by=by, old=found[1], held=None, why=why, asked_tag=asked_tag)
            )
            return True

    def version(self, name: str, serial: int) -> Held | None:
        """Return a kept version of an object, independent of later writes."""
        with self.lock:
            gone = {held.serial for _, held in self.removed}
            mine = (
                event.held
                for event in self.events
                if event.held and self.key(event.name) == self.key(name)
            )
            return next(
                (held for held in mine if held.serial == serial and serial not in gone), None
            )

    def remove(self, name: str, held: Held, by: Who) -> None:
        """Remove one version for good; if it was the newest, the one before it shows again."""
        with self.lock:
            self.removed.append((name, held))
            current = self.get(name)
            if current is None or current.serial != held.serial:
                return
            # Go back in the history of the name to the newest version that is left, or to a marker.
            gone = {one.serial for _, one in self.removed}
            stack = [
                event
                for event in self.events
                if self.key(event.name) == self.key(name) and event.why != REMOVED
            ]
            kept = [
                event.held for event in stack if event.held is None or event.held.serial not in gone
            ]
            del self._held[self.key(name)]
            left = kept[-1] if kept else None  # None also for a marker
            if left is not None:
                self._held[self.key(name)] = (name, left)
            self.events.append(Event(name=name, by=by, old=current, held=left, why=REMOVED))

    def move(self, name: str, to: str, by: Who, size: int | None = None) -> bool:
        """Rename an object, and replace the one of that name; False if it does not exist. With
        `size` only its first bytes arrive."""
        with self.lock:
            found = self.get(name)
            if found is None:
                return False
            self.delete(name, by, why="moved")
            self.put(
                to,
                found.data[:size],
                # The bytes keep their writer: the judge asks who uploaded them.
                found.by,
                whole=found.whole,
                fields=found.fields,
                why=f"moved from {name}",
            )
            return True

    def names(self) -> list[str]:
        """Return the names of all objects, in the order of their bytes."""
        with self.lock:
            return sorted((shown for shown, _ in self._held.values()), key=str.encode)
