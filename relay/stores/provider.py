"""Open stores: the wire of a process by its settings, and the store that a location names.

Decided here: which settings the wire follows. Never here: transfers (`engine/`)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from relay.config import Settings
from relay.egress import EgressPolicy
from relay.location import Location
from relay.stores.interfaces import Destination, Source
from relay.stores.kinds import StoreType
from relay.stores.table import KINDS
from relay.wire.dial import Dialer, Pool
from relay.wire.exchange import Wire
from relay.wire.tls.choice import client_context
from relay.wire.watchdog import Watchdog


class Stores:
    """Opens the store that a location names."""

    def __init__(self, wire: Wire, kinds: Iterable[StoreType] = KINDS) -> None:
        self._wire, self._opens = wire, {kind.name: kind.opens for kind in kinds}

    def source(self, location: Location, meter: Watchdog) -> Source:
        """As StoreProvider.source."""
        found: Source = self._opens[location.store](self._wire, "source", meter)
        return found

    def destination(self, location: Location, meter: Watchdog) -> Destination:
        """As StoreProvider.destination."""
        found: Destination = self._opens[location.store](self._wire, "destination", meter)
        return found


def make_dialer(settings: Settings, policy: EgressPolicy) -> Dialer:
    """Return a dialer with the limits and the trusted authorities of the settings. Raises
    ConfigError for a bundle that can't be read."""
    trusted = partial(client_context, settings.ca_bundle, settings.tls)
    # A bundle is read at once, so that a mistake in it shows before any transfer.
    return Dialer(policy, settings.limits(), trusted() if settings.ca_bundle else trusted)


def make_wire(dialer: Dialer) -> Wire:
    """Return a wire, with a pool of its own, over a dialer."""
    return Wire(Pool(dialer, dialer.limits), dialer.limits)
