"""The time that a plan will need, from what this machine's ledger has learned of its two stores.

Decided here: which ledger is read. A plan writes nothing, so no ledger is made or upgraded for it.
Never here: the estimate (`relay/views/time_left.py`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from relay.config import Settings
from relay.errors import RelayError
from relay.process.cooperative import importing
from relay.process.late_modules import late_modules
from relay.settings_sources import trusted_ledger_url


def learned_time(settings: Settings, members: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the time of a plan with these `members`, as `time_members`; None if the ledger has no
    earlier migration between the two stores, or can't be read."""
    file = trusted_ledger_url(settings).removeprefix("sqlite:///").partition("?")[0]
    # SQLAlchemy takes a fifth of a second: a first plan should not wait for it.
    if not file.startswith("/") or not Path(file).is_file():
        return None
    with importing(), late_modules():
        from relay.ledger.ledger import Ledger
        from relay.ledger.schema import HEAD
        from relay.ledger.viewer import DEFAULT_TENANT
        from relay.views.dry_runs import time_members

    if _version_of(file) != HEAD:
        return None
    try:
        ledger = Ledger.connect(trusted_ledger_url(settings))
        try:
            places = (members["source"], members["destination"])
            measured = ledger.plans.find_measured_between(DEFAULT_TENANT, places)
        finally:
            ledger.close()
    except RelayError:
        return None
    return time_members(members["decisions"], measured)


def _version_of(file: str) -> str | None:
    """Return the version of a ledger's tables, or None if that is not known."""
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as opened:
            row = opened.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else str(row[0])
