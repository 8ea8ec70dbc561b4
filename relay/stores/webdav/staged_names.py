"""Choose the temporary name of an upload, which a server may refuse.

Decided here: which temporary name is tried next. Never here: what the names are (`interfaces.py`),
when the object gets its final name (`moves.py`)."""

from __future__ import annotations

import re
import uuid
from typing import Final
from urllib.parse import quote, unquote

from relay.errors import RelayError, StoreError
from relay.location import Location
from relay.stores.interfaces import temporary_name, temporary_names
from relay.wire.capabilities import CapabilityCache

_NAME_REFUSED = frozenset({400, 403, 404, 405, 406, 409, 415, 422, 451})
"""Statuses of an upload whose name the server may have reserved."""

_ACCEPTED: Final = tuple(f"temporary names {which}" for which in range(3))
"""The facts that a server accepts each kind of temporary name."""
_CUT = re.compile(r"(%3f|%3b(?=[^/]*$)).*", re.I)
"""A path from its first encoded '?', or the first encoded ';' of its last segment. A server that
decodes a URL before it parses it ends the path there, since a query or a parameter follows."""


class StagedNames:
    """The temporary names of one transfer's uploads. `first` is the index of the name that is tried
    first.

    It keeps the index of the last upload's name. The memory is shared: another transfer may have
    learned a different one meanwhile."""

    def __init__(self, memory: CapabilityCache, first: int) -> None:
        self._memory, self._first = memory, first
        self._given: int | None = None

    def choose(self, location: Location, token: str | None) -> Location:
        """Return the staged location of an upload, with a temporary name that the server takes."""
        self._given = which = self._which(location)
        token = token or uuid.uuid4().hex
        name = _names_of(location, token)[which] if which else temporary_name(token)
        return _staged_location(location, name)

    def spare(self, location: Location, token: str) -> Location:
        """Return another of the staged locations of an upload than `choose` returned last."""
        which = 2 if self._given == 1 else 1
        return _staged_location(location, _names_of(location, token)[which])

    def _which(self, location: Location) -> int:
        """Return the index of the temporary name for an upload: one that the server accepted
        before, or the next one after a refusal."""
        memory, origin = self._memory, location.origin
        # The last kind first: a fact about it was learned after the kinds before it failed.
        for which in (2, 1, 0):
            if memory.has(origin, _ACCEPTED[which]) or memory.has(
                origin, _refused_fact(which, location)
            ):
                return which
        return self._first

    def explain_refusal(self, location: Location, error: RelayError) -> RelayError:
        """Return the refusal of an upload. It is made retryable, with the next temporary name, if
        the name may be the cause."""
        if error.retryable:
            return error  # it is not about the name; the same one is tried again
        memory = self._memory
        which = self._which(location) if self._given is None else self._given
        # `tried`: an earlier kind was refused for this very object. So its name may be the cause
        # again, although the server accepted this kind for others.
        tried = memory.forget(location.origin, _refused_fact(which, location))
        refused = isinstance(error, StoreError) and error.store_status in _NAME_REFUSED
        if refused and which < 2 and (tried or not memory.has(location.origin, _ACCEPTED[which])):
            memory.learn(location.origin, _refused_fact(which + 1, location))
            error.retryable = True
            error.message = f"{error.message}, with a temporary name; the next one is tried"
        return error

    def avoid_last(self, location: Location) -> bool:
        """Let the next upload to `location` have another temporary name: the object with the last
        one is kept, or the server may still write there. Return False if no other name is left."""
        which = self._which(location) if self._given is None else self._given
        if which < 2:
            self._memory.learn(location.origin, _refused_fact(which + 1, location))
            self._memory.learn(location.origin, _avoided_fact(location))
        return which < 2

    def accept(self, location: Location) -> None:
        """Remember that the server took the temporary name of the upload to `location`. After
        `avoid_last` that holds for this object alone: no earlier name was refused."""
        memory, origin, which = self._memory, location.origin, self._which(location)
        if not memory.has(origin, _avoided_fact(location)):
            memory.forget(origin, _refused_fact(which, location))
            memory.learn(origin, _ACCEPTED[which])


def staged_locations(location: Location, token: str) -> tuple[Location, ...]:
    """As Destination.staged_locations: the temporary names in the order in which they are tried,
    and then their longer names."""
    if not token:  # the caller only asks whether there are any
        return (location,)
    parts = tuple(_staged_location(location, name) for name in _names_of(location, token))
    if cut_place(location) is None:
        return parts
    return (*parts, *(one for part in parts for one in longer_names(part, location)))


def _names_of(location: Location, token: str) -> tuple[str, ...]:
    """Return the temporary names in the order in which they are tried."""
    name = location.path.rpartition("/")[2]
    return temporary_names(token, unquote(name, errors="surrogateescape"))


def _staged_location(location: Location, name: str) -> Location:
    """Return the location of a temporary name beside the object."""
    folder = location.path.rpartition("/")[0]
    quoted = quote(name, safe="-_.~", errors="surrogateescape")
    return location.with_target(f"{folder}/{quoted}")


def cut_place(place: Location) -> tuple[str, str] | None:
    """Return the folder and the character at which some servers cut the name `place` in a
    Destination; None for other names."""
    cut = _CUT.search(place.path) if "%" in place.path else None
    return cut and (place.path[: cut.start()].rpartition("/")[0], cut[1])


def longer_names(part: Location, place: Location) -> tuple[Location, ...]:
    """Return two temporary names of an upload to a `place` whose name some servers cut: one that no
    server cuts, and a longer one that such a server takes for the first."""
    cut = cut_place(place)
    if cut is None:
        return ()
    name = _CUT.sub("", part.path.rpartition("/")[2])
    path = f"{cut[0]}/{name}"
    longer = f"{path}{cut[1]}.{name.rpartition('.')[2]}"
    return part.with_target(path), part.with_target(longer)


def _refused_fact(which: int, location: Location) -> str:
    """Return the fact that the kinds of temporary names before this one were refused for an
    object."""
    return f"temporary name {which} {location.path}"


def _avoided_fact(location: Location) -> str:
    """Return the fact that an object has another temporary name, though none was refused."""
    return f"avoided names {location.path}"
