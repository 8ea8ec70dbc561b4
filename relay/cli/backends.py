"""Access to migrations: in the ledger of this machine, or on a server.

Both backends have the same methods and return the same plain values. Never here: how they are
printed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote, urlencode

from relay.cli.formatting import in_parts, shown_number, under_way
from relay.cli.options import absolute_path, is_path
from relay.cli.terminal import size
from relay.config import Settings
from relay.errors import (
    ConfigError,
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
from relay.settings_sources import is_found, load_settings, trusted_ledger_url
from relay.views.migrations import FIELDS, brief, progress_events, report_line, summary

if TYPE_CHECKING:
    from relay.cli.api_client import Client
    from relay.cli.response_checks import Brief, MigrationPage, ReasonList, ReportPage

Members = dict[str, Any]
Event = tuple[str, Members]

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
LEASE_SECONDS: Final = 35.0
"""Longest wait for the end of a lease, which lasts for 30 s unless a server has another setting."""
STOP_SECONDS: Final = 10.0
"""Longest wait for processes that run, and see only now that their migration is cancelled."""
LOOK_SECONDS: Final = 0.25
"""Seconds between two looks at the leases."""
AWAY: Final = (ServerUnreachable, LedgerFailed, Overloaded)
"""Errors of a server that is being restarted, of the proxy before it, or of its ledger."""


class MigrationBackend(Protocol):
    """Migrations in a ledger or on a server. Each method raises MigrationUnknown, and the errors of
    its ledger or its server.

    In a ledger, a migration that has not ended and that no process moves now has a member
    `waits_for`: the command that resumes it."""

    where: str
    """Its name in messages."""

    def migration(self, id: str) -> Members:
        """Return all members of one migration."""

    def end(self, id: str) -> Members:
        """Return all members of a migration that was followed to its end. A server that is
        unreachable at that moment is retried."""

    def newest(self, limit: int) -> Iterator[Members]:
        """Yield the newest migrations, in brief."""

    def rows(self, id: str, states: Sequence[str]) -> Iterator[Members]:
        """Yield a line for each object in some states, or in all. Holds at most a page of them."""

    def control(
        self,
        id: str,
        verb: str,
        places: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> Members:
        """Pause, resume, cancel or retry a migration. `places` are the same source and destination
        with fresh credentials, and a `list` of fresh URLs. With a `reason`, a retry queues only the
        objects that failed for it."""

    def acknowledge(self, id: str) -> Members:
        """Note that a person has seen the failures of an ended migration."""

    def reasons(self, id: str) -> Sequence[Members]:
        """Return the reasons for which objects of a migration failed, the most frequent first."""

    def needs_command(self, id: str) -> bool:
        """Return whether a migration moves only while a command in a terminal runs it: no server
        does."""

    def sweep(self, id: str) -> Iterator[tuple[str, bool]]:
        """Remove the unfinished uploads of a cancelled migration; yield a line and True for each
        that may remain, and a line and False with the number of the others. A server removes them
        by itself: wait for that, and yield one line if it takes too long."""

    def limit(self, id: str, change: Mapping[str, int | None]) -> Members:
        """Change the priority and the limits of a migration; None removes a limit."""

    def follow(self, id: str) -> Iterator[Event]:
        """Yield the events of a migration, and a `progress` each second, until it ends."""


def migrations_of(url: str | None, *, gives_credentials: bool = False) -> MigrationBackend:
    """Return the server that `--url` or RELAY_URL names, else the ledger of this machine. Raises as
    `server_of`."""
    settings = load_settings()
    return server_of(settings, url, gives_credentials) or LocalLedger(settings)


def server_of(
    settings: Settings, url: str | None, gives_credentials: bool = False
) -> RemoteServer | None:
    """Return the server that `--url` or RELAY_URL names, or None.

    Raises ConfigError, also for a server that only a relay.toml names which lies in the current
    folder, if it would get a token that is not in that file, or the credentials of stores."""
    if not (url or settings.url):
        return None
    has_secrets = gives_credentials or settings.token_file or os.environ.get("RELAY_TOKEN")
    if not url and has_secrets and is_found("url"):
        raise ConfigError(
            "no token and no credentials are sent to a server that only the relay.toml of the"
            " current folder names",
            hint=(
                "If you trust that server, name it in RELAY_URL or --url, or name this file in"
                " RELAY_CONFIG."
            ),
        )
    # Imported here because `requests` takes a twentieth of a second, for which `relay --help`
    # should not wait.
    from relay.cli.api_client import client_of

    return RemoteServer(client_of(settings, url or settings.url))


class LocalLedger:
    """The ledger of this machine."""

    def __init__(self, settings: Settings) -> None:
        """Open the ledger. Raises ConfigError."""
        # Imported here because SQLAlchemy takes a fifth of a second, for which `relay --help`
        # should not wait.
        from relay.ledger.ledger import Ledger

        self._settings = settings
        self._ledger = Ledger.connect(trusted_ledger_url(settings))
        self.where = self._ledger.database.where

    def migration(self, id: str) -> Members:
        """As MigrationBackend.migration."""
        return self._with_wait(summary(self._ledger.migration(id)))

    def end(self, id: str) -> Members:
        """As MigrationBackend.end."""
        return self.migration(id)

    def newest(self, limit: int) -> Iterator[Members]:
        """As MigrationBackend.newest."""
        for migration in self._ledger.migrations(limit):
            yield self._with_wait(brief(migration))

    def rows(self, id: str, states: Sequence[str]) -> Iterator[Members]:
        """As MigrationBackend.rows."""
        id, after = self._ledger.migration(id).id, 0
        while page := self._ledger.page(id, states, after):
            yield from (report_line(row) for row in page)
            after = page[-1].id

    def control(
        self,
        id: str,
        verb: str,
        places: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> Members:
        """As MigrationBackend.control."""
        migration = self._ledger.migration(id)
        if places is None:
            return summary(self._ledger.act(migration.id, verb, reason=reason))
        # Imported here because the engine takes a while, for which other commands should not wait.
        from relay.cli.credentials import apply_refresh

        texts = {
            side: {**end, "url": absolute_path(end["url"], migration.recursive)}
            for side, end in places.items()
        }
        members = texts if reason is None else {**texts, "reason": reason}
        return summary(apply_refresh(self._settings, self._ledger, migration, verb, members))

    def acknowledge(self, id: str) -> Members:
        """As MigrationBackend.acknowledge."""
        return summary(self._ledger.acknowledge(self._ledger.migration(id).id))

    def reasons(self, id: str) -> Sequence[Members]:
        """As MigrationBackend.reasons."""
        return [asdict(one) for one in self._ledger.reasons(self._ledger.migration(id).id)]

    def needs_command(self, id: str) -> bool:
        """As MigrationBackend.needs_command."""
        return self._ledger.migration(id).runner == self._ledger.worker.kind

    def sweep(self, id: str) -> Iterator[tuple[str, bool]]:
        """As MigrationBackend.sweep."""
        migration = self._ledger.migration(id)
        self._await_workers(migration.id)
        if self._ledger.destinations.orphans(migration.id):
            # Imported here because the engine takes a while, for which other commands should not
            # wait.
            from relay.cli.sweep import sweep

            yield from sweep(self._settings, self._ledger, migration)
        self._ledger.finish()  # deletes its credentials
        left = self._ledger.migration(id).under_way
        if left:
            which = "1 transfer has" if left == 1 else f"{left:,} transfers have"
            yield (
                f"relay: {which} not stopped yet. Run the same command again in half a minute:"
                " it removes unfinished uploads, also of a process that was killed or suspended",
                True,
            )

    def _await_workers(self, id: str) -> None:
        """Wait until no process holds claims of a cancelled migration. A process that runs sees
        that within seconds, and may leave unfinished uploads. The claims of a killed one are
        released. In another container, or on another machine, it looks alive until its lease ends:
        wait for that, unless the lease is renewed."""
        seen: dict[str, float] = {}
        began = time.monotonic()
        while True:
            self._ledger.leases.reclaim()
            leases = self._ledger.leases.of_migration(id)
            # A lease that was not renewed since the first look may belong to a killed process; at
            # the first look each does. An infinite one is that of a process that certainly runs.
            ends = ((seen.get(worker, until), until) for worker, until in leases.items())
            is_lost = any(until <= before < inf for before, until in ends)
            seconds = LEASE_SECONDS if is_lost else STOP_SECONDS
            if not leases or time.monotonic() > began + seconds:
                return
            seen = {**leases, **seen}
            time.sleep(LOOK_SECONDS)

    def limit(self, id: str, change: Mapping[str, int | None]) -> Members:
        """As MigrationBackend.limit."""
        return summary(self._ledger.limit(self._ledger.migration(id).id, change))

    def follow(self, id: str) -> Iterator[Event]:
        """As MigrationBackend.follow."""
        for kind, members in progress_events(self._ledger, id, time.sleep):
            if kind == "progress" and members["trouble"] is None:
                with suppress(LedgerFailed):  # the next event says so
                    members = self._with_wait(members)
            yield kind, members

    def _with_wait(self, members: Members) -> Members:
        """Return the members of a migration with `waits_for`, if it waits for a command. What a
        lost process held is not under way."""
        if members["ended"] is not None or self._ledger.leases.has_worker(members["id"]):
            return members
        command = "relay migrate" if self.needs_command(members["id"]) else "relay serve"
        return {**members, "waits_for": command, "under_way": 0, "slots": None, "retried": []}


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
