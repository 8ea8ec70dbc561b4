"""Count what a pass of a standing migration has listed and copied, in the transactions that list
and settle. Other migrations cost nothing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy import Connection, update

from relay.ledger.standing_tables import passes

Counted = Literal["listed", "known", "changed", "copied", "bytes"]


@dataclass
class PassDelta:
    """The changes of one transaction to the counters of passes under way."""

    _amounts: defaultdict[str, defaultdict[Counted, int]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(int))
    )

    def add(self, migration: str, what: Counted, amount: int) -> None:
        """Add to a counter of a standing migration's pass."""
        if amount:
            self._amounts[migration][what] += amount

    def write(self, connection: Connection) -> None:
        """Write the changes. Between two passes there is nothing to count them in."""
        for migration, amounts in sorted(self._amounts.items()):
            of_pass = (passes.c.migration_id == migration) & passes.c.ended.is_(None)
            values = {name: passes.c[name] + amount for name, amount in amounts.items()}
            connection.execute(update(passes).where(of_pass).values(**values))
