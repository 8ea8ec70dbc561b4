"""Detect a server that cuts or decodes a name once more: another object answers for it then.

Theory of operation. A proxy that decodes a path and does not encode it again (nginx with
`proxy_pass http://backend$uri`, Apache's `[P]` without `B`) asks for the object `a` in place of
`a?b`, and for `a b` in place of `a%20b`. There a name that never existed, `a?` with random
characters or `%61%20b`, shows the same object. If nothing has that name, nothing can be overwritten
either, and the same request once the object itself is there proves that names are kept whole. That
is remembered for the folder, and for the delimiter or the '%'.

Decided here: whether a name is cut, or decoded twice. Never here: names that a store folds
(`folded_names.py`), the cut of a MOVE (`stores/webdav/moves.py`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote
from uuid import uuid4

from relay.engine.inspection import inspect_object
from relay.errors import KeyCollision, NotFound, Rejected, Side, StoreError, Unavailable
from relay.location import Location
from relay.stores.http_reads import IsFolder
from relay.stores.interfaces import Destination, ObjectInfo, Source
from relay.stores.unused_names import OBJECT_DELIMITER, UnusedNames, is_name_cut
from relay.wire.capabilities import CapabilityCache

STORES: Final = frozenset({"http", "webdav", "nextcloud"})
"""Stores whose names are paths of URLs, and behind any proxy."""
_TWICE: Final = re.compile("%25([0-9a-f]{2})", re.I)
"""A character that is percent-encoded in the name itself."""
_LETTERS: Final = re.compile("%(?:25)*[0-9a-f]{2}|([0-9a-z])", re.I)
"""A percent-encoded character, or (the group) a plain one, which no writer encodes."""
_HINT: Final = (
    "Let the server, or the proxy in front of it, pass the path on as it came (in nginx: proxy_pass"
    " without $uri), or name the server behind it; else rename the object."
)


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """One way to cut a name, or to decode it."""

    fact: str
    """The fact that the server does not do that in this folder."""
    rest: Location
    """The cut name."""
    unused: UnusedNames
    """The first of them is cut to `rest`."""
    is_twice: bool = False
    """True if the server does not cut the name, but decodes it twice."""


class CutNames:
    """The check of the name of one `place`, at its `store`; facts are kept in `memory`."""

    def __init__(
        self, store: Source | Destination, place: Location, memory: CapabilityCache, side: Side
    ) -> None:
        self._store, self._place, self._memory, self._side = store, place, memory, side
        self._free: list[str] = []
        self.is_free = False
        """True if the last check found that no object has the cut name."""

    def unproved_rests(self) -> list[Location]:
        """Return the cut names of the place, without those to which the server is known not to cut
        it."""
        if "%" not in self._place.path:
            return []
        origin = self._place.origin
        return [cut.rest for cut in _cuts_of(self._place) if not self._memory.has(origin, cut.fact)]

    def refuse(self) -> None:
        """Raise KeyCollision, of a source Rejected, if another object answers for the place. Raises
        retryable StoreErrors."""
        if "%" not in self._place.path or self._place.store not in STORES:
            return
        self._free, self.is_free = [], True
        for cut in _cuts_of(self._place):
            if self._memory.has(self._place.origin, cut.fact):
                continue
            is_cut = is_name_cut(cut.unused, self._is_there)
            if is_cut:
                raise self._error(cut)
            if is_cut is False:
                self._free.append(cut.fact)
            else:
                self.is_free = False

    def learn(self) -> None:
        """Remember that the server keeps the name whole, since the object was there during the
        check."""
        for fact in self._free:
            self._memory.learn(self._place.origin, fact)

    def learn_if_there(self) -> None:
        """As `learn`, of an object that was there before the check. Raises Unavailable if it is
        gone: then the check shows nothing. Raises retryable StoreErrors."""
        is_there = self._is_there(self._place, folders=None) if self._free else None
        if is_there is False:
            raise Unavailable(f"{self._place} was there a moment ago, and is gone", side=self._side)
        if is_there:
            self.learn()

    def _is_there(self, place: Location, folders: bool | None = True) -> bool | None:
        """Return whether a place has an object, `folders` if a folder is there; None if the server
        does not show that. Raises retryable StoreErrors."""
        try:
            found = inspect_object(self._store, place)
        except NotFound:
            return False
        except IsFolder:
            return folders
        except StoreError as error:
            if error.retryable:
                raise
            return None
        return True if isinstance(found, ObjectInfo) else None

    def _error(self, cut: _Cut) -> Rejected:
        kind = Rejected if self._side == "source" else KeyCollision
        does, how = ("decodes", " twice") if cut.is_twice else ("cuts", "")
        return kind(
            f"the server {does} the name of {self._place}{how}, and takes it for {cut.rest}",
            side=self._side,
            hint=_HINT,
        )


def _cuts_of(place: Location) -> Iterator[_Cut]:
    """Yield the ways to cut a name: at the first delimiter of each kind, and its second
    decoding."""
    path, query = place.path, place.target[len(place.path) :]
    firsts = {found[0].lower(): found for found in reversed([*OBJECT_DELIMITER.finditer(path)])}
    for kind, found in firsts.items():
        before, after = path[: found.start()], path[found.end() :]
        # A parameter ends with its segment, all else with the URL.
        after = "".join(after.partition("/")[1:]) if kind == "%3b" else ""
        word = uuid4().hex[:8]
        yield _Cut(
            fact=f"whole paths {before.rpartition('/')[0]}/ {kind}",
            rest=place.with_target(before + after + query),
            unused=UnusedNames(
                place.with_target(f"{before}{found[0]}{word}{after}{query}"),
                place.with_target(f"{before}-{word}{after}{query}"),
            ),
        )
    again = _second_decoding(place)
    if again is not None:
        yield again


def _second_decoding(place: Location) -> _Cut | None:
    """Return the second decoding of a name that has a percent-encoded character, and a letter or
    digit, which the unused name has percent-encoded. Else return None."""
    path, query = place.path, place.target[len(place.path) :]
    first = _TWICE.search(path)
    if first is None:
        return None
    before, after = path[: first.start()], path[first.end() :]
    folder = f"{before.rpartition('/')[0]}/"
    letter = next((found for found in _LETTERS.finditer(path, len(folder)) if found[1]), None)
    if letter is None:
        return None
    at, code = letter.start(), ord(letter[1])
    return _Cut(
        fact=f"whole paths {folder} %25",
        rest=place.with_target(_TWICE.sub(_decode_character, path) + query),
        unused=UnusedNames(
            place.with_target(f"{path[:at]}%25{code:x}{path[at + 1 :]}{query}"),
            place.with_target(f"{before}-{uuid4().hex[:8]}{after}{query}"),
        ),
        is_twice=True,
    )


def _decode_character(found: re.Match[str]) -> str:
    """Return a character as a URL has it, that is percent-encoded twice."""
    return quote(bytes.fromhex(found[1]), safe="")
