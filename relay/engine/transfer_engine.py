"""Run transfers in one process: the wire, the slots, and the running transfers.

Decided here: which transfers may start, and how they end when the process must stop."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace
from time import monotonic
from typing import Protocol

import gevent

from relay.config import Settings
from relay.egress import EgressPolicy
from relay.engine.outcome import Outcome
from relay.engine.plan import Plan
from relay.engine.transfer.finalize import ReadableAccounts
from relay.engine.transfer.names_under_way import NamesUnderWay
from relay.engine.transfer.transfer import Transfer
from relay.errors import Cancelled, Overloaded
from relay.location import Location
from relay.process.native_threads import in_native_thread
from relay.retry import Backoff
from relay.stores.interfaces import StoreProvider
from relay.stores.kinds import StoreType
from relay.stores.provider import Stores, make_dialer, make_wire
from relay.stores.remotes import Remotes
from relay.stores.table import KINDS
from relay.tallies import Carried, RouteTally, Tallies
from relay.throttle import Slots
from relay.wire.watchdog import Watchdog


class ByteMover(Protocol):
    """What moves bytes in this process: a transfer, or help with another worker's upload."""

    counted: Carried

    @property
    def meter(self) -> Watchdog:
        """The watchdog, which has the tally."""

    @property
    def carried_bytes(self) -> Carried:
        """The bytes that it has moved so far."""


PLACES = 1000
"""Maximum number of hosts remembered as allowed by the policy."""


class TransferEngine:
    """One process's engine. `running` are its transfers; while `draining` no new one may start."""

    def __init__(
        self,
        settings: Settings,
        policy: EgressPolicy | None = None,
        stores: StoreProvider | None = None,
        kinds: tuple[StoreType, ...] = KINDS,
        *,
        remotes: Remotes | None = None,
        tallies: Tallies | None = None,
    ) -> None:
        """Create the wire from the settings. `policy` and `remotes` replace those of the settings,
        which are a server's; `stores` those of the `kinds`. `tallies` are those of the process, if
        others count in them too."""
        self.tallies = tallies or Tallies()
        self.remotes = remotes or Remotes(
            settings.remotes, apart=in_native_thread, folders=settings.folders, kinds=kinds
        )
        self.settings, self.limits = settings, settings.limits()
        self.policy = policy or settings.egress()
        self.dialer = make_dialer(settings, self.policy)
        self.wire = make_wire(self.dialer)
        self.slots = Slots(settings.slots, settings.waiters, settings.wait_seconds)
        self.stores: StoreProvider = stores or Stores(self.wire, kinds)
        self._passed: tuple[EgressPolicy, set[tuple[str, int]]] = (self.policy, set())
        self.running: set[Transfer] = set()
        self.allowed = ReadableAccounts()
        self._names = NamesUnderWay()
        self.draining = False
        self._has_stopped = False

    def refuse_own_addresses(self, own: Iterable[tuple[str, int]]) -> None:
        """Never dial `own`: the (host, port) pairs on which this server itself listens."""
        self.policy = self.dialer.policy = replace(self.policy, own=frozenset(own))

    def transfer(self, plan: Plan, id: str | None = None) -> Transfer:
        """Return a transfer that is ready to run, with a new id if none is given.

        Raises Overloaded while draining, EgressDenied for a host that the policy refuses."""
        if self.draining:
            raise Overloaded("the server is stopping", retry_after=5.0)
        for location in (plan.source, plan.destination):
            if location.host:  # a local folder has none, and was checked when it was located
                self._check_name(location.host, location.port)
        backoff = Backoff(self.settings.retry_budget)
        id = id or str(uuid.uuid4())
        transfer = Transfer(
            id=id,
            plan=plan,
            stores=self.stores,
            slots=self.slots,
            limits=self.limits,
            backoff=backoff,
            allowed=self.allowed,
            memory=self.wire.memory,
            names=self._names,
        )
        transfer.meter.tally = self.route(plan.remotes, plan.source, plan.destination)
        return transfer

    def route(
        self, names: tuple[str, str] | None, source: Location, destination: Location
    ) -> RouteTally:
        """Return the tally of what moves between two remotes: by their names, or by the kinds of
        their stores."""
        return self.tallies.route(*(names or (source.store, destination.store)))

    def _check_name(self, host: str, port: int) -> None:
        """Check a host against the policy, once per host and port: most objects of a tree share
        two. Raises EgressDenied."""
        policy, passed = self._passed
        # `refuse_own_addresses` may have replaced the policy since.
        if policy is not self.policy or len(passed) > PLACES:
            policy, passed = self._passed = (self.policy, set())
        if (host, port) not in passed:
            policy.check_name(host, port)
            passed.add((host, port))

    def run(self, transfer: Transfer) -> Outcome:
        """Run a transfer in this greenlet, as one of `running`. Raises as Transfer.run, and
        Cancelled after a drain."""
        if self._has_stopped:  # it was created before the drain, which has cancelled the others
            raise _stop_error()
        self.running.add(transfer)
        try:
            return transfer.run()
        finally:
            self.running.discard(transfer)
            self.count(transfer)

    def count(self, moving: ByteMover) -> None:
        """Add to the tallies what has moved since the last call."""
        tally = moving.meter.tally
        if tally is not None:
            moving.counted = tally.note_carried(moving.counted, moving.carried_bytes)

    def drain(self, seconds: float) -> None:
        """Start no new transfers, give the running ones `seconds`, then cancel the remaining ones.

        The client of a cancelled transfer gets an error response within about a second, not a
        connection reset."""
        self.draining = True
        until = monotonic() + seconds
        while self.running and monotonic() < until:
            gevent.sleep(0.05)
        self._has_stopped = True
        for transfer in tuple(self.running):
            transfer.cancel(_stop_error())


def _stop_error() -> Cancelled:
    return Cancelled("the server stopped before this transfer was done")
