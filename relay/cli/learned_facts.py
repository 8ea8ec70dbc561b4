"""What this machine's ledger has learned of the two stores of a plan: the time, and receipts.

Decided here: which ledger is read. A plan writes nothing, so no ledger is made or upgraded for it.
Never here: the estimate (`relay/views/time_left.py`), and what a receipt proves
(`relay/engine/comparison.py`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relay.config import Settings
from relay.errors import LedgerFailed, RelayError
from relay.ledger.migration_values import Spec
from relay.ledger.viewer import DEFAULT_TENANT
from relay.process.cooperative import importing
from relay.process.late_modules import late_modules
from relay.settings_sources import trusted_ledger_url

if TYPE_CHECKING:  # SQLAlchemy takes a fifth of a second: a first plan should not wait for it
    from relay.ledger.ledger import Ledger


class LearnedFacts:
    """What a ledger knows, or nothing without one."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self._ledger = ledger

    def time(self, members: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the time of a plan with these `members`, as `time_members`; None if the ledger has
        no earlier migration between the two stores, or does not answer."""
        if self._ledger is None:
            return None
        with late_modules():
            from relay.views.dry_runs import time_members

        places = (members["source"], members["destination"])
        try:
            measured = self._ledger.plans.find_measured_between(DEFAULT_TENANT, places)
        except LedgerFailed:
            return None
        return time_members(members["decisions"], measured)

    def receipt(self, spec: Spec, name: str) -> Mapping[str, Any] | None:
        """Return the receipt of an object from an earlier migration between the same two places, or
        None."""
        if self._ledger is None:
            return None
        try:
            return self._ledger.destinations.receipt_of_spec(spec, DEFAULT_TENANT, name)
        except LedgerFailed:
            return None


@contextmanager
def learned_facts(settings: Settings) -> Iterator[LearnedFacts]:
    """Open the ledger of this machine for a block, if there is one of this version."""
    ledger = _open(settings)
    try:
        yield LearnedFacts(ledger)
    finally:
        if ledger is not None:
            ledger.close()


def _open(settings: Settings) -> Ledger | None:
    file = trusted_ledger_url(settings).removeprefix("sqlite:///").partition("?")[0]
    if not file.startswith("/") or not Path(file).is_file():
        return None
    with importing(), late_modules():
        from relay.ledger.ledger import Ledger
        from relay.ledger.schema import HEAD

    if _version_of(file) != HEAD:
        return None
    try:
        return Ledger.connect(trusted_ledger_url(settings))
    except RelayError:
        return None


def _version_of(file: str) -> str | None:
    """Return the version of a ledger's tables, or None if that is not known."""
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as opened:
            row = opened.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else str(row[0])
