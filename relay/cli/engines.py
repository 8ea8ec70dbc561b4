"""Build the engine of a command that works on this machine's ledger."""

from __future__ import annotations

from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.location import Location
from relay.stores.remotes import Remotes


def engine_for(settings: Settings, remotes: Remotes, *places: Location) -> TransferEngine:
    """Return an engine with these remotes. The hosts of `places` are allowed, since the user named
    them."""
    hosts = filter(None, (place.host for place in places))
    return TransferEngine(settings, settings.egress().allowing(*hosts), remotes=remotes)
