"""Fresh credentials and URLs that `relay resume` and `relay retry` give to a migration of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.api.request import parse_fresh
from relay.cli.engines import runner_of
from relay.config import Settings
from relay.engine import refresh
from relay.ledger.ledger import Ledger
from relay.ledger.rows import Migration
from relay.stores.remotes import Remotes


def tell(settings: Settings, ledger: Ledger, migration: Migration, verb: str, members: Mapping[str, Any]) -> Migration:
    """Do what `verb` says with what is fresh. A list is read from wherever its user says. Raises as renewal.tell."""
    remotes = Remotes(settings.remotes, folders=None)
    fresh = parse_fresh(members, migration, remotes)
    runner = runner_of(settings, remotes, *filter(None, (fresh.urls,)))
    try:
        return refresh.tell(ledger, runner, migration, verb, fresh)
    finally:
        runner.wire.pool.close()
