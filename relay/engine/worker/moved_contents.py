"""The contents that this process has moved, or moves now: each is moved once, with `once`.

Theory of operation. The first object of a content is moved. Others of the same content are handed
back meanwhile, and copied by the destination once the first is verified. If it fails, the next one
is the first. The number of contents that are remembered has a limit; a content that was forgotten
is moved once more, and so is one that another process has moved.

An ETag that looks like an MD5 may be made of something else, such as a time and a size, which many
objects of one server have in common. So the MD5 of the bytes is computed while a first object
moves. Only a source whose ETags are known to be the MD5 of the bytes has duplicates by its ETags.

Decided here: which object of a content is moved. Never here: which objects have equal content
(`engine/transfer/donor.py`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from time import monotonic
from typing import Final

from relay.engine.transfer.donor import EqualContent
from relay.receipt import Receipt, State

MOST_CONTENTS: Final = 50_000
"""Number of contents that are remembered, some 700 bytes each."""
MOST_MIGRATIONS: Final = 1000
"""Number of migrations of whose ETags it is remembered what they are."""
LEAST_WAIT, MOST_WAIT = 1.0, 60.0
"""Bounds of the seconds until an object asks again whether the first of its content has moved."""


class Turn(Enum):
    """What an object without a donor does."""

    FIRST = "first"
    """It is moved."""
    WAIT = "wait"
    """Another object of its content is being moved: `MovedContents.seconds_to_wait`."""


@dataclass(frozen=True)
class MovedObject:
    """An object that was verified."""

    name: str
    receipt: Receipt


_Key = tuple[str, EqualContent]
_Name = tuple[str, str]


@dataclass(eq=False, kw_only=True)
class MovedContents:
    """The contents of this process's migrations, by the migration's id and the content."""

    most: int = MOST_CONTENTS
    clock: Callable[[], float] = monotonic
    _first: dict[_Key, tuple[_Name, float]] = field(default_factory=dict)
    """The objects that are moved as the first of their content, and since when."""
    _entered: dict[_Name, _Key] = field(default_factory=dict)
    """All objects whose transfers run, by the migration's id and the name."""
    _moved: OrderedDict[_Key, MovedObject] = field(default_factory=OrderedDict)
    _has_md5s: OrderedDict[str, bool] = field(default_factory=OrderedDict)
    """Whether the ETags of a migration's source are the MD5 of the bytes, where that is known."""

    def enter(self, migration: str, name: str, content: EqualContent) -> Turn | MovedObject:
        """Return the object to copy, or what this object does. `leave` follows in any case."""
        key = (migration, content)
        if content.is_of_etag and self._has_md5s.get(migration) is False:
            return Turn.FIRST
        found = self._moved.get(key)
        if found is None and key in self._first:
            return Turn.WAIT
        self._entered[migration, name] = key
        if found is not None:
            self._moved.move_to_end(key)
            return found
        self._first[key] = (migration, name), self.clock()
        return Turn.FIRST

    def seconds_to_wait(self, migration: str, content: EqualContent) -> float:
        """Return when an object should ask again: as long from now as the first one of its content
        has been moved, so that a large object is asked about a few times only."""
        first = self._first.get((migration, content))
        since = self.clock() if first is None else first[1]
        return min(max(LEAST_WAIT, self.clock() - since), MOST_WAIT)

    def note_verified(self, migration: str, name: str, receipt: Receipt | None) -> None:
        """Note that the transfer of an object succeeded: if it was verified, others of its content
        are copied from it."""
        key = self._entered.get((migration, name))
        if key is None or receipt is None or receipt.state is not State.VERIFIED:
            return
        if not receipt.digests or not self._is_content_sure(key, receipt):
            return
        self._moved[key] = MovedObject(name, receipt)
        if len(self._moved) > self.most:
            self._moved.popitem(last=False)

    def _is_content_sure(self, key: _Key, receipt: Receipt) -> bool:
        """Return whether the bytes that were moved have the digest of their content. An object that
        was moved in parts has no MD5: others of its source decide."""
        migration, content = key
        if not content.is_of_etag:
            return True
        md5 = receipt.digests.get("md5")
        if md5 is not None:
            is_md5 = md5 == content.digest and self._has_md5s.get(migration, True)
            self._has_md5s[migration] = is_md5
            if len(self._has_md5s) > MOST_MIGRATIONS:
                self._has_md5s.popitem(last=False)
        return self._has_md5s.get(migration, False)

    def leave(self, migration: str, name: str) -> None:
        """Forget that the transfer of an object runs."""
        key = self._entered.pop((migration, name), None)
        first = None if key is None else self._first.get(key)
        if key is not None and first is not None and first[0] == (migration, name):
            del self._first[key]
