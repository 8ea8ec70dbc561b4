"""Whose migrations a reader of the ledger sees: those of one tenant, or all.

Decided here: nothing. The queries that take a viewer are in `migration_rows.py` and
`migration_lists.py`; the callers of the ledger choose the viewer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEFAULT_TENANT: Final = "default"
"""The tenant of commands in a terminal, of servers without tokens, and of migrations that an older
relay accepted."""


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """A reader of migrations. A migration that it does not see is unknown to it, as one that does
    not exist."""

    tenant: str = DEFAULT_TENANT
    """The tenant of the migrations that it creates."""
    sees_all: bool = False
    """Whether it sees the migrations of every tenant."""

    @property
    def numbered_tenant(self) -> str:
        """The tenant of a number without one: its own, or the default one if it sees all tenants.
        Then a name means the same to each of its readers (`Migration.name`)."""
        return DEFAULT_TENANT if self.sees_all else self.tenant


EVERYTHING: Final = Viewer(sees_all=True)
"""A terminal, a worker, and a server without tokens."""
