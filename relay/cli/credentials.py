"""Give fresh credentials and URLs to a migration of this machine, for `relay resume` and `relay
retry`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.api.request_bodies import parse_fresh, parse_retry
from relay.cli.engines import engine_for
from relay.config import Settings
from relay.engine import refresh
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.ledger.states import MigrationVerb
from relay.stores.remotes import Remotes


def apply_refresh(
    settings: Settings, ledger: Ledger, migration: Migration, verb: str, members: Mapping[str, Any]
) -> Migration:
    """Store the fresh credentials and URLs, then `verb` the migration; return it as it is then. A
    member `reason` narrows a retry. The host of a list of URLs is allowed, since its user named it.
    Raises as refresh.apply_refresh."""
    remotes = Remotes(settings.remotes, folders=None)
    parse = parse_retry if verb == MigrationVerb.RETRY else parse_fresh
    fresh = parse(members, migration, remotes)
    engine = engine_for(settings, remotes, *filter(None, (fresh.urls,)))
    try:
        return refresh.apply_refresh(ledger, engine, migration, verb, fresh)
    finally:
        engine.wire.pool.close()
