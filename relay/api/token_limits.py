"""The limits of a token, as a server applies them to requests.

Decided here: how often a token may send a request, which stores it may name, and how far the limits
of its migrations may go. Never here: how many migrations it may have (`ledger/acceptance.py`), and
how slots and bytes are held back (`throttle.py`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from time import monotonic
from typing import Final

from relay.api.caller import Caller
from relay.engine.migration_request import MigrationRequest
from relay.errors import Forbidden, TooManyRequests
from relay.ledger.token_values import TokenLimits
from relay.location import Location
from relay.stores.remotes import Remotes
from relay.stores.url_lists import SCHEME, ListAccount, as_list
from relay.throttle import Bounds

REQUESTS_PER_SECOND: Final = 20
"""Rate of a token without a limit of its own."""
BURST_SECONDS: Final = 2.0
"""Requests that may come at once, in seconds of the rate."""
CLAMPED: Final = ("slots", "bytes_per_second")
"""Limits of a token that are also limits of a migration."""
_PATTERN: Final = re.compile(r"[*?[]")
"""Begins the part of a pattern that is not plain text."""


@dataclass
class RequestRates:
    """The rate of requests of each token, in one process. A token bucket (RFC 2697 section 3) for
    each of them."""

    clock: Callable[[], float] = monotonic
    _filled: dict[str, tuple[float, float]] = field(default_factory=dict, repr=False)
    """Of each token: the content of its bucket, and when that was so."""

    def take(self, caller: Caller) -> None:
        """Count a request. Raises TooManyRequests; the request does not count then. Callers without
        a token of the ledger have no limit."""
        if caller.token_id is None:
            return
        rate = float(caller.limits.requests_per_second or REQUESTS_PER_SECOND)
        now = self.clock()
        full = rate * BURST_SECONDS
        content, at = self._filled.get(caller.token_id, (full, now))
        content = min(full, content + (now - at) * rate)
        if content < 1:
            self._filled[caller.token_id] = content, now
            raise TooManyRequests(
                f"the token sends more than {rate:g} requests a second",
                retry_after=(1 - content) / rate,
            )
        self._filled[caller.token_id] = content - 1, now


def locate_within(
    limits: TokenLimits, order: MigrationRequest, remotes: Remotes
) -> tuple[Location, Location]:
    """Return both Locations of a request. Raises as MigrationRequest.locate, and Forbidden for a
    store that the token may not name. A remote is refused by its name alone, so that a token which
    may not name it does not show whether it exists."""
    ends = {"source": order.source, "destination": order.destination}
    for name, end in ends.items():
        _refuse(_refused_text(limits, end.text), end.pointer(name))
    places = order.locate(remotes)
    for (name, end), place in zip(ends.items(), places, strict=True):
        _refuse(_refused_place(limits, place), end.pointer(name))
    return places


def locate_folder_within(
    limits: TokenLimits, remotes: Remotes, text: str, *, destination: bool = False
) -> Location:
    """Return the Location of a folder. Raises as Remotes.locate, and Forbidden for a store that the
    token may not name."""
    check_text(limits, text)
    place = remotes.locate(text, folder=True, destination=destination)
    _refuse(_refused_place(limits, place), None)
    return place


def check_list_text(limits: TokenLimits, text: str) -> None:
    """Raise Forbidden for the text of a list of fresh URLs whose store the token may not name, or
    if it may not name every host: the hosts in a list are known only when it is read."""
    _refuse(_refused_text(limits, as_list(text)), "/list")


def check_list_place(limits: TokenLimits, place: Location) -> None:
    """Raise Forbidden for a located list of fresh URLs that the token may not name."""
    _refuse(_refused_place(limits, place), "/list")


def check_text(limits: TokenLimits, text: str) -> None:
    """Raise Forbidden for a text whose remote or bucket the token may not name. It does not show
    whether the remote exists."""
    _refuse(_refused_text(limits, text), None)


def may_name(limits: TokenLimits, remote: str) -> bool:
    """Return whether a token may name a remote, with some path."""
    if limits.remotes is None:
        return True
    begin = f"{remote}:"
    plain = [_PATTERN.split(pattern, maxsplit=1) for pattern in limits.remotes]
    return any(one[0].startswith(begin) or (one[1:] and begin.startswith(one[0])) for one in plain)


def within_limits(limits: TokenLimits, bounds: Bounds) -> Bounds:
    """Return the bounds of a migration, lowered to the limits of its token."""
    return replace(bounds, **_lower(limits, {name: getattr(bounds, name) for name in CLAMPED}))


def change_within_limits(
    limits: TokenLimits, change: Mapping[str, int | None]
) -> dict[str, int | None]:
    """Return a change of a migration's limits, lowered to the limits of its token."""
    named = {name: change[name] for name in CLAMPED if name in change}
    return {**change, **_lower(limits, named)}


def _lower(limits: TokenLimits, values: Mapping[str, int | None]) -> dict[str, int | None]:
    lowered = {}
    for name, value in values.items():
        most: int | None = getattr(limits, name)
        lowered[name] = value if most is None else min(most, most if value is None else value)
    return lowered


def _refuse(what: str, pointer: str | None) -> None:
    if what:
        raise Forbidden(
            f"the token may not name {what}",
            hint="`relay token limit NAME` changes what a token may name.",
            pointer=pointer,
        )


def _refused_text(limits: TokenLimits, text: str) -> str:
    """Return what a token may not name in a text, or ''."""
    is_list = text[: len(SCHEME)].lower() == SCHEME
    if is_list and limits.hosts is not None:
        return "a list, whose URLs may have any host"
    bare = text[len(SCHEME) :] if is_list else text
    if Remotes.uses_own_credentials(bare) and not _fits(bare, limits.remotes):
        return f"the remote {bare.partition(':')[0]}: with this path"
    return ""


def _refused_place(limits: TokenLimits, place: Location) -> str:
    """Return what a token may not name at a place, or ''."""
    if isinstance(place.account, ListAccount):
        place = place.account.inner  # the list itself is read, too
    if place.store == "local" and not limits.local:
        return "folders of the server"
    hosts = None if limits.hosts is None else [pattern.lower() for pattern in limits.hosts]
    if place.host and not _fits(place.host.lower(), hosts):
        return f"the host {place.host}"
    return ""


def _fits(text: str, patterns: Iterable[str] | None) -> bool:
    return patterns is None or any(fnmatchcase(text, pattern) for pattern in patterns)
