"""What a command asks of migrations, wherever they are: in a ledger, or on a server.

Both backends have the same methods and return the same plain values. Never here: how they are
printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

Members = dict[str, Any]
Event = tuple[str, Members]

LEASE_SECONDS: Final = 35.0
"""Longest wait for the end of a lease, which lasts for 30 s unless a server has another setting."""
LOOK_SECONDS: Final = 0.25
"""Seconds between two looks at work that other processes have to end."""


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
