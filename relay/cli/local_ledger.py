"""Migrations in the ledger of this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from math import inf
from typing import Any, Final

from relay.cli.backend_interface import LEASE_SECONDS, LOOK_SECONDS, Event, Members
from relay.cli.options import absolute_path
from relay.config import Settings
from relay.errors import LedgerFailed
from relay.settings_sources import trusted_ledger_url
from relay.views.migrations import brief, progress_events, report_line, summary

STOP_SECONDS: Final = 10.0
"""Longest wait for processes that run, and see only now that their migration is cancelled."""


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
        standing = members.get("standing")
        if standing is not None and standing["due"] is not None:  # between two passes
            return members
        command = "relay migrate" if standing is None else "relay follow"
        command = command if self.needs_command(members["id"]) else "relay serve"
        return {**members, "waits_for": command, "under_way": 0, "slots": None, "retried": []}
