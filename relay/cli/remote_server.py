"""Migrations on a relay server, over its API.

Decided here: which answer of a server is believed, and how long a server that is away or busy is
waited for. Never here: connections (`relay/cli/api_client.py`)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from relay.cli.backend_interface import LEASE_SECONDS, LOOK_SECONDS, Event, Members
from relay.cli.formatting import in_parts, shown_number, under_way
from relay.cli.options import is_path
from relay.cli.terminal import size
from relay.errors import (
    InvalidURL,
    LedgerFailed,
    MigrationUnknown,
    NotRelay,
    Overloaded,
    ServerRefused,
    ServerUnreachable,
    TooManyRequests,
    TooManyStreams,
)
from relay.ledger.states import MigrationState
from relay.views.migrations import FIELDS

if TYPE_CHECKING:
    from relay.cli.api_client import Client
    from relay.cli.response_checks import Brief, MigrationPage, ReasonList, ReportPage

SSE = "text/event-stream"
PAGE: Final = 1000
PATIENCE_SECONDS: Final = 60.0
"""Time that a server may be unreachable while a migration is watched: it may be restarted."""
BUSY_SECONDS: Final = 300.0
"""Time that a question may be refused because the token sends more requests than it may."""
AGAIN_SECONDS: Final = 10.0
"""Longest wait before such a question is sent again."""
ASK_SECONDS: Final = 5.0
"""Seconds between two looks at a migration while its server has no stream of events left."""
AWAY: Final = (ServerUnreachable, LedgerFailed, Overloaded)
"""Errors of a server that is being restarted, of the proxy before it, or of its ledger."""


class RemoteServer:
    """A relay server. Its answers are checked before they are used: another program may listen
    there."""

    def __init__(
        self,
        client: Client,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`clock` and `sleep` time the wait for a server that is unreachable."""
        # Imported here, as `requests`: only a command that uses a server checks answers.
        from relay.cli import response_checks

        self._client = client
        self._clock = clock
        self._sleep = sleep
        self._shapes = response_checks
        self.where = client.url

    def submit(self, request: Mapping[str, Any], key: str | None) -> Members:
        """Submit a migration; it is in the server's ledger when this returns. Raises the server's
        RequestError, and InvalidURL for a path."""
        _refuse_paths({side: request[side] for side in _SIDES if side in request})
        headers = {"Prefer": "respond-async", **({} if key is None else {"Idempotency-Key": key})}
        return self._migration(self._client.ask("POST", "/migrate", request, **headers))

    def migration(self, id: str) -> Members:
        """As MigrationBackend.migration."""
        return self._migration(self._get(_path(id)))

    def end(self, id: str) -> Members:
        """As MigrationBackend.end."""
        since = self._clock()
        while True:
            try:
                return self.migration(id)
            except AWAY:
                self._wait(since)

    def newest(self, limit: int) -> Iterator[Members]:
        """As MigrationBackend.newest."""
        first = f"/migrations?{urlencode({'limit': min(limit, PAGE)})}"
        return islice(
            self._entries_of_pages(first, self._shapes.MigrationPage, "migrations"), limit
        )

    def rows(self, id: str, states: Sequence[str]) -> Iterator[Members]:
        """As MigrationBackend.rows."""
        # In pages, because a truncated stream of lines could not be noticed behind a proxy that
        # speaks HTTP/1.0 to the server.
        query = {"limit": PAGE, **({"state": ",".join(states)} if states else {})}
        first = f"{_path(id)}/transfers?{urlencode(query)}"
        for row in self._entries_of_pages(first, self._shapes.ReportPage, "transfers"):
            yield {name: row[name] for name in FIELDS}

    def _entries_of_pages(
        self, path: str | None, shape: type[MigrationPage | ReportPage], member: str
    ) -> Iterator[Members]:
        """Yield the entries of a list, from the first page on. A page is requested when it is
        needed."""
        while path:
            page = self._check_members(shape, self._get(path))
            yield from page[member]
            # A proxy may have removed a prefix, so only the part from /migrations on is used.
            prefix, here, rest = (page["next"] or "").rpartition("/migrations")
            # An empty page with a `next` could repeat without end; a `next` with a host would lead
            # to another server.
            if page["next"] and not (page[member] and here and prefix[:1] in ("", "/")):
                raise NotRelay(
                    f"{self.where} is not a relay server: the `next` of a page leads nowhere"
                )
            path = here + rest

    def control(
        self,
        id: str,
        verb: str,
        places: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> Members:
        """As MigrationBackend.control. Raises InvalidURL for a path."""
        _refuse_paths(places or {})
        body = places if reason is None else {**(places or {}), "reason": reason}
        return self._migration(self._client.ask("POST", f"{_path(id)}/{verb}", body))

    def acknowledge(self, id: str) -> Members:
        """As MigrationBackend.acknowledge."""
        return self._migration(self._client.ask("POST", f"{_path(id)}/acknowledge"))

    def reasons(self, id: str) -> Sequence[Members]:
        """As MigrationBackend.reasons."""
        try:
            found = self._get(f"{_path(id)}/reasons")
        except ServerRefused:  # an older server counts none
            return ()
        reasons: Sequence[Members] = self._check_members(self._shapes.ReasonList, found)["reasons"]
        return reasons

    def needs_command(self, id: str) -> bool:
        """As MigrationBackend.needs_command."""
        return False

    def sweep(self, id: str) -> Iterator[tuple[str, bool]]:
        """As MigrationBackend.sweep."""
        since = self._clock()
        while True:
            found = self.migration(id)
            moving, left = under_way(found), in_parts(found)
            if found["state"] != MigrationState.CANCELLED or not (moving or left):
                return
            if self._clock() - since > LEASE_SECONDS:
                break
            self._sleep(LOOK_SECONDS)
        what = f"{size(left)} of unfinished uploads" if left else "an unfinished upload"
        yield (
            f"relay: {what} may remain at {found['destination']}: the server has not removed it"
            f" yet, and tries again; `relay status {shown_number(found)}` shows what is left",
            True,
        )

    def limit(self, id: str, change: Mapping[str, int | None]) -> Members:
        """As MigrationBackend.limit."""
        limits = dict(change)
        body: dict[str, Any] = {}
        if "priority" in limits:
            body["priority"] = limits.pop("priority")
        if limits:
            body["limits"] = limits
        return self._migration(self._client.ask("PATCH", _path(id), body))

    def follow(self, id: str) -> Iterator[Event]:
        """As MigrationBackend.follow. A server that is unreachable is retried, and no event is
        yielded twice. While the server has no stream left, its state is asked for."""
        since, seen, ended = "0", self._clock(), False
        # An unreachable server or an unknown migration is not retried at the start.
        self.migration(id)
        while not ended:
            try:
                for number, kind, members in self._events(id, since):
                    if kind == "progress":
                        self._check_members(self._shapes.Brief, members)
                    since, seen = number or since, self._clock()
                    ended = kind == "progress" and members.get("ended") is not None
                    yield kind, members
            except (TooManyStreams, TooManyRequests):
                members, seen = self.end(id), self._clock()
                ended = members["ended"] is not None
                yield "progress", members
                if not ended:
                    self._sleep(ASK_SECONDS)
            except AWAY:
                self._wait(seen)
            else:
                # A server that stops ends its answer before the migration has ended.
                if not ended:
                    self._sleep(1.0)

    def _get(self, path: str) -> Members:
        """Return the JSON object at a path. While the token sends more requests than it may, wait
        as long as the server says, and ask again."""
        since = self._clock()
        while True:
            try:
                return self._client.ask("GET", path)
            except TooManyRequests as error:
                if self._clock() - since > BUSY_SECONDS:
                    raise
                self._sleep(min(error.retry_after or 1.0, AGAIN_SECONDS))

    def _wait(self, since: float) -> None:
        """Wait a second for an unreachable server; raise its current error again if it has been
        unreachable since `since`, for more than PATIENCE_SECONDS."""
        if self._clock() - since > PATIENCE_SECONDS:
            raise
        self._sleep(1.0)

    def _events(self, id: str, since: str) -> Iterator[tuple[str, str, Members]]:
        """Yield server-sent events: the number, the kind, and the members of each."""
        fields: dict[str, str] = {}
        for line in self._client.lines(f"{_path(id)}/events", SSE, **{"Last-Event-ID": since}):
            # An empty line ends an event (WHATWG HTML). An event that a broken connection cuts off
            # is dropped: the server sends it again after the last id.
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif fields:
                yield (
                    fields.get("id", ""),
                    fields.get("event", ""),
                    self._object(fields.get("data", "")),
                )
                fields = {}

    def _migration(self, members: Members) -> Members:
        return self._check_members(self._shapes.Whole, members)

    def _check_members(
        self, shape: type[Brief | MigrationPage | ReportPage | ReasonList], members: Members
    ) -> Members:
        """Return members that have the shape's types. Raises NotRelay for others."""
        name = self._shapes.wrong_member(shape, members)
        if name is not None:
            raise NotRelay(f"{self.where} is not a relay server: its answer has no valid {name!a}")
        return members

    def _object(self, text: str) -> Members:
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise NotRelay(f"{self.where} sent a line that is not a JSON object")
        return found


_SIDES: Final = ("source", "destination")


def _refuse_paths(places: Mapping[str, Any]) -> None:
    """Raise InvalidURL if a place is a path, or a list at one."""
    for name, place in places.items():
        if is_path(place["url"]):
            raise InvalidURL(
                "a path would be one of this machine, which the server does not have",
                side="destination" if name == "destination" else "source",
                hint="Write file:///… for a folder of the server, or a URL with its scheme.",
            )


def _path(id: str) -> str:
    if not id.strip("."):  # '', '.' and '..' would lead to another path
        raise MigrationUnknown(f"there is no migration {id!a}")
    return f"/migrations/{quote(id, safe='')}"
